package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/internal/power"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// powerSignal is the event-lane signal that tells of parking: what comes before a silence says whether it is one.
const powerSignal = "agent.power.state"

// How often ignition, battery and queue are looked at; a change of the ignition is heard at once.
const (
	powerEvery  = time.Second
	powerSparse = 5 * time.Second // while it is quiet
	flushWait   = 10 * time.Second
)

// suspended is how long the computer must have slept for connections to be taken for dead.
const suspended = 10 * time.Second

// sleepUnknown is agent.sleeps before the first reading. The gap itself may be 0: a computer that never slept.
const sleepUnknown = math.MinInt64

// sparse is how often work that nobody waits for is done while the vehicle is quiet.
const sparse = time.Minute

// parking carries what the readers hear of ignition and battery. Its methods may be called from any goroutine, for each frame.
type parking struct {
	on    atomic.Bool
	heard atomic.Bool // since the last look
	volts atomic.Uint64
	told  atomic.Bool // a voltage, since the last look
	wake  chan struct{}
}

func newParking() *parking { return &parking{wake: make(chan struct{}, 1)} }

func (p *parking) ignition(on bool) {
	p.heard.Store(true)
	if p.on.Swap(on) != on {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

func (p *parking) voltage(v float64) {
	p.volts.Store(math.Float64bits(v))
	p.told.Store(true)
}

// reading takes what was heard since the last one.
func (p *parking) reading() power.Reading {
	r := power.Reading{HasVolts: p.told.Swap(false), Volts: math.Float64frombits(p.volts.Load())}
	r.Heard, r.On = p.heard.Swap(false), p.on.Load()
	return r
}

// powerSignals are the agent's own, where parking is configured.
func (s *settings) powerSignals() []*telemetrypb.Signal {
	if s.Power == nil {
		return nil
	}
	signal := &telemetrypb.Signal{Name: powerSignal, Type: telemetrypb.ValueType_VALUE_TYPE_UINT, Source: "agent",
		Comment: "what the agent may do: in quiet there is no connection, and silence is no loss"}
	for state := power.On; state <= power.Awake; state++ {
		signal.Labels = append(signal.Labels, &telemetrypb.Label{Value: int64(state), Text: state.String()})
	}
	return []*telemetrypb.Signal{signal}
}

// powerControl acts on the state of parking. Run owns the machine.
type powerControl struct {
	*agent
	machine *power.Machine
	state   atomic.Uint32 // a copy of the machine's, for others
	low     atomic.Bool
	changes atomic.Uint64
	steady  bool
	shared  []*diagnosis // that take their ignition from here
}

func (a *agent) openPower() error {
	s := a.settings.Power
	if s == nil || a.logClock != nil { // a recording's vehicle is not parked today
		return nil
	}
	c := &powerControl{agent: a, machine: power.New(s.Options, a.clock.Boot()), steady: s.GPIO != nil || s.File != ""}
	c.state.Store(uint32(power.On))
	for _, features := range a.vehicle.features {
		for _, f := range features {
			if d, ok := f.(*diagnosis); ok && d.settings.Ignition == "" {
				c.shared = append(c.shared, d)
			}
		}
	}
	for _, m := range []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "waybill_power_state", Help: "1 on, 2 draining, 3 quiet, 4 awake for a while."},
			func() float64 { return float64(c.state.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "waybill_power_low", Help: "1 while the battery is below the floor."}, func() float64 {
			if c.low.Load() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "waybill_power_changes_total", Help: "Changes of the power state."},
			func() float64 { return float64(c.changes.Load()) }),
	} {
		if err := a.metrics.Register(m); err != nil {
			return fmt.Errorf("power metrics: %w", err)
		}
	}
	a.power = c
	return nil
}

// quiet says whether the vehicle is parked and has no connection.
func (a *agent) quiet() bool {
	return a.power != nil && power.State(a.power.state.Load()) == power.Quiet
}

// powerState is the word for the status; empty: parking is not configured.
func (a *agent) powerState() string {
	if a.power == nil {
		return ""
	}
	return power.State(a.power.state.Load()).String()
}

// run looks, decides and acts until ctx ends.
func (c *powerControl) run(ctx context.Context) error {
	in := c.vehicle.parking
	for {
		every := powerEvery
		if c.quiet() {
			every = powerSparse
		}
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-in.wake:
			timer.Stop()
		}
		c.step(ctx, in)
	}
}

