package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

type (
	kmsgCommit    = kmsg.OffsetCommitRequest
	kmsgCommitted = kmsg.OffsetCommitResponse
)

// commitError is the first refusal in an answer.
func commitError(answer *kmsgCommitted) error {
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// worker takes the records of one assigned partition, in order, until stop or cancel.
type worker struct {
	c         *Consumer
	partition int32
	listed    bool // the store knew a position at the assignment
	ctx       context.Context
	cancel    context.CancelFunc // breaks the transaction off
	done      chan struct{}      // closed when nothing of it runs any more
	replies   replyQueue

	// Of its own task.
	position int64 // in the store
	at       int64 // the offset that comes next
	gapAt    int64 // where a seek has not closed a gap; -1: nowhere

	wake chan struct{} // capacity 1: something below has changed

	stopped chan struct{} // closed by stop
	stopper sync.Once

	mu      sync.Mutex // guards what follows
	waiting []item
	bytes   int
	paused  bool
	seekTo  int64 // asked for; what comes before it is done is dropped. -1: nothing
	shown   PartitionState
	sent    int64 // the position up to which receipts are out; -1: nothing since the assignment
}

// item is a record, or word that the log goes on at an offset.
type item struct {
	record *kgo.Record
	reset  int64
}

func newWorker(c *Consumer, partition int32, position, at int64, listed bool) *worker {
	w := &worker{
		c: c, partition: partition, listed: listed, position: position, at: at, gapAt: -1, done: make(chan struct{}),
		stopped: make(chan struct{}), wake: make(chan struct{}, 1), seekTo: -1, sent: -1,
		shown: PartitionState{Partition: partition, Position: position, Told: -1, End: -1},
	}
	w.ctx, w.cancel = context.WithCancel(c.base)
	return w
}

// run is the worker's task, together with that of its receipts.
func (w *worker) run() {
	defer close(w.done)
	// A partition that is new here is fetched, whatever was said of it before.
	w.c.client.ResumeFetchPartitions(map[string][]int32{w.c.topic: {w.partition}})
	w.replies.init()
	var receipts sync.WaitGroup
	receipts.Go(w.sendReplies)
	w.take()
	w.replies.close()
	receipts.Wait()
	w.dropReplies(0) // of a transaction that ended when sending had been given up
}

// take is the loop: a group, its transaction, the next.
func (w *worker) take() {
	if w.at != w.position && w.listed && !w.moveTo(w.at) {
		return
	}
	for {
		group, ok := w.next()
		if !ok || !w.apply(group) {
			return
		}
	}
}

// moveTo begins at `at` instead of the store's position: what lies between does not exist.
func (w *worker) moveTo(at int64) bool {
	from := w.position
	took, ok := w.commit(at, nil)
	if took && at > from {
		w.lost(from, at)
	}
	return ok
}

func (w *worker) lost(from, to int64) {
	w.c.count(func(n *ConsumerCounts) { n.Lost += uint64(to - from) })
	remedy := "the store asks vehicles for what it lacks"
	if w.c.o.Judge != nil {
		remedy = "the primary store has them"
	}
	w.c.o.Log.Error("records are lost to the store: the topic's retention passed before they were taken; "+remedy,
		"topic", w.c.topic, "partition", w.partition, "from", from, "to", to)
	w.c.o.Lost(w.c.topic, w.partition, from, to)
}

// group is what one transaction takes.
type group struct {
	records  int
	to       int64
	messages []ingest.Message
	dead     []*kgo.Record
}

// next gathers what waits, up to the limits of a transaction, and waits for something. It returns false when the worker
// is to stop.
func (w *worker) next() (*group, bool) {
	for {
		items, ok := w.gather()
		if !ok {
			return nil, false
		}
		if len(items) == 1 && items[0].record == nil {
			if reset := items[0].reset; reset < w.at {
				w.at = reset
			}
			continue
		}
		if first := items[0].record.Offset; first > w.at {
			again, ok := w.gap(first)
			if !ok {
				return nil, false
			}
			if again {
				continue
			}
		}
		g := &group{}
		for _, i := range items {
			w.add(g, i.record)
		}
		w.at = g.to
		return g, true
	}
}

func (w *worker) add(g *group, r *kgo.Record) {
	g.records++
	g.to = r.Offset + 1
	if r.Attrs.IsControl() {
		return
	}
	m, err := w.c.message(r)
	if err == nil {
		g.messages = append(g.messages, m)
		return
	}
	w.c.o.Log.Warn("set aside as a dead letter", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "bytes", len(r.Value), "err", err)
	g.dead = append(g.dead, deadRecord(w.c.o.DeadTopic(), err, r, fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset)))
}

