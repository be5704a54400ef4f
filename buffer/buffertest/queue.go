// Package buffertest holds a queue in memory that behaves like buffer.Queue, for tests and simulations of what stands
// above it, and the suite that holds both to the same behaviour.
package buffertest

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// Queue is what buffer.Queue offers.
type Queue interface {
	Epoch() uint64
	Parent() (buffer.Parent, bool)
	CleanStop() bool
	Recovered() []buffer.JournalEntry
	Reserve(l buffer.Lane) uint64
	Stored(l buffer.Lane, seq uint64) bool
	Commit(batches []buffer.Record, journal []buffer.JournalEntry) error
	Next(l buffer.Lane, from uint64) (buffer.Record, error)
	Release(l buffer.Lane, r ...buffer.Range) error
	ReleaseEpoch(epoch uint64, l buffer.Lane, r ...buffer.Range) error
	Sync() error
	Stats() buffer.Stats
	Notify() <-chan struct{}
	Close() error
}

// Disk is a disk in memory: it outlives the queues opened on it. What a queue committed is on it; what was released
// is on it after the next commit, Sync or Close. It is safe for use from several goroutines.
type Disk struct {
	mu    sync.Mutex
	epoch uint64
	clean bool
	used  bool // a control batch of this epoch is stored
	max   int64
	fail  error
	keep  bool
	open  *Memory
	lanes map[buffer.Lane]*diskLane
}

type diskLane struct {
	next     uint64
	newest   uint64
	batches  map[uint64]buffer.Record
	journal  map[uint64][]buffer.JournalEntry
	released ranges.Set
	kept     map[uint64]buffer.Record // released, for Recall
}

// NewDisk makes an empty disk; a queue on it holds at most maxBytes of batches, 0 = no bound.
func NewDisk(epoch uint64, maxBytes int64) *Disk {
	d := &Disk{epoch: epoch, clean: true, max: maxBytes, lanes: map[buffer.Lane]*diskLane{}}
	for _, l := range buffer.Lanes() {
		d.lanes[l] = &diskLane{next: 1, batches: map[uint64]buffer.Record{}, journal: map[uint64][]buffer.JournalEntry{},
			kept: map[uint64]buffer.Record{}}
	}
	return d
}

// Keep makes queues on this disk keep for ever what they release, for Recall.
func (d *Disk) Keep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keep = true
}

// Fail makes every later Commit and Sync fail with err, until it is called with nil.
func (d *Disk) Fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// Crash drops the open queue as a power cut would: what was not committed or persisted is gone.
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open != nil {
		d.open.closed, d.open = true, nil
		d.clean = false
	}
}

// Open opens the queue that is on the disk.
func (d *Disk) Open() (*Memory, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open != nil {
		return nil, fmt.Errorf("%w by this process", buffer.ErrLocked)
	}
	m := &Memory{d: d, clean: d.clean, notify: make(chan struct{}, 1), lanes: map[buffer.Lane]*memoryLane{}}
	for _, l := range buffer.Lanes() {
		dl := d.lanes[l]
		next := dl.next
		for seq := range dl.journal {
			next = max(next, seq+1)
		}
		pending := ranges.Set{}
		for seq := range dl.batches {
			if !dl.released.Contains(seq) {
				pending.Add(buffer.Range{First: seq, Last: seq})
			}
		}
		for _, seq := range sorted(dl.journal) {
			if _, stored := dl.batches[seq]; !stored && !dl.released.Contains(seq) {
				pending.Add(buffer.Range{First: seq, Last: seq})
				m.recovered = append(m.recovered, dl.journal[seq]...)
			}
		}
		released := ranges.Set{{First: 0, Last: next - 1}}
		released.RemoveSet(pending)
		m.lanes[l] = &memoryLane{next: next, released: released}
	}
	d.open, d.clean = m, false
	return m, nil
}

func sorted(m map[uint64][]buffer.JournalEntry) []uint64 {
	var seqs []uint64
	for seq := range m {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	return seqs
}

// Memory is an open queue on a Disk; see buffer.Queue for what its methods do. It is safe for use from several
// goroutines.
type Memory struct {
	d         *Disk
	closed    bool
	clean     bool
	recovered []buffer.JournalEntry
	notify    chan struct{}
	lanes     map[buffer.Lane]*memoryLane // guarded by d.mu
}

type memoryLane struct {
	next     uint64
	released ranges.Set
}

var _ Queue = (*Memory)(nil)

// Epoch is the disk's epoch.
func (m *Memory) Epoch() uint64 { return m.d.epoch }

// Parent tells of a new queue until it has a control batch.
func (m *Memory) Parent() (buffer.Parent, bool) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	return buffer.Parent{Last: map[buffer.Lane]uint64{}, Reason: "new queue"}, !m.d.used
}

