package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// lacks: what is asked for is what neither came nor is accounted for, the control lane first, in bounds.
func lacks(t *testing.T, s store.Store) {
	device := put(t, s, "car-1", 1, 3)
	put(t, s, "car-1", 6, 6)
	put(t, s, "car-1", 8, 8)
	control := telemetrypb.Lane_LANE_CONTROL
	given := []store.Given{{Epoch: 9, Lane: tele, Last: 10}, {Epoch: 9, Lane: control, Last: 2}, {Epoch: 10, Lane: tele, Last: 1 << 63}}
	for _, c := range []struct {
		given []store.Given
		most  int
		want  string
	}{
		{nil, 10, "[{9 LANE_TELEMETRY [{4 5} {7 7}]}] false"},
		{given, 10, "[{9 LANE_CONTROL [{1 2}]} {9 LANE_TELEMETRY [{4 5} {7 7} {9 10}]} {10 LANE_TELEMETRY [{1 9223372036854775807}]}] false"},
		{given, 2, "[{9 LANE_CONTROL [{1 2}]} {9 LANE_TELEMETRY [{4 5}]}] true"},
	} {
		list, more := s.Lacks(device, c.given, c.most)
		want(t, "lacks", fmt.Sprint(list, more), c.want)
	}
	if list, more := s.Lacks(device+1, nil, 10); len(list) > 0 || more {
		t.Errorf("of a device that is not known: %v", list)
	}
	gaps, err := s.Gaps(context.Background())
	want(t, "gaps", fmt.Sprint(gaps, err), "[{acme car-1 0000000000000009 telemetry {4 5}} {acme car-1 0000000000000009 telemetry {7 7}}] <nil>")
	want(t, "gaps in the totals", s.Totals().Gaps, 3)
}

// notKept: a vehicle's word that it no longer has what it was asked for counts for what is really missing; and what is
// rejected a second time is recorded once.
func notKept(t *testing.T, s store.Store) {
	put(t, s, "car-1", 1, 3)
	device := put(t, s, "car-1", 6, 6)
	loss := func(index int, reason telemetrypb.LossReason, seqs ...*telemetrypb.SeqRange) {
		t.Helper()
		update(t, s, "car-1", func(tx store.Tx, d int64) error {
			p, err := tx.PutBatch(d, Batch(1, 9))
			if err != nil {
				return err
			}
			return tx.PutLoss(d, p.ID, index, &telemetrypb.Loss{Reason: reason, Epoch: 9, Lane: tele, Seqs: seqs, Count: 99, Unit: "batches"})
		})
	}
	of := func(first, last uint64) *telemetrypb.SeqRange { return &telemetrypb.SeqRange{First: first, Last: last} }
	lost := telemetrypb.LossReason_LOSS_NOT_KEPT
	loss(0, telemetrypb.LossReason_LOSS_EVICTED, of(8, 9))
	loss(1, lost, of(2, 10), of(5, 4), of(0, 1<<63))
	loss(2, lost, of(4, 10)) // said twice
	rejected := telemetrypb.LossReason_LOSS_REJECTED
	loss(3, rejected, of(1, 2))
	loss(4, rejected, of(3, 3))
	loss(5, rejected, of(1, 3)) // again, by the restored store
	loss(6, rejected, of(3, 4)) // one more than before
	loss(7, rejected)           // of no known number
	loss(8, rejected)
	list, err := s.Losses(context.Background(), "")
	if err != nil || len(list) != 7 || s.Totals().Losses != 7 {
		t.Fatalf("%+v, %v", list, err)
	}
	want(t, "what was not kept", fmt.Sprint(list[1].Reason, list[1].Count, list[1].Seqs), "LOSS_NOT_KEPT4 [{4 5} {7 7} {10 10}]")
	if lacks, _ := s.Lacks(device, nil, 10); len(lacks) > 0 {
		t.Errorf("still asked for: %v", lacks)
	}
	// Arrival wins.
	put(t, s, "car-1", 9, 9)
	list, err = s.Losses(context.Background(), "car-1")
	want(t, "arrived all the same", fmt.Sprint(list[0].Seqs, list[0].Arrived, err), "[{8 9}] 1 <nil>")
	if list, err := s.Losses(context.Background(), "car-2"); len(list) != 0 || err != nil {
		t.Errorf("another's losses: %v, %v", list, err)
	}
}

