package sim

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	canSignal = "can0.Motion.Serial"
	gpsSignal = "gps0.fix.serial"
)

// truth is when a sample was taken, and what its clocks said then.
type truth struct {
	unix int64
	boot int64
	in   int // which boot
}

// vehicle is the agent's parts, put together as cmd/agent does, on the clocks of a world.
type vehicle struct {
	t     testing.TB
	world *world
	dir   string
	cloud *cloud

	boots     int
	id        [16]byte
	times     *clock.Timekeeper
	queue     *buffer.Queue
	pipe      *pipeline.Pipeline
	can       *pipeline.Source
	gps       *pipeline.Source
	parser    *gps.Parser
	selection *pipeline.Selection
	tick      chan time.Time
	stop      func() error

	receiver receiver
	offset   time.Duration // as configured
	doubt    time.Duration

	canTruth []truth // by serial number
	gpsTruth []truth
	arrived  map[int64]int64 // true Unix time of an epoch's first byte, by CLOCK_BOOTTIME, until the parser lets go of it
	seconds  int64           // for what is done every so often
}

func newVehicle(t testing.TB, w *world, c *cloud) *vehicle {
	v := &vehicle{t: t, world: w, dir: t.TempDir(), cloud: c, arrived: map[int64]int64{}}
	v.receiver = receiver{delay: 100 * time.Millisecond, jitter: 80 * time.Millisecond}
	v.offset, v.doubt = 115*time.Millisecond, 80*time.Millisecond
	signal := func(name string) *telemetrypb.Signal {
		return &telemetrypb.Signal{Name: name, Type: telemetrypb.ValueType_VALUE_TYPE_UINT}
	}
	var err error
	if v.selection, err = pipeline.Choose([]*telemetrypb.Signal{signal(canSignal), signal(gpsSignal)}, []pipeline.Collect{{Match: "*"}}); err != nil {
		t.Fatal(err)
	}
	return v
}

// Boot and Wall make the vehicle a clock.Clock for its pipeline.
func (v *vehicle) Boot() int64     { return v.world.boot.Load() }
func (v *vehicle) Wall() time.Time { return time.Unix(0, 0) }

// Ticker and Timer make it pipeline.Timers: it commits when tick says so.
func (v *vehicle) Ticker(time.Duration) (<-chan time.Time, func()) { return v.tick, func() {} }
func (v *vehicle) Timer(time.Duration) (<-chan time.Time, func())  { return nil, func() {} }

// power is a boot of the computer; the agent starts with it.
func (v *vehicle) power() {
	v.world.restart()
	v.boots++
	v.id = bootID(v.boots)
	v.begin()
}

// bootID is that of the nth boot.
func bootID(n int) [16]byte {
	sum := sha256.Sum256([]byte{byte(n)})
	return [16]byte(sum[:16])
}

// begin starts the agent's process.
func (v *vehicle) begin() {
	v.t.Helper()
	check := func(err error) {
		v.t.Helper()
		if err != nil {
			v.t.Fatal(err)
		}
	}
	var err error
	v.queue, err = buffer.Open(filepath.Join(v.dir, "queue"), buffer.Options{SegmentBytes: 1 << 20, Rand: rand.Reader})
	check(err)
	v.tick = make(chan time.Time)
	v.pipe, err = pipeline.New(pipeline.Options{
		Tenant: "acme", Device: "car-1", BootID: v.id, BootCount: uint32(v.boots),
		CommitEvery: time.Second, SealEvery: 5 * time.Minute, Clock: v, Timers: v,
		MemoryBytes: 64 << 20,
	}, v.selection, pipelineQueue{v.queue})
	check(err)
	check(v.pipe.Recover(recoveredJournal(v.queue)))
	v.can, v.gps = v.pipe.Source("can:can0", 8), v.pipe.Source("gps:gps0", 8)
	v.times, err = clock.OpenTimekeeper(clock.TimekeeperOptions{
		Dir: v.dir, BootID: v.id, BootCount: uint32(v.boots), Built: built, Write: writeFile, Emit: v.emit, Log: slog.New(slog.DiscardHandler),
	})
	check(err)
	v.parser, err = gps.NewParser(gps.ParserOptions{Reference: v.times.Keeper().Reference()})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- v.pipe.Run(ctx) }()
	v.stop = func() error {
		cancel()
		return <-ended
	}
	v.times.Start()
	v.times.System(v.world.reading())
}

