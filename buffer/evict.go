package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// Eviction is a piece of a lane that is to go for want of room: its oldest batches, of one segment.
type Eviction struct {
	Lane    Lane
	Epoch   uint64   // the current one, in which Reserve counts
	Batches []Record // by seq; their own epochs stand in them
	// Thin says that there is room for smaller copies of them.
	Thin bool
	// Void are numbers of copies that were made for an earlier attempt at these batches and could not be written. They
	// name nothing, now or ever, and belong into the loss record, so that nobody waits for them.
	Void []Range
	// Reserve gives numbers for what is returned.
	Reserve func(Lane) uint64
}

// Evicted is what stands in the place of what goes.
type Evicted struct {
	Losses []Record // batches of the control lane that tell of the loss; at least one
	Copies []Record // of the same lane, smaller; none when Thin was not set
}

// Eviction takes whole steps: the oldest batches of one segment, in
//
//	     Options.OnEvict           copies, if any           loss record and release            when all of it is gone
//	batches ─────────▶ Evicted ───────────────▶ in their lane ─────────────────▶ one commit, control ───────────▶ unlink
//
// The record and the release are one transaction, so that what is recorded as lost is not sent after a power cut, nor
// recorded twice. Between copies and record the originals are still there: a cut leaves both, and the receiver takes
// an original before its copy.
//
// evictStep bounds one step, so that a commit is not held up for the thinning of a whole segment.
const (
	evictBytes   = 256 << 10
	evictBatches = 48 // ranges in one commit's name, with room for what else was released
)

// pendingEviction is a step whose numbers are given and which is not on the disk yet. It is finished before anything else goes.
type pendingEviction struct {
	Evicted
	of     Eviction
	copied bool // the copies are stored
}

// shortage says where room is missing.
type shortage struct {
	lane Lane // 0 = the queue as a whole
	err  error
}

// need is the room that a commit may take: in all, and whether more than the control lane is in it.
func (work *laneWorks) need() (need int64, best Lane, more bool) {
	for l := range work {
		if work[l].cost == 0 {
			continue
		}
		need += work[l].cost + commitRoom
		if best == 0 {
			best = Lane(l)
		}
		more = more || Lane(l) != Control
	}
	return need, best, more
}

// makeRoom frees what is released and holds the commit to the quotas and to the floor of free disk, at the cost of
// what is worth less than what is to be committed.
func (q *Queue) makeRoom(work laneWorks) error {
	if err := q.collect(false); err != nil {
		return err
	}
	need, best, _ := work.need()
	q.needed = need
	if need == 0 {
		return nil
	}
	if q.reserveErr != nil {
		if q.keepReserve(0); q.reserveErr != nil {
			return fmt.Errorf("%w: no room for the reserve: %w", ErrFull, q.reserveErr)
		}
	}
	if err := q.finishEviction(); err != nil {
		return err
	}
	for {
		short, err := q.short(&work, 0)
		if err != nil {
			return err
		}
		if short == nil {
			break
		}
		if gone, err := q.evict(short.lane, best); err != nil {
			return fmt.Errorf("making room (%w): %w", short.err, err)
		} else if !gone {
			return short.err
		}
	}
	// A step ahead of the need, while there is room for copies.
	if q.o.OnEvict == nil || !q.o.Thin {
		return nil
	}
	if short, err := q.short(&work, q.o.SegmentBytes); err == nil && short != nil {
		if _, err := q.evict(short.lane, max(best, Telemetry)); err != nil {
			q.log.Warn("queue: evicting ahead of need", "err", err)
		}
	}
	return nil
}

// short says whether a commit lacks room, with some margin for lanes that can be thinned.
func (q *Queue) short(work *laneWorks, margin int64) (*shortage, error) {
	used, lanes := q.diskBytes()
	need, _, more := work.need()
	for _, l := range Lanes() {
		quota := q.o.LaneBytes[l]
		if quota == 0 || work[l].cost == 0 {
			continue
		}
		ahead := min(margin, quota/8)
		if l == Event {
			ahead = 0 // events are not thinned
		}
		if want := work[l].cost + commitRoom; lanes[l]+want > quota-ahead {
			return &shortage{l, fmt.Errorf("%w: %d bytes of lane %s on disk, %d more wanted, quota %d", ErrFull, lanes[l], l, want, quota)}, nil
		}
	}
	limit := q.o.MaxBytes
	if more {
		limit -= q.o.ControlReserve
	}
	if used+need > limit-min(margin, limit/8) {
		return &shortage{0, fmt.Errorf("%w: %d bytes on disk, %d more wanted, quota %d", ErrFull, used, need, limit)}, nil
	}
	if q.o.MinFree <= 0 {
		return nil, nil
	}
	free, err := freeOn(q.dir)
	if err != nil {
		return nil, err
	}
	if free-need < q.o.MinFree {
		return &shortage{0, fmt.Errorf("%w: %d bytes free on the file system, %d more wanted, floor %d", ErrFull, free, need, q.o.MinFree)}, nil
	}
	return nil, nil
}

