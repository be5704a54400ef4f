//go:build system

package shares

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/test/deps"
)

func TestMosquitto(t *testing.T) {
	share(t, deps.Mosquitto(t, deps.MosquittoOptions{Config: []string{"log_type none", "log_type error", "log_type warning"}}), slots)
}

// Mosquitto 2.0.11 gives a member that is away its share, acknowledges it to the vehicle, and drops what passes its queue. Receipts
// make that a delay: the vehicles send again what has none.
func TestMosquittoSwallowsForAMemberThatIsAway(t *testing.T) {
	b := deps.Mosquitto(t, deps.MosquittoOptions{Config: []string{"max_queued_messages 3"}})
	f := newFleet(t, b)
	run := func(slot int) (stop func()) {
		s, err := ingest.NewSlots(ingest.SlotsOptions{Receiver: ingest.ReceiverOptions{Broker: b.URL(), ClientID: "fleet", Share: "stores", Log: f.log}, Fixed: []int{slot}}, f.ingester)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		f.wait("the slot is connected", func() bool { return len(s.Running()) == 1 })
		return sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	defer run(0)()
	run(1)() // it was there, and is away
	f.drive()
	f.collect(8)
	f.wait("Mosquitto drops what it has acknowledged", func() bool {
		log, err := os.ReadFile(filepath.Join(b.Dir, "mosquitto.log"))
		return err == nil && strings.Contains(string(log), "being dropped for client fleet-1")
	})
	defer run(1)() // its lease was taken, at last
	f.arrived()
}

func TestHiveMQ(t *testing.T) { share(t, deps.HiveMQ(t, ""), 2) }

// RabbitMQ has no shared subscriptions and does not say so in MQTT 3.1.1: it would grant one, and nothing would ever come.
func TestRabbitMQ(t *testing.T) {
	b := deps.RabbitMQ(t, "")
	r, err := ingest.NewReceiver(ingest.ReceiverOptions{Broker: b.URL(), ClientID: "fleet-0", Share: "stores", BackoffBase: 10 * time.Millisecond}, applier(func([]ingest.Message) {}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.Run(ctx); !errors.Is(err, ingest.ErrNoShared) {
		t.Errorf("a share on RabbitMQ ended with %v", err)
	}
	if r.Connected() {
		t.Error("it counts as connected")
	}
}