// writeFile stands for the agent's durable write: nothing cuts the power within it here.
func writeFile(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }

func (v *vehicle) emit(r *telemetrypb.ClockRecord) {
	v.pipe.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Clock{Clock: r}})
}

// end stops the agent; a clean one keeps its time on disk.
func (v *vehicle) end(clean bool) {
	v.t.Helper()
	if clean {
		v.times.Save(v.Boot(), true)
	}
	err := v.stop()
	if err == nil {
		err = v.queue.Close()
	}
	if err != nil {
		v.t.Fatal(err)
	}
}

// drive lets time pass, second by second: a CAN sample every three, an epoch of the receiver each, the clocks
// every five, a commit every minute, and now and then a connection.
func (v *vehicle) drive(d time.Duration) {
	v.t.Helper()
	w := v.world
	for end := w.passed + int64(d); w.passed < end; {
		if whole := w.passed % int64(time.Second); whole != 0 {
			w.pass(time.Duration(int64(time.Second) - whole))
		}
		v.seconds++
		if v.receiver.on {
			v.epoch()
		}
		within := time.Duration(w.random.Int64N(int64(time.Second)/1000)) * 1000
		if v.seconds%3 == 0 {
			w.pass(within)
			v.take(v.can, canSignal, &v.canTruth, w.boot.Load(), w.unix())
			w.pass(time.Second - within - time.Microsecond)
			w.pass(time.Microsecond)
		} else {
			w.pass(time.Second)
		}
		if v.seconds%5 == 0 {
			v.times.System(w.reading())
		}
		if v.seconds%60 == 0 {
			v.tick <- time.Time{}
		}
		if v.seconds%420 == 0 && w.random.IntN(3) > 0 {
			v.deliver()
		}
	}
}

// epoch gives the parser what the receiver says in this second.
func (v *vehicle) epoch() {
	w := v.world
	text, later := w.sentences(&v.receiver, uint64(v.seconds))
	boot := w.bootAt(later)
	v.arrived[boot] = w.unixAt(w.passed + int64(later))
	v.parser.Feed(text, boot, func(f gps.Fix) {
		at, known := v.arrived[f.Boot]
		if !known {
			v.t.Fatalf("a fix of a moment at which nothing came: %+v", f)
		}
		clear(v.arrived)
		v.arrived[boot] = w.unixAt(w.passed + int64(later))
		if v.seconds%5 == 0 {
			v.take(v.gps, gpsSignal, &v.gpsTruth, f.Boot, at)
		}
		if f.Valid() && f.Has(gps.HasTime) {
			v.times.Fix(boot, f.Boot-int64(v.offset), f.Time, uint64(v.doubt))
		}
	})
}

// take gives the pipeline a sample that carries its serial number.
func (v *vehicle) take(source *pipeline.Source, signal string, list *[]truth, boot, unix int64) {
	v.t.Helper()
	id, _ := v.selection.ID(signal)
	chunk := source.Chunk()
	chunk.Samples = append(chunk.Samples, telemetrypb.UintSample(id, boot, uint64(len(*list))))
	if err := source.Send(context.Background(), chunk); err != nil {
		v.t.Fatal(err)
	}
	*list = append(*list, truth{unix, boot, v.boots})
}

// step sets the system's clock, which the agent is told of at once.
func (v *vehicle) step(wrong time.Duration, synced bool) {
	v.world.setSystem(wrong)
	v.world.synced, v.world.wrong, v.world.claimed = synced, wrong, 20*time.Millisecond
	v.times.System(v.world.reading())
}

// sleep is a suspend, which the agent is told of when it is over.
func (v *vehicle) sleep(d, wrong time.Duration) {
	v.parser.End(func(gps.Fix) {})
	v.world.sleep(d, wrong)
	v.times.System(v.world.reading())
}

// deliverUntil delivers until the store dates samples as wanted: the pipeline commits on its own.
func (v *vehicle) deliverUntil(wanted func(map[telemetrypb.TimeSource]int) bool) {
	v.t.Helper()
	for begin := time.Now(); !wanted(v.cloud.sources(v.t)); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			v.t.Fatalf("a minute later the store still dates by %v", v.cloud.sources(v.t))
		}
		v.tick <- time.Time{}
		v.deliver()
	}
}

// deliver brings what the queue holds to the store.
func (v *vehicle) deliver() {
	v.t.Helper()
	v.cloud.take(v.t, v.queue, v.times.Clock)
}
