package uplink_test

import (
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// TestRest: a goodbye with its reason, silence however much comes, and everything when it wakes.
func TestRest(t *testing.T) {
	b := newBench(t, true)
	o := b.options()
	o.KeepAlive = time.Second
	u, stop := b.start(o)
	b.add(telemetry, 10)
	b.arrived(10)
	u.Rest("parked")
	b.wait("resting", func() bool { return u.State().Phase == uplink.Resting })
	var st telemetrypb.Status
	if err := proto.Unmarshal(b.broker.Retained(telemetrypb.Topic(tenant, device, telemetrypb.TopicStatus)), &st); err != nil || st.GetOnline() || st.GetReason() != "parked" {
		t.Errorf("retained status %v: %v", &st, err)
	}
	b.wait("the connection is gone", func() bool { return b.proxy.Open() == 0 })
	accepted, passed := b.proxy.Accepted(), b.proxy.Passed()
	b.add(event, 5)
	u.Renew()                           // does not wake
	time.Sleep(1200 * time.Millisecond) // more than a keep-alive and many back-offs
	if a, p := b.proxy.Accepted(), b.proxy.Passed(); a != accepted || p != passed {
		t.Errorf("at rest there were %d connections and %d bytes", a-accepted, p-passed)
	}
	u.Wake()
	b.arrived(15)
	// A rest during a back-off, and a goodbye from it.
	b.broker.Stop()
	b.wait("offline", func() bool { return u.State().Phase != uplink.Online })
	u.Rest("parked")
	b.wait("resting", func() bool { return u.State().Phase == uplink.Resting })
	stop()
}

// TestWakeEndsABackOff: what was waiting long dials at once.
func TestWakeEndsABackOff(t *testing.T) {
	b := newBench(t, false)
	b.broker.Stop()
	o := b.options()
	o.BackoffBase, o.BackoffCap = time.Hour, time.Hour
	u, _ := b.start(o)
	b.wait("waiting for long", func() bool { return !u.State().NextTry.IsZero() })
	if err := b.broker.Start(); err != nil {
		t.Fatal(err)
	}
	u.Wake()
	b.wait("online", func() bool { return u.State().Phase == uplink.Online })
}

// TestRenew: a connection that nobody believes in is left for a new one without waiting for a back-off.
func TestRenew(t *testing.T) {
	b := newBench(t, true)
	o := b.options()
	o.BackoffBase, o.BackoffCap = time.Hour, time.Hour
	o.ReceiptTimeout = time.Second // this broker may lose a receipt that reaches the old connection while the new one takes over
	u, _ := b.start(o)
	b.wait("online", func() bool { return u.State().Phase == uplink.Online })
	b.proxy.Drop(true, true) // as after a suspend: the other side is gone, and nobody says so
	b.add(event, 3)
	b.proxy.Drop(false, false)
	u.Renew()
	b.wait("online again", func() bool { s := u.State(); return s.Phase == uplink.Online && s.Connections == 2 })
	b.arrived(3)
}

func TestTopics(t *testing.T) {
	b := newBench(t, false)
	var refuse atomic.Bool
	refuse.Store(true)
	topic := telemetrypb.Topic(tenant, device, telemetrypb.TopicCommand)
	b.broker.SetRules(uplinktest.Rules{Subscribe: func(_, filter string) bool { return filter != topic || !refuse.Load() }})
	heard := make(chan string, 10)
	o := b.options()
	o.Topics = []string{telemetrypb.TopicCommand}
	o.OnMessage = func(topic string, payload []byte) { heard <- topic + " " + string(payload) }
	u, _ := b.start(o)
	b.wait("the refusal is an alarm", func() bool { return b.raised("uplink.topics") })
	b.add(telemetry, 3) // and the data flows all the same
	b.arrived(3)
	refuse.Store(false)
	u.Renew()
	b.wait("subscribed", func() bool { return !b.raised("uplink.topics") && u.State().Phase == uplink.Online })
	if err := b.broker.Publish(topic, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	select {
	case text := <-heard:
		if text != topic+" hello" {
			t.Error(text)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the message did not come")
	}
}
