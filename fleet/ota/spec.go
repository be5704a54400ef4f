package ota

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// Spec is a campaign as a person writes it, in YAML (docs/OTA.md).
type Spec struct {
	ID          string      `yaml:"id"`
	Images      []Directed  `yaml:"images"`
	Conditions  *Conditions `yaml:"conditions"`
	BudgetBytes int64       `yaml:"budget_bytes"` // that one vehicle may receive for it; 0: no limit
	WifiOnly    bool        `yaml:"wifi_only"`
	RetryOf     string      `yaml:"retry_of"` // an earlier campaign: vehicles that it failed on try the same image again
	Stages      []Stage     `yaml:"stages"`
	Stop        Stop        `yaml:"stop"`
}

// Directed is an image for a unit.
type Directed struct {
	Name     string `yaml:"name"`     // in the image repository
	ECU      string `yaml:"ecu"`      // the unit; agent
	Hardware string `yaml:"hardware"` // of the unit
}

// Stage is how far a campaign goes, and what has to be seen before it goes further.
type Stage struct {
	Percent   int           `yaml:"percent"`   // of the cohorts
	Hold      time.Duration `yaml:"hold"`      // at least so long
	Committed int           `yaml:"committed"` // and at least so many vehicles have installed and kept the image; 1 or more before 100 percent
}

// Stop is when a campaign stops by itself.
type Stop struct {
	FailedPercent float64 `yaml:"failed_percent"` // more than so many of those that came to an end failed or went back
	MinResults    int     `yaml:"min_results"`    // but not before so many came to an end
	RolledBack    int     `yaml:"rolled_back"`    // or so many went back to what they had; 0: does not count
}

// Conditions are what a vehicle has to be like when it installs; a vehicle refuses one that it does not know.
type Conditions struct {
	Parked     bool     `yaml:"parked" json:"parked,omitempty"`
	Ignition   string   `yaml:"ignition" json:"ignition,omitempty"` // off, on, any
	MinSoC     *decimal `yaml:"min_soc_percent" json:"min_soc_percent,omitempty"`
	MinVolts   *decimal `yaml:"min_battery_volts" json:"min_battery_volts,omitempty"`
	MinAmbient *decimal `yaml:"min_ambient_celsius" json:"min_ambient_celsius,omitempty"`
	MaxAmbient *decimal `yaml:"max_ambient_celsius" json:"max_ambient_celsius,omitempty"`
	Window     *Window  `yaml:"window" json:"window,omitempty"`
	Consent    bool     `yaml:"consent" json:"consent,omitempty"`
}

// Window is a part of each day; it may go over midnight.
type Window struct {
	From string `yaml:"from" json:"from"` // 02:00
	To   string `yaml:"to" json:"to"`
	Zone string `yaml:"zone" json:"zone"` // UTC, +05:30, vehicle, or a name of the IANA's database
}

// decimal is signed as a JSON number when it is whole and as a string otherwise: canonical JSON, over which signatures are,
// has no other numbers, and go-tuf refuses metadata that holds one.
type decimal float64

func (d decimal) MarshalJSON() ([]byte, error) {
	if float64(d) == math.Trunc(float64(d)) {
		return strconv.AppendInt(nil, int64(d), 10), nil
	}
	return json.Marshal(strconv.FormatFloat(float64(d), 'f', -1, 64))
}

// What a campaign's file may have at most.
const (
	maxSpec   = 64 << 10
	maxImages = 100
	maxStages = 100
)

// ParseSpec reads a campaign. Members that are not known are refused.
func ParseSpec(data []byte) (*Spec, error) {
	if len(data) > maxSpec {
		return nil, fmt.Errorf("campaign: %d bytes, at most %d", len(data), maxSpec)
	}
	var s Spec
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&s); errors.Is(err, io.EOF) {
		return nil, errors.New("campaign: the file is empty")
	} else if err != nil {
		return nil, fmt.Errorf("campaign: %w", err)
	}
	var more any
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("campaign: more follows after the first document")
	}
	for i := range s.Images {
		if s.Images[i].ECU == "" {
			s.Images[i].ECU = "agent"
		}
	}
	if len(s.Stages) == 0 {
		s.Stages = []Stage{{1, 24 * time.Hour, 1}, {10, 24 * time.Hour, 10}, {100, 0, 0}}
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("campaign: %w", err)
	}
	return &s, nil
}

