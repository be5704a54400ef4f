package stream

import (
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// CarriedPartitions is how many partitions the topic of what was carried has: one for each shard of an outbox.
const CarriedPartitions = 16

// carriedSegment keeps what a relay has to read when it begins short: only closed segments are compacted.
const carriedSegment = 4 << 20

// DecodedTopic is the topic of a kind of rows: samples, events, positions, losses.
func (o *Options) DecodedTopic(kind string) string { return o.topic(kind) }

// CarriedTopic says, for each shard of a store's outbox, which notes the last transaction on the decoded topics carried.
func (o *Options) CarriedTopic() string { return o.topic("carried") }

// Client makes a client of the options. It connects when it is first used; the caller closes it.
func (o *Options) Client(more ...kgo.Opt) (*kgo.Client, error) { return o.client(more...) }

// Explain adds a remedy to what Kafka answered, where there is one.
func Explain(err error) error { return explain(err) }

// carriedTopic is how that topic is to be: compacted, so that the last word of each store stays for ever.
func (o *Options) carriedTopic(t TopicOptions) Topic {
	return Topic{Name: o.CarriedTopic(), Partitions: CarriedPartitions, Replication: t.Replication, Settings: map[string]string{
		"cleanup.policy":      "compact",
		"segment.bytes":       strconv.Itoa(carriedSegment),
		"segment.ms":          strconv.FormatInt((24 * time.Hour).Milliseconds(), 10),
		"max.message.bytes":   strconv.Itoa(MaxRecord),
		"min.insync.replicas": strconv.Itoa(max(1, t.Replication-1)),
		"compression.type":    "producer",
	}}
}
