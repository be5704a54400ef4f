package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// Next gives the oldest committed, unreleased batch of a lane with seq ≥ from; ErrEmpty when there is none. Its bytes
// are a copy. Its checksum is verified: a damaged batch is reported, kept aside, counted as released and passed over.
// With several goroutines a batch may be released while it is on its way out of Next.
func (q *Queue) Next(l Lane, from uint64) (Record, error) {
	if !l.Valid() {
		return Record{}, fmt.Errorf("queue: reading lane %d: there is no such lane", l)
	}
	for {
		seg, e, err := q.pick(l, from)
		if err != nil {
			return Record{}, err
		}
		h, body, err := readBatch(seg.path, e)
		if err != nil && q.again(seg, e) {
			h, body, err = q.readStill(seg, e)
		}
		if err == nil {
			return Record{
				Lane: l, Seq: h.Seq, Epoch: h.Epoch, Samples: h.Samples, First: h.First, Last: h.Last,
				Bytes: slices.Clip(body),
			}, nil
		}
		if !isDamage(err) && !errors.Is(err, fs.ErrNotExist) {
			return Record{}, fmt.Errorf("queue: reading batch %d of %s: %w", e.seq, seg.file(), err)
		}
		if h.Kind != 0 && !errors.Is(err, fs.ErrNotExist) {
			if h, body, ok := anotherCopy(seg.path, l, e); ok {
				q.log.Warn("queue: a damaged batch, read from an earlier copy of its page", "file", seg.file(), "seq", e.seq)
				return Record{
					Lane: l, Seq: h.Seq, Epoch: h.Epoch, Samples: h.Samples, First: h.First, Last: h.Last, Bytes: body,
				}, nil
			}
		}
		q.bad(seg, e, h, body, err)
	}
}

// pick finds the place of the batch that Next is to read.
func (q *Queue) pick(l Lane, from uint64) (*segment, entry, error) {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return nil, entry{}, ErrClosed
		}
		var best *segment
		seq := uint64(math.MaxUint64)
		ln := &q.lanes[l]
		for _, s := range ln.segments {
			if s.live == 0 || s.stored.Max() < from || s.stored.Min() >= seq {
				continue
			}
			if n, ok := s.stored.NextOutside(from, ln.released); ok && n < seq {
				best, seq = s, n
			}
		}
		if best == nil {
			q.mu.Unlock()
			return nil, entry{}, ErrEmpty
		}
		if best.index != nil {
			e, ok := best.find(seq)
			q.mu.Unlock()
			if !ok {
				q.lose(best, ranges.Set{{First: seq, Last: seq}}, Damage{Reason: "the batch is not in its segment"})
				continue
			}
			return best, e, nil
		}
		last := best.last
		q.mu.Unlock()
		if err := q.loadIndex(best, last); err != nil {
			return nil, entry{}, err
		}
	}
}

// loadIndex brings a closed segment's index into memory.
func (q *Queue) loadIndex(seg *segment, last uint64) error {
	c, err := loadSegment(seg.path, q.wanted(seg, last))
	if lost, ok := unreadable(err); ok {
		c, err = lost, nil
	}
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("queue: segment %s: %w", seg.file(), err)
	case q.o.ReadOnly:
		q.mu.Lock() // the live process has sent and removed it
		defer q.mu.Unlock()
		for _, r := range seg.stored.Clone() {
			q.releaseLocked(seg.lane, r)
		}
		return nil
	default:
		c = &contents{salvaged: true, damage: "the file is gone"}
	}
	q.useIndex(seg, c)
	return nil
}

// useIndex puts what was read into a closed segment and reports what is missing.
func (q *Queue) useIndex(seg *segment, c *contents) {
	found := &segment{index: []entry{}}
	for i := range c.batches {
		found.add(c.batches[i])
	}
	q.mu.Lock()
	gone := seg.stored.Clone()
	gone.RemoveSet(found.stored)
	gone.RemoveSet(q.lanes[seg.lane].released)
	seg.index = found.index
	news := c.salvaged && !seg.salvaged
	seg.salvaged = seg.salvaged || c.salvaged
	q.forgetLocked(seg)
	q.loaded = append(q.loaded, seg)
	q.trimLoadedLocked()
	q.mu.Unlock()
	if news || len(gone) > 0 {
		q.lose(seg, gone, Damage{Reason: cmp.Or(c.damage, "batches are not in their segment"), Saved: len(gone) == 0})
	}
}