// mayAllocate says whether a lane's tail may have the blocks of a whole segment ahead of their use: when that leaves room
// for the commit under way and for as much again. A commit near a bound has to do without.
func (q *Queue) mayAllocate(l Lane) bool {
	ahead := 2*q.o.SegmentBytes + q.needed
	used, lanes := q.diskBytes()
	if quota := q.o.LaneBytes[l]; quota != 0 && lanes[l]+ahead > quota {
		return false
	}
	if limit := q.o.MaxBytes - q.o.ControlReserve; used+ahead > limit-limit/8 { // from there on it is thinned
		return false
	}
	if q.o.MinFree <= 0 {
		return true
	}
	free, err := freeOn(q.dir)
	return err == nil && free-ahead >= q.o.MinFree
}

// trim gives back the blocks that a segment has and does not use.
func (q *Queue) trim(s *segment, used int64) error {
	if err := s.measure(&q.mu); err != nil {
		return err
	}
	if s.fileBytes <= used {
		return nil
	}
	return errors.Join(trim(s.path, used), s.measure(&q.mu))
}

// diskBytes is what the segments occupy, in all and by lane.
func (q *Queue) diskBytes() (sum int64, lanes [laneCount + 1]int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range Lanes() {
		for _, s := range q.lanes[l].segments {
			lanes[l] += s.disk
		}
		sum += lanes[l]
	}
	return sum, lanes
}

// evict takes one step towards more room, of lane or of any; gone is false when there is nothing that is worth less
// than a commit of lane best, or nothing may be evicted.
func (q *Queue) evict(lane, best Lane) (gone bool, err error) {
	if gone, err = q.dropKept(lane); gone || err != nil {
		return gone, err
	}
	if q.o.OnEvict == nil {
		return false, nil
	}
	victims := []Lane{lane}
	if lane == 0 {
		victims = []Lane{Raw, Telemetry, Event}
	}
	for _, l := range victims {
		if l < best && lane == 0 || l == Control {
			continue
		}
		if seg := q.victim(l); seg != nil {
			if err := q.evictFrom(seg); err != nil {
				return false, err
			}
			return true, q.collect(false)
		}
	}
	return false, nil
}

// victim is a lane's oldest segment that goes when its batches do. A tail that is all there is of the lane is closed
// for it.
func (q *Queue) victim(l Lane) *segment {
	q.mu.Lock()
	var seg *segment
	for _, s := range q.lanes[l].segments {
		if s.live > 0 && len(s.journal) == 0 {
			seg = s
			break
		}
	}
	q.mu.Unlock()
	if t := q.tails[l]; t != nil && t.seg == seg {
		q.closeTail(l, nil)
	}
	return seg
}

// evictFrom takes the oldest batches of a closed segment.
func (q *Queue) evictFrom(seg *segment) error {
	of := Eviction{Lane: seg.lane, Epoch: q.Epoch(), Reserve: q.Reserve}
	var size int64
	for from := uint64(0); len(of.Batches) < evictBatches && size < min(evictBytes, q.o.SegmentBytes/2); {
		r, ok, err := q.oldest(seg, from)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		of.Batches = append(of.Batches, r)
		size += cost(len(r.Bytes))
		from = r.Seq + 1
	}
	if len(of.Batches) == 0 {
		return nil // what was left of it was damaged, and is reported
	}
	var err error
	if of.Thin, err = q.roomForCopies(seg.lane, size); err != nil {
		return err
	}
	q.spend(seg)
	return q.begin(of)
}

