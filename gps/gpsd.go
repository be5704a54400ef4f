package gps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/waybill-telematics/waybill/internal/clock"
)

// DefaultGPSD is where gpsd listens unless told otherwise.
const DefaultGPSD = "127.0.0.1:2947"

// GPSDOptions is what a GPSD needs.
type GPSDOptions struct {
	Address  string        // host:port; "": DefaultGPSD
	Device   string        // only what gpsd reads from this device, as gpsd calls it; "": whatever it reads
	Silence  time.Duration // a gpsd that says nothing for so long is asked anew; 0: DefaultSilence
	RetryMin time.Duration // first wait before a lost gpsd is dialled again; 0: 250 ms
	RetryMax time.Duration // longest such wait, reached by doubling; 0: 5 s
	Parser   ParserOptions // LogHeaders means nothing here
	Clock    clock.Clock
	Log      *slog.Logger
	// OnState, if not nil, is called in Run's goroutine: with nil when the connection stands, and with the reason when it
	// was lost or cannot be made.
	OnState func(error)
}

// GPSD is a client of gpsd's JSON protocol (gpsd_json(5), protocol 3). It is run once, by one goroutine.
type GPSD struct {
	live
	reports *gpsdReports
}

// NewGPSD makes a client; nothing is dialled yet.
func NewGPSD(o GPSDOptions) (*GPSD, error) {
	if o.Address == "" {
		o.Address = DefaultGPSD
	}
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return nil, fmt.Errorf("gpsd: %w", err)
	}
	if o.Clock == nil || o.Log == nil {
		return nil, errors.New("gpsd: needs a clock and a logger")
	}
	if o.Silence <= 0 {
		o.Silence = DefaultSilence
	}
	reports, err := newGPSDReports(o.Parser, o.Device)
	if err != nil {
		return nil, err
	}
	return &GPSD{reports: reports, live: live{
		name: "gpsd at " + o.Address, quietLimit: o.Silence, retryMin: o.RetryMin, retryMax: o.RetryMax, parser: reports,
		clock: o.Clock, log: o.Log, onState: o.OnState,
		open: func(ctx context.Context) (io.ReadCloser, error) { return watch(ctx, o.Address, o.Device) },
	}}, nil
}

// Run reads until ctx ends, and then returns nil. emit is called for each epoch, in this goroutine.
func (g *GPSD) Run(ctx context.Context, emit func(Fix)) error { return g.run(ctx, emit) }

// Counters is what came; to be called after Run, or from emit. Sentences are gpsd's reports.
func (g *GPSD) Counters() Counters { return g.reports.count }

// AppendSky appends what is in view; to be called after Run, or from emit.
func (g *GPSD) AppendSky(dst []Satellite) []Satellite {
	return append(dst, g.reports.sky[:g.reports.inView]...)
}

// watch dials gpsd and asks for its reports.
func watch(ctx context.Context, address, device string) (io.ReadCloser, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	request := struct {
		Enable bool   `json:"enable"`
		JSON   bool   `json:"json"`
		Device string `json:"device,omitempty"`
	}{true, true, device}
	text, err := json.Marshal(request)
	if err == nil {
		err = conn.SetWriteDeadline(time.Now().Add(dialTimeout))
	}
	if err == nil {
		_, err = fmt.Fprintf(conn, "?WATCH=%s;\n", text)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("asking gpsd for its reports: %w", err), conn.Close())
	}
	return conn, nil
}