// wanted names a segment to be read again, as far as this queue has confirmed it.
func (q *Queue) wanted(seg *segment, last uint64) wanted {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := wanted{lane: seg.lane, number: seg.number, last: last, salvaged: seg.salvaged}
	if q.sure {
		w.ours = among(q.epochs)
	}
	return w
}

// again says whether a batch that could not be read is worth a second look: it lies in a file that is written to, by
// this process or, read-only, by another.
func (q *Queue) again(seg *segment, e entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return e.at == 0 && (!seg.closed || q.o.ReadOnly)
}

// readStill reads while nothing is written; of a live queue that is a matter of luck, so it tries a few times.
func (q *Queue) readStill(seg *segment, e entry) (h header, body []byte, err error) {
	q.commitMu.Lock()
	defer q.commitMu.Unlock()
	tries := 1
	if q.o.ReadOnly {
		tries = 10
	}
	for range tries {
		if h, body, err = readBatch(seg.path, e); err == nil || errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return h, body, err
}

// bad deals with a batch that cannot be read. With a good header only its bytes are damaged; without, the structure
// that leads to it may be, and the segment is searched record by record, once.
func (q *Queue) bad(seg *segment, e entry, h header, value []byte, why error) {
	one := ranges.Set{{First: e.seq, Last: e.seq}}
	q.mu.Lock()
	stale := q.lanes[seg.lane].released.Contains(e.seq) // released while it was read; its file may be gone already
	q.mu.Unlock()
	switch {
	case stale:
	case q.o.ReadOnly && errors.Is(why, fs.ErrNotExist):
		q.mu.Lock() // the live process has sent and removed it
		q.releaseLocked(seg.lane, one[0])
		q.mu.Unlock()
	case h.Kind != 0 || seg.salvaged:
		d := Damage{Reason: why.Error()}
		if h.Kind != 0 {
			d.Samples, d.First, d.Last = uint64(h.Samples), h.First, h.Last
		}
		if !q.o.ReadOnly {
			d.Aside = q.keepAside(fmt.Sprintf("%s-%016x-%d.rec", seg.lane, seg.epoch, e.seq), value)
		}
		q.lose(seg, one, d)
	default:
		q.search(seg, why)
	}
}

// search salvages a segment whose structure is damaged. A tail takes no more commits after that.
func (q *Queue) search(seg *segment, why error) {
	q.commitMu.Lock()
	if t := q.tails[seg.lane]; t != nil && t.seg == seg {
		q.closeTail(seg.lane, nil)
	}
	q.mu.Lock()
	last := seg.last
	q.mu.Unlock()
	c, err := salvageFile(seg.path, q.wanted(seg, last), why.Error())
	q.commitMu.Unlock()
	if err != nil {
		c = &contents{salvaged: true, damage: errors.Join(why, err).Error()}
	}
	q.useIndex(seg, c)
}

// lose reports batches that cannot be delivered and takes them as released.
func (q *Queue) lose(seg *segment, seqs ranges.Set, d Damage) {
	d.Lane, d.Epoch, d.File, d.Seqs, d.Batches = seg.lane, seg.epoch, seg.file(), seqs, seqs.Count()
	if d.Batches > 0 {
		q.mu.Lock()
		d.Epoch = q.epochOfLocked(seg.lane, seqs.Min())
		q.mu.Unlock()
	}
	q.report(&d)
	q.mu.Lock()
	defer q.mu.Unlock()
	seg.lost.AddSet(seqs)
	for _, r := range seqs {
		q.releaseLocked(seg.lane, r)
	}
}

// report tells of damage. It is called with no lock held.
func (q *Queue) report(d *Damage) {
	q.mu.Lock()
	q.damaged += d.Batches
	q.mu.Unlock()
	q.log.Error("queue: damage", "file", d.File, "lane", d.Lane.String(), "epoch", d.Epoch, "seqs", d.Seqs,
		"samples", d.Samples, "aside", d.Aside, "reason", d.Reason)
	if q.o.OnDamage != nil {
		q.o.OnDamage(*d)
	}
}