func (c *powerControl) step(ctx context.Context, in *parking) {
	r := in.reading()
	r.Steady = c.steady
	if c.settings.Power.File != "" {
		r.On = c.readFile(r.On)
	}
	r.Empty = true
	if c.uplink != nil {
		r.Sent = c.uplink.State().BytesSent
		for _, lane := range c.queue.Stats().Lanes {
			r.Empty = r.Empty && lane.Batches == 0
		}
	}
	now := c.clock.Boot()
	changed := c.machine.Step(now, r)
	state := c.machine.State()
	for _, d := range c.shared {
		if d.poller != nil {
			d.poller.Ignition(state == power.On)
		}
	}
	if low := c.machine.Low(); c.low.Swap(low) != low {
		if volts, known := c.machine.Volts(now); low && known {
			c.alarms.Raise("power.low", fmt.Sprintf("the supply has %.2f V, below the floor of %g V: while the ignition is off nothing but recording goes on; charge the battery, or look for what drains it", volts, c.settings.Power.Options.Floor))
		} else if low {
			c.alarms.Raise("power.low", "the supply's voltage is not heard, which is configured to count as low")
		} else {
			c.alarms.Clear("power.low")
		}
	}
	if changed {
		c.enter(ctx, now, state)
	}
}

// enter acts on a new state. What is told of it goes to disk before the connection goes.
func (c *powerControl) enter(ctx context.Context, now int64, s power.State) {
	c.state.Store(uint32(s))
	c.changes.Add(1)
	c.log.Info("power", "state", s.String(), "low", c.low.Load(), "left", c.depth())
	c.pipe.Raise(powerSignal, telemetrypb.UintSample(0, now, uint64(s)))
	if s == power.Draining || s == power.Quiet {
		bound, cancel := context.WithTimeout(ctx, flushWait)
		if err := c.pipe.Commit(bound, true); err != nil && ctx.Err() == nil {
			c.log.Warn("what was recorded before parking is not on disk yet", "error", err)
		}
		cancel()
	}
	if c.uplink == nil {
		return
	}
	if s == power.Quiet {
		c.uplink.Rest("parked")
		c.keepReleases(c.queue.Sync)
	} else {
		c.uplink.Wake()
	}
}

// readFile is the ignition by a file that others write. One that cannot be read leaves it on: an alarm is better than data that
// stays in the vehicle.
func (c *powerControl) readFile(before bool) bool {
	on, err := ignitionFile(c.settings.Power.File)
	if err != nil {
		c.alarms.Raise("power.ignition", fmt.Sprintf("power.ignition.file: %v; until it is there the ignition counts as on", err))
		on = true
	} else {
		c.alarms.Clear("power.ignition")
	}
	c.vehicle.parking.on.Store(on)
	return on
}

func ignitionFile(name string) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	text := make([]byte, 16)
	n, err := f.Read(text)
	word := strings.TrimSpace(string(text[:max(n, 0)]))
	switch {
	case word == "1":
		return true, nil
	case word == "0":
		return false, nil
	case err != nil && n <= 0:
		return false, fmt.Errorf("%s: %w", name, err)
	}
	return false, fmt.Errorf("%s: want 0 or 1 in it, got %q", name, word)
}

// watchLine follows a GPIO. A line that cannot be had leaves the ignition on, with an alarm, and is tried again.
func (c *powerControl) watchLine(ctx context.Context) error {
	for ctx.Err() == nil {
		line, err := power.OpenLine(*c.settings.Power.GPIO)
		if err == nil {
			c.alarms.Clear("power.ignition")
			err = line.Watch(ctx, c.vehicle.parking.ignition)
			err = errors.Join(err, line.Close())
		}
		if ctx.Err() != nil {
			return nil
		}
		c.alarms.Raise("power.ignition", fmt.Sprintf("power.ignition.gpio: %v; until it can be read the ignition counts as on", err))
		c.vehicle.parking.ignition(true)
		timer := time.NewTimer(10 * time.Second)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
	return nil
}

// tasks are the power's own.
func (c *powerControl) tasks() []reader {
	list := []reader{{"power", c.run}}
	if c.settings.Power.GPIO != nil {
		c.vehicle.parking.on.Store(true) // until the line says otherwise
		list = append(list, reader{"ignition", c.watchLine})
	}
	return list
}

// slept notices a suspend between two readings of the clocks: the broker has long closed the connection, and TCP would find out in a
// minute of its own time.
func (a *agent) slept(boot, mono int64) (long bool) {
	gap := boot - mono
	before := a.sleeps.Swap(gap)
	return before != sleepUnknown && gap-before >= int64(suspended)
}

// renew begins anew what a suspend has cut.
func (a *agent) renew() {
	a.log.Info("the computer was suspended: connections are made anew")
	if a.uplink != nil {
		a.uplink.Renew()
	}
}
