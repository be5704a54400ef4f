package buffertest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
)

// Disks makes places for queues, for one implementation.
type Disks struct {
	// New makes an empty place; a queue on it holds at most about maxBytes, 0 = plenty.
	New func(t *testing.T, maxBytes int64) Place
}

// Place is where a queue lives.
type Place struct {
	Open  func() (Queue, error)
	Crash func() // ends the open queue without Close
}

func (p Place) open(t *testing.T) Queue {
	t.Helper()
	q, err := p.Open()
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// Batch makes a batch whose bytes can be told from any other's.
func Batch(l buffer.Lane, seq uint64, size int) buffer.Record {
	b := fmt.Appendf(nil, "batch %s %d:", l, seq)
	for i := len(b); i < size; i++ {
		b = append(b, byte(uint64(i)*seq>>3)^byte(i))
	}
	return buffer.Record{Lane: l, Seq: seq, Samples: uint32(seq) + 3, First: int64(seq) * 1000, Last: int64(seq)*1000 + 999, Bytes: b}
}

// Entry makes a journal entry that can be told from any other.
func Entry(l buffer.Lane, seq uint64, part int) buffer.JournalEntry {
	return buffer.JournalEntry{
		Lane: l, Seq: seq, Boot: [16]byte{1, 2, byte(part)}, BootCount: uint32(part) + 7, Catalogue: [16]byte{15: 9},
		Bytes: fmt.Appendf(nil, "journal %s %d.%d", l, seq, part),
	}
}

func sameRecord(a, b buffer.Record) bool {
	return a.Lane == b.Lane && a.Seq == b.Seq && a.Samples == b.Samples && a.First == b.First && a.Last == b.Last && bytes.Equal(a.Bytes, b.Bytes)
}

// Drain reads a lane from a number on, without releasing.
func Drain(t testing.TB, q Queue, l buffer.Lane, from uint64) []uint64 {
	t.Helper()
	var seqs []uint64
	for {
		r, err := q.Next(l, from)
		if errors.Is(err, buffer.ErrEmpty) {
			return seqs
		}
		if err != nil {
			t.Fatalf("Next(%s, %d): %v", l, from, err)
		}
		if want := Batch(l, r.Seq, len(r.Bytes)); !sameRecord(r, want) {
			t.Fatalf("Next(%s, %d): batch %d is not what was committed", l, from, r.Seq)
		}
		if r.Epoch != q.Epoch() {
			t.Fatalf("Next(%s, %d): epoch %x, want %x", l, from, r.Epoch, q.Epoch())
		}
		seqs, from = append(seqs, r.Seq), r.Seq+1
	}
}

func commit(t testing.TB, q Queue, batches []buffer.Record, journal []buffer.JournalEntry) {
	t.Helper()
	if err := q.Commit(batches, journal); err != nil {
		t.Fatalf("Commit: %v", err)
	}
}

func fill(t testing.TB, q Queue, l buffer.Lane, n, size int) {
	t.Helper()
	for range n {
		commit(t, q, []buffer.Record{Batch(l, q.Reserve(l), size)}, nil)
	}
}

func wantSeqs(t testing.TB, what string, got []uint64, want ...uint64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: seqs %v, want %v", what, got, want)
	}
}

const tele = buffer.Telemetry

// Suite holds an implementation to the behaviour of the queue.
func Suite(t *testing.T, d Disks) {
	for name, test := range map[string]func(t *testing.T, d Disks){
		"New": testNew, "Order": testOrder, "Idempotent": testIdempotent, "Release": testRelease, "Journal": testJournal,
		"Restart": testRestart, "DrainedRestart": testDrainedRestart, "Quota": testQuota, "Closed": testClosed,
		"Refused": testRefused, "Concurrent": testConcurrent, "Epoch": testReleaseEpoch, "Stats": testStats,
		"Copies": testCopies, "Parent": testParent, "Lost": testLost,
	} {
		t.Run(name, func(t *testing.T) { test(t, d) })
	}
}

