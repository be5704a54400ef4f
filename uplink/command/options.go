package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/internal/clock"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Options are what New needs to know.
type Options struct {
	Tenant, Device string
	Dir            string // of the ledger
	Epoch          uint64 // of the queue beside it
	BootID         [16]byte
	BootCount      uint32

	Keys     Keys          // whose commands are believed; none: all are refused
	Allow    []string      // names of the commands that may run; none: all are refused
	MaxLife  time.Duration // from issue to expiry, at most. Default 24 h
	Handlers []Handler     // what can be asked for at all

	// Time is the wall time, Unix ns, and its half-width doubt, ns; telemetrypb.Unbounded: nobody vouches for it.
	Time func() (unix int64, doubt uint64)
	// Emit puts a result into the queue; it must not block.
	Emit func(*telemetrypb.CommandResult)
	// Commit returns when everything emitted before is on disk.
	Commit func(context.Context) error
	// Write replaces a file so that a power cut leaves the old one or the new one, whole.
	Write func(path string, data []byte) error

	Clock   clock.Clock
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none
	// Alarm raises (text not empty) or clears the alarm that somebody sends what is not believed. nil: nobody is told.
	Alarm func(text string)
}

// Handler carries out one kind of command. Each of its methods is called on a goroutine of the command's own.
type Handler struct {
	Name string
	// Harmless: it changes nothing, so that it also runs while nobody vouches for the time and the expiry cannot be judged: a
	// vehicle that lost its clock is one that somebody wants to ask. The counter holds all the same.
	Harmless bool
	Timeout  time.Duration // then its ctx ends. Default 1 min
	// Check judges the arguments before the command is taken; nil: it takes none.
	Check func(arguments map[string]string) error
	// Run does it. The text, at most 4 KiB of it, goes with the result; so does the error's.
	Run func(ctx context.Context, c *Call) (text string, err error)
}

// Call is one command to a handler.
type Call struct {
	ID        string
	Arguments map[string]string
	progress  func(percent uint32, text string)
}

// Progress tells how far it is. At most one a second is told; it does not wait.
func (c *Call) Progress(percent uint32, text string) { c.progress(min(percent, 100), text) }

const (
	waiting       = 16                      // messages that may wait
	together      = 4                       // commands that may run at a time
	skew          = int64(10 * time.Second) // how far the sender's clock may be off, ns
	maxText       = 4 << 10
	endWait       = 3 * time.Second // for handlers, when Run is cancelled
	progressEvery = int64(time.Second)
)

// Rates: each taken command costs two small files and a commit, each refusal a record in a lane that is never evicted.
const (
	takeBurst, takeEvery     = 32, int64(2 * time.Second)
	refuseBurst, refuseEvery = 16, int64(30 * time.Second)
)

func (o Options) withDefaults() (Options, map[string]*Handler, error) {
	if err := errors.Join(telemetrypb.CheckName("tenant", o.Tenant), telemetrypb.CheckName("device", o.Device)); err != nil {
		return o, nil, err
	}
	if o.Time == nil || o.Emit == nil || o.Commit == nil || o.Write == nil || o.Clock == nil || o.Log == nil {
		return o, nil, errors.New("command: Options.Time, Emit, Commit, Write, Clock and Log are needed")
	}
	if o.MaxLife <= 0 {
		o.MaxLife = 24 * time.Hour
	}
	if o.Alarm == nil {
		o.Alarm = func(string) {}
	}
	handlers := map[string]*Handler{}
	for i := range o.Handlers {
		h := &o.Handlers[i]
		if h.Timeout <= 0 {
			h.Timeout = time.Minute
		}
		if handlers[h.Name] != nil {
			return o, nil, fmt.Errorf("command %q is registered twice", h.Name)
		}
		handlers[h.Name] = h
	}
	return o, handlers, nil
}
