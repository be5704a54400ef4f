package telemetrypb_test

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/drive"
)

// driven is the samples of the simulated vehicle's bus, every signal of every frame or what changed, with times as a
// kernel would stamp them: up to 200 µs late, in ns.
func driven(t testing.TB, length time.Duration, changes bool) (samples []telemetrypb.Sample) {
	t.Helper()
	var subscriptions []can.Subscription
	id := uint32(0)
	for _, m := range can.ParseDBC(drive.DBC()).Messages {
		for _, s := range m.Signals {
			id++
			subscriptions = append(subscriptions, can.Subscription{ID: id, Message: m, Signal: s})
		}
	}
	d, err := drive.New(drive.Options{Seed: 1, Start: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), Duration: length})
	if err != nil {
		t.Fatal(err)
	}
	plan, random := can.Compile(subscriptions, can.PlanOptions{}), rand.New(rand.NewPCG(1, 1))
	last := make(map[uint32]uint64)
	for {
		e, ok := d.Next()
		if !ok {
			return samples
		}
		if e.Frame == nil {
			continue
		}
		e.Frame.Time = int64(1e12) + int64(e.At) + random.Int64N(200e3)
		have := len(samples)
		samples = plan.Decode(e.Frame, samples)
		if !changes {
			continue
		}
		kept := samples[:have]
		for _, s := range samples[have:] {
			if before, known := last[s.Signal]; !known || before != s.Bits {
				kept = append(kept, s)
			}
			last[s.Signal] = s.Bits
		}
		samples = kept
	}
}

// processorTime is what this process has had of the processor, in ns: on a machine that others use it says more than a clock.
func processorTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkDrive prints what a sample of the simulated vehicle costs and weighs, envelope included, by how often a batch is sealed.
func BenchmarkDrive(b *testing.B) {
	for _, changes := range []bool{false, true} {
		samples := driven(b, 2*time.Minute, changes)
		for _, seconds := range []int64{1, 5, 10, 30} {
			b.Run(fmt.Sprintf("%s/%ds", map[bool]string{false: "every", true: "on-change"}[changes], seconds), func(b *testing.B) {
				parts := sealedEvery(samples, seconds)
				e := new(telemetrypb.Encoder)
				head := &telemetrypb.Head{Tenant: "acme", Device: "car-7", Epoch: 1 << 60, Lane: telemetrypb.Lane_LANE_TELEMETRY, Seq: 42}
				head.BootID[0] = 1
				var batch []byte
				size := 0
				b.ReportAllocs()
				begin := processorTime(b)
				for b.Loop() {
					size = 0
					for _, part := range parts {
						var err error
						if batch, err = e.AppendBatch(batch[:0], head, part); err != nil {
							b.Fatal(err)
						}
						size += len(batch)
					}
				}
				n := float64(len(samples))
				b.ReportMetric(float64(processorTime(b)-begin)/float64(b.N)/n, "cpu-ns/sample")
				b.ReportMetric(float64(size)/n, "B/sample")
				b.ReportMetric(n/120, "samples/s-of-drive")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
