package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// acknowledged is a broker's hook that notes the packet ids a client acknowledged, and those it was sent.
type acknowledged struct {
	mqtt.HookBase
	mu       sync.Mutex
	sent     map[uint16]string // payload by packet id, of this connection
	arrived  []string          // in the order sent, of this connection
	acked    []string          // of all connections
	connects int
}

func (h *acknowledged) Provides(b byte) bool {
	return slices.Contains([]byte{mqtt.OnPacketSent, mqtt.OnPacketRead, mqtt.OnConnect}, b)
}

func (h *acknowledged) OnConnect(c *mqtt.Client, _ packets.Packet) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.ID == "fleet" {
		h.connects++
		h.sent, h.arrived = map[uint16]string{}, nil
	}
	return nil
}

func (h *acknowledged) OnPacketSent(c *mqtt.Client, p packets.Packet, _ []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.ID == "fleet" && p.FixedHeader.Type == packets.Publish {
		h.sent[p.PacketID] = string(p.Payload)
		h.arrived = append(h.arrived, string(p.Payload))
	}
}

func (h *acknowledged) OnPacketRead(c *mqtt.Client, p packets.Packet) (packets.Packet, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.ID == "fleet" && p.FixedHeader.Type == packets.Puback {
		h.acked = append(h.acked, h.sent[p.PacketID])
	}
	return p, nil
}

func (h *acknowledged) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.acked)
}

func startBroker(t *testing.T) (address string, h *acknowledged) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	h = &acknowledged{sent: map[uint16]string{}}
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := errors.Join(server.AddHook(new(auth.AllowHook), nil), server.AddHook(h, nil),
		server.AddListener(listeners.NewTCP(listeners.Config{ID: "t", Address: address})), server.Serve()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return address, h
}

// script is an Applier under the test's control.
type script struct {
	mu      sync.Mutex
	fail    int           // so many calls
	hold    chan struct{} // closed: calls go on
	entered chan struct{}
	taken   []string
}

func (s *script) Apply(_ context.Context, messages []Message) ([]Reply, Counts, error) {
	s.entered <- struct{}{}
	<-s.hold
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail > 0 {
		s.fail--
		return nil, Counts{}, errors.New("the disk is full")
	}
	var replies []Reply
	for _, m := range messages {
		s.taken = append(s.taken, string(m.Payload))
		replies = append(replies, Reply{Topic: "wb1/acme/car-1/down/receipt", Receipt: &telemetrypb.Receipt{Number: uint64(len(s.taken))}})
	}
	return replies, Counts{Payloads: uint64(len(messages))}, nil
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// Nothing is acknowledged and no receipt is sent before the store has it; after a failure of the store the connection
// ends and everything comes again, in order, and is acknowledged in order.
func TestAcknowledgedInOrderAfterTheStore(t *testing.T) {
	address, hook := startBroker(t)
	s := &script{fail: 2, hold: make(chan struct{}), entered: make(chan struct{}, 1000)}
	r, err := NewReceiver(ReceiverOptions{Broker: "tcp://" + address, ClientID: "fleet", BackoffBase: time.Millisecond, BackoffCap: 10 * time.Millisecond, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	eventually(t, "subscribed", r.Connected)

	car := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + address).SetClientID("car").SetProtocolVersion(4))
	if token := car.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	defer car.Disconnect(10)
	var mu sync.Mutex
	receipts := 0
	car.Subscribe("wb1/acme/car-1/down/receipt", 1, func(paho.Client, paho.Message) { mu.Lock(); receipts++; mu.Unlock() }).Wait()
	count := func() int { mu.Lock(); defer mu.Unlock(); return receipts }
	const n = 50
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("payload %d", i))
		if token := car.Publish("wb1/acme/car-1/up/telemetry", 1, false, want[i]); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	<-s.entered // the store is at work, and is not done
	if len(hook.list()) != 0 || count() != 0 {
		t.Fatalf("%d acknowledged, %d receipts before the store was done", len(hook.list()), count())
	}
	close(s.hold)
	eventually(t, "all acknowledged", func() bool { return len(hook.list()) >= n })
	eventually(t, "all receipted", func() bool { return count() >= n })
	// mochi does not keep the order when it sends again (it sorts by the second): the order of arrival is what counts.
	s.mu.Lock()
	hook.mu.Lock()
	if !slices.Equal(s.taken, hook.arrived) {
		t.Errorf("arrived %q\n taken  %q", hook.arrived, s.taken)
	}
	if !slices.Equal(hook.acked, hook.arrived) {
		t.Errorf("arrived %q\n acknowledged %q", hook.arrived, hook.acked)
	}
	s.mu.Unlock()
	if slices.Sort(hook.arrived); !slices.Equal(hook.arrived, slices.Sorted(slices.Values(want))) {
		t.Errorf("on the last connection came %q", hook.arrived)
	}
	if hook.connects != 3 {
		t.Errorf("%d connections, want one for each failure of the store and the last", hook.connects)
	}
	hook.mu.Unlock()
	if got := r.Counts(); got.Payloads != n {
		t.Errorf("counts %+v", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestReceiverEndsWithoutABroker(t *testing.T) {
	r, err := NewReceiver(ReceiverOptions{Broker: "tcp://127.0.0.1:1", ClientID: "fleet", BackoffBase: time.Millisecond}, &script{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestBackoffIsJitterUnderACeiling(t *testing.T) {
	r, err := NewReceiver(ReceiverOptions{Broker: "tcp://127.0.0.1:1", ClientID: "fleet"}, &script{})
	if err != nil {
		t.Fatal(err)
	}
	for failures, ceiling := range map[int]time.Duration{0: 2 * time.Second, 2: 8 * time.Second, 8: 15 * time.Second, 1000: 15 * time.Second} {
		low, high := time.Hour, time.Duration(0)
		for range 2000 {
			d := r.backoff(failures)
			low, high = min(low, d), max(high, d)
		}
		if high > ceiling || high < ceiling*9/10 || low > ceiling/10 {
			t.Errorf("after %d failures from %v to %v, want 0 to %v", failures, low, high, ceiling)
		}
	}
}
