package uplink_test

import (
	"bytes"
	"sync"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// TestLiesFreeNothing: whatever a receipt says, only one that fits what is held releases it.
func TestLiesFreeNothing(t *testing.T) {
	lies := map[string]func(*telemetrypb.ReceiptRange){
		"checksum":    func(r *telemetrypb.ReceiptRange) { r.CrcXor ^= 1 },
		"count":       func(r *telemetrypb.ReceiptRange) { r.Count++ },
		"more":        func(r *telemetrypb.ReceiptRange) { r.Last++; r.Count++ },
		"never given": func(r *telemetrypb.ReceiptRange) { r.Last += 1 << 12; r.Count += 1 << 12 },
		"everything":  func(r *telemetrypb.ReceiptRange) { r.First, r.Last = 0, ^uint64(0) },
		"inverted":    func(r *telemetrypb.ReceiptRange) { r.First, r.Last = r.Last+1, r.First },
		"lane":        func(r *telemetrypb.ReceiptRange) { r.Lane = 77 },
		"other lane":  func(r *telemetrypb.ReceiptRange) { r.Lane = control },
		"negative":    func(r *telemetrypb.ReceiptRange) { r.Lane = -1 },
		"epoch":       func(r *telemetrypb.ReceiptRange) { r.Epoch++ },
		"verdict":     func(r *telemetrypb.ReceiptRange) { r.Verdict = 9 },
		"no verdict":  func(r *telemetrypb.ReceiptRange) { r.Verdict = 0 },
		"rejected":    func(r *telemetrypb.ReceiptRange) { r.Verdict = telemetrypb.Verdict_VERDICT_REJECTED; r.CrcXor++ },
	}
	silent := map[string]bool{"epoch": true, "verdict": true, "no verdict": true} // not a claim about our batches
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, false)
			b.store.Lie(lie)
			b.add(event, 1)
			b.add(telemetry, 100)
			o := b.options()
			o.ReceiptTimeout = 50 * time.Millisecond
			o.OnRejected = func(l *telemetrypb.Loss) { t.Errorf("a lie became a loss: %v", l) }
			u, _ := b.start(o)
			b.wait("everything sent and overdue", func() bool {
				s := u.State()
				return s.BatchesResent >= 1 && b.store.Len() == 101 && (silent[name] || b.raised("uplink.mismatch"))
			})
			if n := b.queue.Len(); n != 101 {
				t.Errorf("%d of 101 batches are held", n)
			}
			if s := u.State(); s.BatchesReleased != 0 {
				t.Errorf("%d batches released", s.BatchesReleased)
			}
			if name == "epoch" && u.State().OtherEpoch == 0 {
				t.Error("a receipt for another epoch was not counted")
			}
			b.store.Lie(nil)
			b.arrived(101)
		})
	}
}

// TestMismatchAlarmClears when the store comes to its senses.
func TestMismatchAlarmClears(t *testing.T) {
	b := newBench(t, false)
	b.store.Lie(func(r *telemetrypb.ReceiptRange) { r.CrcXor ^= 1 })
	b.add(telemetry, 10)
	o := b.options()
	o.ReceiptTimeout = 100 * time.Millisecond
	b.start(o)
	b.wait("the alarm", func() bool { return b.raised("uplink.mismatch") })
	b.store.Lie(nil)
	b.arrived(10)
	b.wait("the alarm down", func() bool { return !b.raised("uplink.mismatch") && !b.raised("uplink.receipt") })
}

