package buffer

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// Lane is a class of batches with its own order, folder and sequence numbers. The numbers are those of the wire.
type Lane uint8

// The lanes, in the order in which a Commit writes them.
const (
	Control   Lane = 1
	Event     Lane = 2
	Telemetry Lane = 3
	Raw       Lane = 4
)

const laneCount = 4

// Lanes lists every lane in commit order.
func Lanes() []Lane { return []Lane{Control, Event, Telemetry, Raw} }

var laneNames = [...]string{Control: "control", Event: "event", Telemetry: "telemetry", Raw: "raw"}

// Valid says whether l is one of the lanes.
func (l Lane) Valid() bool { return l >= Control && l <= Raw }

// String is the lane's name, also that of its folder.
func (l Lane) String() string {
	if l.Valid() {
		return laneNames[l]
	}
	return fmt.Sprintf("lane(%d)", uint8(l))
}

// Range is a closed range of sequence numbers.
type Range = ranges.Range

// Record is one sealed batch.
type Record struct {
	Lane    Lane
	Seq     uint64
	Epoch   uint64 // set by Next: the epoch that Seq belongs to; Commit works it out from Seq
	Samples uint32
	First   int64 // CLOCK_BOOTTIME ns of the first sample
	Last    int64 // CLOCK_BOOTTIME ns of the last sample
	Bytes   []byte
	Lost    []Numbers // of a control batch given to Commit: numbers that its records call lost and that will never be stored
}

// Numbers are sequence numbers of a lane.
type Numbers struct {
	Lane Lane
	Range
}

// JournalEntry is a part of a batch that is not sealed yet. The entries of one (lane, seq), in order, are what the batch
// would have held.
type JournalEntry struct {
	Lane      Lane
	Seq       uint64
	Epoch     uint64   // set by Recovered: seal the batch under this epoch, which is the old one after a new epoch began
	Boot      [16]byte // the boot that the samples' times belong to
	BootCount uint32
	Catalogue [16]byte
	Bytes     []byte
}

// Parent is the epoch before this one.
type Parent struct {
	Epoch  uint64          // 0 = none is known
	Last   map[Lane]uint64 // the last seq known of each lane; the new epoch counts on from it
	Reason string
}

// Damage is something that was stored and cannot be delivered.
type Damage struct {
	Lane    Lane
	Epoch   uint64  // 0 = unknown
	Seqs    []Range // what is gone; empty = unknown
	Batches uint64  // 0 = unknown
	Samples uint64  // 0 = unknown
	First   int64   // CLOCK_BOOTTIME ns bounds of the samples, 0 = unknown
	Last    int64
	Journal bool   // a part of a batch that was not sealed
	Saved   bool   // nothing is lost: all of it was found without the damaged structure
	File    string // the segment, relative to the folder
	Aside   string // where the bytes were kept, relative to the folder; empty = not kept
	Reason  string
}

func (d Damage) String() string {
	return fmt.Sprintf("%s: lane %s, seqs %v: %s", d.File, d.Lane, d.Seqs, d.Reason)
}

var (
	// ErrEmpty: no committed, unreleased batch at or after the number asked for.
	ErrEmpty = errors.New("queue: no batch")
	// ErrFull: the quota, or the floor of free disk, does not leave room for what was to be committed.
	ErrFull = errors.New("queue: full")
	// ErrLocked: another process has the queue open.
	ErrLocked = errors.New("queue: in use")
	// ErrNewerFormat: the folder was written by a newer version that this one must not touch.
	ErrNewerFormat = errors.New("queue: written in a newer format")
	// ErrClosed: the queue was closed.
	ErrClosed = errors.New("queue: closed")
	// ErrReadOnly: the queue was opened to be looked at.
	ErrReadOnly = errors.New("queue: opened read-only")
	// ErrTooLarge: one batch is larger than a segment can hold.
	ErrTooLarge = errors.New("queue: batch larger than a segment")
)

