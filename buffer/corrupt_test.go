package buffer_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
)

// corpus is a queue as a power cut leaves it, and what the test knows of it without reading it.
type corpus struct {
	dir     string
	files   map[string][]byte
	older   map[string][]byte // the same folder some commits before
	foreign map[string][]byte // another queue's, segments of the same names
	epoch   uint64            // the current one
	batches map[batchID]kept  // every batch that was committed
	live    map[batchID]bool  // not released
	journal map[string]uint64 // bytes of every journal entry that was committed → its seq
	pending map[batchID]bool  // journaled and not sealed
	next    map[buffer.Lane]uint64
	names   []string // of the segments
}

// kept is a batch, and its record where it lies in a file: 64 bytes of header, then the batch, in one piece (FORMAT.md).
type kept struct {
	record buffer.Record
	file   string
	stored []byte
}

// random makes a batch of random bytes: no two are alike, not even those of one seq in two queues.
func random(rnd *rand.Rand, l buffer.Lane, seq uint64) buffer.Record {
	size := 20 + rnd.IntN(3000)
	if rnd.IntN(4) == 0 {
		size = rnd.IntN(20000) + 20
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	first := rnd.Int64N(1 << 40)
	return buffer.Record{Lane: l, Seq: seq, Samples: rnd.Uint32N(500) + 1, First: first, Last: first + rnd.Int64N(1e10), Bytes: b}
}

// newCorpus works a queue through four lives: two epochs, releases, thousands of bytes in several segments of each of
// several lanes, journal entries that wait, commits that meta has not seen.
func newCorpus(t *testing.T, seed uint64) *corpus {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	c := &corpus{batches: map[batchID]kept{}, live: map[batchID]bool{}, journal: map[string]uint64{}, pending: map[batchID]bool{},
		next: map[buffer.Lane]uint64{}}
	dir := filepath.Join(scratch(t), "queue")
	o := options(t)
	o.Log = nil
	for life := range 4 {
		if life == 1 { // the second epoch
			if err := os.Remove(filepath.Join(dir, "meta")); err != nil {
				t.Fatal(err)
			}
		}
		q, err := buffer.Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		c.epoch = q.Epoch()
		for i := range 30 {
			var batches []buffer.Record
			var entries []buffer.JournalEntry
			for range 1 + rnd.IntN(4) {
				l := []buffer.Lane{tele, tele, tele, buffer.Raw, buffer.Event, buffer.Control}[rnd.IntN(6)]
				seq := q.Reserve(l)
				if rnd.IntN(8) == 0 && l != buffer.Control {
					e := buffer.JournalEntry{Lane: l, Seq: seq, BootCount: rnd.Uint32(), Bytes: random(rnd, l, seq).Bytes}
					c.journal[string(e.Bytes)], c.pending[batchID{l, seq}] = seq, true
					entries = append(entries, e)
				} else {
					r := random(rnd, l, seq)
					r.Epoch = c.epoch
					c.batches[batchID{l, seq}], c.live[batchID{l, seq}] = kept{record: r}, true
					batches = append(batches, r)
				}
				c.next[l] = seq + 1
			}
			if err := q.Commit(batches, entries); err != nil {
				t.Fatal(err)
			}
			if life == 2 && i%4 == 0 {
				for id := range c.live {
					if id.seq%5 == 2 || id.seq < 12 {
						q.Release(id.lane, buffer.Range{First: id.seq, Last: id.seq})
						delete(c.live, id)
					}
				}
			}
			if life == 3 && i == 15 {
				c.older = tree(t, dir)
			}
		}
		q.Abandon()
	}
	c.dir, c.files = dir, tree(t, dir)
	for name, b := range c.files {
		if !strings.HasSuffix(name, ".seg") {
			continue
		}
		c.names = append(c.names, name)
		for id, k := range c.batches {
			if at := bytes.Index(b, k.record.Bytes); at > 0 && strings.HasPrefix(name, id.lane.String()+"/") {
				k.file, k.stored = name, b[at-64:at+len(k.record.Bytes)]
				c.batches[id] = k
			}
		}
	}
	slices.Sort(c.names)
	for id := range c.live {
		if c.batches[id].file == "" {
			t.Fatalf("batch %v is nowhere", id)
		}
	}
	return c
}

// find gives a random place of a file, in front of the zeros at its end.
func find(rnd *rand.Rand, b []byte) int { return rnd.IntN(max(1, len(bytes.TrimRight(b, "\x00")))) }

// A damage takes one file away or changes it; it may read the others. Whole pages are those of bbolt, sectors 512 bytes.
var damages = []struct {
	name string
	do   func(rnd *rand.Rand, c *corpus, files map[string][]byte, name string)
	// Nothing in the folder tells a segment that was put back to an earlier state from one that never got further.
	restores bool
}{
	{name: "a bit flipped", do: func(rnd *rand.Rand, _ *corpus, files map[string][]byte, name string) {
		at := find(rnd, files[name])
		if rnd.IntN(2) == 0 { // where the structure is
			at = min(at/4096*4096+rnd.IntN(200), len(files[name])-1)
		}
		files[name][at] ^= 1 << rnd.IntN(8)
	}},
	{name: "a page of random bytes", do: func(rnd *rand.Rand, _ *corpus, files map[string][]byte, name string) {
		p := block(files[name], find(rnd, files[name]), 4096)
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
	}},
	{name: "a page of zeros", do: func(rnd *rand.Rand, _ *corpus, files map[string][]byte, name string) {
		clear(block(files[name], find(rnd, files[name]), 4096))
	}},
	{name: "two pages swapped", do: func(rnd *rand.Rand, _ *corpus, files map[string][]byte, name string) {
		b, size := files[name], 4096
		if len(b) < 2*size {
			size = len(b) / 3
		}
		x, y := block(b, find(rnd, b), size), block(b, find(rnd, b), size)
		for i := range min(len(x), len(y)) {
			x[i], y[i] = y[i], x[i]
		}
	}},
	{name: "cut off", do: func(rnd *rand.Rand, _ *corpus, files map[string][]byte, name string) {
		files[name] = files[name][:find(rnd, files[name])]
	}},
	{name: "garbage behind the end", do: func(rnd *rand.Rand, c *corpus, files map[string][]byte, name string) {
		tail := make([]byte, 1+rnd.IntN(20000))
		for i := range tail {
			tail[i] = byte(rnd.Uint32())
		}
		if rnd.IntN(2) == 0 { // a piece of another file
			other := files[c.names[rnd.IntN(len(c.names))]]
			tail = bytes.Clone(block(other, find(rnd, other), len(tail)))
		}
		if rnd.IntN(2) == 0 {
			files[name] = bytes.TrimRight(files[name], "\x00")
		}
		files[name] = append(files[name], tail...)
	}},
	{name: "a torn sector", do: func(rnd *rand.Rand, c *corpus, files map[string][]byte, name string) {
		p := block(files[name], find(rnd, files[name]), 512)
		switch other := files[c.names[rnd.IntN(len(c.names))]]; rnd.IntN(3) {
		case 0:
			clear(p)
		case 1: // what stood there before the file had this block
			copy(p, block(other, find(rnd, other), 512))
		case 2:
			cut := rnd.IntN(len(p) + 1)
			for i := range p[cut:] {
				p[cut+i] = byte(rnd.Uint32())
			}
		}
	}},
	{name: "a page of an older copy", do: func(rnd *rand.Rand, c *corpus, files map[string][]byte, name string) {
		old := c.older[name]
		if len(old) == 0 { // made later: what it looks like when a page never got there
			old = make([]byte, len(files[name]))
		}
		at := find(rnd, files[name])
		copy(block(files[name], at, 4096), block(old, min(at, len(old)-1), 4096))
	}},
	{name: "the older copy as a whole", restores: true, do: func(_ *rand.Rand, c *corpus, files map[string][]byte, name string) {
		if old := c.older[name]; old != nil {
			files[name] = bytes.Clone(old)
		} else {
			delete(files, name)
		}
	}},
	{name: "missing", do: func(_ *rand.Rand, _ *corpus, files map[string][]byte, name string) { delete(files, name) }},
	{name: "another file in its place", do: func(rnd *rand.Rand, c *corpus, files map[string][]byte, name string) {
		other := c.names[rnd.IntN(len(c.names))] // of another lane or epoch, or of the same lane
		files[name] = bytes.Clone(files[other])
	}},
	{name: "another queue's file in its place", do: func(rnd *rand.Rand, c *corpus, files map[string][]byte, name string) {
		names := slices.DeleteFunc(slices.Sorted(keys(c.foreign)), func(n string) bool { return (n == "meta") != (name == "meta") || n == "lock" || n == "reserve" })
		if same := c.foreign[name]; same != nil && rnd.IntN(2) == 0 {
			files[name] = bytes.Clone(same)
			return
		}
		files[name] = bytes.Clone(c.foreign[names[rnd.IntN(len(names))]])
	}},
}

func keys(m map[string][]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// block is the aligned block of a file that holds a place.
func block(b []byte, at, size int) []byte {
	if size <= 0 {
		return nil
	}
	at = at / size * size
	return b[min(at, len(b)):min(at+size, len(b))]
}

// TestCorruption damages a queue in every way at random places, segments and meta. WAYBILL_CORRUPTIONS says how often each.
// The process never dies; what comes out is what went in; every batch whose record is whole in its lane's folder comes
// out; every other one is reported; numbers go on; the queue takes and gives new batches.
func TestCorruption(t *testing.T) {
	n := 10
	if testing.Short() {
		n = 1
	}
	if s := os.Getenv("WAYBILL_CORRUPTIONS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("WAYBILL_CORRUPTIONS=%s: want a number", s)
		}
	}
	seed := uint64(1)
	if s := os.Getenv("WAYBILL_CORRUPTION_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("WAYBILL_CORRUPTION_SEED=%s: want a number", s)
		}
	}
	c := newCorpus(t, 11)
	c.foreign = newCorpus(t, 12).files
	base := scratch(t)
	for _, target := range []string{"segment", "meta"} {
		for _, d := range damages {
			t.Run(target+" "+d.name, func(t *testing.T) {
				var sum tally
				for i := range n {
					h := fnv.New64a()
					fmt.Fprint(h, target, d.name)
					rnd := rand.New(rand.NewPCG(seed+uint64(i), h.Sum64()))
					name := "meta"
					if target == "segment" {
						name = c.names[rnd.IntN(len(c.names))]
					}
					files := map[string][]byte{}
					for other, b := range c.files {
						files[other] = b
					}
					files[name] = bytes.Clone(files[name])
					d.do(rnd, c, files, name)
					c.try(t, filepath.Join(base, strconv.Itoa(i)), files, name, d.restores && c.older[name] != nil, &sum)
					if t.Failed() {
						t.Fatalf("seed %d, %s: WAYBILL_CORRUPTION_SEED=%d WAYBILL_CORRUPTIONS=1 go test -run '%s'", seed+uint64(i), name, seed+uint64(i), t.Name())
					}
				}
				t.Logf("seeds %d to %d: %d damages; %d cost batches, %d exactly stated, %d where only the lane is known; %d new epochs; at most %d KiB allocated",
					seed, seed+uint64(n)-1, n, sum.costly, sum.lost, sum.unknown, sum.epochs, sum.alloc>>10)
			})
		}
	}
}

