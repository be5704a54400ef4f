package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// parking: a batch that waits is found by what it waits for, and settled once.
func parking(t *testing.T, s store.Store) {
	waits := [16]byte{1, 2}
	park := func(seq uint64, reason string, catalogue [16]byte) (row int64) {
		update(t, s, "car-1", func(tx store.Tx, d int64) error {
			b := Batch(seq, uint32(seq))
			b.State, b.Reason, b.Catalogue, b.Bytes, b.Samples = store.StateParked, reason, catalogue, []byte{byte(seq)}, 5
			p, err := tx.PutBatch(d, b)
			row = p.ID
			return err
		})
		return row
	}
	first := park(1, store.ReasonCatalogue, waits)
	park(2, store.ReasonFormat, waits)
	park(3, store.ReasonCatalogue, [16]byte{9})
	second := park(4, store.ReasonCatalogue, waits)
	want(t, "parked", s.Totals().Parked, 4)
	update(t, s, "car-1", func(tx store.Tx, d int64) error {
		list, err := tx.ParkedFor(d, waits)
		if err != nil || len(list) != 2 {
			return fmt.Errorf("%v: %w", list, err)
		}
		want(t, "what waits", fmt.Sprint(list), fmt.Sprint([]store.Parked{
			{ID: first, Key: store.Key{Epoch: 9, Lane: tele, Seq: 1}, CRC: 1, Bytes: []byte{1}}, {ID: second, Key: store.Key{Epoch: 9, Lane: tele, Seq: 4}, CRC: 4, Bytes: []byte{4}}}))
		if err := tx.Settle(first, store.StateStored, ""); err != nil {
			return err
		}
		g, err := tx.NamedSignal(d, "a", "")
		if err != nil {
			return err
		}
		return errors.Join(tx.PutSamples(first, []store.Row{{Signal: g}}), tx.Settle(second, store.StateRejected, "malformed"))
	})
	want(t, "samples of what had waited", len(read(t, s, store.Query{})), 1)
	for _, row := range []int64{first, second + 1000} {
		if err := s.Update(context.Background(), func(tx store.Tx) error { return tx.Settle(row, store.StateStored, "") }); err == nil {
			t.Errorf("row %d was settled", row)
		}
	}
	if err := s.Update(context.Background(), func(tx store.Tx) error { return tx.Settle(first, store.StateParked, "") }); err == nil {
		t.Error("settled by parking")
	}
	n := s.Totals()
	want(t, "totals", fmt.Sprint(n.Parked, n.Rejected, n.Batches), "2 1 4")
	var p store.Put
	update(t, s, "car-1", func(tx store.Tx, d int64) (err error) { p, err = tx.PutBatch(d, Batch(4, 4)); return err })
	want(t, "a duplicate of what was rejected", fmt.Sprint(p.State, " ", p.Reason), "rejected malformed")
	update(t, s, "car-1", func(tx store.Tx, d int64) (err error) { p, err = tx.PutBatch(d, Batch(3, 3)); return err })
	want(t, "a duplicate of what waits", fmt.Sprint(p.State, " ", p.Catalogue[0]), "parked 9")
	devices, err := s.Devices(context.Background())
	want(t, "lanes", fmt.Sprint(devices[0].Lanes, err), "[{0000000000000009 telemetry 4 5 2 1 0 4 0}] <nil>")
}

