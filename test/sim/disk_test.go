package sim

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// disk is what outlives the agent's processes: the queue, in memory or in bbolt's files, and word of all that it ever
// confirmed.
type disk struct {
	memory *buffertest.Disk // nil: the real queue, in dir
	dir    string
	copies int // folders that a kill left behind
	seed   uint64
	opened uint64 // times

	mu      sync.Mutex // guards what follows
	full    bool
	slow    time.Duration           // of a commit at most
	batches map[batchName][32]byte  // confirmed, with their bytes' hash
	samples map[string]map[int]bool // confirmed, by signal and serial number
	trouble time.Time               // the first commit that failed may hold what was taken commitEvery before this; zero: none has failed of late
	failed  time.Time               // the last that did
	began   time.Time               // of the commit under way; zero: there is none
	took    time.Duration           // of the last
	late    []lateBatch             // by a planted bug

	recalled uint64 // batches
}

// lateBatch is one that a lying disk has confirmed.
type lateBatch struct {
	at   time.Time
	name batchName
}

type batchName struct {
	epoch uint64
	lane  buffer.Lane
	seq   uint64
}

func newDisk(dir string, seed uint64, real bool) *disk {
	d := &disk{dir: filepath.Join(dir, "queue"), seed: seed, slow: 20 * time.Millisecond,
		batches: map[batchName][32]byte{}, samples: map[string]map[int]bool{}}
	if !real {
		d.memory = buffertest.NewDisk(0xE90C_0000_0000_0001+seed, 0)
	}
	return d
}

// handle is one process's hold on the queue. A process that was killed goes on for a moment in this simulation, and
// its hold is void from then on.
type handle struct {
	buffertest.Queue
	disk  *disk
	plant plant
	names map[uint32]string
	dead  bool // guarded by disk.mu
}

func (d *disk) open(t testing.TB, p plant, names map[uint32]string) *handle {
	t.Helper()
	var q buffertest.Queue
	var err error
	if d.memory != nil {
		q, err = d.memory.Open()
	} else {
		d.opened++
		q, err = buffer.Open(d.dir, buffer.Options{SegmentBytes: 256 << 10, MaxBytes: 64 << 20, MinFree: -1, Rand: randomBytes{rand.New(rand.NewPCG(d.seed<<8|8, d.opened))}}) // another epoch each time, at one moment too
	}
	if err != nil {
		t.Fatal(err)
	}
	return &handle{Queue: q, disk: d, plant: p, names: names}
}

// momentary is randomness that a seed and the moment make: what draws from it once more, or once less, because two
// goroutines came in another order, does not change all that follows.
func momentary(seed, of uint64) *rand.Rand { return rand.New(moment{seed, of}) }

type moment struct{ seed, of uint64 }

func (m moment) Uint64() uint64 {
	return rand.NewPCG(m.seed<<8|m.of, uint64(time.Now().UnixNano())).Uint64()
}

// randomBytes is an io.Reader of a seed's own randomness.
type randomBytes struct{ *rand.Rand }

func (r randomBytes) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return len(p), nil
}

// kill voids the hold. What is not confirmed is gone, or not: a commit under way is durable or is not.
func (h *handle) kill(t testing.TB) {
	t.Helper()
	d := h.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	h.dead = true
	if d.memory != nil {
		d.memory.Crash()
		if h.plant == lieOfCommit {
			d.forgetLocked(t)
		}
		return
	}
	d.copies++
	left := d.dir
	d.dir = fmt.Sprintf("%s-%d", filepath.Join(filepath.Dir(left), "queue"), d.copies)
	if err := os.CopyFS(d.dir, os.DirFS(left)); err != nil {
		t.Fatal(err)
	}
	if err := h.Queue.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(left); err != nil {
		t.Fatal(err)
	}
}

