package conditions

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Ignition is the state that a campaign asks for.
type Ignition string

// The states; the zero value asks for none, as "any" does.
const (
	IgnitionAny Ignition = ""
	IgnitionOff Ignition = "off"
	IgnitionOn  Ignition = "on"
)

// Set is what a campaign asks of the vehicle. The zero value asks nothing. A nil bound is none.
type Set struct {
	Campaign   string // its id, which a consent has to name
	Parked     bool
	Ignition   Ignition
	MinSoC     *float64 // state of charge of the traction battery, %
	MinVolts   *float64 // of the starter battery, V
	MinAmbient *float64 // °C
	MaxAmbient *float64 // °C
	Window     *Window
	Consent    bool // a person in the vehicle has to agree
}

// ErrMalformed: the conditions are not what docs/OTA.md describes. Nothing is installed under conditions that are not understood.
var ErrMalformed = errors.New("conditions not understood")

// Bounds of what comes from outside, and of what a condition may sensibly ask.
const (
	maxCustom   = 64 << 10 // bytes of the custom object
	maxCampaign = 128      // bytes of its id
	minVolts    = 6        // of a 12 V, 24 V or 48 V system
	maxVolts    = 60
	minCelsius  = -60
	maxCelsius  = 90
)

// FromCustom reads the conditions out of the director's custom object (docs/OTA.md). Its other members are not for this
// package and are ignored; without "conditions" the set is empty. An error is an ErrMalformed.
func FromCustom(custom json.RawMessage) (Set, error) {
	if custom == nil {
		return Set{}, nil
	}
	m, err := members(custom)
	if err != nil {
		return Set{}, malformed("custom", err)
	}
	campaign := ""
	if raw, ok := m["campaign"]; ok {
		if campaign, err = text(raw, maxCampaign); err != nil {
			return Set{}, malformed("campaign", err)
		}
	}
	raw, ok := m["conditions"]
	if !ok {
		return Set{Campaign: campaign}, nil
	}
	s, err := Parse(raw)
	if err != nil {
		return Set{}, err
	}
	s.Campaign = campaign
	if s.Consent && campaign == "" {
		return Set{}, malformed("conditions: consent", errors.New("the campaign has no id that a consent could name"))
	}
	return s, nil
}

// Parse reads the object of conditions itself: known members only, each of its type and within its bounds.
func Parse(data json.RawMessage) (Set, error) {
	m, err := members(data)
	if err != nil {
		return Set{}, malformed("conditions", err)
	}
	var s Set
	for _, name := range slices.Sorted(maps.Keys(m)) { // sorted, so that of two errors always the same is told
		raw := m[name]
		switch name {
		case "parked":
			s.Parked, err = boolean(raw)
		case "ignition":
			s.Ignition, err = ignition(raw)
		case "min_soc_percent":
			s.MinSoC, err = number(raw, 0, 100)
		case "min_battery_volts":
			s.MinVolts, err = number(raw, minVolts, maxVolts)
		case "min_ambient_celsius":
			s.MinAmbient, err = number(raw, minCelsius, maxCelsius)
		case "max_ambient_celsius":
			s.MaxAmbient, err = number(raw, minCelsius, maxCelsius)
		case "window":
			s.Window, err = parseWindow(raw)
		case "consent":
			s.Consent, err = boolean(raw)
		default:
			return Set{}, malformed("conditions", fmt.Errorf("%.40q is not a condition that this agent knows", name))
		}
		if err != nil {
			return Set{}, malformed("conditions: "+name, err)
		}
	}
	if s.MinAmbient != nil && s.MaxAmbient != nil && *s.MinAmbient > *s.MaxAmbient {
		return Set{}, malformed("conditions: min_ambient_celsius", errors.New("above max_ambient_celsius: no temperature meets both"))
	}
	return s, nil
}

func malformed(where string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrMalformed, where, err)
}

// members takes an object apart. encoding/json alone takes the last of two members of one name, and a struct's field by a
// name in other case: two readers of the same signed bytes could then differ.
func members(data json.RawMessage) (map[string]json.RawMessage, error) {
	if len(data) > maxCustom {
		return nil, fmt.Errorf("%d bytes, at most %d", len(data), maxCustom)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	m := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, errors.New("a member without a name")
		}
		if _, twice := m[name]; twice {
			return nil, fmt.Errorf("%.40q stands twice", name)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, err
		}
		m[name] = raw
	}
	if _, err := d.Token(); err != nil { // its closing brace
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows after the object")
	}
	return m, nil
}

func boolean(raw json.RawMessage) (bool, error) {
	switch string(raw) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("want true or false, got %.40s", raw)
}

var fraction = regexp.MustCompile(`^"(-?[0-9]{1,3}\.[0-9]{1,3})"$`)

// number is a JSON number, or a string where it has a fraction: "12.2". What is signed is canonical JSON, which has no fractions
// (TUF 1.0 §4.2.1), and metadata that holds one cannot be verified.
func number(raw json.RawMessage, low, high float64) (*float64, error) {
	if m := fraction.FindSubmatch(raw); m != nil {
		raw = m[1]
	}
	var v *float64 // stays nil on null
	if err := json.Unmarshal(raw, &v); err != nil || v == nil || math.IsInf(*v, 0) {
		return nil, fmt.Errorf("want a number, got %.40s", raw)
	}
	if *v < low || *v > high {
		return nil, fmt.Errorf("must be between %g and %g, got %g", low, high, *v)
	}
	return v, nil
}

// text takes a string of at most limit bytes without control characters: it stands in logs and on the head unit's screen.
func text(raw json.RawMessage, limit int) (string, error) {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", fmt.Errorf("want a string, got %.40s", raw)
	}
	switch {
	case *s == "" || len(*s) > limit:
		return "", fmt.Errorf("want 1 to %d bytes, got %d", limit, len(*s))
	case strings.ContainsFunc(*s, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }):
		return "", fmt.Errorf("%.40q has control characters", *s)
	}
	return *s, nil
}

func ignition(raw json.RawMessage) (Ignition, error) {
	switch string(raw) {
	case `"off"`:
		return IgnitionOff, nil
	case `"on"`:
		return IgnitionOn, nil
	case `"any"`:
		return IgnitionAny, nil
	}
	return "", fmt.Errorf(`want "off", "on" or "any", got %.40s`, raw)
}
