package cloudtest

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Raw is what stands on the raw topic.
type Raw struct {
	Records, Bytes   int // Bytes of values
	Batches, Repeats int // Repeats: those whose key is there already
}

// Raw reads the raw topic from its beginning to where it ends now.
func (c *Cloud) Raw(t testing.TB, topic string) (r Raw) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Kafka.Addr), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	type key struct {
		device     string
		epoch, seq uint64
		lane       telemetrypb.Lane
	}
	seen := map[key]bool{}
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("the raw topic cannot be read to its end: %v; left %v", err, left)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if record.Offset+1 >= left[record.Partition] {
				delete(left, record.Partition)
			}
			r.Records, r.Bytes = r.Records+1, r.Bytes+len(record.Value)
			view, err := telemetrypb.OpenPayload(record.Value)
			if err != nil {
				return // a status, say
			}
			for _, b := range view.Batches {
				batch, err := telemetrypb.OpenBatch(b)
				if err != nil {
					t.Errorf("a batch on the raw topic: %v", err)
					continue
				}
				e := batch.Envelope
				k := key{string(record.Key), e.GetEpoch(), e.GetSeq(), e.GetLane()}
				r.Batches++
				if seen[k] {
					r.Repeats++
				}
				seen[k] = true
			}
		})
	}
	return r
}

// Topic makes a topic that is not the fleet's.
func (c *Cloud) Topic(name string, partitions int32) {
	c.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Kafka.Addr))
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	size := "10485760"
	if _, err := kadm.NewClient(client).CreateTopic(ctx, partitions, 1, map[string]*string{"max.message.bytes": &size}, name); err != nil {
		c.t.Fatal(err)
	}
}
