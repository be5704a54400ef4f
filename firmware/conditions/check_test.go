package conditions

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	second = int64(time.Second)
	start  = 1000 * second
)

// good are readings that meet everything that whole asks, at a time of CLOCK_BOOTTIME.
func good(now int64) Readings {
	at := func(v float64) Reading { return Reading{v, now - second, true} }
	return Readings{
		Speed: at(0), Gear: at(15), Handbrake: at(1), Ignition: at(0), SoC: at(80), Volts: at(12.6), Ambient: at(20),
		Time:    Time{time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC), true, time.Second},
		Consent: Consent{Campaign: "spring", Given: true},
	}
}

func all(t *testing.T) Set {
	t.Helper()
	s, err := FromCustom([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func checker(t *testing.T, o Options) *Checker {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// held is a checker that has seen the vehicle parked long enough, up to start.
func held(t *testing.T, o Options) *Checker {
	t.Helper()
	c := checker(t, o)
	for now := start - 60*second; now <= start; now += 5 * second {
		c.Check(Set{}, good(now), now)
	}
	return c
}

func words(unmet []Unmet) string {
	var all []string
	for _, u := range unmet {
		all = append(all, u.String())
	}
	return strings.Join(all, "\n")
}

func TestMet(t *testing.T) {
	if unmet := held(t, Options{GearPark: []float64{15}}).Check(all(t), good(start), start); unmet != nil {
		t.Error(words(unmet))
	}
	if unmet := checker(t, Options{}).Check(Set{}, Readings{}, start); unmet != nil {
		t.Errorf("nothing was asked: %s", words(unmet))
	}
}

// Each signal missing, stale, ahead, not a number or impossible fails closed, for its condition alone and in words.
func TestFailsClosed(t *testing.T) {
	only := func(r *Readings) { r.Gear.Seen, r.Handbrake.Seen = false, false } // the ignition is the only proof
	for _, test := range []struct {
		name string
		f    func(*Readings)
		want string
	}{
		{"speed never", func(r *Readings) { r.Speed.Seen = false }, "parked: speed: never seen"},
		{"speed stale", func(r *Readings) { r.Speed.At = start - 40*second }, "parked: speed: last seen 40 s ago, at most 5 s"},
		{"speed ahead", func(r *Readings) { r.Speed.At = start + 1 }, "parked: speed: its time lies ahead"},
		{"speed NaN", func(r *Readings) { r.Speed.Value = math.NaN() }, "parked: speed: NaN km/h is no possible value"},
		{"speed infinite", func(r *Readings) { r.Speed.Value = math.Inf(-1) }, "parked: speed: -Inf km/h is no possible value"},
		{"speed raw not available", func(r *Readings) { r.Speed.Value = 655.35 }, "parked: speed: 655.4 km/h is no possible value"},
		{"rolls", func(r *Readings) { r.Speed.Value = 3 }, "parked: speed: 3 km/h, at most 0.5 km/h"},
		{"rolls back", func(r *Readings) { r.Speed.Value = -3 }, "parked: speed: -3 km/h, at most 0.5 km/h"},
		{"no proof", func(r *Readings) { only(r); r.Ignition.Value = 1 },
			"parked: it stands, but nothing proves it parked: gear: never seen; handbrake: never seen; ignition: on\nignition: ignition: on, has to be off"},
		{"stale proofs", func(r *Readings) {
			r.Gear.At, r.Handbrake.At, r.Ignition.At = start-9*second, start-6*second, start-11*second
		}, "parked: it stands, but nothing proves it parked: gear: last seen 9 s ago, at most 5 s; handbrake: last seen 6 s ago, at most 5 s; ignition: last seen 11 s ago, at most 10 s\nignition: ignition: last seen 11 s ago, at most 10 s"},
		{"wrong proofs", func(r *Readings) { r.Gear.Value, r.Handbrake.Value, r.Ignition.Value = 4, 3, 0.5 },
			"parked: it stands, but nothing proves it parked: gear: not in P; handbrake: 3 is no possible value; ignition: 0.5 is neither on (1) nor off (0)\nignition: ignition: 0.5 is neither on (1) nor off (0)"},
		{"gear NaN", func(r *Readings) { only(r); r.Gear = Reading{math.NaN(), start, true}; r.Ignition.Value = math.NaN() },
			"parked: it stands, but nothing proves it parked: gear: NaN is no possible value; handbrake: never seen; ignition: NaN is no possible value\nignition: ignition: NaN is no possible value"},
		{"ignition never", func(r *Readings) { r.Ignition.Seen = false }, "ignition: ignition: never seen"},
		{"soc stale", func(r *Readings) { r.SoC.At = start - 700*second }, "min_soc_percent: state of charge: last seen 11 min ago, at most 10 min"},
		{"soc low", func(r *Readings) { r.SoC.Value = 29.9 }, "min_soc_percent: state of charge: 29.9 %, at least 30 %"},
		{"soc impossible", func(r *Readings) { r.SoC.Value = 127.5 }, "min_soc_percent: state of charge: 127.5 % is no possible value"},
		{"volts NaN", func(r *Readings) { r.Volts.Value = math.NaN() }, "min_battery_volts: battery: NaN V is no possible value"},
		{"volts low", func(r *Readings) { r.Volts.Value = 11.9 }, "min_battery_volts: battery: 11.9 V, at least 12.2 V"},
		{"volts stale", func(r *Readings) { r.Volts.At = start - 61*second }, "min_battery_volts: battery: last seen 61 s ago, at most 60 s"},
		{"ambient never", func(r *Readings) { r.Ambient.Seen = false },
			"min_ambient_celsius: ambient temperature: never seen\nmax_ambient_celsius: ambient temperature: never seen"},
		{"cold", func(r *Readings) { r.Ambient.Value = -25 }, "min_ambient_celsius: ambient temperature: -25 °C, at least -20 °C"},
		{"hot", func(r *Readings) { r.Ambient.Value = 61 }, "max_ambient_celsius: ambient temperature: 61 °C, at most 60 °C"},
		{"clock not set", func(r *Readings) { r.Time.Trusted = false }, "window: neither GPS nor a time server has set the clock: nobody knows what time it is"},
		{"clock unsure", func(r *Readings) { r.Time.Uncertainty = time.Hour }, "window: the clock may be off by 60 min, at most 60 s"},
		{"clock in 1970", func(r *Readings) { r.Time.Wall = time.Unix(10800, 0) }, "window: the clock says 1970-01-01 03:00:00: no possible time"},
		{"clock far ahead", func(r *Readings) { r.Time.Wall = time.Date(2400, 1, 1, 3, 0, 0, 0, time.UTC) }, "window: the clock says 2400-01-01 03:00:00: no possible time"},
		{"too late", func(r *Readings) { r.Time.Wall = time.Date(2026, 3, 1, 5, 0, 0, 0, time.UTC) }, "window: it is 05:00, not 02:00 to 05:00 (UTC)"},
		{"not asked", func(r *Readings) { r.Consent = Consent{} }, "consent: nobody was asked yet"},
		{"consent to another", func(r *Readings) { r.Consent.Campaign = "autumn" }, "consent: it was given for another campaign"},
		{"refused", func(r *Readings) { r.Consent = Consent{Campaign: "spring", Text: "no"} }, "consent: no"},
	} {
		r := good(start)
		test.f(&r)
		if got := words(held(t, Options{GearPark: []float64{15}}).Check(all(t), r, start)); got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, got, test.want)
		}
	}
}

func TestProofs(t *testing.T) {
	r := good(start)
	r.Handbrake.Value = 0
	r.Ignition.Value = 1 // the gear alone proves it
	s := Set{Parked: true}
	for _, test := range []struct {
		o   Options
		met bool
	}{
		{Options{GearPark: []float64{0, 15}}, true},
		{Options{GearPark: []float64{0}}, false},
		{Options{}, false}, // nobody knows which value is P
		{Options{GearPark: []float64{15}, Proofs: []Proof{ProofGear}}, true},
		{Options{GearPark: []float64{15}, Proofs: []Proof{ProofHandbrake}}, false},
		{Options{GearPark: []float64{15}, Proofs: []Proof{}}, false},
	} {
		if got := held(t, test.o).Check(s, r, start) == nil; got != test.met {
			t.Errorf("%+v: met %t", test.o, got)
		}
	}
	for _, o := range []Options{{Proofs: []Proof{"key"}}, {Hold: -1}, {Moved: math.NaN()}, {SilentSpeed: -1}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// A bus that sleeps with the ignition lets the speed grow old, and only then.
func TestSilentSpeed(t *testing.T) {
	s := Set{Parked: true}
	r := good(start)
	r.Speed.At = start - 600*second
	met := func(o Options, r Readings) bool {
		c := checker(t, o)
		c.Check(s, r, start-second/2)
		return c.Check(s, r, start) == nil
	}
	r.Handbrake.Seen, r.Gear.Seen = false, false // they sleep too
	silent := Options{SilentSpeed: time.Hour, Hold: 1, GearPark: []float64{15}}
	if !met(silent, r) {
		t.Error("ignition off: a speed of zero may be old")
	}
	if met(Options{Hold: 1}, r) {
		t.Error("met without SilentSpeed")
	}
	moving := r
	moving.Speed.Value = 50
	if met(silent, moving) {
		t.Error("met at 50 km/h")
	}
	on := r
	on.Ignition.Value = 1
	if met(silent, on) {
		t.Error("met with the ignition on")
	}
	unknown := r
	unknown.Ignition.At = start - 60*second
	if met(silent, unknown) {
		t.Error("met while nobody knows of the ignition")
	}
}

// Parked has to hold, be looked at all the time, and not be interrupted.
func TestHold(t *testing.T) {
	s := Set{Parked: true}
	drive := func(r *Readings) { r.Speed.Value = 30 }
	type step struct {
		at  int64 // s
		f   func(*Readings)
		met bool
	}
	for name, steps := range map[string][]step{
		"holds":       {{0, nil, false}, {10, nil, false}, {20, nil, false}, {29, nil, false}, {30, nil, true}, {31, nil, true}},
		"interrupted": {{0, nil, false}, {10, nil, false}, {20, drive, false}, {30, nil, false}, {40, nil, false}, {50, nil, false}, {60, nil, true}},
		"nobody looked": {{0, nil, false}, {11, nil, false}, {20, nil, false}, {30, nil, false}, {40, nil, false}, {41, nil, true},
			{52, nil, false}},
		"odometer": {{0, nil, false}, {10, nil, false}, {20, func(r *Readings) { r.Odometer = Reading{1000, 0, true} }, false},
			{30, func(r *Readings) { r.Odometer = Reading{1000, 0, true} }, true},
			{40, func(r *Readings) { r.Odometer = Reading{1000.2, 0, true} }, false}, {50, nil, false}, {60, nil, false}, {70, nil, true}},
		"ends": {{0, nil, false}, {10, nil, false}, {20, nil, false}, {30, nil, true}, {31, drive, false}, {32, nil, false}},
	} {
		c := checker(t, Options{})
		for _, step := range steps {
			now := start + step.at*second
			r := good(now)
			if step.f != nil {
				step.f(&r)
			}
			if unmet := c.Check(s, r, now); (unmet == nil) != step.met {
				t.Errorf("%s at %d s: %q", name, step.at, words(unmet))
			}
		}
	}
}

func TestHysteresis(t *testing.T) {
	c := checker(t, Options{})
	for i, test := range []struct {
		volts, ambient float64
		seen           bool
		want           []string
	}{
		{12.2, 60, true, nil}, // exactly as asked
		{12.1, 60, true, []string{"min_battery_volts"}},
		{12.3, 60, true, []string{"min_battery_volts"}},
		{12.5, 60.5, true, []string{"max_ambient_celsius"}},
		{12.2, 59.5, true, []string{"max_ambient_celsius"}},
		{12.2, 59, true, nil},
		{11, 59, true, []string{"min_battery_volts"}},
		{12.3, 59, false, []string{"min_battery_volts"}}, // silence is no recovery
		{12.3, 59, true, []string{"min_battery_volts"}},
		{12.4, 59, true, nil},
	} {
		r := Readings{Volts: Reading{test.volts, start, test.seen}, Ambient: Reading{test.ambient, start, true}}
		var got []string
		for _, u := range c.Check(Set{MinVolts: p(12.2), MaxAmbient: p(60)}, r, start) {
			got = append(got, u.Condition)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%d: %v, want %v", i, got, test.want)
		}
	}
}

func TestOnlyConsent(t *testing.T) {
	if OnlyConsent(nil) || OnlyConsent([]Unmet{{"parked", ""}}) || OnlyConsent([]Unmet{{"parked", ""}, {"consent", ""}}) || !OnlyConsent([]Unmet{{"consent", ""}}) {
		t.Error("wrong")
	}
}
