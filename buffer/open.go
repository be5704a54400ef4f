package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"io"
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
	heads   []segmentHead // of the segments that were read
	empty   bool          // there was nothing at all
	temps   []string      // leftovers to remove
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
	} else {
		if err := makeFolder(dir); err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
		if q.lockFile, err = lock(dir, o.LockTimeout); err != nil {
			return nil, err
		}
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
	op := &opening{q: q}
	if err := op.readMeta(); err != nil {
		return err
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
		} else if strings.HasSuffix(n.Name(), tmpSuffix) {
			op.temps = append(op.temps, filepath.Join(folder, n.Name()))
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
		m := &op.meta.Lanes[l]
		ln.next, ln.nextCommit, ln.nextSegment, ln.released = m.Next, m.NextCommit, m.NextSegment, m.Released.Clone()
		for _, s := range m.Segments {
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
		if err := seg.measure(&q.mu); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
	op.damage = append(op.damage, Damage{
		Lane: l, Epoch: s.Epoch, Seqs: s.Stored.Clone(), First: s.FirstTime, Last: s.LastTime, File: seg.file(),
		Reason: "the segment is missing",
	})
}

// readSegment reads a segment from end to end and compares it with what meta says of it; nil = it has just gone.
func (op *opening) readSegment(l Lane, number uint64, known *metaSegment, newest bool, newer ranges.Set) (*segment, error) {
	q := op.q
	seg := &segment{
		lane: l, number: number, closed: true, path: filepath.Join(q.dir, l.String(), segmentFile(number)), index: []entry{},
	}
	var last uint64
	if known != nil && known.Closed {
		last = known.Last
	}
	c, err := loadSegment(seg.path, l, number, last)
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
	op.judge(seg, c, known, newest)
	return seg, nil
}

// judge compares a segment that was read with what meta knew, and notes what is gone.
func (op *opening) judge(seg *segment, c *contents, known *metaSegment, newest bool) {
	d := Damage{Lane: seg.lane, Epoch: seg.epoch, File: seg.file()}
	if c.salvaged {
		d.Reason = "damaged segment, read record by record: " + c.damage
		if newest {
			op.suspect("segment %s is damaged", seg.file())
		}
	} else if newest && !c.provable {
		op.suspect("segment %s: one of its two meta pages is damaged", seg.file())
	}
	if known != nil && seg.last < known.Last {
		d.Reason = cmp.Or(d.Reason, fmt.Sprintf("the segment ends at commit %d, meta has seen %d", seg.last, known.Last))
		if newest {
			op.suspect("segment %s is older than meta", seg.file())
		}
	}
	// Of a live queue that is looked at, meta may well have been read before the segment was made.
	if op.meta != nil && !c.salvaged && c.head.Generation > op.meta.Generation && !op.q.o.ReadOnly {
		op.suspect("meta is older than segment %s", seg.file())
	}
	if known != nil {
		gone := known.Stored.Clone()
		gone.RemoveSet(seg.stored)
		if len(gone) > 0 {
			d.Seqs = gone
			d.Reason = cmp.Or(d.Reason, "batches that meta knows are not in the segment")
		}
		d.First, d.Last = known.FirstTime, known.LastTime
	}
	if d.Reason != "" {
		op.damage = append(op.damage, d)
	}
}

// settle decides on the epoch.
func (op *opening) settle() error {
	q := op.q
	for _, h := range op.heads {
		q.generation = max(q.generation, h.Generation) // a new meta is newer than every segment
	}
	if op.meta != nil {
		q.epochs = op.meta.Epochs
		q.hasParent, q.parent = op.meta.HasParent, op.meta.Parent
	} else {
		op.epochsFromSegments()
	}
	if len(op.reasons) > 0 || op.empty {
		q.clean = op.empty
	}
	if q.o.ReadOnly {
		if len(q.epochs) == 0 {
			q.epochs = []epochStart{{}}
		}
		for _, why := range op.reasons {
			op.damage = append(op.damage, Damage{File: metaName, Reason: why + ": a new epoch begins at the next start"})
		}
		return nil
	}
	if len(op.reasons) == 0 && len(q.epochs) > 0 {
		return nil
	}
	q.parent = Parent{Last: map[Lane]uint64{}, Reason: strings.Join(op.reasons, "; ")}
	if op.empty {
		q.parent.Reason = "new queue"
	}
	begin := epochStart{}
	for _, l := range Lanes() {
		q.parent.Last[l] = q.lanes[l].next - 1
		begin.Start[l] = q.lanes[l].next
	}
	if n := len(q.epochs); n > 0 {
		q.parent.Epoch = q.epochs[n-1].Epoch
	}
	for begin.Epoch == 0 || begin.Epoch == q.parent.Epoch {
		var b [8]byte
		if _, err := io.ReadFull(q.o.Rand, b[:]); err != nil {
			return fmt.Errorf("queue: making an epoch: %w", err)
		}
		begin.Epoch = be.Uint64(b[:])
	}
	q.hasParent = true
	q.epochs = append(q.epochs, begin)
	if !op.empty {
		q.log.Error("queue: a new epoch begins", "reason", q.parent.Reason, "parent", q.parent.Epoch)
	}
	return nil
}

// epochsFromSegments puts the epochs together when meta is gone.
func (op *opening) epochsFromSegments() {
	slices.SortStableFunc(op.heads, func(a, b segmentHead) int { return cmp.Compare(a.Generation, b.Generation) })
	q := op.q
	for _, h := range op.heads {
		i := slices.IndexFunc(q.epochs, func(e epochStart) bool { return e.Epoch == h.Epoch })
		if i < 0 {
			i = len(q.epochs)
			q.epochs = append(q.epochs, epochStart{Epoch: h.Epoch})
		}
		for _, s := range q.lanes[h.Lane].segments {
			if s.number != h.Number {
				continue
			}
			for _, first := range [...]uint64{s.stored.Min(), s.journal.Min()} {
				if start := &q.epochs[i].Start[h.Lane]; first != 0 && (*start == 0 || first < *start) {
					*start = first
				}
			}
		}
	}
	// A lane of which an epoch has no segment gets none of the seqs: the next epoch begins at once.
	for i := len(q.epochs) - 1; i >= 0; i-- {
		for _, l := range Lanes() {
			if q.epochs[i].Start[l] != 0 {
				continue
			}
			q.epochs[i].Start[l] = q.lanes[l].next
			if i+1 < len(q.epochs) {
				q.epochs[i].Start[l] = q.epochs[i+1].Start[l]
			}
		}
	}
}

// recover reads the journal entries that are not void.
func (op *opening) recover() {
	q := op.q
	for _, l := range Lanes() {
		ln := &q.lanes[l]
		list := op.journal[l]
		slices.SortStableFunc(list, func(a, b placedJournal) int {
			return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.commit, b.commit))
		})
		// Entry number p of a seq replaces what an earlier commit wrote from p on: that was a call that failed and was
		// made again.
		var entries []journalRead
		for _, j := range list {
			if ln.storedLocked(j.seq) {
				continue
			}
			read, err := readJournal(j.seg.path, j.journaled)
			if err != nil && j.at == 0 {
				read, err = salvageJournal(j, err)
			}
			if err != nil {
				q.mu.Lock()
				epoch := q.epochOfLocked(l, j.seq)
				q.mu.Unlock()
				op.damage = append(op.damage, Damage{
					Lane: l, Epoch: epoch, Seqs: []Range{{First: j.seq, Last: j.seq}}, Journal: true, File: j.seg.file(),
					Reason: "journal entry: " + err.Error(),
				})
			}
			for _, r := range read {
				n := len(entries)
				for n > 0 && entries[n-1].entry.Seq == j.seq && entries[n-1].part >= r.part {
					n--
				}
				entries = append(entries[:n], r)
			}
		}
		for _, e := range entries {
			q.recovered = append(q.recovered, e.entry)
			ln.parts[e.entry.Seq] = e.part + 1
		}
		for _, s := range ln.segments {
			for _, r := range s.journal.Clone() {
				for seq := r.First; ; seq++ {
					if _, needed := ln.parts[seq]; !needed {
						s.journal.Remove(Range{First: seq, Last: seq})
					}
					if seq == r.Last {
						break
					}
				}
			}
		}
	}
}