func testNew(t *testing.T, d Disks) {
	q := d.New(t, 0).open(t)
	if q.Epoch() == 0 || !q.CleanStop() || len(q.Recovered()) != 0 {
		t.Errorf("new queue: epoch %x, clean %v, recovered %d", q.Epoch(), q.CleanStop(), len(q.Recovered()))
	}
	if p, ok := q.Parent(); !ok || p.Epoch != 0 {
		t.Errorf("Parent() = %+v, %v, want one without an epoch", p, ok)
	}
	for _, l := range buffer.Lanes() {
		if _, err := q.Next(l, 0); !errors.Is(err, buffer.ErrEmpty) {
			t.Errorf("Next(%s) of a new queue: %v, want ErrEmpty", l, err)
		}
		if seq := q.Reserve(l); seq != 1 {
			t.Errorf("Reserve(%s) = %d, want 1", l, seq)
		}
	}
}

func testOrder(t *testing.T, d Disks) {
	q := d.New(t, 0).open(t)
	a, b, c := q.Reserve(tele), q.Reserve(tele), q.Reserve(tele)
	e := q.Reserve(buffer.Event)
	commit(t, q, []buffer.Record{Batch(tele, c, 100), Batch(buffer.Event, e, 10), Batch(tele, b, 5000)}, nil)
	wantSeqs(t, "before the first is committed", Drain(t, q, tele, 0), b, c)
	commit(t, q, []buffer.Record{Batch(tele, a, 0)}, nil)
	wantSeqs(t, "all", Drain(t, q, tele, 0), a, b, c)
	wantSeqs(t, "from the second", Drain(t, q, tele, b), b, c)
	wantSeqs(t, "events", Drain(t, q, buffer.Event, 0), e)
	select {
	case <-q.Notify():
	default:
		t.Error("Notify has nothing after a commit")
	}
	select {
	case <-q.Notify():
		t.Error("Notify has more than one value")
	default:
	}
}

func testIdempotent(t *testing.T, d Disks) {
	q := d.New(t, 0).open(t)
	seq := q.Reserve(tele)
	commit(t, q, []buffer.Record{Batch(tele, seq, 300)}, nil)
	other := Batch(tele, seq, 300)
	other.Bytes = []byte("another")
	commit(t, q, []buffer.Record{other}, nil)
	wantSeqs(t, "stored once, as it was first", Drain(t, q, tele, 0), seq)
	if n := q.Stats().Lanes[tele].Batches; n != 1 {
		t.Errorf("Stats: %d batches, want 1", n)
	}
	if err := q.Release(tele, buffer.Range{First: seq, Last: seq}); err != nil {
		t.Fatal(err)
	}
	commit(t, q, []buffer.Record{other}, nil)
	wantSeqs(t, "released, then given again", Drain(t, q, tele, 0))
}

