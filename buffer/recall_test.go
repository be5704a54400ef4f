package buffer_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// keeping are options of a queue that keeps what is released.
func keeping(o buffer.Options) buffer.Options {
	o.KeepReleased, o.Now = time.Hour, func() time.Time { return time.Unix(1_700_000_000, 0) }
	return o
}

// TestRecallLeavesEvicted: what was evicted, and is recorded as lost, does not come back, though its segment is still
// there; not after a power cut either. Else it would be sent, and, when evicted again, recorded a second time.
func TestRecallLeavesEvicted(t *testing.T) {
	for _, cut := range []bool{false, true} {
		dir := t.TempDir()
		o := keeping(evicting(t, true)) // thinning goes ahead of need, a step at a time
		q := open(t, dir, o)
		if err := fillUp(t, q, tele, func() bool { return q.Stats().Lanes[tele].Thinned > 0 }); err != nil {
			t.Fatal(err)
		}
		lost := look(q).lost[tele]
		kept := false
		for _, s := range q.Segments() {
			kept = kept || s.Lane == tele && len(s.Seqs) > 0 && s.Seqs[0].First == lost.Min()
		}
		if !kept {
			t.Fatalf("the segment of %v is gone, and nothing is tested", lost)
		}
		// Some that stood beside them arrived.
		q.Release(tele, buffer.Range{First: lost.Max() + 1, Last: lost.Max() + 3})
		if cut {
			q.Abandon()
			q = open(t, dir, o)
		}
		got, err := q.Recall(q.Epoch(), tele, buffer.Range{First: 1, Last: 1 << 40})
		if err != nil || len(got.Back) > 0 || len(got.Gone) != 1 || got.Gone[0].First != 1 || got.Gone[0].Last < lost.Max() {
			t.Errorf("cut %v: %v, %v; %v are lost", cut, got, err, lost)
		}
		if err := fillUp(t, q, tele, func() bool { return q.Stats().Lanes[tele].Next > lost.Max()+600 }); err != nil {
			t.Fatal(err)
		}
		if h := look(q); len(h.broken) > 0 {
			t.Errorf("cut %v: %v", cut, h.broken)
		}
	}
}

// TestRecalledIsEvicted: what was recalled is a loss like any other when there is no room for it, once.
func TestRecalledIsEvicted(t *testing.T) {
	q := open(t, t.TempDir(), keeping(evicting(t, false)))
	add(t, q, tele, 100, 10<<10)
	q.Release(tele, buffer.Range{First: 1, Last: 60})
	if got, err := q.Recall(q.Epoch(), tele, buffer.Range{First: 1, Last: 60}); err != nil || fmt.Sprint(got) != "{[{1 60}] [] []}" {
		t.Fatal(got, err)
	}
	if err := fillUp(t, q, tele, func() bool { return q.Stats().Lanes[tele].Evicted > 200 }); err != nil {
		t.Fatal(err)
	}
	h := look(q)
	if len(h.broken) > 0 || !h.lost[tele].Contains(1) || !h.lost[tele].Contains(60) {
		t.Errorf("%v, lost %v", h.broken, h.lost[tele])
	}
	if got, err := q.Recall(q.Epoch(), tele, buffer.Range{First: 1, Last: 60}); err != nil || fmt.Sprint(got) != "{[] [] [{1 60}]}" {
		t.Error(got, err)
	}
}

// TestRecallLeavesDamaged: what could not be read was reported, and is not tried again.
func TestRecallLeavesDamaged(t *testing.T) {
	dir := t.TempDir()
	var lost int
	o := keeping(options(t))
	o.OnDamage = func(d buffer.Damage) { lost += len(d.Seqs) }
	q := open(t, dir, o)
	add(t, q, tele, 10, 3000)
	wanted, segment := buffertest.Batch(tele, 4, 3000).Bytes, q.Segments()[0].File
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, segment)
	file, err := os.ReadFile(path)
	at := bytes.Index(file, wanted[100:200])
	if err != nil || at < 0 {
		t.Fatal("the batch is not found in its segment: ", err)
	}
	for ; at >= 0; at = bytes.Index(file, wanted[100:200]) { // bbolt may have left a copy
		file[at] ^= 1
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	q = open(t, dir, o)
	if got := buffertest.Drain(t, q, tele, 0); len(got) != 9 || lost != 1 {
		t.Fatalf("%v, %d lost", got, lost)
	}
	q.Release(tele, buffer.Range{First: 1, Last: 10})
	if got, err := q.Recall(q.Epoch(), tele, buffer.Range{First: 1, Last: 10}); err != nil || fmt.Sprint(got) != "{[{1 3} {5 10}] [] [{4 4}]}" {
		t.Error(got, err)
	}
}

// TestRecallEpochs: a store asks by epoch and number, and a number of another epoch is not what it means.
func TestRecallEpochs(t *testing.T) {
	dir := t.TempDir()
	o := keeping(options(t))
	q := open(t, dir, o)
	old := q.Epoch()
	add(t, q, tele, 10, 100)
	q.Release(tele, buffer.Range{First: 1, Last: 10})
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	o.NewEpoch = "a test"
	q = open(t, dir, o)
	o.NewEpoch = ""
	add(t, q, tele, 10, 100)
	q.Release(tele, buffer.Range{First: 11, Last: 15})
	all := buffer.Range{First: 1, Last: ^uint64(0)}
	for _, c := range []struct {
		epoch uint64
		want  string
	}{
		{old, "{[{1 10}] [] []}"},
		{q.Epoch(), "{[{11 15}] [{16 20}] []}"},
		{old ^ q.Epoch() ^ 1, "{[] [] [{1 18446744073709551615}]}"},
	} {
		if got, err := q.Recall(c.epoch, tele, all); err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("epoch %x: %v, %v, want %s", c.epoch, got, err, c.want)
		}
	}
	if got := look(q); len(got.broken) > 0 || fmt.Sprint(got.live[tele]) != "[{1 20}]" {
		t.Errorf("%v", got)
	}
	if _, err := q.Recall(q.Epoch(), 9, all); err == nil {
		t.Error("a lane that is none was taken")
	}
}

// TestKeptSinceTheLastRelease: the time counts from when the last of a segment was released, though it was all released many
// times before, with each batch that was delivered at once.
func TestKeptSinceTheLastRelease(t *testing.T) {
	o := options(t)
	o.SegmentBytes = 4 << 20
	now := time.Unix(1_700_000_000, 0)
	o.KeepReleased, o.Now = time.Hour, func() time.Time { return now }
	q := open(t, t.TempDir(), o)
	for range 180 { // three hours
		add(t, q, tele, 1, 20<<10)
		q.Release(tele, buffer.Range{First: 1, Last: 1 << 40})
		if err := q.Sync(); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
		next, there := q.Stats().Lanes[tele].Next, uint64(0)
		for _, s := range q.Segments() {
			there += s.Stored
		}
		if there < min(next-1, 60) {
			t.Fatalf("%d batches are kept after batch %d, one a minute, want an hour's", there, next-1)
		}
	}
}
