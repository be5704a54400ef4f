package uplink_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// Here are the rejections that need no long waits; test/chaos has all of them, by the timers that vehicles have.

// behind puts the bench's store and vehicle behind a Mosquitto.
func (b *bench) behind(lines ...string) (*deps.Broker, uplink.Options) {
	b.t.Helper()
	m := deps.Mosquitto(b.t, deps.MosquittoOptions{Persistence: true, Config: lines})
	b.store.Close()
	b.store = uplinktest.NewStore(m.Addr, "store")
	b.wait("the store attached", b.store.Attached)
	o := b.options()
	o.URL = "mqtt://" + m.Addr
	return m, o
}

// text is that of a standing alarm.
func (b *bench) text(name string) string {
	for _, a := range b.alarms.Standing() {
		if a.Name == name {
			return a.Text
		}
	}
	return ""
}

// addLarge commits batches of some 12 KiB.
func (b *bench) addLarge(n int) {
	b.t.Helper()
	for range n {
		samples := make([]telemetrypb.Sample, 2000)
		for i := range samples {
			samples[i] = telemetrypb.UintSample(1, int64(i)*1e7, b.rand.Uint64N(1<<48))
		}
		if _, err := b.queue.Add(telemetry, telemetrypb.Head{BootID: b.boot, BootCount: 3, Catalogue: [16]byte{9}}, samples); err != nil {
			b.t.Fatal(err)
		}
	}
}

// onlyLarge wants the large batches, and no others, in the queue.
func (b *bench) onlyLarge(n int) {
	b.t.Helper()
	b.wait("the rest flows", func() bool { return b.queue.Len() == n })
	for seq, left := uint64(0), n; left > 0; left-- {
		rec, err := b.queue.Next(buffer.Lane(telemetry), seq)
		if err != nil || rec.Samples != 2000 {
			b.t.Fatalf("held is batch %d with %d samples, %v", rec.Seq, rec.Samples, err)
		}
		seq = rec.Seq + 1
	}
}

// TestPacketLimit: a broker that closes the connection on a large packet costs a few connections, however many batches are too
// large and wherever they lie; what is as large waits, the rest flows, and payloads stay below the limit.
func TestPacketLimit(t *testing.T) {
	for name, before := range map[string]int{"large ones first": 0, "small ones first": 100} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, false)
			_, o := b.behind("max_packet_size 6000")
			o.PoisonRetry, o.ReceiptTimeout = time.Minute, 2*time.Second
			b.add(telemetry, before)
			b.addLarge(60)
			b.add(telemetry, 100)
			u, _ := b.start(o)
			b.wait("the alarm", func() bool { return b.raised("uplink.poison") })
			if text := b.text("uplink.poison"); !strings.Contains(text, "packet limit") {
				t.Errorf("alarm %q", text)
			}
			b.onlyLarge(60)
			b.addLarge(10)
			b.add(telemetry, 300)
			b.add(event, 10)
			b.onlyLarge(70)
			b.add(telemetry, 300)
			b.onlyLarge(70)
			// Five for the first, one for another as large, and trials of larger payloads, each after twice as many PUBACKs.
			if n := u.State().Losses; n > 16 {
				t.Errorf("%d connections lost over one limit", n)
			}
			t.Logf("%d losses, payloads of %d bytes", u.State().Losses, u.State().PayloadBytes)
		})
	}
}

// TestLimitLifted: one of the large goes now and then, and when one gets through they all do.
func TestLimitLifted(t *testing.T) {
	b := newBench(t, false)
	limit := func(client, _ string, payload []byte) bool { return client == device && len(payload) > 6000 }
	b.broker.SetRules(uplinktest.Rules{Close: limit})
	b.add(telemetry, 50)
	b.addLarge(40)
	o := b.options()
	o.PoisonRetry = 100 * time.Millisecond
	b.start(o)
	b.wait("the alarm", func() bool { return b.raised("uplink.poison") })
	b.add(telemetry, 50)
	b.onlyLarge(40)
	b.broker.SetRules(uplinktest.Rules{})
	b.arrived(140)
	b.wait("the alarm down", func() bool { return !b.raised("uplink.poison") })
}

// meanwhile waits while the vehicle goes on: what a store says of later batches shows that one is lost. It says how many it added.
func (b *bench) meanwhile(what string, ok func() bool) (added int) {
	b.t.Helper()
	next := time.Now()
	b.wait(what, func() bool {
		if now := time.Now(); now.After(next) {
			next = now.Add(200 * time.Millisecond)
			added++
			b.add(telemetry, 1)
		}
		return ok()
	})
	return added
}

