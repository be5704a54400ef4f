package uplink_test

import (
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

func TestRefusedURLs(t *testing.T) {
	b := newBench(t, false)
	for _, c := range []struct {
		url      string
		insecure bool
		want     string // in the error; empty: accepted
		plain    bool
	}{
		{"mqtt://127.0.0.1:1883", false, "without TLS", true},
		{"tcp://localhost", false, "without TLS", true},
		{"ws://broker.example/mqtt", false, "without TLS", true},
		{"mqtt://127.0.0.1:1883", true, "", false},
		{"mqtts://broker.example", false, "", false},
		{"ssl://broker.example:8883", false, "", false},
		{"tls://[2001:db8::1]", false, "", false},
		{"wss://broker.example/mqtt", false, "", false},
		{"http://broker.example", true, "scheme", false},
		{"broker.example:1883", true, "scheme", false},
		{"mqtts://", true, "no host", false},
		{"mqtts://user:geheim@broker.example:badport", true, "port", false},
		{"gopher://user:geheim@broker.example", true, "scheme", false},
		{"mqtt://user:geheim@broker.example", false, "without TLS", true},
		{"", true, "scheme", false},
	} {
		o := b.options()
		o.URL, o.Insecure = c.url, c.insecure
		u, err := uplink.New(o, b.queue)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.url, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", c.url, err, c.want)
		case errors.Is(err, uplink.ErrPlainText) != c.plain:
			t.Errorf("%s: error %v", c.url, err)
		case err != nil && strings.Contains(err.Error(), "geheim"):
			t.Errorf("%s: the password is in the error: %v", c.url, err)
		case u != nil && strings.Contains(u.State().String(), "geheim"):
			t.Errorf("%s: the password is in the state", c.url)
		}
	}
	for _, spoil := range []func(*uplink.Options){
		func(o *uplink.Options) { o.Tenant = "a/b" }, func(o *uplink.Options) { o.Device = "" }, func(o *uplink.Options) { o.Ack = "maybe" },
		func(o *uplink.Options) { o.Alarms = nil },
	} {
		o := b.options()
		spoil(&o)
		if _, err := uplink.New(o, b.queue); err == nil {
			t.Errorf("accepted: %+v", o)
		}
	}
}

// TestCredentials: refused ones are a state and an alarm of their own; they are asked for at each dial.
func TestCredentials(t *testing.T) {
	b := newBench(t, false)
	b.broker.SetRules(uplinktest.Rules{Login: func(client, user, password string) bool {
		return client != device || user == "car" && password == "new"
	}})
	var asked atomic.Int32
	var good atomic.Bool
	o := b.options()
	o.URL = strings.Replace(o.URL, "mqtt://", "mqtt://nobody:geheim@", 1)
	o.User = func() (string, error) { return "car", nil }
	o.Password = func() (string, error) {
		asked.Add(1)
		if good.Load() {
			return "new", nil
		}
		return "old", nil
	}
	b.add(telemetry, 5)
	u, _ := b.start(o)
	b.wait("refused", func() bool { return u.State().Phase == uplink.Refused })
	if s := u.State(); !b.raised("uplink.credentials") || time.Until(s.NextTry) > o.RefusedRetry || !strings.Contains(s.String(), "refused") {
		t.Errorf("state %s", s)
	}
	n := asked.Load()
	good.Store(true)
	b.arrived(5)
	if asked.Load() <= n || b.raised("uplink.credentials") {
		t.Errorf("asked %d, then %d times; alarm %v", n, asked.Load(), b.raised("uplink.credentials"))
	}
}

