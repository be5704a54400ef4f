package decoded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/stream"
)

const (
	// transactionTimeout is after how long Kafka ends a transaction that nobody goes on with; until then who reads committed records
	// waits. A relay that takes a shard over ends it at once.
	transactionTimeout = 5 * time.Minute
	// settleTimeout bounds the steps of a transaction, of writing each row by itself; readTimeout the reading of what was carried.
	settleTimeout = 30 * time.Second
	readTimeout   = 30 * time.Second
	// slowest is how many rows a second are written at least where a transaction has time for them: a batch is carried in one, and may have
	// a million samples. In one that always ran out of time it would hold up its shard for ever. writeTimeout bounds it.
	slowest      = 10_000
	writeTimeout = transactionTimeout - time.Minute
	// bufferedBytes is how much of a transaction is held in memory. Rows may be long: names are the vehicle's.
	bufferedBytes = 32 << 20
	// abortTimeout bounds how long the end waits for a transaction to be taken back.
	abortTimeout = 3 * time.Second
)

// session carries one shard for as long as nothing goes wrong. Whatever does ends it, and the next one finds out from Kafka what
// became of the last transaction:
//
//	begin ─▶ fence who was before ─▶ read what was carried ─▶ delete those notes ─┐
//	                                                                              ▼
//	      ┌──────────── delete them ◀── commit ◀── write rows and notes ◀── read notes and rows
//	      └───────────────────────────────────────────────────────────────────────▲
type session struct {
	*Relay
	shard  int
	client *kgo.Client
	writer writer
}

// newSession fences whoever carried the shard before: no transaction of theirs is committed any more.
func (r *Relay) newSession(ctx context.Context, shard int) (*session, error) {
	client, err := r.o.Client(
		kgo.TransactionalID(fmt.Sprintf("waybill-decoded-%s-%s-%d", r.o.RawTopic(), r.store.Name(), shard)), kgo.TransactionTimeout(transactionTimeout),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(partitioner{r.o.CarriedTopic(), kgo.StickyKeyPartitioner(nil)}),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()), kgo.ProducerBatchMaxBytes(stream.MaxRecord),
		kgo.RecordDeliveryTimeout(settleTimeout), kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(1<<17), kgo.MaxBufferedBytes(bufferedBytes),
	)
	if err != nil {
		return nil, err
	}
	s := &session{Relay: r, shard: shard, client: client, writer: r.o.Format.writer()}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if _, _, err := client.ProducerID(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("begin at Kafka: %w", stream.Explain(err))
	}
	return s, nil
}

// run carries until something goes wrong or ctx ends.
func (s *session) run(ctx context.Context, wake <-chan struct{}) error {
	defer s.client.Close()
	s.o.at("fenced")
	last, err := s.settled(ctx)
	if err != nil {
		return err
	}
	s.o.at("settled")
	if last != nil {
		generation, err := strconv.ParseUint(last.Generation, 16, 64)
		if err != nil {
			return fmt.Errorf("generation %q in %s", last.Generation, s.o.CarriedTopic())
		}
		if err := s.store.Done(ctx, s.shard, generation, last.Notes); err != nil {
			return err
		}
	}
	for {
		c, err := s.store.Next(ctx, s.shard, s.o.Samples)
		if err != nil {
			return err
		}
		if len(c.Notes) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-wake:
				continue
			}
		}
		s.o.at("read")
		if err := s.carry(ctx, c); err != nil {
			return err
		}
		s.o.at("committed")
		if err := s.store.Done(ctx, s.shard, c.Generation, c.Notes); err != nil {
			return err
		}
	}
}

// carry writes what notes name and their numbers in one transaction.
func (s *session) carry(ctx context.Context, c *store.Carry) error {
	head, err := json.Marshal(carried{Version: carriedVersion, Generation: fmt.Sprintf("%016x", c.Generation), Notes: c.Notes, At: s.o.Now().UTC()})
	if err != nil {
		return err
	}
	var n [4]uint64 // rows by kind
	if err := s.transaction(ctx, patience(c), func(put func(*kgo.Record)) {
		put(&kgo.Record{Topic: s.o.CarriedTopic(), Partition: int32(s.shard), Key: []byte(s.store.Name()), Value: head})
		for i := range c.Batches {
			s.batch(&c.Batches[i], put, &n)
		}
		for i := range c.Losses {
			l := &c.Losses[i]
			n[3]++
			put(&kgo.Record{Topic: s.topics[3], Key: key(l.Tenant, l.Device), Value: s.whole(s.writer.loss(s.value(3), l), func() []byte {
				cut := *l
				s.cut(&cut.Source, &cut.Unit, &cut.Detail)
				return s.writer.loss(s.value(3), &cut)
			})})
		}
	}); err != nil {
		return err
	}
	s.counts.add(n, uint64(len(c.Notes)))
	return nil
}

