package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/can/diagnose"
	"github.com/waybill-telematics/waybill/can/poll"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// diagnoseConfig is what of a bus may be asked for; without it the agent sends nothing on the bus.
type diagnoseConfig struct {
	Ignition        ignitionConfig `yaml:"ignition"`
	Voltage         voltageConfig  `yaml:"voltage"`
	Bitrate         uint32         `yaml:"bitrate"`
	FramesPerSecond *float64       `yaml:"frames_per_second"`
	Burst           *int           `yaml:"burst"`
	BusLoad         string         `yaml:"bus_load"`
	BackOff         string         `yaml:"back_off"`
	AnswerWithin    string         `yaml:"answer_within"`
	OBD             *obdConfig     `yaml:"obd"`
	UDS             []unitConfig   `yaml:"uds"`
}

type ignitionConfig struct {
	Signal string   `yaml:"signal"`
	Above  *float64 `yaml:"above"`
}

type voltageConfig struct {
	Signal string   `yaml:"signal"`
	Min    *float64 `yaml:"min"`
}

type obdConfig struct {
	Addressing  string       `yaml:"addressing"`
	PIDs        []pidsConfig `yaml:"pids"`
	Codes       string       `yaml:"codes"`
	FreezeFrame bool         `yaml:"freeze_frame"`
	VIN         bool         `yaml:"vin"`
}

type pidsConfig struct {
	Every string   `yaml:"every"`
	List  []string `yaml:"list"`
}

type unitConfig struct {
	Name        string             `yaml:"name"`
	Request     *uint32            `yaml:"request"`
	Response    *uint32            `yaml:"response"`
	Identifiers []identifierConfig `yaml:"identifiers"`
	DTCs        *dtcsConfig        `yaml:"dtcs"`
	VIN         bool               `yaml:"vin"`
}

type identifierConfig struct {
	ID     *uint32       `yaml:"id"`
	Every  string        `yaml:"every"`
	Values []valueConfig `yaml:"values"`
}

type valueConfig struct {
	Name   string   `yaml:"name"`
	Type   string   `yaml:"type" enum:"uint int float ascii hex"`
	Start  int      `yaml:"start"`
	Bits   *int     `yaml:"bits"`
	Scale  *float64 `yaml:"scale"`
	Offset float64  `yaml:"offset"`
	Unit   string   `yaml:"unit"`
}

type dtcsConfig struct {
	StatusMask *uint32 `yaml:"status_mask"`
	Every      string  `yaml:"every"`
	Snapshots  bool    `yaml:"snapshots"`
}

// diagnoseSettings are those of one bus, checked.
type diagnoseSettings struct {
	Options  diagnose.Options // but for what attach fills in
	Ignition string           // full name of a signal
	Above    float64          // in its unit
	Voltage  string           // full name of a signal; "": the vehicle tells none
	Offered  []offeredSignal
}

// offeredSignal is a signal that may be collected, and where its id goes.
type offeredSignal struct {
	signal *telemetrypb.Signal
	id     *uint32
}

// assumedBitrate is what a bus is taken for that was brought up by others, bit/s: a slow one, so that the share of it
// that is ours is rather too small.
const assumedBitrate = 125_000

// diagnoseChecker checks the section of one bus.
type diagnoseChecker struct {
	*checker
	bus  string
	at   []any // where the section stands
	into *diagnoseSettings
	used map[string]bool // signal names
}

func (c *diagnoseChecker) bad(text string, path ...any) {
	c.fail(text, append(append([]any{}, c.at...), path...)...)
}

// diagnosis checks the section of bus number i; nil when there is none.
func (c *checker) diagnosis(raw *canConfig, bus canSettings, i int) *diagnoseSettings {
	r := raw.Diagnose
	if r == nil {
		return nil
	}
	d := &diagnoseChecker{checker: c, bus: bus.Bus, at: []any{"can", i, "diagnose"}, into: &diagnoseSettings{}, used: map[string]bool{}}
	switch {
	case raw.Interface == "":
		d.bad("a recording cannot be asked; this is for interface: only")
	case raw.Bitrate != 0 && bus.ListenOnly:
		d.bad("nothing can be sent on an interface that only listens; set listen_only: false beside bitrate:")
	}
	if r.OBD == nil && len(r.UDS) == 0 {
		d.bad("asks nothing; name what to ask for under obd: or uds:, or leave it out")
	}
	d.power(r)
	d.governor(r, bus.Bitrate)
	if r.OBD != nil {
		d.obd(r.OBD)
	}
	for j := range r.UDS {
		d.unit(&r.UDS[j], j)
	}
	if r.OBD != nil || len(r.UDS) > 0 {
		if g := d.into.Options.Governor; g.BitRate != 0 {
			if _, err := poll.New(g); err != nil {
				d.bad(err.Error())
			}
		}
	}
	return d.into
}

