package clock

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Unbounded is the uncertainty of a clock that nobody vouches for, ns.
const Unbounded = telemetrypb.Unbounded

const (
	// anchorEvery is how often a source that goes on gets another anchor: at 50 ppm a crystal is 30 ms off by then.
	anchorEvery = 10 * time.Minute
	// stepTolerance is how far the system's clock may move on its own before that counts as a step.
	stepTolerance = 50 * time.Millisecond
	// suspendLeast is the shortest suspend that is seen; the two clocks are not read at the same instant.
	suspendLeast = 200 * time.Millisecond
	// suspendGap is how far CLOCK_BOOTTIME and the world may part in a suspend: where no counter runs through it the kernel
	// takes its length from a real-time clock that shows whole seconds, at both ends.
	suspendGap = uint64(2 * time.Second)
	// ntpLeast is the least uncertainty of a synchronised clock that is believed: daemons call an answer exact that came
	// over an asymmetric radio link.
	ntpLeast = uint64(50 * time.Millisecond)
	// gpsSilent is how long a receiver is awaited before another source may speak.
	gpsSilent = time.Minute
	// rollover is the cycle of GPS's week number, 1024 weeks.
	rollover = int64(1024 * 7 * 24 * time.Hour)
	// gpsEpoch is 6 January 1980, where GPS time begins, Unix ns.
	gpsEpoch = 315_964_800 * int64(time.Second)
	// buildSlack is how far before its build's day a vehicle's clock may be: time zones, and a build machine's own clock.
	buildSlack = int64(48 * time.Hour)
	// lifetime is how long after its build an agent may run.
	lifetime = int64(40 * 366 * 24 * time.Hour)
)

// Good is a wall time that somebody vouched for.
type Good struct {
	Unix   int64 // ns; 0: none. It was no earlier than this
	Source telemetrypb.TimeSource
}

// KeeperOptions is what a Keeper has to know beforehand.
type KeeperOptions struct {
	BootID    [16]byte
	BootCount uint32
	Built     time.Time                // no time before it is possible; zero: not known
	Floor     Good                     // the last good time that was kept on disk
	Record    *telemetrypb.ClockRecord // of this boot, by the process before this one; nil: none
}

// Keeper keeps the clock record of the running boot: what is known of CLOCK_BOOTTIME against wall time. It is told the
// time and reads no clock. It is safe for use from several goroutines.
//
//	nothing ──▶ FLOOR (the record's lower bound) or SYSTEM ──▶ NTP ──▶ GPS
//
// A better source takes over from a worse one; GPS also judges: anchors of a system clock that it contradicts are
// withdrawn. In silence the last anchor of the best source holds, with growing doubt, and a worse source speaks only
// when it is surer by then and does not contradict it. A step of the system's clock moves nothing that another source
// vouches for. A suspend begins a new piece, and so does a leap second: in Unix time one second is there twice.
type Keeper struct {
	o KeeperOptions

	mu       sync.Mutex // guards what follows
	revision uint32
	track    track
	log      *telemetrypb.Anchor // of a replay, whose clock is nobody's
	fixes    fixes
	ended    fixes // the run before
	vouched  int64 // boottime at which GPS last vouched; 0: not yet
	young    bool  // the newest anchor was made of a few fixes
	read     Reading
	hasRead  bool
	denied   bool  // the system's clock claims to be synchronised and contradicts GPS
	floored  bool  // the floor stands in the record
	refused  int64 // fixes with an impossible time
	steps    int64 // of the system's clock
	suspends int64
}

// Change is what an observation did.
type Change struct {
	Record bool   // there is a new revision
	Urgent bool   // of weight: it must outlive a power cut that follows at once
	Why    string // for the log; empty: nothing to tell
}

