package clock

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	// saveEvery is how often the book is written while nothing of importance happens: a power cut costs a floor that is
	// this much earlier.
	saveEvery = 5 * time.Minute
	// saveSoon bounds how often it is written whatever happens.
	saveSoon = 20 * time.Second
	// reserve is how many revisions a book is ahead of the record in it.
	reserve = 64
)

// bookFile is the book's name in its folder.
const bookFile = "clock"

// TimekeeperOptions is what a Timekeeper needs.
type TimekeeperOptions struct {
	Dir       string // where the book is kept; made by others. Empty: nowhere
	BootID    [16]byte
	BootCount uint32
	Built     time.Time // of this agent; zero: not known
	// Write replaces a file so that a power cut leaves the old one or the new one, whole.
	Write func(path string, data []byte) error
	// Emit stores a clock record: of this boot, in the order of the revisions, or of an earlier one. It must neither block
	// nor change the record.
	Emit func(*telemetrypb.ClockRecord)
	Log  *slog.Logger
}

// Timekeeper keeps the time of this boot and what is known of the boots before it, on disk too. It reads no clock. It is
// safe for use from several goroutines.
type Timekeeper struct {
	o      TimekeeperOptions
	keeper *Keeper

	turn sync.Mutex // one observation at a time, so that records go out in the order of their revisions

	mu       sync.Mutex // guards what follows
	book     Book       // of the boots before this one
	saved    int64      // boottime of the last write; 0: none
	reserved uint32
	dirty    bool // something worth writing soon
	failed   bool // the last write did
}

// OpenTimekeeper reads the book of the boots before. A book that cannot be read is left behind and told as a warning: the
// records in it stand in the queue as well, and the floor is found again.
func OpenTimekeeper(o TimekeeperOptions) (t *Timekeeper, warning error) {
	t = &Timekeeper{o: o}
	if o.Dir != "" {
		path := filepath.Join(o.Dir, bookFile)
		data, err := os.ReadFile(path)
		if err == nil {
			t.book, err = ParseBook(data)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.book, warning = Book{}, fmt.Errorf("%s: %w; what was known of the time before this boot is not used", path, err)
		}
	}
	options := KeeperOptions{BootID: o.BootID, BootCount: o.BootCount, Built: o.Built, Floor: t.book.Good}
	if n := len(t.book.Records); n > 0 && bytes.Equal(t.book.Records[n-1].GetBootId(), o.BootID[:]) {
		options.Record = t.book.Records[n-1]
		t.book.Records = t.book.Records[:n-1]
	}
	t.keeper = NewKeeper(options)
	if options.Record != nil {
		t.keeper.Skip(t.book.Reserved)
	}
	t.book.trim()
	t.dirty = true
	return t, warning
}

// Keeper is that of this boot.
func (t *Timekeeper) Keeper() *Keeper { return t.keeper }

// Record is that of this boot; revision 0: nothing is known.
func (t *Timekeeper) Record() *telemetrypb.ClockRecord { return t.keeper.Record() }

// Clock is the record of any boot as known now, nil if nothing is.
func (t *Timekeeper) Clock(boot [16]byte) *telemetrypb.ClockRecord {
	if boot == t.o.BootID {
		if r := t.keeper.Record(); r.GetRevision() > 0 {
			return r
		}
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.book.find(boot)
}

// Now is the time as known at a boottime.
func (t *Timekeeper) Now(boot int64) (unix int64, doubt uint64, source telemetrypb.TimeSource) {
	return t.keeper.Record().WallTime(boot)
}

// Fix takes the time of a receiver's epoch; see Keeper.Fix. now is CLOCK_BOOTTIME.
func (t *Timekeeper) Fix(now, boot, unix int64, doubt uint64) {
	t.changed(now, t.keeper.Fix(boot, unix, doubt))
}

// System takes a reading of the system's clocks.
func (t *Timekeeper) System(r Reading) {
	t.turn.Lock()
	defer t.turn.Unlock()
	t.changed(r.Boot, t.keeper.System(r))
}

// Replay dates this boot by a recording's own stamps.
func (t *Timekeeper) Replay(a *telemetrypb.Anchor) {
	t.keeper.Replay(a)
	t.o.Emit(t.keeper.Record())
}

// Start tells what is known at the start.
func (t *Timekeeper) Start() {
	if r := t.keeper.Record(); r.GetRevision() > 0 {
		t.o.Emit(r)
	}
}

// changed keeps the book, then stores and tells what an observation did: the store must never know what a book does not,
// or the next boot would take it back.
func (t *Timekeeper) changed(now int64, c Change) {
	var old []*telemetrypb.ClockRecord
	if c.Record {
		old = t.settle(t.keeper.Record())
	}
	t.Save(now, c.Urgent)
	if c.Why != "" {
		t.o.Log.Info("clock", "what", c.Why)
	}
	if c.Record {
		t.o.Emit(t.keeper.Record())
	}
	for _, r := range old {
		t.o.Emit(r)
	}
}

// settle bounds the boots before by what is known of this one's beginning.
func (t *Timekeeper) settle(r *telemetrypb.ClockRecord) (changed []*telemetrypb.ClockRecord) {
	start, doubt, source := r.WallTime(0)
	t.mu.Lock()
	defer t.mu.Unlock()
	if source == telemetrypb.TimeSource_TIME_SOURCE_GPS || source == telemetrypb.TimeSource_TIME_SOURCE_NTP {
		changed = t.book.settle(start + int64(doubt))
	}
	if len(changed) > 0 || len(r.GetAnchors()) == 1 || r.GetRevision()+reserve/2 >= t.reserved {
		t.dirty = true
	}
	return changed
}

// Save writes the book if it is time to, or if force is set: at a clean stop. A disk that refuses is told once.
func (t *Timekeeper) Save(now int64, force bool) {
	if t.o.Dir == "" {
		return
	}
	record := t.keeper.Record()
	good, isGood := t.keeper.Good(now)
	t.mu.Lock()
	defer t.mu.Unlock()
	age := time.Duration(now - t.saved)
	if !force && t.saved != 0 && age < saveEvery && !(t.dirty && age >= saveSoon) {
		return
	}
	t.saved, t.dirty = now, false
	book := Book{Good: t.book.Good, Reserved: record.GetRevision() + reserve, Records: t.book.Records[:len(t.book.Records):len(t.book.Records)]}
	if isGood {
		book.Good = good
	}
	if record.GetRevision() > 0 {
		book.Records = append(book.Records, record)
	}
	data, err := book.Encode()
	if err == nil {
		err = t.o.Write(filepath.Join(t.o.Dir, bookFile), data)
	}
	if err == nil {
		t.reserved = book.Reserved
	}
	if err != nil && !t.failed {
		t.o.Log.Warn("the clock file cannot be written; after a restart less is known of the time", "error", err)
	}
	t.failed = err != nil
}
