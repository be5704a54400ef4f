package pipeline

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/internal/clock"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Sizes of queues and batches.
const (
	chunkSamples = 256     // room in a new chunk
	chunksATurn  = 16      // taken from one source before the next one's turn
	maxRaised    = 1024    // samples of Raise that wait
	maxRecords   = 1024    // records of Emit that wait
	maxText      = 8 << 10 // bytes of one text sample; a batch must stay sendable
	maxSamples   = 32 << 10

	// firstSampleBytes is what a sample takes until the first sealed batch tells.
	firstSampleBytes = 4
	// keptBuffers of sealed batches are used again, enough for the commits of a busy second.
	keptBuffers = 64
)

// Options of a Pipeline. The zero value of a field means its default.
type Options struct {
	Tenant, Device string                  // as in every envelope; needed
	Epoch          uint64                  // default: the queue's
	BootID         [16]byte                // the kernel's id of this boot; needed
	BootCount      uint32                  // persistent counter of boots
	Info           *telemetrypb.DeviceInfo // committed at the start, if given

	CommitEvery time.Duration // what a power cut costs at most; default 1 s
	SealEvery   time.Duration // age at which a batch is sealed, by the clock and by its samples' times; default 5 s
	LossEvery   time.Duration // losses are told at most this often; default 5 s
	EventEvery  time.Duration // least time between two commits made for events alone; default 100 ms

	// BatchBytes bounds a sealed batch, unless it is one sample with its parts, or what one journal entry held of raw
	// frames; default 16 KiB.
	BatchBytes  int
	CommitBytes int // that many sealed bytes are committed without waiting; default 64 KiB, at most MemoryBytes / 4
	// MemoryBytes bounds the sealed batches that are not committed; default 4 MiB. From 3/4 of it on, for events from 7/8 on, the
	// oldest make room for the newest: raw frames, then telemetry, then events, each loss counted. What cannot be let go
	// of stays, and then samples are refused and counted.
	MemoryBytes int

	// ErrFull is the queue's error for "no room"; losses by it are QUEUE_FULL, all others DISK_ERROR.
	ErrFull error
	// OnCommitError and OnCommitOK tell of each commit that failed and of the first one after that (and the first of
	// all) that did not. They are called on Run's goroutine and must not block; they may call Raise and Emit.
	OnCommitError func(error)
	OnCommitOK    func()

	// OnEvent is called for each event that a rule raises, with the event's signal id and the time of the sample that
	// raised it (CLOCK_BOOTTIME, ns), on Run's goroutine; it must not block.
	OnEvent func(event uint32, boot int64)

	// OnSamples sees the samples of each chunk as they come, before any is left out, and the events, on Run's goroutine. It
	// must neither block nor keep the slice.
	OnSamples func([]telemetrypb.Sample)

	Clock clock.Clock // default: the kernel's; ages and the ledger's times
	// Now is CLOCK_BOOTTIME on the samples' time scale, by which a sample held back is due (Collect.MinInterval).
	// Default: the clock's. A replay gives its own, since samples' times are taken as they are.
	Now     func() int64
	Timers  Timers // default: package time
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none
}

// Timers makes the timers that Run waits on.
type Timers interface {
	// Ticker fires every d until stop is called.
	Ticker(d time.Duration) (fires <-chan time.Time, stop func())
	// Timer fires once after d, unless stop is called first.
	Timer(d time.Duration) (fires <-chan time.Time, stop func())
}

type realTimers struct{}

func (realTimers) Ticker(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTicker(d)
	return t.C, t.Stop
}

func (realTimers) Timer(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// withDefaults fills in what was left out and checks the rest.
func (o Options) withDefaults() (Options, error) {
	if err := telemetrypb.CheckName("tenant", o.Tenant); err != nil {
		return o, err
	}
	if err := telemetrypb.CheckName("device", o.Device); err != nil {
		return o, err
	}
	if o.BootID == [16]byte{} {
		return o, errors.New("boot id is missing: without it samples of different boots cannot be told apart")
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		usual time.Duration
	}{
		{"commit interval", &o.CommitEvery, time.Second},
		{"seal interval", &o.SealEvery, 5 * time.Second},
		{"loss interval", &o.LossEvery, 5 * time.Second},
		{"event interval", &o.EventEvery, 100 * time.Millisecond},
	} {
		if *d.value < 0 {
			return o, fmt.Errorf("%s must be positive, got %s", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.usual
		}
	}
	for _, b := range []struct {
		name               string
		value              *int
		usual, least, most int
	}{
		{"batch size", &o.BatchBytes, 16 << 10, 1 << 10, 64 << 10},
		{"commit size", &o.CommitBytes, 64 << 10, 1 << 10, 1 << 30},
		{"memory bound", &o.MemoryBytes, 4 << 20, 64 << 10, 1 << 30},
	} {
		if *b.value == 0 {
			*b.value = b.usual
		}
		if *b.value < b.least || *b.value > b.most {
			return o, fmt.Errorf("%s must be between %d and %d bytes, got %d", b.name, b.least, b.most, *b.value)
		}
	}
	o.CommitBytes = min(o.CommitBytes, o.MemoryBytes/4) // written long before anything is refused
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Now == nil {
		o.Now = o.Clock.Boot
	}
	if o.Timers == nil {
		o.Timers = realTimers{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnCommitError == nil {
		o.OnCommitError = func(error) {}
	}
	if o.OnEvent == nil {
		o.OnEvent = func(uint32, int64) {}
	}
	if o.OnSamples == nil {
		o.OnSamples = func([]telemetrypb.Sample) {}
	}
	if o.OnCommitOK == nil {
		o.OnCommitOK = func() {}
	}
	return o, nil
}