// NewKeeper starts, or goes on with, the record of a boot.
func NewKeeper(o KeeperOptions) *Keeper {
	k := &Keeper{o: o, floored: o.Floor.Unix != 0}
	if o.Record != nil {
		k.track, k.revision = trackOf(o.Record), o.Record.GetRevision()
		for _, p := range k.track.points {
			if p.source == telemetrypb.TimeSource_TIME_SOURCE_GPS {
				k.vouched, k.floored = p.boot, false
			}
		}
		if o.Record.NotBeforeUnixNs == nil {
			k.floored = false
		} else if k.floored {
			k.o.Floor.Unix = o.Record.GetNotBeforeUnixNs() // as it was when the boot began
		}
	}
	if k.floored && k.revision == 0 {
		k.revision = 1
	}
	return k
}

// Record is a copy of what is known now. Revision 0: nothing.
func (k *Keeper) Record() *telemetrypb.ClockRecord {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := &telemetrypb.ClockRecord{BootId: k.o.BootID[:], BootCount: k.o.BootCount, Revision: k.revision, Anchors: k.track.anchors()}
	if k.log != nil {
		r.Anchors = []*telemetrypb.Anchor{proto.CloneOf(k.log)}
	}
	if k.floored {
		r.NotBeforeUnixNs = proto.Int64(k.o.Floor.Unix)
	}
	return r
}

// Skip makes the next revision no lower than this: those below may have been used by a process that died.
func (k *Keeper) Skip(revision uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revision = max(k.revision, revision)
}

// Replay dates by a recording's own stamps. Nothing else may be told this Keeper.
func (k *Keeper) Replay(a *telemetrypb.Anchor) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.log = a
	k.revision++
}

// Good is the best lower bound of the wall time at a boottime that anybody vouches for.
func (k *Keeper) Good(boot int64) (g Good, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	unix, doubt, ok := k.track.predict(boot)
	last, _ := k.track.last()
	if !ok || doubt >= Unbounded {
		return g, false
	}
	return Good{unix - int64(doubt), last.source}, true
}

// Reference is a day near which a receiver's dates lie, within 9.8 years.
func (k *Keeper) Reference() time.Time {
	reference := k.o.Built
	if f := k.o.Floor; f.Source == telemetrypb.TimeSource_TIME_SOURCE_GPS && time.Unix(0, f.Unix).After(reference) {
		reference = time.Unix(0, f.Unix)
	}
	return reference
}

// Denied says whether the system's clock claims to be synchronised and contradicts GPS.
func (k *Keeper) Denied() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.denied
}

// Counts says how often what was seen: impossible times from a receiver, steps of the system's clock, suspends.
func (k *Keeper) Counts() (refused, steps, suspends int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refused, k.steps, k.suspends
}

// possible is a time that an agent built when this one was can see.
func (k *Keeper) possible(unix int64) bool {
	return k.o.Built.IsZero() || unix >= k.o.Built.UnixNano()-buildSlack && unix-k.o.Built.UnixNano() <= lifetime
}

// unroll brings a receiver's time whose week number has rolled over into the 1024 weeks that it can be in: they begin
// with the build, and move on with the times that GPS itself gave.
func (k *Keeper) unroll(unix int64) int64 {
	reference := k.Reference()
	if reference.IsZero() {
		return unix
	}
	least := max(k.o.Built.UnixNano()-buildSlack, reference.UnixNano()-rollover/2)
	if unix >= least {
		return unix
	}
	return unix + (least-unix+rollover-1)/rollover*rollover
}

