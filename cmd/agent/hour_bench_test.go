package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// hour is a clock that runs as fast as the disk takes it, and a queue that says when it has committed.
type hour struct {
	pipelineQueue
	boot      atomic.Int64
	tick      chan time.Time
	committed chan struct{}
	payload   int64 // bytes of the batches committed
}

func (h *hour) Boot() int64                                               { return h.boot.Load() }
func (h *hour) Wall() time.Time                                           { return time.Unix(0, h.boot.Load()) }
func (h *hour) Ticker(time.Duration) (<-chan time.Time, func())           { return h.tick, func() {} }
func (h *hour) Timer(time.Duration) (fires <-chan time.Time, stop func()) { return nil, func() {} }
func (h *hour) Commit(sealed []pipeline.Sealed, j []pipeline.Journal) error {
	for i := range sealed {
		h.payload += int64(len(sealed[i].Bytes))
	}
	defer func() { h.committed <- struct{}{} }()
	return h.pipelineQueue.Commit(sealed, j)
}

// deviceBytes is what the device below a folder was given to write so far, when everything dirty has gone out; 0 where
// there is no such device.
func deviceBytes(b *testing.B, dir string) int64 {
	b.Helper()
	f, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &st), unix.Syncfs(int(f.Fd()))); err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return 0
	}
	var sectors int64 // of 512 bytes
	if _, err := fmt.Sscan(strings.Fields(string(text))[6], &sectors); err != nil {
		b.Fatal(err)
	}
	return 512 * sectors
}

// writeCalls is how many bytes the process has handed to write calls so far.
func writeCalls(b *testing.B) (n int64) {
	b.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "wchar: %d", &n); err == nil {
			return n
		}
	}
	return 0
}

// BenchmarkHour is an hour of a vehicle at the defaults, as fast as the disk takes it: 1,000 samples a second of 40 signals
// in ten messages, slow waves under noise of two quanta, through pipeline and queue; the journal each second, a batch
// every five. With a network each batch is receipted a second later, and what was released noted every ten seconds, as the agent does; without
// one all of it stays. What other programs write to the same device is counted too: WAYBILL_BENCH_DIR is for a disk of its own.
func BenchmarkHour(b *testing.B) {
	for _, network := range []bool{true, false} {
		name := "receipts"
		if !network {
			name = "dead-zone"
		}
		b.Run(name, func(b *testing.B) {
			var device, calls, payload int64
			for b.Loop() {
				d, c, p := benchHour(b, network)
				device, calls, payload = device+d, calls+c, payload+p
			}
			n := float64(b.N) * 1e6
			if device > 0 {
				b.Logf("%s: %.1f MB an hour to the device (bar 100), %.1f in write calls, %.1f of it batches", name,
					float64(device)/n, float64(calls)/n, float64(payload)/n)
				b.ReportMetric(float64(device)/n, "MB/h")
			} else {
				b.Logf("%s: %.1f MB an hour in write calls (bar 100 on the device, but the folder has no block device below it), %.1f of it batches",
					name, float64(calls)/n, float64(payload)/n)
			}
			b.ReportMetric(float64(calls)/n, "written-MB/h")
			b.ReportMetric(float64(payload)/n, "batch-MB/h")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func benchHour(b *testing.B, network bool) (device, calls, payload int64) {
	dir, err := os.MkdirTemp(os.Getenv("WAYBILL_BENCH_DIR"), "waybill-bench")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var available []*telemetrypb.Signal
	for i := range 40 {
		available = append(available, &telemetrypb.Signal{Name: fmt.Sprintf("S%02d", i), Message: fmt.Sprint(i / 4), Scale: 0.1})
	}
	sel, err := pipeline.Choose(available, []pipeline.Collect{{Match: "*"}})
	if err != nil {
		b.Fatal(err)
	}
	q, err := buffer.Open(filepath.Join(dir, "queue"), buffer.Options{Rand: rand.Reader})
	if err != nil {
		b.Fatal(err)
	}
	h := &hour{pipelineQueue: pipelineQueue{q}, tick: make(chan time.Time), committed: make(chan struct{}, 1)}
	h.boot.Store(1e9)
	p, err := pipeline.New(pipeline.Options{Tenant: "t", Device: "d", BootID: [16]byte{1}, Clock: h, Timers: h}, sel, h)
	if err != nil {
		b.Fatal(err)
	}
	source := p.Source("can:can0", sourceDepth)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	<-h.committed // the catalogue

	device, calls = deviceBytes(b, dir), writeCalls(b)
	random := mrand.New(mrand.NewPCG(5, 6))
	for second := range 3600 {
		start := h.boot.Load()
		if network {
			for _, l := range buffer.Lanes() { // receipts for what the commit before stored
				if newest := q.Stats().Lanes[l].Newest; newest > 0 {
					if err := q.Release(l, buffer.Range{First: 1, Last: newest}); err != nil {
						b.Fatal(err)
					}
				}
			}
			if second%10 == 9 {
				if err := q.SyncLate(); err != nil {
					b.Fatal(err)
				}
			}
		}
		for frame := range 250 {
			chunk := source.Chunk()
			at := start + int64(frame)*4e6 + random.Int64N(2e6)
			for k := range 4 {
				id := frame%10*4 + k
				wave := 800 + 400*math.Sin(float64(at)/1e9/float64(3+id)) + 2*random.NormFloat64()
				chunk.Samples = append(chunk.Samples, telemetrypb.IntSample(uint32(id+1), at, int64(wave)))
			}
			if err := source.Send(ctx, chunk); err != nil {
				b.Fatal(err)
			}
		}
		h.boot.Store(start + 1e9)
		h.tick <- time.Time{}
		<-h.committed
	}
	cancel()
	go func() { // those of the end
		for range h.committed {
		}
	}()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	close(h.committed)
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
	if losses := p.Ledger().Totals(); len(losses) > 0 {
		b.Fatalf("lost: %v", losses)
	}
	return deviceBytes(b, dir) - device, writeCalls(b) - calls, h.payload
}