// message makes the message of a record.
func (c *Consumer) message(r *kgo.Record) (ingest.Message, error) {
	if c.o.Judge == nil {
		return messageOf(r)
	}
	return ingest.Message{Topic: r.Topic, Payload: r.Value}, c.o.Judge(r.Key, r.Value)
}

// gather takes consecutive records from the queue, none of those below `at`, or one word of a reset.
func (w *worker) gather() (items []item, ok bool) {
	for {
		if w.isStopping() {
			return nil, false
		}
		w.mu.Lock()
		size, n := 0, 0
		for n < len(w.waiting) && len(items) < groupMessages {
			i := w.waiting[n]
			if i.record == nil {
				if len(items) == 0 {
					items, n = []item{i}, n+1
				}
				break
			}
			if len(items) > 0 && (i.record.Offset != items[len(items)-1].record.Offset+1 || size+len(i.record.Value) > groupBytes) {
				break
			}
			n++
			w.bytes -= sizeOf(i.record)
			if i.record.Offset >= w.at {
				items, size = append(items, i), size+len(i.record.Value)
			}
		}
		clear(w.waiting[:n])
		w.waiting = w.waiting[n:]
		if w.paused && w.bytes <= w.c.o.QueueBytes/2 {
			w.paused = false
			w.c.client.ResumeFetchPartitions(map[string][]int32{w.c.topic: {w.partition}}) // under the lock, as the pause
		}
		w.mu.Unlock()
		if len(items) > 0 {
			return items, true
		}
		if n > 0 {
			continue
		}
		select {
		case <-w.wake:
		case <-w.stopped:
		case <-w.ctx.Done():
			return nil, false
		}
	}
}

// gap decides what it means that the next record is `first` and not `at`. again: the queue is to be looked at anew.
func (w *worker) gap(first int64) (again, ok bool) {
	var start int64
	err := w.c.retry(w.ctx, "the topic's beginning cannot be read", func() error {
		starts, _, err := w.c.bounds(w.ctx)
		if err == nil {
			s, _ := starts.Lookup(w.c.topic, w.partition)
			start = s.Offset
		}
		return err
	})
	switch {
	case err != nil:
		return false, false
	case start > w.at:
		from := w.at
		w.at = min(start, first)
		w.lost(from, w.at)
		return w.at < first, true
	case w.gapAt != w.at:
		// Perhaps it is our own: fetched anew it closes, unless the topic has none of these offsets.
		w.gapAt = w.at
		w.askSeek(w.at)
		return true, true
	}
	w.c.count(func(n *ConsumerCounts) { n.Skipped += uint64(first - w.at) })
	level := slog.LevelWarn
	if w.c.o.Judge != nil {
		level = slog.LevelDebug // so do transactions look that were given up
	}
	w.c.o.Log.Log(w.ctx, level, "the topic does not have these offsets; is it compacted? its cleanup.policy must be delete", "topic", w.c.topic, "partition", w.partition, "from", w.at, "to", first)
	w.at = first
	return false, true
}

// apply takes a group: its dead letters first, then the messages with the position. It returns false when the worker is
// to stop.
func (w *worker) apply(g *group) bool {
	if !w.setAside(g.dead) {
		return false
	}
	took, ok := w.commit(g.to, g.messages)
	if took {
		w.c.count(func(n *ConsumerCounts) { n.Records += uint64(g.records) })
	}
	return ok
}

// commit moves the position to `to` together with messages, however often it takes. When another consumer has moved
// it, the work goes on where that one stands. took: it was done here. ok: the worker
// is not to stop.
func (w *worker) commit(to int64, messages []ingest.Message) (took, ok bool) {
	for failures := 0; ; failures++ {
		began := time.Now()
		replies, counts, err := w.c.sink.Take(w.ctx, Progress{Topic: w.c.topic, Partition: w.partition, From: w.position, To: to}, messages)
		switch {
		case err == nil:
			w.c.count(func(n *ConsumerCounts) { n.Counts.Add(counts); n.Taking += time.Since(began) })
			w.moved(to)
			w.c.count(func(n *ConsumerCounts) { n.ReceiptsDropped += uint64(w.replies.add(replies, to)) })
			return true, true
		case w.ctx.Err() != nil:
			return false, false
		case errors.Is(err, ErrFenced):
			w.c.count(func(n *ConsumerCounts) { n.Fenced++ })
			w.c.o.Log.Warn("overtaken by another consumer", "topic", w.c.topic, "partition", w.partition, "position", w.position, "err", err)
			return false, w.refresh()
		}
		w.c.count(func(n *ConsumerCounts) { n.StoreErrors++ })
		wait := backoff(failures)
		w.c.o.Log.Warn("the store does not take it", "topic", w.c.topic, "partition", w.partition, "from", w.position, "to", to, "err", err, "retry_in", wait.Round(time.Millisecond))
		if !w.pause(wait) {
			return false, false
		}
	}
}

