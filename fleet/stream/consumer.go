package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

// ErrFenced: the position in the store is not the one that Take began from. Another consumer has moved it.
var ErrFenced = errors.New("another consumer has moved the position")

// Sink takes messages into a store that keeps the positions too. It is safe for use from several goroutines, one for
// each partition.
type Sink interface {
	// Positions are the offsets of the next record to take, by partition; one that is not listed has position 0.
	Positions(ctx context.Context, topic string) (map[int32]int64, error)
	// Take applies messages of one partition and moves its position from From to To in the same transaction. There may
	// be no messages. With ErrFenced, another consumer has moved it; with any error nothing of this remains, unless the
	// position says that it does.
	Take(ctx context.Context, p Progress, messages []ingest.Message) ([]ingest.Reply, ingest.Counts, error)
}

// Progress is a step of a position. To is the offset after the last record; it is below From when the topic was made
// anew, or Kafka lost its end.
type Progress struct {
	Topic     string
	Partition int32
	From, To  int64
}

// Limits of one transaction, as package ingest has them.
const (
	groupMessages = 256
	groupBytes    = 4 << 20
)

const (
	pollEvery      = 250 * time.Millisecond // how often a poll that brings nothing looks for what workers asked for
	retryBase      = 100 * time.Millisecond // of a store that fails, and of receipts that cannot be sent
	retryCap       = 5 * time.Second
	leaveTimeout   = 5 * time.Second
	maxReplies     = 1 << 14                // receipts of one partition that wait to be sent
	fetchWait      = 500 * time.Millisecond // of a request that finds nothing; as long a resumed partition may have to wait
	fetchBytes     = 16 << 20               // of one broker's answer
	unpackedBytes  = 64 << 20               // of one batch of Kafka's, unpacked
	partitionBytes = 1 << 20                // of one partition in one answer; a larger record comes alone
)

// ConsumerOptions of a Consumer.
type ConsumerOptions struct {
	Options
	Group string // of consumers that share the topic; "": waybill-store
	// Judge makes the Consumer one of another topic than the raw one, Topic: of each record that it passes, the value
	// goes to the Sink with the topic's name; what it refuses becomes a dead letter. Of transactions on that topic only
	// what was committed counts. nil: the raw topic.
	Judge func(key, value []byte) error
	Topic string
	// SessionTimeout is how long a member may be silent before its partitions go to others; 0: 15 s. The broker allows
	// 6 s and more, unless it is told otherwise.
	SessionTimeout time.Duration
	// RevokeWait bounds how long a partition that goes to another waits for the transaction under way; 0: 10 s.
	RevokeWait  time.Duration
	CommitEvery time.Duration // of the positions that are told to Kafka; 0: 1 s
	QueueBytes  int           // of one partition's records that wait for the store, before fetching pauses; 0: 4 MiB

	// Reply sends receipts; what it takes without error is out of the Consumer's hands. nil: there are none to be sent,
	// as in a store that is not the primary one. One call at a time for each partition.
	Reply func(ctx context.Context, replies []ingest.Reply) error
	// Restored: Kafka was told a higher position than the store has now: the store was restored from a copy. The records
	// between come again, as far as the topic still has them. May be nil, as Lost.
	Restored func(topic string, partition int32, store, kafka int64)
	// Lost: the topic no longer had the records from `from` to before `to` when the store came to ask for them.
	Lost func(topic string, partition int32, from, to int64)
}

// Check says what is wrong with the options.
func (o *ConsumerOptions) Check() error {
	switch {
	case o.SessionTimeout < time.Second || o.SessionTimeout > 30*time.Minute:
		return fmt.Errorf("session timeout: must be between 1s and 30m, got %v", o.SessionTimeout)
	case o.RevokeWait < 0 || o.RevokeWait > 30*time.Minute:
		return fmt.Errorf("wait at a rebalance: must be between 0 and 30m, got %v", o.RevokeWait)
	case o.CommitEvery < 10*time.Millisecond:
		return fmt.Errorf("interval of the commits to Kafka: must be at least 10ms, got %v", o.CommitEvery)
	case (o.Judge == nil) != (o.Topic == ""):
		return errors.New("another topic than the raw one: its name and what judges its records belong together")
	case o.QueueBytes < 1<<10:
		return fmt.Errorf("queue of a partition: must be at least 1 KiB, got %d bytes", o.QueueBytes)
	}
	return o.Options.Check()
}

