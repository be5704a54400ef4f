package gps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/waybill-telematics/waybill/internal/clock"
)

// Timing of a connection to a receiver.
const (
	dialTimeout = 10 * time.Second
	// DefaultSilence: a receiver that says nothing for so long is gone, or the way to it is.
	DefaultSilence = 30 * time.Second
)

// TCPOptions is what a TCP needs.
type TCPOptions struct {
	Address  string // host:port of a server that sends NMEA, such as a router with a receiver
	Silence  time.Duration
	RetryMin time.Duration // first wait before a lost server is dialled again; 0: 250 ms
	RetryMax time.Duration // longest such wait, reached by doubling; 0: 5 s
	Parser   ParserOptions
	Clock    clock.Clock
	Log      *slog.Logger
	// OnState, if not nil, is called in Run's goroutine: with nil when the connection stands, and with the reason when it
	// was lost or cannot be made.
	OnState func(error)
}

// TCP reads NMEA from a server for as long as it is told to, and dials again when the connection is lost or has been
// silent for long, as one is whose other end lost its power. Nothing is sent. It is run once, by one goroutine.
type TCP struct {
	live
	nmea *Parser
}

// NewTCP makes a reader; nothing is dialled yet.
func NewTCP(o TCPOptions) (*TCP, error) {
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return nil, fmt.Errorf("receiver by TCP: %w", err)
	}
	if o.Clock == nil || o.Log == nil {
		return nil, errors.New("receiver by TCP: needs a clock and a logger")
	}
	if o.Silence <= 0 {
		o.Silence = DefaultSilence
	}
	parser, err := NewParser(o.Parser)
	if err != nil {
		return nil, err
	}
	return &TCP{nmea: parser, live: live{
		name: o.Address, open: func(ctx context.Context) (io.ReadCloser, error) { return dial(ctx, o.Address) },
		quietLimit: o.Silence, retryMin: o.RetryMin, retryMax: o.RetryMax, parser: parser, clock: o.Clock, log: o.Log,
		onState: o.OnState,
	}}, nil
}

// Run reads until ctx ends, and then returns nil. emit is called for each epoch, in this goroutine.
func (t *TCP) Run(ctx context.Context, emit func(Fix)) error { return t.run(ctx, emit) }

// Counters is what the parser has seen; to be called after Run, or from emit.
func (t *TCP) Counters() Counters { return t.nmea.Counters() }

// AppendSky appends what is in view; to be called after Run, or from emit.
func (t *TCP) AppendSky(dst []Satellite) []Satellite { return t.nmea.AppendSky(dst) }

func dial(ctx context.Context, address string) (*quietConn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err // it says dial, and whom
	}
	return &quietConn{Conn: conn, timeout: readTimeout}, nil
}

// quietConn is a connection whose reads end with errQuiet when nothing comes.
type quietConn struct {
	net.Conn
	timeout time.Duration
}

func (c *quietConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return n, errQuiet
	}
	return n, err
}