// CleanStop says whether the last queue on the disk was closed.
func (m *Memory) CleanStop() bool { return m.clean }

// Recovered lists the journal entries that are not void.
func (m *Memory) Recovered() []buffer.JournalEntry { return m.recovered }

// Notify gets a value when batches were committed.
func (m *Memory) Notify() <-chan struct{} { return m.notify }

// Reserve gives the next sequence number.
func (m *Memory) Reserve(l buffer.Lane) uint64 {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	ln := m.lanes[l]
	if ln == nil {
		return 0
	}
	ln.next++
	return ln.next - 1
}

// Stored says whether a batch is stored, or was.
func (m *Memory) Stored(l buffer.Lane, seq uint64) bool {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	return l.Valid() && m.stored(l, seq)
}

// Commit stores batches and journal entries.
func (m *Memory) Commit(batches []buffer.Record, journal []buffer.JournalEntry) error {
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.closed {
		return buffer.ErrClosed
	}
	var need int64
	fresh := map[buffer.Lane]map[uint64]buffer.Record{}
	for _, r := range batches {
		if err := m.check(r.Lane, r.Seq); err != nil {
			return err
		}
		for _, lost := range r.Lost {
			if err := m.check(lost.Lane, lost.Last); err != nil {
				return err
			}
		}
		if m.stored(r.Lane, r.Seq) {
			continue
		}
		if fresh[r.Lane] == nil {
			fresh[r.Lane] = map[uint64]buffer.Record{}
		}
		if _, twice := fresh[r.Lane][r.Seq]; twice {
			return fmt.Errorf("queue: two batches of lane %s with seq %d in one commit", r.Lane, r.Seq)
		}
		r.Epoch, r.Bytes = d.epoch, slices.Clone(r.Bytes)
		fresh[r.Lane][r.Seq] = r
		need += int64(len(r.Bytes))
	}
	for _, e := range journal {
		if err := m.check(e.Lane, e.Seq); err != nil {
			return err
		}
	}
	if d.max > 0 && need > 0 && m.bytes()+need > d.max {
		return fmt.Errorf("%w: %d bytes held, quota %d", buffer.ErrFull, m.bytes(), d.max)
	}
	if d.fail != nil {
		return d.fail
	}
	for l, records := range fresh {
		for seq, r := range records {
			for _, lost := range r.Lost {
				m.lanes[lost.Lane].released.Add(lost.Range)
				d.lanes[lost.Lane].released.Add(lost.Range)
				d.lanes[lost.Lane].next = max(d.lanes[lost.Lane].next, lost.Last+1)
			}
			r.Lost = nil
			d.lanes[l].batches[seq] = r
			d.lanes[l].newest = max(d.lanes[l].newest, seq)
			delete(d.lanes[l].journal, seq)
			d.used = d.used || l == buffer.Control
		}
	}
	for _, e := range journal {
		if !m.stored(e.Lane, e.Seq) {
			e.Epoch, e.Bytes = d.epoch, slices.Clone(e.Bytes)
			d.lanes[e.Lane].journal[e.Seq] = append(d.lanes[e.Lane].journal[e.Seq], e)
		}
	}
	m.persist()
	if len(fresh) > 0 {
		select {
		case m.notify <- struct{}{}:
		default:
		}
	}
	return nil
}

func (m *Memory) check(l buffer.Lane, seq uint64) error {
	if !l.Valid() {
		return fmt.Errorf("queue: lane %d: there is no such lane", l)
	}
	if seq == 0 || seq >= m.lanes[l].next {
		return fmt.Errorf("queue: lane %s, seq %d: not reserved", l, seq)
	}
	return nil
}

func (m *Memory) stored(l buffer.Lane, seq uint64) bool {
	_, there := m.d.lanes[l].batches[seq]
	return there || m.lanes[l].released.Contains(seq)
}

func (m *Memory) bytes() (n int64) {
	for l, dl := range m.d.lanes {
		for seq, r := range dl.batches {
			if !m.lanes[l].released.Contains(seq) {
				n += int64(len(r.Bytes))
			}
		}
	}
	return n
}

