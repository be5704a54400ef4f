package conditions

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Options are what the vehicle's configuration says of its signals. Zero values are the defaults that stand in brackets.
type Options struct {
	// How old the newest value of a signal may be.
	SpeedAge    time.Duration // [5 s]
	GearAge     time.Duration // [5 s], also of the handbrake
	IgnitionAge time.Duration // [10 s]
	SoCAge      time.Duration // [10 min]
	VoltsAge    time.Duration // [1 min]
	AmbientAge  time.Duration // [10 min]

	// What proves that it is parked, beside a speed of zero: any one of Proofs [all of which a signal is there].
	Proofs     []Proof
	GearPark   []float64     // values of the gear that are P [none: then the gear proves nothing]
	Standstill float64       // km/h that still count as standing [0.5]
	Hold       time.Duration // parked for so long [30 s]
	MaxGap     time.Duration // two checks may lie so far apart for Hold to run on [10 s]
	Moved      float64       // km of the odometer that are a movement [0.1]
	// SilentSpeed is for buses that sleep with the ignition: while the ignition is known to be off, a speed that stood may be
	// so old [0: as any other speed].
	SilentSpeed time.Duration

	// What once was not met has to be better by so much to be met again.
	SoCHysteresis     float64 // % [1]
	VoltsHysteresis   float64 // V [0.2]
	AmbientHysteresis float64 // °C [1]

	MaxUncertainty time.Duration  // of the clock, for a window [1 min]
	Zone           *time.Location // what the zone "vehicle" is [none]
	ZoneDir        string         // the IANA database's files [/usr/share/zoneinfo]
}

// Proof is a signal that shows a standing vehicle to be parked.
type Proof string

// The proofs.
const (
	ProofGear      Proof = "gear"         // it is in P
	ProofHandbrake Proof = "handbrake"    // it is applied
	ProofIgnition  Proof = "ignition-off" // nobody can drive off at once
)

// Unmet is one condition that does not hold.
type Unmet struct {
	Condition string // its member's name in the custom object
	Text      string // why, for a person
}

func (u Unmet) String() string { return u.Condition + ": " + u.Text }

// ConditionConsent is the condition that asking can meet: ask once it is the only one that is not (OnlyConsent).
const ConditionConsent = "consent"

// OnlyConsent says that nothing but the consent is missing: now is the moment to ask for it.
func OnlyConsent(unmet []Unmet) bool {
	return len(unmet) == 1 && unmet[0].Condition == ConditionConsent
}

// Checker holds sets against readings. It remembers since when the vehicle is parked and which bounds were missed; so one
// Checker lives as long as the agent. It belongs to one goroutine.
type Checker struct {
	o         Options
	locations map[string]*time.Location

	parked    bool  // at the last check
	since     int64 // of parked, CLOCK_BOOTTIME ns
	checked   int64 // the last check
	ever      bool  // there was one
	odometer  float64
	odometers bool            // odometer is known
	missed    map[string]bool // bounds that were not met when last checked, by condition
}

