//go:build system

package jobs

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// The simulated night: what vehicles of one fleet send, and when it comes. Its clock is that of the rows; the test itself
// takes as long as the engine does.

const stamp = "2006-01-02T15:04:05.000000Z" // of the decoded topics

// clock is a time of the night that begins at 22:30 on 1 March 2026.
func clock(hour, minute int) time.Time {
	day := 1
	if hour < 12 {
		day = 2
	}
	return time.Date(2026, 3, day, hour, minute, 0, 0, time.UTC)
}

// row is a row of .samples or .positions. The exported fields are what both have.
type row struct {
	Tenant      string  `json:"tenant"`
	Device      string  `json:"device"`
	Epoch       string  `json:"epoch"`
	Lane        string  `json:"lane"`
	Seq         int64   `json:"seq"`
	Index       int     `json:"index"`
	Time        *string `json:"time"`
	Uncertainty int64   `json:"uncertainty_ns"`
	Received    string  `json:"received"`

	*sample
	*position

	taken   time.Time // zero: not dated
	comes   time.Time // in the topic
	counted bool      // by live results
}

type sample struct {
	Name   string   `json:"name"`
	Unit   string   `json:"unit"`
	Value  *float64 `json:"value"`
	Text   *string  `json:"text"`
	Label  *string  `json:"label"`
	BootID string   `json:"boot_id"`
	BootNS int64    `json:"boot_ns"`
}

type position struct {
	Source    string   `json:"source"`
	Latitude  float64  `json:"latitude"`
	Longitude float64  `json:"longitude"`
	Altitude  *float64 `json:"altitude"`
	Speed     *float64 `json:"speed"`
	Course    *float64 `json:"course"`
	Suspect   bool     `json:"suspect"`
}

// partition of the topics: the vehicle that falls silent is alone in 1, and nothing ever comes in 2.
func (r *row) partition() int32 {
	if r.Device == "car-3" {
		return 1
	}
	return 0
}

func (r *row) topic() string {
	if r.position != nil {
		return ".positions"
	}
	return ".samples"
}

// world gathers the rows.
type world struct {
	rows   []*row
	random *rand.Rand
	seq    int64
}

// add has a row come up to a minute after it was taken. It counts unless changed later.
func (w *world) add(device string, taken time.Time) *row {
	w.seq++
	text := taken.Format(stamp)
	r := &row{Tenant: "acme", Device: device, Epoch: "00000000000000a1", Lane: "telemetry", Seq: w.seq / 7, Index: int(w.seq % 7), Time: &text,
		Uncertainty: 1_000_000, taken: taken.Truncate(time.Millisecond), comes: taken.Add(time.Duration(w.random.Int64N(int64(time.Minute)))), counted: true}
	r.Received = r.comes.Format(stamp)
	w.rows = append(w.rows, r)
	return r
}

func (w *world) sample(device, name, unit string, taken time.Time, value float64) *row {
	r := w.add(device, taken)
	r.sample = &sample{Name: name, Unit: unit, Value: &value, BootID: "6a1c6f0e-6f4f-4f0a-9a55-0d1f6ad0c001", BootNS: r.taken.Sub(clock(22, 0)).Nanoseconds()}
	return r
}

func (w *world) position(device string, taken time.Time, metresNorth float64) *row {
	r := w.add(device, taken)
	r.position = &position{Source: "gps0", Latitude: 48.1374 + metresNorth/111_195.08, Longitude: 11.5755}
	return r
}

// again has a row come once more, as it is, up to a minute later.
func (w *world) again(r *row) *row {
	c := *r
	c.comes, c.counted = r.comes.Add(time.Duration(w.random.Int64N(int64(time.Minute)))), false
	w.rows = append(w.rows, &c)
	return &c
}

// dated gives a row another time.
func (r *row) dated(taken time.Time) {
	text := taken.Format(stamp)
	r.Time, r.taken = &text, taken.Truncate(time.Millisecond)
}

func every(from, to time.Time, step time.Duration, do func(time.Time)) {
	for t := from; t.Before(to); t = t.Add(step) {
		do(t)
	}
}

// ramp goes from 0 to 1 over the first 20 s after from and back over the last before to; 0 outside.
func ramp(t, from, to time.Time) float64 {
	return max(0, min(1, t.Sub(from).Seconds()/20, to.Sub(t).Seconds()/20))
}

