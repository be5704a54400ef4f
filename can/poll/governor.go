// Package poll decides whether the agent may say something on a vehicle's bus. It is silent by default: what is not
// listed is refused, and what is listed waits for its turn, for the ignition and for other testers.
//
// All decisions are functions of the time passed in. The package knows frames; it does not know what they ask for
// (packages isotp, obd and uds), and it reads no configuration.
package poll

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
)

// Verdict is what a Governor says to a frame.
type Verdict uint8

// The verdicts. All but Send refuse; Rate and Load are over soon.
const (
	Send        Verdict = iota
	NotListed           // the identifier is not one that may be sent
	IgnitionOff         // or nothing is known of it
	LowVoltage          // the vehicle's battery is to be spared, or nothing is known of it
	OtherTester         // a workshop's tool is on the bus
	Rate                // too many frames in a row
	Load                // too great a share of the bus
	verdicts
)

var verdictNames = [verdicts]string{"send", "not listed", "ignition off", "low voltage", "other tester", "rate", "load"}

// String names the verdict, for counters and logs.
func (v Verdict) String() string {
	if v < verdicts {
		return verdictNames[v]
	}
	return "unknown"
}

// Why says in words why nothing is sent, for a person who looks for the reason.
func (v Verdict) Why() string {
	switch v {
	case IgnitionOff:
		return "the ignition is off, or was not heard of"
	case LowVoltage:
		return "the supply voltage is low, or was not heard of"
	case OtherTester:
		return "another tester is on the bus"
	}
	return v.String()
}

// Options are the choices of a Governor.
type Options struct {
	Allow   []isotp.Address // identifiers that may be sent, address bytes not looked at; none refuses all
	BitRate int             // of the bus, bit/s; required
	// FrameRate is how many frames may be sent per second on average, and Burst at once; 0 takes 20 and 10.
	FrameRate float64
	Burst     int
	// Share is the part of the bus's time that our frames may take, 0–1, over a second; 0 takes 0.02.
	Share float64
	// BackOff is the silence after another tester's frame; 0 takes 10 s.
	BackOff time.Duration
	// MinVoltage stops all requests below it, V; 0 takes 12.0. Resume lets them go on above it; 0 takes MinVoltage + 0.3.
	MinVoltage, Resume float64
	// ReportFor is how long a report of ignition or voltage is good for; 0 takes a minute.
	ReportFor time.Duration
	// NoVoltage is for a vehicle that does not tell its supply's voltage: the ignition alone decides.
	NoVoltage bool
}

// Stats count the verdicts.
type Stats [verdicts]uint64

// Governor decides frame by frame. Times are of one clock that does not go back, ns; an earlier one reads as the latest
// known. One goroutine uses it, or a lock guards it.
type Governor struct {
	options Options
	now     int64
	began   bool
	frames  bucket // in frames
	bits    bucket // in bits

	ignition   bool
	ignitionAt int64
	ignitionOK bool // something was reported
	powered    bool
	voltageAt  int64
	voltageOK  bool

	quietUntil int64
	own        []echo
	stats      Stats
}

// bucket is a token bucket.
type bucket struct{ level, size, perSecond float64 }

func (b *bucket) fill(ns int64) { b.level = min(b.size, b.level+b.perSecond*float64(ns)/1e9) }

// lacks is how long it takes until n are there, or as many as it holds, s.
func (b *bucket) lacks(n float64) float64 { return (min(n, b.size) - b.level) / b.perSecond }

// echo is a frame of ours that a reader may hear.
type echo struct {
	frame can.Frame
	at    int64
}

// echoFor is how long after sending a frame may still be heard as our own, and maxEchoes how many are remembered.
const (
	echoFor   = int64(time.Second)
	maxEchoes = 64
)

