package buffer_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// TestOldEpoch: after meta is lost, what the old epoch left is delivered under it, new batches under the new one, and a
// receipt of one never frees the other's.
func TestOldEpoch(t *testing.T) {
	files, epoch, live := sample(t)
	delete(files, "meta")
	dir := plant(t, files)
	q := open(t, dir, options(t))
	parent, ok := q.Parent()
	if !ok || parent.Epoch != epoch || parent.Last[tele] != 60 || parent.Last[buffer.Event] != 3 {
		t.Fatalf("Parent() = %+v, %v", parent, ok)
	}
	if r := q.Recovered(); len(r) != 1 || r[0].Epoch != epoch || r[0].Seq != 3 {
		t.Errorf("Recovered() = %+v, want event 3 of the old epoch", r)
	}
	if err := q.Commit([]buffer.Record{buffertest.Batch(buffer.Event, 3, 40)}, nil); err != nil {
		t.Fatal(err)
	}
	add(t, q, tele, 2, 100)
	epochs := func() (old, new []uint64) {
		for from := uint64(0); ; {
			r, err := q.Next(tele, from)
			if err != nil {
				return old, new
			}
			if from = r.Seq + 1; r.Epoch == epoch {
				old = append(old, r.Seq)
			} else if r.Epoch == q.Epoch() {
				new = append(new, r.Seq)
			}
		}
	}
	for range 2 {
		old, new := epochs()
		if len(old) < len(live)-2 || !slices.Equal(new, []uint64{61, 62}) {
			t.Errorf("old %v, new %v", old, new)
		}
		if r, err := q.Next(buffer.Event, 3); err != nil || r.Epoch != epoch {
			t.Errorf("the batch sealed from the journal: epoch %x, %v, want %x", r.Epoch, err, epoch)
		}
		e := q.Epoch()
		q.Abandon()
		q = open(t, dir, options(t))
		if p, ok := q.Parent(); q.Epoch() != e || !ok || p.Epoch != epoch {
			t.Errorf("opened again: epoch %x, want %x; parent %+v, %v", q.Epoch(), e, p, ok)
		}
	}
	q.ReleaseEpoch(epoch, tele, buffer.Range{First: 1, Last: 1000}) // an old receipt that says too much
	if old, new := epochs(); len(old) != 0 || !slices.Equal(new, []uint64{61, 62}) {
		t.Errorf("after the old epoch's receipt: old %v, new %v", old, new)
	}
	q.ReleaseEpoch(q.Epoch(), tele, buffer.Range{First: 1, Last: 61})
	if _, new := epochs(); !slices.Equal(new, []uint64{62}) {
		t.Errorf("after the new epoch's receipt: new %v", new)
	}
}

// TestMetaLostTwice: a batch that was sealed from the journal of the first epoch lies in a segment of the second. When
// meta is lost again, it still belongs to the first, whose receipt frees it, and nobody else's does.
func TestMetaLostTwice(t *testing.T) {
	dir := t.TempDir()
	lose := func(q *buffer.Queue) *buffer.Queue {
		t.Helper()
		q.Abandon()
		if err := os.Remove(filepath.Join(dir, "meta")); err != nil {
			t.Fatal(err)
		}
		return open(t, dir, options(t))
	}
	q := open(t, dir, options(t))
	first := q.Epoch()
	add(t, q, tele, 2, 100)
	sealed, unsealed := q.Reserve(tele), q.Reserve(tele)
	journal := []buffer.JournalEntry{buffertest.Entry(tele, sealed, 0), buffertest.Entry(tele, unsealed, 0)}
	if err := q.Commit(nil, journal); err != nil {
		t.Fatal(err)
	}
	q = lose(q)
	second := q.Epoch()
	// One of the old epoch's is sealed, of the other the journal goes on, in the new epoch's segment.
	if err := q.Commit([]buffer.Record{buffertest.Batch(tele, sealed, 100)}, []buffer.JournalEntry{buffertest.Entry(tele, unsealed, 1)}); err != nil {
		t.Fatal(err)
	}
	add(t, q, tele, 2, 100) // 5 and 6
	q = lose(q)
	for _, e := range q.Recovered() {
		if e.Epoch != first {
			t.Errorf("a journal entry of %d: epoch %x, want %x", e.Seq, e.Epoch, first)
		}
	}
	if err := q.Commit([]buffer.Record{buffertest.Batch(tele, unsealed, 100)}, nil); err != nil {
		t.Fatal(err)
	}
	left := func() (seqs []uint64) {
		for from := uint64(0); ; {
			r, err := q.Next(tele, from)
			if err != nil {
				return seqs
			}
			if want := map[bool]uint64{true: first, false: second}[r.Seq <= unsealed]; r.Epoch != want {
				t.Errorf("batch %d: epoch %x, want %x", r.Seq, r.Epoch, want)
			}
			seqs, from = append(seqs, r.Seq), r.Seq+1
		}
	}
	q.ReleaseEpoch(second, tele, buffer.Range{First: 1, Last: 1000})
	if got := left(); !slices.Equal(got, []uint64{1, 2, sealed, unsealed}) {
		t.Errorf("after the second epoch's receipt: %v", got)
	}
	q.ReleaseEpoch(first, tele, buffer.Range{First: 1, Last: 1000})
	if got := left(); len(got) != 0 {
		t.Errorf("after the first epoch's receipt: %v", got)
	}
}

