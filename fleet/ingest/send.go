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

// Send publishes receipts to vehicles on this broker: those of what its webhook brought another way. It waits for a
// session and until they are on their way; like all receipts, one that is lost costs a resent batch. It is safe for use
// from several goroutines, while Run runs.
func (r *Receiver) Send(ctx context.Context, replies []Reply) error {
	if len(replies) == 0 {
		return nil
	}
	if !r.Connected() {
		return errors.New("not connected to the broker")
	}
	o := outgoing{replies: replies, done: make(chan error, 1)}
	select {
	case r.outgoing <- o:
	case <-ctx.Done():
		return fmt.Errorf("the broker's session has no time: %w", ctx.Err())
	}
	return <-o.done // sending is bounded
}
