package chunks

import (
	"log/slog"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/delivery"
)

// arrived is a message as a broker brings it.
type arrived struct {
	topic   string
	payload []byte
}

func (m arrived) Duplicate() bool   { return false }
func (m arrived) Qos() byte         { return 1 }
func (m arrived) Retained() bool    { return false }
func (m arrived) Topic() string     { return m.topic }
func (m arrived) MessageID() uint16 { return 1 }
func (m arrived) Payload() []byte   { return m.payload }
func (m arrived) Ack()              {}

// FuzzTake: whatever comes, what is sent lies in a file of the repository, and goes to the vehicle whose topic it came on.
func FuzzTake(f *testing.F) {
	r := newRepository(f)
	image := noise(1, 5000)
	sum := r.add(image, "agent-1")
	images := r.open()
	const topic = "wb1/acme/car-1/up/request"
	f.Add(topic, (&delivery.Request{File: sum, Chunk: 1024, Ranges: []delivery.Range{{Offset: 10, Length: 4990}}}).Encode())
	f.Add(topic, (&delivery.Request{File: Sum{}, Chunk: 1, Ranges: []delivery.Range{{Offset: 0, Length: 1}}}).Encode())
	f.Add(topic, (&delivery.Request{File: sum, Chunk: 65536, Ranges: []delivery.Range{{Offset: 4999, Length: 2}, {Offset: 0, Length: 1<<32 - 1}}}).Encode())
	f.Add("wb1/acme/car-1/up/status", []byte{1, 1})
	f.Add("wb1/+/#/up/request", []byte{})
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		s, err := New(Options{Broker: "tcp://127.0.0.1:1", ClientID: "x", Log: slog.New(slog.DiscardHandler)}, images)
		if err != nil {
			t.Fatal(err)
		}
		q := newQueue(s.o.Limits, start)
		s.take(q, start, arrived{topic, payload})
		for now := start; len(q.line) > 0; now = now.Add(time.Second) {
			p, _, ok := q.next(now)
			if !ok {
				continue
			}
			if topic != "wb1/"+p.vehicle.name+"/up/request" || p.vehicle.topic != "wb1/"+p.vehicle.name+"/down/chunk" {
				t.Fatalf("what %q asked for goes to %q", topic, p.vehicle.topic)
			}
			if b, err := images.Read(p.sum, p.offset, p.length); err != nil || string(b) != string(image[p.offset:p.offset+int64(p.length)]) {
				t.Fatalf("%d bytes at %d: %v", p.length, p.offset, err)
			}
			q.done(p)
		}
		if c := s.Counts(); c.Requests != 1 || c.Malformed+c.Unknown+c.Outside+c.Limited > 1 {
			t.Fatalf("%+v", c)
		}
	})
}
