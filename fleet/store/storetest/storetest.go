// Package storetest holds the tests that every store.Store has to pass, whatever keeps it.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// The sizes of dead letters that an [Opener] sets.
const (
	LetterBytes = 10
	Letters     = 5
)

// Opener opens an empty store, and has it closed and, where it can, checked when the test ends.
type Opener func(t testing.TB) store.Store

// Now is when everything arrives.
var Now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const tele = telemetrypb.Lane_LANE_TELEMETRY

// Run runs all tests.
func Run(t *testing.T, open Opener) {
	for name, test := range map[string]func(*testing.T, store.Store){
		"FailedTransactionLeavesNothing": failedTransaction,
		"KeysDecide":                     keysDecide,
		"ScalarsComeBackExactly":         scalars,
		"TextOfAnyKind":                  texts,
		"DeadLettersAreBounded":          deadLetters,
		"TheResultThatSaysMostStands":    results,
		"Lacks":                          lacks,
		"NotKept":                        notKept,
		"EpochsTellOfGaps":               epochs,
		"NumbersAgainstAPlainSet":        plainSet,
		"Parking":                        parking,
		"CatalogueInParts":               catalogueInParts,
		"DatedAgain":                     datedAgain,
		"OriginalsBeatCopies":            copies,
		"Queries":                        queries,
		"Offsets":                        offsets,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// Batch is a stored batch of epoch 9 in the telemetry lane.
func Batch(seq uint64, crc uint32) *store.Batch {
	return &store.Batch{Key: store.Key{Epoch: 9, Lane: tele, Seq: seq}, CRC: crc, SHA256: []byte(fmt.Sprint(crc)), Form: store.FormColumns, State: store.StateStored, Received: Now}
}

// update commits, and gives the device's row.
func update(t testing.TB, s store.Store, device string, f func(tx store.Tx, device int64) error) (row int64) {
	t.Helper()
	if err := s.Update(context.Background(), func(tx store.Tx) error {
		var err error
		if row, err = tx.Device("acme", device, Now); err != nil {
			return err
		}
		return f(tx, row)
	}); err != nil {
		t.Fatal(err)
	}
	return row
}

// put commits batches of a device under the numbers first to last.
func put(t testing.TB, s store.Store, device string, first, last uint64) (row int64) {
	t.Helper()
	return update(t, s, device, func(tx store.Tx, d int64) error {
		for seq := first; seq <= last; seq++ {
			if _, err := tx.PutBatch(d, Batch(seq, 9)); err != nil {
				return err
			}
		}
		return nil
	})
}

func want(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

func failedTransaction(t *testing.T, s store.Store) {
	ctx := context.Background()
	fill := func(tx store.Tx) error {
		d, err := tx.Device("acme", "car-1", Now)
		if err != nil {
			return err
		}
		for seq := uint64(1); seq <= 3; seq++ {
			p, err := tx.PutBatch(d, Batch(seq*2, 1))
			if err != nil {
				return err
			}
			if err := tx.PutSamples(p.ID, []store.Row{{Signal: 1}}); err != nil {
				return err
			}
		}
		_, err = tx.NextReceipt(d)
		return errors.Join(err, tx.Advance("raw", 3, -1, 100))
	}
	broken := errors.New("no more room")
	if err := s.Update(ctx, func(tx store.Tx) error {
		g, err := tx.Device("acme", "car-1", Now)
		if err == nil {
			_, err = tx.NamedSignal(g, "a", "")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	before := s.Totals()
	if err := s.Update(ctx, func(tx store.Tx) error { return errors.Join(fill(tx), broken) }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	want(t, "totals after a failure", s.Totals(), before)
	// A cancelled context fails the transaction, and must not spoil the connection.
	gone, cancel := context.WithCancel(ctx)
	if err := s.Update(gone, func(tx store.Tx) error { err := fill(tx); cancel(); return err }); err == nil {
		t.Fatal("committed under a context that had ended")
	}
	if next, err := s.Positions(ctx, "raw"); len(next) != 0 || err != nil {
		t.Errorf("offsets after a failure: %v, %v", next, err)
	}
	if err := s.Update(ctx, fill); err != nil {
		t.Fatal(err)
	}
	n := s.Totals()
	want(t, "totals", fmt.Sprint(n.Batches, n.Devices, n.Gaps, n.Samples), "3 1 3 3")
	update(t, s, "car-1", func(tx store.Tx, d int64) error {
		n, err := tx.NextReceipt(d)
		want(t, "the next receipt: numbers of a failed transaction were never sent", n, 2)
		return err
	})
}

func keysDecide(t *testing.T, s store.Store) {
	put := func(device string, b *store.Batch) (p store.Put) {
		t.Helper()
		update(t, s, device, func(tx store.Tx, d int64) (err error) {
			p, err = tx.PutBatch(d, b)
			return err
		})
		return p
	}
	with := func(change func(*store.Batch)) *store.Batch { b := Batch(1, 1); change(b); return b }
	for name, c := range map[string]struct {
		device string
		b      *store.Batch
		want   store.Outcome
	}{
		"another device": {"car-2", Batch(1, 1), store.OutcomeNew},
		"another epoch":  {"car-1", with(func(b *store.Batch) { b.Epoch = 1 << 63 }), store.OutcomeNew},
		"another lane":   {"car-1", with(func(b *store.Batch) { b.Lane = telemetrypb.Lane_LANE_RAW }), store.OutcomeNew},
		"another seq":    {"car-1", Batch(2, 1), store.OutcomeNew},
		"the last seq":   {"car-1", Batch(math.MaxInt64, 1), store.OutcomeNew},
		"the same":       {"car-1", Batch(1, 1), store.OutcomeDuplicate},
		"rendered":       {"car-1", with(func(b *store.Batch) { b.SHA256, b.Form = nil, store.FormPlain }), store.OutcomeDuplicate},
		"other checksum": {"car-1", Batch(1, 2), store.OutcomeConflict},
		"other hash":     {"car-1", with(func(b *store.Batch) { b.SHA256 = []byte("x") }), store.OutcomeConflict},
	} {
		first := put("car-1", Batch(1, 1))
		got := put(c.device, c.b)
		want(t, name, got.Outcome, c.want)
		if c.want == store.OutcomeNew && got.ID == first.ID || c.want != store.OutcomeNew && got.ID != first.ID {
			t.Errorf("%s: row %d, the first one's is %d", name, got.ID, first.ID)
		}
	}
	for _, seq := range []uint64{0, 1 << 63} {
		if err := s.Update(context.Background(), func(tx store.Tx) error {
			d, err := tx.Device("acme", "car-1", Now)
			if err == nil {
				_, err = tx.PutBatch(d, Batch(seq, 1))
			}
			return err
		}); err == nil {
			t.Errorf("seq %d was taken", seq)
		}
	}
}

func deadLetters(t *testing.T, s store.Store) {
	for i := range 12 {
		if err := s.Update(context.Background(), func(tx store.Tx) error {
			d := &store.DeadLetter{Topic: "t", Reason: "malformed", Bytes: fmt.Appendf(nil, "%02d 0123456789", i), At: Now}
			return errors.Join(tx.PutDeadLetter(d), tx.PutDeadLetter(d))
		}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.DeadLetters(context.Background())
	if err != nil || len(list) != Letters || s.Totals().Letters != Letters {
		t.Fatalf("%d letters, totals %+v, %v", len(list), s.Totals(), err)
	}
	if l := list[4]; string(l.Bytes) != "11 0123456" || l.Size != 13 || l.Times != 2 || !l.Last.Equal(Now) {
		t.Errorf("the last one %+v", l)
	}
}

// results: whatever the order in which results of one id come.
func results(t *testing.T, s store.Store) {
	order := []struct {
		state   string
		percent uint32
	}{{"refused", 0}, {"accepted", 0}, {"running", 10}, {"running", 60}, {"done", 100}}
	for id, c := range map[string]struct {
		list  []int
		stays int
	}{
		"forwards":                     {[]int{0, 1, 2, 3, 4}, 4},
		"backwards":                    {[]int{4, 3, 2, 1, 0}, 4},
		"late progress":                {[]int{3, 2}, 3},
		"a copy that is refused later": {[]int{1, 0}, 1},
		"refused, and then taken":      {[]int{0, 1}, 1},
	} {
		update(t, s, "car-1", func(tx store.Tx, d int64) error {
			for _, i := range c.list {
				if err := tx.PutResult(d, &telemetrypb.CommandResult{Id: id, Name: "act", State: order[i].state, Percent: order[i].percent,
					BootId: make([]byte, 16), KeyId: []byte{0xAB}, Counter: 7}, Now); err != nil {
					return err
				}
			}
			return nil
		})
		list, err := s.Results(context.Background(), "car-1", id)
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %v, %v", id, list, err)
		}
		r := list[0]
		want(t, id, fmt.Sprint(r.State, r.Percent, r.Key, r.Counter, len(r.BootID), r.Received), fmt.Sprint(order[c.stays].state, order[c.stays].percent, "ab", 7, 32, Now))
	}
	if list, err := s.Results(context.Background(), "", ""); err != nil || len(list) != 5 {
		t.Errorf("%d results: %v", len(list), err)
	}
	if list, err := s.Results(context.Background(), "car-2", ""); err != nil || len(list) != 0 {
		t.Errorf("another vehicle has %d results: %v", len(list), err)
	}
}

// offsets: one of two consumers moves an offset, with what it stored.
func offsets(t *testing.T, s store.Store) {
	ctx := context.Background()
	advance := func(partition int32, from, to int64) error {
		return s.Update(ctx, func(tx store.Tx) error { return tx.Advance("raw", partition, from, to) })
	}
	for _, c := range []struct {
		partition int32
		from, to  int64
		fenced    bool
	}{{0, -1, 10, false}, {0, -1, 12, true}, {0, 10, 10, false}, {0, 10, 30, false}, {0, 30, 25, false}, {0, 10, 30, true}, {1, 5, 6, true}, {1, -1, 0, false}, {1, 0, math.MaxInt64, false}} {
		if err := advance(c.partition, c.from, c.to); errors.Is(err, store.ErrFenced) != c.fenced || !c.fenced && err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range [][2]int64{{-2, 5}, {-1, -1}, {25, -1}} {
		if err := advance(0, c[0], c[1]); err == nil || errors.Is(err, store.ErrFenced) {
			t.Errorf("from %d to %d: %v", c[0], c[1], err)
		}
	}
	// What a fenced consumer stored goes with it.
	err := s.Update(ctx, func(tx store.Tx) error {
		d, err := tx.Device("acme", "car-1", Now)
		if err == nil {
			_, err = tx.PutBatch(d, Batch(1, 1))
		}
		return errors.Join(err, tx.Advance("raw", 0, 24, 26))
	})
	if n := s.Totals(); !errors.Is(err, store.ErrFenced) || n.Batches != 0 {
		t.Errorf("totals %+v, %v", n, err)
	}
	next, err := s.Positions(ctx, "raw")
	want(t, "offsets", fmt.Sprint(next, err), fmt.Sprint(map[int32]int64{0: 25, 1: math.MaxInt64}, nil))
	other, err := s.Positions(ctx, "other")
	want(t, "offsets of another topic", fmt.Sprint(other, err), "map[] <nil>")
	update(t, s, "car-1", func(tx store.Tx, _ int64) error {
		n, found, err := tx.Position("raw", 0)
		none, unknown, err2 := tx.Position("raw", 7)
		want(t, "positions", fmt.Sprint(n, found, none, unknown), "25 true 0 false")
		return errors.Join(err, err2)
	})
}
