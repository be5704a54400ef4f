package buffer_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// TestNewEpochOnDemand: a receiver's word begins a new epoch at Open. What is there stays under the old one, numbers go on, the
// stop before was clean all the same, and the epoch is begun once.
func TestNewEpochOnDemand(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 5, 100)
	old := q.Epoch()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.NewEpoch = "the store says so"
	q = open(t, dir, o)
	p, ok := q.Parent()
	if q.Epoch() == old || !ok || p.Epoch != old || p.Last[tele] != 5 || !strings.Contains(p.Reason, o.NewEpoch) || !q.CleanStop() {
		t.Errorf("epoch %x, was %x; parent %+v, %v; clean %v", q.Epoch(), old, p, ok, q.CleanStop())
	}
	if r, err := q.Next(tele, 5); err != nil || r.Epoch != old {
		t.Errorf("epoch %x, %v", r.Epoch, err)
	}
	if seq := q.Reserve(tele); seq != 6 {
		t.Errorf("the next seq is %d", seq)
	}
	now := q.Epoch()
	q.Abandon()
	if q = open(t, dir, options(t)); q.Epoch() != now {
		t.Errorf("opened again: epoch %x, want %x", q.Epoch(), now)
	}
}

// TestReplace: a batch under a new number stands for the old one, over kills; one that is gone is not replaced.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 5, 100)
	seq := q.Reserve(tele)
	if err := q.Replace(3, buffertest.Batch(tele, seq, 200)); err != nil {
		t.Fatal(err)
	}
	want := []uint64{1, 2, 4, 5, 6}
	for range 2 {
		if got := buffertest.Drain(t, q, tele, 0); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		q.Abandon()
		q = open(t, dir, options(t))
	}
	if err := q.Replace(3, buffertest.Batch(tele, q.Reserve(tele), 200)); err != nil {
		t.Fatal(err)
	}
	if got := buffertest.Drain(t, q, tele, 0); !slices.Equal(got, want) {
		t.Errorf("a batch that is gone was replaced: %v, want %v", got, want)
	}
	if err := q.Replace(4, buffertest.Batch(tele, 99, 20)); err == nil {
		t.Error("replaced under a number that nobody reserved")
	}
}
