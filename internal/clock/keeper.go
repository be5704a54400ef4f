package clock

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	// Unbounded is the uncertainty of a clock that nobody vouches for, ns: 146 years, so that sums still fit.
	Unbounded = uint64(1) << 62
	// stepTolerance is how far wall time may run from the last anchor's line before it counts as a step.
	stepTolerance = 50 * time.Millisecond
	// anchorEvery is how often a clock that behaves gets another anchor: a crystal of 100 ppm is 60 ms off by then.
	anchorEvery = 10 * time.Minute
	// maxAnchors bounds a record; the oldest but the first goes.
	maxAnchors = 64
)

// Keeper keeps the clock record of the running boot: what is known of CLOCK_BOOTTIME against wall time. It is safe
// for use from several goroutines.
type Keeper struct {
	mu     sync.Mutex // guards record
	record *telemetrypb.ClockRecord
}

// NewKeeper starts the record of a boot, without an anchor.
func NewKeeper(bootID [16]byte, bootCount uint32) *Keeper {
	return &Keeper{record: &telemetrypb.ClockRecord{BootId: bootID[:], BootCount: bootCount}}
}

// Record is a copy of what is known now.
func (k *Keeper) Record() *telemetrypb.ClockRecord {
	k.mu.Lock()
	defer k.mu.Unlock()
	return proto.Clone(k.record).(*telemetrypb.ClockRecord)
}

// Add takes an observation of the wall clock. It reports whether the record changed: the first anchor, a step, a
// better source, or long enough after the last one.
func (k *Keeper) Add(a *telemetrypb.Anchor) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	anchors := k.record.Anchors
	if n := len(anchors); n > 0 {
		last := anchors[n-1]
		if a.BootNs <= last.BootNs {
			return false
		}
		step := time.Duration((a.UnixNs - last.UnixNs) - (a.BootNs - last.BootNs)).Abs()
		a.NewPiece = step > stepTolerance
		aged := a.BootNs-last.BootNs >= int64(anchorEvery)
		if !a.NewPiece && !aged && a.Source == last.Source {
			return false
		}
		if n == maxAnchors {
			anchors = append(anchors[:1], anchors[2:]...)
		}
	}
	k.record.Anchors = append(anchors, a)
	k.record.Revision++
	return true
}

// Observe reads both clocks of the system as closely together as it can. The source is NTP where the kernel says that
// somebody disciplines its clock (adjtimex), else SYSTEM with an unbounded uncertainty.
func Observe(c Clock) *telemetrypb.Anchor {
	before := c.Boot()
	wall := c.Wall()
	after := c.Boot()
	a := &telemetrypb.Anchor{
		BootNs:        before + (after-before)/2,
		UnixNs:        wall.UnixNano(),
		UncertaintyNs: Unbounded,
		Source:        telemetrypb.TimeSource_TIME_SOURCE_SYSTEM,
	}
	var state unix.Timex
	if code, err := unix.Adjtimex(&state); err == nil && code != unix.TIME_ERROR && state.Status&unix.STA_UNSYNC == 0 {
		a.Source = telemetrypb.TimeSource_TIME_SOURCE_NTP
		a.UncertaintyNs = uint64(state.Maxerror)*1000 + uint64(after-before)
	}
	return a
}

// Log is the clock of a replay: the stamps of the recording are the only time there is. The first stamp ties a made-up
// boot to the log's wall time; every later one moves both clocks on. It is safe for use from several goroutines.
type Log struct {
	mu     sync.Mutex // guards what follows
	base   int64      // unix ns of boot time 0
	latest int64      // boot ns
	start  bool
}

// logLead is what lies before the first stamp, so that a second log that starts a little earlier still has a boot time.
const logLead = int64(time.Hour)

// Stamp turns a log's wall time into boot time, in ns, and reports whether it was the first one.
func (l *Log) Stamp(unixNS int64) (bootNS int64, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.start {
		l.base, l.start, first = unixNS-logLead, true, true
	}
	bootNS = unixNS - l.base
	l.latest = max(l.latest, bootNS)
	return bootNS, first
}

// Anchor is the tie between the log's time and the made-up boot.
func (l *Log) Anchor() *telemetrypb.Anchor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &telemetrypb.Anchor{BootNs: logLead, UnixNs: l.base + logLead, Source: telemetrypb.TimeSource_TIME_SOURCE_LOG}
}

// Boot is the latest stamp's boot time.
func (l *Log) Boot() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest
}

// Wall is the latest stamp.
func (l *Log) Wall() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.start {
		return time.Time{}
	}
	return time.Unix(0, l.base+l.latest)
}

// FormatBootID writes a boot id in the kernel's form.
func FormatBootID(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
