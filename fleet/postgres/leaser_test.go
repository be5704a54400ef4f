//go:build system

package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

var (
	_ ingest.Leaser    = (*Leaser)(nil)
	_ ingest.Confirmer = (*Leaser)(nil)
)

// TestLeases: slots are shared evenly, move from who is silent, and are confirmed to one at a time.
func TestLeases(t *testing.T) {
	ctx := context.Background()
	p := quick(t)
	url := fresh(t, p)
	const slots = 8
	member := func(share string, lasts time.Duration) *Leaser {
		l, err := open(t, url, options()).Leaser(share) // each as from a machine of its own
		if err != nil {
			t.Fatal(err)
		}
		l.lasts = lasts
		return l
	}
	lease := func(l *Leaser) ([]int, int) {
		t.Helper()
		have, over, err := l.Lease(ctx, slots)
		if err != nil {
			t.Fatal(err)
		}
		return have, over
	}
	expect := func(what string, l *Leaser, many, beyond int) []int {
		t.Helper()
		have, over := lease(l)
		if len(have) != many || over != beyond {
			t.Errorf("%s: has %v, %d beyond its share; want %d, %d", what, have, over, many, beyond)
		}
		return have
	}
	a, b, other := member("g", time.Minute), member("g", time.Minute), member("other", time.Minute)
	expect("alone", a, 8, 0)
	expect("another share", other, 8, 0)
	expect("who comes second", b, 0, 0)
	have, over := lease(a)
	if over != 4 {
		t.Errorf("%d beyond its share, want 4", over)
	}
	for _, n := range have[len(have)-over:] {
		if err := a.Release(n); err != nil {
			t.Fatal(err)
		}
	}
	expect("after the release", b, 4, 0)
	first := expect("half", a, 4, 0)
	c := member("g", time.Minute)
	expect("a third", c, 0, 0)
	if _, over := lease(a); over != 1 { // 3, 3, 2: the first two have the rest
		t.Errorf("%d beyond, want 1", over)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	expect("after the third left", b, 4, 0)
	// a falls silent: its lease and its place end by the server's clock.
	a.lasts = time.Millisecond
	lease(a)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if have, _ := lease(b); len(have) == slots {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the slots of who is silent do not move")
		}
	}
	// And is back: it believes in its slots, and must not connect.
	a.lasts = time.Minute
	for _, n := range first {
		if err := a.Confirm(ctx, n); err == nil {
			t.Errorf("slot %d is confirmed to who lost it", n)
		}
		if err := b.Confirm(ctx, n); err != nil {
			t.Error(err)
		}
		if err := a.Release(n); err != nil { // nothing of its own
			t.Error(err)
		}
	}
	expect("back again", a, 0, 0)
	if _, over := lease(b); over != 4 {
		t.Errorf("%d beyond, want 4", over)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	expect("alone again", a, 8, 0)
	if _, err := open(t, url, Options{ReadOnly: true}).Leaser("g"); err == nil {
		t.Error("a reader leases")
	}
}

// TestLeasesAtOnce: many ask at the same time; no slot is ever confirmed to two, and in the end all have their share.
func TestLeasesAtOnce(t *testing.T) {
	ctx := context.Background()
	url := fresh(t, quick(t))
	const members, slots = 4, 10
	var leasers []*Leaser
	for range members {
		l, err := open(t, url, options()).Leaser("g")
		if err != nil {
			t.Fatal(err)
		}
		leasers = append(leasers, l)
	}
	have := make([][]int, members)
	var tasks sync.WaitGroup
	for i, l := range leasers {
		tasks.Go(func() {
			for range 20 {
				list, over, err := l.Lease(ctx, slots)
				if err != nil {
					t.Error(err)
					return
				}
				for _, n := range list[len(list)-over:] {
					if err := l.Release(n); err != nil {
						t.Error(err)
					}
				}
				have[i] = list[:len(list)-over]
			}
		})
	}
	tasks.Wait()
	for range 2 { // those whose releases came last
		for i, l := range leasers {
			list, over, err := l.Lease(ctx, slots)
			if err != nil || over != 0 {
				t.Fatal(list, over, err)
			}
			have[i] = list
		}
	}
	all := slices.Sorted(slices.Values(slices.Concat(have...)))
	if fmt.Sprint(all) != "[0 1 2 3 4 5 6 7 8 9]" {
		t.Errorf("%v", have)
	}
	for _, list := range have {
		if len(list) < 2 || len(list) > 3 {
			t.Errorf("%v: not even", have)
		}
	}
}