type tally struct {
	costly  int    // damages that cost a batch
	lost    int    // batches reported by seq
	unknown int    // batches that a report without seqs covers
	epochs  int    // new epochs
	alloc   uint64 // most bytes that one queue's opening and draining allocated
}

// looked is what a queue gives and reports.
type looked struct {
	delivered map[batchID]bool
	lost      map[batchID]bool
	unknown   map[string]bool // files of which something is gone, nobody knows what
	damage    []buffer.Damage
	q         *buffer.Queue
}

// look opens the queue and takes everything out of it, each batch held to what went in.
func (c *corpus) look(t *testing.T, dir string, readOnly bool, fresh map[batchID]kept) *looked {
	t.Helper()
	l := &looked{delivered: map[batchID]bool{}, lost: map[batchID]bool{}, unknown: map[string]bool{}}
	o := options(t)
	o.Log, o.ReadOnly = nil, readOnly
	o.OnDamage = func(d buffer.Damage) {
		l.damage = append(l.damage, d)
		if len(d.Seqs) == 0 {
			l.unknown[d.File] = true
		}
		for _, r := range d.Seqs {
			if r.Count() > 10000 {
				t.Errorf("a report of %d batches: %v", r.Count(), d)
				return
			}
			for seq := r.First; seq <= r.Last && !d.Journal; seq++ {
				l.lost[batchID{d.Lane, seq}] = true
			}
		}
	}
	var err error
	if l.q, err = buffer.Open(dir, o); err != nil {
		t.Errorf("Open, read-only %v: %v", readOnly, err)
		return nil
	}
	for _, lane := range buffer.Lanes() {
		for from := uint64(0); ; {
			r, err := l.q.Next(lane, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				t.Errorf("Next(%s, %d): %v", lane, from, err)
				break
			}
			id := batchID{lane, r.Seq}
			want, known := fresh[id]
			if !known {
				want, known = c.batches[id]
			}
			if !known || !bytes.Equal(want.record.Bytes, r.Bytes) || want.record.Samples != r.Samples ||
				want.record.First != r.First || want.record.Last != r.Last || want.record.Epoch != r.Epoch {
				t.Errorf("a wrong value left the queue: lane %s, seq %d of epoch %x, ours %v", lane, r.Seq, r.Epoch, known)
			}
			l.delivered[id] = true
			from = r.Seq + 1
		}
	}
	return l
}

