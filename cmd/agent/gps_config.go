package main

import (
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/waybill-telematics/waybill/gps"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

type gpsConfig struct {
	Name     string       `yaml:"name"`
	Serial   string       `yaml:"serial"`
	Baud     string       `yaml:"baud"`
	TCP      string       `yaml:"tcp"`
	GPSD     *gpsdConfig  `yaml:"gpsd"`
	Replay   string       `yaml:"replay"`
	Speed    *float64     `yaml:"speed"`
	Time     string       `yaml:"time" enum:"log receipt"`
	Motion   motionConfig `yaml:"motion"`
	Position string       `yaml:"position" enum:"full grid off on_event"`
	Grid     *float64     `yaml:"grid"`
	When     string       `yaml:"when"`
	Hold     string       `yaml:"hold"`

	SetsClock  *bool  `yaml:"sets_clock"`
	TimeOffset string `yaml:"time_offset"`
}

type gpsdConfig struct {
	Address string `yaml:"address"`
	Device  string `yaml:"device"`
}

type motionConfig struct {
	EveryFix       bool     `yaml:"every_fix"`
	Distance       *float64 `yaml:"distance"`
	Turn           *float64 `yaml:"turn"`
	SpeedChange    *float64 `yaml:"speed_change"`
	MaxInterval    string   `yaml:"max_interval"`
	ParkedBelow    *float64 `yaml:"parked_below"`
	ParkedAfter    string   `yaml:"parked_after"`
	ParkedInterval string   `yaml:"parked_interval"`
}

// gpsSettings is one receiver: exactly one of Serial, TCP, GPSD and Replay.
type gpsSettings struct {
	Name    string
	Serial  string
	Baud    int    // bit/s, or gps.AutoBaud
	TCP     string // host:port
	GPSD    *gpsdConfig
	Replay  *replaySettings
	Motion  gps.MotionOptions
	Clock   clockSettings
	Privacy gps.Privacy
	When    string        // a rule without whose event nothing of the position leaves; "": none
	Hold    time.Duration // for so long after the event it does
}

// usualBauds are the rates that a serial line is opened with, bit/s.
var usualBauds = []int{4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600}

// receivers checks the gps section. names are the buses', and then the receivers' too; live says that one is live.
func (c *checker) receivers(s *settings, names map[string]bool) (live bool) {
	for i, r := range c.d.config.GPS {
		at := func(key ...any) []any { return append([]any{"gps", i}, key...) }
		o := gpsSettings{Name: orDefault(r.Name, "gps"+strconv.Itoa(i)), Serial: c.path(r.Serial), TCP: r.TCP, GPSD: r.GPSD}
		if err := telemetrypb.CheckName("receiver name", o.Name); err != nil {
			c.fail(err.Error(), at("name")...)
		} else if names[o.Name] {
			c.fail(fmt.Sprintf("%q is named twice", o.Name), at("name")...)
		}
		names[o.Name] = true
		sources := 0
		for _, named := range []bool{r.Serial != "", r.TCP != "", r.GPSD != nil, r.Replay != ""} {
			if named {
				sources++
			}
		}
		if sources != 1 {
			c.fail("want one of serial: (a device such as /dev/serial/by-id/…), tcp: (host:port), gpsd: and replay: (an NMEA log)", at("serial")...)
		}
		o.Baud = c.baud(r.Baud, at("baud")...)
		if r.Baud != "" && r.Serial == "" {
			c.fail("is for serial: only", at("baud")...)
		}
		if r.TCP != "" {
			c.address(r.TCP, at("tcp")...)
		}
		if r.GPSD != nil {
			o.GPSD = &gpsdConfig{Address: orDefault(r.GPSD.Address, gps.DefaultGPSD), Device: r.GPSD.Device}
			c.address(o.GPSD.Address, at("gpsd", "address")...)
		}
		o.Replay = c.replay(r.Replay, r.Speed, r.Time, "gps", i)
		live = live || o.Replay == nil || o.Replay.Time == "receipt"
		o.Clock = c.receiverClock(&r, at)
		o.Motion = c.motion(&r.Motion, at)
		c.position(&r, &o, at)
		s.GPS = append(s.GPS, o)
	}
	return live
}

func (c *checker) baud(text string, path ...any) int {
	switch text {
	case "":
		return gps.DefaultBaud
	case "auto":
		return gps.AutoBaud
	}
	n, err := strconv.Atoi(text)
	if err != nil || !slices.Contains(usualBauds, n) {
		c.fail(fmt.Sprintf("want auto, or a usual rate such as 4800, 9600, 38400 or 115200 bit/s, got %s", text), path...)
	}
	return n
}

// address checks a host and port to dial.
func (c *checker) address(text string, path ...any) {
	host, port, err := net.SplitHostPort(text)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || n == 0 || host == "" {
		c.fail(fmt.Sprintf("want host:port, such as 192.168.1.1:10110, got %q", text), path...)
	}
}

func (c *checker) motion(raw *motionConfig, at func(...any) []any) gps.MotionOptions {
	number := func(v *float64, key, unit string, usual, low, high float64) float64 {
		if v == nil {
			return usual
		}
		if !(*v >= low && *v <= high) {
			c.fail(fmt.Sprintf("must be between %g and %g %s, got %g", low, high, unit, *v), at("motion", key)...)
		}
		return *v
	}
	o := gps.MotionOptions{
		Every:          raw.EveryFix,
		Distance:       number(raw.Distance, "distance", "m", 50, 1, 10_000),
		Turn:           number(raw.Turn, "turn", "degrees", 10, 1, 180),
		SpeedChange:    number(raw.SpeedChange, "speed_change", "m/s", 2, 0.1, 100),
		MaxInterval:    c.duration(raw.MaxInterval, 5*time.Second, 100*time.Millisecond, time.Hour, at("motion", "max_interval")...),
		ParkedBelow:    number(raw.ParkedBelow, "parked_below", "m/s (0: never parked)", 0.7, 0, 5),
		ParkedAfter:    c.duration(raw.ParkedAfter, 10*time.Second, time.Second, time.Hour, at("motion", "parked_after")...),
		ParkedInterval: c.duration(raw.ParkedInterval, time.Minute, time.Second, 24*time.Hour, at("motion", "parked_interval")...),
	}
	if o.ParkedBelow == 0 {
		o.ParkedBelow = -1
	}
	return o
}

// position checks how much of a position may leave.
func (c *checker) position(r *gpsConfig, o *gpsSettings, at func(...any) []any) {
	mode := c.oneOf(r.Position, []string{"full", "grid", "off", "on_event"}, at("position")...)
	switch {
	case r.Grid != nil && (mode == "full" || mode == "off"):
		c.fail("is for position: grid or on_event", at("grid")...)
	case r.Grid == nil && mode == "grid":
		c.fail("position: grid needs grid:, the size of a cell in m, such as 1000", at("position")...)
	case r.Grid != nil && !(*r.Grid >= 10 && *r.Grid <= 100_000) || r.Grid != nil && math.IsNaN(*r.Grid):
		c.fail(fmt.Sprintf("must be between 10 and 100000 m, got %g", *r.Grid), at("grid")...)
	case r.Grid != nil:
		o.Privacy.Grid = *r.Grid
	}
	o.Privacy.Off = mode == "off"
	o.Hold = c.duration(r.Hold, time.Minute, time.Second, 24*time.Hour, at("hold")...)
	if mode != "on_event" {
		if r.When != "" {
			c.fail("is for position: on_event", at("when")...)
		}
		if r.Hold != "" {
			c.fail("is for position: on_event", at("hold")...)
		}
		return
	}
	o.When = r.When
	known := slices.ContainsFunc(c.d.config.Collect.Rules, func(rule ruleConfig) bool { return rule.Name == r.When })
	if r.When == "" || !known {
		names := make([]string, len(c.d.config.Collect.Rules))
		for i, rule := range c.d.config.Collect.Rules {
			names[i] = rule.Name
		}
		text := fmt.Sprintf("want the name of a rule under collect.rules, got %q", r.When)
		if near := nearest(r.When, names); near != "" {
			text += fmt.Sprintf("; did you mean %q?", near)
		}
		c.fail(text, at("when")...)
	}
}
