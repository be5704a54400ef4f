package pipeline

import (
	"errors"
	"fmt"
	"math"
	"strings"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Threshold is the simplest rule: it raises an event when a signal's physical value leaves a bound. The event is a
// FLOAT sample of the signal `event.NAME` in the event lane, with the value that crossed and the time at which it
// was taken. Only the edge is an event: the bound is armed again when the value has come back to it, and past it by
// Hysteresis. Before the first sample the value is taken as within bounds, so a start beyond them is an event.
// Values that are no numbers neither raise nor arm.
type Threshold struct {
	Name   string // letters, digits, `_`, `-` and `.`
	Signal string // full name of a numeric signal; it need not be collected
	// Above raises when the value is greater, Below when it is less. One of them is needed; each has its own edge.
	Above, Below *float64
	Hysteresis   float64 // physical unit, from 0
}

// rule is a Threshold made ready, and its state.
type rule struct {
	input, event  uint32 // signal ids
	scale, offset float64
	above, below  float64 // +Inf and −Inf where there is none
	hysteresis    float64
	high, low     bool // beyond the bound, and not back yet
}

// see takes a sample of the rule's input; raised says that it crossed.
func (r *rule) see(s *telemetrypb.Sample) (value float64, raised bool) {
	value = s.Physical(r.scale, r.offset)
	if r.high {
		r.high = !(value <= r.above-r.hysteresis)
	} else if value > r.above {
		r.high, raised = true, true
	}
	if r.low {
		r.low = !(value >= r.below+r.hysteresis)
	} else if value < r.below {
		r.low, raised = true, true
	}
	return value, raised
}

func (t *Threshold) check() error {
	if t.Name == "" {
		return errors.New("rule: a name is missing")
	}
	for _, c := range t.Name {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("_-.", c)) {
			return fmt.Errorf("rule %q: a name has letters, digits, '_', '-' and '.' only", t.Name)
		}
	}
	if t.Above == nil && t.Below == nil {
		return fmt.Errorf("rule %q: needs a bound, above or below", t.Name)
	}
	for _, bound := range []*float64{t.Above, t.Below, &t.Hysteresis} {
		if bound != nil && (math.IsNaN(*bound) || math.IsInf(*bound, 0)) {
			return fmt.Errorf("rule %q: bounds must be finite numbers, got %v", t.Name, *bound)
		}
	}
	if t.Hysteresis < 0 {
		return fmt.Errorf("rule %q: hysteresis must not be negative, got %v", t.Name, t.Hysteresis)
	}
	if t.Above != nil && t.Below != nil && *t.Below >= *t.Above {
		return fmt.Errorf("rule %q: below (%v) must be less than above (%v)", t.Name, *t.Below, *t.Above)
	}
	return nil
}

// addRule gives the rule's event an id and compiles the rule.
func (s *Selection) addRule(t *Threshold, available []*telemetrypb.Signal) error {
	if err := t.check(); err != nil {
		return err
	}
	input, ok := s.ids[t.Signal]
	if !ok {
		return noMatch(fmt.Sprintf("rule %q: signal", t.Name), t.Signal, available)
	}
	signal := s.catalogue.Signals[input-1]
	if signal.Type == telemetrypb.ValueType_VALUE_TYPE_STRING {
		return fmt.Errorf("rule %q: %s is text; a threshold needs a number", t.Name, t.Signal)
	}
	event := &telemetrypb.Signal{
		Name:    "event." + t.Name,
		Unit:    signal.Unit,
		Scale:   1,
		Type:    telemetrypb.ValueType_VALUE_TYPE_FLOAT,
		Source:  "rule",
		Comment: t.String(),
	}
	if err := s.add(event, policy{lane: telemetrypb.Lane_LANE_EVENT}); err != nil {
		return fmt.Errorf("rule %q: %w", t.Name, err)
	}
	r := rule{
		input: input, event: event.Id,
		scale: signal.Scale, offset: signal.Offset,
		above: math.Inf(1), below: math.Inf(-1),
		hysteresis: t.Hysteresis,
	}
	if t.Above != nil {
		r.above = *t.Above
	}
	if t.Below != nil {
		r.below = *t.Below
	}
	s.rules = append(s.rules, r)
	return nil
}

// String is the rule in words, for the catalogue.
func (t *Threshold) String() string {
	var words []string
	if t.Above != nil {
		words = append(words, fmt.Sprintf("above %v", *t.Above))
	}
	if t.Below != nil {
		words = append(words, fmt.Sprintf("below %v", *t.Below))
	}
	text := t.Signal + " " + strings.Join(words, " or ")
	if t.Hysteresis > 0 {
		text += fmt.Sprintf(", hysteresis %v", t.Hysteresis)
	}
	return text
}
