package buffer

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Abandon ends the queue as a kill would: nothing more is written, the locks go.
func (q *Queue) Abandon() {
	q.commitMu.Lock()
	defer q.commitMu.Unlock()
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	for l, t := range q.tails {
		if t != nil {
			t.close(nil)
			q.tails[l] = nil
		}
	}
	if q.lockFile != nil {
		unix.Flock(int(q.lockFile.Fd()), unix.LOCK_UN)
		q.lockFile.Close()
	}
}

// SetReaderVersion makes a segment head or meta file, at an offset of b, ask for a newer reader.
func SetReaderVersion(b []byte, at int) {
	be.PutUint16(b[at+6:], formatVersion+1)
	end := len(b)
	if string(b[at:at+4]) == segmentMagic {
		end = at + len(appendSegmentHead(nil, &segmentHead{}))
	}
	be.PutUint32(b[end-4:], checksum(b[at:end-4]))
}

// CommitUnconfirmed brings a commit to the disk and then treats it as failed, as when the last flush gives an error
// though the bytes arrived.
func (q *Queue) CommitUnconfirmed(batches []Record, journal []JournalEntry) {
	q.commitMu.Lock()
	defer q.commitMu.Unlock()
	work, err := q.plan(batches, journal)
	if err != nil {
		panic(err)
	}
	for _, l := range Lanes() {
		if w := work[l]; len(w.batches)+len(w.journal) > 0 {
			t, err := q.tailFor(l, w.cost)
			if err != nil {
				panic(err)
			}
			head := describe(t.seg, q.lanes[l].nextCommit, w.batches, w.journal)
			q.lanes[l].nextCommit++
			err = t.write(&head, func(uint64) uint64 { return t.seg.epoch }, w.batches, w.journal)
			if err != nil {
				panic(err)
			}
			q.retire(l, errors.New("unconfirmed"))
		}
	}
}

// Roll begins a new tail, as a commit that does not fit does before it is written.
func (q *Queue) Roll(l Lane) error {
	q.commitMu.Lock()
	defer q.commitMu.Unlock()
	_, err := q.tailFor(l, q.o.SegmentBytes+1)
	return err
}

// MaxBatch is the largest batch that a segment of so many bytes takes.
func MaxBatch(segmentBytes int64) int { return int(segmentBytes - commitRoom - cost(0)) }