// Consumer takes the raw topic, or another, into a Sink. The store's positions rule: they are read at each assignment and moved in
// the transaction that takes the records, so that every record is applied exactly once, whatever ends in between. What
// Kafka knows of the group's offsets is told after the receipts are out, for tools that show lag, and as a witness of a
// store that was restored from a copy.
//
//	poll ──▶ worker of the partition: queue ──▶ Take (≤ 256 messages) ──▶ receipts ──▶ offset told to Kafka
//	  ◀── pause, resume, seek ──┘
//
// A Consumer is used once: Run, and Counts and Partitions from anywhere.
type Consumer struct {
	o     ConsumerOptions
	sink  Sink
	topic string
	said  *clientLog // what would be said again and again

	client *kgo.Client // these two by Run
	admin  *kadm.Client
	base   context.Context // of the workers; ends after they were let go

	tasks   sync.WaitGroup
	mu      sync.Mutex // guards what follows
	workers map[int32]*worker
	counts  ConsumerCounts
}

// ConsumerCounts says what a Consumer did since its start.
type ConsumerCounts struct {
	ingest.Counts                 // as the sink counted
	Records         uint64        // taken, dead letters and records of Kafka's own included
	DeadLetters     uint64        // records set aside on the dead-letter topic
	DeadLost        uint64        // those that Kafka does not take there: logged, and let go
	Lost            uint64        // offsets that the topic no longer had
	Skipped         uint64        // offsets that the topic never gives: of transactions that were given up, or a compacted topic's
	Fenced          uint64        // transactions that another consumer had overtaken
	StoreErrors     uint64        // transactions that failed and were tried again
	Receipts        uint64        // sent
	ReceiptsDropped uint64        // not sent: too many waited, or the partition went to another; vehicles ask again
	Rebalances      uint64        // assignments and losses of partitions
	Taking          time.Duration // in transactions, of all partitions together
}

// PartitionState is where a partition stands that is assigned here.
type PartitionState struct {
	Partition int32
	Position  int64 // in the store
	Told      int64 // to Kafka; -1: nothing since the assignment
	End       int64 // of the topic, when something last came; -1: nothing did
}

// NewConsumer makes a Consumer.
func NewConsumer(o ConsumerOptions, sink Sink) (*Consumer, error) {
	if o.Group == "" {
		o.Group = "waybill-store"
	}
	if o.SessionTimeout == 0 {
		o.SessionTimeout = 15 * time.Second
	}
	if o.RevokeWait == 0 {
		o.RevokeWait = 10 * time.Second
	}
	if o.CommitEvery == 0 {
		o.CommitEvery = time.Second
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = 4 << 20
	}
	if o.Restored == nil {
		o.Restored = func(string, int32, int64, int64) {}
	}
	if o.Lost == nil {
		o.Lost = func(string, int32, int64, int64) {}
	}
	o.Log = o.logger()
	if err := o.Check(); err != nil {
		return nil, err
	}
	topic := o.RawTopic()
	if o.Judge != nil {
		topic = o.Topic
	}
	return &Consumer{o: o, sink: sink, topic: topic, said: newClientLog(o.Log, time.Now), workers: map[int32]*worker{}}, nil
}

// Counts is what was done since the start.
func (c *Consumer) Counts() ConsumerCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// Partitions are those that are assigned here, in no order.
func (c *Consumer) Partitions() []PartitionState {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]PartitionState, 0, len(c.workers))
	for _, w := range c.workers {
		list = append(list, w.state())
	}
	return list
}

func (c *Consumer) count(f func(*ConsumerCounts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.counts)
}