// New makes a checker. An error names the option that cannot be.
func New(o Options) (*Checker, error) {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&o.SpeedAge, 5 * time.Second}, {&o.GearAge, 5 * time.Second}, {&o.IgnitionAge, 10 * time.Second}, {&o.SoCAge, 10 * time.Minute},
		{&o.VoltsAge, time.Minute}, {&o.AmbientAge, 10 * time.Minute}, {&o.Hold, 30 * time.Second}, {&o.MaxGap, 10 * time.Second},
		{&o.MaxUncertainty, time.Minute},
	} {
		if *d.v < 0 {
			return nil, fmt.Errorf("conditions: an age, hold or gap of %s: must not be negative", *d.v)
		}
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	for _, d := range []struct {
		v *float64
		d float64
	}{{&o.Standstill, 0.5}, {&o.Moved, 0.1}, {&o.SoCHysteresis, 1}, {&o.VoltsHysteresis, 0.2}, {&o.AmbientHysteresis, 1}} {
		if math.IsNaN(*d.v) || *d.v < 0 {
			return nil, fmt.Errorf("conditions: a standstill, movement or hysteresis of %g: must not be negative", *d.v)
		}
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if o.Proofs == nil {
		o.Proofs = []Proof{ProofGear, ProofHandbrake, ProofIgnition}
	}
	for _, p := range o.Proofs {
		if p != ProofGear && p != ProofHandbrake && p != ProofIgnition {
			return nil, fmt.Errorf("conditions: %q proves nothing: want %s, %s or %s", p, ProofGear, ProofHandbrake, ProofIgnition)
		}
	}
	if o.SilentSpeed < 0 {
		return nil, errors.New("conditions: SilentSpeed must not be negative")
	}
	if o.ZoneDir == "" {
		o.ZoneDir = "/usr/share/zoneinfo"
	}
	return &Checker{o: o, locations: map[string]*time.Location{}, missed: map[string]bool{}}, nil
}

// Check answers with all that is not met at now, CLOCK_BOOTTIME ns; nil when it may be installed. The answer is good for this moment only.
func (c *Checker) Check(s Set, r Readings, now int64) (unmet []Unmet) {
	miss := func(condition, text string) {
		if text != "" {
			unmet = append(unmet, Unmet{condition, text})
		}
	}
	parked := c.park(r, now) // also when nobody asks: its hold runs on
	if s.Parked {
		miss("parked", parked)
	}
	if s.Ignition != IgnitionAny {
		miss("ignition", c.ignition(s.Ignition, r.Ignition, now))
	}
	soc := signal{"state of charge", "%", 0, 100, c.o.SoCAge}
	miss("min_soc_percent", c.bound("min_soc_percent", soc, r.SoC, now, s.MinSoC, 1, c.o.SoCHysteresis))
	volts := signal{"battery", "V", 0, 100, c.o.VoltsAge}
	miss("min_battery_volts", c.bound("min_battery_volts", volts, r.Volts, now, s.MinVolts, 1, c.o.VoltsHysteresis))
	ambient := signal{"ambient temperature", "°C", minCelsius, maxCelsius, c.o.AmbientAge}
	miss("min_ambient_celsius", c.bound("min_ambient_celsius", ambient, r.Ambient, now, s.MinAmbient, 1, c.o.AmbientHysteresis))
	miss("max_ambient_celsius", c.bound("max_ambient_celsius", ambient, r.Ambient, now, s.MaxAmbient, -1, c.o.AmbientHysteresis))
	if s.Window != nil {
		miss("window", c.window(s.Window, r.Time))
	}
	if s.Consent {
		miss(ConditionConsent, consent(s.Campaign, r.Consent))
	}
	return unmet
}

// bound holds a reading against a least (sign 1) or greatest (sign -1) value.
func (c *Checker) bound(name string, sig signal, r Reading, now int64, limit *float64, sign, hysteresis float64) string {
	if limit == nil {
		delete(c.missed, name)
		return ""
	}
	if why := sig.check(r, now); why != "" {
		return why // says nothing of the value itself: missed stays
	}
	need, more := *limit, ""
	if c.missed[name] {
		need += sign * hysteresis
		more = ", after it was not met"
	}
	if sign*r.Value >= sign*need {
		delete(c.missed, name)
		return ""
	}
	c.missed[name] = true
	most := "at least"
	if sign < 0 {
		most = "at most"
	}
	return fmt.Sprintf("%s: %s, %s %s%s", sig.name, sig.value(r.Value), most, sig.value(need), more)
}

// ignitionState is on or off, or why neither is known.
func (c *Checker) ignitionState(r Reading, now int64) (on bool, why string) {
	if why := (signal{"ignition", "", 0, 1, c.o.IgnitionAge}).check(r, now); why != "" {
		return false, why
	}
	if r.Value != 0 && r.Value != 1 {
		return false, fmt.Sprintf("ignition: %.4g is neither on (1) nor off (0)", r.Value)
	}
	return r.Value == 1, ""
}

func (c *Checker) ignition(want Ignition, r Reading, now int64) string {
	on, why := c.ignitionState(r, now)
	switch {
	case why != "":
		return why
	case on && want == IgnitionOff:
		return "ignition: on, has to be off"
	case !on && want == IgnitionOn:
		return "ignition: off, has to be on"
	case want != IgnitionOff && want != IgnitionOn: // a Set that Parse did not make
		return fmt.Sprintf("ignition: %q is no state", want)
	}
	return ""
}

// park follows whether the vehicle is parked and says why it is not, or not for long enough.
func (c *Checker) park(r Readings, now int64) string {
	gap, ever := time.Duration(now-c.checked), c.ever
	c.checked, c.ever = now, true
	moved := c.moved(r.Odometer)
	if why := c.standing(r, now); why != "" {
		c.parked = false
		return why
	}
	switch {
	case !c.parked, !ever:
		c.parked, c.since = true, now
	case gap < 0 || gap > c.o.MaxGap: // nobody looked: it may have been driven in between
		c.since = now
	case moved:
		c.since = now
	}
	if held := time.Duration(now - c.since); held < c.o.Hold {
		return fmt.Sprintf("only since %s, at least %s", span(held), span(c.o.Hold))
	}
	return ""
}

// moved says whether the odometer tells of a movement since parked began. One that is not there tells of none.
func (c *Checker) moved(r Reading) bool {
	if !r.Seen || math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
		return false
	}
	moved := c.odometers && math.Abs(r.Value-c.odometer) >= c.o.Moved
	if moved || !c.odometers || !c.parked {
		c.odometer, c.odometers = r.Value, true
	}
	return moved
}