// TestRejected: the ledger is told before the batch is let go.
func TestRejected(t *testing.T) {
	b := newBench(t, false)
	b.store.Judge(func(e *telemetrypb.Envelope) uplinktest.Answer {
		if e.GetSeq() >= 4 && e.GetSeq() <= 6 {
			return uplinktest.Answer{Verdict: telemetrypb.Verdict_VERDICT_REJECTED, Reason: "foreign tenant"}
		}
		return uplinktest.Answer{Verdict: telemetrypb.Verdict_VERDICT_STORED}
	})
	var samples uint64
	for seq := range uint64(10) {
		b.add(telemetry, 1)
		if rec, err := b.queue.Next(3, seq+1); err == nil && seq+1 >= 4 && seq+1 <= 6 {
			samples += uint64(rec.Samples)
		}
	}
	var mu sync.Mutex
	var losses []*telemetrypb.Loss
	o := b.options()
	o.OnRejected = func(l *telemetrypb.Loss) {
		mu.Lock()
		defer mu.Unlock()
		losses = append(losses, l)
		if rec, err := b.queue.Next(3, l.Seqs[0].First); err != nil || rec.Seq != l.Seqs[0].First {
			t.Errorf("batch %d was released before its loss was told", l.Seqs[0].First)
		}
	}
	b.start(o)
	b.arrived(7)
	mu.Lock()
	defer mu.Unlock()
	var count uint64
	for _, l := range losses {
		count += l.Count
		if l.Reason != telemetrypb.LossReason_LOSS_REJECTED || l.Unit != "samples" || l.Epoch != epoch || l.Lane != telemetry || l.FirstNs == 0 || l.LastNs < l.FirstNs {
			t.Errorf("loss %v", l)
		}
	}
	if count != samples || len(losses) == 0 {
		t.Errorf("%d samples in the ledger, %d rejected: %v", count, samples, losses)
	}
}

// TestParked: what waits for its catalogue is kept, the catalogue is asked for, and the rest flows.
func TestParked(t *testing.T) {
	b := newBench(t, false)
	want := [16]byte{0xCA, 0x7A}
	b.store.Judge(func(e *telemetrypb.Envelope) uplinktest.Answer {
		if e.GetLane() == telemetry {
			return uplinktest.Answer{Verdict: telemetrypb.Verdict_VERDICT_PARKED, Want: want[:]}
		}
		return uplinktest.Answer{Verdict: telemetrypb.Verdict_VERDICT_STORED}
	})
	b.add(telemetry, 50)
	asked := make(chan [16]byte, 100)
	o := b.options()
	o.ReceiptTimeout = 300 * time.Millisecond
	o.OnWantCatalogue = func(short [16]byte) {
		select {
		case asked <- short:
		default:
		}
	}
	u, stop := b.start(o)
	select {
	case short := <-asked:
		if short != want {
			t.Errorf("asked for %x", short)
		}
	case <-time.After(patience):
		t.Fatal("the catalogue was not asked for")
	}
	b.wait("all parked", func() bool { return u.State().BatchesParked >= 50 })
	b.add(control, 2)
	b.wait("control passes", func() bool { return b.queue.Len() == 50 })
	sent := u.State().BatchesSent
	time.Sleep(2 * o.ReceiptTimeout)
	b.broker.Kick(device)
	b.wait("online again", func() bool { return u.State().Connections == 2 })
	time.Sleep(100 * time.Millisecond)
	if s := u.State(); s.BatchesSent != sent || s.BatchesReleased != 2 {
		t.Errorf("parked batches were sent again, or released: %+v", s)
	}
	b.store.Unpark()
	b.arrived(52)

	// A store that forgot what it parked is asked again after ParkedRetry.
	stop()
	b.store.Judge(func(e *telemetrypb.Envelope) uplinktest.Answer {
		return uplinktest.Answer{Verdict: telemetrypb.Verdict_VERDICT_PARKED, Want: want[:]}
	})
	b.add(telemetry, 5)
	o.ParkedRetry = 200 * time.Millisecond
	u, _ = b.start(o)
	b.wait("parked", func() bool { return u.State().BatchesParked >= 5 })
	b.store.Judge(nil)
	b.wait("released", func() bool { return b.queue.Len() == 0 })
}