// salvageJournal looks for the journal entries of a seq in a commit that cannot be read by its structure.
func salvageJournal(j placedJournal, why error) (list []journalRead, err error) {
	j.seg.salvaged = true
	c, err := salvageFile(j.seg.path, j.seg.lane, j.seg.number, 0, "")
	if err != nil {
		return nil, errors.Join(why, err)
	}
	for _, found := range c.journal {
		if found.seq != j.seq || found.commit != j.commit {
			continue
		}
		if read, err := readJournal(j.seg.path, found); err == nil {
			list = append(list, read...)
		}
	}
	slices.SortFunc(list, func(a, b journalRead) int { return cmp.Compare(a.part, b.part) })
	return list, why
}

// journalRead is a journal entry off the disk, and its place among those of its seq.
type journalRead struct {
	entry JournalEntry
	part  uint32
}

// forget counts what is live, and takes every number below next that is neither stored nor journaled as done with: it
// was released, lost, or given out and never written. So the set of released numbers stays as small as what is pending.
func (op *opening) forget() {
	q := op.q
	for _, l := range Lanes() {
		ln := &q.lanes[l]
		var pending ranges.Set
		for _, s := range ln.segments {
			pending.AddSet(s.stored)
		}
		pending.RemoveSet(ln.released)
		for seq := range ln.parts {
			pending.Add(Range{First: seq, Last: seq})
		}
		lost := ranges.Set{{First: 0, Last: ln.next - 1}}
		lost.RemoveSet(pending)
		was := ln.released
		ln.released = lost
		for _, s := range ln.segments {
			live := s.stored.Clone()
			live.RemoveSet(ln.released)
			s.live, s.liveBytes = live.Count(), 0
			if s.live > 0 && s.index != nil {
				s.liveBytes = s.sizeOf(live, s.live)
			} else if s.live > 0 {
				s.liveBytes = s.bytes / s.batches * s.live
			}
			if s.index != nil && s.closed {
				q.loaded = append(q.loaded, s)
			}
		}
		q.trimLoadedLocked()
		// What is reported lost: not what was released before, nor what is there after all, in another segment or in
		// the journal.
		for i := range op.damage {
			d := &op.damage[i]
			if d.Lane != l || d.Journal || len(d.Seqs) == 0 {
				continue
			}
			seqs := ranges.Set(d.Seqs)
			seqs.RemoveSet(was)
			seqs.RemoveSet(pending)
			d.Seqs, d.Batches = seqs, seqs.Count()
		}
	}
	// A segment that is missing or shorter, and of which nothing was needed, is no loss.
	op.damage = slices.DeleteFunc(op.damage, func(d Damage) bool {
		return d.Seqs != nil && len(d.Seqs) == 0 && !strings.HasPrefix(d.Reason, "damaged segment")
	})
}