// New makes a Governor. Until it was told of ignition and voltage, it refuses everything.
func New(o Options) (*Governor, error) {
	if o.FrameRate == 0 {
		o.FrameRate = 20
	}
	if o.Burst == 0 {
		o.Burst = 10
	}
	if o.Share == 0 {
		o.Share = 0.02
	}
	if o.BackOff == 0 {
		o.BackOff = 10 * time.Second
	}
	if o.MinVoltage == 0 {
		o.MinVoltage = 12
	}
	if o.Resume == 0 {
		o.Resume = o.MinVoltage + 0.3
	}
	if o.ReportFor == 0 {
		o.ReportFor = time.Minute
	}
	switch {
	case o.BitRate < 10_000 || o.BitRate > 1_000_000:
		return nil, fmt.Errorf("poll: bit rate must be between 10000 and 1000000 bit/s, got %d", o.BitRate)
	case !(o.FrameRate > 0 && o.FrameRate <= 1000):
		return nil, fmt.Errorf("poll: frame rate must be above 0 and at most 1000 /s, got %v", o.FrameRate)
	case o.Burst < 1 || o.Burst > 1000:
		return nil, fmt.Errorf("poll: burst must be between 1 and 1000 frames, got %d", o.Burst)
	case !(o.Share > 0 && o.Share <= 0.5):
		return nil, fmt.Errorf("poll: share of the bus must be above 0 and at most 0.5, got %v", o.Share)
	case o.BackOff < 0 || o.ReportFor < 0:
		return nil, fmt.Errorf("poll: back-off and age of reports must not be negative, got %v and %v", o.BackOff, o.ReportFor)
	case !(o.Resume >= o.MinVoltage):
		return nil, fmt.Errorf("poll: resume voltage must be at least the minimum of %v V, got %v", o.MinVoltage, o.Resume)
	}
	o.Allow = slices.Clone(o.Allow)
	g := &Governor{options: o}
	g.frames = bucket{level: float64(o.Burst), size: float64(o.Burst), perSecond: o.FrameRate}
	// A second's share, but never less than one longest frame, or nothing would ever be sent.
	perSecond := o.Share * float64(o.BitRate)
	size := max(perSecond, longestFrame)
	g.bits = bucket{level: size, size: size, perSecond: perSecond}
	return g, nil
}

// Ignition tells whether the ignition is on.
func (g *Governor) Ignition(now int64, on bool) {
	g.advance(now)
	g.ignition, g.ignitionAt, g.ignitionOK = on, g.now, true
}

// Voltage tells the vehicle's supply in V. NaN is no report.
func (g *Governor) Voltage(now int64, volts float64) {
	g.advance(now)
	if math.IsNaN(volts) {
		return
	}
	switch {
	case volts < g.options.MinVoltage:
		g.powered = false
	case volts >= g.options.Resume || !g.voltageOK:
		g.powered = true
	}
	g.voltageAt, g.voltageOK = g.now, true
}

// Heard tells of a frame on the bus, our own among them if the reader hears those. One from another tester begins, or
// renews, the silence: one with an identifier by which testers ask, or that is ours to send.
func (g *Governor) Heard(now int64, f *can.Frame) {
	if !FromTester(f) && !g.listed(f) || f.Flags&(can.FlagRemote|can.FlagError) != 0 {
		return
	}
	g.advance(now)
	g.own = slices.DeleteFunc(g.own, func(e echo) bool { return g.now-e.at > echoFor })
	if i := slices.IndexFunc(g.own, func(e echo) bool { return same(&e.frame, f) }); i >= 0 {
		g.own = slices.Delete(g.own, i, i+1)
		return
	}
	g.quietUntil = max(g.quietUntil, g.now+int64(g.options.BackOff))
}

// Decide answers whether a frame may be sent now. Send takes its tokens: the frame has then to be sent.
func (g *Governor) Decide(now int64, f *can.Frame) Verdict {
	g.advance(now)
	v := g.judge(f, 1)
	g.stats[v]++
	if v != Send {
		return v
	}
	g.frames.level--
	g.bits.level -= frameBits(f)
	if len(g.own) >= maxEchoes {
		g.own = slices.Delete(g.own, 0, 1)
	}
	g.own = append(g.own, echo{frame: *f, at: g.now})
	return Send
}

// Room answers what Decide would, with room for so many frames like f together, and how long it takes until there are
// tokens for them. It takes none and counts nothing. More frames than the bursts hold are asked for as a full burst.
func (g *Governor) Room(now int64, f *can.Frame, frames int) (Verdict, time.Duration) {
	g.advance(now)
	return g.judge(f, frames), g.wait(f, frames)
}

// listed reports whether a frame has an identifier that may be sent.
func (g *Governor) listed(f *can.Frame) bool {
	return slices.ContainsFunc(g.options.Allow, func(a isotp.Address) bool { return a.ID == f.ID && a.Extended == f.Extended() })
}

func (g *Governor) judge(f *can.Frame, frames int) Verdict {
	good := func(known bool, at int64) bool { return known && g.now-at <= int64(g.options.ReportFor) }
	switch {
	case !g.listed(f) || f.Flags&(can.FlagRemote|can.FlagError) != 0:
		return NotListed
	case !good(g.ignitionOK, g.ignitionAt) || !g.ignition:
		return IgnitionOff
	case !g.options.NoVoltage && (!good(g.voltageOK, g.voltageAt) || !g.powered):
		return LowVoltage
	case g.now < g.quietUntil:
		return OtherTester
	case g.frames.lacks(float64(frames)) > 0:
		return Rate
	case g.bits.lacks(float64(frames)*frameBits(f)) > 0:
		return Load
	}
	return Send
}

// Stats returns the counts so far.
func (g *Governor) Stats() Stats { return g.stats }

func (g *Governor) advance(now int64) {
	if !g.began {
		g.began, g.now = true, now
	}
	if now > g.now {
		g.frames.fill(now - g.now)
		g.bits.fill(now - g.now)
		g.now = now
	}
}
