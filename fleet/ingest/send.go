package ingest

import (
	"context"
	"errors"
	"fmt"
)

// outgoing are receipts for vehicles on this broker, of what did not come over it.
type outgoing struct {
	replies []Reply
	done    chan error // capacity 1
}

// Send publishes receipts to vehicles on this broker: those of what its webhook, or Kafka, brought another way. It waits
// until they are on their way, or the session has ended: there may be another one at another receiver, or none here ever
// again. Like all receipts, one that is lost costs a resent batch. It is safe for use from several goroutines, while Run runs
// and after it.
func (r *Receiver) Send(ctx context.Context, replies []Reply) error {
	if len(replies) == 0 {
		return nil
	}
	if !r.Connected() {
		return errNotConnected
	}
	r.mu.Lock()
	over := r.over
	r.mu.Unlock()
	o := outgoing{replies: replies, done: make(chan error, 1)}
	select {
	case r.outgoing <- o:
	case <-over:
		return errNotConnected
	case <-ctx.Done():
		return fmt.Errorf("the broker's session has no time: %w", ctx.Err())
	}
	return <-o.done // sending is bounded
}

// errNotConnected: there is no session that could send.
var errNotConnected = errors.New("not connected to the broker")