// begin asks what is to stand in the place of what goes, and writes it.
func (q *Queue) begin(of Eviction) error {
	out, err := q.o.OnEvict(of)
	if err == nil && len(out.Losses) == 0 {
		err = errors.New("no loss record")
	}
	if err == nil {
		err = q.checkEvicted(&of, &out)
	}
	if err != nil {
		return fmt.Errorf("queue: evicting from lane %s: %w", of.Lane, err)
	}
	q.evicting = &pendingEviction{Evicted: out, of: of}
	return q.finishEviction()
}

func (q *Queue) checkEvicted(of *Eviction, out *Evicted) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	check := func(l Lane, list []Record) error {
		for i := range list {
			if list[i].Lane != l {
				return fmt.Errorf("a batch of lane %s where one of %s belongs", list[i].Lane, l)
			}
			if err := q.checkLocked("batch", l, list[i].Seq, len(list[i].Bytes)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(out.Copies) > 0 && !of.Thin {
		return errors.New("copies for which there is no room")
	}
	return errors.Join(check(Control, out.Losses), check(of.Lane, out.Copies))
}

// oldest reads the first live batch of a closed segment from a seq on. What cannot be read is reported, taken as
// released, and passed over.
func (q *Queue) oldest(seg *segment, from uint64) (r Record, ok bool, err error) {
	for {
		q.mu.Lock()
		seq, ok := seg.stored.NextOutside(from, q.lanes[seg.lane].released)
		index, last := seg.index != nil, seg.last
		e, found := seg.find(seq)
		q.mu.Unlock()
		switch {
		case !ok:
			return r, false, nil
		case !index:
			if err := q.loadIndex(seg, last); err != nil {
				return r, false, err
			}
			continue
		}
		one := ranges.Set{{First: seq, Last: seq}}
		if !found {
			q.lose(seg, one, Damage{Reason: "the batch is not in its segment"})
			continue
		}
		h, body, err := readBatch(seg.path, e)
		if err == nil {
			return Record{
				Lane: seg.lane, Seq: h.Seq, Epoch: h.Epoch, Samples: h.Samples, First: h.First, Last: h.Last, Bytes: body,
			}, true, nil
		}
		if !isDamage(err) {
			return r, false, fmt.Errorf("queue: reading batch %d of %s: %w", seq, seg.file(), err)
		}
		d := Damage{Reason: err.Error()}
		if h.Kind != 0 {
			d.Samples, d.First, d.Last = uint64(h.Samples), h.First, h.Last
		}
		q.lose(seg, one, d)
	}
}

// roomForCopies says whether copies of so many bytes of batches can be written before those are gone: they may borrow
// half of what is reserved, since a segment goes for them.
func (q *Queue) roomForCopies(l Lane, size int64) (bool, error) {
	if !q.o.Thin || l == Event {
		return false, nil
	}
	want := size/2 + 2*commitRoom
	if used, _ := q.diskBytes(); used+want > q.o.MaxBytes-q.o.ControlReserve/2 {
		return false, nil
	}
	if q.o.MinFree <= 0 {
		return true, nil
	}
	free, err := freeOn(q.dir)
	return free-want >= q.o.MinFree/2, err
}

// finishEviction writes the step that is under way. After an error it is tried again before the next commit, under the
// same numbers, except that copies which the disk did not take are given up.
func (q *Queue) finishEviction() error {
	p := q.evicting
	if p == nil {
		return nil
	}
	if len(p.Copies) > 0 && !p.copied {
		if err := q.writeCopies(p); err != nil {
			return q.giveUpCopies(p, err)
		}
		p.copied = true
	}
	gone := ranges.Set(p.of.Void).Clone() // of which some may be stored
	for _, r := range p.of.Batches {
		gone.Add(Range{First: r.Seq, Last: r.Seq})
	}
	if err := q.tidyReleased(len(gone)); err != nil {
		return err
	}
	var w laneWork
	if err := q.planInto(&w, p.Losses); err != nil {
		return err
	}
	for len(w.batches) > 0 {
		n, _, size := fits(w, q.o.SegmentBytes-commitRoom)
		var with [laneCount + 1]ranges.Set
		if n == len(w.batches) { // the last of them carries the release
			with[p.of.Lane] = gone
		}
		if err := q.writeLane(Control, w.batches[:n], nil, size, with); err != nil {
			return fmt.Errorf("queue: committing a loss record: %w", err)
		}
		w.batches = w.batches[n:]
	}
	q.mu.Lock()
	for _, r := range gone {
		q.releaseLocked(p.of.Lane, r)
	}
	q.unsaved[p.of.Lane].RemoveSet(gone) // it is on the disk
	if n := uint64(len(p.of.Batches)); len(p.Copies) > 0 {
		q.lanes[p.of.Lane].thinned += n
	} else {
		q.lanes[p.of.Lane].evicted += n
	}
	q.mu.Unlock()
	q.evicting = nil
	q.tell()
	return nil
}

// giveUpCopies makes a step that was to thin one that drops. Nothing of it was told yet, and copies that may have
// reached the disk after all do not count there once meta says so.
func (q *Queue) giveUpCopies(p *pendingEviction, why error) error {
	if err := q.writeMeta(nil, false); err != nil {
		return errors.Join(why, err)
	}
	of := p.of
	of.Thin = false
	void := ranges.Set(of.Void)
	for _, r := range p.Copies {
		void.Add(Range{First: r.Seq, Last: r.Seq})
	}
	of.Void = void
	losses := p.Losses
	reserve := of.Reserve
	of.Reserve = func(l Lane) uint64 { // the numbers of loss records that were not written serve again
		if l == Control && len(losses) > 0 {
			seq := losses[0].Seq
			losses = losses[1:]
			return seq
		}
		return reserve(l)
	}
	q.log.Warn("queue: there was no room to thin; batches are dropped", "lane", of.Lane.String(), "batches", len(of.Batches), "err", why)
	q.evicting = nil
	return q.begin(of)
}

// writeCopies stores the copies in their lane.
func (q *Queue) writeCopies(p *pendingEviction) error {
	var w laneWork
	if err := q.planInto(&w, p.Copies); err != nil {
		return err
	}
	for len(w.batches) > 0 {
		n, _, size := fits(w, q.o.SegmentBytes-commitRoom)
		if err := q.writeLane(p.of.Lane, w.batches[:n], nil, size, nothingGone); err != nil {
			return fmt.Errorf("queue: committing thinned copies: %w", err)
		}
		w.batches = w.batches[n:]
	}
	return nil
}

// planInto puts batches of one lane that are not stored yet in order.
func (q *Queue) planInto(w *laneWork, list []Record) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.writableLocked(); err != nil {
		return err
	}
	for i := range list {
		r := &list[i]
		if q.lanes[r.Lane].storedLocked(r.Seq) {
			continue
		}
		w.batches = append(w.batches, r)
		w.cost += cost(len(r.Bytes))
	}
	slices.SortFunc(w.batches, func(a, b *Record) int { return cmp.Compare(a.Seq, b.Seq) })
	return nil
}

// tidyReleased sees to it that n more released ranges find a place in the next commit's name.
func (q *Queue) tidyReleased(n int) error {
	q.mu.Lock()
	for l := range q.unsaved {
		n += len(q.unsaved[l])
	}
	q.mu.Unlock()
	if n <= maxCommitReleased && !q.metaDue {
		return nil
	}
	return q.writeMeta(nil, false)
}

// dropKept removes the segment, of lane or of any, that was released longest ago: one that is only kept, or a tail that
// was not worth the work before.
func (q *Queue) dropKept(lane Lane) (bool, error) {
	q.mu.Lock()
	var oldest *segment
	for _, l := range Lanes() {
		for _, s := range q.lanes[l].segments {
			if lane != 0 && l != lane || !s.free() || s.expired || s.disk <= commitRoom {
				continue
			}
			if oldest == nil || s.freed.Before(oldest.freed) {
				oldest = s
			}
		}
	}
	if oldest != nil {
		oldest.expired = true
	}
	q.mu.Unlock()
	if oldest == nil {
		return false, nil
	}
	return true, q.collect(true)
}

// keptLocked says whether a segment of which nothing is needed stays for a receiver that may ask again.
func (q *Queue) keptLocked(s *segment) bool {
	if q.o.KeepReleased <= 0 || s.expired || s.spent || s.salvaged || s.batches == 0 {
		return false
	}
	now := q.o.Now()
	if s.freed.IsZero() || s.freed.After(now) { // a clock that was put back begins anew
		s.freed = now
	}
	return now.Sub(s.freed) < q.o.KeepReleased
}

// freeOn is what an unprivileged process may still write to the file system.
func freeOn(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("queue: statfs: %w", err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}
