package sim

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
)

// machine is a computer of a world whose time passes by itself, in synctest's time. It is a clock.Clock, safe for use
// from several goroutines; what changes the world is called by one.
type machine struct {
	*world
	plant plant

	mu   sync.Mutex // guards the world against its readers
	last time.Time  // how far it has been told
	born int64      // by the planted wall clock: CLOCK_REALTIME − CLOCK_BOOTTIME at the process's start
}

// now brings the world up to date.
func (m *machine) now() *world {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := time.Now()
	m.pass(t.Sub(m.last))
	m.last = t
	return m.world
}

func (m *machine) Boot() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bootAt(time.Since(m.last))
}

func (m *machine) Wall() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Unix(0, m.bootAt(time.Since(m.last))+m.system)
}

// stamp is what a reader takes for CLOCK_BOOTTIME.
func (m *machine) stamp() int64 {
	switch m.plant {
	case wallClock: // it reckons from the wall clock since the process began
		return m.Wall().UnixNano() - m.born
	case awakeClock: // Go's own clock stands still in a suspend
		return m.now().awake.Load()
	}
	return m.Boot()
}

// agent is one process of the agent on a machine: pipeline, queue, uplink and timekeeper, put together as cmd/agent
// does it.
type agent struct {
	handle *handle
	pipe   *pipeline.Pipeline
	can    *pipeline.Source
	uplink *uplink.Uplink
	times  *clock.Timekeeper

	stopPipe, stopUplink context.CancelFunc
	piped                chan error
	uplinked             chan error
}

const textSerial = 8 // digits before a text's filler

func startAgent(t testing.TB, w *week) *agent {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.machine.now()
	w.machine.born = w.machine.Wall().UnixNano() - w.machine.Boot()
	id := bootID(w.boots)
	a := &agent{handle: w.disk.open(t, w.plant, w.names), piped: make(chan error, 1), uplinked: make(chan error, 1)}
	queue := pipelineQueue{a.handle}
	var err error
	a.pipe, err = pipeline.New(pipeline.Options{
		Tenant: "acme", Device: "car-1", BootID: id, BootCount: uint32(w.boots), SealEvery: w.sealEvery,
		MemoryBytes: 64 << 10, Clock: w.machine,
	}, w.selection, queue)
	check(err)
	check(a.pipe.Recover(recoveredJournal(a.handle)))
	a.can = a.pipe.Source("can:can0", 64)
	a.times, err = clock.OpenTimekeeper(clock.TimekeeperOptions{
		Dir: w.dir, BootID: id, BootCount: uint32(w.boots), Built: built, Write: writeFile, Log: slog.New(slog.DiscardHandler),
		Emit: func(r *telemetrypb.ClockRecord) {
			a.pipe.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Clock{Clock: r}})
		},
	})
	check(err)
	ack := uplink.AckReceipt
	if w.plant == ackOnToken {
		ack = uplink.AckPuback
	}
	o := uplink.Options{
		URL: "tcp://broker.example:1883", Insecure: true, Tenant: "acme", Device: "car-1", Dial: w.broker.dial, Ack: ack,
		Clocks: a.times.Clock, OnRejected: a.pipe.Ledger().AddLoss,
		OnWantCatalogue: func(short [16]byte) {
			if short == w.selection.ShortHash() {
				for _, part := range telemetrypb.SplitCatalogue(w.selection.Bytes()) {
					a.pipe.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: part}})
				}
			}
		},
		InFlight: w.inFlight, PayloadBytes: w.payloadBytes, StatusEvery: statusEvery, StopTimeout: 200 * time.Millisecond,
		BackoffCap: time.Minute, Rand: momentary(w.seed, 5),
		Alarms: alarm.NewBoard(w.machine.Boot, slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler),
	}
	if w.recalls {
		o.Recall, o.OnNotKept = a.handle.Recall, a.pipe.Ledger().AddLoss
		o.Status = func() *telemetrypb.Status {
			st := &telemetrypb.Status{}
			for l, s := range a.handle.Stats().Lanes {
				st.Queue = append(st.Queue, &telemetrypb.LaneDepth{Lane: telemetrypb.Lane(l), NextSeq: s.Next})
			}
			slices.SortFunc(st.Queue, func(a, b *telemetrypb.LaneDepth) int { return int(a.Lane) - int(b.Lane) })
			return st
		}
	}
	a.uplink, err = uplink.New(o, a.handle)
	check(err)
	var pipeContext, uplinkContext context.Context
	pipeContext, a.stopPipe = context.WithCancel(context.Background())
	uplinkContext, a.stopUplink = context.WithCancel(context.Background())
	go func() { a.piped <- a.pipe.Run(pipeContext) }()
	synctest.Wait()
	go func() { a.uplinked <- a.uplink.Run(uplinkContext) }()
	synctest.Wait()
	a.times.Start()
	a.times.System(w.machine.reading())
	synctest.Wait()
	return a
}

// stop ends the agent in order. clean is false when the disk did not take the last of it.
func (a *agent) stop(t testing.TB, boot int64) (clean bool) {
	t.Helper()
	a.times.Save(boot, true)
	a.stopPipe()
	clean = <-a.piped == nil
	a.stopUplink()
	if err := <-a.uplinked; err != nil {
		t.Fatal(err)
	}
	if err := a.handle.Close(); err != nil {
		t.Fatal(err)
	}
	return clean
}

// kill ends it at once: what it would still do has no effect.
func (a *agent) kill(t testing.TB) {
	t.Helper()
	a.handle.kill(t)
	a.stopPipe()
	a.stopUplink()
	<-a.piped
	<-a.uplinked
}