func (s *Spec) check() error {
	if err := checkWord("id", s.ID); err != nil {
		return err
	}
	if s.RetryOf != "" {
		if err := checkWord("retry_of", s.RetryOf); err != nil {
			return err
		}
		if s.RetryOf == s.ID {
			return errors.New("retry_of: it cannot be this campaign")
		}
	}
	if len(s.Images) == 0 || len(s.Images) > maxImages {
		return fmt.Errorf("images: want 1 to %d, got %d", maxImages, len(s.Images))
	}
	seen := map[[2]string]bool{}
	for i, image := range s.Images {
		where := fmt.Sprintf("images[%d]: ", i)
		if err := checkWord(where+"ecu", image.ECU); err != nil {
			return err
		}
		if _, err := roleOf(image.Hardware); err != nil {
			return fmt.Errorf("%s%w", where, err)
		}
		if image.Name == "" || len(image.Name) > 300 {
			return fmt.Errorf("%sname: want that of an image in the image repository, such as linux-arm64/waybill-agent-1.2.3", where)
		}
		if key := [2]string{image.ECU, image.Hardware}; seen[key] {
			return fmt.Errorf("%sunit %s with hardware %s has an image already", where, image.ECU, image.Hardware)
		} else {
			seen[key] = true
		}
	}
	if s.BudgetBytes < 0 || s.BudgetBytes > 1<<53 {
		return fmt.Errorf("budget_bytes: want 0 (no limit) or more, got %d", s.BudgetBytes)
	}
	if len(s.Stages) > maxStages {
		return fmt.Errorf("stages: at most %d, got %d", maxStages, len(s.Stages))
	}
	last := 0
	for i, stage := range s.Stages {
		switch {
		case stage.Percent <= last || stage.Percent > 100:
			return fmt.Errorf("stages[%d]: percent: must be above the stage before (%d) and at most 100, got %d", i, last, stage.Percent)
		case stage.Hold < 0 || stage.Hold > 365*24*time.Hour:
			return fmt.Errorf("stages[%d]: hold: must be between 0s and 8760h, got %v", i, stage.Hold)
		case stage.Committed < 0 || stage.Committed > 1<<30 || stage.Percent < 100 && stage.Committed == 0:
			return fmt.Errorf("stages[%d]: committed: must be 1 or more before 100 percent, got %d: a stage that no vehicle has passed says nothing", i, stage.Committed)
		}
		last = stage.Percent
	}
	if last != 100 {
		return fmt.Errorf("stages: the last one has to be 100 percent, got %d", last)
	}
	switch {
	case math.IsNaN(s.Stop.FailedPercent) || s.Stop.FailedPercent < 0 || s.Stop.FailedPercent > 100:
		return fmt.Errorf("stop: failed_percent: must be between 0 and 100, got %g", s.Stop.FailedPercent)
	case s.Stop.MinResults < 0 || s.Stop.MinResults > 1<<30, s.Stop.RolledBack < 0 || s.Stop.RolledBack > 1<<30:
		return errors.New("stop: min_results and rolled_back must be 0 or more")
	case s.Stop.MinResults == 0 && s.Stop.RolledBack == 0:
		return errors.New("stop: a campaign needs a rule that stops it: failed_percent with min_results, or rolled_back, or both")
	}
	if s.Conditions != nil {
		if err := s.Conditions.check(); err != nil {
			return fmt.Errorf("conditions: %w", err)
		}
	}
	return nil
}

var offset = regexp.MustCompile(`^[+-](0[0-9]|1[0-4]):[0-5][0-9]$`)

func (c *Conditions) check() error {
	switch c.Ignition {
	case "", "off", "on", "any":
	default:
		return fmt.Errorf("ignition: want off, on or any, got %.40q", c.Ignition)
	}
	for _, v := range []struct {
		name      string
		value     *decimal
		low, high decimal
	}{{"min_soc_percent", c.MinSoC, 0, 100}, {"min_battery_volts", c.MinVolts, 6, 60},
		{"min_ambient_celsius", c.MinAmbient, -60, 90}, {"max_ambient_celsius", c.MaxAmbient, -60, 90}} {
		if v.value != nil && !(*v.value >= v.low && *v.value <= v.high) {
			return fmt.Errorf("%s: must be between %g and %g, got %g", v.name, v.low, v.high, *v.value)
		}
	}
	if c.MinAmbient != nil && c.MaxAmbient != nil && *c.MinAmbient > *c.MaxAmbient {
		return errors.New("min_ambient_celsius: above max_ambient_celsius: no temperature meets both")
	}
	if w := c.Window; w != nil {
		from, err := time.Parse("15:04", w.From)
		to, err2 := time.Parse("15:04", w.To)
		if err != nil || err2 != nil || from.Equal(to) || len(w.From) != 5 || len(w.To) != 5 {
			return fmt.Errorf("window: want from and to as 02:00, and different, got %.20q and %.20q", w.From, w.To)
		}
		if w.Zone == "" {
			w.Zone = "UTC"
		}
		if _, err := time.LoadLocation(w.Zone); (err != nil || w.Zone == "Local") && w.Zone != "vehicle" && !offset.MatchString(w.Zone) {
			return fmt.Errorf("window: zone: want UTC, an offset such as +05:30, vehicle, or a name such as Europe/Berlin, got %.40q", w.Zone)
		}
	}
	return nil
}