// TestReceiptsOfTheProcessBefore: what was sent before a restart is verified from the queue.
func TestReceiptsOfTheProcessBefore(t *testing.T) {
	b := newBench(t, false)
	b.store.Silence(true)
	b.add(telemetry, 60)
	u, stop := b.start(b.options())
	b.wait("everything stored", func() bool { return b.store.Len() == 60 })
	stop()
	b.store.Silence(false)
	if u.State().BatchesReleased != 0 {
		t.Fatal("released without a receipt")
	}
	// A publish that the broker refuses to take from us now: only the receipts of before can release anything.
	b.broker.SetRules(uplinktest.Rules{Swallow: func(client, topic string, _ []byte) bool {
		return client == device && topic == telemetrypb.Topic(tenant, device, "up/telemetry")
	}})
	u, _ = b.start(b.options())
	b.wait("online", func() bool { return u.State().Phase == uplink.Online })
	var xor uint32
	for _, s := range b.store.Order()[:40] {
		xor ^= s.CRC
	}
	b.store.Send(tenant, device, &telemetrypb.ReceiptRange{Epoch: epoch, Lane: telemetry, First: 1, Last: 40, Count: 40, CrcXor: xor, Verdict: telemetrypb.Verdict_VERDICT_STORED})
	b.wait("released", func() bool { return b.queue.Len() == 20 })
	// Again, and overlapping: nothing happens, and nothing is wrong with it.
	seen := u.State().Receipts
	b.store.Send(tenant, device, &telemetrypb.ReceiptRange{Epoch: epoch, Lane: telemetry, First: 1, Last: 40, Count: 40, CrcXor: xor, Verdict: telemetrypb.Verdict_VERDICT_STORED})
	b.wait("taken", func() bool { return u.State().Receipts > seen })
	if b.raised("uplink.mismatch") || b.queue.Len() != 20 {
		t.Errorf("a receipt that came twice: %+v", u.State())
	}
}

// TestSilentStore: PUBACKs without receipts are an alarm that names the causes, and clears.
func TestSilentStore(t *testing.T) {
	b := newBench(t, false)
	b.broker.SetRules(uplinktest.Rules{Swallow: func(client, topic string, _ []byte) bool { return client == device }})
	b.add(telemetry, 100)
	o := b.options()
	o.ReceiptTimeout = 100 * time.Millisecond
	u, _ := b.start(o)
	b.wait("the alarm", func() bool { return b.raised("uplink.receipt") })
	text := ""
	for _, a := range b.alarms.Standing() {
		text += a.Text
	}
	if !bytes.Contains([]byte(text), []byte("ACL")) || !bytes.Contains([]byte(text), []byte("store is not running")) {
		t.Errorf("the alarm does not name the likely causes: %s", text)
	}
	if b.queue.Len() != 100 || u.State().Pubacks == 0 {
		t.Errorf("%d batches held, state %+v", b.queue.Len(), u.State())
	}
	b.broker.SetRules(uplinktest.Rules{})
	b.arrived(100)
	b.wait("the alarm down", func() bool { return !b.raised("uplink.receipt") })
}

// TestReceiptsDenied: a refused subscription is told at once.
func TestReceiptsDenied(t *testing.T) {
	b := newBench(t, false)
	b.broker.SetRules(uplinktest.Rules{Subscribe: func(client, _ string) bool { return client != device }})
	b.add(telemetry, 5)
	b.start(b.options())
	b.wait("the alarm", func() bool { return b.raised("uplink.receipt") })
	b.wait("sent nevertheless", func() bool { return b.store.Len() == 5 })
}

// TestWindowIsBounded: without receipts no more is sent than the window holds.
func TestWindowIsBounded(t *testing.T) {
	b := newBench(t, false)
	b.store.Silence(true)
	b.add(telemetry, 500)
	o := b.options()
	o.PayloadBytes, o.UnreceiptedCount, o.ReceiptTimeout = 1<<10, 40, time.Minute
	u, _ := b.start(o)
	b.wait("the window full", func() bool { return u.State().Unreceipted >= 40 })
	time.Sleep(100 * time.Millisecond)
	s := u.State()
	if s.Unreceipted > 60 || s.BatchesSent > 60 {
		t.Errorf("%d batches without receipt, the window is 40", s.Unreceipted)
	}
	b.add(telemetry, 5)
	b.add(event, 2)
	b.wait("what is new passes the backlog that waits", func() bool {
		fresh := 0
		for _, s := range b.store.Order() {
			if s.Lane == event || s.Seq > 500 {
				fresh++
			}
		}
		return fresh == 7
	})
}
