package httpin

import (
	"context"
	"errors"
	"time"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

// Limits of one Apply, as ingest.Receiver has them.
const (
	groupMessages = 256
	groupBytes    = 4 << 20
)

// job is one request's messages, which are applied together.
type job struct {
	messages []ingest.Message
	bytes    int
	topics   map[string]struct{} // of the receipts of the devices in it
	done     chan outcome        // capacity 1
}

type outcome struct {
	replies []ingest.Reply
	err     error
}

// errStopped: the server ended before the job was begun.
var errStopped = errors.New("the server is stopping")

// grouper applies the jobs of concurrent requests together, one Apply after the other, so that they share a commit.
//
// Replies name a device and not a message. So that each request gets its own, a group holds a device only once: a second
// request of it waits for the next group.
type grouper struct {
	apply ingest.Applier
	wait  time.Duration
	count func(ingest.Counts)
	in    chan *job
	ended chan struct{} // closed when run has returned
}

func newGrouper(a ingest.Applier, wait time.Duration, count func(ingest.Counts)) *grouper {
	return &grouper{apply: a, wait: wait, count: count, in: make(chan *job), ended: make(chan struct{})}
}

// do has messages applied and returns their replies. When ctx ends first nothing is said of them: they may be applied.
func (g *grouper) do(ctx context.Context, j *job) ([]ingest.Reply, error) {
	select {
	case g.in <- j:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-g.ended:
		return nil, errStopped
	}
	select {
	case o := <-j.done:
		return o.replies, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run ends with ctx; what it has taken by then is applied.
func (g *grouper) run(ctx context.Context) {
	defer close(g.ended)
	var held []*job
	for {
		if len(held) == 0 {
			select {
			case j := <-g.in:
				held = append(held, j)
			case <-ctx.Done():
				return
			}
		}
		var group []*job
		group, held = g.gather(ctx, held)
		g.run1(ctx, group)
	}
}

// gather makes a group of those that were held and those that come within the wait.
func (g *grouper) gather(ctx context.Context, waiting []*job) (group, held []*job) {
	messages, bytes, devices := 0, 0, map[string]struct{}{}
	take := func(j *job) {
		fits := len(group) == 0 || messages+len(j.messages) <= groupMessages && bytes+j.bytes <= groupBytes
		for topic := range j.topics {
			if _, twice := devices[topic]; twice {
				fits = false
			}
		}
		if !fits {
			held = append(held, j)
			return
		}
		for topic := range j.topics {
			devices[topic] = struct{}{}
		}
		messages, bytes, group = messages+len(j.messages), bytes+j.bytes, append(group, j)
	}
	for _, j := range waiting {
		take(j)
	}
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	for messages < groupMessages && bytes < groupBytes {
		select {
		case j := <-g.in:
			take(j)
		case <-timer.C:
			return group, held
		case <-ctx.Done():
			return group, held
		}
	}
	return group, held
}

// run1 applies a group and tells each job its part. An Apply under way is not broken off: it is bounded.
func (g *grouper) run1(ctx context.Context, group []*job) {
	var messages []ingest.Message
	for _, j := range group {
		messages = append(messages, j.messages...)
	}
	replies, counts, err := g.apply.Apply(context.WithoutCancel(ctx), messages)
	if err == nil {
		g.count(counts)
	}
	for _, j := range group {
		o := outcome{err: err}
		for _, r := range replies {
			if _, mine := j.topics[r.Topic]; mine {
				o.replies = append(o.replies, r)
			}
		}
		j.done <- o
	}
}
