package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

// ProducerOptions of a Producer.
type ProducerOptions struct {
	Options
	// Timeout bounds how long Apply waits for Kafka; 0: 30 s. What a broker sends again comes after a reconnection, so
	// there is no use in less than a change of a partition's leader takes.
	Timeout time.Duration
	// Compress has Kafka's batches compressed with zstd; false: as they are. Payloads are compressed already.
	Compress bool
	Now      func() time.Time // the receiver's clock; nil: time.Now
}

// ProducerCounts says what a Producer did since its start.
type ProducerCounts struct {
	Records     uint64 // acknowledged, on the raw topic
	Bytes       uint64 // of their values
	DeadLetters uint64 // acknowledged
	DeadLost    uint64 // dead letters that Kafka does not take, for a reason that time does not mend: logged, and let go
	Failed      uint64 // calls of Apply
}

// Producer makes records of messages. It is safe for use from several goroutines.
//
// Records of one key are on one partition in the order in which Apply was called with them. When Apply fails, some of its
// records may be on the topic and others may still arrive: they are buffered, and the idempotent protocol does not allow
// to take back one that may have been written. The caller brings all of them again, so that each is there at least once;
// the store knows duplicates. Until what was left behind is settled the next Apply waits, and adds nothing to it: the
// buffer holds no more than one group of each caller, and nothing new overtakes what is old.
type Producer struct {
	o      ProducerOptions
	client *kgo.Client
	mu     sync.Mutex  // guards left
	left   []*delivery // groups that Apply gave up waiting for

	records, bytes, deadLetters, deadLost, failed atomic.Uint64
}

var _ ingest.Applier = (*Producer)(nil)

// NewProducer makes a Producer. It connects when it is first used.
func NewProducer(o ProducerOptions) (*Producer, error) {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Timeout < time.Second || o.Timeout > 10*time.Minute {
		return nil, fmt.Errorf("Kafka's time to acknowledge: must be between 1s and 10m, got %v", o.Timeout)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Log = o.logger()
	compression := kgo.NoCompression()
	if o.Compress {
		compression = kgo.ZstdCompression()
	}
	client, err := o.client(
		kgo.RequiredAcks(kgo.AllISRAcks()), // idempotent as well, which is the library's default
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ProducerBatchCompression(compression), kgo.ProducerBatchMaxBytes(MaxRecord),
		kgo.RecordDeliveryTimeout(o.Timeout), kgo.ProduceRequestTimeout(o.Timeout),
		kgo.ProducerLinger(time.Millisecond), // a group is handed over in less
		kgo.MaxBufferedRecords(1<<20),        // handing over never waits: what is buffered is bounded by the callers' groups
	)
	if err != nil {
		return nil, err
	}
	return &Producer{o: o, client: client}, nil
}

// Close ends the connections. What Apply still waits for fails.
func (p *Producer) Close() { p.client.Close() }

// Counts is what was done since the start.
func (p *Producer) Counts() ProducerCounts {
	return ProducerCounts{
		Records: p.records.Load(), Bytes: p.bytes.Load(), DeadLetters: p.deadLetters.Load(),
		DeadLost: p.deadLost.Load(), Failed: p.failed.Load(),
	}
}

// delivery is a group on its way.
type delivery struct {
	done chan struct{} // closed when the outcome of every record is known

	mu   sync.Mutex // guards what follows
	open int
	err  error // the first
}

// settle takes the outcome of one record.
func (d *delivery) settle(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
	}
	if d.open--; d.open == 0 {
		close(d.done)
	}
}