// Options of a queue. The zero value is good except for Rand.
type Options struct {
	SegmentBytes    int64                 // size of a segment file; default 16 MiB, 256 KiB to 256 MiB
	MaxBytes        int64                 // quota for all lanes, in bytes of disk blocks; default 1 GiB
	ControlReserve  int64                 // part of MaxBytes that only the control lane may use; default MaxBytes/16
	LaneBytes       map[Lane]int64        // quota of a lane, bytes of disk blocks; 0 = only MaxBytes; none for control
	MinFree         int64                 // bytes of the file system that are left free; default 4 MiB, negative = none
	QuarantineFiles int                   // damaged batches and segments kept; default 16, negative = none
	QuarantineBytes int64                 // and their bytes at most; default 2 × SegmentBytes
	KeepReleased    time.Duration         // how long released batches stay, while there is room, for Recall; 0 = not at all; needs Now
	LockTimeout     time.Duration         // how long Open waits for another process; default 0 = not at all
	NewEpoch        string                // begin a new epoch, for this reason: the receiver has other bytes under numbers of this one
	ReadOnly        bool                  // look, without lock and without writing; works on a live queue
	Rand            io.Reader             // source of epochs; needed, crypto/rand.Reader
	Now             func() time.Time      // wall time, for the stamp of the last commit; nil = no stamp
	Log             *slog.Logger          // nil = discard
	Metrics         prometheus.Registerer // nil = none

	// OnDamage is called for everything that is lost, on the goroutine that found it (Open and Commit included), with no lock
	// of the queue's memory held and before the loss is persisted. It must not call Commit, Sync or Close. nil = only logged and counted.
	OnDamage func(Damage)

	// OnEvict is asked for what is to stand in the place of the oldest batches of a lane when a quota or the floor of
	// free disk does not leave room for a commit. What is only kept goes first, without a question; then raw, then
	// telemetry, then events, each oldest first; never a lane of more worth than what is to be committed, and never
	// control. It is called during Commit, on its goroutine, and must not call the queue but through what it is given.
	// When it fails, so does the commit. nil = nothing is evicted, a full queue refuses (ErrFull).
	OnEvict func(Eviction) (Evicted, error)
	// Thin asks OnEvict for smaller copies where there is room for them, and evicts a little ahead of need so that there is.
	Thin bool
}

const (
	minSegment = 256 << 10
	maxSegment = 256 << 20 // bbolt dies on 32 bits at 2 GiB; far below it
)

// withDefaults checks the options and fills in what is zero.
func (o Options) withDefaults() (Options, error) {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.SegmentBytes, 16<<20)
	def(&o.MaxBytes, 1<<30)
	def(&o.ControlReserve, o.MaxBytes/16)
	def(&o.QuarantineBytes, 2*o.SegmentBytes)
	def(&o.MinFree, 4<<20)
	if o.QuarantineFiles == 0 {
		o.QuarantineFiles = 16
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.SegmentBytes < minSegment || o.SegmentBytes > maxSegment:
		return o, fmt.Errorf("queue: SegmentBytes: must be between %d and %d, got %d", minSegment, maxSegment, o.SegmentBytes)
	case o.MaxBytes < o.SegmentBytes:
		return o, fmt.Errorf("queue: MaxBytes: must be at least SegmentBytes (%d), got %d", o.SegmentBytes, o.MaxBytes)
	case o.ControlReserve < 0 || o.ControlReserve > o.MaxBytes/2:
		return o, fmt.Errorf("queue: ControlReserve: must be between 0 and half of MaxBytes, got %d", o.ControlReserve)
	case o.LaneBytes[Control] != 0:
		return o, errors.New("queue: LaneBytes: the control lane has no quota of its own; it has ControlReserve")
	case o.KeepReleased > 0 && o.Now == nil:
		return o, errors.New("queue: KeepReleased: needs Now")
	case o.Rand == nil && !o.ReadOnly:
		return o, errors.New("queue: Rand: needed to make epochs; pass crypto/rand.Reader")
	}
	for l, quota := range o.LaneBytes {
		if quota != 0 && (!l.Valid() || quota < 2*minSegment) {
			return o, fmt.Errorf("queue: LaneBytes: lane %s must have at least %d, got %d", l, 2*minSegment, quota)
		}
		if quota != 0 && o.OnEvict != nil {
			o.SegmentBytes = min(o.SegmentBytes, max(minSegment, quota/8))
		}
	}
	if o.OnEvict != nil { // room comes back by whole segments
		o.SegmentBytes = min(o.SegmentBytes, max(minSegment, o.MaxBytes/16))
	}
	return o, nil
}

// LaneStats is what one lane holds.
type LaneStats struct {
	Batches  uint64 // committed and not released
	Bytes    uint64 // of those batches; of a segment that is partly released and not in memory, in proportion
	Oldest   uint64 // seq of the oldest of them, 0 = none
	Newest   uint64 // highest seq ever committed in this folder, 0 = none
	Next     uint64 // what Reserve gives next
	Segments int

	Evicted uint64 // batches dropped for want of room since Open, with a loss record
	Thinned uint64 // batches that a smaller copy stands for since Open
}

// Stats is what the queue holds.
type Stats struct {
	Lanes      map[Lane]LaneStats
	DiskBytes  int64  // blocks of all segments
	Damaged    uint64 // batches lost to damage since Open
	LastCommit time.Time
}
