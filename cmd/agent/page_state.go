package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/internal/local"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// teller tells the local page how the agent is. It asks those who know, and keeps of them what a rate needs.
type teller struct {
	*agent
	started time.Time
	fixed   local.State // what does not change

	mu     sync.Mutex // guards what follows: one document at a time
	meters map[string]*meter
	oldest map[buffer.Lane]oldestBatch
	flash  flashReader
}

func newTeller(a *agent) *teller {
	t := &teller{agent: a, started: time.Now(), meters: map[string]*meter{}, oldest: map[buffer.Lane]oldestBatch{}}
	t.flash = newFlashReader("/proc/self/io", "/sys", a.settings.DataDir)
	id := firmware.Current()
	t.fixed.Format = local.Format
	t.fixed.Agent = local.Agent{
		Device: a.settings.Device, Tenant: a.settings.Tenant,
		Version: id.Version, Commit: id.Commit, Hardware: id.Hardware, Go: id.Go,
		BootID: clock.FormatBootID(a.boot.ID), Boots: a.boot.Count, Epoch: fmt.Sprintf("%016x", a.queue.Epoch()),
		Profile: a.settings.Profile, Slot: os.Getenv(slots.EnvSlot),
	}
	if !id.Built.IsZero() {
		t.fixed.Agent.Built = id.Built.Format(time.RFC3339)
	}
	t.fixed.Collect = t.collects()
	return t
}

// state is the document.
func (t *teller) state() local.State {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	s := t.fixed
	boot := t.clock.Boot()
	s.Now = local.Now{BootMS: boot / 1e6, UptimeS: float64(now.Sub(t.started).Milliseconds()) / 1e3, RSS: resident()}
	unix, doubt, source := t.times.Now(boot)
	if source != telemetrypb.TimeSource_TIME_SOURCE_NONE && doubt < telemetrypb.Unbounded {
		s.Now.UnixMS = unix / 1e6
	}
	s.Power = t.powerState()
	s.Clock = t.clockOf()
	s.Alarms = []local.Alarm{}
	for _, al := range t.alarms.Standing() {
		s.Alarms = append(s.Alarms, local.Alarm{Name: al.Name, Text: al.Text, SinceMS: al.Since / 1e6, Times: al.Times})
	}
	s.Buses = []local.Bus{}
	for _, bus := range t.buses {
		s.Buses = append(s.Buses, t.bus(now, bus))
	}
	s.Receivers, s.Tracks = []local.Receiver{}, []local.Track{}
	for _, g := range t.located {
		receiver, track := g.view.tell()
		receiver.Name, receiver.Source, track.Receiver = g.Name, g.sourceWord(), g.Name
		s.Receivers, s.Tracks = append(s.Receivers, receiver), append(s.Tracks, track)
	}
	s.Queue = t.queued(now)
	if t.uplink != nil {
		s.Uplink = t.uplinkOf(now)
	}
	s.Update = t.updateOf()
	s.Losses = []local.Loss{}
	for _, loss := range t.pipe.Ledger().Totals() {
		reason := strings.ToLower(strings.TrimPrefix(loss.Reason.String(), "LOSS_"))
		s.Losses = append(s.Losses, local.Loss{Reason: reason, Source: loss.Source, Unit: loss.Unit, Count: loss.Count})
	}
	sortLosses(s.Losses)
	return s
}

// bootMS is a moment of this process's clock as CLOCK_BOOTTIME in ms; 0: never.
func (t *teller) bootMS(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return t.clock.Boot()/1e6 - time.Since(at).Milliseconds()
}

func (t *teller) clockOf() local.Clock {
	source, seconds := t.clockState()
	refused, steps, suspends := t.times.Keeper().Counts()
	return local.Clock{
		Source:       strings.ToLower(strings.TrimPrefix(source.String(), "TIME_SOURCE_")),
		UncertaintyS: local.Number(seconds), Contradicted: t.times.Keeper().Denied(),
		RefusedFixes: refused, Steps: steps, Suspends: suspends,
	}
}

// collects is what the configuration says is collected.
func (t *teller) collects() local.Collect {
	s, v := t.settings, t.vehicle
	hash := v.selection.ShortHash()
	c := local.Collect{
		Signals: v.selection.Len() - v.own - len(s.Rules), Available: v.available, Catalogue: hex.EncodeToString(hash[:8]),
		Patterns: []local.Pattern{}, Rules: []local.Rule{}, Recorded: []string{},
	}
	for _, p := range s.Collect {
		lane, _ := laneWord(p.Lane)
		c.Patterns = append(c.Patterns, local.Pattern{Match: p.Match, Lane: lane, OnChange: p.OnChange, DeadBand: p.DeadBand,
			MinIntervalS: p.MinInterval.Seconds(), MaxIntervalS: p.MaxInterval.Seconds()})
	}
	bound := func(f *float64) local.Number {
		if f == nil {
			return local.Missing()
		}
		return local.Number(*f)
	}
	for _, r := range s.Rules {
		c.Rules = append(c.Rules, local.Rule{Name: r.Name, Signal: r.Signal, Above: bound(r.Above), Below: bound(r.Below)})
	}
	for _, bus := range s.CAN {
		if bus.Record.on() {
			c.Recorded = append(c.Recorded, bus.Bus)
		}
	}
	return c
}

// laneWord names a lane as the configuration does; ok is false for that of recorded frames, which are no signals.
func laneWord(lane telemetrypb.Lane) (word string, ok bool) {
	switch lane {
	case telemetrypb.Lane_LANE_UNSPECIFIED: // only rules look at it
		return "", true
	case telemetrypb.Lane_LANE_RAW:
		return "raw", false
	}
	return telemetrypb.LaneName(lane), true
}

// A meter makes a rate of a count that grows.
type meter struct {
	at          time.Time
	value, rate float64
	known       bool
}

const (
	meterSoon = 400 * time.Millisecond // a rate over less than this is noise
	meterLate = 10 * time.Second       // and one over more than this is of no moment
)

// rate is what a count grows by in a second, between this document and one before; missing: there was none lately.
func (t *teller) rate(name string, now time.Time, value float64) local.Number {
	m := t.meters[name]
	if m == nil {
		m = &meter{}
		t.meters[name] = m
	}
	switch since := now.Sub(m.at); {
	case since < meterSoon:
	case since > meterLate || value < m.value:
		*m = meter{at: now, value: value}
	default:
		*m = meter{at: now, value: value, rate: (value - m.value) / since.Seconds(), known: true}
	}
	if !m.known {
		return local.Missing()
	}
	return local.Number(m.rate)
}

// resident is this process's memory in RAM, bytes; 0: the kernel does not say.
func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
