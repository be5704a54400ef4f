package stream

import (
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

// replyQueue holds the receipts of committed transactions in their order until they are sent. It never blocks and is
// bounded: of too many the oldest go. That is a delay and no loss, since a vehicle that gets no receipt sends its batches
// again, and duplicates are receipted again. It is closed by the worker, after its last transaction.
type replyQueue struct {
	wake chan struct{} // capacity 1: something below has changed

	mu     sync.Mutex // guards what follows
	list   []sentUpTo
	held   int // replies in list
	closed bool
}

// sentUpTo is the receipts of one transaction, and the position after it.
type sentUpTo struct {
	replies []ingest.Reply
	to      int64
}

func (q *replyQueue) init() { q.wake = make(chan struct{}, 1) }

// add says how many receipts had to go.
func (q *replyQueue) add(replies []ingest.Reply, to int64) (dropped int) {
	q.mu.Lock()
	q.list = append(q.list, sentUpTo{replies, to})
	q.held += len(replies)
	for i := 0; q.held > maxReplies && i < len(q.list)-1; i++ {
		dropped += len(q.list[i].replies)
		q.held -= len(q.list[i].replies)
		q.list[i].replies = nil
	}
	// What has nothing to send needs no place of its own.
	for len(q.list) > 1 && len(q.list[0].replies) == 0 {
		q.list = q.list[1:]
	}
	q.mu.Unlock()
	q.signal()
	return dropped
}

func (q *replyQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *replyQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop gives the oldest. closed: no more will come.
func (q *replyQueue) pop() (s sentUpTo, ok, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 {
		return s, false, q.closed
	}
	s = q.list[0]
	q.list[0] = sentUpTo{}
	q.list = q.list[1:]
	q.held -= len(s.replies)
	return s, true, q.closed
}

// sendReplies is the task that sends them, until the queue is closed and empty, or the partition is gone.
func (w *worker) sendReplies() {
	for {
		s, ok, closed := w.replies.pop()
		if !ok {
			if closed {
				return
			}
			select {
			case <-w.replies.wake:
			case <-w.ctx.Done():
				return
			}
			continue
		}
		if !w.send(s.replies) {
			w.dropReplies(len(s.replies))
			return
		}
		w.mu.Lock()
		w.sent = s.to
		w.mu.Unlock()
	}
}

// send tries until it succeeds; once the partition is to go, only one more time. Other partitions go on meanwhile.
func (w *worker) send(replies []ingest.Reply) bool {
	if w.c.o.Reply == nil || len(replies) == 0 {
		return true
	}
	for failures := 0; ; failures++ {
		err := w.c.o.Reply(w.ctx, replies)
		if err == nil {
			w.c.count(func(n *ConsumerCounts) { n.Receipts += uint64(len(replies)) })
			return true
		}
		if w.ctx.Err() != nil || w.isStopping() {
			return false
		}
		wait := backoff(failures)
		w.c.o.Log.Warn("receipts cannot be sent", "partition", w.partition, "receipts", len(replies), "err", err, "retry_in", wait.Round(time.Millisecond))
		w.pause(wait)
	}
}

// dropReplies counts what is not sent: n, and all that waits.
func (w *worker) dropReplies(n int) {
	for {
		s, ok, _ := w.replies.pop()
		if !ok {
			break
		}
		n += len(s.replies)
	}
	w.c.count(func(c *ConsumerCounts) { c.ReceiptsDropped += uint64(n) })
}
