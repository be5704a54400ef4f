package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Asker carries requests (Request.Encode) to the cloud. It returns when the message is on its way, and an error when there is no
// connection that it could take.
type Asker interface {
	Ask(ctx context.Context, request []byte) error
}

// chunks fetches by messages: the vehicle asks for a window of bytes, and for more when half of it has come. What was asked for stands
// in the way of whatever else the broker has for the vehicle, so the window is small at first, and grows while it comes fast.
type chunks struct {
	asker   Asker
	window  int64 // the most
	silence time.Duration
	queue   chan []byte                       // bounded; what does not fit is dropped, counted, and asked for again
	asking  atomic.Pointer[[sha256.Size]byte] // the file that chunks are taken for; nil: none
	dropped atomic.Int64
}

const (
	chunkBytes  = 16 << 10 // of a message; a block of files up to 1 GiB
	queueChunks = 64
	mostSilent  = 3 // requests in a row without an answer

	leastWindow = 2 * chunkBytes
	windowTime  = 2 * time.Second // half a window that takes less doubles the next, one that takes twice as long halves it
)

// ErrNotAsked is a chunk of a file that is not being fetched by messages now.
var ErrNotAsked = errors.New("nothing of this file was asked for")

// Chunk takes a message of the cloud (Chunk.Encode). It does not block, and may be called from any goroutine; the payload is not to be
// changed afterwards. An error says why nothing will come of it, and needs no answer: what is missing is asked for again.
func (d *Delivery) Chunk(payload []byte) error {
	c := d.chunks
	if c == nil {
		return ErrNotAsked
	}
	d.overhead.Add(requestBytes)
	chunk, err := DecodeChunk(payload)
	if err == nil && chunk.File != orNone(c.asking.Load()) {
		err = ErrNotAsked
	}
	if err == nil {
		select {
		case c.queue <- payload:
			return nil
		default:
			err = errors.New("more chunks than can be written")
		}
	}
	c.dropped.Add(1)
	d.overhead.Add(int64(len(payload))) // it was received all the same
	return err
}

func orNone(sum *[sha256.Size]byte) [sha256.Size]byte {
	if sum == nil {
		return [sha256.Size]byte{}
	}
	return *sum
}

func (c *chunks) String() string { return "MQTT" }

func (c *chunks) fetch(ctx context.Context, d *Delivery, p *part, _ string, _ bool) error {
	sum := p.id.sum
	c.asking.Store(&sum)
	defer func() {
		c.asking.Store(nil)
		for len(c.queue) > 0 {
			<-c.queue
		}
	}()
	var (
		cursor int64 // what is missing before it was asked for
		out    int64 // and this much of it has not come
		silent int
		window = min(leastWindow, c.window)
		since  time.Time // half a window had come, or the first was asked for
	)
	timer := time.NewTimer(c.silence)
	defer timer.Stop()
	for !p.complete() {
		if err := d.proceed(); err != nil {
			return err
		}
		if out <= window/2 && cursor < p.id.length {
			if out > 0 {
				window = nextWindow(window, c.window, time.Since(since))
			}
			if since = time.Now(); out > window/2 {
				continue
			}
			asked, next, err := c.ask(ctx, d, p, cursor, window-out)
			if err != nil {
				return err
			}
			cursor, out = next, out+asked
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case payload := <-c.queue:
			fresh, err := c.accept(d, p, payload, cursor)
			if err != nil {
				return err
			}
			if out -= fresh; fresh > 0 {
				silent = 0
				timer.Reset(c.silence)
			}
		case <-timer.C:
			if silent++; silent >= mostSilent {
				return fmt.Errorf("no chunk came in %s", seconds(mostSilent*c.silence))
			}
			cursor, out, window = 0, 0, min(leastWindow, c.window)
			timer.Reset(c.silence)
		}
	}
	return nil
}

// nextWindow gives the next window, by how long half of this one took.
func nextWindow(window, most int64, took time.Duration) int64 {
	switch {
	case took < windowTime:
		window *= 2
	case took > 2*windowTime:
		window = max(window/2, leastWindow)
	}
	return min(window, most)
}

// ask asks for what is missing from a place on, about most bytes of it.
func (c *chunks) ask(ctx context.Context, d *Delivery, p *part, from, most int64) (asked, next int64, err error) {
	if most, err = d.budget.allow(most); err != nil {
		return 0, 0, err
	}
	r := Request{File: p.id.sum, Chunk: chunkBytes}
	next = from
	for asked < most && len(r.Ranges) < mostRanges {
		off, n := p.missing(next, most-asked)
		if n == 0 {
			next = p.id.length
			break
		}
		r.Ranges = append(r.Ranges, Range{off, uint32(n)}) // most is below 4 GiB (Options)
		asked, next = asked+n, off+n
	}
	if len(r.Ranges) == 0 {
		return 0, next, nil
	}
	d.overhead.Add(requestBytes)
	if err := c.asker.Ask(ctx, r.Encode()); err != nil {
		return 0, 0, fmt.Errorf("asking for chunks: %w", err)
	}
	return asked, next, nil
}

// accept writes a chunk of which something was asked for.
func (c *chunks) accept(d *Delivery, p *part, payload []byte, cursor int64) (fresh int64, err error) {
	chunk, err := DecodeChunk(payload)
	if err != nil || chunk.File != p.id.sum || chunk.Offset >= cursor || int64(len(chunk.Bytes)) > p.id.length-chunk.Offset {
		c.dropped.Add(1)
		d.overhead.Add(int64(len(payload)))
		return 0, nil
	}
	had := p.bytes
	err = d.take(p, chunk.Bytes, chunk.Offset, len(payload))
	return p.bytes - had, err
}
