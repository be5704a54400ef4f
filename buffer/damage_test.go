package buffer_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

const tele = buffer.Telemetry

// leftovers holds that a folder has nothing that does not belong there.
func leftovers(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".tmp") {
			t.Errorf("%s is left over", path)
		}
		return err
	})
}

// tree is every file of a folder.
func tree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		files[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// plant puts such a tree into a new folder.
func plant(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, contents := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, contents, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func add(t testing.TB, q *buffer.Queue, l buffer.Lane, n, size int) {
	t.Helper()
	for range n {
		if err := q.Commit([]buffer.Record{buffertest.Batch(l, q.Reserve(l), size)}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func segments(files map[string][]byte, lane buffer.Lane) []string {
	var names []string
	for name := range files {
		if strings.HasPrefix(name, lane.String()+"/") && strings.HasSuffix(name, ".seg") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// sample is a queue as a crash leaves it: telemetry 1 to 60 in several segments, 1 to 3 and 20 released, events 1 and 2
// in one, a journal entry of event 3.
func sample(t *testing.T) (files map[string][]byte, epoch uint64, live map[batchID]bool) {
	t.Helper()
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 60, 12000)
	add(t, q, buffer.Event, 2, 300)
	q.Release(tele, buffer.Range{First: 1, Last: 3}, buffer.Range{First: 20, Last: 20})
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := q.Commit(nil, []buffer.JournalEntry{buffertest.Entry(buffer.Event, q.Reserve(buffer.Event), 0)}); err != nil {
		t.Fatal(err)
	}
	epoch = q.Epoch()
	q.Abandon()
	live = map[batchID]bool{{buffer.Event, 1}: true, {buffer.Event, 2}: true}
	for seq := uint64(4); seq <= 60; seq++ {
		if seq != 20 {
			live[batchID{tele, seq}] = true
		}
	}
	files = tree(t, dir)
	if n := len(segments(files, tele)); n < 3 {
		t.Fatalf("%d segments, want some", n)
	}
	return files, epoch, live
}

// outcome is what a damaged queue still gives.
type outcome struct {
	q         *buffer.Queue
	err       error
	delivered map[batchID]bool
	lost      map[batchID]bool
	damage    []buffer.Damage
	newEpoch  bool
	parent    buffer.Parent
}

// run opens a queue, drains it and holds every value that comes out to what went in.
func run(t *testing.T, dir string, epoch uint64) (o outcome) {
	t.Helper()
	o.delivered, o.lost = map[batchID]bool{}, map[batchID]bool{}
	opts := options(t)
	opts.OnDamage = func(d buffer.Damage) {
		o.damage = append(o.damage, d)
		for _, r := range d.Seqs {
			for seq := r.First; seq <= r.Last && !d.Journal; seq++ {
				o.lost[batchID{d.Lane, seq}] = true
			}
		}
	}
	o.q, o.err = buffer.Open(dir, opts)
	if o.err != nil {
		return o
	}
	t.Cleanup(func() { o.q.Close() })
	o.newEpoch = o.q.Epoch() != epoch
	if o.newEpoch {
		o.parent, _ = o.q.Parent()
	}
	for _, l := range buffer.Lanes() {
		for from := uint64(0); ; {
			r, err := o.q.Next(l, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				t.Fatalf("Next(%s, %d): %v", l, from, err)
			}
			want := buffertest.Batch(l, r.Seq, len(r.Bytes))
			if !bytes.Equal(r.Bytes, want.Bytes) || r.Samples != want.Samples || r.First != want.First || r.Last != want.Last || r.Epoch != epoch {
				t.Fatalf("a wrong value left the queue: lane %s, seq %d, epoch %x", l, r.Seq, r.Epoch)
			}
			o.delivered[batchID{l, r.Seq}] = true
			from = r.Seq + 1
		}
	}
	return o
}

// accounted holds that every live batch was delivered or reported.
func (o *outcome) accounted(t *testing.T, live map[batchID]bool) {
	t.Helper()
	for id := range live {
		if !o.delivered[id] && !o.lost[id] {
			t.Errorf("batch %v is silently missing", id)
		}
	}
}

// freed holds that a drained queue gives its disk back, damaged or not.
func (o *outcome) freed(t *testing.T) {
	t.Helper()
	for _, l := range buffer.Lanes() {
		if err := o.q.Release(l, buffer.Range{First: 1, Last: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	var sealed []buffer.Record
	for _, e := range o.q.Recovered() {
		sealed = append(sealed, buffertest.Batch(e.Lane, e.Seq, 10))
	}
	if err := o.q.Commit(sealed, nil); err != nil {
		t.Fatal(err)
	}
	o.q.Release(buffer.Event, buffer.Range{First: 1, Last: 1000})
	if err := o.q.Close(); err != nil {
		t.Fatal(err)
	}
	if s := o.q.Segments(); len(s) != 0 {
		t.Errorf("after draining: %+v", s)
	}
}

// TestDamage is the table: named damage → what survives.
func TestDamage(t *testing.T) {
	files, epoch, live := sample(t)
	seg := segments(files, tele)
	oldest, middle, newest := seg[0], seg[1], seg[len(seg)-1]
	event := segments(files, buffer.Event)[0]
	find := func(name string, l buffer.Lane, seq uint64) int {
		i := bytes.Index(files[name], buffertest.Batch(l, seq, 0).Bytes)
		if i < 0 {
			t.Fatalf("batch %d is not in %s", seq, name)
		}
		return i
	}
	first := func(name string) uint64 { // seq of a batch that is live and lies in a segment
		for id := range live {
			if id.lane == tele && bytes.Contains(files[name], buffertest.Batch(tele, id.seq, 0).Bytes) && id.seq%7 == 4 {
				return id.seq
			}
		}
		t.Fatalf("no batch in %s", name)
		return 0
	}
	for name, c := range map[string]struct {
		break_   func(f map[string][]byte)
		newEpoch bool
		lost     func(lost int) bool
		reason   string
	}{
		"nothing": {break_: func(f map[string][]byte) {}, lost: func(n int) bool { return n == 0 }},
		"a bit of a batch in a middle segment": {
			break_: func(f map[string][]byte) { f[middle][find(middle, tele, first(middle))+9] ^= 4 },
			lost:   func(n int) bool { return n == 1 },
		},
		"a bit of a batch in the newest segment": {
			break_: func(f map[string][]byte) { f[newest][find(newest, tele, 60)+9] ^= 4 },
			lost:   func(n int) bool { return n == 1 },
		},
		"a bit of a record's header in a middle segment": {
			break_: func(f map[string][]byte) { f[middle][find(middle, tele, first(middle))-50] ^= 1 },
			lost:   func(n int) bool { return n == 1 },
		},
		"a bit of a record's header in the newest segment": {
			break_: func(f map[string][]byte) { f[newest][find(newest, tele, 59)-50] ^= 1 },
			lost:   func(n int) bool { return n == 1 },
		},
		"the name of a commit in the newest segment": {
			break_: func(f map[string][]byte) {
				b := f[newest]
				for at := 0; ; at++ { // copies of its page that are not in use are left as well
					i := bytes.Index(b[at:], []byte("WBC1"))
					if i < 0 {
						break
					}
					at += i
					b[at+22] ^= 1
				}
			},
			lost: func(n int) bool { return n == 0 }, newEpoch: true, reason: "is damaged",
		},
		"both meta pages of the oldest segment": {
			break_: func(f map[string][]byte) { clear(f[oldest][:8192]) },
			lost:   func(n int) bool { return n == 0 },
		},
		"both meta pages of the newest segment": {
			break_: func(f map[string][]byte) { clear(f[newest][:8192]) },
			lost:   func(n int) bool { return n == 0 }, newEpoch: true, reason: "is damaged",
		},
		"one meta page of the newest segment": {
			break_: func(f map[string][]byte) { f[newest][4096+20] ^= 1 },
			lost:   func(n int) bool { return n == 0 }, newEpoch: true, reason: "is damaged",
		},
		"the middle segment cut in half": {
			break_: func(f map[string][]byte) { f[middle] = f[middle][:len(f[middle])/2] },
			lost:   func(n int) bool { return n > 2 && n < 30 },
		},
		"the middle segment overwritten": {
			break_: func(f map[string][]byte) { clear(f[middle]) },
			lost:   func(n int) bool { return n > 5 && n < 30 },
		},
		"the middle segment empty": {
			break_: func(f map[string][]byte) { f[middle] = nil },
			lost:   func(n int) bool { return n > 5 && n < 30 },
		},
		"the middle segment missing": {
			break_: func(f map[string][]byte) { delete(f, middle) },
			lost:   func(n int) bool { return n > 5 && n < 30 },
		},
		"the newest segment missing": {
			break_: func(f map[string][]byte) { delete(f, newest) },
			lost:   func(n int) bool { return n > 0 }, newEpoch: true, reason: "is missing",
		},
		"the newest segment overwritten": {
			break_: func(f map[string][]byte) { clear(f[newest]) },
			lost:   func(n int) bool { return n > 0 }, newEpoch: true, reason: "is damaged",
		},
		"the event lane's only segment overwritten": {
			break_: func(f map[string][]byte) { clear(f[event]) },
			lost:   func(n int) bool { return n == 2 }, newEpoch: true, reason: "is damaged",
		},
		"segments swapped": {
			break_: func(f map[string][]byte) { f[oldest], f[middle] = f[middle], f[oldest] },
			lost:   func(n int) bool { return n > 0 },
		},
		"meta missing": {
			break_: func(f map[string][]byte) { delete(f, "meta") },
			lost:   func(n int) bool { return n == 0 }, newEpoch: true, reason: "meta is missing",
		},
		"a bit of meta": {
			break_: func(f map[string][]byte) { f["meta"][30] ^= 16 },
			lost:   func(n int) bool { return n == 0 }, newEpoch: true, reason: "meta is damaged",
		},
		"meta cut off": {
			break_: func(f map[string][]byte) { f["meta"] = f["meta"][:50] },
			lost:   func(n int) bool { return n == 0 }, newEpoch: true, reason: "meta is damaged",
		},
		"meta empty": {
			break_: func(f map[string][]byte) { f["meta"] = nil },
			lost:   func(n int) bool { return n == 0 }, newEpoch: true, reason: "meta is damaged",
		},
		"leftovers of a crash": {
			break_: func(f map[string][]byte) {
				f["telemetry/000000000099.seg.tmp"], f["meta.tmp"] = []byte("half"), []byte("x")
			},
			lost: func(n int) bool { return n == 0 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken := map[string][]byte{}
			for n, b := range files {
				broken[n] = bytes.Clone(b)
			}
			c.break_(broken)
			dir := plant(t, broken)
			o := run(t, dir, epoch)
			if o.err != nil {
				t.Fatal(o.err)
			}
			o.accounted(t, live)
			lost := 0
			for id := range live {
				if !o.delivered[id] {
					lost++
				}
			}
			if !c.lost(lost) || lost == 0 && len(o.lost) > 0 {
				t.Errorf("%d batches are lost, %d reported: %v", lost, len(o.lost), o.damage)
			}
			if o.newEpoch != c.newEpoch || c.newEpoch && (o.parent.Epoch != epoch && lost < len(live) || !strings.Contains(o.parent.Reason, c.reason)) {
				t.Errorf("new epoch %v, parent %+v; want %v because of %q", o.newEpoch, o.parent, c.newEpoch, c.reason)
			}
			seen := uint64(0)
			for id := range o.delivered {
				if id.lane == tele {
					seen = max(seen, id.seq)
				}
			}
			if seq := o.q.Reserve(tele); seq <= seen || !c.newEpoch && seq != 61 {
				t.Errorf("the next seq is %d", seq)
			}
			leftovers(t, dir)
			// Opened again, nothing is lost, reported or begun a second time.
			now := o.q.Epoch()
			if err := o.q.Close(); err != nil {
				t.Fatal(err)
			}
			delivered := o.delivered
			o = run(t, dir, epoch)
			if o.err != nil || o.q.Epoch() != now || len(o.damage) > 0 || !maps.Equal(o.delivered, delivered) {
				t.Errorf("opened again: %v; epoch %x, want %x; %d delivered, want %d; %v",
					o.err, o.q.Epoch(), now, len(o.delivered), len(delivered), o.damage)
			}
			o.freed(t)
			again := run(t, dir, epoch)
			if again.err != nil || len(again.delivered) != 0 || len(again.damage) != 0 {
				t.Errorf("opened again after draining: %v, %v, %v", again.err, again.delivered, again.damage)
			}
		})
	}
}

// TestBitFlips flips one bit anywhere in any file: a wrong value never comes out, and nothing is silently missing.
func TestBitFlips(t *testing.T) {
	files, epoch, live := sample(t)
	rnd := rand.New(rand.NewPCG(5, 6))
	n := 200
	if testing.Short() {
		n = 40
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for name, b := range files {
			if len(b) > 0 && name != "lock" && name != "reserve" && !yield(name) {
				return
			}
		}
	})
	losses, base := 0, scratch(t)
	for i := range n {
		name := names[rnd.IntN(len(names))]
		b := bytes.Clone(files[name])
		at := rnd.IntN(len(b))
		if i%2 == 0 { // half of them where the structure is
			at = at/4096*4096 + rnd.IntN(200)
			at = min(at, len(b)-1)
		}
		b[at] ^= 1 << rnd.IntN(8)
		dir, err := os.MkdirTemp(base, "flip")
		if err != nil {
			t.Fatal(err)
		}
		for other, contents := range files {
			path := filepath.Join(dir, other)
			os.MkdirAll(filepath.Dir(path), 0o700)
			if other == name {
				contents = b
			}
			if err := os.WriteFile(path, contents, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o := run(t, dir, epoch)
		if o.err != nil {
			t.Fatalf("%s, byte %d: %v", name, at, o.err)
		}
		o.accounted(t, live)
		if len(o.lost) > 0 {
			losses++
		}
		if len(o.lost) > 8 {
			t.Errorf("%s, byte %d: one bit cost %d batches", name, at, len(o.lost))
		}
		if t.Failed() {
			t.Fatalf("%s, byte %d", name, at)
		}
		o.q.Close()
		os.RemoveAll(dir)
	}
	if losses == 0 {
		t.Error("no flip cost anything: the test does not reach the batches")
	}
	t.Logf("%d of %d flips cost a batch", losses, n)
}

// TestQuarantineIsBounded damages more batches than are kept.
func TestQuarantineIsBounded(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 15, 9000)
	q.Close()
	files := tree(t, dir)
	for _, name := range segments(files, tele) {
		for seq := uint64(1); seq <= 15; seq++ {
			if i := bytes.Index(files[name], buffertest.Batch(tele, seq, 0).Bytes); i > 0 {
				files[name][i+20] ^= 1
			}
		}
	}
	dir = plant(t, files)
	o := options(t)
	o.QuarantineFiles = 4
	n := 0
	o.OnDamage = func(d buffer.Damage) {
		n++
		if d.Samples == 0 || d.First == 0 || d.Aside == "" {
			t.Errorf("what the header still says is not told: %+v", d)
		}
	}
	q = open(t, dir, o)
	if _, err := q.Next(tele, 0); !errors.Is(err, buffer.ErrEmpty) || n != 15 {
		t.Errorf("Next: %v after %d reports, want ErrEmpty after 15", err, n)
	}
	if st := q.Stats(); st.Damaged != 15 || st.Lanes[tele].Batches != 0 {
		t.Errorf("Stats() = %+v", st)
	}
	aside, err := os.ReadDir(filepath.Join(dir, "quarantine"))
	if err != nil || len(aside) != 4 {
		t.Errorf("%d files in quarantine, %v, want 4", len(aside), err)
	}
	if err := q.Close(); err != nil || len(q.Segments()) != 0 {
		t.Errorf("the segments stay: %v", fmt.Sprint(q.Segments()))
	}
}
