package stream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

func TestProducerWritesRecords(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 1)
	at := time.Unix(0, 1_700_000_000_123_456_789)
	p, err := NewProducer(ProducerOptions{Options: o, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	replies, counts, err := p.Apply(t.Context(), []ingest.Message{
		{Topic: "wb1/acme/käfer/up/event", Payload: []byte{0, 1, 2}},
		{Topic: "zigbee/lamp", Payload: []byte("on")},
		{Topic: "wb1/acme/big/up/raw", Payload: make([]byte, MaxRecord)},
	})
	if err != nil || replies != nil || counts.Payloads != 3 || counts.Malformed != 2 {
		t.Fatalf("%v, %+v, %v", replies, counts, err)
	}
	r := read(t, o, "wb1.raw", 1)[0]
	want := []kgo.RecordHeader{
		{Key: "waybill-topic", Value: []byte("wb1/acme/käfer/up/event")},
		{Key: "waybill-received", Value: []byte("1700000000123456789")},
		{Key: "waybill-version", Value: []byte("1")},
	}
	if string(r.Key) != "acme/käfer" || string(r.Value) != "\x00\x01\x02" || fmt.Sprint(r.Headers) != fmt.Sprint(want) || time.Since(r.Timestamp) > time.Hour {
		t.Errorf("record %q %q %q at %v", r.Key, r.Value, r.Headers, r.Timestamp)
	}
	dead := read(t, o, "wb1.dead", 2)
	for i, want := range []struct {
		reason, topic string
		size          int
	}{{"topic", "zigbee/lamp", 2}, {"large", "wb1/acme/big/up/raw", deadHead}} {
		reason, _ := headerOf(dead[i], HeaderReason)
		topic, _ := headerOf(dead[i], HeaderTopic)
		detail, _ := headerOf(dead[i], HeaderDetail)
		if reason != want.reason || topic != want.topic || len(dead[i].Value) != want.size || detail == "" {
			t.Errorf("dead letter %q %q %q of %d bytes, want %+v", reason, topic, detail, len(dead[i].Value), want)
		}
	}
	if n := p.Counts(); n.Records != 1 || n.DeadLetters != 2 || n.Bytes != 3 {
		t.Errorf("%+v", n)
	}
}

// While Kafka is silent Apply fails and nothing is acknowledged; what it had taken over may arrive late, nothing that
// came after overtakes it, and the client goes on.
func TestProducerAfterSilence(t *testing.T) {
	t.Parallel()
	k, o := fakeKafka(t, 1)
	p := newProducer(t, o, time.Second)
	apply(t, p, message("car", 0))
	var silent, asked atomic.Int64
	silent.Store(1)
	wake := make(chan struct{})
	k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if silent.Load() == 0 {
			return nil, nil, false
		}
		asked.Add(1)
		k.SleepControl(func() { <-wake })
		return nil, errNo, true // the connection dies: whether it was written, nobody says
	})
	for range 2 {
		if _, _, err := p.Apply(t.Context(), []ingest.Message{message("car", 1), message("car", 2)}); err == nil {
			t.Fatal("Apply says that it is done")
		}
	}
	if asked.Load() == 0 {
		t.Fatal("nothing was sent")
	}
	if n := p.client.BufferedProduceRecords(); n != 2 {
		t.Errorf("%d records wait, want the 2 of the first group", n)
	}
	silent.Store(0)
	close(wake)
	eventually(t, "Apply succeeds", func() bool {
		_, _, err := p.Apply(t.Context(), []ingest.Message{message("car", 1), message("car", 2)})
		return err == nil
	})
	apply(t, p, message("car", 3))
	checkFirstSeen(t, read(t, o, "wb1.raw", int(p.Counts().Records)), 4)
}

// checkFirstSeen wants the numbers 0…n-1, each new one after the one before it; duplicates are allowed.
func checkFirstSeen(t *testing.T, list []*kgo.Record, n int) {
	t.Helper()
	next := 0
	var all []string
	for _, r := range list {
		all = append(all, string(r.Value))
		switch v := string(r.Value); {
		case v == fmt.Sprint(next):
			next++
		case v > fmt.Sprint(next):
			t.Errorf("%s before %d", v, next)
		}
	}
	if next != n {
		t.Errorf("%v: want 0 to %d", all, n-1)
	}
}

