package uplink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

var (
	requests = telemetrypb.Topic(tenant, device, telemetrypb.TopicRequest)
	chunks   = telemetrypb.Topic(tenant, device, telemetrypb.TopicChunk)
)

// images answers each request with what is given to it, over a broker.
type images struct {
	client mqtt.Client
	asked  atomic.Int32
}

func (b *bench) images(answer func(request []byte) [][]byte) *images {
	b.t.Helper()
	s := &images{client: mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + b.broker.Addr()).SetClientID("images").SetOrderMatters(false))}
	token := s.client.Connect()
	if token.WaitTimeout(10*time.Second) && token.Error() == nil {
		token = s.client.Subscribe("wb1/+/+/up/request", 1, func(c mqtt.Client, m mqtt.Message) {
			s.asked.Add(1)
			if m.Retained() {
				b.t.Error("a request was retained")
			}
			for _, chunk := range answer(m.Payload()) {
				c.Publish(strings.TrimSuffix(m.Topic(), telemetrypb.TopicRequest)+telemetrypb.TopicChunk, 1, false, chunk)
			}
		})
	}
	if !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		b.t.Fatal("the image server did not subscribe", token.Error())
	}
	b.t.Cleanup(func() { s.client.Disconnect(100) })
	return s
}

// taken keeps what OnChunk got.
type taken struct {
	mu  sync.Mutex
	all [][]byte
}

func (c *taken) take(payload []byte) error {
	if bytes.HasPrefix(payload, []byte("bad")) {
		return errors.New("no chunk")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, payload)
	return nil
}

func (c *taken) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

func (b *bench) ask(u *uplink.Uplink, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return u.Ask(ctx, []byte(text))
}