// patience is how long it may take to write what notes name.
func patience(c *store.Carry) time.Duration {
	rows := len(c.Losses)
	for i := range c.Batches {
		rows += 3 * len(c.Batches[i].Samples) // at most: as samples, events and positions
	}
	return min(settleTimeout+time.Duration(rows)*time.Second/slowest, writeTimeout)
}

func key(tenant, device string) []byte { return []byte(tenant + "/" + device) }

// batch writes the rows of a batch.
func (s *session) batch(b *store.DecodedBatch, put func(*kgo.Record), n *[4]uint64) {
	k := key(b.Tenant, b.Device)
	event := b.Lane == laneEvent
	for i := range b.Samples {
		row := func(kind int) {
			n[kind]++
			put(&kgo.Record{Topic: s.topics[kind], Key: k, Value: s.whole(s.writer.sample(s.value(kind), b, &b.Samples[i]), func() []byte {
				cut := b.Samples[i]
				s.cut(&cut.Name, &cut.Unit, &cut.Text, &cut.Label)
				return s.writer.sample(s.value(kind), b, &cut)
			})})
		}
		row(0)
		if event {
			row(1)
		}
	}
	for _, p := range positions(b) {
		n[2]++
		put(&kgo.Record{Topic: s.topics[2], Key: k, Value: s.whole(s.writer.position(s.value(2), &p), func() []byte {
			s.cut(&p.Source)
			return s.writer.position(s.value(2), &p)
		})})
	}
}

// usualRow is about how long a row is, in bytes.
const usualRow = 400

// value begins a record's value, with what a registry wants ahead of it.
func (s *session) value(kind int) []byte { return append(make([]byte, 0, usualRow), s.heads[kind]...) }

// rowMost is how long a row may be, in bytes: the topic's limit less key and framing.
const rowMost = stream.MaxRecord - 16<<10

// whole takes a row as it is where the topic takes it. A vehicle that sends texts of a megabyte must not hold up the others of its shard.
func (s *session) whole(row []byte, shorter func() []byte) []byte {
	if len(row) <= rowMost {
		return row
	}
	s.counts.cut.Add(1)
	return shorter()
}

// textMost is what is left of each text then, in bytes. JSON makes of a byte six at most.
const textMost = 32 << 10

// cut shortens long texts to whole characters.
func (s *session) cut(texts ...*string) {
	for _, t := range texts {
		if len(*t) > textMost {
			*t = strings.ToValidUTF8((*t)[:textMost], "") + "…"
		}
	}
}

// transaction has records written within a time and committed. Every failure leaves the outcome to whoever begins next.
func (s *session) transaction(ctx context.Context, within time.Duration, f func(put func(*kgo.Record))) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.client.BeginTransaction(); err != nil {
		return fmt.Errorf("begin a transaction: %w", stream.Explain(err))
	}
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var mu sync.Mutex
	var first error
	f(func(r *kgo.Record) {
		s.client.Produce(bounded, r, func(r *kgo.Record, err error) {
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = fmt.Errorf("%s: %w", r.Topic, stream.Explain(err))
				}
			}
		})
	})
	s.o.at("handed over")
	err := s.client.Flush(bounded)
	s.o.at("written")
	mu.Lock()
	err = errors.Join(first, err)
	mu.Unlock()
	if err != nil {
		s.abort(ctx)
		return fmt.Errorf("write: %w", err)
	}
	// The commit is not taken back when ctx ends: it would only be unknown then whether it was.
	ending, stop := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer stop()
	if err := s.client.EndTransaction(ending, kgo.TryCommit); err != nil {
		return fmt.Errorf("commit: %w", stream.Explain(err))
	}
	return nil
}

// abort is a courtesy to who reads: without it they wait until the transaction has timed out or the shard is taken over.
func (s *session) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if err := s.client.AbortBufferedRecords(ctx); err != nil {
		return
	}
	if err := s.client.EndTransaction(ctx, kgo.TryAbort); err != nil && !isFenced(err) {
		s.o.Log.Log(ctx, slog.LevelDebug, "a transaction could not be taken back", "shard", s.shard, "err", err)
	}
}

// isFenced says whether another relay has the shard.
func isFenced(err error) bool {
	return errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch)
}

// partitioner leaves the partition of what was carried to the record, and keeps a vehicle on one partition elsewhere.
type partitioner struct {
	carried string
	keyed   kgo.Partitioner
}

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if topic == p.carried {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return p.keyed.ForTopic(topic)
}
