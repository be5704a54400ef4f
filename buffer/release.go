package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// Release says that batches are needed no more. Only stored batches are released: numbers that are not stored (yet)
// are passed over, so that a receipt that says too much cannot make a batch vanish that is still to come. It works in
// memory; it reaches the disk with the next commit, at Sync, or before a segment is removed. Segments go at the next
// Commit, Sync or Close.
func (q *Queue) Release(l Lane, r ...Range) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.releasableLocked(l); err != nil {
		return err
	}
	for _, r := range r {
		q.releaseLocked(l, r)
	}
	return nil
}

// ReleaseEpoch is Release for the seqs of one epoch: of the ranges only what belongs to that epoch counts. It is what a
// receipt is handed to, since a late one may name numbers of an epoch that is over.
func (q *Queue) ReleaseEpoch(epoch uint64, l Lane, r ...Range) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.releasableLocked(l); err != nil {
		return err
	}
	for i, e := range q.epochs {
		if e.Epoch != epoch {
			continue
		}
		first, last := e.Start[l], ^uint64(0)
		if i == 0 {
			first = 0
		}
		if i+1 < len(q.epochs) {
			last = q.epochs[i+1].Start[l] - 1
		}
		for _, r := range r {
			if c := (Range{First: max(r.First, first), Last: min(r.Last, last)}); c.First <= c.Last {
				q.releaseLocked(l, c)
			}
		}
	}
	return nil
}

func (q *Queue) releasableLocked(l Lane) error {
	if err := q.writableLocked(); err != nil {
		return err
	}
	if !l.Valid() {
		return fmt.Errorf("queue: releasing in lane %d: there is no such lane", l)
	}
	return nil
}

// releaseLocked takes the stored batches of r off the live ones. The caller holds mu.
func (q *Queue) releaseLocked(l Lane, r Range) {
	ln := &q.lanes[l]
	var all ranges.Set
	for _, s := range ln.segments {
		if s.live > 0 {
			all.AddSet(s.release(r, ln.released))
		}
	}
	ln.released.AddSet(all)
	q.unsaved[l].AddSet(all)
}

// takeUnsavedLocked hands out what was released and is not on disk; nothing when it is more than limit ranges.
func (q *Queue) takeUnsavedLocked(limit int) (taken [laneCount + 1]ranges.Set) {
	n := 0
	for l := range q.unsaved {
		n += len(q.unsaved[l])
	}
	if n > limit {
		return taken
	}
	taken, q.unsaved = q.unsaved, taken
	q.waited = false
	return taken
}

func (q *Queue) putBackLocked(taken [laneCount + 1]ranges.Set) {
	for l := range taken {
		q.unsaved[l].AddSet(taken[l])
	}
}

// Sync persists what was released and removes the segments that are not needed any more.
func (q *Queue) Sync() error { return q.sync(false) }

// SyncLate is Sync but for what was released since the last call: that is left to the commits to come, which carry it for
// nothing, where meta costs a file.
func (q *Queue) SyncLate() error { return q.sync(true) }

func (q *Queue) sync(late bool) error {
	q.commitMu.Lock()
	defer q.commitMu.Unlock()
	q.mu.Lock()
	err := q.writableLocked()
	q.mu.Unlock()
	if err != nil || q.untaken {
		return err
	}
	if err := q.collect(false); err != nil {
		return err
	}
	q.mu.Lock()
	waits := false
	for l := range q.unsaved {
		waits = waits || len(q.unsaved[l]) > 0
	}
	due := q.metaDue || waits && (q.waited || !late)
	q.waited = waits
	q.mu.Unlock()
	if !due {
		return nil
	}
	return q.writeMeta(nil, false)
}

