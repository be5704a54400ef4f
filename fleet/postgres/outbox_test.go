//go:build system

package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/store/storetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// TestOutbox: nothing is noted before it is switched on, everything afterwards; a backfill adds what was there before, once, and leaves to
// its settling what was parked.
func TestOutbox(t *testing.T) {
	ctx := context.Background()
	s := open(t, fresh(t, quick(t)), options())
	put := func(seq uint64, day int, state store.State) (id int64) {
		t.Helper()
		if err := s.Update(ctx, func(tx store.Tx) error {
			d, err := tx.Device("acme", "car-1", storetest.Now)
			if err != nil {
				return err
			}
			b := storetest.Batch(seq, 1)
			b.State, b.Samples, b.Received = state, 2, storetest.Now.AddDate(0, 0, day)
			if state == store.StateParked {
				b.Reason, b.Bytes = store.ReasonCatalogue, []byte("x")
			}
			p, err := tx.PutBatch(d, b)
			if id = p.ID; err != nil || state == store.StateParked {
				return err
			}
			g, err := tx.NamedSignal(d, "a", "V")
			if err != nil {
				return err
			}
			for i := range uint32(2) { // a batch is noted once
				if err := tx.PutSamples(p.ID, []store.Row{{Index: i, Signal: g, BootNS: 1}}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	// take reads all notes and says that they are done; it gives the batches' numbers.
	take := func() string {
		t.Helper()
		shards, err := s.Pending(ctx, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
		if err != nil {
			t.Fatal(err)
		}
		list := []uint64{}
		for _, shard := range shards {
			for {
				c, err := s.Next(ctx, shard, 3)
				if err != nil {
					t.Fatal(err)
				}
				if len(c.Notes) == 0 {
					break
				}
				for _, b := range c.Batches {
					if list = append(list, b.Seq); len(b.Samples) != 2 || b.Samples[1].Index != 1 || b.Samples[0].Name != "a" || b.Device != "car-1" || b.Lane != telemetrypb.Lane_LANE_TELEMETRY {
						t.Errorf("batch %+v", b)
					}
				}
				if err := s.Done(ctx, shard, c.Generation+1, c.Notes); err != nil {
					t.Fatal(err)
				}
				if n, oldest, err := s.Backlog(ctx); n == 0 || oldest.IsZero() || err != nil {
					t.Fatalf("notes of another generation were deleted: %d, %v, %v", n, oldest, err)
				}
				if err := s.Done(ctx, shard, c.Generation, c.Notes); err != nil {
					t.Fatal(err)
				}
			}
		}
		return fmt.Sprint(list)
	}
	expect := func(what, want string) {
		t.Helper()
		if got := take(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	put(1, -3, store.StateStored)
	put(2, -2, store.StateStored)
	parked := put(3, -1, store.StateParked)
	expect("before it is on", "[]")
	if _, err := s.Backfill(ctx, storetest.Now); err == nil {
		t.Error("a backfill of an outbox that is off")
	}
	for _, want := range []bool{true, false} {
		if begun, err := s.SwitchOn(ctx); begun != want || err != nil {
			t.Fatalf("switched on: %v, %v", begun, err)
		}
	}
	put(4, -2, store.StateStored)
	expect("after it is on", "[4]")
	if err := s.Update(ctx, func(tx store.Tx) error {
		d, err := tx.Device("acme", "car-1", storetest.Now)
		if err != nil {
			return err
		}
		g, err := tx.NamedSignal(d, "a", "V")
		if err != nil {
			return err
		}
		if err := tx.Settle(parked, store.StateStored, ""); err != nil {
			return err
		}
		return tx.PutSamples(parked, []store.Row{{Index: 0, Signal: g}, {Index: 1, Signal: g}})
	}); err != nil {
		t.Fatal(err)
	}
	expect("settled", "[3]")
	for _, b := range []struct {
		days int
		want string
	}{{-2, "[2]"}, {-2, "[]"}, {-1, "[]"}, {-9, "[1]"}, {-9, "[]"}} {
		if _, err := s.Backfill(ctx, storetest.Now.AddDate(0, 0, b.days)); err != nil {
			t.Fatal(err)
		}
		expect(fmt.Sprintf("backfill of %d days", -b.days), b.want)
	}
	if err := s.Update(ctx, func(tx store.Tx) error {
		d, err := tx.Device("acme", "car-1", storetest.Now)
		if err == nil {
			err = tx.PutRetiming(d, [16]byte{}, 0)
		}
		if err == nil {
			_, _, err = tx.Retime(d, [16]byte{}, 1000, func(int64) store.Time { return store.Time{UnixNS: 5, Source: 1} })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	expect("dated again", "[1 2 3 4]")
	failed := fmt.Errorf("no")
	if err := s.Update(ctx, func(tx store.Tx) error {
		d, err := tx.Device("acme", "car-1", storetest.Now)
		if err != nil {
			return err
		}
		p, err := tx.PutBatch(d, storetest.Batch(9, 1))
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: %v", failed, tx.PutSamples(p.ID, []store.Row{{Signal: 1}}))
	}); err == nil {
		t.Error("it was committed")
	}
	expect("rolled back", "[]")
	if _, oldest, err := s.Backlog(ctx); !oldest.IsZero() || err != nil {
		t.Errorf("oldest %v, %v", oldest, err)
	}
}

// TestLease: a shard has one relay, and is free when that relay's connection is gone.
func TestLease(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url := fresh(t, quick(t))
	a, err := open(t, url, options()).Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t, url, options()).Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	relays := func(want int) {
		t.Helper()
		for n := 0; ; time.Sleep(20 * time.Millisecond) {
			if n, err = b.Relays(ctx); err != nil {
				t.Fatalf("%d relays, want %d: %v", n, want, err)
			}
			if n == want {
				return
			}
		}
	}
	take := func(l store.Lease, want bool) {
		t.Helper()
		if taken, err := l.Take(ctx, 3); taken != want || err != nil {
			t.Errorf("taken: %v, %v", taken, err)
		}
	}
	relays(2)
	take(a, true)
	take(b, false)
	if err := a.Give(ctx, 3); err != nil {
		t.Fatal(err)
	}
	take(b, true)
	take(a, false)
	if err := b.Give(ctx, 3); err != nil {
		t.Fatal(err)
	}
	take(a, true)
	a.Close()
	relays(1)
	take(b, true)
}

// A backfill of a large store takes long: meanwhile the store can be opened, as each process does that starts.
func TestBackfillKeepsNobodyOut(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url := fresh(t, quick(t))
	s := open(t, url, options())
	if _, err := s.SwitchOn(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "BEGIN; LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Backfill(ctx, storetest.Now)
		done <- err
	}()
	for waits := 0; waits == 0; time.Sleep(10 * time.Millisecond) {
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_locks WHERE relation = 'outbox'::regclass AND NOT granted").Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	soon, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	other, err := Open(soon, url, options())
	if err != nil {
		t.Errorf("beside a backfill: %v", err)
	} else {
		other.Close()
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