// catalogueInParts: in any order, twice, over several transactions; its signals have their rows, and their labels.
func catalogueInParts(t *testing.T, s store.Store) {
	spec := &telemetrypb.Catalogue{}
	for i := range 700 {
		spec.Signals = append(spec.Signals, &telemetrypb.Signal{Id: uint32(i + 1), Name: fmt.Sprintf("can0.M%d.%s", i, strings.Repeat("s", 20)), Unit: "V",
			Scale: 0.5, Offset: -1, Type: telemetrypb.ValueType_VALUE_TYPE_UINT, Labels: []*telemetrypb.Label{{Value: 3, Text: "three\x00"}}})
	}
	data, hash := telemetrypb.EncodeCatalogue(spec)
	parts := telemetrypb.SplitCatalogue(data)
	if len(parts) < 3 {
		t.Fatalf("%d parts", len(parts))
	}
	short := [16]byte(hash[:16])
	order := append(append([]int{1, 1}, 0), len(parts)-1)
	for i := 2; i < len(parts)-1; i++ {
		order = append(order, i)
	}
	var whole *store.Catalogue
	for _, i := range order {
		update(t, s, "car-1", func(tx store.Tx, d int64) error {
			if c, err := tx.Catalogue(d, short); c != nil || err != nil {
				t.Errorf("known ahead of part %d: %v", i, err)
			}
			c, err := tx.PutPart(d, parts[i], Now)
			if c != nil {
				whole = c
			}
			return err
		})
	}
	if whole == nil || len(whole.ByID) != len(spec.Signals) || whole.Hash != hash {
		t.Fatalf("%+v", whole)
	}
	update(t, s, "car-1", func(tx store.Tx, d int64) error {
		c, err := tx.Catalogue(d, short)
		if err != nil || c == nil || c.Row != whole.Row || c.ByID[3].Row != whole.ByID[3].Row || c.ByID[3].Row == 0 || c.ByName[spec.Signals[4].Name].Row != whole.ByID[5].Row {
			return fmt.Errorf("%v: %w", c, err)
		}
		if again, err := tx.PutPart(d, parts[0], Now); again != nil || err != nil {
			return fmt.Errorf("a part of what is known: %v, %w", again, err)
		}
		p, err := tx.PutBatch(d, Batch(1, 1))
		if err != nil {
			return err
		}
		raw := store.Scalar{Kind: telemetrypb.KindUint, Bits: 3}
		return tx.PutSamples(p.ID, []store.Row{{Signal: c.ByID[3].Row, Raw: raw, Value: store.ValueOf(telemetrypb.Sample{Kind: raw.Kind, Bits: 3}, 0.5, -1)}})
	})
	list := read(t, s, store.Query{})
	if len(list) != 1 || list[0].Signal != spec.Signals[2].Name || list[0].Unit != "V" || !strings.HasPrefix(list[0].Label, "three") {
		t.Errorf("%+v", list)
	} else if v := list[0].Value; v.Kind != telemetrypb.KindFloat || v.Bits != 0x3FE0000000000000 {
		t.Errorf("value %+v, want 0.5", v)
	}
	// Another device's catalogue is its own, and parts that make up no catalogue go.
	update(t, s, "car-2", func(tx store.Tx, d int64) error {
		if c, err := tx.Catalogue(d, short); c != nil || err != nil {
			t.Errorf("of another device: %v", err)
		}
		bad := &telemetrypb.CataloguePart{Hash: bytes.Repeat([]byte{5}, 32), Count: 1, Data: []byte("x")}
		if _, err := tx.PutPart(d, bad, Now); !errors.Is(err, store.ErrParts) {
			t.Errorf("a part that is none: %v", err)
		}
		if _, err := tx.PutPart(d, &telemetrypb.CataloguePart{Hash: []byte{1}}, Now); !errors.Is(err, store.ErrParts) {
			t.Errorf("a hash that is none: %v", err)
		}
		_, err := tx.PutBatch(d, Batch(1, 1)) // the transaction goes on
		return err
	})
	// Of what is half sent, the last few are kept.
	for i := range 8 {
		update(t, s, "car-2", func(tx store.Tx, d int64) error {
			_, err := tx.PutPart(d, &telemetrypb.CataloguePart{Hash: bytes.Repeat([]byte{byte(i)}, 32), Count: 2, Data: []byte("x")}, Now)
			return err
		})
	}
	clock := &telemetrypb.ClockRecord{BootId: make([]byte, 16), BootCount: 4, Revision: 2}
	update(t, s, "car-2", func(tx store.Tx, d int64) error {
		if c, err := tx.Clock(d, [16]byte{}); c != nil || err != nil {
			t.Errorf("a clock that never came: %v", err)
		}
		return errors.Join(tx.PutClock(d, &telemetrypb.ClockRecord{BootId: make([]byte, 16), Revision: 1}, Now), tx.PutClock(d, clock, Now))
	})
	update(t, s, "car-2", func(tx store.Tx, d int64) error {
		c, err := tx.Clock(d, [16]byte{})
		want(t, "clock", fmt.Sprint(c.GetRevision(), c.GetBootCount()), "2 4")
		return err
	})
}
