package sim

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// seeds is how many schedules are tried: -args -seeds 500 for more.
var seeds = flag.Int("seeds", 3, "random schedules to try")

// Schedules made of a seed. What a vehicle claims must hold in each; a seed that fails is printed and can be run alone:
// -run 'RandomDays/seed_7$' -args -seeds 8.
func TestRandomDays(t *testing.T) {
	list := []uint64{48, 55} // these have failed once
	for seed := range uint64(*seeds) {
		if !slices.Contains(list, seed) {
			list = append(list, seed)
		}
	}
	for _, seed := range list {
		t.Run(fmt.Sprintf("seed_%d", seed), func(t *testing.T) { randomDays(t, seed) })
	}
}

func randomDays(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 99))
	minutes := func(low, high int) time.Duration {
		return time.Duration(low)*time.Minute + time.Duration(random.Int64N(int64(high-low)*int64(time.Minute)))
	}
	w := &world{start: time.Date(2026, 12, 31, 20, 0, 0, 0, time.UTC), ppm: random.Int64N(101) - 50, random: random}
	if random.IntN(2) == 0 {
		w.leap = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	c := newCloud(t, rand.New(rand.NewPCG(1, 2))) // of its own: when the pipeline commits is not the script's
	v := newVehicle(t, w, c)
	v.receiver.delay = time.Duration(20+random.IntN(200)) * time.Millisecond
	v.offset = v.receiver.delay + 15*time.Millisecond
	var script []string
	say := func(format string, args ...any) { script = append(script, fmt.Sprintf(format, args...)) }
	defer func() {
		if t.Failed() {
			t.Logf("seed %d, %d ppm, leap %v: %v", seed, w.ppm, !w.leap.IsZero(), script)
		}
	}()

	for boot := range 3 + random.IntN(2) {
		if boot > 0 {
			d := minutes(1, 90)
			say("off %v", d)
			w.off(d)
		}
		v.receiver.on, v.receiver.weeks = random.IntN(3) == 0, 1024*random.IntN(2)
		say("boot, receiver %v, %d weeks", v.receiver.on, v.receiver.weeks)
		v.power()
		lied := false
		for range 3 + random.IntN(6) {
			switch random.IntN(8) {
			case 0:
				d, wrong := minutes(1, 200), time.Duration(random.Int64N(int64(3*time.Second)))-1500*time.Millisecond
				say("sleep %v, wrong by %v", d, wrong)
				v.sleep(d, wrong)
			case 1:
				wrong := time.Duration(random.Int64N(int64(2*365*24*time.Hour))) - 365*24*time.Hour
				say("set by %v", wrong)
				v.step(wrong, false)
			case 2:
				wrong := time.Duration(random.Int64N(int64(20*time.Millisecond))) - 10*time.Millisecond
				say("NTP, right")
				v.step(wrong, true)
			case 3:
				wrong := time.Duration(random.Int64N(int64(48*time.Hour))) - 24*time.Hour
				if wrong.Abs() < time.Minute {
					wrong = time.Hour // a lie that nobody could tell from the truth is none
				}
				say("NTP, wrong by %v", wrong)
				v.step(wrong, true)
				lied = true
			case 4:
				clean := random.IntN(2) == 0
				say("process ends, clean %v", clean)
				v.end(clean)
				v.begin()
			default:
				v.receiver.on = !v.receiver.on
				say("receiver %v", v.receiver.on)
			}
			d := minutes(1, 35)
			say("drive %v", d)
			v.drive(d)
		}
		if lied { // a lie that nothing ever contradicts stays one
			v.receiver.on = true
			say("receiver true, drive 5m")
			v.drive(5 * time.Minute)
		}
		clean := random.IntN(2) == 0
		say("boot ends, clean %v", clean)
		v.end(clean)
	}
	v.begin()
	v.deliver()
	r := v.check()
	t.Logf("%d samples, %d between anchors, the worst of them %v off; %d that nobody vouches for; by source %v",
		r.samples, r.surrounded, r.worst, r.unbounded, r.sources)
	before := c.dump(t)
	random.Shuffle(len(c.old), func(i, j int) { c.old[i], c.old[j] = c.old[j], c.old[i] })
	c.apply(t, v.queue, c.old)
	if !bytes.Equal(before, c.dump(t)) {
		t.Error("messages that came again changed the store")
	}
	v.end(true)
}
