package buffer_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// options for tests: small segments, so that they roll.
func options(t testing.TB) buffer.Options {
	o := buffer.Options{SegmentBytes: 256 << 10, MaxBytes: 64 << 20, Rand: rand.Reader}
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	return o
}

func open(t testing.TB, dir string, o buffer.Options) *buffer.Queue {
	t.Helper()
	q, err := buffer.Open(dir, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

func TestQueue(t *testing.T) {
	buffertest.Suite(t, buffertest.Disks{New: func(t *testing.T, maxBytes int64) buffertest.Place {
		dir := t.TempDir()
		o := options(t)
		if maxBytes > 0 {
			o.MaxBytes = maxBytes
		}
		var q *buffer.Queue
		return buffertest.Place{
			Open: func() (_ buffertest.Queue, err error) {
				q, err = buffer.Open(dir, o)
				return q, err
			},
			Crash: func() { q.Abandon() },
		}
	}})
}

func diskUse(t *testing.T, dir string) (files int, size int64) {
	t.Helper()
	for name, b := range tree(t, dir) {
		if strings.HasSuffix(name, ".seg") {
			files++
		}
		if name != "reserve" { // 64 KiB, and stays
			size += int64(len(b))
		}
	}
	return files, size
}

// TestDiskComesBack: what is drained leaves the disk, while the queue is open down to a tail, at Close altogether.
func TestDiskComesBack(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 300, 10000)
	add(t, q, buffer.Event, 20, 100)
	if files, _ := diskUse(t, dir); files < 12 {
		t.Fatalf("%d segments", files)
	}
	q.Release(tele, buffer.Range{First: 1, Last: 300})
	q.Release(buffer.Event, buffer.Range{First: 1, Last: 20})
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	if files, _ := diskUse(t, dir); files > 2 {
		t.Errorf("%d segments after draining, want the tails at most", files)
	}
	if st := q.Stats(); st.DiskBytes > 1<<20 {
		t.Errorf("%d bytes on disk", st.DiskBytes)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if files, size := diskUse(t, dir); files != 0 || size > 1000 {
		t.Errorf("%d segments and %d bytes after Close", files, size)
	}
	q = open(t, dir, options(t))
	if seq := q.Reserve(tele); seq != 301 {
		t.Errorf("the next seq is %d, want 301", seq)
	}
}

// TestJournalAndBatchInTwoSegments: a journal entry keeps its segment until the batch is stored in a later one.
func TestJournalAndBatchInTwoSegments(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	open1 := q.Reserve(tele) // 1, in the first segment
	if err := q.Commit(nil, []buffer.JournalEntry{buffertest.Entry(tele, open1, 0)}); err != nil {
		t.Fatal(err)
	}
	add(t, q, tele, 60, 12000)
	q.Release(tele, buffer.Range{First: 2, Last: 61})
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	first := q.Segments()[0]
	if first.Number != 0 || len(first.Journal) != 1 {
		t.Fatalf("the segment with the journal entry is gone: %+v", q.Segments())
	}
	q.Abandon()
	q = open(t, dir, options(t))
	if r := q.Recovered(); len(r) != 1 || r[0].Seq != open1 {
		t.Fatalf("Recovered() = %+v", r)
	}
	if err := q.Commit([]buffer.Record{buffertest.Batch(tele, open1, 100)}, nil); err != nil {
		t.Fatal(err)
	}
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, s := range q.Segments() {
		if s.Number == 0 {
			t.Error("the first segment stays though its entry is sealed")
		}
	}
	q.Abandon()
	q = open(t, dir, options(t))
	if got := buffertest.Drain(t, q, tele, 0); len(got) != 1 || got[0] != open1 || len(q.Recovered()) != 0 {
		t.Errorf("%v, %v", got, q.Recovered())
	}
}

// TestHalfFailedCommit: the control lane is written, telemetry cannot be; given again, nothing is stored twice.
func TestHalfFailedCommit(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	blocker := filepath.Join(dir, "telemetry")
	if err := os.WriteFile(blocker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, unsealed := q.Reserve(buffer.Control), q.Reserve(buffer.Control)
	s := q.Reserve(tele)
	batches := []buffer.Record{buffertest.Batch(buffer.Control, c, 50), buffertest.Batch(tele, s, 50)}
	for range 3 {
		if err := q.Commit(batches, []buffer.JournalEntry{buffertest.Entry(buffer.Control, unsealed, 0), buffertest.Entry(buffer.Control, unsealed, 1)}); err == nil {
			t.Fatal("committed though the lane's folder is a file")
		}
	}
	if got := buffertest.Drain(t, q, buffer.Control, 0); !slices.Equal(got, []uint64{c}) {
		t.Errorf("control: %v", got)
	}
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	// The caller may cut its journal anew: what it gives after an error replaces what it gave before.
	merged := buffertest.Entry(buffer.Control, unsealed, 5)
	if err := q.Commit(batches, []buffer.JournalEntry{merged}); err != nil {
		t.Fatal(err)
	}
	q.Abandon()
	q = open(t, dir, options(t))
	for l, want := range map[buffer.Lane]uint64{buffer.Control: c, tele: s} {
		if got := buffertest.Drain(t, q, l, 0); !slices.Equal(got, []uint64{want}) {
			t.Errorf("%s: %v, want %d", l, got, want)
		}
	}
	if r := q.Recovered(); len(r) != 1 || !bytes.Equal(r[0].Bytes, merged.Bytes) {
		t.Errorf("Recovered() = %+v, want what was confirmed, once", r)
	}
}

// TestDoubtfulCommit: a commit that failed is on disk all the same, and is made again in the next segment.
func TestDoubtfulCommit(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 2, 100)
	seq, unsealed := q.Reserve(tele), q.Reserve(tele)
	batch := []buffer.Record{buffertest.Batch(tele, seq, 200)}
	journal := []buffer.JournalEntry{buffertest.Entry(tele, unsealed, 0)}
	q.CommitUnconfirmed(batch, journal)
	if err := q.Commit(batch, journal); err != nil {
		t.Fatal(err)
	}
	if n := len(q.Segments()); n != 2 {
		t.Fatalf("%d segments, want 2: one whose commit failed takes no more", n)
	}
	for range 3 {
		if got := buffertest.Drain(t, q, tele, 0); !slices.Equal(got, []uint64{1, 2, seq}) {
			t.Errorf("%v", got)
		}
		if n := q.Stats().Lanes[tele].Batches; n != 3 {
			t.Errorf("%d batches", n)
		}
		q.Abandon()
		q = open(t, dir, options(t))
		if r := q.Recovered(); len(r) != 1 {
			t.Errorf("Recovered() = %+v, want one entry", r)
		}
	}
	q.Release(tele, buffer.Range{First: 1, Last: seq})
	if err := q.Commit([]buffer.Record{buffertest.Batch(tele, unsealed, 10)}, nil); err != nil {
		t.Fatal(err)
	}
	q.Release(tele, buffer.Range{First: unsealed, Last: unsealed})
	if err := q.Close(); err != nil || len(q.Segments()) != 0 {
		t.Errorf("after draining: %v, %v", err, q.Segments())
	}
}

// TestTailCutOff: someone cuts a live tail off. bbolt's mapping faults; the queue says so, goes on in a new segment and
// reports what is gone.
func TestTailCutOff(t *testing.T) {
	dir := t.TempDir()
	o := options(t)
	lost := 0
	o.OnDamage = func(d buffer.Damage) { lost += int(d.Batches) }
	q := open(t, dir, o)
	add(t, q, tele, 4, 9000)
	if err := os.Truncate(filepath.Join(dir, "telemetry", "000000000000.seg"), 0); err != nil {
		t.Fatal(err)
	}
	seq := q.Reserve(tele)
	batch := []buffer.Record{buffertest.Batch(tele, seq, 9000)}
	if err := q.Commit(batch, nil); err == nil {
		t.Error("the first commit after it succeeded")
	}
	if err := q.Commit(batch, nil); err != nil {
		t.Fatalf("the second one: %v", err)
	}
	if got := buffertest.Drain(t, q, tele, 0); !slices.Equal(got, []uint64{seq}) || lost != 4 {
		t.Errorf("%v are there, %d were reported lost", got, lost)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// TestLookWhileLive reads a queue from outside while it is written, drained and its segments come and go.
func TestLookWhileLive(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 1, 100)
	stop := make(chan struct{})
	var commits atomic.Int64
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for n := uint64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := q.Commit([]buffer.Record{buffertest.Batch(tele, q.Reserve(tele), 100+int(n%9)*3000)}, nil); err != nil {
				t.Errorf("Commit: %v", err)
				return
			}
			commits.Add(1)
			if n > 60 {
				q.Release(tele, buffer.Range{First: n - 60, Last: n - 60})
			}
			if n%5 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for looks := 0; looks < 20 || commits.Load() < 200; looks++ {
		ro := options(t)
		ro.ReadOnly, ro.OnDamage = true, func(d buffer.Damage) { t.Errorf("damage in a sound queue: %v", d) }
		look, err := buffer.Open(dir, ro)
		if err != nil {
			t.Fatal(err)
		}
		if look.Epoch() != q.Epoch() {
			t.Errorf("epoch %x, want %x", look.Epoch(), q.Epoch())
		}
		buffertest.Drain(t, look, tele, 0)
		if err := look.Commit(nil, nil); !errors.Is(err, buffer.ErrReadOnly) {
			t.Errorf("Commit: %v, want ErrReadOnly", err)
		}
		if err := look.Release(tele, buffer.Range{First: 1, Last: 9}); !errors.Is(err, buffer.ErrReadOnly) {
			t.Errorf("Release: %v, want ErrReadOnly", err)
		}
		look.Close()
		if t.Failed() {
			break
		}
	}
	close(stop)
	wg.Wait()
}

// TestLookWritesNothing holds a look at a closed queue to leave every byte alone, leftovers included.
func TestLookWritesNothing(t *testing.T) {
	files, _, _ := sample(t)
	files["event/000000000077.seg.tmp"] = []byte("half")
	dir := plant(t, files)
	ro := options(t)
	ro.ReadOnly = true
	q := open(t, dir, ro)
	buffertest.Drain(t, q, tele, 0)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	after := tree(t, dir)
	if len(after) != len(files) {
		t.Errorf("%d files, were %d", len(after), len(files))
	}
	for name := range files {
		if !bytes.Equal(files[name], after[name]) {
			t.Errorf("%s was changed", name)
		}
	}
}

// TestNoLeaks opens, works and closes many times.
func TestNoLeaks(t *testing.T) {
	fds := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	maps := func() int {
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte(".seg"))
	}
	dir := t.TempDir()
	work := func() {
		q := open(t, dir, options(t))
		add(t, q, tele, 30, 12000)
		buffertest.Drain(t, q, tele, 0)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	work()
	before, goroutines, mapped := fds(), runtime.NumGoroutine(), maps()
	for range 5 {
		work()
	}
	if after := fds(); after > before {
		t.Errorf("%d descriptors, were %d", after, before)
	}
	if after := runtime.NumGoroutine(); after > goroutines {
		t.Errorf("%d goroutines, were %d", after, goroutines)
	}
	if n := maps(); n > mapped {
		t.Errorf("%d segments are still mapped, were %d", n, mapped)
	}
	q := open(t, dir, options(t))
	add(t, q, tele, 1, 12000)
	buffertest.Drain(t, q, tele, 0)
	if n := maps(); n != mapped+1 {
		t.Errorf("with one tail and many segments %d are mapped", n-mapped)
	}
}

// TestTooLarge: a batch that no segment can hold is refused, one that just fits goes in, and so does a commit of more
// than a segment.
func TestTooLarge(t *testing.T) {
	q := open(t, t.TempDir(), options(t))
	big, fits := q.Reserve(tele), q.Reserve(tele)
	if err := q.Commit([]buffer.Record{buffertest.Batch(tele, big, 256<<10)}, nil); !errors.Is(err, buffer.ErrTooLarge) {
		t.Errorf("256 KiB into segments of 256 KiB: %v, want ErrTooLarge", err)
	}
	if err := q.Commit([]buffer.Record{buffertest.Batch(tele, fits, 180<<10)}, nil); err != nil {
		t.Errorf("180 KiB: %v", err)
	}
	var many []buffer.Record
	for range 40 {
		many = append(many, buffertest.Batch(tele, q.Reserve(tele), 20<<10))
	}
	if err := q.Commit(many, []buffer.JournalEntry{buffertest.Entry(tele, q.Reserve(tele), 0)}); err != nil {
		t.Errorf("40 × 20 KiB: %v", err)
	}
	if got := buffertest.Drain(t, q, tele, 0); len(got) != 41 {
		t.Errorf("%d batches, want 41", len(got))
	}
	for _, s := range q.Segments() {
		if s.FileBytes > 256<<10+2<<20 || s.DiskBytes > 256<<10 {
			t.Errorf("segment %d: %d bytes on disk", s.Number, s.DiskBytes)
		}
	}
}

// TestControlReserve: when the quota is used up, a control batch still goes in.
func TestControlReserve(t *testing.T) {
	o := options(t)
	o.MaxBytes, o.ControlReserve = 2<<20, 512<<10
	q := open(t, t.TempDir(), o)
	for {
		err := q.Commit([]buffer.Record{buffertest.Batch(tele, q.Reserve(tele), 16<<10)}, nil)
		if errors.Is(err, buffer.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add(t, q, buffer.Control, 3, 1000)
	if used := q.Stats().DiskBytes; used > o.MaxBytes {
		t.Errorf("%d bytes on disk, quota %d", used, o.MaxBytes)
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]buffer.Options{
		"no Rand":      {},
		"SegmentBytes": {Rand: rand.Reader, SegmentBytes: 1000},
		"MaxBytes":     {Rand: rand.Reader, MaxBytes: 1 << 20},
		"reserve":      {Rand: rand.Reader, ControlReserve: 1 << 30},
	} {
		dir := filepath.Join(t.TempDir(), "q")
		if _, err := buffer.Open(dir, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: a folder was made all the same", name)
		}
	}
	o := options(t)
	o.MinFree = 1 << 60
	q := open(t, t.TempDir(), o)
	if err := q.Commit([]buffer.Record{buffertest.Batch(tele, q.Reserve(tele), 10)}, nil); !errors.Is(err, buffer.ErrFull) {
		t.Errorf("below the floor of free disk: %v, want ErrFull", err)
	}
}

// TestMetrics holds the figures to what was done, and a registry to be left when the queue is closed.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	o := options(t)
	o.Metrics = reg
	stamp := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	o.Now = func() time.Time { return stamp }
	dir := t.TempDir()
	for round := range 2 {
		q := open(t, dir, o)
		add(t, q, tele, 5, 1000)
		q.Release(tele, buffer.Range{First: 1, Last: 2})
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += "/" + l.GetValue()
				}
				got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		for name, want := range map[string]float64{
			"waybill_queue_committed_batches_total/telemetry": 5, "waybill_queue_committed_bytes_total/telemetry": 5000,
			"waybill_queue_batches/telemetry": float64(3 + 5*round), "waybill_queue_bytes/telemetry": float64(3000 + 5000*round),
		} {
			if got[name] != want {
				t.Errorf("round %d: %s = %v, want %v", round, name, got[name], want)
			}
		}
		if at := q.Stats().LastCommit; !at.Equal(stamp) {
			t.Errorf("LastCommit = %v", at)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCrashBehindRoll: the power goes when a segment was made and nothing is in it yet.
func TestCrashBehindRoll(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	epoch := q.Epoch()
	add(t, q, tele, 3, 1000)
	for range 3 {
		if err := q.Roll(tele); err != nil {
			t.Fatal(err)
		}
		q.Abandon()
		q = open(t, dir, options(t))
		if got := buffertest.Drain(t, q, tele, 0); len(got) != 3 || q.Epoch() != epoch {
			t.Fatalf("%v; epoch %x, want %x", got, q.Epoch(), epoch)
		}
		if n := len(q.Segments()); n != 1 {
			t.Errorf("%d segments, want the empty one to go", n)
		}
		add(t, q, tele, 1, 10)
		q.Release(tele, buffer.Range{First: 4, Last: 100})
	}
}

// TestMetaCannotBeWritten: a disk that takes no writes at the start does not keep what is stored from going out, and
// nothing is committed before meta is.
func TestMetaCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 5, 1000)
	epoch := q.Epoch()
	q.Abandon()
	blocker := filepath.Join(dir, "meta.tmp", "x")
	if err := os.MkdirAll(blocker, 0o700); err != nil {
		t.Fatal(err)
	}
	q = open(t, dir, options(t))
	if got := buffertest.Drain(t, q, tele, 0); len(got) != 5 || q.Epoch() != epoch {
		t.Errorf("%v, epoch %x, want %x", got, q.Epoch(), epoch)
	}
	batch := []buffer.Record{buffertest.Batch(tele, q.Reserve(tele), 10)}
	if err := q.Commit(batch, nil); err == nil {
		t.Error("committed without meta")
	}
	q.Release(tele, buffer.Range{First: 1, Last: 2})
	if err := q.Sync(); err == nil {
		t.Error("Sync says that it is on disk")
	}
	if err := os.RemoveAll(filepath.Dir(blocker)); err != nil {
		t.Fatal(err)
	}
	if err := q.Commit(batch, nil); err != nil {
		t.Errorf("when it heals: %v", err)
	}
	q.Abandon()
	q = open(t, dir, options(t))
	if got := buffertest.Drain(t, q, tele, 0); !slices.Equal(got, []uint64{3, 4, 5, 6}) {
		t.Errorf("%v", got)
	}
}

// TestManyReleasedRanges: more released ranges than one commit carries reach the disk all the same.
func TestManyReleasedRanges(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	var batches []buffer.Record
	for range 400 {
		batches = append(batches, buffertest.Batch(tele, q.Reserve(tele), 20))
	}
	if err := q.Commit(batches, nil); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 400; seq += 2 {
		q.Release(tele, buffer.Range{First: seq, Last: seq})
	}
	add(t, q, buffer.Event, 1, 10)
	q.Abandon()
	q = open(t, dir, options(t))
	got := buffertest.Drain(t, q, tele, 0)
	if len(got) != 200 || got[0] != 2 || got[199] != 400 {
		t.Errorf("%d are there: %v", len(got), got)
	}
	if st := q.Stats().Lanes[tele]; st.Batches != 200 || st.Bytes != 200*20 {
		t.Errorf("%+v", st)
	}
}
