package gps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/tarm/serial"

	"github.com/waybill-telematics/waybill/internal/clock"
)

// Timing of a serial line.
const (
	// readTimeout bounds each read, so that the reader notices its context's end and silence on the line. The terminal
	// counts it in tenths of a second.
	readTimeout = 200 * time.Millisecond
	// hangUp: the driver answers a read on a line that is gone at once and as if the time were out. An end of file
	// sooner than this is a hang-up.
	hangUp = readTimeout / 2
	// silence is how long a line is quiet before an epoch is emitted that may still lack sentences.
	silence = 2 * time.Second
	// DefaultBaud is what NMEA 0183 receivers speak unless told otherwise.
	DefaultBaud = 9600
	// readBytes is what one read takes at most.
	readBytes = 1024
)

// SerialOptions is what a Serial needs.
type SerialOptions struct {
	Device   string        // path of a serial device or pseudo-terminal; /dev/serial/by-id/… survives a replug
	Baud     int           // bit/s; 0: DefaultBaud
	RetryMin time.Duration // first wait before a lost device is opened again; 0: 250 ms
	RetryMax time.Duration // longest such wait, reached by doubling; 0: 5 s
	Parser   ParserOptions
	Clock    clock.Clock
	Log      *slog.Logger
	// OnState, if not nil, is called when the device was opened (nil) and when it was lost or cannot be opened, with
	// the reason.
	OnState func(error)
}

// Serial reads a receiver on a serial line for as long as it is told to, through hang-ups and replugs. The terminal is
// set up anew each time the device is opened. It is run once, by one goroutine.
type Serial struct {
	opts   SerialOptions
	parser *Parser
}

// NewSerial makes a reader; nothing is opened yet.
func NewSerial(o SerialOptions) (*Serial, error) {
	switch {
	case o.Device == "":
		return nil, errors.New("serial receiver: no device named")
	case o.Clock == nil || o.Log == nil:
		return nil, errors.New("serial receiver: needs a clock and a logger")
	}
	if o.Baud == 0 {
		o.Baud = DefaultBaud
	}
	if o.RetryMin <= 0 {
		o.RetryMin = 250 * time.Millisecond
	}
	if o.RetryMax <= 0 {
		o.RetryMax = 5 * time.Second
	}
	parser, err := NewParser(o.Parser)
	if err != nil {
		return nil, err
	}
	return &Serial{opts: o, parser: parser}, nil
}

// errHangUp is why a line was left that ended without an error of its own.
var errHangUp = errors.New("the line hung up")

// Run reads until ctx ends, and then returns nil. emit is called for each epoch, in this goroutine.
func (s *Serial) Run(ctx context.Context, emit func(Fix)) error {
	wait := s.opts.RetryMin
	for ctx.Err() == nil {
		heard, err := s.line(ctx, emit)
		if ctx.Err() != nil {
			break
		}
		if heard {
			wait = s.opts.RetryMin
		}
		s.state(err)
		s.opts.Log.Warn("receiver lost", "device", s.opts.Device, "error", err, "retry_in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
		wait = min(2*wait, s.opts.RetryMax)
	}
	s.parser.End(emit)
	return nil
}

func (s *Serial) state(err error) {
	if s.opts.OnState != nil {
		s.opts.OnState(err)
	}
}

// line opens the device and reads it until it is lost or ctx ends; heard: something came. The port is closed by the
// goroutine that reads it, since closing it under a blocked read would hang.
func (s *Serial) line(ctx context.Context, emit func(Fix)) (heard bool, err error) {
	port, err := serial.OpenPort(&serial.Config{Name: s.opts.Device, Baud: s.opts.Baud, ReadTimeout: readTimeout})
	if err != nil {
		return false, fmt.Errorf("opening %s at %d bit/s: %w", s.opts.Device, s.opts.Baud, err)
	}
	defer func() {
		s.parser.Reset(emit)
		err = errors.Join(err, port.Close())
	}()
	s.opts.Log.Info("receiver opened", "device", s.opts.Device, "baud", s.opts.Baud)
	s.state(nil)
	return s.read(ctx, port, emit)
}

func (s *Serial) read(ctx context.Context, port io.Reader, emit func(Fix)) (heard bool, err error) {
	buf := make([]byte, readBytes)
	last := time.Now()
	for ctx.Err() == nil {
		started := time.Now()
		n, err := port.Read(buf)
		now := time.Now()
		if n > 0 {
			heard, last = true, now
			s.parser.Feed(buf[:n], s.opts.Clock.Boot(), emit)
		}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return heard, fmt.Errorf("reading %s: %w", s.opts.Device, err)
		case n > 0:
		case now.Sub(started) < hangUp:
			return heard, fmt.Errorf("reading %s: %w", s.opts.Device, errHangUp)
		case now.Sub(last) >= silence:
			s.parser.Flush(emit)
		default:
			s.parser.Idle(emit)
		}
	}
	return heard, nil
}

// Counters is what the parser has seen; to be called after Run, or from emit.
func (s *Serial) Counters() Counters { return s.parser.Counters() }
