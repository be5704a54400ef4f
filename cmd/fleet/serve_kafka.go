package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/stream"
)

// throughKafka are the flags of serve for Kafka between receiver and store.
type throughKafka struct {
	kafkaFlags
	group string
}

func (f *throughKafka) add(cmd *cobra.Command) {
	f.kafkaFlags.add(cmd.Flags(), "kafka-")
	cmd.Flags().StringVar(&f.group, "kafka-group", "waybill-store", "group of the consumers that take Kafka's topic into one store; another store needs another group")
}

// on says whether Kafka is asked for.
func (f *throughKafka) on() bool { return len(f.brokers) > 0 }

// check says what is wrong with the flags.
func (f *throughKafka) check() error {
	if !f.on() {
		if f.user != "" || f.tls || f.ca != "" || f.cert != "" || f.passwordFile != "" || f.mechanism != "" {
			return errors.New("--kafka-brokers HOST:PORT is needed where other --kafka flags are given")
		}
		return nil
	}
	_, err := f.options(nil)
	return err
}

// between is Kafka between a receiver and a store: what the receiver applies goes to the raw topic, and what the group
// of consumers gets of it goes to the store.
type between struct {
	*stream.Producer
	consumer *stream.Consumer
}

// consumed is what takes it into the store; nil without Kafka.
func (b *between) consumed() *stream.Consumer {
	if b == nil {
		return nil
	}
	return b.consumer
}

// start makes producer and consumer; send takes the receipts of what the store took.
func (f *throughKafka) start(g *ingest.Ingester, s store.Store, send func(context.Context, []ingest.Reply) error, log *slog.Logger) (*between, error) {
	o, err := f.options(log)
	if err != nil {
		return nil, err
	}
	p, err := stream.NewProducer(stream.ProducerOptions{Options: o})
	if err != nil {
		return nil, err
	}
	c, err := stream.NewConsumer(stream.ConsumerOptions{Options: o, Group: f.group, Reply: send}, kafkaSink{g, s})
	if err != nil {
		p.Close()
		return nil, err
	}
	return &between{p, c}, nil
}

// kafkaSink takes Kafka's records into the store.
type kafkaSink struct {
	*ingest.Ingester
	store store.Store
}

func (k kafkaSink) Positions(ctx context.Context, topic string) (map[int32]int64, error) {
	return k.store.Positions(ctx, topic)
}

func (k kafkaSink) Take(ctx context.Context, p stream.Progress, messages []ingest.Message) ([]ingest.Reply, ingest.Counts, error) {
	replies, counts, err := k.Ingester.Take(ctx, ingest.Step(p), messages)
	if errors.Is(err, store.ErrFenced) {
		err = fmt.Errorf("%w: %w", stream.ErrFenced, err)
	}
	return replies, counts, err
}
