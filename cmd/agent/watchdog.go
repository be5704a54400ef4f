package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/waybill-telematics/waybill/can"
)

// pulse shows from outside whether a reader is at work or waits for its source: an odd count is at work, and one that
// stands still while it is odd is a reader that does not come back. The zero value rests. One goroutine moves it, any may look.
type pulse struct {
	name  string
	count atomic.Uint64
}

func (p *pulse) work() { p.count.Store(p.count.Load() | 1) }
func (p *pulse) rest() { p.count.Store((p.count.Load() + 1) &^ 1) }

// pulse makes one for a reader, before the tasks run.
func (a *agent) pulse(name string) *pulse {
	p := &pulse{name: name}
	a.pulses = append(a.pulses, p)
	return p
}

// pulsed is at work from the end of a Read to the beginning of the next.
type pulsed struct {
	can.FrameReader
	pulse *pulse
}

func (p pulsed) Read(dst []can.Frame) (n int, drops uint64, err error) {
	p.pulse.rest()
	defer p.pulse.work()
	return p.FrameReader.Read(dst)
}

// watchdog tells systemd that the agent is alive as long as it gets on: the pipeline takes what readers offered and the
// queue answers a commit, and no reader has worked at the same frames since the last look. A parked car, a silent bus, no
// network and a disk that says no are no reason to start anew; a task that hangs is.
type watchdog struct {
	every  time.Duration // of its looks; an answer that takes longer is none
	commit func(context.Context) error
	pulses []*pulse
	seen   []uint64 // of pulses, at the last look
}

// look returns what hangs, or "".
func (w *watchdog) look(ctx context.Context) string {
	bound, cancel := context.WithTimeout(ctx, w.every)
	defer cancel()
	if err := w.commit(bound); errors.Is(err, context.DeadlineExceeded) && bound.Err() != nil {
		return "pipeline or queue"
	}
	if w.seen == nil {
		w.seen = make([]uint64, len(w.pulses))
	}
	hangs := ""
	for i, p := range w.pulses {
		now := p.count.Load()
		if now%2 == 1 && now == w.seen[i] {
			hangs = "reader " + p.name
		}
		w.seen[i] = now
	}
	return hangs
}

// feedWatchdog is the task that does it, three times in the time that systemd gives (WatchdogSec); without one it ends at once.
func (a *agent) feedWatchdog(ctx context.Context) error {
	given, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		a.log.Warn("systemd's watchdog", "error", err)
	}
	if given <= 0 {
		return nil
	}
	w := &watchdog{every: given / 3, pulses: a.pulses, commit: func(ctx context.Context) error { return a.pipe.Commit(ctx, false) }}
	ticker := time.NewTicker(w.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if hangs := w.look(ctx); hangs != "" {
			a.log.Error("no progress: systemd is not told that the agent is alive, and will start it anew", "hangs", hangs, "within", given)
			continue
		}
		a.notify(daemon.SdNotifyWatchdog)
	}
}
