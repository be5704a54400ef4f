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

const (
	// hangUp: the driver answers a read on a line that is gone at once and as if the time were out. An end of file
	// sooner than this is a hang-up.
	hangUp = readTimeout / 2
	// DefaultBaud is what NMEA 0183 receivers speak unless told otherwise.
	DefaultBaud = 9600
	// AutoBaud: the usual rates are tried until sound sentences come.
	AutoBaud = -1
)

// usualRates are tried in this order, bit/s: what cheap receivers, modems, NMEA 0183-HS instruments and better receivers
// speak.
var usualRates = [...]int{9600, 115200, 38400, 4800, 57600, 19200, 230400, 460800}

// When a rate is right and when it is wrong. Receivers speak once a second at least; a wrong rate shows at the first
// burst, so that a round of all rates takes less than ten seconds.
const (
	soundEnough   = 2   // sentences: it is right
	noiseAtFirst  = 128 // bytes without a sentence: it is wrong
	noiseLater    = 2048
	listenAtLeast = 250 * time.Millisecond
	listenAtMost  = 1300 * time.Millisecond // to silence
)

// SerialOptions is what a Serial needs.
type SerialOptions struct {
	Device   string        // path of a serial device or pseudo-terminal; /dev/serial/by-id/… survives a replug
	Baud     int           // bit/s; 0: DefaultBaud; AutoBaud: found out, and again after each replug
	RetryMin time.Duration // first wait before a lost device is opened again; 0: 250 ms
	RetryMax time.Duration // longest such wait, reached by doubling; 0: 5 s
	Parser   ParserOptions
	Clock    clock.Clock
	Log      *slog.Logger
	// OnState, if not nil, is called in Run's goroutine: with nil when the device was opened (with AutoBaud: when its rate
	// was found), and with the reason when it was lost or cannot be opened, or no rate is right.
	OnState func(error)
}

// Serial reads a receiver on a serial line for as long as it is told to, through hang-ups and replugs. The terminal is
// set up anew each time the device is opened. It is run once, by one goroutine.
type Serial struct {
	live
	nmea  *Parser
	opts  SerialOptions
	rate  int // index into usualRates
	tried int // rates since one was right
	found bool
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
	parser, err := NewParser(o.Parser)
	if err != nil {
		return nil, err
	}
	s := &Serial{opts: o, nmea: parser}
	s.live = live{
		name: o.Device, open: s.openPort, retryMin: o.RetryMin, retryMax: o.RetryMax, parser: parser,
		clock: o.Clock, log: o.Log, onState: o.OnState,
	}
	if o.Baud == AutoBaud {
		s.tune = s.tuneRate
	}
	return s, nil
}

// Run reads until ctx ends, and then returns nil. emit is called for each epoch, in this goroutine.
func (s *Serial) Run(ctx context.Context, emit func(Fix)) error { return s.run(ctx, emit) }

// Counters is what the parser has seen; to be called after Run, or from emit.
func (s *Serial) Counters() Counters { return s.nmea.Counters() }

// AppendSky appends what is in view; to be called after Run, or from emit.
func (s *Serial) AppendSky(dst []Satellite) []Satellite { return s.nmea.AppendSky(dst) }

func (s *Serial) baud() int {
	if s.opts.Baud == AutoBaud {
		return usualRates[s.rate]
	}
	return s.opts.Baud
}

func (s *Serial) openPort(context.Context) (io.ReadCloser, error) {
	s.found = false
	port, err := serial.OpenPort(&serial.Config{Name: s.opts.Device, Baud: s.baud(), ReadTimeout: readTimeout})
	if err != nil {
		return nil, fmt.Errorf("opening %s at %d bit/s: %w", s.opts.Device, s.baud(), err)
	}
	if s.opts.Baud != AutoBaud {
		s.log.Info("receiver opened", "device", s.opts.Device, "baud", s.baud())
	}
	return &serialPort{port}, nil
}

// tuneRate decides about a rate by what was heard at it. After a replug the last right one is tried first.
func (s *Serial) tuneRate(h heard) tuning {
	if !s.found && h.sound >= soundEnough {
		s.found, s.tried = true, 0
		s.log.Info("receiver found", "device", s.opts.Device, "baud", s.baud())
	}
	switch {
	case s.found && h.bytesSince < noiseLater:
		return tuneKeep
	case !s.found && (h.open < listenAtLeast || h.bytesSince < noiseAtFirst && h.openSince < listenAtMost):
		return tuneListen
	}
	s.rate = (s.rate + 1) % len(usualRates)
	if s.tried++; s.tried%len(usualRates) == 0 {
		err := fmt.Errorf("reading %s: no NMEA at any of the usual rates", s.opts.Device)
		s.state(err)
		s.log.Warn("receiver not found", "device", s.opts.Device, "error", err)
	}
	return tuneNext
}

// errHangUp is why a line was left that ended without an error of its own.
var errHangUp = errors.New("the line hung up")

// serialPort tells silence from a hang-up.
type serialPort struct{ io.ReadCloser }

func (p *serialPort) Read(b []byte) (int, error) {
	started := time.Now()
	n, err := p.ReadCloser.Read(b)
	switch {
	case n > 0 && (err == nil || errors.Is(err, io.EOF)):
		return n, nil
	case err != nil && !errors.Is(err, io.EOF):
		return n, err
	case time.Since(started) < hangUp:
		return 0, errHangUp
	}
	return 0, errQuiet
}