// TestMessageSizeLimit: a broker that acknowledges and drops what is large is found out by the receipts that do not come.
func TestMessageSizeLimit(t *testing.T) {
	b := newBench(t, false)
	_, o := b.behind("message_size_limit 6000")
	o.ReceiptTimeout, o.PoisonRetry = 500*time.Millisecond, time.Minute
	b.add(telemetry, 100)
	b.addLarge(5)
	b.add(telemetry, 300)
	u, _ := b.start(o)
	b.wait("the alarm", func() bool { return b.raised("uplink.receipt") })
	b.onlyLarge(5)
	b.meanwhile("the alarm that knows more", func() bool { return strings.Contains(b.text("uplink.poison"), "message_size_limit") })
	b.add(telemetry, 300)
	b.onlyLarge(5)
	if s := u.State(); s.Losses > 0 || s.Attempts > 1 {
		t.Errorf("%d losses, %d attempts", s.Losses, s.Attempts)
	}
}

// TestSwallowedForSize: and when the broker lets more through, it arrives.
func TestSwallowedForSize(t *testing.T) {
	b := newBench(t, false)
	b.broker.SetRules(uplinktest.Rules{Swallow: func(client, _ string, payload []byte) bool { return client == device && len(payload) > 3000 }})
	o := b.options()
	o.ReceiptTimeout, o.PoisonRetry = 200*time.Millisecond, 100*time.Millisecond
	b.addLarge(3)
	b.add(telemetry, 300)
	b.start(o)
	b.onlyLarge(3)
	more := b.meanwhile("the alarm", func() bool { return b.raised("uplink.poison") })
	b.broker.SetRules(uplinktest.Rules{})
	b.arrived(303 + more)
	b.wait("the alarms down", func() bool { return !b.raised("uplink.poison") && !b.raised("uplink.receipt") })
}

// TestLaneDenied: a broker that closes on everything of one lane costs a few connections, and the others flow.
func TestLaneDenied(t *testing.T) {
	b := newBench(t, false)
	denied := telemetrypb.Topic(tenant, device, telemetrypb.TopicLane(telemetry))
	b.broker.SetRules(uplinktest.Rules{Close: func(client, topic string, _ []byte) bool { return client == device && topic == denied }})
	b.add(telemetry, 100)
	b.add(event, 10)
	o := b.options()
	o.PoisonRetry = time.Minute
	u, _ := b.start(o)
	b.wait("the alarm", func() bool { return strings.Contains(b.text("uplink.poison"), "ACL") })
	for range 5 {
		b.add(event, 5)
		b.add(telemetry, 20)
		b.wait("events flow", func() bool { return b.queue.Stats().Lanes[buffer.Lane(event)].Batches == 0 })
	}
	if s := u.State(); s.Losses > 8 || b.queue.Len() != 200 {
		t.Errorf("%d losses, %d batches held", s.Losses, b.queue.Len())
	}
}

// TestEverythingDenied: not even the status may be published.
func TestEverythingDenied(t *testing.T) {
	b := newBench(t, false)
	b.broker.SetRules(uplinktest.Rules{Close: func(client, _ string, _ []byte) bool { return client == device }})
	b.add(telemetry, 20)
	b.start(b.options())
	b.wait("the alarm", func() bool { return strings.Contains(b.text("uplink.denied"), "ACL") })
	if b.raised("uplink.duel") {
		t.Error("the alarm suspects another client")
	}
	b.broker.SetRules(uplinktest.Rules{})
	b.arrived(20)
	b.wait("the alarm down", func() bool { return !b.raised("uplink.denied") })
}

// TestUnavailable: a broker that hangs up on CONNECT, as one does at its limit of connections, is told of.
func TestUnavailable(t *testing.T) {
	b := newBench(t, false)
	b.add(telemetry, 3)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	o := b.options()
	o.URL = "mqtt://" + l.Addr().String()
	_, stop := b.start(o)
	b.wait("the alarm", func() bool { return strings.Contains(b.text("uplink.unavailable"), "limit of its own") })
	stop()
	b.start(b.options())
	b.arrived(3)
	if b.raised("uplink.unavailable") {
		t.Error("the alarm stands after a connection")
	}
}
