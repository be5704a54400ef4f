package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const waitLimit = 20 * time.Second

// fakeSink is a store in memory: what was taken and the positions change together, or not at all. Several consumers
// share one, as several processes share a database.
type fakeSink struct {
	before func(Progress) error // asked ahead of each transaction; nil: nothing
	after  func(Progress) error // asked behind it: an error that says nothing of what was done

	mu        sync.Mutex
	positions map[int32]int64
	taken     []ingest.Message
	takes     []Progress
}

func newSink() *fakeSink { return &fakeSink{positions: map[int32]int64{}} }

func (s *fakeSink) Positions(ctx context.Context, _ string) (map[int32]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.positions), ctx.Err()
}

func (s *fakeSink) Take(ctx context.Context, p Progress, messages []ingest.Message) ([]ingest.Reply, ingest.Counts, error) {
	if s.before != nil {
		if err := s.before(p); err != nil {
			return nil, ingest.Counts{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, ingest.Counts{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.positions[p.Partition] != p.From {
		return nil, ingest.Counts{}, fmt.Errorf("partition %d is at %d, not at %d: %w", p.Partition, s.positions[p.Partition], p.From, ErrFenced)
	}
	s.positions[p.Partition] = p.To
	s.takes = append(s.takes, p)
	var replies []ingest.Reply
	for _, m := range messages {
		s.taken = append(s.taken, ingest.Message{Topic: m.Topic, Payload: append([]byte(nil), m.Payload...)})
		replies = append(replies, ingest.Reply{Topic: m.Topic, Receipt: &telemetrypb.Receipt{}})
	}
	if s.after != nil {
		if err := s.after(p); err != nil {
			return nil, ingest.Counts{}, err
		}
	}
	return replies, ingest.Counts{Payloads: uint64(len(messages))}, nil
}

func (s *fakeSink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.taken)
}

// checkExact wants from each device the messages 0…n-1, each once, in order.
func (s *fakeSink) checkExact(t *testing.T, sent map[string]int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[string]int{}
	for i, m := range s.taken {
		_, device, _, err := telemetrypb.ParseTopic(m.Topic)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimLeft(string(m.Payload), "."))
		if err != nil {
			t.Fatal(err)
		}
		if n != next[device] {
			t.Fatalf("message %d: %s gave %d, want %d", i, device, n, next[device])
		}
		next[device]++
	}
	if !maps.Equal(next, sent) {
		t.Fatalf("taken %v, sent %v", next, sent)
	}
}

// message is number n of a device.
func message(device string, n int) ingest.Message {
	return ingest.Message{Topic: telemetrypb.Topic("acme", device, "up/telemetry"), Payload: []byte(strconv.Itoa(n))}
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// fakeKafka is a cluster in this process with the topics made.
func fakeKafka(t *testing.T, partitions int32) (*kfake.Cluster, Options) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "wb1.raw"), kfake.SeedTopics(1, "wb1.dead"),
		kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "500", "group.initial.rebalance.delay.ms": "0"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, Options{Brokers: c.ListenAddrs(), Log: testLog(t)}
}

func newProducer(t *testing.T, o Options, timeout time.Duration) *Producer {
	t.Helper()
	p, err := NewProducer(ProducerOptions{Options: o, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func apply(t *testing.T, p *Producer, messages ...ingest.Message) {
	t.Helper()
	if _, _, err := p.Apply(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
}

// startConsumer runs a consumer until stop, which the test's end calls too.
func startConsumer(t *testing.T, o ConsumerOptions, s Sink) (c *Consumer, stop func()) {
	t.Helper()
	if o.SessionTimeout == 0 {
		o.SessionTimeout = 6 * time.Second
	}
	if o.CommitEvery == 0 {
		o.CommitEvery = 50 * time.Millisecond
	}
	c, err := NewConsumer(o, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(waitLimit):
			t.Error("Run did not end")
		}
	})
	t.Cleanup(stop)
	return c, stop
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(waitLimit); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", waitLimit, what)
		}
	}
}

var errNo = errors.New("no")
