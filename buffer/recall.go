package buffer

import (
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// Recalled is what Recall found of the numbers that were asked for. Numbers that were never given are in none of the three.
type Recalled struct {
	Back []Range // were released and only kept: Next gives them again
	Live []Range // are still to be sent, or to be committed
	Gone []Range // were released, and their bytes are not there any more
}

// Recall takes batches of an epoch that were released and are only kept for sending again, since a store that was restored
// from a copy asks for them. It works in memory: after a restart it is to be asked for again.
//
// What was let go of as a loss stays lost, so that it is not recorded twice: a batch that was damaged, and whatever was
// released in a segment that eviction has begun to empty. What was recalled and is evicted then is a loss like any other.
func (q *Queue) Recall(epoch uint64, l Lane, r ...Range) (Recalled, error) {
	q.commitMu.Lock() // no segment goes meanwhile
	defer q.commitMu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	var out Recalled
	if err := q.releasableLocked(l); err != nil {
		return out, err
	}
	ln := &q.lanes[l]
	i := slices.IndexFunc(q.epochs, func(e epochStart) bool { return e.Epoch == epoch })
	if i < 0 { // nothing is left of it
		var all ranges.Set
		for _, r := range r {
			if r.First <= r.Last {
				all.Add(r)
			}
		}
		out.Gone = all
		return out, nil
	}
	first, last := q.epochs[i].Start[l], ln.next-1
	if i+1 < len(q.epochs) {
		last = q.epochs[i+1].Start[l] - 1
	}
	var back, live, gone ranges.Set
	for _, r := range r {
		asked := Range{First: max(r.First, first), Last: min(r.Last, last)}
		if asked.First > asked.Last {
			continue
		}
		released := ln.released.Within(asked)
		gone.AddSet(released)
		live.Add(asked)
		live.RemoveSet(released)
	}
	for _, s := range ln.segments {
		if s.spent || s.expired {
			continue
		}
		var here ranges.Set
		for _, r := range gone {
			here.AddSet(s.stored.Within(r))
		}
		here.RemoveSet(s.lost)
		if len(here) == 0 {
			continue
		}
		count := here.Count()
		s.live += count
		s.liveBytes += s.bytes / s.batches * count
		s.freed = time.Time{}
		back.AddSet(here)
	}
	gone.RemoveSet(back)
	ln.released.RemoveSet(back)
	q.unsaved[l].RemoveSet(back)
	if len(back) > 0 {
		q.tell()
	}
	return Recalled{Back: back, Live: live, Gone: gone}, nil
}

// spend notes, durably before the first loss record that speaks of it, that a segment is being emptied for want of room. What
// of it is released is not kept from then on: kept is what goes first.
func (q *Queue) spend(seg *segment) {
	if q.o.KeepReleased <= 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !seg.spent {
		seg.spent, q.metaDue = true, true
	}
}
