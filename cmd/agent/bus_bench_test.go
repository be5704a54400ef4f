package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/pipeline"
)

// memoryBus hands out frames as can.Reader does what recvmmsg left: it reads 64 of struct can_frame at a time from memory.
// Their times are those of a bus of 500 kbit/s, four frames a millisecond, but for a few µs.
type memoryBus struct {
	raw  [][16]byte // one round of frames
	next int
	left int // frames until the end
	at   int64
}

// mixes of a memoryBus: 100 messages of eight signals.
const (
	oneChanges = "one-changes" // in every frame one of the eight
	allChange  = "all-change"  // every signal in every frame, by random bits
)

// busWidths are the bits of the eight signals of a message.
var busWidths = [8]int{8, 12, 4, 10, 6, 8, 12, 4}

func newMemoryBus(mix string) *memoryBus {
	random := mrand.New(mrand.NewPCG(1, 2))
	b := &memoryBus{raw: make([][16]byte, 100*256), at: 1e9}
	var payloads [100]uint64
	for i := range b.raw {
		message := i % 100
		x := random.Uint64()
		if mix == oneChanges {
			signal, place := random.IntN(8), 0
			for _, w := range busWidths[:signal] {
				place += w
			}
			x = (1 + x%(1<<busWidths[signal]-1)) << place
		}
		payloads[message] ^= x
		binary.NativeEndian.PutUint32(b.raw[i][:], uint32(0x100+message))
		b.raw[i][4] = 8
		binary.LittleEndian.PutUint64(b.raw[i][8:], payloads[message])
	}
	return b
}

func (b *memoryBus) Read(dst []can.Frame) (n int, drops uint64, err error) {
	for ; n < len(dst) && b.left > 0; n++ {
		raw, f := &b.raw[b.next], &dst[n]
		f.ID, f.Flags, f.Len, f.Bus = binary.NativeEndian.Uint32(raw[:])&can.MaxStandardID, 0, raw[4], 0
		copy(f.Data[:8], raw[8:])
		b.at += 250_000
		f.Time = b.at + int64(b.next*7919%4096)
		b.left--
		if b.next++; b.next == len(b.raw) {
			b.next = 0
		}
	}
	if n == 0 {
		return 0, 0, os.ErrClosed
	}
	return n, 0, nil
}

func (b *memoryBus) Close() error { return nil }

// busDBC describes the messages of a memoryBus.
func busDBC() string {
	var text strings.Builder
	for m := range 100 {
		fmt.Fprintf(&text, "BO_ %d M%02d: 8 X\n", 0x100+m, m)
		for k, place := 0, 0; k < 8; k++ {
			fmt.Fprintf(&text, " SG_ S%d : %d|%d@1+ (1,0) [0|0] \"\" X\n", k, place, busWidths[k])
			place += busWidths[k]
		}
	}
	return text.String()
}

// busPath is the agent's own way from frames to a queue on disk.
type busPath struct {
	bus    *memoryBus
	source *canSource
	queue  *buffer.Queue
	stop   func()
}