// persist brings what was released to the disk. The caller holds the disk's lock.
func (m *Memory) persist() {
	for l, ln := range m.lanes {
		dl := m.d.lanes[l]
		for seq := range dl.batches {
			if ln.released.Contains(seq) {
				dl.released.Add(buffer.Range{First: seq, Last: seq})
				dl.next = max(dl.next, seq+1)
				if m.d.keep {
					dl.kept[seq] = dl.batches[seq]
				}
				delete(dl.batches, seq)
			} else {
				dl.next = max(dl.next, seq+1)
			}
		}
	}
}

// Next gives the oldest committed, unreleased batch with seq ≥ from.
func (m *Memory) Next(l buffer.Lane, from uint64) (buffer.Record, error) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if m.closed {
		return buffer.Record{}, buffer.ErrClosed
	}
	if !l.Valid() {
		return buffer.Record{}, fmt.Errorf("queue: lane %d: there is no such lane", l)
	}
	seq, ok := m.live(l).Next(from)
	if !ok {
		return buffer.Record{}, buffer.ErrEmpty
	}
	r := m.d.lanes[l].batches[seq]
	r.Bytes = slices.Clone(r.Bytes)
	return r, nil
}

// live is the set of stored, unreleased seqs.
func (m *Memory) live(l buffer.Lane) ranges.Set {
	var seqs []uint64
	for seq := range m.d.lanes[l].batches {
		if !m.lanes[l].released.Contains(seq) {
			seqs = append(seqs, seq)
		}
	}
	slices.SortFunc(seqs, cmp.Compare[uint64])
	var s ranges.Set
	for _, seq := range seqs {
		s.Add(buffer.Range{First: seq, Last: seq})
	}
	return s
}

// Release releases stored batches.
func (m *Memory) Release(l buffer.Lane, r ...buffer.Range) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if m.closed {
		return buffer.ErrClosed
	}
	if !l.Valid() {
		return fmt.Errorf("queue: lane %d: there is no such lane", l)
	}
	live := m.live(l)
	for _, r := range r {
		if r.First <= r.Last {
			m.lanes[l].released.AddSet(live.Within(r))
		}
	}
	return nil
}

// ReleaseEpoch releases stored batches of one epoch; a Disk knows only one.
func (m *Memory) ReleaseEpoch(epoch uint64, l buffer.Lane, r ...buffer.Range) error {
	if epoch != m.d.epoch {
		return m.Release(l)
	}
	return m.Release(l, r...)
}

// Recall gives out again what was released and kept, until the queue is closed or crashes.
func (m *Memory) Recall(epoch uint64, l buffer.Lane, r ...buffer.Range) (out buffer.Recalled, err error) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if m.closed {
		return out, buffer.ErrClosed
	}
	if epoch != m.d.epoch {
		return buffer.Recalled{Gone: r}, nil
	}
	ln, dl := m.lanes[l], m.d.lanes[l]
	var back, live, gone ranges.Set
	for _, r := range r {
		asked := buffer.Range{First: max(r.First, 1), Last: min(r.Last, ln.next-1)}
		for seq := asked.First; seq <= asked.Last; seq++ {
			one := buffer.Range{First: seq, Last: seq}
			if !ln.released.Contains(seq) {
				live.Add(one)
				continue
			}
			if kept, there := dl.kept[seq]; there {
				dl.batches[seq] = kept
			}
			if _, there := dl.batches[seq]; there {
				back.Add(one)
				ln.released.Remove(one)
			} else {
				gone.Add(one)
			}
		}
	}
	return buffer.Recalled{Back: back, Live: live, Gone: gone}, nil
}

// Sync persists what was released.
func (m *Memory) Sync() error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if m.closed {
		return buffer.ErrClosed
	}
	if m.d.fail != nil {
		return m.d.fail
	}
	m.persist()
	return nil
}

// Stats tells what the queue holds; DiskBytes are the bytes of the batches.
func (m *Memory) Stats() buffer.Stats {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	st := buffer.Stats{Lanes: map[buffer.Lane]buffer.LaneStats{}}
	for _, l := range buffer.Lanes() {
		live := m.live(l)
		s := buffer.LaneStats{Batches: live.Count(), Oldest: live.Min(), Newest: m.d.lanes[l].newest, Next: m.lanes[l].next}
		for seq, r := range m.d.lanes[l].batches {
			if live.Contains(seq) {
				s.Bytes += uint64(len(r.Bytes))
			}
		}
		st.Lanes[l] = s
		st.DiskBytes += int64(s.Bytes)
	}
	return st
}

// Close persists everything and marks the disk as properly left.
func (m *Memory) Close() error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if m.closed {
		return nil
	}
	m.persist()
	m.closed, m.d.open, m.d.clean = true, nil, true
	return nil
}
