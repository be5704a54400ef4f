package uplink_test

import (
	"context"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

var _ uplink.Queue = (*buffer.Queue)(nil)

const (
	control   = telemetrypb.Lane_LANE_CONTROL
	event     = telemetrypb.Lane_LANE_EVENT
	telemetry = telemetrypb.Lane_LANE_TELEMETRY
)

func TestDelivers(t *testing.T) {
	b := newBench(t, false)
	b.add(control, 3)
	b.add(event, 5)
	b.add(telemetry, 300)
	u, stop := b.start(b.options())
	b.arrived(308)
	b.add(telemetry, 20)
	b.arrived(328)
	s := u.State()
	if s.Phase != uplink.Online || s.BatchesReleased != 328 || s.Mismatches != 0 || s.Losses != 0 || s.BatchesResent != 0 {
		t.Errorf("state %+v", s)
	}
	if s.Payloads >= 328/2 {
		t.Errorf("%d payloads for 328 small batches: they are not packed", s.Payloads)
	}
	stop()
	if s := u.State(); s.Phase != uplink.Stopped {
		t.Errorf("state after the end: %s", s)
	}
}

// TestDrainOrder: control, events, then what is new, then the backlog; in order within each.
func TestDrainOrder(t *testing.T) {
	b := newBench(t, true)
	b.add(telemetry, 400)
	b.add(event, 4)
	b.add(control, 4)
	o := b.options()
	o.PayloadBytes = 2 << 10
	o.InFlight = 2
	b.proxy.SetDelay(10 * time.Millisecond)
	b.start(o)
	b.wait("the backlog under way", func() bool { return b.store.Len() > 30 })
	b.proxy.Freeze()
	b.add(telemetry, 40)
	b.add(event, 2)
	b.proxy.Thaw()
	b.arrived(450)
	order := b.store.Order()
	for i, s := range order[:8] {
		if want := []telemetrypb.Lane{control, event}[i/4]; s.Lane != want {
			t.Errorf("batch %d to arrive is of lane %s, want %s", i, telemetrypb.LaneName(s.Lane), telemetrypb.LaneName(want))
		}
	}
	var last [2]uint64
	newDone, oldAfter := 0, 0
	for _, s := range order {
		if s.Lane != telemetry {
			continue
		}
		isNew := s.Seq > 400
		if s.Backlog == isNew {
			t.Errorf("batch %d has the backlog flag %v", s.Seq, s.Backlog)
		}
		class := 0
		if isNew {
			class = 1
			newDone++
		} else if newDone == 40 {
			oldAfter++
		}
		if s.Seq <= last[class] {
			t.Errorf("batch %d arrived after %d", s.Seq, last[class])
		}
		last[class] = s.Seq
	}
	if oldAfter < 100 {
		t.Errorf("only %d batches of the backlog came after all that was new: it did not wait", oldAfter)
	}
}

// TestBrokerLosesSessions: what the broker acknowledged and then lost is sent again, and stored once.
func TestBrokerLosesSessions(t *testing.T) {
	b := newBench(t, false)
	o := b.options()
	o.ReceiptTimeout = 300 * time.Millisecond
	o.PayloadBytes = 4 << 10
	b.start(o)
	for i := range 4 {
		b.add(telemetry, 200)
		b.wait("some stored", func() bool { return b.store.Len() > i*200+20 })
		b.broker.Stop()
		if i%2 == 0 {
			if err := b.broker.Forget(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Millisecond)
		b.add(event, 3)
		if err := b.broker.Start(); err != nil {
			t.Fatal(err)
		}
	}
	b.arrived(812)
}

// TestSwallowedPubacks: a PUBACK that never comes costs the connection, not the batch.
func TestSwallowedPubacks(t *testing.T) {
	for _, ack := range []uplink.Ack{uplink.AckReceipt, uplink.AckPuback} {
		t.Run(string(ack), func(t *testing.T) {
			b := newBench(t, false)
			o := b.options()
			o.Ack, o.AckTimeout = ack, 150*time.Millisecond
			b.store.Silence(true)
			b.broker.SetRules(uplinktest.Rules{NoPuback: func(client string) bool { return client == device }})
			b.add(telemetry, 100)
			u, _ := b.start(o)
			b.wait("three losses", func() bool { return u.State().Losses >= 3 })
			if n := b.queue.Len(); n != 100 {
				t.Errorf("%d of 100 batches are held without any acknowledgement", n)
			}
			b.broker.SetRules(uplinktest.Rules{})
			b.store.Silence(false)
			b.arrived(100)
			if b.store.Duplicates() == 0 {
				t.Error("nothing was sent twice: the PUBACKs were not withheld")
			}
		})
	}
}

// TestCuts cuts the link at random bytes, a hundred times.
func TestCuts(t *testing.T) {
	for _, ack := range []uplink.Ack{uplink.AckReceipt, uplink.AckPuback} {
		t.Run(string(ack), func(t *testing.T) {
			b := newBench(t, true)
			o := b.options()
			o.Ack = ack
			o.BackoffBase, o.BackoffCap = time.Millisecond, 20*time.Millisecond
			o.ReceiptTimeout = 500 * time.Millisecond
			o.WriteTimeout = time.Second // paho may hold a Publish on a dead link for so long
			b.proxy.CutAfter(rand.New(rand.NewPCG(2, 3)), 6<<10)
			b.start(o)
			added := 0
			b.wait("a hundred connections", func() bool {
				if b.queue.Len() < 60 {
					b.add(telemetry, 20)
					added += 20
				}
				return b.proxy.Accepted() >= 100
			})
			b.proxy.CutAfter(nil, 0)
			b.arrived(added)
		})
	}
}

// TestHalfOpen: a link that swallows bytes without a word is noticed, with publishes under way and without.
func TestHalfOpen(t *testing.T) {
	for name, idle := range map[string]bool{"idle": true, "publishing": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true)
			o := b.options()
			o.KeepAlive, o.PingTimeout, o.AckTimeout, o.ConnectTimeout = time.Second, 500*time.Millisecond, time.Second, time.Second
			u, _ := b.start(o)
			b.wait("online", func() bool { return u.State().Phase == uplink.Online })
			b.proxy.Drop(true, true)
			added := 0
			if !idle {
				b.add(telemetry, 50)
				added = 50
			}
			b.wait("the loss noticed", func() bool { return u.State().Losses > 0 })
			b.proxy.Drop(false, false)
			b.proxy.Cut(true)
			b.add(telemetry, 10)
			b.arrived(added + 10)
		})
	}
}

