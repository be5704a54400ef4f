package buffer

import (
	"fmt"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// Replace stores a batch in the place of another one of its lane: the old one is released by the very transaction that
// stores the new one, so that after a power cut there is one of them and never both. r.Seq was reserved. It is for
// batches whose number the receiver has given to something else. When old is not stored any more, nothing is stored.
func (q *Queue) Replace(old uint64, r Record) error {
	q.commitMu.Lock()
	defer q.commitMu.Unlock()
	work, err := q.plan([]Record{r}, nil)
	if err != nil {
		return err
	}
	q.mu.Lock()
	there := q.lanes[r.Lane].storedLocked(old) && !q.lanes[r.Lane].released.Contains(old)
	q.mu.Unlock()
	if !there || len(work[r.Lane].batches) == 0 {
		return nil
	}
	if err := q.takeLate(); err != nil {
		return err
	}
	if err := q.makeRoom(work); err != nil {
		return err
	}
	gone := ranges.Set{{First: old, Last: old}}
	if err := q.tidyReleased(len(gone)); err != nil {
		return err
	}
	var with [laneCount + 1]ranges.Set
	with[r.Lane] = gone
	if err := q.writeLane(r.Lane, work[r.Lane].batches, nil, work[r.Lane].cost, with); err != nil {
		return fmt.Errorf("queue: replacing batch %d of lane %s: %w", old, r.Lane, err)
	}
	q.mu.Lock()
	q.releaseLocked(r.Lane, gone[0])
	q.unsaved[r.Lane].RemoveSet(gone) // it is on the disk
	q.mu.Unlock()
	q.tell()
	return nil
}