// Run takes records until ctx ends, lets the transactions under way end, leaves the group, and returns nil then.
func (c *Consumer) Run(ctx context.Context) error {
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	c.base = base
	ready := make(chan struct{}) // the group's callbacks begin before the client is known
	revoked := func(wait time.Duration) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(ctx context.Context, client *kgo.Client, lost map[string][]int32) {
			<-ready
			c.release(lost[c.topic], wait)
		}
	}
	isolation := kgo.ReadUncommitted()
	if c.o.Judge != nil {
		isolation = kgo.ReadCommitted()
	}
	client, err := c.o.client(
		kgo.FetchIsolationLevel(isolation),
		kgo.ConsumerGroup(c.o.Group), kgo.ConsumeTopics(c.topic), kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.KeepControlRecords(),
		kgo.SessionTimeout(c.o.SessionTimeout), kgo.HeartbeatInterval(c.o.SessionTimeout/5), kgo.RebalanceTimeout(max(time.Minute, 2*c.o.RevokeWait)),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AdjustFetchOffsetsFn(func(ctx context.Context, told map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			<-ready
			return c.assign(ctx, told)
		}),
		kgo.OnPartitionsRevoked(revoked(c.o.RevokeWait)), kgo.OnPartitionsLost(revoked(0)),
		kgo.FetchMaxWait(fetchWait), kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(partitionBytes), kgo.MaxDecompressBatchBytes(unpackedBytes),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordDeliveryTimeout(30*time.Second), kgo.ProducerLinger(0), // dead letters
	)
	if err != nil {
		return err
	}
	c.client, c.admin = client, kadm.NewClient(client)
	close(ready)
	c.tasks.Go(func() { c.tell(base) })
	c.poll(ctx)

	leave, cancel := context.WithTimeout(base, c.o.RevokeWait+leaveTimeout)
	defer cancel()
	client.AllowRebalance()
	if err := client.LeaveGroupContext(leave); err != nil {
		c.o.Log.Warn("the group was not left in order: others get its partitions when the session times out", "group", c.o.Group, "err", err)
	}
	c.mu.Lock()
	var all []int32
	for p := range c.workers {
		all = append(all, p)
	}
	c.mu.Unlock()
	c.release(all, c.o.RevokeWait)
	end()
	client.CloseAllowingRebalance()
	c.tasks.Wait()
	return nil
}

// poll hands what comes to the workers until ctx ends. No partition comes or goes between a poll and the end of its
// handing out, so that no worker gets what was fetched for the one before it.
func (c *Consumer) poll(ctx context.Context) {
	for ctx.Err() == nil {
		c.seek()
		wait, cancel := context.WithTimeout(ctx, pollEvery)
		fetches := c.client.PollFetches(wait)
		cancel()
		if fetches.IsClientClosed() {
			return
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if p.Topic == c.topic {
				c.hand(p)
			} else if p.Err != nil && !errors.Is(p.Err, context.DeadlineExceeded) && !errors.Is(p.Err, context.Canceled) {
				c.said.Log(kgo.LogLevelError, "the group", "err", explain(p.Err))
			}
		})
		c.client.AllowRebalance()
	}
}

// hand gives a worker what was fetched of its partition.
func (c *Consumer) hand(p kgo.FetchTopicPartition) {
	c.mu.Lock()
	w := c.workers[p.Partition]
	c.mu.Unlock()
	lost := (*kgo.ErrDataLoss)(nil)
	switch {
	case p.Err == nil:
	case errors.As(p.Err, &lost):
		c.o.Log.Error("Kafka has lost the end of a partition: unclean election, or a topic made anew", "err", lost)
		if w != nil {
			w.rewind(lost.ResetTo)
		}
	case errors.Is(p.Err, kerr.UnknownTopicOrPartition):
		c.said.Log(kgo.LogLevelError, "fetch: no such topic", "topic", p.Topic, "partition", p.Partition, "err", explain(p.Err))
	default:
		c.said.Log(kgo.LogLevelWarn, "fetch", "topic", p.Topic, "partition", p.Partition, "err", explain(p.Err))
	}
	if w != nil && len(p.Records) > 0 {
		w.queue(p.Records, p.HighWatermark)
	}
}

// seek does what workers asked for. It runs between two polls, so that nothing fetched before it comes after.
func (c *Consumer) seek() {
	c.mu.Lock()
	set := map[int32]kgo.EpochOffset{}
	var asked []*worker
	for p, w := range c.workers {
		if to, ok := w.sought(); ok {
			set[p] = kgo.EpochOffset{Epoch: -1, Offset: to}
			asked = append(asked, w)
		}
	}
	c.mu.Unlock()
	if len(set) == 0 {
		return
	}
	c.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{c.topic: set})
	for _, w := range asked {
		w.didSeek()
	}
}