// Fix takes the time of a receiver's epoch: a valid fix that the receiver has not made up. boot is when its first byte
// came, less what the receiver is known to need for that; doubt, in ns, covers what is not known of it.
func (k *Keeper) Fix(boot, unix int64, doubt uint64) Change {
	k.mu.Lock()
	defer k.mu.Unlock()
	const farthest = int64(1) << 62 // the year 2116; sums of two such times do not overflow
	if unix >= gpsEpoch && unix < farthest {
		unix = k.unroll(unix)
	}
	if unix < gpsEpoch || unix >= farthest || boot <= 0 || boot >= farthest/2 || !k.possible(unix) {
		k.refused++
		return Change{}
	}
	doubt = min(doubt, Unbounded-1)
	if run, broken := k.fixes.take(fix{boot, unix}); broken && run.count >= fixesNeeded {
		k.ended = run
	}
	if k.fixes.count < fixesNeeded {
		return Change{}
	}
	last, some := k.track.last()
	best, ok := k.fixes.best(last.boot)
	if !some {
		best, ok = k.fixes.best(0)
	}
	if !ok {
		return Change{}
	}
	now := point{boot: best.boot, unix: best.unix, doubt: doubt, source: telemetrypb.TimeSource_TIME_SOURCE_GPS}
	if k.vouched == 0 {
		n, worst := k.track.withdraw(now)
		return k.takeOver(now, n, worst)
	}
	if off, disagree := k.against(now); disagree {
		if k.fixes.count < fixesAgainst {
			return Change{}
		}
		if n, worst := k.track.withdraw(now); n > 0 {
			if off, disagree = k.against(now); !disagree {
				return k.takeOver(now, n, worst)
			}
		}
		return k.jump(now, off)
	}
	k.vouched = boot
	switch {
	case k.young && k.fixes.count >= fixWindow && k.fixes.began <= last.boot:
		// Of more fixes one was less delayed, most likely; it takes the place of the first anchor.
		best, _ = k.fixes.best(0)
		k.track.replace(point{boot: best.boot, unix: best.unix, doubt: doubt, source: last.source})
	case anchorDue(last, now):
		k.track.add(now)
	default:
		return Change{}
	}
	k.young = k.fixes.count < fixWindow
	k.revision++
	return Change{Record: true}
}

// anchorDue: a source that goes on has gone on for long enough, or is another than the last, or surer by far.
func anchorDue(last, now point) bool {
	return last.source != now.source || last.doubt > 2*now.doubt || now.boot-last.boot >= int64(anchorEvery)
}

// against says whether what is known contradicts a point, and by how much.
func (k *Keeper) against(now point) (off uint64, disagree bool) {
	predicted, doubt, ok := k.track.predict(now.boot)
	off = distance(predicted, now.unix)
	return off, ok && off > doubt+now.doubt
}

// takeOver is the first word of GPS in this boot, or since another source has spoken.
func (k *Keeper) takeOver(now point, withdrawn int, worst int64) Change {
	k.track.add(now)
	k.vouched, k.floored, k.young = now.boot, false, true
	k.revision++
	why := "GPS vouches for the time"
	if withdrawn > 0 {
		why += fmt.Sprintf("; it contradicts the system's clock, which claimed to be synchronised, by %v: %d anchors withdrawn", time.Duration(worst), withdrawn)
	}
	return Change{true, true, why}
}

// jump is a time that GPS gives against its own earlier word: a leap second, or a suspend that CLOCK_BOOTTIME did not
// notice. The piece before is closed with the last fix that belonged to it.
func (k *Keeper) jump(now point, off uint64) Change {
	last, _ := k.track.last()
	if closing, ok := k.ended.best(last.boot); ok && closing.boot < k.fixes.began && last.source == now.source {
		p := point{boot: closing.boot, unix: closing.unix, doubt: now.doubt, source: now.source}
		predicted, doubt, ok := k.track.predict(p.boot)
		if ok && distance(predicted, p.unix) <= doubt+p.doubt {
			k.track.add(p)
		}
	}
	last, _ = k.track.last()
	k.track.rupture(rupture{boot: max(k.fixes.began, last.boot+1), gap: min(off, Unbounded)})
	k.track.add(now)
	k.vouched, k.young = now.boot, true
	k.revision++
	return Change{true, true, fmt.Sprintf("GPS time jumped by %v", time.Duration(off))}
}