// refresh reads the position anew and goes on there.
func (w *worker) refresh() bool {
	var position int64
	err := w.c.retry(w.ctx, "the positions cannot be read", func() error {
		positions, err := w.c.sink.Positions(w.ctx, w.c.topic)
		position = positions[w.partition]
		return err
	})
	if err != nil {
		return false
	}
	w.moved(position)
	// What was taken from the queue is gone; all that is above the position is fetched again.
	w.at, w.gapAt = position, -1
	w.askSeek(position)
	return true
}

func (w *worker) moved(to int64) {
	w.position = to
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown.Position = to
}

// setAside writes dead letters, which has to succeed before the position passes them. What Kafka refuses for good is
// counted and let go: it must not hold up what is behind it.
func (w *worker) setAside(dead []*kgo.Record) bool {
	for len(dead) > 0 {
		results := w.c.client.ProduceSync(w.ctx, dead...)
		var again []*kgo.Record
		for i, r := range results {
			switch {
			case r.Err == nil:
				w.c.count(func(n *ConsumerCounts) { n.DeadLetters++ })
			case isFinal(r.Err):
				w.c.count(func(n *ConsumerCounts) { n.DeadLost++ })
				w.c.o.Log.Error("Kafka does not take a dead letter; it is gone", "topic", r.Record.Topic, "bytes", len(r.Record.Value), "err", explain(r.Err))
			default:
				again = append(again, results[i].Record)
			}
		}
		if dead = again; len(dead) > 0 && !w.pause(retryBase) {
			return false
		}
	}
	return true
}

// queue takes what was fetched. It never blocks: what is too much pauses the partition.
func (w *worker) queue(records []*kgo.Record, end int64) {
	w.mu.Lock()
	w.shown.End = end
	if w.seekTo >= 0 {
		w.mu.Unlock()
		return
	}
	for _, r := range records {
		w.waiting = append(w.waiting, item{record: r})
		w.bytes += sizeOf(r)
	}
	pause := !w.paused && w.bytes > w.c.o.QueueBytes
	if pause {
		w.paused = true
		w.c.client.PauseFetchPartitions(map[string][]int32{w.c.topic: {w.partition}})
	}
	w.mu.Unlock()
	w.signal()
}

// rewind: the log goes on at an offset below what was read of it.
func (w *worker) rewind(to int64) {
	w.mu.Lock()
	w.waiting = append(w.waiting, item{reset: to})
	w.mu.Unlock()
	w.signal()
}

// askSeek has the partition fetched from `to`, and forgets what waits.
func (w *worker) askSeek(to int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting, w.bytes, w.seekTo = nil, 0, to
}

func (w *worker) sought() (to int64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seekTo, w.seekTo >= 0
}

func (w *worker) didSeek() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seekTo = -1
}

// stop lets the transaction under way end, and no other begin.
func (w *worker) stop() { w.stopper.Do(func() { close(w.stopped) }) }

func (w *worker) isStopping() bool {
	select {
	case <-w.stopped:
		return true
	default:
		return false
	}
}

// pause says whether it was neither stopped nor broken off meanwhile.
func (w *worker) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.stopped:
		return false
	case <-w.ctx.Done():
		return false
	}
}

func (w *worker) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) state() PartitionState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shown
}

// untold is the position that Kafka does not know yet.
func (w *worker) untold() (int64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent, w.sent >= 0 && w.sent != w.shown.Told
}

func (w *worker) wasTold(to int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown.Told = to
}

// backoff is full jitter under a doubling ceiling.
func backoff(failures int) time.Duration {
	ceiling := retryCap
	if failures < 16 {
		ceiling = min(ceiling, retryBase<<failures)
	}
	return rand.N(ceiling) + time.Millisecond
}

// sleep says whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