// TestRealQueue: a vehicle with the queue of the agent, restarted while batches are on their way.
func TestRealQueue(t *testing.T) {
	b := newBench(t, true)
	dir := t.TempDir()
	open := func() *buffer.Queue {
		q, err := buffer.Open(dir, buffer.Options{SegmentBytes: 1 << 20, Rand: crand.Reader})
		if err != nil {
			t.Fatal(err)
		}
		b.queue = uplinktest.Name(q, tenant, device)
		return q
	}
	b.proxy.SetRate(100 << 10)
	total := 0
	for range 3 {
		q := open()
		b.add(telemetry, 150)
		b.add(event, 10)
		total += 160
		u, stop := b.start(b.options())
		b.wait("some released", func() bool { return u.State().BatchesReleased > 20 })
		stop()
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b.proxy.SetRate(0)
	q := open()
	_, stop := b.start(b.options())
	b.arrived(total)
	stop()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDrain(t *testing.T) {
	b := newBench(t, true)
	b.add(telemetry, 200)
	u, _ := b.start(b.options())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := u.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if n := b.queue.Len(); n != 0 {
		t.Errorf("%d batches are held after Drain", n)
	}
	b.proxy.Freeze()
	b.add(event, 1)
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := u.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain over a frozen link: %v", err)
	}
	b.proxy.Thaw()
	if err := u.Drain(ctx); err != nil {
		t.Error(err)
	}
}
