package uplink_test

import (
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// TestConflict: batches whose numbers the store has given to others are neither released nor counted as lost, nor sent
// again and again, until somebody has dealt with them.
func TestConflict(t *testing.T) {
	b := newBench(t, false)
	b.store.Judge(func(e *telemetrypb.Envelope) uplinktest.Answer {
		if e.GetSeq() == 4 || e.GetSeq() == 5 {
			return uplinktest.Answer{Verdict: telemetrypb.Verdict_VERDICT_REJECTED, Reason: "conflict: another batch has this seq; begin a new epoch"}
		}
		return uplinktest.Answer{Verdict: telemetrypb.Verdict_VERDICT_STORED}
	})
	b.add(telemetry, 10)
	var mu sync.Mutex
	told := map[uint64]int{}
	o := b.options()
	o.ParkedRetry = 500 * time.Millisecond
	o.OnRejected = func(l *telemetrypb.Loss) { t.Errorf("a conflict became a loss: %v", l) }
	o.OnConflict = func(c uplink.Conflict) bool {
		mu.Lock()
		defer mu.Unlock()
		settled := true
		for seq := c.First; seq <= c.Last; seq++ {
			told[seq]++
			settled = settled && told[seq] > 1
			if r, err := b.queue.Next(buffer.Telemetry, seq); err != nil || r.Seq != seq || !c.Rejected || c.Epoch != epoch || c.Lane != buffer.Telemetry {
				t.Errorf("%+v: batch %d, %v", c, r.Seq, err)
			}
		}
		return settled
	}
	b.start(o)
	b.arrived(10 - 2)
	b.wait("both settled", func() bool { return b.queue.Stats().Lanes[buffer.Telemetry].Batches == 0 })
	mu.Lock()
	defer mu.Unlock()
	if told[4] < 2 || told[5] < 2 || len(told) != 2 {
		t.Errorf("told %v, want 4 and 5 until they are settled", told)
	}
}

// TestReceiptFromTheFuture: a store that has what this queue never committed knows a later state of it.
func TestReceiptFromTheFuture(t *testing.T) {
	b := newBench(t, false)
	b.store.Lie(func(r *telemetrypb.ReceiptRange) { r.First, r.Last = r.First+1000, r.Last+1000 })
	b.add(telemetry, 3)
	told := make(chan uplink.Conflict, 100)
	o := b.options()
	o.OnConflict = func(c uplink.Conflict) bool {
		select {
		case told <- c:
		default:
		}
		return false
	}
	b.start(o)
	select {
	case c := <-told:
		if c.Rejected || c.Epoch != epoch || c.Lane != buffer.Telemetry || c.First <= 1000 || c.Why == "" {
			t.Errorf("%+v", c)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told")
	}
	if n := b.queue.Stats().Lanes[buffer.Telemetry].Batches; n != 3 {
		t.Errorf("%d batches are held, want 3", n)
	}
}