// gentle is a speed in m/s that changes by less than 0.2 m/s².
func gentle(t time.Time) float64 { return 15 + 3*math.Sin(2*math.Pi*float64(t.Unix()%120)/120) }

// hump is a change of speed that begins at a time, reaches top after rise, and is gone after fall more.
func hump(t, at time.Time, top float64, rise, fall time.Duration) float64 {
	d := t.Sub(at)
	switch {
	case d <= 0 || d >= rise+fall:
		return 0
	case d <= rise:
		return top * float64(d) / float64(rise)
	}
	return top * (1 - float64(d-rise)/float64(fall))
}

func night() *world {
	w := &world{random: rand.New(rand.NewPCG(7, 7))}
	w.heart()
	w.car1()
	w.car2()
	w.car2Positions()
	w.others()
	var twice []*row
	for _, r := range w.rows {
		if r.counted && w.random.IntN(20) == 0 {
			twice = append(twice, r)
		}
	}
	for _, r := range twice {
		w.again(r)
	}
	slices.SortStableFunc(w.rows, func(a, b *row) int { return cmp.Compare(a.comes.UnixNano(), b.comes.UnixNano()) })
	return w
}

// heart beats all night, so that time goes on, and until everything is over.
func (w *world) heart() {
	every(clock(22, 30), clock(2, 12), 20*time.Second, func(t time.Time) {
		w.sample("car-0", "agent.uptime", "s", t, t.Sub(clock(22, 0)).Seconds())
		w.position("car-0", t, 40_000)
	})
}

// car1 has an ignition, told when it changes, and a speed in km/h while it is on: a stop of 3 minutes, one of 30. Before
// midnight it brakes hard four times, accelerates hard once and is once faster than 130 km/h; after, it accelerates once, for long.
func (w *world) car1() {
	for _, drive := range [][2]time.Time{{clock(22, 35), clock(23, 0)}, {clock(23, 3), clock(23, 20)}, {clock(23, 50), clock(1, 30)}} {
		from, to := drive[0].Add(250*time.Millisecond), drive[1].Add(250*time.Millisecond)
		w.sample("car-1", "can0.Body.Ignition", "", from.Add(-100*time.Millisecond), 1)
		w.sample("car-1", "can0.Body.Ignition", "", to.Add(100*time.Millisecond), 0)
		every(from, to, 2*time.Second, func(t time.Time) {
			v := gentle(t) * ramp(t, from, to)
			v -= hump(t, from.Add(4*time.Minute), 9, 2*time.Second, 40*time.Second)
			if drive[0] == clock(22, 35) {
				v += hump(t, from.Add(10*time.Minute), 9, 2*time.Second, 40*time.Second)
				v += hump(t, from.Add(15*time.Minute), 25, time.Minute, time.Minute)
			}
			if drive[0] == clock(23, 3) {
				v -= hump(t, from.Add(8*time.Minute), 10, 2*time.Second, 40*time.Second)
			}
			if drive[0] == clock(23, 50) {
				v += hump(t, from.Add(30*time.Minute), 18, 4*time.Second, time.Minute)
			}
			w.sample("car-1", "can0.Drive.VehicleSpeed", "km/h", t, v*3.6)
		})
	}
	every(clock(23, 20), clock(23, 30), 10*time.Second, func(t time.Time) { w.position("car-1", t, 100) }) // inside, and stays
}

// car2 has no ignition but two speeds, of which the receiver's is 2 % too great, also while it stands.
func (w *world) car2() {
	every(clock(22, 40).Add(123456*time.Microsecond), clock(1, 50), 2*time.Second, func(t time.Time) {
		v := 0.
		for _, drive := range [][2]time.Time{
			{clock(22, 50), clock(23, 0)}, {clock(23, 3), clock(23, 15)}, // one trip
			{clock(23, 25), clock(23, 40)}, {clock(0, 5), clock(0, 35)}, {clock(1, 0), clock(1, 40)},
		} {
			v += gentle(t) * ramp(t, drive[0], drive[1])
		}
		w.sample("car-2", "Vehicle.Speed", "m/s", t, v)
		w.sample("car-2", "gps0.fix.speed", "kn", t.Add(300*time.Millisecond), v*1.02*3600/1852)
	})
}