// epochs: a new epoch says how far its parent had come and where its own numbers begin; numbers that make no sense do no harm.
func epochs(t *testing.T, s store.Store) {
	put(t, s, "car-1", 1, 3)
	seq := func(lane telemetrypb.Lane, n uint64) *telemetrypb.LaneSeq {
		return &telemetrypb.LaneSeq{Lane: lane, Seq: n}
	}
	for range 2 {
		update(t, s, "car-1", func(tx store.Tx, d int64) error {
			return tx.PutEpoch(d, &telemetrypb.Epoch{Epoch: 1<<63 + 5, Parent: 9, Reason: "meta", ParentLast: []*telemetrypb.LaneSeq{seq(tele, 5)},
				First: []*telemetrypb.LaneSeq{seq(tele, 4), seq(telemetrypb.Lane_LANE_EVENT, 1)}}, Now)
		})
	}
	update(t, s, "car-1", func(tx store.Tx, d int64) error {
		b := Batch(6, 1)
		b.Epoch = 1<<63 + 5
		_, err := tx.PutBatch(d, b)
		return err
	})
	gaps, err := s.Gaps(context.Background())
	want(t, "gaps", fmt.Sprint(gaps, err), "[{acme car-1 0000000000000009 telemetry {4 5}} {acme car-1 8000000000000005 telemetry {4 5}}] <nil>")
	want(t, "gaps in the totals", s.Totals().Gaps, 4)
	devices, err := s.Devices(context.Background())
	if err != nil || len(devices) != 1 || len(devices[0].Lanes) != 2 {
		t.Fatalf("%+v, %v", devices, err)
	}
	want(t, "lanes", fmt.Sprint(devices[0].Lanes), "[{0000000000000009 telemetry 3 0 0 0 0 3 2} {8000000000000005 telemetry 1 0 0 0 0 6 2}]")
}

// plainSet: whatever comes, is lost, superseded and announced, in any order and several to a transaction, the gaps are those
// of a plain set of numbers.
func plainSet(t *testing.T, s store.Store) {
	rng := rand.New(rand.NewPCG(7, 7))
	accounted, top, index := map[uint64]bool{}, uint64(0), 0
	var device, records int64 // records: the batch that losses came with
	update(t, s, "car-1", func(tx store.Tx, d int64) error {
		b := Batch(1, 1)
		b.Lane = telemetrypb.Lane_LANE_CONTROL
		p, err := tx.PutBatch(d, b)
		records = p.ID
		return err
	})
	for step := range 60 {
		device = update(t, s, "car-1", func(tx store.Tx, d int64) error {
			for range 1 + rng.IntN(4) {
				first := 1 + rng.Uint64N(120)
				last := first + rng.Uint64N(6)
				index++
				var err error
				switch rng.IntN(5) {
				case 0:
					err = tx.PutLoss(d, records, index, &telemetrypb.Loss{Epoch: 9, Lane: tele, Seqs: []*telemetrypb.SeqRange{{First: first, Last: last}}})
				case 1:
					b := Batch(first, 9)
					if last > first {
						b.Supersedes = []*telemetrypb.SeqRange{{First: first + 1, Last: last}}
					}
					var p store.Put
					if p, err = tx.PutBatch(d, b); p.Outcome != store.OutcomeNew {
						last = first
					}
					top = max(top, first)
				case 2:
					err = tx.PutEpoch(d, &telemetrypb.Epoch{Epoch: uint64(1000 + index), Parent: 9, ParentLast: []*telemetrypb.LaneSeq{{Lane: tele, Seq: last}}}, Now)
					top, first = max(top, last), last+1
				default:
					last = first
					_, err = tx.PutBatch(d, Batch(first, 9))
					top = max(top, first)
				}
				if err != nil {
					return err
				}
				for n := first; n <= last; n++ {
					accounted[n] = true
				}
			}
			return nil
		})
		var missing store.Ranges
		count := uint64(0)
		for n := uint64(1); n <= top; n++ {
			if !accounted[n] {
				missing.Add(n, n)
				count++
			}
		}
		var got store.Ranges
		gaps, err := s.Gaps(context.Background())
		for _, g := range gaps {
			got.Add(g.First, g.Last)
		}
		want(t, fmt.Sprint("gaps after step ", step), fmt.Sprint(got.List(), len(gaps), err), fmt.Sprint(missing.List(), len(missing.List()), nil))
		want(t, fmt.Sprint("totals after step ", step), s.Totals().Gaps, count)
		lacks, more := s.Lacks(device, nil, 3)
		want(t, fmt.Sprint("more after step ", step), more, len(missing.List()) > 3)
		if len(missing.List()) > 0 {
			want(t, fmt.Sprint("lacks after step ", step), lacks[0].Seqs, missing.List()[:min(3, len(missing.List()))])
		}
		if t.Failed() {
			return
		}
	}
}
