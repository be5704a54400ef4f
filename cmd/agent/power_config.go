package main

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/power"
)

// powerConfig says how the vehicle tells that it is parked, and what happens then. Without it the agent is always on.
type powerConfig struct {
	Ignition powerIgnitionConfig `yaml:"ignition"`
	Drain    powerDrainConfig    `yaml:"drain"`
	Wake     powerWakeConfig     `yaml:"wake"`
	Floor    *powerFloorConfig   `yaml:"floor"`
}

type powerIgnitionConfig struct {
	Signal     string      `yaml:"signal"`
	Above      *float64    `yaml:"above"`
	Message    string      `yaml:"message"`
	GPIO       *gpioConfig `yaml:"gpio"`
	File       string      `yaml:"file"`
	OffAfter   string      `yaml:"off_after"`
	StaleAfter string      `yaml:"stale_after"`
}

type gpioConfig struct {
	Chip      string `yaml:"chip"`
	Line      uint32 `yaml:"line"`
	ActiveLow bool   `yaml:"active_low"`
	Debounce  string `yaml:"debounce"`
}

type powerDrainConfig struct {
	Time  string `yaml:"time"`
	Bytes string `yaml:"bytes"`
}

type powerWakeConfig struct {
	Every string `yaml:"every"`
	For   string `yaml:"for"`
}

type powerFloorConfig struct {
	Signal     string   `yaml:"signal"`
	Volts      *float64 `yaml:"volts"`
	Hysteresis *float64 `yaml:"hysteresis"`
	Hold       string   `yaml:"hold"`
	Unknown    string   `yaml:"unknown" enum:"allow refuse"`
}

// powerSettings are checked. Exactly one of Signal, Message, GPIO and File is set.
type powerSettings struct {
	Signal  string
	Above   float64
	Message string
	GPIO    *power.LineOptions
	File    string
	Voltage string // full name of a signal; "": the battery is not watched
	Options power.Options
}

func (c *checker) power(s *settings) {
	raw := c.d.config.Power
	if raw == nil {
		return
	}
	at := func(key ...any) []any { return append([]any{"power"}, key...) }
	i := &raw.Ignition
	p := &powerSettings{Signal: i.Signal, Above: 0.5, Message: i.Message, File: c.path(i.File)}
	s.Power = p
	sources := 0
	for _, given := range []bool{i.Signal != "", i.Message != "", i.GPIO != nil, i.File != ""} {
		if given {
			sources++
		}
	}
	if sources != 1 {
		c.fail("want one source: signal:, message:, gpio: or file:", at("ignition")...)
	}
	if i.Above != nil {
		p.Above = *i.Above
		if i.Signal == "" {
			c.fail("is for signal: only", at("ignition", "above")...)
		}
	}
	if g := i.GPIO; g != nil {
		p.GPIO = &power.LineOptions{Chip: orDefault(g.Chip, "/dev/gpiochip0"), Line: g.Line, ActiveLow: g.ActiveLow,
			Debounce: c.duration(g.Debounce, 0, 0, time.Second, at("ignition", "gpio", "debounce")...)}
		if !filepath.IsAbs(p.GPIO.Chip) {
			c.fail(fmt.Sprintf("want a device such as /dev/gpiochip0, got %q", g.Chip), at("ignition", "gpio", "chip")...)
		}
	}
	o := &p.Options
	*o = power.Options{
		OffAfter:   c.duration(i.OffAfter, 5*time.Second, 0, 10*time.Minute, at("ignition", "off_after")...),
		StaleAfter: c.duration(i.StaleAfter, time.Minute, time.Second, time.Hour, at("ignition", "stale_after")...),
		DrainTime:  c.duration(raw.Drain.Time, 2*time.Minute, 0, 24*time.Hour, at("drain", "time")...),
		DrainBytes: uint64(c.size(raw.Drain.Bytes, 16<<20, 1<<10, 1<<40, at("drain", "bytes")...)),
		WakeEvery:  c.duration(raw.Wake.Every, 0, 0, 30*24*time.Hour, at("wake", "every")...),
		WakeFor:    c.duration(raw.Wake.For, 5*time.Minute, 10*time.Second, time.Hour, at("wake", "for")...),
	}
	if o.WakeEvery != 0 && o.WakeEvery < 10*time.Minute {
		c.fail(fmt.Sprintf("must be 0 (never), or between 10m and 720h, got %v", o.WakeEvery), at("wake", "every")...)
	}
	if f := raw.Floor; f != nil {
		p.Voltage = f.Signal
		if f.Signal == "" {
			c.fail("want the full name of the signal that tells the supply's voltage, such as can0.Body.SupplyVoltage", at("floor", "signal")...)
		}
		o.Floor, o.Hysteresis = c.number(f.Volts, 11.8, 6, 60, at("floor", "volts")...), c.number(f.Hysteresis, 0.3, 0, 5, at("floor", "hysteresis")...)
		o.Hold = c.duration(f.Hold, 10*time.Second, 0, 10*time.Minute, at("floor", "hold")...)
		o.UnknownIsLow = c.oneOf(f.Unknown, []string{"allow", "refuse"}, at("floor", "unknown")...) == "refuse"
	}
}

// number checks a number, nil is the default.
func (c *checker) number(given *float64, usual, low, high float64, path ...any) float64 {
	if given == nil {
		return usual
	}
	if !(*given >= low && *given <= high) || math.IsNaN(*given) {
		c.fail(fmt.Sprintf("must be between %g and %g, got %g", low, high, *given), path...)
	}
	return *given
}

// watchParking lets the buses tell of ignition and voltage. names are the full names of subs, by bus.
func (v *vehicle) watchParking(s *settings, subs [][]can.Subscription, names [][]string) error {
	p := s.Power
	if p == nil {
		return nil
	}
	v.parking = newParking()
	var all []string
	for _, list := range names {
		all = append(all, list...)
	}
	find := func(name string, path ...any) error {
		for _, known := range all {
			if known == name {
				return nil
			}
		}
		text := fmt.Sprintf("no DBC file has a signal %s", name)
		if near := nearest(name, all); near != "" {
			text += fmt.Sprintf("; did you mean %q?", near)
		}
		return &keyError{append([]any{"power"}, path...), text}
	}
	if p.Message != "" {
		signal := ""
		for i, list := range names {
			for j, name := range list {
				if strings.HasPrefix(name, p.Message+".") && subs[i][j].Signal.Multiplexor == nil && signal == "" {
					signal = name
				}
			}
		}
		if signal == "" {
			return &keyError{[]any{"power", "ignition", "message"}, fmt.Sprintf("no DBC file has a message %s with a signal that is always in it; want BUS.MESSAGE", p.Message)}
		}
		v.watchSignal(s, subs, names, signal, func(float64, int64) { v.parking.ignition(true) })
	}
	if p.Signal != "" {
		if err := find(p.Signal, "ignition", "signal"); err != nil {
			return err
		}
		v.watchSignal(s, subs, names, p.Signal, func(value float64, _ int64) { v.parking.ignition(value > p.Above) })
	}
	if p.Voltage != "" {
		if err := find(p.Voltage, "floor", "signal"); err != nil {
			return err
		}
		v.watchSignal(s, subs, names, p.Voltage, func(volts float64, _ int64) { v.parking.voltage(volts) })
	}
	return nil
}