// car2Positions enters the depot's circle of 500 m three times and leaves it three times; between, it is at its edge.
func (w *world) car2Positions() {
	path := []struct {
		at     time.Time
		metres float64
	}{{clock(22, 45), 3000}, {clock(22, 55), 100}, {clock(22, 58), 480}, {clock(22, 59), 540}, {clock(23, 0), 470}, {clock(23, 1), 545}, {clock(23, 2), 300},
		{clock(23, 10), 3000}, {clock(23, 30), 200}, {clock(23, 40), 2000}, {clock(0, 15), 2000}, {clock(0, 25), 50}, {clock(1, 0), 60}, {clock(1, 25), 2500}, {clock(1, 30), 2400}}
	for i := range path[1:] {
		a, b := path[i], path[i+1]
		every(a.at, b.at, 5*time.Second, func(t time.Time) {
			w.position("car-2", t, a.metres+(b.metres-a.metres)*float64(t.Sub(a.at))/float64(b.at.Sub(a.at)))
		})
	}
	suspect := w.position("car-2", clock(22, 47).Add(time.Second), 0)
	suspect.Suspect, suspect.counted = true, false
	ahead := w.position("car-2", clock(23, 15).Add(time.Second), 0)
	ahead.dated(clock(23, 15).Add(100 * time.Hour))
	ahead.counted = false
	for minute := range 10 { // another tenant's vehicle of the same name, in a circle that is not its tenant's
		w.position("car-1", clock(22, 40+minute), 0).Tenant = "beta"
	}
}

func (w *world) others() {
	// car-3 drives and falls silent for ever, alone in its partition.
	every(clock(22, 31), clock(22, 41), time.Second, func(t time.Time) {
		w.sample("car-3", "Vehicle.Speed", "mph", t, gentle(t)*ramp(t, clock(22, 31), clock(22, 41))/0.44704)
		w.position("car-3", t, 5000)
	})
	// car-4's clock is wrong by two days, or it has none, or none that is known to a minute.
	every(clock(22, 40), clock(23, 30), 5*time.Second, func(t time.Time) {
		r := w.sample("car-4", "Vehicle.Speed", "m/s", t, 20)
		r.counted = false
		switch r.Seq % 3 {
		case 0:
			r.dated(t.Add(48 * time.Hour))
		case 1:
			r.Time, r.taken = nil, time.Time{}
		case 2:
			r.Uncertainty = int64(90 * time.Second)
			r.dated(t.Add(9 * time.Minute))
		}
	})
	// car-5's clock is fast by five minutes, which makes nobody else late.
	every(clock(23, 25), clock(23, 40), time.Second, func(t time.Time) {
		w.sample("car-5", "x.VehicleSpeed", "km/h", t, 3.6*gentle(t)*ramp(t, clock(23, 25), clock(23, 40))).dated(t.Add(5 * time.Minute))
	})
	// car-6 is dated again, and was out of reach for a while: its rows of 22:50 come after midnight, too late.
	every(clock(22, 40), clock(22, 55), 7*time.Second, func(t time.Time) {
		r := w.sample("car-6", "can0.Engine.Temperature", "celsius", t.Add(999700*time.Microsecond), 60+float64(w.seq%31))
		switch {
		case !t.Before(clock(22, 50)):
			r.comes, r.counted = clock(0, 10).Add(time.Second), false
			r.Received = r.comes.Format(stamp)
			if r.Seq%5 == 0 { // were these positions not late, car-2 would be seen to enter
				p := w.position("car-2", t, 0)
				p.dated(clock(22, 46).Add(t.Sub(clock(22, 50)) / 10))
				p.comes, p.counted = r.comes, false
				p.Received = r.Received
			}
		case r.Seq%3 == 0: // the better time comes later, and is for the history
			w.again(r).dated(r.taken.Add(40 * time.Second))
		case r.Seq%3 == 1: // had no time before
			first := w.again(r)
			first.Time, first.taken, first.comes = nil, time.Time{}, r.comes.Add(-time.Second)
		}
		text := fmt.Sprint("code ", w.seq)
		r = w.sample("car-6", "can0.Engine.Fault", "", t, 0)
		r.Value, r.Text, r.counted = nil, &text, false
	})
}