// TestRestored: a folder that was put together from two times is noticed.
func TestRestored(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 5, 12000)
	q.Close()
	early := tree(t, dir)
	q = open(t, dir, options(t))
	epoch := q.Epoch()
	add(t, q, tele, 40, 12000)
	q.Abandon()
	late := tree(t, dir)

	mixed := map[string][]byte{}
	for n, b := range late {
		mixed[n] = b
	}
	mixed["meta"] = early["meta"]
	o := run(t, plant(t, mixed), epoch)
	if o.err != nil || !o.newEpoch || len(o.delivered) != 45 {
		t.Errorf("an old meta: %v, new epoch %v, %d delivered", o.err, o.newEpoch, len(o.delivered))
	}
	mixed = map[string][]byte{}
	for n, b := range early {
		mixed[n] = b
	}
	mixed["meta"] = late["meta"]
	o = run(t, plant(t, mixed), epoch)
	if o.err != nil || !o.newEpoch || len(o.delivered) != 5 || len(o.lost) == 0 {
		t.Errorf("old segments: %v, new epoch %v, %d delivered, %d reported lost", o.err, o.newEpoch, len(o.delivered), len(o.lost))
	}
}

// TestNewerFormat: a folder of a newer version is refused and not a byte of it changes.
func TestNewerFormat(t *testing.T) {
	files, _, _ := sample(t)
	for name, c := range map[string]func(f map[string][]byte){
		"meta": func(f map[string][]byte) { buffer.SetReaderVersion(f["meta"], 0) },
		"newest segment": func(f map[string][]byte) {
			seg := segments(f, tele)
			b := f[seg[len(seg)-1]]
			for at := 0; ; at++ { // a page that was copied leaves the head behind
				i := bytes.Index(b[at:], []byte("WBS1"))
				if i < 0 {
					break
				}
				at += i
				buffer.SetReaderVersion(b, at)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			newer := map[string][]byte{"telemetry/000000000099.seg.tmp": []byte("half")}
			for n, b := range files {
				newer[n] = bytes.Clone(b)
			}
			c(newer)
			dir := plant(t, newer)
			for _, readOnly := range []bool{false, true} {
				o := options(t)
				o.ReadOnly = readOnly
				if _, err := buffer.Open(dir, o); !errors.Is(err, buffer.ErrNewerFormat) {
					t.Errorf("read-only %v: %v, want ErrNewerFormat", readOnly, err)
				}
			}
			for n, b := range tree(t, dir) {
				if !bytes.Equal(b, newer[n]) && n != "lock" {
					t.Errorf("%s was changed", n)
				}
			}
		})
	}
}

// TestNumberThatWasOnlyGivenOut: a number that no batch and no journal entry bore when the process died is the next one
// again, although meta was written meanwhile. Skipped, it would stand as lost in every store for ever.
func TestNumberThatWasOnlyGivenOut(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 3, 100)
	journaled := q.Reserve(tele)
	if err := q.Commit(nil, []buffer.JournalEntry{{Lane: tele, Seq: journaled, Bytes: []byte("part")}}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		q.Reserve(tele)
		q.Reserve(buffer.Control)
	}
	if err := q.Release(tele, buffer.Range{First: 1, Last: 3}); err != nil {
		t.Fatal(err)
	}
	if err := q.Sync(); err != nil { // writes meta
		t.Fatal(err)
	}
	q.Abandon()
	for _, end := range []func(*buffer.Queue){(*buffer.Queue).Abandon, func(q *buffer.Queue) { q.Close() }} {
		q = open(t, dir, options(t))
		if got := q.Reserve(tele); got != journaled+1 {
			t.Errorf("telemetry goes on with %d, want %d", got, journaled+1)
		}
		if got := q.Reserve(buffer.Control); got != 1 {
			t.Errorf("control goes on with %d, want 1", got)
		}
		end(q)
	}
	q = open(t, dir, options(t))
	if got := q.Reserve(tele); got != journaled+1 {
		t.Errorf("after a clean stop telemetry goes on with %d, want %d", got, journaled+1)
	}
}
