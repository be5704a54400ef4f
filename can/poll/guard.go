package poll

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/internal/clock"
)

// ErrRefused is a frame that a Governor does not let pass.
var ErrRefused = errors.New("the governor refuses the frame")

// Guard is a Sender that asks a Governor about every frame. A frame that only has to wait for its turn waits. It is safe
// for use from several goroutines.
type Guard struct {
	sender isotp.Sender
	clock  clock.Clock

	mu       sync.Mutex // guards the governor
	governor *Governor
}

var _ isotp.Sender = (*Guard)(nil)

// NewGuard puts a governor before a sender. A nil clock is the system's.
func NewGuard(g *Governor, s isotp.Sender, c clock.Clock) *Guard {
	if c == nil {
		c = clock.System{}
	}
	return &Guard{sender: s, clock: c, governor: g}
}

// Do runs f on the governor, as to tell it of the ignition, at the clock's time.
func (g *Guard) Do(f func(now int64, governor *Governor)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g.clock.Boot(), g.governor)
}

// Send implements isotp.Sender.
func (g *Guard) Send(ctx context.Context, f *can.Frame) error {
	for {
		var v Verdict
		var wait time.Duration
		g.Do(func(now int64, governor *Governor) {
			v = governor.Decide(now, f)
			wait = governor.Wait(f)
		})
		switch v {
		case Send:
			return g.sender.Send(ctx, f)
		case Rate, Load:
		default:
			return fmt.Errorf("%X: %w: %v", f.ID, ErrRefused, v)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%X: %w: %v: %w", f.ID, ErrRefused, v, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// Wait is how long it takes until there are tokens for a frame, at the time of the latest decision; no less than 1 ms
// when there are none.
func (g *Governor) Wait(f *can.Frame) time.Duration { return g.wait(f, 1) }

func (g *Governor) wait(f *can.Frame, frames int) time.Duration {
	seconds := max(g.frames.lacks(float64(frames)), g.bits.lacks(float64(frames)*frameBits(f)))
	if seconds <= 0 {
		return 0
	}
	return max(time.Duration(seconds*1e9), time.Millisecond)
}