// forgetLocked is a disk that had not written what it had confirmed in the last seconds.
func (d *disk) forgetLocked(t testing.TB) {
	t.Helper()
	q, err := d.memory.Open()
	for _, c := range d.late {
		if err == nil && time.Since(c.at) < 3*time.Second {
			err = q.Release(c.name.lane, buffer.Range{First: c.name.seq, Last: c.name.seq})
		}
	}
	if err == nil {
		err = q.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	d.memory.Crash()
}

func (h *handle) gone() bool {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return h.dead
}

func (h *handle) Next(l buffer.Lane, from uint64) (buffer.Record, error) {
	if h.gone() {
		return buffer.Record{}, buffer.ErrClosed
	}
	r, err := h.Queue.Next(l, from)
	if err == nil && h.plant == releaseOnSend {
		err = h.Queue.Release(l, buffer.Range{First: r.Seq, Last: r.Seq})
	}
	return r, err
}

func (h *handle) Release(l buffer.Lane, r ...buffer.Range) error {
	if h.gone() {
		return buffer.ErrClosed
	}
	return h.Queue.Release(l, r...)
}

func (h *handle) Recall(epoch uint64, l buffer.Lane, r ...buffer.Range) (buffer.Recalled, error) {
	if h.gone() {
		return buffer.Recalled{}, buffer.ErrClosed
	}
	out, err := h.Queue.(*buffertest.Memory).Recall(epoch, l, r...)
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	for _, r := range out.Back {
		h.disk.recalled += r.Count()
	}
	return out, err
}

// Commit takes its time, and the process may be killed on either side of what makes it durable.
func (h *handle) Commit(batches []buffer.Record, journal []buffer.JournalEntry) (err error) {
	d := h.disk
	d.mu.Lock()
	random := momentary(d.seed, 4)
	took := time.Duration(random.Int64N(int64(d.slow)))
	turn := time.Duration(random.Int64N(int64(took) + 1))
	d.began = time.Now()
	d.mu.Unlock()
	time.Sleep(turn)
	if err = h.commit(batches, journal); err == nil {
		time.Sleep(took - turn)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.dead {
		return buffer.ErrClosed
	}
	now := time.Now()
	switch {
	case err != nil:
		d.failed = now
		if d.trouble.IsZero() {
			d.trouble = d.began.Add(-d.took) // what came during the commit before waited for its end
		}
	case now.Sub(d.failed) > 10*time.Second:
		d.trouble = time.Time{}
	}
	d.took, d.began = now.Sub(d.began), time.Time{}
	return err
}

func (h *handle) commit(batches []buffer.Record, journal []buffer.JournalEntry) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	switch {
	case h.dead:
		return buffer.ErrClosed
	case h.disk.full:
		return buffer.ErrFull
	}
	err := h.Queue.Commit(batches, journal)
	if err == nil {
		h.confirmLocked(batches, journal)
	}
	return err
}

// confirmLocked notes what is durable from now on.
func (h *handle) confirmLocked(batches []buffer.Record, journal []buffer.JournalEntry) {
	d := h.disk
	note := func(samples []telemetrypb.Sample) {
		for _, s := range samples {
			name := h.names[s.Signal]
			if d.samples[name] == nil {
				d.samples[name] = map[int]bool{}
			}
			d.samples[name][serialOf(s)] = true
		}
	}
	for _, b := range batches {
		view, err := telemetrypb.OpenBatch(b.Bytes)
		if err != nil {
			panic(err) // the pipeline has just made it
		}
		name := batchName{view.Envelope.GetEpoch(), b.Lane, b.Seq}
		d.batches[name] = sha256.Sum256(b.Bytes)
		if h.plant == lieOfCommit {
			d.late = append(d.late, lateBatch{time.Now(), name})
		}
		if b.Lane != buffer.Control {
			samples, err := view.Samples(nil)
			if err != nil {
				panic(err)
			}
			note(samples)
		}
	}
	for _, e := range journal {
		parts, err := pipeline.ReadJournal([]pipeline.Journal{{Lane: telemetrypb.Lane(e.Lane), Seq: e.Seq, BootID: e.Boot, Catalogue: e.Catalogue, Bytes: e.Bytes}}, h.Epoch())
		if err != nil {
			panic(err)
		}
		for _, part := range parts[0].Parts {
			note(part)
		}
	}
}

// serialOf is the number that a sample carries.
func serialOf(s telemetrypb.Sample) int {
	if s.Kind != telemetrypb.KindString {
		return int(s.Bits)
	}
	n, _ := strconv.Atoi(s.Str[:textSerial])
	return n
}

// sent holds a payload of the vehicle to what the disk had confirmed by then: P2's second half.
func (d *disk) sent(payload []byte) error {
	view, err := telemetrypb.OpenPayload(payload)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, bytes := range view.Batches {
		b, err := telemetrypb.OpenBatch(bytes)
		if err != nil {
			return err
		}
		e := b.Envelope
		name := batchName{e.GetEpoch(), buffer.Lane(e.GetLane()), e.GetSeq()}
		if sum, there := d.batches[name]; !there || sum != sha256.Sum256(bytes) {
			return fmt.Errorf("P2: batch %v was sent and is not on disk as it is (there: %v)", name, there)
		}
	}
	return nil
}