func testRelease(t *testing.T, d Disks) {
	p := d.New(t, 0)
	q := p.open(t)
	fill(t, q, tele, 10, 2000)
	late := q.Reserve(tele) // 11: not committed
	release := func(first, last uint64) {
		t.Helper()
		if err := q.Release(tele, buffer.Range{First: first, Last: last}); err != nil {
			t.Fatal(err)
		}
	}
	release(9, 10) // live first
	release(2, 3)
	release(2, 4) // overlaps
	release(8, 7) // empty
	wantSeqs(t, "released in the middle", Drain(t, q, tele, 0), 1, 5, 6, 7, 8)
	release(5, ^uint64(0)) // a receipt that says too much
	wantSeqs(t, "too much", Drain(t, q, tele, 0), 1)
	commit(t, q, []buffer.Record{Batch(tele, late, 50)}, nil)
	wantSeqs(t, "what came after is not released", Drain(t, q, tele, 0), 1, late)
	p.Crash()
	q = p.open(t)
	wantSeqs(t, "after a crash: released with the commit", Drain(t, q, tele, 0), 1, late)
	release(1, 1)
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	p.Crash()
	q = p.open(t)
	wantSeqs(t, "after Sync and a crash", Drain(t, q, tele, 0), late)
	release(late, late)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = p.open(t)
	wantSeqs(t, "after Close", Drain(t, q, tele, 0))
	next := q.Reserve(tele)
	if next <= late {
		t.Errorf("Reserve gave %d again", next)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if seq := p.open(t).Reserve(tele); seq != next { // else it would be missing at the receiver, and nothing would say why
		t.Errorf("a number that never reached the disk was %d, and after Close it is %d", next, seq)
	}
}

func testJournal(t *testing.T, d Disks) {
	p := d.New(t, 0)
	q := p.open(t)
	a, b, c := q.Reserve(tele), q.Reserve(tele), q.Reserve(buffer.Raw)
	entries := func(list ...buffer.JournalEntry) []buffer.JournalEntry { return list }
	commit(t, q, nil, entries(Entry(tele, a, 0), Entry(tele, a, 1)))
	commit(t, q, nil, entries(Entry(tele, b, 0), Entry(buffer.Raw, c, 0), Entry(tele, a, 2)))
	commit(t, q, []buffer.Record{Batch(tele, a, 900)}, entries(Entry(tele, a, 3), Entry(tele, b, 1)))
	if len(q.Recovered()) != 0 {
		t.Errorf("Recovered() of a new queue: %d entries", len(q.Recovered()))
	}
	p.Crash()
	check := func(q Queue, want ...buffer.JournalEntry) {
		t.Helper()
		got := q.Recovered()
		if len(got) != len(want) {
			t.Fatalf("Recovered(): %d entries, want %d", len(got), len(want))
		}
		for i := range want {
			g, w := got[i], want[i]
			if g.Lane != w.Lane || g.Seq != w.Seq || g.Boot != w.Boot || g.BootCount != w.BootCount || g.Catalogue != w.Catalogue ||
				!bytes.Equal(g.Bytes, w.Bytes) || g.Epoch != q.Epoch() {
				t.Errorf("Recovered()[%d] = %+v, want %+v", i, g, w)
			}
		}
	}
	q = p.open(t)
	check(q, Entry(tele, b, 0), Entry(tele, b, 1), Entry(buffer.Raw, c, 0))
	if seq := q.Reserve(buffer.Raw); seq != c+1 {
		t.Errorf("Reserve = %d after a journal entry of %d", seq, c)
	}
	// It crashes again before anything is sealed; one goes on journaling first.
	commit(t, q, nil, entries(Entry(tele, b, 2)))
	p.Crash()
	q = p.open(t)
	check(q, Entry(tele, b, 0), Entry(tele, b, 1), Entry(tele, b, 2), Entry(buffer.Raw, c, 0))
	commit(t, q, []buffer.Record{Batch(tele, b, 90), Batch(buffer.Raw, c, 90)}, nil)
	p.Crash()
	q = p.open(t)
	check(q)
	wantSeqs(t, "sealed", Drain(t, q, tele, 0), a, b)
	wantSeqs(t, "sealed", Drain(t, q, buffer.Raw, 0), c)
}

func testRestart(t *testing.T, d Disks) {
	p := d.New(t, 0)
	q := p.open(t)
	epoch := q.Epoch()
	for round := range 5 {
		fill(t, q, tele, 7, 1500)
		fill(t, q, buffer.Control, 1, 40)
		if round%2 == 0 {
			p.Crash()
		} else if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		q = p.open(t)
		if got, want := q.CleanStop(), round%2 == 1; got != want {
			t.Errorf("round %d: CleanStop() = %v, want %v", round, got, want)
		}
		if q.Epoch() != epoch {
			t.Fatalf("round %d: a new epoch began", round)
		}
		if got := Drain(t, q, tele, 0); len(got) != 7*(round+1) {
			t.Fatalf("round %d: %d batches, want %d", round, len(got), 7*(round+1))
		}
	}
	if n := q.Stats().Lanes[tele].Batches; n != 35 {
		t.Errorf("Stats: %d batches, want 35", n)
	}
}

func testDrainedRestart(t *testing.T, d Disks) {
	p := d.New(t, 0)
	q := p.open(t)
	for round := range 4 {
		fill(t, q, tele, 3, 100)
		if err := q.Release(tele, buffer.Range{First: 1, Last: 1000}); err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 {
			if err := q.Sync(); err != nil {
				t.Fatal(err)
			}
			p.Crash()
		} else if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		q = p.open(t)
		wantSeqs(t, "drained", Drain(t, q, tele, 0))
		if next := q.Stats().Lanes[tele].Next; next != uint64(3*(round+1)+1) {
			t.Fatalf("round %d: next is %d, want %d", round, next, 3*(round+1)+1)
		}
	}
}

func testQuota(t *testing.T, d Disks) {
	q := d.New(t, 1<<20).open(t)
	var full error
	n := 0
	for ; n < 100 && full == nil; n++ {
		full = q.Commit([]buffer.Record{Batch(tele, q.Reserve(tele), 32<<10)}, nil)
	}
	if !errors.Is(full, buffer.ErrFull) {
		t.Fatalf("after %d batches: %v, want ErrFull", n, full)
	}
	got := Drain(t, q, tele, 0)
	if len(got) != n-1 || n < 10 {
		t.Fatalf("%d batches are there, %d were confirmed", len(got), n-1)
	}
	if err := q.Release(tele, buffer.Range{First: 1, Last: uint64(n)}); err != nil {
		t.Fatal(err)
	}
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := q.Commit([]buffer.Record{Batch(tele, uint64(n), 32<<10)}, nil); err != nil {
		t.Fatalf("the refused batch again, after draining: %v", err)
	}
	wantSeqs(t, "after draining", Drain(t, q, tele, 0), uint64(n))
}

func testClosed(t *testing.T, d Disks) {
	q := d.New(t, 0).open(t)
	seq := q.Reserve(tele)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	_, next := q.Next(tele, 0)
	for what, err := range map[string]error{
		"Commit": q.Commit([]buffer.Record{Batch(tele, seq, 1)}, nil), "Next": next,
		"Release": q.Release(tele, buffer.Range{First: 1, Last: 1}), "Sync": q.Sync(),
	} {
		if !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", what, err)
		}
	}
}

