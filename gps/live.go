package gps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/waybill-telematics/waybill/internal/clock"
)

// Timing of a line.
const (
	// readTimeout bounds each read, so that the reader notices its context's end and silence on the line. A terminal
	// counts it in tenths of a second.
	readTimeout = 200 * time.Millisecond
	// silence is how long a line is quiet before an epoch is emitted that may still lack sentences.
	silence = 2 * time.Second
	// readBytes is what one read takes at most.
	readBytes = 1024
)

// Defaults of the waits between two attempts to open a line.
const (
	defaultRetryMin = 250 * time.Millisecond
	defaultRetryMax = 5 * time.Second
)

// live reads a line for as long as it is told to, through hang-ups. Reads of what open returns end within readTimeout,
// with errQuiet if nothing came. It is closed by the goroutine that reads it, since closing a terminal under a blocked
// read would hang.
//
//	open ──▶ reading ──▶ lost: state, wait (doubling), open
//	           └ retune: open at once, nothing is told
type live struct {
	name               string
	open               func(ctx context.Context) (io.ReadCloser, error)
	tune               func(heard) tuning // nil: the line is right as soon as it is open
	quietLimit         time.Duration      // a line this long without a byte is lost; 0: never
	retryMin, retryMax time.Duration
	parser             listener
	clock              clock.Clock
	log                *slog.Logger
	onState            func(error)
}

// listener is what understands a line: a Parser, or that of gpsd's reports.
type listener interface {
	Feed(data []byte, boot int64, emit func(Fix))
	Idle(emit func(Fix))
	Flush(emit func(Fix))
	Reset(emit func(Fix))
	End(emit func(Fix))
	sound() uint64
}

// heard is what came over a line since it was opened, and since its last sound sentence.
type heard struct {
	bytes, bytesSince uint64
	sound             uint64 // sentences with a right checksum
	open, openSince   time.Duration
}

// tuning is what to do with a line.
type tuning uint8

const (
	tuneListen tuning = iota // not sure yet
	tuneKeep                 // right
	tuneNext                 // wrong: open it anew
)

// errRetune: the line is to be opened anew at once.
var errRetune = errors.New("nothing but noise")

// run reads until ctx ends, and then returns nil. emit is called for each epoch, in this goroutine.
func (l *live) run(ctx context.Context, emit func(Fix)) error {
	if l.retryMin <= 0 {
		l.retryMin = defaultRetryMin
	}
	if l.retryMax <= 0 {
		l.retryMax = defaultRetryMax
	}
	wait := l.retryMin
	for ctx.Err() == nil {
		came, err := l.session(ctx, emit)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errRetune) {
			continue
		}
		if came {
			wait = l.retryMin
		}
		l.state(err)
		l.log.Warn("receiver lost", "receiver", l.name, "error", err, "retry_in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
		wait = min(2*wait, l.retryMax)
	}
	l.parser.End(emit)
	return nil
}

func (l *live) state(err error) {
	if l.onState != nil {
		l.onState(err)
	}
}

// session opens the line and reads it until it is lost or ctx ends; came: something did.
func (l *live) session(ctx context.Context, emit func(Fix)) (came bool, err error) {
	port, err := l.open(ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		l.parser.Reset(emit)
		err = errors.Join(err, port.Close())
	}()
	kept := l.tune == nil
	if kept {
		l.state(nil)
	}
	buf := make([]byte, readBytes)
	opened := time.Now()
	last, lastSound := opened, opened // a byte, a sentence
	var h heard
	before := l.parser.sound()
	for ctx.Err() == nil {
		n, err := port.Read(buf)
		now := time.Now()
		if n > 0 {
			came, last = true, now
			h.bytes += uint64(n)
			h.bytesSince += uint64(n)
			l.parser.Feed(buf[:n], l.clock.Boot(), emit)
			if s := l.parser.sound() - before; s > h.sound {
				h.sound, h.bytesSince, lastSound = s, 0, now
			}
		}
		switch {
		case err != nil && !errors.Is(err, errQuiet):
			return came, fmt.Errorf("reading %s: %w", l.name, err)
		case n > 0:
		case l.quietLimit > 0 && now.Sub(last) >= l.quietLimit:
			return came, fmt.Errorf("reading %s: nothing came for %v", l.name, l.quietLimit)
		case now.Sub(last) >= silence:
			l.parser.Flush(emit)
		default:
			l.parser.Idle(emit)
		}
		if l.tune == nil {
			continue
		}
		h.open, h.openSince = now.Sub(opened), now.Sub(lastSound)
		switch l.tune(h) {
		case tuneKeep:
			if !kept {
				kept = true
				l.state(nil)
			}
		case tuneNext:
			return came, errRetune
		}
	}
	return came, nil
}
