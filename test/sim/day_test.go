package sim

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// built is the day of the agent's build.
var built = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// The last day of a year with a leap second, in the life of a vehicle with a bad clock.
func TestVirtualDay(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	w := &world{
		start: time.Date(2026, 12, 31, 4, 0, 0, 0, time.UTC), leap: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		ppm: 50, random: random,
	}
	c := newCloud(t, rand.New(rand.NewPCG(1, 2))) // of its own: when the pipeline commits is not the script's
	v := newVehicle(t, w, c)

	v.power() // in 1970; CAN comes first
	v.drive(10 * time.Minute)
	v.step(24*time.Hour, true) // NTP, and wrong
	v.drive(15 * time.Minute)
	v.step(23*time.Hour, true) // a step of −1 h
	v.drive(15 * time.Minute)
	v.deliverUntil(func(by map[telemetrypb.TimeSource]int) bool { return by[telemetrypb.TimeSource_TIME_SOURCE_NTP] > 300 })
	v.receiver.on = true // 40 minutes after the boot
	v.drive(20 * time.Minute)
	v.step(10*365*24*time.Hour, false)
	v.drive(40 * time.Minute)
	v.end(true) // the process restarts, the boot goes on
	v.begin()
	v.drive(20 * time.Minute)
	v.receiver.on = false // a tunnel
	v.drive(15 * time.Minute)
	v.receiver.on = true
	v.drive(30 * time.Minute)
	v.sleep(3*time.Hour, 700*time.Millisecond)
	v.receiver.on = false
	v.drive(5 * time.Minute)
	v.receiver.on = true
	v.drive(50 * time.Minute)
	v.end(true)

	w.off(30 * time.Minute)
	v.receiver.on = false
	v.power() // no fix at all
	v.drive(time.Hour)
	v.end(true)

	w.off(20 * time.Minute)
	v.power()
	v.drive(2 * time.Minute)
	v.receiver.on, v.receiver.weeks = true, 1024
	v.drive(2 * time.Hour)
	v.end(true)

	w.off(w.until(time.Date(2026, 12, 31, 23, 10, 0, 0, time.UTC)))
	v.receiver.on, v.receiver.weeks = true, 0
	v.power() // through second 60
	v.drive(100 * time.Minute)
	v.deliver()
	v.end(true)
	v.begin()
	v.deliver()

	r := v.check()
	t.Logf("%d samples, %d between anchors, the worst of them %v off; %d that nobody vouches for; by source %v; %d anchors at last",
		r.samples, r.surrounded, r.worst, r.unbounded, r.sources, len(v.times.Record().GetAnchors()))
	if r.surrounded < r.samples/2 || r.unbounded > 0 {
		t.Errorf("%d of %d samples have anchors around them, %d nobody vouches for", r.surrounded, r.samples, r.unbounded)
	}
	if n := r.sources[telemetrypb.TimeSource_TIME_SOURCE_NTP]; n > 0 {
		t.Errorf("%d samples are dated by the NTP that was wrong", n)
	}
	if r.sources[telemetrypb.TimeSource_TIME_SOURCE_NEIGHBOUR]+r.sources[telemetrypb.TimeSource_TIME_SOURCE_SYSTEM] < 1000 {
		t.Errorf("the boot without a fix: %v", r.sources)
	}

	// Everything once more, in any order, changes nothing.
	before := c.dump(t)
	random.Shuffle(len(c.old), func(i, j int) { c.old[i], c.old[j] = c.old[j], c.old[i] })
	c.apply(t, v.queue, c.old)
	if !bytes.Equal(before, c.dump(t)) {
		t.Error("messages that came again changed the store")
	}
	v.end(true)
}

// until is how long it is to a true Unix time.
func (w *world) until(at time.Time) time.Duration { return time.Duration(at.UnixNano() - w.unix()) }
