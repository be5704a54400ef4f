// Package pipelinetest holds a queue in memory that keeps the promises of pipeline.Queue and can be made to fail, to
// be slow and to crash. It checks what it is given.
package pipelinetest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// ErrCrashed is what every commit gets after Crash.
var ErrCrashed = errors.New("pipelinetest: the queue has crashed")

// Queue is a pipeline.Queue in memory, safe for use from several goroutines. Make it with NewQueue.
type Queue struct {
	// OnCommit, if set, is called ahead of each commit, without a lock: to be slow, or to fail. With an error and
	// lied true the commit takes place all the same, as when the answer of the disk was wrong.
	OnCommit func(batches []pipeline.Sealed, journal []pipeline.Journal) (err error, lied bool)
	// UpTo makes a commit that fails store the batches of the lanes up to this one all the same, as Stored tells.
	UpTo telemetrypb.Lane

	mu       sync.Mutex // guards what follows
	epoch    uint64
	dead     bool
	next     map[telemetrypb.Lane]uint64
	stored   []pipeline.Sealed // in the order in which they were committed
	place    map[key]int       // in stored
	told     map[key]bool      // stored by commits that failed, and Stored tells
	journal  []pipeline.Journal
	commits  int
	problems []string
}

type key struct {
	lane telemetrypb.Lane
	seq  uint64
}

// NewQueue makes an empty queue.
func NewQueue(epoch uint64) *Queue {
	return &Queue{epoch: epoch, next: map[telemetrypb.Lane]uint64{}, place: map[key]int{}, told: map[key]bool{}}
}

// Epoch is as NewQueue was told.
func (q *Queue) Epoch() uint64 { return q.epoch }

// Reserve is the next seq of a lane.
func (q *Queue) Reserve(l telemetrypb.Lane) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next[l]++
	return q.next[l]
}

// Stored tells what a commit that failed has stored, but for a lie.
func (q *Queue) Stored(l telemetrypb.Lane, seq uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.told[key{l, seq}]
}

// Commit keeps copies of all of it, or nothing.
func (q *Queue) Commit(batches []pipeline.Sealed, journal []pipeline.Journal) error {
	var err error
	lied := false
	if q.OnCommit != nil {
		err, lied = q.OnCommit(batches, journal)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.dead:
		return ErrCrashed
	case err != nil && !lied:
		for _, b := range batches {
			if b.Lane <= q.UpTo {
				q.storeLocked(b)
				q.told[key{b.Lane, b.Seq}] = true
			}
		}
		return err
	}
	q.commits++
	if len(batches)+len(journal) == 0 {
		q.problem("an empty commit")
	}
	for i, b := range batches {
		if i > 0 && b.Lane < batches[i-1].Lane {
			q.problem("lane %d after lane %d in one commit", b.Lane, batches[i-1].Lane)
		}
		q.storeLocked(b)
	}
	for _, e := range journal {
		if q.findLocked(e.Lane, e.Seq) != nil {
			q.problem("journal of lane %d seq %d, which is stored already", e.Lane, e.Seq)
		}
		e.Bytes = bytes.Clone(e.Bytes)
		q.journal = append(q.journal, e)
	}
	return err
}

func (q *Queue) storeLocked(b pipeline.Sealed) {
	if old := q.findLocked(b.Lane, b.Seq); old != nil {
		if !bytes.Equal(old.Bytes, b.Bytes) {
			q.problem("lane %d seq %d twice, with different bytes", b.Lane, b.Seq)
		}
		return
	}
	b.Bytes, b.Lost = bytes.Clone(b.Bytes), slices.Clone(b.Lost)
	view, err := telemetrypb.OpenBatch(b.Bytes)
	if err != nil {
		q.problem("lane %d seq %d: %v", b.Lane, b.Seq, err)
		return
	}
	e := view.Envelope
	if e.Lane != b.Lane || e.Seq != b.Seq || e.Samples != b.Samples || e.Epoch != q.epoch {
		q.problem("lane %d seq %d of %d samples: its envelope says %v", b.Lane, b.Seq, b.Samples, e)
	}
	if b.Lane != telemetrypb.Lane_LANE_CONTROL && (e.FirstNs != b.First || e.FirstNs+int64(e.SpanNs) != b.Last) {
		q.problem("lane %d seq %d from %d to %d: its envelope says %v", b.Lane, b.Seq, b.First, b.Last, e)
	}
	q.place[key{b.Lane, b.Seq}] = len(q.stored)
	q.stored = append(q.stored, b)
}

func (q *Queue) findLocked(l telemetrypb.Lane, seq uint64) *pipeline.Sealed {
	if i, ok := q.place[key{l, seq}]; ok {
		return &q.stored[i]
	}
	return nil
}

func (q *Queue) problem(format string, args ...any) {
	q.problems = append(q.problems, fmt.Sprintf(format, args...))
}

// Crash cuts the power: commits fail from here on, and the queue that comes back holds what was committed.
func (q *Queue) Crash() *Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dead = true
	again := NewQueue(q.epoch)
	again.stored, again.place = slices.Clone(q.stored), maps.Clone(q.place)
	again.journal = slices.Clone(q.journal)
	again.problems = slices.Clone(q.problems)
	for _, b := range q.stored {
		again.next[b.Lane] = max(again.next[b.Lane], b.Seq)
		for _, lost := range b.Lost {
			again.next[lost.Lane] = max(again.next[lost.Lane], lost.Last)
		}
	}
	for _, e := range q.journal {
		again.next[e.Lane] = max(again.next[e.Lane], e.Seq)
	}
	return again
}

// Recovered is the journal of batches that are not stored, in order.
func (q *Queue) Recovered() []pipeline.Journal {
	q.mu.Lock()
	defer q.mu.Unlock()
	var left []pipeline.Journal
	for _, e := range q.journal {
		if q.findLocked(e.Lane, e.Seq) == nil {
			left = append(left, e)
		}
	}
	return left
}

// Batches are the stored batches of a lane, in the order in which they were committed.
func (q *Queue) Batches(l telemetrypb.Lane) []pipeline.Sealed {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []pipeline.Sealed
	for _, b := range q.stored {
		if b.Lane == l {
			list = append(list, b)
		}
	}
	return list
}

// Samples are those of a lane's stored batches.
func (q *Queue) Samples(l telemetrypb.Lane) ([]telemetrypb.Sample, error) {
	var samples []telemetrypb.Sample
	for _, b := range q.Batches(l) {
		view, err := telemetrypb.OpenBatch(b.Bytes)
		if err == nil {
			samples, err = view.Samples(samples)
		}
		if err != nil {
			return nil, fmt.Errorf("lane %d seq %d: %w", l, b.Seq, err)
		}
	}
	return samples, nil
}

// Records are those of the control lane.
func (q *Queue) Records() ([]*telemetrypb.Record, error) {
	var records []*telemetrypb.Record
	for _, b := range q.Batches(telemetrypb.Lane_LANE_CONTROL) {
		view, err := telemetrypb.OpenBatch(b.Bytes)
		if err != nil {
			return nil, err
		}
		r, err := view.Records()
		if err != nil {
			return nil, err
		}
		records = append(records, r.Records...)
	}
	return records, nil
}

// Commits counts those that took place.
func (q *Queue) Commits() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.commits
}

// Problems are the rules of pipeline.Queue that were broken.
func (q *Queue) Problems() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.problems)
}
