//go:build system

package stream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/test/deps"
)

// cpu is what this process has used, user and system.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// nowhere keeps positions only.
type nowhere struct{ *fakeSink }

func (s nowhere) Take(ctx context.Context, p Progress, messages []ingest.Message) ([]ingest.Reply, ingest.Counts, error) {
	_, _, err := s.fakeSink.Take(ctx, p, nil)
	return nil, ingest.Counts{Payloads: uint64(len(messages))}, err
}

// BenchmarkKafka gives records and megabytes per second of this process's own CPU time, against a real Kafka, for
// payloads as vehicles seal them: 16 KiB that do not compress, and 1 KiB; with zstd too.
func BenchmarkKafka(b *testing.B) {
	k := deps.Kafka(b, deps.KafkaOptions{})
	for _, c := range []struct {
		size     int
		compress bool
	}{{1 << 10, false}, {16 << 10, false}, {16 << 10, true}} {
		o := Options{Brokers: []string{k.Addr}, Prefix: fmt.Sprintf("b%d-%v", c.size, c.compress)}
		if _, err := Init(b.Context(), o, TopicOptions{Partitions: 4, Replication: 1, Retention: time.Hour}, false); err != nil {
			b.Fatal(err)
		}
		random := rand.NewChaCha8([32]byte{})
		group := make([]ingest.Message, groupMessages)
		for i := range group {
			group[i] = ingest.Message{Topic: fmt.Sprintf("wb1/acme/car-%d/up/telemetry", i), Payload: make([]byte, c.size)}
			_, _ = random.Read(group[i].Payload) // it never fails
		}
		records := 0
		report := func(b *testing.B, n int, used time.Duration) {
			b.ReportMetric(float64(n)/used.Seconds(), "records/cpu-s")
			b.ReportMetric(float64(n*c.size)/1e6/used.Seconds(), "MB/cpu-s")
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
		}
		b.Run(fmt.Sprintf("producer/%dB/zstd=%v", c.size, c.compress), func(b *testing.B) {
			p, err := NewProducer(ProducerOptions{Options: o, Compress: c.compress})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			began := cpu(b)
			for b.Loop() {
				if _, _, err := p.Apply(b.Context(), group); err != nil {
					b.Fatal(err)
				}
			}
			report(b, b.N*len(group), cpu(b)-began)
			records += int(p.Counts().Records)
		})
		b.Run(fmt.Sprintf("consumer/%dB/zstd=%v", c.size, c.compress), func(b *testing.B) {
			began := cpu(b)
			taken := 0
			for b.Loop() {
				consumer, err := NewConsumer(ConsumerOptions{Options: o, Group: "bench"}, nowhere{newSink()})
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				go func() { ended <- consumer.Run(ctx) }()
				for consumer.Counts().Payloads < uint64(records) {
					time.Sleep(5 * time.Millisecond)
				}
				cancel()
				if err := <-ended; err != nil {
					b.Fatal(err)
				}
				taken += records
			}
			report(b, taken, cpu(b)-began)
		})
	}
}