// newBusPath wires the way as agent.readers and agent.openPipeline do. It runs until stop, which returns when everything
// is durable; or, not durable, to a queue that lets go of what it is given.
func newBusPath(t testing.TB, mix string, durable bool) *busPath {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv("WAYBILL_BENCH_DIR"), "waybill-bench")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	dbc := filepath.Join(dir, "bus.dbc")
	if err := os.WriteFile(dbc, []byte(busDBC()), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := newVehicle(&settings{
		CAN:     []canSettings{{Bus: "can0", DBC: []string{dbc}}},
		Collect: []pipeline.Collect{{Match: "*", OnChange: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	q, err := buffer.Open(filepath.Join(dir, "queue"), buffer.Options{MaxBytes: 8 << 30, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	var to pipeline.Queue = pipelineQueue{q}
	if !durable {
		to = nowhere{to}
	}
	p, err := pipeline.New(pipeline.Options{Tenant: "t", Device: "d", BootID: [16]byte{1}}, v.selection, to)
	if err != nil {
		t.Fatal(err)
	}
	c := &canSource{agent: &agent{pipe: p}, canSettings: canSettings{Bus: "can0"}, plan: v.plans[0], changes: v.plans[0].NewChanges(), source: p.Source("can:can0", sourceDepth)}
	c.parts = can.NewReassembler(c.plan, can.ReassemblerOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return &busPath{bus: newMemoryBus(mix), source: c, queue: q, stop: func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if losses := p.Ledger().Totals(); len(losses) > 0 {
			t.Errorf("lost: %v", losses)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}}
}

// nowhere is a queue that keeps nothing.
type nowhere struct{ pipeline.Queue }

func (nowhere) Commit([]pipeline.Sealed, []pipeline.Journal) error { return nil }

// run is canSource.readFrames for so many frames, with the one difference that it waits where a bus cannot.
func (p *busPath) run(t testing.TB, frames int) {
	buf := make([]can.Frame, 64)
	for p.bus.left = frames; ; {
		n, _, err := p.bus.Read(buf)
		if err != nil {
			return
		}
		chunk := p.source.source.Chunk()
		for i := range buf[:n] {
			chunk.Samples = p.source.decode(&buf[i], chunk.Samples)
		}
		if err := p.source.source.Send(context.Background(), chunk); err != nil {
			t.Fatal(err)
		}
		p.source.countUndecodable()
	}
}

// warmFrames bring a busPath to its steady state.
const warmFrames = 400_000

// From the frame to what is committed nothing is allocated for a frame, nor for 64 of them: what there is, is for a batch
// or a commit.
func TestNoAllocationFromFrameToCommit(t *testing.T) {
	for _, mix := range []string{oneChanges, allChange} {
		p := newBusPath(t, mix, false)
		p.run(t, warmFrames)
		var before, after runtime.MemStats
		const frames = 50_000
		runtime.ReadMemStats(&before)
		p.run(t, frames)
		runtime.ReadMemStats(&after)
		p.stop()
		if per := float64(after.Mallocs-before.Mallocs) / frames; per > 1.0/256 {
			t.Errorf("%s: %.4f allocations a frame", mix, per)
		} else {
			t.Logf("%s: %.5f allocations a frame", mix, per)
		}
	}
}

// oneCore puts every thread of the process on one processor, and Go's on one too.
func oneCore(b *testing.B) {
	b.Helper()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		b.Fatal(err)
	}
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu) // the last one; the first has the interrupts
		}
		if one.Count() > 1 {
			one.Zero()
			one.Set(cpu)
		}
	}
	pin := func(set *unix.CPUSet) {
		tasks, _ := os.ReadDir("/proc/self/task")
		for _, t := range tasks {
			if tid, err := strconv.Atoi(t.Name()); err == nil {
				_ = unix.SchedSetaffinity(tid, set) // a thread may have ended
			}
		}
	}
	procs := runtime.GOMAXPROCS(1)
	pin(&one)
	b.Cleanup(func() {
		runtime.GOMAXPROCS(procs)
		pin(&before)
	})
}

// cpuTime of the process, what the kernel does for it included.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSocketToDurable runs frames from memory through decoding with change detection, sampling, encoding, journal and
// commits, on one core, to a queue on disk with all its syncs, until the last sample is durable: DESIGN §10. frames/s is
// by the wall's clock, with what else the core had to do and the waits for the disk that nothing filled; frames/cpu-s is by the
// processor's time, the system's part in it.
func BenchmarkSocketToDurable(b *testing.B) {
	for _, m := range []struct {
		mix    string
		frames int
		bar    float64
	}{{oneChanges, 1_000_000, 500e3}, {allChange, 500_000, 250e3}} {
		b.Run(m.mix, func(b *testing.B) {
			oneCore(b)
			var rates, cpus []float64
			var allocs, bytes uint64
			var memory [2]runtime.MemStats
			frames := 0
			for b.Loop() {
				for range 5 {
					p := newBusPath(b, m.mix, true)
					p.run(b, warmFrames)
					runtime.ReadMemStats(&memory[0])
					start, cpu := time.Now(), cpuTime(b)
					p.run(b, m.frames)
					runtime.ReadMemStats(&memory[1])
					p.stop()
					bytes += p.queue.Stats().Lanes[buffer.Telemetry].Bytes
					rates = append(rates, float64(m.frames)/time.Since(start).Seconds())
					cpus = append(cpus, float64(m.frames)/(cpuTime(b)-cpu).Seconds())
					allocs += memory[1].Mallocs - memory[0].Mallocs
					frames += m.frames
				}
			}
			slices.Sort(rates)
			slices.Sort(cpus)
			n := len(rates)
			b.Logf("%s: %.0f frames/s by the wall (%.0f to %.0f), %.0f by the processor's time (%.0f to %.0f); bar %.0f", m.mix,
				rates[n/2], rates[0], rates[n-1], cpus[n/2], cpus[0], cpus[n-1], m.bar)
			b.ReportMetric(rates[n/2], "frames/s")
			b.ReportMetric(cpus[n/2], "frames/cpu-s")
			b.ReportMetric(1e9/cpus[n/2], "cpu-ns/frame")
			b.ReportMetric(float64(allocs)/float64(frames), "allocs/frame")
			b.ReportMetric(float64(bytes)/float64(frames+len(rates)*warmFrames), "B/frame")
			b.ReportMetric(0, "ns/op")
		})
	}
}
