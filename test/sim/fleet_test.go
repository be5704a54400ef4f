package sim

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// fleet takes what waits at the broker into the store and sends the receipts: in one goroutine, a few messages at a
// time, some of them again, and in another order.
type fleet struct {
	broker *mqttBroker
	ingest *ingest.Ingester
	think  time.Duration
	seed   uint64

	mu     sync.Mutex // guards the store and what follows
	store  store.Store
	down   bool
	silent bool // receipts do not get through
	lost   int  // receipts that were held back
	old    []ingest.Message
	failed error
}

// run works until ctx ends.
func (f *fleet) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.broker.arrived:
		}
		for {
			timer := time.NewTimer(f.think)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			if !f.work() {
				break
			}
		}
	}
}

// work takes some messages in; more says that there were any.
func (f *fleet) work() (more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down || f.failed != nil {
		return f.failed == nil // it looks again
	}
	random := rand.New(rand.NewPCG(f.seed, uint64(time.Now().UnixNano())))
	taken := f.broker.take(1 + random.IntN(6))
	if len(taken) == 0 {
		return false
	}
	var messages []ingest.Message
	for _, m := range taken {
		messages = append(messages, ingest.Message{Topic: m.topic, Payload: m.payload})
	}
	if len(f.old) > 0 && random.IntN(8) == 0 {
		messages = append(messages, f.old[random.IntN(len(f.old))])
	}
	if random.IntN(8) == 0 {
		random.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	}
	replies, _, err := f.ingest.Apply(context.Background(), messages)
	for more := err == nil; more; {
		more, _, err = f.ingest.Retime(context.Background())
	}
	if err != nil {
		f.failed = err
		return false
	}
	if random.IntN(32) == 0 {
		return true // it died before it could acknowledge: they come again
	}
	if len(f.old) < 64 {
		f.old = append(f.old, messages[0])
	}
	f.broker.settle(taken)
	for _, reply := range replies {
		data, err := proto.Marshal(reply.Receipt)
		switch {
		case err != nil:
			f.failed = err
		case f.silent:
			f.lost++
		default:
			f.broker.publish(reply.Topic, data)
		}
	}
	return true
}

func (f *fleet) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// ours says whether a topic is for the store.
func ours(topic string) bool {
	_, _, rest, err := telemetrypb.ParseTopic(topic)
	return err == nil && rest != telemetrypb.TopicStatus
}