// Apply makes records of the messages and returns when Kafka has them all on disk-backed replicas, as acks=all and the
// topic's min.insync.replicas say. There are no replies: receipts come after the store's commit, from the Consumer.
func (p *Producer) Apply(ctx context.Context, messages []ingest.Message) ([]ingest.Reply, ingest.Counts, error) {
	if len(messages) == 0 {
		return nil, ingest.Counts{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout+p.o.Timeout/4)
	defer cancel()
	counts := ingest.Counts{Payloads: uint64(len(messages))}
	if err := p.awaitLeft(ctx); err != nil {
		p.failed.Add(1)
		return nil, ingest.Counts{}, err
	}
	now := p.o.Now()
	d := &delivery{done: make(chan struct{}), open: len(messages)}
	for _, m := range messages {
		// A record's own context has no end: to give up on one that may have been written is not the client's to decide.
		if r, err := recordOf(m, p.o.RawTopic(), now); err == nil {
			p.client.Produce(context.WithoutCancel(ctx), r, func(r *kgo.Record, err error) { p.settle(d, r, err) })
		} else {
			counts.Malformed++
			p.o.Log.Warn("set aside as a dead letter", "mqtt_topic", m.Topic, "bytes", len(m.Payload), "err", err)
			p.client.Produce(context.WithoutCancel(ctx), deadMessage(m, p.o.DeadTopic(), now, err), func(r *kgo.Record, err error) { p.settleDead(d, r, err) })
		}
	}
	select {
	case <-d.done:
	case <-ctx.Done():
		p.failed.Add(1)
		p.mu.Lock()
		p.left = append(p.left, d)
		p.mu.Unlock()
		return nil, ingest.Counts{}, fmt.Errorf("Kafka has not acknowledged %d messages in time: %w", len(messages), context.Cause(ctx))
	}
	if d.err != nil {
		p.failed.Add(1)
		return nil, ingest.Counts{}, fmt.Errorf("Kafka does not take it: %w", explain(d.err))
	}
	return nil, counts, nil
}

// awaitLeft waits until nothing of earlier groups is open.
func (p *Producer) awaitLeft(ctx context.Context) error {
	p.mu.Lock()
	left := p.left
	p.mu.Unlock()
	for _, d := range left {
		select {
		case <-d.done:
		case <-ctx.Done():
			return fmt.Errorf("Kafka has not answered for messages of earlier: %w", context.Cause(ctx))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var open []*delivery
	for _, d := range p.left {
		select {
		case <-d.done:
		default:
			open = append(open, d)
		}
	}
	p.left = open
	return nil
}

func (p *Producer) settle(d *delivery, r *kgo.Record, err error) {
	if err == nil {
		p.records.Add(1)
		p.bytes.Add(uint64(len(r.Value)))
	}
	d.settle(err)
}

// settleDead lets a dead letter go that Kafka would refuse the next time too: a message that is good for nothing must not
// keep the good ones from being acknowledged.
func (p *Producer) settleDead(d *delivery, r *kgo.Record, err error) {
	switch {
	case err == nil:
		p.deadLetters.Add(1)
	case isFinal(err):
		p.deadLost.Add(1)
		p.o.Log.Error("Kafka does not take a dead letter; it is gone", "topic", r.Topic, "bytes", len(r.Value), "err", explain(err))
		err = nil
	}
	d.settle(err)
}

// isFinal says whether the same record would be refused the next time.
func isFinal(err error) bool {
	return errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.TopicAuthorizationFailed) ||
		errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) || errors.Is(err, kerr.InvalidRecord) ||
		errors.Is(err, kerr.InvalidTimestamp) || errors.Is(err, kerr.InvalidTopicException)
}

// explain adds what a person can do.
func explain(err error) error {
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("%w; `waybill-fleet kafka init` makes the topics", err)
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return fmt.Errorf("%w; max.message.bytes of the topic is too low: `waybill-fleet kafka init --alter` raises it", err)
	case errors.Is(err, kgo.ErrRecordTimeout):
		return fmt.Errorf("%w; no leader could be reached, or fewer replicas are in sync than min.insync.replicas wants", err)
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed), errors.Is(err, kerr.GroupAuthorizationFailed):
		return fmt.Errorf("%w; docs/KAFKA.md lists the rights that are needed", err)
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return fmt.Errorf("%w; check user, password and mechanism", err)
	}
	return err
}