// What Kafka refuses is an error in words, and the next try is not spoilt by it.
func TestProducerRefused(t *testing.T) {
	t.Parallel()
	k, o := fakeKafka(t, 1)
	p := newProducer(t, o, time.Second)
	for _, c := range []struct {
		code error
		want string
	}{
		{kgo.ErrRecordTimeout, "min.insync.replicas"}, // after NOT_ENOUGH_REPLICAS, which is tried again
		{kerr.MessageTooLarge, "--alter"},
		{kerr.TopicAuthorizationFailed, "docs/KAFKA.md"},
	} {
		var on atomic.Bool
		on.Store(true)
		k.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
			if !on.Load() {
				return nil, nil, false
			}
			k.KeepControl()
			req := r.(*kmsg.ProduceRequest)
			resp := req.ResponseKind().(*kmsg.ProduceResponse)
			for _, topic := range req.Topics {
				rt := kmsg.NewProduceResponseTopic()
				rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
				for _, partition := range topic.Partitions {
					rp := kmsg.NewProduceResponseTopicPartition()
					rp.Partition, rp.ErrorCode = partition.Partition, kerr.NotEnoughReplicas.Code
					if code, ok := c.code.(*kerr.Error); ok {
						rp.ErrorCode = code.Code
					}
					rt.Partitions = append(rt.Partitions, rp)
				}
				resp.Topics = append(resp.Topics, rt)
			}
			return resp, nil, true
		})
		_, _, err := p.Apply(t.Context(), []ingest.Message{message("car", 0)})
		if !errors.Is(err, c.code) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.code, err)
		}
		on.Store(false)
		eventually(t, "Apply succeeds", func() bool {
			_, _, err := p.Apply(t.Context(), []ingest.Message{message("car", 0)})
			return err == nil
		})
	}
}

func TestProducerWithoutTopic(t *testing.T) {
	t.Parallel()
	k, o := fakeKafka(t, 1)
	p := newProducer(t, o, 2*time.Second)
	if err := k.DeleteTopic("wb1.raw"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Apply(t.Context(), []ingest.Message{message("car", 0)}); err == nil || !strings.Contains(err.Error(), "kafka init") {
		t.Errorf("without a topic: %v", err)
	}
}

func TestOptionsCheck(t *testing.T) {
	secret := func() (string, string, error) { return "u", "p", nil }
	secure := func() (*tls.Config, error) { return &tls.Config{}, nil }
	for _, c := range []struct {
		o    Options
		want string // "": it is good
	}{
		{Options{Brokers: []string{"127.0.0.1:9092", "localhost:1", "[::1]:9092"}}, ""},
		{Options{Brokers: []string{"kafka.example:9093"}, TLS: secure, Mechanism: ScramSHA512, Credentials: secret, Prefix: "a-B_1.x"}, ""},
		{Options{Brokers: []string{"kafka.example:9092"}, Insecure: true}, ""},
		{Options{}, "no Kafka broker"},
		{Options{Brokers: []string{"kafka.example"}}, "want HOST:PORT"},
		{Options{Brokers: []string{"tcp://127.0.0.1:9092"}}, "want HOST:PORT"},
		{Options{Brokers: []string{"127.0.0.1:0"}}, "want HOST:PORT"},
		{Options{Brokers: []string{"kafka.example:9092"}}, "without TLS only on this machine"},
		{Options{Brokers: []string{"127.0.0.1:9092"}, Mechanism: "GSSAPI", Credentials: secret}, "GSSAPI"},
		{Options{Brokers: []string{"127.0.0.1:9092"}, Mechanism: Plain}, "needs a user"},
		{Options{Brokers: []string{"127.0.0.1:9092"}, Credentials: secret}, "no SASL mechanism"},
		{Options{Brokers: []string{"127.0.0.1:9092"}, Prefix: "a/b"}, "topic prefix"},
	} {
		err := c.o.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
}

// FuzzForeign: no record of another producer makes a message that package ingest would take for another vehicle's, and
// none makes a dead letter that Kafka could not take.
func FuzzForeign(f *testing.F) {
	f.Add("acme/car-1", eventPayload(f), "", "")
	f.Add("acme/car-1", []byte("x"), "wb1/acme/car-1/up/raw", "1")
	f.Add("", []byte("{\"format\":1}"), "wb1/acme/car-1/up/raw", "2")
	f.Fuzz(func(t *testing.T, key string, value []byte, topic, version string) {
		r := &kgo.Record{Topic: "wb1.raw", Key: []byte(key), Value: value}
		if topic != "" {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: HeaderTopic, Value: []byte(topic)}, kgo.RecordHeader{Key: HeaderVersion, Value: []byte(version)})
		}
		m, err := messageOf(r)
		if err != nil {
			if d := deadRecord("wb1.dead", err, r, "wb1.raw/0/1"); sizeOf(d) > MaxRecord {
				t.Errorf("a dead letter of %d bytes", sizeOf(d))
			}
			return
		}
		back, err := recordOf(m, "wb1.raw", time.Time{})
		if err == nil && (string(back.Key) != key || !slices.Equal(back.Value, value)) {
			t.Errorf("key %q, topic %q", key, m.Topic)
		}
	})
}
