package pipeline

import (
	"fmt"
	"math/rand/v2"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// fullBus is what test/vm/pace puts on a bus of 500 kbit/s, as samples: 100 messages of eight signals, four frames a
// millisecond. all: every signal in every frame, by random bits; else as in a car, where a signal that did not change is
// no sample.
type fullBus struct {
	random   *rand.Rand
	all      bool
	payloads [100]uint64
	frames   int64
}

// widths of the eight signals.
var widths = [8]uint{8, 12, 4, 10, 6, 1, 12, 4}

func (bus *fullBus) change() uint64 {
	if bus.all {
		return bus.random.Uint64()
	}
	if bus.random.IntN(5) < 2 {
		return 0
	}
	var x uint64
	for b := range 8 {
		if bus.random.IntN(3) == 0 {
			x |= uint64(bus.random.IntN(255)+1) << (8 * b)
		}
	}
	return x
}

// next appends the samples of one frame.
func (bus *fullBus) next(dst []telemetrypb.Sample) []telemetrypb.Sample {
	message := bus.frames % 100
	at := bus.frames/4*ms + bus.frames%4*40e3 + bus.random.Int64N(20e3)
	bus.frames++
	x := bus.change()
	bus.payloads[message] ^= x
	for k, place := 0, uint(0); k < 8; k++ {
		mask := uint64(1)<<widths[k] - 1
		if bus.all || x>>place&mask != 0 {
			dst = append(dst, telemetrypb.IntSample(uint32(message)*8+uint32(k)+1, at, int64(bus.payloads[message]>>place&mask)))
		}
		place += widths[k]
	}
	return dst
}

// counting is a queue that takes everything and counts bytes.
type counting struct {
	seq            uint64
	sealed, opened int
}

func (q *counting) Epoch() uint64                   { return 1 }
func (q *counting) Reserve(telemetrypb.Lane) uint64 { q.seq++; return q.seq }
func (q *counting) Commit(batches []Sealed, journal []Journal) error {
	for i := range batches {
		q.sealed += len(batches[i].Bytes)
	}
	for i := range journal {
		q.opened += len(journal[i].Bytes)
	}
	return nil
}

func (q *counting) Stored(telemetrypb.Lane, uint64) bool { return false }

// A full bus from Offer to what is committed each second, journal included. bus-s/s is the seconds of the bus in one of
// the processor.
func BenchmarkFullBus(b *testing.B) {
	for _, mix := range []string{"as-a-car", "all-change"} {
		b.Run(mix, func(b *testing.B) {
			var available []*telemetrypb.Signal
			for i := range 800 {
				available = append(available, &telemetrypb.Signal{Name: fmt.Sprintf("%03d", i), Message: fmt.Sprint(i / 8), Scale: 1})
			}
			sel, err := Choose(available, []Collect{{Match: "*"}})
			if err != nil {
				b.Fatal(err)
			}
			q := &counting{}
			p := mustNew(b, testOptions(), sel, q)
			source := p.Source("can:can0", 8)
			bus := &fullBus{random: rand.New(rand.NewPCG(1, 2)), all: mix == "all-change"}
			second := make([]telemetrypb.Sample, 0, 32000)
			samples := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				second = second[:0]
				for range 4000 {
					second = bus.next(second)
				}
				samples += len(second)
				b.StartTimer()
				for rest := second; len(rest) > 0; {
					n := min(len(rest), 240)
					c := source.Chunk()
					c.Samples = append(c.Samples, rest[:n]...)
					source.Offer(c)
					p.take()
					rest = rest[n:]
				}
				p.tick()
				if p.prepare(false) {
					p.call(&p.commit)
					p.settle(&p.commit)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
			b.ReportMetric(float64(q.sealed)/float64(samples), "B/sample")
			b.ReportMetric(float64(q.opened)/float64(samples), "journal-B/sample")
			b.ReportMetric(0, "ns/op")
		})
	}
}