func reversed(list []string) []string {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

func TestAsk(t *testing.T) {
	b := newBench(t, true)
	b.images(func(request []byte) [][]byte {
		return [][]byte{append([]byte("chunk of "), request...), []byte("bad"), bytes.Repeat([]byte{7}, 64<<10)}
	})
	var got taken
	var filters sync.Map
	b.broker.SetRules(uplinktest.Rules{Subscribe: func(client, filter string) bool {
		if client == device {
			filters.Store(filter, true)
		}
		return true
	}})
	var mine, others atomic.Int64
	o := b.options()
	o.OnChunk = got.take
	o.OnTraffic = func(l telemetrypb.Lane, sent, received int) {
		if l == telemetrypb.Lane_LANE_RAW {
			mine.Add(int64(received))
		} else if l == 0 {
			others.Add(int64(received))
		}
	}
	b.add(telemetry, 50)
	u, stop := b.start(o)
	b.arrived(50)
	if _, subscribed := filters.Load(chunks); subscribed {
		t.Error("subscribed to chunks before anybody asked for one")
	}
	for i := range 3 {
		if err := b.ask(u, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		b.wait("the answers", func() bool { return got.len() == 2*(i+1) && u.State().ChunksDropped == uint64(i+1) })
	}
	if s := u.State(); s.Requests != 3 || s.Chunks != 9 || s.Losses != 0 {
		t.Errorf("state %+v", s)
	}
	// What is on the wire is counted once: as raw's, and not again as nobody's.
	b.wait("the last look at the wire", func() bool { return others.Load() > 0 && mine.Load() > 3*64<<10 })
	b.proxy.Cut(true)
	b.add(event, 1)
	b.arrived(51)
	if n := others.Load(); n > 128<<10 { // one may have been half through at a look

		t.Errorf("%d bytes received are nobody's, beside %d of chunks", n, mine.Load())
	}
	if err := b.ask(u, "after a cut"); err != nil {
		t.Fatal(err)
	}
	b.wait("its answers", func() bool { return got.len() == 8 })
	stop()
	if err := b.ask(u, "after the end"); !errors.Is(err, uplink.ErrOffline) {
		t.Errorf("asked after the end: %v", err)
	}
}

// TestAskWaits: control and events go first, whatever is asked; raw's rules of links hold requests; a link that is full takes none for ever.
func TestAskWaits(t *testing.T) {
	b := newBench(t, true)
	server := b.images(func([]byte) [][]byte { return nil })
	var held atomic.Bool
	o := b.options()
	o.OnChunk = func([]byte) error { return nil }
	o.Allowed = func(l telemetrypb.Lane) bool { return l != telemetrypb.Lane_LANE_RAW || !held.Load() }
	o.InFlight, o.PayloadBytes = 2, 2<<10
	u, _ := b.start(o)
	b.wait("online", func() bool { return u.State().Phase == uplink.Online })
	if err := b.ask(u, "first"); err != nil { // it brings the subscription
		t.Fatal(err)
	}
	b.wait("it arrives", func() bool { return server.asked.Load() == 1 })

	var mu sync.Mutex
	var order []string
	b.broker.SetRules(uplinktest.Rules{Swallow: func(client, topic string, _ []byte) bool {
		if mu.Lock(); client == device {
			order = append(order, topic)
		}
		mu.Unlock()
		return false
	}})
	b.proxy.Freeze()
	b.add(telemetry, 400)
	b.wait("the link is full", func() bool { return u.State().InFlight == 2 })
	asked := make(chan error, 1)
	go func() { asked <- b.ask(u, "behind events") }()
	b.add(event, 3)
	b.wait("events in flight", func() bool { return u.State().InFlight > 2 })
	b.proxy.Thaw()
	b.arrived(403)
	if err := <-asked; err != nil {
		t.Error(err)
	}
	b.wait("the request arrives", func() bool { return server.asked.Load() == 2 })
	mu.Lock()
	request := slices.Index(order, requests)
	first := slices.Index(order, telemetrypb.Topic(tenant, device, telemetrypb.TopicLane(event)))
	last := len(order) - 1 - slices.Index(reversed(order), telemetrypb.Topic(tenant, device, telemetrypb.TopicLane(telemetry)))
	if first < 0 || first > request || request > last {
		t.Errorf("event %d, request %d, the last of telemetry %d: want that order", first, request, last)
	}
	mu.Unlock()

	held.Store(true)
	if err := b.ask(u, "held"); !errors.Is(err, uplink.ErrHeld) {
		t.Errorf("asked over a link that holds raw: %v", err)
	}
	held.Store(false)
	if err := b.ask(u, strings.Repeat("x", 5000)); err == nil {
		t.Error("a request of 5000 bytes was sent")
	}
}

// TestAskDenied: a broker that denies what images need, in each of its ways, costs the vehicle no data and little else.
func TestAskDenied(t *testing.T) {
	for name, rules := range map[string]uplinktest.Rules{
		"SUBACK 0x80":             {Subscribe: func(client, filter string) bool { return client != device || filter != chunks }},
		"closes at the request":   {Close: func(_, topic string, _ []byte) bool { return topic == requests }},
		"never acknowledges that": {},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, false)
			if name == "never acknowledges that" {
				var deaf atomic.Bool
				rules.NoPuback = func(client string) bool { return client == device && deaf.Load() }
				rules.Swallow = func(_, topic string, _ []byte) bool {
					if topic == requests {
						deaf.Store(true)
					}
					return false
				}
				rules.Login = func(client, _, _ string) bool {
					if client == device {
						deaf.Store(false)
					}
					return true
				}
			}
			b.broker.SetRules(rules)
			o := b.options()
			o.OnChunk = func([]byte) error { return nil }
			o.AckTimeout = time.Second
			u, _ := b.start(o)
			sent := 0
			for asked := 0; ; asked++ {
				b.add(telemetry, 20)
				b.add(event, 1)
				sent += 21
				err := b.ask(u, "an image")
				if err != nil && strings.Contains(err.Error(), "denied") {
					break
				}
				if asked > 50 {
					t.Fatalf("still asking: %v", err)
				}
				b.arrived(sent)
			}
			b.wait("an alarm", func() bool {
				for _, a := range b.alarms.Standing() {
					if a.Name == "uplink.request" {
						return true
					}
				}
				return false
			})
			b.arrived(sent)
			for _, a := range b.alarms.Standing() {
				if a.Name == "uplink.poison" {
					t.Errorf("a batch is blamed: %s", a.Text)
				}
			}
			if s := u.State(); s.Losses > 8 {
				t.Errorf("%d connections lost", s.Losses)
			}
		})
	}
}
