package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// opening is what Open finds out on its way.
type opening struct {
	q       *Queue
	meta    *meta // nil = none that is whole
	damage  []Damage
	reasons []string // why the newest state is not provably intact: each one begins a new epoch
	journal [laneCount + 1][]placedJournal
	heads   []segmentHead      // of the segments that were read
	empty   bool               // there was nothing at all
	temps   []string           // leftovers to remove
	roomy   map[*segment]int64 // segments that were read and are whole, with where their pages end

	journalGone [laneCount + 1][]Damage // entries that meta knows and that are not there
}

type placedJournal struct {
	journaled
	seg *segment
}

func (op *opening) suspect(format string, args ...any) {
	op.reasons = append(op.reasons, fmt.Sprintf(format, args...))
}

// Open opens the queue in a folder, which it makes when there is none. It reads meta, each lane's oldest and newest
// segment and those that meta does not describe; a folder with a newer format is left untouched (ErrNewerFormat).
//
// A new epoch begins when there is none to go on with, or when what was written last is not provably there: no whole
// meta beside segments, a damaged or missing newest segment, a meta older than a segment or a segment older than meta.
// A folder that was put back as a whole to an earlier state looks intact from inside: that shows only at the receiver.
func Open(dir string, o Options) (*Queue, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	q := &Queue{dir: dir, o: o, log: o.Log, notify: make(chan struct{}, 1)}
	for l := range q.lanes {
		q.lanes[l].parts = map[uint64]uint32{}
	}
	if o.ReadOnly {
		if _, err := os.Stat(dir); err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
	} else if err := q.take(); err != nil {
		return nil, err
	}
	err = q.open()
	if err == nil {
		q.metrics, err = newMetrics(o.Metrics, q)
	}
	if err != nil {
		if q.lockFile != nil {
			q.lockFile.Close()
		}
		return nil, err
	}
	return q, nil
}