func (c *diagnoseChecker) power(r *diagnoseConfig) {
	s := c.into
	if s.Ignition, s.Above = r.Ignition.Signal, 0.5; s.Ignition == "" && c.d.config.Power == nil {
		c.bad("want the full name of the signal that tells of the ignition, such as can0.Body.Ignition; nothing is asked while it is off; with power: it may be left out", "ignition", "signal")
	}
	if r.Ignition.Above != nil {
		s.Above = *r.Ignition.Above
	}
	g := &s.Options.Governor
	switch s.Voltage = r.Voltage.Signal; s.Voltage {
	case "":
		c.bad("want the full name of the signal that tells the supply's voltage, such as can0.Body.SupplyVoltage, or none if the vehicle has no such signal", "voltage", "signal")
	case "none":
		s.Voltage, g.NoVoltage = "", true
		if r.Voltage.Min != nil {
			c.bad("needs a signal; with none there is nothing to compare", "voltage", "min")
		}
	}
	if r.Voltage.Min != nil {
		if g.MinVoltage = *r.Voltage.Min; !(g.MinVoltage >= 6 && g.MinVoltage <= 60) {
			c.bad(fmt.Sprintf("must be between 6 and 60 V, got %g", g.MinVoltage), "voltage", "min")
			g.MinVoltage = 0
		}
	}
}

func (c *diagnoseChecker) governor(r *diagnoseConfig, bitrate uint32) {
	g := &c.into.Options.Governor
	g.BitRate, g.FrameRate, g.Burst, g.Share = int(bitrate), 20, 10, 0.02
	switch {
	case bitrate != 0 && r.Bitrate != 0 && bitrate != r.Bitrate:
		c.bad(fmt.Sprintf("the bus is brought up with %d bit/s; leave this out", bitrate), "bitrate")
	case r.Bitrate != 0 && (r.Bitrate < 10_000 || r.Bitrate > 1_000_000):
		c.bad(fmt.Sprintf("must be between 10000 and 1000000 bit/s, got %d", r.Bitrate), "bitrate")
	case bitrate == 0 && r.Bitrate != 0:
		g.BitRate = int(r.Bitrate)
	case bitrate == 0:
		g.BitRate = assumedBitrate
	case bitrate < 10_000:
		c.bad("a bus of less than 10000 bit/s is too slow to ask on")
		g.BitRate = assumedBitrate
	}
	if r.FramesPerSecond != nil {
		// Flow control has a second until the unit gives its answer up.
		if g.FrameRate = *r.FramesPerSecond; !(g.FrameRate >= 2 && g.FrameRate <= 200) {
			c.bad(fmt.Sprintf("must be between 2 and 200 frames a second, got %g", g.FrameRate), "frames_per_second")
			g.FrameRate = 20
		}
	}
	if r.Burst != nil {
		if g.Burst = *r.Burst; g.Burst < 2 || g.Burst > 100 {
			c.bad(fmt.Sprintf("must be between 2 and 100 frames, got %d", g.Burst), "burst")
			g.Burst = 10
		}
	}
	if r.BusLoad != "" {
		number, percent := strings.CutSuffix(r.BusLoad, "%")
		share, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !percent || !(share >= 0.1 && share <= 20) {
			c.bad(fmt.Sprintf("want a share of the bus between 0.1%% and 20%%, got %q", r.BusLoad), "bus_load")
		} else {
			g.Share = share / 100
		}
	}
	// Flow control again: two of the longest frames a second.
	if least := 350 / float64(g.BitRate); g.Share < least {
		c.bad(fmt.Sprintf("%g%% of %d bit/s is less than two frames a second; want at least %.2g%%", 100*g.Share, g.BitRate, 100*least), "bus_load")
		g.Share = 0.02
	}
	g.BackOff = c.duration(r.BackOff, 10*time.Second, time.Second, time.Hour, append(c.at, "back_off")...)
	g.ReportFor = time.Minute
	c.into.Options.AnswerWithin = c.duration(r.AnswerWithin, 0, 50*time.Millisecond, 5*time.Second, append(c.at, "answer_within")...)
}

// offer makes a signal of the bus.
func (c *diagnoseChecker) offer(s *telemetrypb.Signal, id *uint32, path ...any) {
	s.Name, s.Message, s.Source = c.bus+"."+s.Name, c.bus+"."+s.Message, "can:"+c.bus
	if c.used[s.Name] {
		c.bad(fmt.Sprintf("%s is there twice", s.Name), path...)
	}
	c.used[s.Name] = true
	c.into.Offered = append(c.into.Offered, offeredSignal{s, id})
}

// every reads an interval.
func (c *diagnoseChecker) every(text string, fallback time.Duration, path ...any) time.Duration {
	return c.duration(text, fallback, 100*time.Millisecond, 24*time.Hour, append(append([]any{}, c.at...), path...)...)
}
