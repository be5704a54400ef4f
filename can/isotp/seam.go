package isotp

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/waybill-telematics/waybill/can"
)

// Sender puts frames on a bus; can.Writer is one. Send returns when the frame is handed over, or ctx ends.
type Sender interface {
	Send(ctx context.Context, f *can.Frame) error
}

// Link is a bus as a Conn needs it. A Tap with a Sender beside it is one.
type Link interface {
	Sender
	// Frames gives what was received. It is closed when nothing more will come; Err says why.
	Frames() <-chan can.Frame
	Err() error
}

// DefaultTapDepth is how many frames wait in a Tap. A message of 4095 bytes at its fastest is 586 frames in some 130 ms.
const DefaultTapDepth = 256

// Tap branches frames off for one Conn. Whoever reads the bus offers it each frame; it never blocks him. Its methods are
// safe from several goroutines. The closing rule: Close is called by the one who offers, after his last Offer.
type Tap struct {
	Sender
	accept func(*can.Frame) bool
	frames chan can.Frame
	drops  atomic.Uint64

	mu     sync.Mutex // guards what follows
	closed bool
	err    error
}

// NewTap makes a Tap that keeps up to depth frames (0 takes DefaultTapDepth) of those that accept takes (nil: all).
func NewTap(s Sender, depth int, accept func(*can.Frame) bool) *Tap {
	if depth <= 0 {
		depth = DefaultTapDepth
	}
	return &Tap{Sender: s, accept: accept, frames: make(chan can.Frame, depth)}
}

// Offer hands a frame to the Tap. It is false when there was no room for it; Drops counts that.
func (t *Tap) Offer(f *can.Frame) bool {
	if t.accept != nil && !t.accept(f) {
		return true
	}
	select {
	case t.frames <- *f:
		return true
	default:
		t.drops.Add(1)
		return false
	}
}

// Drops counts the frames for which there was no room.
func (t *Tap) Drops() uint64 { return t.drops.Load() }

// Close says that nothing more will come, and why.
func (t *Tap) Close(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed, t.err = true, err
		close(t.frames)
	}
}

// Frames implements Link.
func (t *Tap) Frames() <-chan can.Frame { return t.frames }

// Err implements Link.
func (t *Tap) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Pump is the task that offers all frames of a reader to taps, and closes them at its end. It ends when the reader does,
// with nil when ctx has ended: then it closes the reader itself.
func Pump(ctx context.Context, r can.FrameReader, taps ...*Tap) (err error) {
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer func() {
		stop()
		for _, t := range taps {
			t.Close(err)
		}
	}()
	frames := make([]can.Frame, 64)
	for {
		n, _, err := r.Read(frames)
		for i := range n {
			for _, t := range taps {
				t.Offer(&frames[i])
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("reading for ISO-TP: %w", err)
		}
	}
}