// collect removes the segments of which nothing is needed: first meta, durably, then the files. A tail goes only when it
// is worth the work, or with tailsToo. The caller holds commitMu.
func (q *Queue) collect(tailsToo bool) error {
	doomed := map[*segment]bool{}
	var tails []Lane
	q.mu.Lock()
	for _, l := range Lanes() {
		for _, s := range q.lanes[l].segments {
			if !s.free() || q.keptLocked(s) {
				continue
			}
			if t := q.tails[l]; t != nil && t.seg == s {
				if !tailsToo && t.used < min(tailMinimum, q.o.SegmentBytes/2) {
					continue
				}
				tails = append(tails, l)
			}
			doomed[s] = true
		}
	}
	q.mu.Unlock()
	if len(doomed) == 0 {
		return nil
	}
	for _, l := range tails {
		q.closeTail(l, nil)
	}
	if err := q.writeMeta(doomed, false); err != nil {
		return err
	}
	q.mu.Lock()
	for _, l := range Lanes() {
		ln := &q.lanes[l]
		kept := ln.segments[:0:0]
		for _, s := range ln.segments {
			if !doomed[s] {
				kept = append(kept, s)
			}
		}
		ln.segments = kept
	}
	for s := range doomed {
		q.forgetLocked(s)
	}
	q.dropEpochsLocked()
	q.mu.Unlock()
	for s := range doomed {
		if s.salvaged {
			q.setAside(s)
			continue
		}
		if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			q.log.Warn("queue: removing a released segment; it goes at the next start", "file", s.file(), "err", err)
		}
	}
	return nil
}

// dropEpochsLocked forgets old epochs of which nothing is stored or awaited any more.
func (q *Queue) dropEpochsLocked() {
	for len(q.epochs) > 1 {
		for _, l := range Lanes() {
			ln, end := &q.lanes[l], q.epochs[1].Start[l]
			for _, s := range ln.segments {
				if len(s.stored) > 0 && s.stored.Min() < end || len(s.journal) > 0 && s.journal.Min() < end {
					return
				}
			}
		}
		q.epochs = q.epochs[1:]
	}
}

// writeMeta replaces the meta file: everything as it is now, without the doomed segments. The caller holds commitMu.
func (q *Queue) writeMeta(doomed map[*segment]bool, clean bool) error {
	q.mu.Lock()
	m := meta{
		Generation: q.generation + 1, Clean: clean, Epochs: q.epochs, HasParent: q.hasParent, Parent: q.parent,
	}
	if !q.lastCommit.IsZero() {
		m.LastCommit = q.lastCommit.UnixNano()
	}
	for _, l := range Lanes() {
		ln := &q.lanes[l]
		ml := metaLane{Next: ln.durableNextLocked(), NextCommit: ln.nextCommit, NextSegment: ln.nextSegment, Released: ln.released}
		for _, s := range ln.segments {
			if !doomed[s] {
				ml.Segments = append(ml.Segments, s.summary())
			}
		}
		m.Lanes[l] = ml
	}
	contents := appendMeta(nil, &m)
	taken := q.takeUnsavedLocked(int(^uint(0) >> 1))
	q.mu.Unlock()
	err := replaceFile(q.dir, metaName, contents)
	if errors.Is(err, unix.ENOSPC) {
		// Without meta nothing can be removed: the reserve is kept for this.
		if os.Remove(filepath.Join(q.dir, reserveName)) == nil {
			err = replaceFile(q.dir, metaName, contents)
		}
	}
	if err == nil {
		q.keepReserve(int64(len(contents)))
	}
	if err != nil {
		q.mu.Lock()
		q.putBackLocked(taken)
		q.mu.Unlock()
		q.metaDue = true // which of the two is on disk is unknown
		return fmt.Errorf("queue: writing meta: %w", err)
	}
	q.generation, q.metaDue = m.Generation, false
	return nil
}

// keepReserve makes the reserve, a file of room for two metas that gives its blocks when the disk is full. It holds
// nothing and needs no sync.
func (q *Queue) keepReserve(metaBytes int64) {
	path := filepath.Join(q.dir, reserveName)
	want := max(minReserve, 2*metaBytes)
	if info, err := os.Stat(path); err == nil && blocks(info) >= want {
		q.reserveErr = nil
		return
	}
	// Not all zeros, which some file systems would not store.
	q.reserveErr = os.WriteFile(path, bytes.Repeat([]byte("reserve\n"), int(want/8)+1), 0o600)
	if q.reserveErr != nil {
		os.Remove(path) // half of it would not do
	}
}

// Close persists everything, removes what is released, marks the queue as properly closed and lets go of it. Later
// calls give ErrClosed; a second Close does nothing.
func (q *Queue) Close() error {
	q.commitMu.Lock()
	defer q.commitMu.Unlock()
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil
	}
	readOnly := q.o.ReadOnly
	q.closed = true
	q.mu.Unlock()
	q.metrics.unregister()
	if readOnly || q.untaken {
		return nil
	}
	err := q.collect(true)
	for _, l := range Lanes() {
		q.closeTail(l, nil)
	}
	if err == nil {
		err = q.writeMeta(nil, true)
	}
	return errors.Join(err, q.lockFile.Close())
}