// System takes a reading of the system's clocks.
func (k *Keeper) System(r Reading) Change {
	k.mu.Lock()
	defer k.mu.Unlock()
	before, again := k.read, k.hasRead
	k.read, k.hasRead = r, true
	var change Change
	if again && r.Boot > before.Boot {
		if asleep := (r.Boot - before.Boot) - (r.Mono - before.Mono); asleep >= int64(suspendLeast) {
			change = k.suspended(before.Boot+(r.Boot-before.Boot)/2, asleep)
		}
		if off := distance(r.Unix-r.Boot, before.Unix-before.Boot); off > uint64(stepTolerance)+distance(r.Boot, before.Boot)/1000 {
			k.steps++ // a daemon slews by at most 500 ppm
			change.Why = joinWords(change.Why, fmt.Sprintf("the system's clock was set by %v", time.Duration((r.Unix-r.Boot)-(before.Unix-before.Boot))))
		}
	}
	if !k.system(r, before.Boot) {
		return change
	}
	k.revision++
	change.Record = true
	return change
}

func joinWords(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// suspended begins a piece. What was known before holds on, with more doubt, until somebody knows better. It is urgent: a
// process that begins anew in this boot must know of the suspend, or what GPS says after it would be taken for the time
// before it.
func (k *Keeper) suspended(at, asleep int64) Change {
	k.suspends++
	k.fixes, k.ended = fixes{}, fixes{}
	change := Change{Urgent: true, Why: fmt.Sprintf("the computer slept for %v", time.Duration(asleep).Round(time.Millisecond))}
	last, ok := k.track.last()
	k.track.rupture(rupture{boot: at, gap: suspendGap})
	if ok && at > last.boot {
		unix, doubt, _ := k.track.predict(at)
		k.track.points = append(k.track.points, point{at, unix, min(doubt, Unbounded), last.source, true})
		k.track.thin()
		k.revision++
		change.Record = true
	}
	return change
}

// system decides whether the system's clock has something to say, and says it.
func (k *Keeper) system(r Reading, lastRead int64) (changed bool) {
	now := point{boot: r.Boot, unix: r.Unix, doubt: Unbounded, source: telemetrypb.TimeSource_TIME_SOURCE_SYSTEM}
	if r.Synced && k.believable(r.Unix) {
		now.doubt, now.source = max(uint64(max(r.MaxError, 0)), ntpLeast), telemetrypb.TimeSource_TIME_SOURCE_NTP
	}
	last, some := k.track.last()
	if some && now.boot <= last.boot {
		return false
	}
	_, doubt, _ := k.track.predict(now.boot)
	off, disagree := k.against(now)
	switch {
	case !now.trusted() && some && last.trusted():
		k.denied = false
		return false
	case !now.trusted():
		return k.unvouched(now, lastRead)
	case !some || !last.trusted():
	case k.vouched != 0 && disagree:
		k.denied = true
		return false
	case disagree:
		k.track.rupture(rupture{lastRead + (r.Boot-lastRead)/2, min(off, Unbounded), true})
	default:
		k.denied = false
		if k.vouched != 0 && r.Boot-k.vouched < int64(gpsSilent) || now.doubt >= doubt || !anchorDue(last, now) {
			return false
		}
	}
	if k.o.Floor.Unix > now.unix {
		k.floored = false // of two synchronised clocks that contradict each other the newer is believed
	}
	k.track.add(now)
	return true
}

// believable: a synchronised clock that shows a day before the build, or before what GPS said once, is not.
func (k *Keeper) believable(unix int64) bool {
	return k.possible(unix) && (k.o.Floor.Source != telemetrypb.TimeSource_TIME_SOURCE_GPS || unix >= k.o.Floor.Unix)
}

// unvouched takes the word of a clock that nobody vouches for, while there is no better: first, and after each step.
func (k *Keeper) unvouched(now point, lastRead int64) bool {
	last, some := k.track.last()
	if some {
		predicted, _ := last.at(now.boot)
		if off := distance(predicted, now.unix); off <= uint64(stepTolerance)+distance(now.boot, last.boot)/1000 {
			return false
		}
		k.track.rupture(rupture{boot: lastRead + (now.boot-lastRead)/2, claimed: true})
	}
	k.track.add(now)
	return true
}
