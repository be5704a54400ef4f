package conditions

import (
	"fmt"
	"math"
	"time"
)

// Reading is the newest value of a signal. The zero value is one that was never seen.
type Reading struct {
	Value float64
	At    int64 // when it was taken, CLOCK_BOOTTIME ns; a source that always tells (a GPIO) has now
	Seen  bool
}

// Readings are all that conditions are held against.
type Readings struct {
	Speed     Reading // km/h, negative backwards
	Odometer  Reading // km; optional: it tells of a movement between two checks
	Gear      Reading // as the vehicle's signal has it; Options.GearPark says what is P
	Handbrake Reading // 1 applied, 0 not
	Ignition  Reading // 1 on, 0 off
	SoC       Reading // state of charge of the traction battery, %
	Volts     Reading // of the starter battery
	Ambient   Reading // °C
	Time      Time
	Consent   Consent
}

// Time is the wall clock and how far it may be believed.
type Time struct {
	Wall        time.Time
	Trusted     bool          // GPS or a time server has set it
	Uncertainty time.Duration // how far off it may be
}

// Consent is what is known of the answer of a person in the vehicle. Consents gives it.
type Consent struct {
	Campaign string // that was agreed to
	Given    bool
	Text     string // why not, for a person
}

// signal is what a reading has to be to count at all.
type signal struct {
	name, unit string
	low, high  float64
	maxAge     time.Duration
}

// check says what is wrong with a reading; empty when it counts.
func (s signal) check(r Reading, now int64) string {
	age := time.Duration(now - r.At)
	switch {
	case !r.Seen:
		return s.name + ": never seen"
	case age < 0:
		return s.name + ": its time lies ahead"
	case age > s.maxAge:
		return fmt.Sprintf("%s: last seen %s ago, at most %s", s.name, span(age), span(s.maxAge))
	case math.IsNaN(r.Value) || r.Value < s.low || r.Value > s.high:
		return fmt.Sprintf("%s: %s is no possible value", s.name, s.value(r.Value))
	}
	return ""
}

func (s signal) value(v float64) string {
	text := fmt.Sprintf("%.4g", v)
	if s.unit != "" {
		text += " " + s.unit
	}
	return text
}

// span writes a duration as people say it, rounded down.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d/time.Millisecond)
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d h", d/time.Hour)
}
