package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// Commit stores batches and journal entries; they are durable when it returns nil. The lanes are written in the order
// control, event, telemetry, raw, each with what it has in one transaction (more when it is larger than a segment).
//
// On an error some lanes may be stored and others not. The same batches may be given again under the same seqs: those
// that are stored are passed over. The journal counts per seq what was confirmed: entries given after an error replace
// those of the failed call. ErrFull: nothing was stored.
//
// Numbers that a control batch calls lost (Record.Lost) are released by the transaction that stores it: before it they may be
// given again after a crash, and from it on they are not.
func (q *Queue) Commit(batches []Record, journal []JournalEntry) error {
	q.commitMu.Lock()
	defer q.commitMu.Unlock()
	start := time.Now()
	work, err := q.plan(batches, journal)
	if err == nil {
		err = q.takeLate()
	}
	if err == nil {
		err = q.makeRoom(work)
	}
	if err == nil {
		err = q.writeWork(work)
	}
	q.metrics.committed(work, time.Since(start), err)
	return err
}

// laneWork is what a Commit has for one lane, in key order.
type laneWork struct {
	batches []*Record
	journal []journalPart
	cost    int64
}

// laneWorks is a commit, by lane.
type laneWorks [laneCount + 1]laneWork

// plan checks a commit and sorts it by lanes, leaving out what is void.
func (q *Queue) plan(batches []Record, journal []JournalEntry) (work laneWorks, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.writableLocked(); err != nil {
		return work, err
	}
	for i := range batches {
		r := &batches[i]
		if err := q.checkLocked("batch", r.Lane, r.Seq, len(r.Bytes)); err != nil {
			return work, err
		}
		for _, lost := range r.Lost {
			if err := q.checkLocked("lost number", lost.Lane, lost.Last, 0); err != nil {
				return work, err
			}
		}
		if q.lanes[r.Lane].storedLocked(r.Seq) {
			continue
		}
		w := &work[r.Lane]
		w.batches = append(w.batches, r)
		w.cost += cost(len(r.Bytes))
	}
	for l := range work {
		w := &work[l]
		slices.SortFunc(w.batches, func(a, b *Record) int { return cmp.Compare(a.Seq, b.Seq) })
		for i := 1; i < len(w.batches); i++ {
			if w.batches[i].Seq == w.batches[i-1].Seq {
				return work, fmt.Errorf("queue: two batches of lane %s with seq %d in one commit", Lane(l), w.batches[i].Seq)
			}
		}
	}
	parts := map[[2]uint64]uint32{}
	for i := range journal {
		e := &journal[i]
		if err := q.checkLocked("journal entry", e.Lane, e.Seq, len(e.Bytes)); err != nil {
			return work, err
		}
		l, w := &q.lanes[e.Lane], &work[e.Lane]
		_, sealed := slices.BinarySearchFunc(w.batches, e.Seq, func(r *Record, seq uint64) int { return cmp.Compare(r.Seq, seq) })
		if sealed || l.storedLocked(e.Seq) {
			continue
		}
		id := [2]uint64{uint64(e.Lane), e.Seq}
		w.journal = append(w.journal, journalPart{entry: e, part: l.parts[e.Seq] + parts[id]})
		w.cost += cost(len(e.Bytes))
		parts[id]++
	}
	for l := range work {
		slices.SortStableFunc(work[l].journal, func(a, b journalPart) int { return cmp.Compare(a.entry.Seq, b.entry.Seq) })
	}
	return work, nil
}

func (q *Queue) writableLocked() error {
	switch {
	case q.closed:
		return ErrClosed
	case q.o.ReadOnly:
		return ErrReadOnly
	}
	return nil
}

func (q *Queue) checkLocked(what string, l Lane, seq uint64, size int) error {
	switch {
	case !l.Valid():
		return fmt.Errorf("queue: %s for lane %d: there is no such lane", what, l)
	case seq == 0 || seq >= q.lanes[l].next:
		return fmt.Errorf("queue: %s of lane %s with seq %d: not reserved", what, l, seq)
	case cost(size)+commitRoom > q.o.SegmentBytes:
		return fmt.Errorf("%w: %s of lane %s, seq %d, %d bytes", ErrTooLarge, what, l, seq, size)
	}
	return nil
}