// standing says why the vehicle is not parked at this moment; empty when it is.
func (c *Checker) standing(r Readings, now int64) string {
	on, unknown := c.ignitionState(r.Ignition, now)
	speed := signal{"speed", "km/h", -500, 500, c.o.SpeedAge}
	if unknown == "" && !on && c.o.SilentSpeed > speed.maxAge {
		speed.maxAge = c.o.SilentSpeed
	}
	if why := speed.check(r.Speed, now); why != "" {
		return why
	}
	if math.Abs(r.Speed.Value) > c.o.Standstill {
		return fmt.Sprintf("speed: %s, at most %s", speed.value(r.Speed.Value), speed.value(c.o.Standstill))
	}
	var without []string
	for _, p := range c.o.Proofs {
		why := ""
		switch p {
		case ProofGear:
			why = (signal{"gear", "", math.Inf(-1), math.Inf(1), c.o.GearAge}).check(r.Gear, now)
			switch {
			case len(c.o.GearPark) == 0:
				continue
			case why == "" && !slices.Contains(c.o.GearPark, r.Gear.Value):
				why = "gear: not in P"
			}
		case ProofHandbrake:
			why = (signal{"handbrake", "", 0, 1, c.o.GearAge}).check(r.Handbrake, now)
			if why == "" && r.Handbrake.Value != 1 {
				why = "handbrake: not applied"
			}
		case ProofIgnition:
			why = unknown
			if why == "" && on {
				why = "ignition: on"
			}
		}
		if why == "" {
			return ""
		}
		without = append(without, why)
	}
	if without == nil {
		return "it stands, and no signal is configured that could prove it parked"
	}
	return "it stands, but nothing proves it parked: " + strings.Join(without, "; ")
}

func (c *Checker) window(w *Window, t Time) string {
	switch {
	case !t.Trusted:
		return "neither GPS nor a time server has set the clock: nobody knows what time it is"
	case t.Uncertainty < 0 || t.Uncertainty > c.o.MaxUncertainty:
		return fmt.Sprintf("the clock may be off by %s, at most %s", span(t.Uncertainty), span(c.o.MaxUncertainty))
	case t.Wall.Year() < 2020 || t.Wall.Year() > 2100:
		return fmt.Sprintf("the clock says %s: no possible time", t.Wall.UTC().Format(time.DateTime))
	}
	l := c.locations[w.Zone]
	if l == nil {
		var err error
		if l, err = location(w.Zone, c.o.Zone, c.o.ZoneDir); err != nil {
			return fmt.Sprintf("zone %s: %v", w.Zone, err)
		}
		c.locations[w.Zone] = l
	}
	if local := t.Wall.In(l); !w.Contains(local) {
		return fmt.Sprintf("it is %s, not %s", local.Format("15:04"), w)
	}
	return ""
}

func consent(campaign string, c Consent) string {
	switch {
	case c.Given && campaign != "" && c.Campaign == campaign:
		return ""
	case c.Given:
		return "it was given for another campaign"
	case c.Text != "":
		return c.Text
	}
	return "nobody was asked yet"
}
