package pipeline

import (
	"fmt"
	"sync"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func TestLedgerTellsOnceWithTimes(t *testing.T) {
	now := int64(100)
	l := newLedger(func() int64 { return now }, [16]byte{3}, nil)
	l.Add(telemetrypb.LossReason_LOSS_OVERLOAD, "can:can0", "samples", 5, "a")
	now = 200
	l.Add(telemetrypb.LossReason_LOSS_OVERLOAD, "can:can0", "samples", 7, "b\xff")
	l.Add(telemetrypb.LossReason_LOSS_OVERLOAD, "can:can0", "samples", 0, "nothing")
	records := l.take()
	if len(records) != 1 {
		t.Fatalf("%v", records)
	}
	got := records[0].GetLoss()
	if got.Count != 12 || got.FirstNs != 100 || got.LastNs != 200 || got.BootId[0] != 3 || got.Detail != "b\uFFFD" {
		t.Errorf("%v", got)
	}
	if again := l.take(); len(again) != 0 {
		t.Errorf("told again: %v", again)
	}
	now = 300
	l.Add(telemetrypb.LossReason_LOSS_OVERLOAD, "can:can0", "samples", 1, "")
	if got = l.take()[0].GetLoss(); got.Count != 1 || got.FirstNs != 300 || got.Detail != "" {
		t.Errorf("the next one is %v", got)
	}
	if total := l.Totals(); len(total) != 1 || total[0].Count != 13 {
		t.Errorf("totals %v", total)
	}
}

func TestLedgerJoinsSeqRanges(t *testing.T) {
	l := newLedger(func() int64 { return 1 }, [16]byte{3}, nil)
	drop := func(lane telemetrypb.Lane, seq uint64) {
		l.AddLoss(&telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_DISK_ERROR, Unit: "samples", Count: 10, Epoch: 4, Lane: lane,
			Seqs: []*telemetrypb.SeqRange{{First: seq, Last: seq}}})
	}
	for _, seq := range []uint64{9, 8, 7, 5, 6} { // the newest first, then something else
		drop(telemetrypb.Lane_LANE_TELEMETRY, seq)
	}
	drop(telemetrypb.Lane_LANE_RAW, 1)
	records := l.take()
	if len(records) != 2 {
		t.Fatalf("%v", records)
	}
	a := records[0].GetLoss()
	if text := fmt.Sprint(a.Seqs); a.Count != 50 || len(a.Seqs) != 2 || a.Seqs[0].First != 7 || a.Seqs[0].Last != 9 || a.Seqs[1].First != 5 || a.Seqs[1].Last != 6 {
		t.Errorf("joined to %s, %d samples", text, a.Count)
	}
}

func TestLedgerIsBoundedAndLosesNoCount(t *testing.T) {
	l := newLedger(func() int64 { return 1 }, [16]byte{3}, nil)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				l.Add(telemetrypb.LossReason_LOSS_OVERLOAD, fmt.Sprint("source", g, i), "samples", 1, "")
				l.AddLoss(&telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_EVICTED, Unit: "samples", Count: 1, Detail: fmt.Sprint(g, i)})
			}
		})
	}
	wg.Wait()
	total, told := uint64(0), uint64(0)
	for _, c := range l.Totals() {
		total += c.Count
	}
	records := l.take()
	for _, r := range records {
		told += r.GetLoss().Count
	}
	if total != 16000 || told != 16000 || len(records) > maxLedgerKeys+maxLedgerOwn+16 {
		t.Errorf("%d in the totals and %d told of 16000, in %d records", total, told, len(records))
	}
}