// TestStatus: online when connected, offline by farewell or by will.
func TestStatus(t *testing.T) {
	b := newBench(t, true)
	o := b.options()
	o.StatusEvery = 100 * time.Millisecond
	o.Status = func() *telemetrypb.Status { return &telemetrypb.Status{Version: "1.2.3"} }
	topic := telemetrypb.Topic(tenant, device, telemetrypb.TopicStatus)
	retained := func() *telemetrypb.Status {
		s := new(telemetrypb.Status)
		if err := proto.Unmarshal(b.broker.Retained(topic), s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	_, stop := b.start(o)
	b.wait("online", func() bool { return retained().GetOnline() })
	if s := retained(); s.Device != device || s.Tenant != tenant || s.Version != "1.2.3" || s.Epoch != epoch || len(s.Alarms) != 0 {
		t.Errorf("status %v", s)
	}
	b.wait("refreshed", func() bool { return len(b.store.Statuses()) > 3 })
	b.alarms.Raise("queue.disk", "full")
	b.wait("the alarm in the status", func() bool { return len(retained().GetAlarms()) == 1 })
	stop()
	time.Sleep(100 * time.Millisecond) // a broker that took this for a loss would send the will by now
	if s := retained(); s.Online || s.Reason != "shutdown" {
		t.Errorf("status after the farewell: %v", s)
	}
	u, _ := b.start(o)
	b.wait("online again", func() bool { return retained().GetOnline() })
	b.proxy.Freeze()
	b.broker.Kick(device) // the broker has given the vehicle up
	// By what was published: a status that the broker was just taking in may still take the will's place as the retained one.
	b.wait("the will", func() bool {
		return slices.ContainsFunc(b.store.Statuses(), func(s *telemetrypb.Status) bool { return !s.GetOnline() && s.GetReason() == "" })
	})
	b.proxy.Thaw()
	b.wait("and back", func() bool { return u.State().Connections == 2 && retained().GetOnline() })
}

// TestMetrics: the counters are what State says, and a name is taken once.
func TestMetrics(t *testing.T) {
	b := newBench(t, false)
	registry := prometheus.NewRegistry()
	o := b.options()
	o.Metrics = registry
	b.add(telemetry, 10)
	u, _ := b.start(o)
	b.arrived(10)
	b.wait("counted", func() bool { return u.State().BatchesReleased == 10 })
	got := map[string]float64{}
	gather := func() bool {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			got[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
		}
		return got["waybill_uplink_bytes_sent_total"] > 1000 // counted after the write, perhaps after the receipt
	}
	b.wait("bytes counted", gather)
	for name, want := range map[string]float64{
		"waybill_uplink_batches_released_total": 10, "waybill_uplink_online": 1, "waybill_uplink_connections_total": 1, "waybill_uplink_batches_unreceipted": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s = %v, want %v", name, v, want)
		}
	}
	if _, err := uplink.New(o, b.queue); err == nil {
		t.Error("two uplinks under one registry")
	}
}

// TestDuel: two clients of one id throw each other out.
func TestDuel(t *testing.T) {
	b := newBench(t, false)
	o := b.options()
	u, _ := b.start(o)
	for i := range uint64(3) {
		b.wait("online", func() bool { return u.State().Connections > i && u.State().Phase == uplink.Online })
		b.add(event, 1)
		b.wait("something acknowledged", func() bool { return u.State().Pubacks > i })
		if b.raised("uplink.duel") {
			t.Errorf("the alarm stands after %d short sessions", i)
		}
		b.broker.Kick(device)
	}
	b.wait("the alarm", func() bool { return b.raised("uplink.duel") })
}

// TestPoison: a batch that makes the broker close is kept, tried alone, and holds up nothing else.
func TestPoison(t *testing.T) {
	b := newBench(t, false)
	b.add(telemetry, 30)
	bad := map[uint64]bool{7: true}
	var healed atomic.Bool
	b.broker.SetRules(uplinktest.Rules{Close: func(client, topic string, payload []byte) bool {
		if client != device || topic != telemetrypb.Topic(tenant, device, "up/telemetry") || healed.Load() {
			return false
		}
		view, err := telemetrypb.OpenPayload(payload)
		if err != nil {
			t.Error(err)
		}
		for _, raw := range view.Batches {
			batch, err := telemetrypb.OpenBatch(raw)
			if err != nil {
				t.Error(err)
			} else if bad[batch.Envelope.GetSeq()] {
				return true
			}
		}
		return false
	}})
	u, _ := b.start(b.options())
	b.wait("all but one released", func() bool { return b.queue.Len() == 1 })
	b.wait("the alarm", func() bool { return b.raised("uplink.poison") })
	b.add(telemetry, 20)
	b.add(event, 3)
	b.wait("new batches pass it", func() bool { return b.queue.Len() == 1 })
	if rec, err := b.queue.Next(3, 0); err != nil || rec.Seq != 7 {
		t.Errorf("held is batch %d, %v", rec.Seq, err)
	}
	healed.Store(true)
	b.arrived(53)
	b.wait("the alarm down", func() bool { return !b.raised("uplink.poison") })
	if s := u.State(); s.Losses < 5 {
		t.Errorf("%d losses", s.Losses)
	}
}

// TestPayloadAdapts: on a link that lives for a few kilobytes payloads shrink until they pass, and grow again.
func TestPayloadAdapts(t *testing.T) {
	b := newBench(t, true)
	b.add(telemetry, 200)
	o := b.options()
	o.PayloadBytes = 16 << 10
	b.proxy.CutAfter(b.rand, 5<<10)
	u, _ := b.start(o)
	b.wait("smaller payloads", func() bool { return u.State().PayloadBytes <= 2<<10 })
	b.wait("most released", func() bool { return b.queue.Len() < 100 })
	b.proxy.CutAfter(nil, 0)
	b.arrived(200)
	for range 20 {
		b.add(telemetry, 100)
		b.wait("released", func() bool { return b.queue.Len() == 0 })
		if u.State().PayloadBytes == o.PayloadBytes {
			return
		}
	}
	t.Errorf("payloads hold %d bytes on a good link", u.State().PayloadBytes)
}

// TestStalePubacks: a broker that kept the session sends PUBACKs of the connection before, as mochi does. The new
// client counts packet ids from 1 again; they must not acknowledge what it publishes.
func TestStalePubacks(t *testing.T) {
	b := newBench(t, false)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var published atomic.Int32
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go staleBroker(conn, &published)
		}
	}()
	b.add(telemetry, 30)
	o := b.options()
	o.URL, o.Ack, o.AckTimeout = "mqtt://"+l.Addr().String(), uplink.AckPuback, 200*time.Millisecond
	_, stop := b.start(o)
	b.wait("two connections with publishes", func() bool { return published.Load() >= 4 })
	stop()
	if n := b.queue.Len(); n != 30 {
		t.Errorf("%d of 30 batches are held, none was acknowledged", n)
	}
}

// staleBroker acknowledges only what an earlier connection published.
func staleBroker(conn net.Conn, published *atomic.Int32) {
	defer conn.Close()
	if _, err := packets.ReadPacket(conn); err != nil {
		return
	}
	ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	ack.SessionPresent = true
	if ack.Write(conn) != nil {
		return
	}
	for id := uint16(1); id <= 20; id++ {
		time.Sleep(3 * time.Millisecond) // a slow link: they arrive while a hasty client publishes
		stale := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		stale.MessageID = id
		if stale.Write(conn) != nil {
			return
		}
	}
	for {
		p, err := packets.ReadPacket(conn)
		if err != nil {
			return
		}
		switch p := p.(type) {
		case *packets.SubscribePacket:
			granted := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			granted.MessageID, granted.ReturnCodes = p.MessageID, []byte{1}
			if granted.Write(conn) != nil {
				return
			}
		case *packets.PublishPacket:
			published.Add(1)
		}
	}
}