// try holds one damaged folder to the promises.
func (c *corpus) try(t *testing.T, dir string, files map[string][]byte, name string, restored bool, sum *tally) {
	t.Helper()
	watchdog := time.AfterFunc(2*time.Minute, func() { panic(t.Name() + ": hangs on " + name) })
	defer watchdog.Stop()
	defer os.RemoveAll(dir)
	for other, b := range files {
		path := filepath.Join(dir, other)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if other != name && strings.HasSuffix(other, ".seg") { // never written to once it is closed
			err = errors.Join(err, os.Link(filepath.Join(c.dir, other), path))
		} else {
			err = errors.Join(err, os.WriteFile(path, b, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	tool := c.look(t, dir, true, nil)
	runtime.ReadMemStats(&after)
	sum.alloc = max(sum.alloc, after.TotalAlloc-before.TotalAlloc)
	if limit := uint64(128 << 20); after.TotalAlloc-before.TotalAlloc > limit {
		t.Errorf("looking at 10 MiB allocated %d bytes", after.TotalAlloc-before.TotalAlloc)
	}
	for _, other := range []string{name, "meta", "lock"} {
		now, err := os.ReadFile(filepath.Join(dir, other))
		if b, there := files[other]; there != (err == nil) || !bytes.Equal(now, b) {
			t.Errorf("a look changed %s: %v", other, err)
		}
	}
	l := c.look(t, dir, false, nil)
	if tool == nil || l == nil {
		return
	}
	defer l.q.Close()
	costly := false
	for id := range c.live {
		k := c.batches[id]
		switch whole := k.whole(files, name); {
		case whole && !l.delivered[id]:
			t.Errorf("batch %v is whole and does not come out: %v", id, l.damage)
		case whole && !tool.delivered[id]:
			t.Errorf("batch %v is whole and a look does not find it: %v", id, tool.damage)
		case l.delivered[id]:
		case l.lost[id]:
			sum.lost++
			costly = true
		case l.unknown[k.file]:
			sum.unknown++
			costly = true
		case restored && len(l.damage) == 0:
		default:
			t.Errorf("batch %v is silently missing: %v", id, l.damage)
		}
	}
	for id := range l.lost {
		if _, ours := c.batches[id]; l.delivered[id] || !c.live[id] && ours && name != "meta" {
			t.Errorf("batch %v is reported lost: delivered %v, live %v: %v", id, l.delivered[id], c.live[id], l.damage)
		}
	}
	if costly {
		sum.costly++
	}
	if l.q.Epoch() != c.epoch {
		sum.epochs++
	}
	c.goesOn(t, dir, restored, l)
}

// whole says whether a batch's record is in a segment of its lane.
func (k *kept) whole(files map[string][]byte, changed string) bool {
	if k.file != changed {
		return true
	}
	for name, b := range files {
		if filepath.Dir(name) == filepath.Dir(k.file) && strings.HasSuffix(name, ".seg") && bytes.Contains(b, k.stored) {
			return true
		}
	}
	return false
}

// goesOn holds that the queue works after the damage: journal, numbers, commits, restarts, and that it can be drained.
func (c *corpus) goesOn(t *testing.T, dir string, restored bool, l *looked) {
	t.Helper()
	var sealed []buffer.Record
	fresh := map[batchID]kept{}
	for _, e := range l.q.Recovered() {
		if seq, ours := c.journal[string(e.Bytes)]; !ours || seq != e.Seq {
			t.Errorf("a wrong journal entry: lane %s, seq %d", e.Lane, e.Seq)
		}
		id := batchID{e.Lane, e.Seq}
		if _, twice := fresh[id]; twice {
			continue
		}
		r := random(rand.New(rand.NewPCG(e.Seq, 3)), e.Lane, e.Seq)
		r.Epoch = e.Epoch
		fresh[id] = kept{record: r}
		sealed = append(sealed, r)
	}
	for id := range c.pending {
		if _, recovered := fresh[id]; recovered {
			continue
		}
		told := len(l.unknown) > 0 || restored
		for _, d := range l.damage {
			told = told || d.Lane == id.lane && slices.ContainsFunc(d.Seqs, func(r buffer.Range) bool { return r.First <= id.seq && id.seq <= r.Last })
		}
		if !told {
			t.Errorf("journal entry %v is silently missing: %v", id, l.damage)
		}
	}
	for _, lane := range buffer.Lanes() {
		for range 2 {
			seq := l.q.Reserve(lane)
			id := batchID{lane, seq}
			if l.q.Epoch() == c.epoch && seq < c.next[lane] && !restored {
				t.Errorf("seq %d of lane %s is given a second time in its epoch; %d were given", seq, lane, c.next[lane]-1)
			}
			if l.delivered[id] {
				t.Errorf("seq %d of lane %s is given out while a batch of that number is there", seq, lane)
			}
			r := random(rand.New(rand.NewPCG(seq, 4)), lane, seq)
			r.Epoch = l.q.Epoch()
			fresh[id] = kept{record: r}
			sealed = append(sealed, r)
		}
	}
	if err := l.q.Commit(sealed, nil); err != nil {
		t.Errorf("Commit: %v", err)
		return
	}
	for round := range 2 {
		if err := l.q.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		epoch, delivered := l.q.Epoch(), l.delivered
		if l = c.look(t, dir, false, fresh); l == nil {
			return
		}
		if l.q.Epoch() != epoch || len(l.damage) > 0 {
			t.Errorf("opened again: epoch %x, was %x; %v", l.q.Epoch(), epoch, l.damage)
		}
		for id := range delivered {
			if round == 0 && !l.delivered[id] {
				t.Errorf("opened again, %v is gone", id)
			}
		}
		for id := range fresh {
			if round == 0 && !l.delivered[id] {
				t.Errorf("what was committed after the damage is gone: %v", id)
			}
		}
		for _, lane := range buffer.Lanes() {
			l.q.Release(lane, buffer.Range{First: 1, Last: 1 << 40})
		}
	}
	if err := l.q.Close(); err != nil || len(l.q.Segments()) > 0 || len(l.delivered) > 0 {
		t.Errorf("drained: %v, %v, %d batches", err, l.q.Segments(), len(l.delivered))
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".tmp") {
			t.Errorf("%s is left over", path)
		}
		return err
	})
}