// writeWork writes the lanes one after the other.
func (q *Queue) writeWork(work laneWorks) (err error) {
	q.mu.Lock()
	unsaved := 0
	for l := range q.unsaved {
		unsaved += len(q.unsaved[l])
	}
	q.mu.Unlock()
	if q.metaDue || unsaved > maxCommitReleased { // else what was released rides on the commit
		if err := q.writeMeta(nil, false); err != nil {
			return err
		}
	}
	stored := false
	defer func() {
		if stored {
			q.tell()
		}
	}()
	for _, l := range Lanes() {
		w := work[l]
		for len(w.batches)+len(w.journal) > 0 {
			n, j, size := fits(w, q.o.SegmentBytes-commitRoom)
			lost, err := q.lost(w.batches[:n])
			if err != nil {
				return err
			}
			if err := q.writeLane(l, w.batches[:n], w.journal[:j], size, lost); err != nil {
				return fmt.Errorf("queue: committing to lane %s: %w", l, err)
			}
			q.mu.Lock()
			for l := range lost {
				q.lanes[l].released.AddSet(lost[l])
			}
			q.mu.Unlock()
			stored = stored || n > 0
			w.batches, w.journal = w.batches[n:], w.journal[j:]
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range Lanes() {
		for _, j := range work[l].journal {
			q.lanes[l].parts[j.entry.Seq] = j.part + 1
		}
	}
	return nil
}

// lost is what some batches call lost. When that is more than a commit's name has room for, meta says it before.
func (q *Queue) lost(batches []*Record) (lost [laneCount + 1]ranges.Set, err error) {
	for _, r := range batches {
		for _, n := range r.Lost {
			lost[n.Lane].Add(n.Range)
		}
	}
	count := 0
	for l := range lost {
		count += len(lost[l])
	}
	if count <= maxCommitReleased {
		return lost, nil
	}
	q.mu.Lock()
	for l := range lost {
		q.lanes[l].released.AddSet(lost[l])
	}
	q.mu.Unlock()
	return nothingGone, q.writeMeta(nil, false)
}

// tell says that there are batches to send.
func (q *Queue) tell() {
	select {
	case q.notify <- struct{}{}:
	default: // one that was not taken yet says the same
	}
}

// fits is how much of a lane's work goes into one transaction.
func fits(w laneWork, limit int64) (batches, journal int, size int64) {
	for _, r := range w.batches {
		c := cost(len(r.Bytes))
		if size+c > limit || batches == maxCommitBatches {
			return batches, 0, size
		}
		batches, size = batches+1, size+c
	}
	for _, e := range w.journal {
		c := cost(len(e.entry.Bytes))
		if size+c > limit || journal == maxCommitJournal {
			break
		}
		journal, size = journal+1, size+c
	}
	return batches, journal, size
}

// nothingGone: a commit that evicts nothing.
var nothingGone [laneCount + 1]ranges.Set

// writeLane writes one transaction to the lane's tail, which it makes or replaces as needed. gone is released by it: on
// the disk with the very commit, in memory by the caller when it has succeeded.
func (q *Queue) writeLane(l Lane, batches []*Record, journal []journalPart, size int64, gone [laneCount + 1]ranges.Set) error {
	t, err := q.tailFor(l, size+commitRoom)
	if err != nil {
		return err
	}
	if !t.allocated && t.used > q.o.SegmentBytes/busyPart && q.mayAllocate(l) {
		t.allocate(q.o.SegmentBytes)
	}
	t.blankAhead(size, q.o.SegmentBytes)
	ln := &q.lanes[l]
	q.mu.Lock()
	head := describe(t.seg, ln.nextCommit, batches, journal)
	ln.nextCommit++ // also when it fails: a number stands for one attempt
	room := maxCommitReleased
	for l := range gone {
		room -= len(gone[l])
	}
	unsaved := q.takeUnsavedLocked(room)
	for l := range unsaved {
		head.Released[l] = unsaved[l].Clone()
		head.Released[l].AddSet(gone[l])
	}
	epochs := map[uint64]uint64{}
	for _, r := range batches {
		epochs[r.Seq] = q.epochOfLocked(l, r.Seq)
	}
	for _, j := range journal {
		epochs[j.entry.Seq] = q.epochOfLocked(l, j.entry.Seq)
	}
	q.mu.Unlock()
	err = t.write(&head, func(seq uint64) uint64 { return epochs[seq] }, batches, journal)
	if err == nil {
		err = writable(q.dir)
	}
	if err != nil {
		q.mu.Lock()
		q.putBackLocked(unsaved)
		q.mu.Unlock()
		q.retire(l, err)
		return err
	}
	measureErr := t.seg.measure(&q.mu)
	q.mu.Lock()
	defer q.mu.Unlock()
	if measureErr != nil {
		q.log.Warn("queue: size of a segment", "file", t.seg.file(), "err", measureErr)
	}
	seg := t.seg
	seg.last = head.Commit
	if len(batches) > 0 {
		seg.freed = time.Time{} // what is kept, is kept from the last release on
	}
	for i, r := range batches {
		seg.add(placed{listed: head.Batches[i], commit: head.Commit})
		seg.live++
		seg.liveBytes += uint64(len(r.Bytes))
		ln.voidLocked(r.Seq)
		ln.newest = max(ln.newest, r.Seq)
		if l == Control && q.hasParent && epochs[r.Seq] == q.epochs[len(q.epochs)-1].Epoch {
			q.hasParent = false // on disk with the next meta; till then it is only told once more
		}
	}
	for _, j := range journal {
		seg.journal.Add(Range{First: j.entry.Seq, Last: j.entry.Seq})
		ln.parts[j.entry.Seq] += 0 // known, but not confirmed before the other lanes are
	}
	if q.o.Now != nil {
		q.lastCommit = q.o.Now()
	}
	return nil
}

// describe lists what a commit holds.
func describe(seg *segment, commit uint64, batches []*Record, journal []journalPart) commitHead {
	head := commitHead{Lane: seg.lane, Epoch: seg.epoch, Commit: commit}
	for _, r := range batches {
		head.Batches = append(head.Batches, listed{
			Seq: r.Seq, Length: uint32(len(r.Bytes)), Samples: r.Samples, First: r.First, Last: r.Last,
		})
	}
	for _, j := range journal {
		head.Journal.Add(Range{First: j.entry.Seq, Last: j.entry.Seq})
	}
	return head
}

// voidLocked forgets the journal entries of a seq.
func (l *lane) voidLocked(seq uint64) {
	if _, ok := l.parts[seq]; !ok {
		return
	}
	delete(l.parts, seq)
	for _, s := range l.segments {
		s.journal.Remove(Range{First: seq, Last: seq})
	}
}

// tailFor gives the lane's tail with room for need bytes.
func (q *Queue) tailFor(l Lane, need int64) (*tail, error) {
	rolled := false
	if t := q.tails[l]; t != nil {
		if t.used+need <= q.o.SegmentBytes && len(t.seg.index) < maxBatches {
			return t, nil
		}
		q.closeTail(l, nil)
		rolled = true
	}
	q.mu.Lock()
	ln := &q.lanes[l]
	head := segmentHead{
		Lane: l, Epoch: q.epochs[len(q.epochs)-1].Epoch, Number: ln.nextSegment, First: ln.nextCommit, Generation: q.generation,
	}
	ln.nextSegment++
	q.mu.Unlock()
	t, err := newTail(q.dir, head, q.o.SegmentBytes, rolled && q.mayAllocate(l))
	if err != nil {
		return nil, fmt.Errorf("making segment %s: %w", filepath.Join(l.String(), segmentFile(head.Number)), err)
	}
	q.tails[l] = t
	q.mu.Lock()
	ln.segments = append(ln.segments, t.seg)
	q.mu.Unlock()
	// What meta says of closed segments saves reading them at the next Open, and that it names the new one shows when that
	// is gone with all that was in it. It must not fail the commit.
	if err := q.writeMeta(nil, false); err != nil {
		q.log.Warn("queue: writing meta", "err", err)
	}
	return t, nil
}

// closeTail closes a lane's tail; its segment takes no more commits.
func (q *Queue) closeTail(l Lane, why error) {
	t := q.tails[l]
	if t == nil {
		return
	}
	q.tails[l] = nil
	err := t.close(why)
	if err == nil && why == nil { // after a failed commit there may be pages that only the disk knows of
		err = q.trim(t.seg, t.used)
	}
	if err != nil {
		q.log.Warn("queue: closing a segment", "file", t.seg.file(), "err", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	t.seg.closed = true
	q.loaded = append(q.loaded, t.seg)
	q.trimLoadedLocked()
}

// retire takes a tail out of use after a failed commit: whether that commit is in the file is unknown, and so is what
// the kernel made of pages it could not write. What was confirmed stays readable. A segment without any is removed.
func (q *Queue) retire(l Lane, why error) {
	t := q.tails[l]
	q.log.Error("queue: commit failed; the segment takes no more", "file", t.seg.file(), "err", why)
	q.closeTail(l, why)
	if t.seg.last >= t.seg.first {
		return
	}
	q.mu.Lock()
	ln := &q.lanes[l]
	ln.segments = slices.DeleteFunc(ln.segments, func(s *segment) bool { return s == t.seg })
	q.forgetLocked(t.seg)
	q.mu.Unlock()
	if err := os.Remove(t.seg.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		q.log.Warn("queue: removing a segment without a commit", "file", t.seg.file(), "err", err)
	}
}

// maxLoaded bounds the indexes in memory, about 100 KB each at the most common sizes.
const maxLoaded = 6

func (q *Queue) trimLoadedLocked() {
	for len(q.loaded) > maxLoaded {
		q.loaded[0].index = nil
		q.loaded = q.loaded[1:]
	}
}

func (q *Queue) forgetLocked(s *segment) {
	q.loaded = slices.DeleteFunc(q.loaded, func(o *segment) bool { return o == s })
}