// makeFolder makes the queue's folder durably.
func makeFolder(dir string) error {
	if exists(dir) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func (q *Queue) open() error {
	op := &opening{q: q, roomy: map[*segment]int64{}}
	if err := op.readMeta(); err != nil {
		return err
	}
	if err := op.checkMeta(); err != nil {
		return err
	}
	for _, l := range Lanes() { // all of them first: a commit of one lane may tell what was released in another
		if op.meta != nil {
			ln, m := &q.lanes[l], &op.meta.Lanes[l]
			ln.next, ln.nextCommit, ln.nextSegment, ln.released = m.Next, m.NextCommit, m.NextSegment, m.Released.Clone()
		}
	}
	for _, l := range Lanes() {
		if err := op.readLane(l); err != nil {
			return err
		}
	}
	if err := op.settle(); err != nil {
		return err
	}
	op.recover()
	op.forget()
	for i := range op.damage {
		q.report(&op.damage[i])
	}
	if q.o.ReadOnly {
		return nil
	}
	for _, path := range op.temps {
		if err := os.Remove(path); err != nil {
			q.log.Warn("queue: removing a leftover", "file", path, "err", err)
		}
	}
	if q.untaken {
		q.metaDue = true
		return nil
	}
	for seg, used := range op.roomy { // a tail that the power was cut from has room for commits that it will not get
		if err := q.trim(seg, used); err != nil {
			q.log.Warn("queue: giving back what a segment does not use", "file", seg.file(), "err", err)
		}
	}
	// A disk that takes no writes must not keep what it holds from being sent: then meta is written before the first
	// commit.
	if err := q.writeMeta(nil, false); err != nil {
		q.log.Error("queue: opened on a disk that does not take writes", "err", err)
	} else if err := q.collect(true); err != nil {
		q.log.Warn("queue: removing released segments", "err", err)
	}
	return nil
}

func (op *opening) readMeta() error {
	m, err := readMeta(op.q.dir)
	op.empty = errors.Is(err, fs.ErrNotExist)
	switch {
	case err == nil:
		op.meta = m
		op.q.generation, op.q.clean = m.Generation, m.Clean
		if m.LastCommit != 0 {
			op.q.lastCommit = time.Unix(0, m.LastCommit)
		}
	case op.empty:
	case errors.Is(err, errMeta) || errors.Is(err, syscall.EIO):
		op.suspect("meta is damaged")
		op.q.log.Error("queue: meta is damaged", "err", err)
	default:
		return fmt.Errorf("queue: %w", err)
	}
	if exists(filepath.Join(op.q.dir, metaName+tmpSuffix)) {
		op.temps = append(op.temps, filepath.Join(op.q.dir, metaName+tmpSuffix))
	}
	return nil
}

// checkMeta takes a meta file that knows the epoch of none of the segments as another queue's. A single segment that it
// does not know is that segment's fault.
func (op *opening) checkMeta() error {
	if op.meta == nil {
		return nil
	}
	ours, stranger := op.ours(), false
	for _, l := range Lanes() {
		numbers, err := op.list(l)
		if err != nil {
			return err
		}
		for i, number := range numbers {
			if i != 0 && i != len(numbers)-1 {
				continue
			}
			head, err := readSegmentHead(filepath.Join(op.q.dir, l.String(), segmentFile(number)))
			switch {
			case err != nil: // dealt with when the segment is read
			case ours(head.Epoch):
				return nil
			default:
				stranger = true
			}
		}
	}
	if stranger {
		op.suspect("meta is another queue's")
		op.q.log.Error("queue: meta knows none of the segments", "epoch", op.meta.Epochs[len(op.meta.Epochs)-1].Epoch)
		op.meta, op.q.generation, op.q.clean, op.q.lastCommit = nil, 0, false, time.Time{}
	}
	return nil
}

// list gives the segment numbers of a lane's folder, newest first.
func (op *opening) list(l Lane) ([]uint64, error) {
	folder := filepath.Join(op.q.dir, l.String())
	names, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	var numbers []uint64
	for _, n := range names {
		if number, ok := segmentNumber(n.Name()); ok {
			numbers = append(numbers, number)
		} else if path := filepath.Join(folder, n.Name()); strings.HasSuffix(path, tmpSuffix) && !slices.Contains(op.temps, path) {
			op.temps = append(op.temps, path)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers, nil
}

// readLane takes in one lane's segments, newest first: of a batch that is stored twice (a commit that failed and was
// made again) the newer copy counts.
func (op *opening) readLane(l Lane) error {
	q := op.q
	ln := &q.lanes[l]
	listed := map[uint64]metaSegment{}
	var newestListed uint64
	if op.meta != nil {
		for _, s := range op.meta.Lanes[l].Segments {
			listed[s.Number] = s
			newestListed = max(newestListed, s.Number)
		}
	}
	numbers, err := op.list(l)
	if err != nil {
		return err
	}
	if len(numbers) > 0 && op.empty {
		op.empty = false
		op.suspect("meta is missing")
	}
	var newer ranges.Set // stored in newer segments
	for i, number := range numbers {
		known, isListed := listed[number]
		delete(listed, number)
		var seg *segment
		edge := i == 0 || i == len(numbers)-1
		if isListed && known.Closed && len(known.Journal) == 0 && !edge && !q.o.ReadOnly {
			seg = fromSummary(q.dir, l, known)
			if info, err := os.Stat(seg.path); err != nil || info.Size() != seg.fileBytes {
				seg = nil // look closer
			}
		}
		if seg == nil {
			var expect *metaSegment
			if isListed {
				expect = &known
			}
			if seg, err = op.readSegment(l, number, expect, i == 0, newer); err != nil {
				return err
			}
			if seg == nil {
				continue
			}
		}
		if err := seg.measure(&q.mu); err != nil && !errors.Is(err, fs.ErrNotExist) && !seg.salvaged {
			return fmt.Errorf("queue: %w", err)
		}
		newer.AddSet(seg.stored)
		ln.segments = append(ln.segments, seg)
		ln.nextSegment = max(ln.nextSegment, number+1)
		ln.nextCommit = max(ln.nextCommit, seg.last+1)
		ln.next = max(ln.next, seg.stored.Max()+1, seg.journal.Max()+1)
		ln.newest = max(ln.newest, seg.stored.Max())
	}
	slices.Reverse(ln.segments)
	for _, s := range listed {
		op.missing(l, s, s.Number == newestListed && !q.o.ReadOnly)
	}
	ln.next, ln.nextCommit = max(ln.next, 1, ln.released.Max()+1), max(ln.nextCommit, 1)
	ln.newest = max(ln.newest, ln.released.Max())
	return nil
}

// missing notes a segment that meta speaks of and that is not there.
func (op *opening) missing(l Lane, s metaSegment, newest bool) {
	seg := fromSummary(op.q.dir, l, s)
	if newest {
		op.suspect("segment %s is missing", seg.file())
	}
	if op.q.o.ReadOnly {
		return // the live process has removed it meanwhile
	}
	lost := *seg
	lost.stored, lost.journal = nil, nil
	op.gone(&lost, Damage{First: s.FirstTime, Last: s.LastTime, Reason: "the segment is missing"}, s.Stored, s.Journal)
	if !s.Closed {
		op.damage = append(op.damage, Damage{
			Lane: l, Epoch: s.Epoch, File: seg.file(), Reason: "the segment is missing, with what was appended after meta was written",
		})
	}
}

// readSegment reads a segment from end to end and compares it with what meta says of it; nil = it has just gone.
func (op *opening) readSegment(l Lane, number uint64, known *metaSegment, newest bool, newer ranges.Set) (*segment, error) {
	q := op.q
	seg := &segment{
		lane: l, number: number, closed: true, path: filepath.Join(q.dir, l.String(), segmentFile(number)), index: []entry{},
	}
	w := wanted{lane: l, number: number, ours: op.ours()}
	if known != nil {
		seg.spent, w.salvaged = known.Spent, known.Salvaged
		if known.Closed {
			w.last = known.Last
		}
	}
	c, err := loadSegment(seg.path, w)
	if lost, ok := unreadable(err); ok {
		c, err = lost, nil
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && q.o.ReadOnly:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("queue: segment %s: %w", seg.file(), err)
	}
	seg.epoch, seg.first, seg.last, seg.salvaged = c.head.Epoch, c.head.First, c.last, c.salvaged
	if known != nil && seg.salvaged {
		seg.epoch, seg.first = known.Epoch, known.First
	}
	if !c.salvaged {
		op.heads = append(op.heads, c.head)
	} else if c.head.Epoch != 0 {
		op.heads = append(op.heads, segmentHead{Lane: l, Epoch: c.head.Epoch, Number: number, First: c.first})
	}
	for i := range c.batches {
		if !newer.Contains(c.batches[i].Seq) {
			seg.add(c.batches[i])
		}
	}
	for _, j := range c.journal {
		seg.journal.Add(Range{First: j.seq, Last: j.seq})
		op.journal[l] = append(op.journal[l], placedJournal{journaled: j, seg: seg})
	}
	for lane := range c.released {
		q.lanes[lane].released.AddSet(c.released[lane])
	}
	if !c.salvaged {
		op.roomy[seg] = c.used
	}
	op.judge(seg, c, known, newest)
	return seg, nil
}

// judge compares a segment that was read with what meta knew, and notes what is gone.
func (op *opening) judge(seg *segment, c *contents, known *metaSegment, newest bool) {
	// Of a segment that was closed when meta was written, meta knows every number: its damage costs batches, no epoch.
	// One that meta has seen go may come back after a power cut; nothing in it is needed.
	closed := known != nil && known.Closed
	removed := known == nil && op.meta != nil && seg.number < op.meta.Lanes[seg.lane].NextSegment
	tail := newest && !closed && !removed
	var reason string
	if c.salvaged && (known == nil || !known.Salvaged) {
		reason = "damaged segment, read record by record: " + c.damage
		if tail {
			op.suspect("segment %s is damaged", seg.file())
		}
	}
	if known != nil && seg.last < known.Last && !c.salvaged {
		reason = fmt.Sprintf("the segment ends at commit %d, meta has seen %d", seg.last, known.Last)
		if newest {
			op.suspect("segment %s is older than meta", seg.file())
		}
	}
	// Of a live queue that is looked at, meta may well have been read before the segment was made.
	if op.meta != nil && !c.salvaged && c.head.Generation > op.meta.Generation && !op.q.o.ReadOnly {
		op.suspect("meta is older than segment %s", seg.file())
	}
	if known != nil {
		d := Damage{First: known.FirstTime, Last: known.LastTime, Reason: cmp.Or(reason, "batches that meta knows are not in the segment")}
		op.gone(seg, d, known.Stored, known.Journal)
	}
	if reason != "" {
		op.damage = append(op.damage, Damage{
			Lane: seg.lane, Epoch: seg.epoch, File: seg.file(), Reason: reason, Saved: closed || removed,
		})
	}
}

// gone notes what of a segment is not there, of the batches and journal entries that meta knows.
func (op *opening) gone(seg *segment, d Damage, stored, journal ranges.Set) {
	d.Lane, d.Epoch, d.File = seg.lane, seg.epoch, seg.file()
	batches := stored.Clone()
	batches.RemoveSet(seg.stored)
	if len(batches) > 0 {
		d.Seqs = batches
		op.damage = append(op.damage, d)
	}
	entries := journal.Clone()
	entries.RemoveSet(seg.journal)
	if len(entries) > 0 {
		d.Seqs, d.Journal, d.First, d.Last = entries, true, 0, 0
		op.journalGone[seg.lane] = append(op.journalGone[seg.lane], d)
	}
}
