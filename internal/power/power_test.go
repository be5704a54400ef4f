package power

import (
	"math"
	"testing"
	"time"
)

// drive steps a machine through virtual time, second by second.
type drive struct {
	t   *testing.T
	m   *Machine
	now int64
	r   Reading
}

func begin(t *testing.T, o Options) *drive { return &drive{t: t, m: New(o, 1000), now: 1000} }

// pass lets time go by with the reading as it stands; heard says whether the signals are heard in it.
func (d *drive) pass(span time.Duration, heard bool) {
	for end := d.now + int64(span); d.now < end; {
		d.now += int64(time.Second)
		r := d.r
		r.Heard, r.HasVolts = heard, heard && !math.IsInf(r.Volts, 1)
		d.m.Step(d.now, r)
	}
}

func (d *drive) want(what string, s State, low bool) {
	d.t.Helper()
	if d.m.State() != s || d.m.Low() != low {
		d.t.Errorf("%s: %v, low %v; want %v, low %v", what, d.m.State(), d.m.Low(), s, low)
	}
}

var usual = Options{OffAfter: 5 * time.Second, StaleAfter: time.Minute, DrainTime: 2 * time.Minute, DrainBytes: 1000, WakeEvery: 6 * time.Hour, WakeFor: 5 * time.Minute,
	Floor: 11.8, Hysteresis: 0.3, Hold: 10 * time.Second}

func TestParking(t *testing.T) {
	d := begin(t, usual)
	d.r.Volts, d.r.On = 12.6, true
	d.pass(time.Hour, true)
	d.want("driving", On, false)
	d.r.On = false
	d.pass(4*time.Second, true)
	d.want("a loose contact", On, false)
	d.r.On = true
	d.pass(time.Second, true)
	d.r.On = false
	d.pass(5*time.Second, true)
	d.want("not yet off for long enough since", On, false)
	d.pass(2*time.Second, true)
	d.want("off", Draining, false)
	d.pass(100*time.Second, true)
	d.want("still something to send", Draining, false)
	d.r.Empty = true
	d.pass(time.Second, true)
	d.want("all is sent", Quiet, false)
	d.pass(6*time.Hour-2*time.Second, true)
	d.want("quiet", Quiet, false)
	d.pass(2*time.Second, true)
	d.want("looks in", Awake, false)
	d.pass(5*time.Minute-2*time.Second, true)
	d.want("for five minutes, queue or not", Awake, false)
	d.pass(2*time.Second, true)
	d.want("quiet again", Quiet, false)
	d.r.On = true
	d.pass(time.Second, true)
	d.want("and off it goes at once", On, false)
}

func TestDrainIsBounded(t *testing.T) {
	d := begin(t, usual)
	d.r = Reading{On: false, Steady: true, Volts: 12.6, Sent: 500}
	d.pass(8*time.Second, true)
	d.want("off", Draining, false)
	d.pass(2*time.Minute-3*time.Second, true)
	d.want("for two minutes", Draining, false)
	d.pass(3*time.Second, true)
	d.want("and no longer", Quiet, false)

	d = begin(t, usual)
	d.r = Reading{Steady: true, Volts: 12.6, Sent: 500}
	d.pass(10*time.Second, true)
	d.r.Sent = 1499
	d.pass(time.Second, true)
	d.want("999 bytes", Draining, false)
	d.r.Sent++
	d.pass(time.Second, true)
	d.want("1000 bytes", Quiet, false)
	d.pass(6*time.Hour, true)
	d.want("awake: a budget of its own", Awake, false)
	d.r.Sent += 1000
	d.pass(time.Second, true)
	d.want("is spent", Quiet, false)
}

func TestASilentBusIsAnIgnitionThatIsOff(t *testing.T) {
	d := begin(t, usual)
	d.r = Reading{On: true, Volts: math.Inf(1)}
	d.pass(time.Minute, true)
	d.pass(time.Minute, false)
	d.want("silent for a minute", On, false)
	d.pass(7*time.Second, false)
	d.want("longer", Draining, false)
	d.pass(time.Second, true)
	d.want("it speaks again", On, false)

	d = begin(t, usual) // nothing was ever heard
	d.r = Reading{Volts: math.Inf(1)}
	d.pass(time.Minute, false)
	d.want("wait for it", On, false)
	d.pass(8*time.Second, false)
	d.want("but not for ever", Draining, false)

	d = begin(t, usual) // a line that never changes says so by saying nothing
	d.r = Reading{On: true, Steady: true, Volts: math.Inf(1)}
	d.pass(time.Hour, false)
	d.want("a line that stays", On, false)
}

func TestTheFloor(t *testing.T) {
	o := usual
	d := begin(t, o)
	parked := func(volts float64) {
		d = begin(t, o)
		d.r = Reading{Steady: true, Volts: volts}
		d.pass(8*time.Second, true)
	}
	parked(12.6)
	d.r.Volts = 9.5 // cranking
	d.pass(9*time.Second, true)
	d.want("too short", Draining, false)
	d.r.Volts = 12.6
	d.pass(time.Second, true)
	d.r.Volts = 11.79
	d.pass(10*time.Second, true)
	d.want("not yet", Draining, false)
	d.pass(time.Second, true)
	d.want("low: no more than the flush", Quiet, true)
	d.pass(12*time.Hour, true)
	d.want("and no waking", Quiet, true)
	d.r.Volts = 12.09
	d.pass(time.Hour, true)
	d.want("within the hysteresis", Quiet, true)
	d.r.Volts = 12.11
	d.pass(11*time.Second, true)
	d.want("good again, and long due", Awake, false)
	d.r.Volts = math.NaN()
	d.pass(12*time.Second, true)
	d.want("not a number is no good voltage", Quiet, true)

	// Unknown as configured.
	for _, unknownIsLow := range []bool{false, true} {
		o.UnknownIsLow = unknownIsLow
		parked(12.6)
		d.pass(60*time.Second, false)
		d.want("heard within the minute", Draining, false)
		d.pass(20*time.Second, false)
		want := Draining
		if unknownIsLow {
			want = Quiet
		}
		d.want("silent", want, unknownIsLow)
	}
	// Driving is driving.
	d = begin(t, usual)
	d.r = Reading{Steady: true, On: true, Volts: 10}
	d.pass(time.Hour, true)
	d.want("the ignition is on", On, true)
	// Without a floor nobody looks.
	o.Floor = 0
	parked(3)
	d.pass(time.Minute, true)
	d.want("no floor", Draining, false)
}