func testRefused(t *testing.T, d Disks) {
	q := d.New(t, 0).open(t)
	seq := q.Reserve(tele)
	for what, r := range map[string]buffer.Record{
		"not reserved": Batch(tele, seq+1, 10), "seq 0": Batch(tele, 0, 10), "no lane": Batch(9, seq, 10),
	} {
		if err := q.Commit([]buffer.Record{Batch(tele, seq, 10), r}, nil); err == nil {
			t.Errorf("%s: committed", what)
		}
	}
	if err := q.Commit([]buffer.Record{Batch(tele, seq, 10), Batch(tele, seq, 11)}, nil); err == nil {
		t.Error("one seq twice in a commit: committed")
	}
	if err := q.Commit(nil, []buffer.JournalEntry{Entry(tele, seq+1, 0)}); err == nil {
		t.Error("journal entry not reserved: committed")
	}
	wantSeqs(t, "nothing of a refused commit", Drain(t, q, tele, 0))
	if _, err := q.Next(9, 0); err == nil || errors.Is(err, buffer.ErrEmpty) {
		t.Errorf("Next of lane 9: %v", err)
	}
}

func testReleaseEpoch(t *testing.T, d Disks) {
	q := d.New(t, 0).open(t)
	fill(t, q, tele, 4, 10)
	all := buffer.Range{First: 1, Last: 4}
	if err := q.ReleaseEpoch(q.Epoch()+1, tele, all); err != nil {
		t.Fatal(err)
	}
	wantSeqs(t, "a receipt of another epoch", Drain(t, q, tele, 0), 1, 2, 3, 4)
	if err := q.ReleaseEpoch(q.Epoch(), tele, buffer.Range{First: 2, Last: 3}); err != nil {
		t.Fatal(err)
	}
	wantSeqs(t, "a receipt of this epoch", Drain(t, q, tele, 0), 1, 4)
}

func testStats(t *testing.T, d Disks) {
	q := d.New(t, 0).open(t)
	fill(t, q, tele, 6, 1000)
	journaled := q.Reserve(tele)
	commit(t, q, nil, []buffer.JournalEntry{Entry(tele, journaled, 0)})
	if err := q.Release(tele, buffer.Range{First: 1, Last: 2}, buffer.Range{First: 5, Last: 5}); err != nil {
		t.Fatal(err)
	}
	got := q.Stats().Lanes[tele]
	got.Segments = 0
	want := buffer.LaneStats{Batches: 3, Bytes: 3000, Oldest: 3, Newest: 6, Next: 8}
	if got != want {
		t.Errorf("Stats = %+v, want %+v", got, want)
	}
}

func testCopies(t *testing.T, d Disks) {
	q := d.New(t, 0).open(t)
	r := Batch(tele, q.Reserve(tele), 400)
	commit(t, q, []buffer.Record{r}, nil)
	clear(r.Bytes)
	first, err := q.Next(tele, 0)
	if err != nil {
		t.Fatal(err)
	}
	clear(first.Bytes)
	wantSeqs(t, "after the caller wrote over its bytes", Drain(t, q, tele, 0), 1)
}

