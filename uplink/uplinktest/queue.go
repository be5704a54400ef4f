package uplinktest

import (
	"fmt"
	"sort"
	"sync"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Queue is a queue in memory, as the uplink sees one. All methods are safe for use from several goroutines.
type Queue struct {
	tenant string
	device string
	notify chan struct{}

	mu       sync.Mutex // guards what follows
	epoch    uint64
	lanes    map[buffer.Lane][]buffer.Record // ascending
	newest   map[buffer.Lane]uint64
	released map[buffer.Lane]uint64 // counts
}

// NewQueue makes an empty queue of a vehicle.
func NewQueue(tenant, device string, epoch uint64) *Queue {
	return &Queue{
		tenant: tenant, device: device, epoch: epoch, notify: make(chan struct{}, 1),
		lanes: map[buffer.Lane][]buffer.Record{}, newest: map[buffer.Lane]uint64{}, released: map[buffer.Lane]uint64{},
	}
}

// Add seals samples into a batch under the lane's next number and commits it.
func (q *Queue) Add(l telemetrypb.Lane, h telemetrypb.Head, samples []telemetrypb.Sample) (buffer.Record, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lane := buffer.Lane(l)
	h.Tenant, h.Device, h.Epoch, h.Lane, h.Seq = q.tenant, q.device, q.epoch, l, q.newest[lane]+1
	var err error
	rec := buffer.Record{Lane: lane, Seq: h.Seq, Epoch: q.epoch, Samples: uint32(len(samples))}
	if l == telemetrypb.Lane_LANE_CONTROL {
		rec.Bytes, err = telemetrypb.AppendControl(nil, &h, &telemetrypb.Records{Records: []*telemetrypb.Record{
			{Record: &telemetrypb.Record_Loss{Loss: &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_OVERLOAD, Count: h.Seq}}},
		}})
	} else {
		rec.Bytes, err = telemetrypb.AppendBatch(nil, &h, samples)
	}
	if err != nil {
		return rec, fmt.Errorf("test queue: %w", err)
	}
	q.commitLocked(rec)
	return rec, nil
}

// Commit puts a batch in as it is.
func (q *Queue) Commit(rec buffer.Record) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.commitLocked(rec)
}

func (q *Queue) commitLocked(rec buffer.Record) {
	list := q.lanes[rec.Lane]
	i := sort.Search(len(list), func(i int) bool { return list[i].Seq >= rec.Seq })
	q.lanes[rec.Lane] = append(list[:i:i], append([]buffer.Record{rec}, list[i:]...)...)
	q.newest[rec.Lane] = max(q.newest[rec.Lane], rec.Seq)
	select {
	case q.notify <- struct{}{}:
	default:
	}
}

// Epoch names the queue's numbers.
func (q *Queue) Epoch() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.epoch
}

// Next is the oldest batch with seq ≥ from.
func (q *Queue) Next(l buffer.Lane, from uint64) (buffer.Record, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.lanes[l]
	i := sort.Search(len(list), func(i int) bool { return list[i].Seq >= from })
	if i == len(list) {
		return buffer.Record{}, buffer.ErrEmpty
	}
	rec := list[i]
	rec.Bytes = append([]byte(nil), rec.Bytes...)
	return rec, nil
}

// Release lets go of batches.
func (q *Queue) Release(l buffer.Lane, ranges ...buffer.Range) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range ranges {
		list := q.lanes[l]
		i := sort.Search(len(list), func(i int) bool { return list[i].Seq >= r.First })
		j := sort.Search(len(list), func(i int) bool { return list[i].Seq > r.Last })
		q.released[l] += uint64(j - i)
		q.lanes[l] = append(list[:i:i], list[j:]...)
	}
	return nil
}

// Stats says what is in the queue.
func (q *Queue) Stats() buffer.Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := buffer.Stats{Lanes: map[buffer.Lane]buffer.LaneStats{}}
	for l, newest := range q.newest {
		lane := buffer.LaneStats{Batches: uint64(len(q.lanes[l])), Newest: newest, Next: newest + 1}
		for i, rec := range q.lanes[l] {
			if i == 0 {
				lane.Oldest = rec.Seq
			}
			lane.Bytes += uint64(len(rec.Bytes))
		}
		s.Lanes[l] = lane
	}
	return s
}

// Notify tells of commits.
func (q *Queue) Notify() <-chan struct{} { return q.notify }

// Len is how many batches are held, all lanes together.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, list := range q.lanes {
		n += len(list)
	}
	return n
}