// assign begins partitions where the store says.
func (c *Consumer) assign(ctx context.Context, told map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	var positions map[int32]int64
	var starts, ends kadm.ListedOffsets
	err := c.retry(ctx, "the positions cannot be read", func() (err error) {
		if positions, err = c.sink.Positions(ctx, c.topic); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		starts, ends, err = c.bounds(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	var fresh []*worker
	for p, kafka := range told[c.topic] {
		position, listed := positions[p]
		start, _ := starts.Lookup(c.topic, p)
		end, _ := ends.Lookup(c.topic, p)
		at := max(position, start.Offset)
		switch k := kafka.EpochOffset().Offset; {
		case position > end.Offset:
			c.o.Log.Error("the store is further than the topic: the topic was made anew, or Kafka lost its end; all that it has is taken, and what is known is found to be a duplicate",
				"topic", c.topic, "partition", p, "store", position, "end", end.Offset)
			at = start.Offset
		case k > position && k <= end.Offset:
			c.o.Log.Error("the store was restored from a copy: Kafka was told a higher position; the records between come again",
				"topic", c.topic, "partition", p, "store", position, "kafka", k)
			c.o.Restored(c.topic, p, position, k)
		}
		w := newWorker(c, p, position, at, listed)
		fresh = append(fresh, w)
		told[c.topic][p] = kgo.NewOffset().At(at)
	}
	list := make([]int32, 0, len(fresh))
	for _, w := range fresh {
		list = append(list, w.partition)
	}
	c.release(list, 0) // what an assignment that was broken off has left
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Rebalances++
	for _, w := range fresh {
		c.workers[w.partition] = w
		c.tasks.Go(w.run)
	}
	c.o.Log.Info("partitions assigned", "topic", c.topic, "new", list, "all", len(c.workers))
	return told, nil
}

// bounds lists where the partitions begin and end.
func (c *Consumer) bounds(ctx context.Context) (starts, ends kadm.ListedOffsets, err error) {
	if starts, err = c.admin.ListStartOffsets(ctx, c.topic); err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("Kafka: list the first offsets: %w", explain(err))
	}
	if ends, err = c.admin.ListEndOffsets(ctx, c.topic); err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("Kafka: list the last offsets: %w", explain(err))
	}
	return starts, ends, nil
}

// release lets partitions go: the transaction under way may take `wait`, then it is broken off.
func (c *Consumer) release(partitions []int32, wait time.Duration) {
	var list []*worker
	c.mu.Lock()
	for _, p := range partitions {
		if w := c.workers[p]; w != nil {
			list = append(list, w)
			delete(c.workers, p)
		}
	}
	if len(list) > 0 {
		c.counts.Rebalances++
	}
	c.mu.Unlock()
	if len(list) == 0 {
		return
	}
	for _, w := range list {
		w.stop()
	}
	ended := awaitWorkers(list, wait)
	for _, w := range list {
		w.cancel()
	}
	if !ended {
		awaitWorkers(list, time.Second) // to break off takes a moment; what takes longer is fenced by its position
	}
	if wait > 0 {
		ctx, cancel := context.WithTimeout(c.base, leaveTimeout)
		defer cancel()
		c.tellOf(ctx, list)
	}
	c.o.Log.Info("partitions let go", "topic", c.topic, "partitions", partitions)
}

// awaitWorkers says whether all ended within the time.
func awaitWorkers(list []*worker, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for _, w := range list {
		select {
		case <-w.done:
		case <-timer.C:
			return false
		}
	}
	return true
}

// tell tells Kafka the positions, from time to time.
func (c *Consumer) tell(ctx context.Context) {
	tick := time.NewTicker(c.o.CommitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.mu.Lock()
		list := make([]*worker, 0, len(c.workers))
		for _, w := range c.workers {
			list = append(list, w)
		}
		c.mu.Unlock()
		bounded, cancel := context.WithTimeout(ctx, requestTimeout)
		c.tellOf(bounded, list)
		cancel()
	}
}

func (c *Consumer) tellOf(ctx context.Context, list []*worker) {
	offsets := map[int32]kgo.EpochOffset{}
	for _, w := range list {
		if to, ok := w.untold(); ok {
			offsets[w.partition] = kgo.EpochOffset{Epoch: -1, Offset: to}
		}
	}
	if len(offsets) == 0 {
		return
	}
	told := true
	c.client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{c.topic: offsets},
		func(_ *kgo.Client, _ *kmsgCommit, answer *kmsgCommitted, err error) {
			if err == nil {
				err = commitError(answer)
			}
			if told = err == nil; !told && ctx.Err() == nil {
				c.o.Log.Debug("Kafka was not told the positions; nothing depends on it", "err", err)
			}
		})
	for _, w := range list {
		if o, ok := offsets[w.partition]; ok && told {
			w.wasTold(o.Offset)
		}
	}
}

// retry tries until f succeeds or ctx ends.
func (c *Consumer) retry(ctx context.Context, what string, f func() error) error {
	for failures := 0; ; failures++ {
		err := f()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		wait := backoff(failures)
		c.o.Log.Warn(what, "err", err, "retry_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}