// testLost: what a control batch calls lost is done with as soon as that batch is stored, and not before.
func testLost(t *testing.T, d Disks) {
	p := d.New(t, 0)
	q := p.open(t)
	fill(t, q, tele, 1, 10)
	for range 4 {
		q.Reserve(tele) // 2 to 5
	}
	p.Crash()
	q = p.open(t)
	for want := uint64(2); want <= 5; want++ {
		if seq := q.Reserve(tele); seq != want {
			t.Fatalf("Reserve = %d after a crash, want %d, which nothing speaks of", seq, want)
		}
	}
	record := Batch(buffer.Control, q.Reserve(buffer.Control), 10)
	record.Lost = []buffer.Numbers{{Lane: tele, Range: buffer.Range{First: 2, Last: 6}}}
	if err := q.Commit([]buffer.Record{record}, nil); err == nil {
		t.Error("a number that was never given is lost: committed")
	}
	record.Lost[0].Last = 5
	commit(t, q, []buffer.Record{record}, nil)
	p.Crash()
	q = p.open(t)
	if seq := q.Reserve(tele); seq != 6 {
		t.Errorf("Reserve = %d after a crash, want 6: those below are said to be lost", seq)
	}
	commit(t, q, []buffer.Record{Batch(tele, 6, 10)}, nil)
	wantSeqs(t, "beside what is lost", Drain(t, q, tele, 0), 1, 6)
	wantSeqs(t, "the record", Drain(t, q, buffer.Control, 0), record.Seq)

	// More ranges than one commit's name has room for.
	record = Batch(buffer.Control, q.Reserve(buffer.Control), 10)
	for seq := q.Reserve(tele); seq < 300; seq = q.Reserve(tele) {
		if seq%2 == 0 {
			record.Lost = append(record.Lost, buffer.Numbers{Lane: tele, Range: buffer.Range{First: seq, Last: seq}})
		}
	}
	commit(t, q, []buffer.Record{record}, nil)
	p.Crash()
	if seq := p.open(t).Reserve(tele); seq != 299 {
		t.Errorf("Reserve = %d after a crash, want 299", seq)
	}
}

func testParent(t *testing.T, d Disks) {
	p := d.New(t, 0)
	q := p.open(t)
	fill(t, q, tele, 1, 10)
	p.Crash()
	q = p.open(t)
	if _, ok := q.Parent(); !ok {
		t.Error("the new epoch is forgotten before a control batch could tell of it")
	}
	fill(t, q, buffer.Control, 1, 10)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = p.open(t)
	if parent, ok := q.Parent(); ok {
		t.Errorf("Parent() = %+v, though a control batch was stored", parent)
	}
}

// testConcurrent commits, reads and releases from several goroutines; run it with -race.
func testConcurrent(t *testing.T, d Disks) {
	q := d.New(t, 0).open(t)
	const n = 150
	lanes := []buffer.Lane{buffer.Event, tele}
	var wg sync.WaitGroup
	for _, l := range lanes {
		wg.Add(2)
		done := make(chan struct{})
		go func() {
			defer wg.Done()
			defer close(done)
			for range n {
				seq := q.Reserve(l)
				if err := q.Commit([]buffer.Record{Batch(l, seq, 3000+int(seq)%7000)}, nil); err != nil {
					t.Errorf("Commit: %v", err)
					return
				}
			}
		}()
		go func() {
			defer wg.Done()
			next := uint64(1)
			for finished := false; ; {
				r, err := q.Next(l, 0)
				if errors.Is(err, buffer.ErrEmpty) {
					if finished {
						break
					}
					select {
					case <-done:
						finished = true
					case <-q.Notify():
					}
					continue
				}
				if err != nil || !sameRecord(r, Batch(l, r.Seq, len(r.Bytes))) {
					t.Errorf("Next: batch %d, %v", r.Seq, err)
					return
				}
				if r.Seq != next {
					t.Errorf("%s: batch %d, want %d", l, r.Seq, next)
				}
				next++
				if err := q.Release(l, buffer.Range{First: r.Seq, Last: r.Seq}); err != nil {
					t.Errorf("Release: %v", err)
				}
				if r.Seq%50 == 0 {
					if err := q.Sync(); err != nil {
						t.Errorf("Sync: %v", err)
					}
				}
				q.Stats()
			}
			if next != n+1 {
				t.Errorf("%s: %d batches came out, want %d", l, next-1, n)
			}
		}()
	}
	wg.Wait()
}
