package wire

import (
	"flag"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// update has the benchmark write its tables into docs/BENCHMARKS.md.
var update = flag.Bool("update", false, "write the tables of BenchmarkWire into docs/BENCHMARKS.md")

// sealIntervals are those that a sample is weighed at; atInterval is the one of the ratios and of the speed.
var sealIntervals = []time.Duration{time.Second, 5 * time.Second, atInterval, 30 * time.Second}

const atInterval = 10 * time.Second

// weights of a unit in bytes, one for each of sealIntervals; nil: there is no such thing.
type weights []float64

func (w weights) String() string {
	if w == nil {
		return "–"
	}
	var text []string
	for _, v := range w {
		switch {
		case v < 10:
			text = append(text, fmt.Sprintf("%.2f", v))
		default:
			text = append(text, fmt.Sprintf("%.1f", v))
		}
	}
	return strings.Join(text, " ")
}

// over is how much heavier w is than others, at atInterval.
func (w weights) over(others weights) string {
	if w == nil {
		return "–"
	}
	return fmt.Sprintf("%.1f", w.at()/others.at())
}

// at is the weight at atInterval.
func (w weights) at() float64 {
	for i, every := range sealIntervals {
		if every == atInterval {
			return w[i]
		}
	}
	return 0
}

// BenchmarkWire prints what a sample weighs, beside other formats of the very same samples, and how fast the codec is.
//
// A set's samples are cut into batches as the agent cuts them; a weight is all bytes of their payloads, envelopes
// included, by all samples. The catalogue, which is sent once, is not counted, nor is what MQTT adds.
func BenchmarkWire(b *testing.B) {
	sizes := table{head: []string{"data", "bytes a", "Waybill", "FleetWise", "×", "JSON, gzip", "×", "log, xz -9", "×"}}
	speeds := table{head: []string{"data", "samples", "a batch", "encode, M/s", "allocations", "decode, M/s", "allocations"}}
	sets := allSets(b)
	logs := map[string]weights{} // the same log is not packed twice
	for i := range sets {
		s := &sets[i]
		b.Run(strings.ReplaceAll(s.name, " ", "-"), func(b *testing.B) {
			row, ok := benchmarkSize(b, s, logs)
			if !ok {
				return // another one was asked for
			}
			sizes.rows = append(sizes.rows, row)
			batches := cut(b, s.samples, atInterval)
			row = []string{s.name, fmt.Sprint(len(s.samples)), fmt.Sprint(len(s.samples) / len(batches))}
			row = append(row, benchmarkEncode(b, batches)...)
			speeds.rows = append(speeds.rows, append(row, benchmarkDecode(b, batches)...))
		})
	}
	// Not by b.Log: without -v it prints nothing of a benchmark that has others in it, and ten lines of any.
	fmt.Printf("\nBytes a sample (a frame) at seal_every 1 s, 5 s, 10 s and 30 s; × Waybill's at 10 s:\n\n%s", sizes.String())
	fmt.Printf("\nMillions of samples a second on one core, and allocations a batch; batches of 10 s:\n\n%s\n", speeds.String())
	if *update {
		if len(sizes.rows) != len(sets) || len(speeds.rows) != len(sets) {
			b.Fatalf("-update wants all of BenchmarkWire: %d and %d of %d sets were measured", len(sizes.rows), len(speeds.rows), len(sets))
		}
		replaceTable(b, "sizes", sizes.String())
		replaceTable(b, "speeds", speeds.String())
	}
}

// benchmarkSize weighs a set, once: sizes are the same each time.
func benchmarkSize(b *testing.B, s *set, logs map[string]weights) (row []string, measured bool) {
	var ours, fleetwise, json, log weights
	b.Run("size", func(b *testing.B) {
		if !measured {
			ours, fleetwise, json, log = weigh(b, s, logs)
			measured = true
		}
		for i, every := range sealIntervals {
			b.ReportMetric(ours[i], fmt.Sprintf("%v-B/%s", every, s.unit))
		}
		b.ReportMetric(fleetwise.at()/ours.at(), "x-fleetwise")
		b.ReportMetric(json.at()/ours.at(), "x-json-gzip")
		if log != nil {
			b.ReportMetric(log.at()/ours.at(), "x-log-xz")
		}
		b.ReportMetric(0, "ns/op") // nothing is repeated
	})
	if !measured {
		return nil, false
	}
	return []string{s.name, s.unit, ours.String(), fleetwise.String(), fleetwise.over(ours), json.String(), json.over(ours), log.String(), log.over(ours)}, true
}

// weigh gives what a set weighs in each format.
func weigh(b *testing.B, s *set, logs map[string]weights) (ours, fleetwise, json, log weights) {
	b.Helper()
	units := float64(len(s.samples)) / float64(s.parts)
	for _, every := range sealIntervals {
		batches := cut(b, s.samples, every)
		vehicleData, text := 0, 0
		for _, part := range batches {
			vehicleData += len(snappy.Encode(nil, fleetWise(s, part.samples, (latest(part.samples)+s.unixNS)/1e6)))
			text += gzipped(b, jsonText(s, part.samples))
		}
		ours = append(ours, float64(weight(batches))/units)
		fleetwise = append(fleetwise, float64(vehicleData)/units)
		json = append(json, float64(text)/units)
	}
	return ours, fleetwise, json, weighLog(b, s, logs, units)
}

// weighLog weighs a set's log.
func weighLog(b *testing.B, s *set, logs map[string]weights, units float64) (w weights) {
	b.Helper()
	if s.log == nil {
		return nil
	}
	key := string(s.log[0].text)
	bytes := logs[key]
	if bytes == nil {
		for _, every := range sealIntervals {
			bytes = append(bytes, float64(xzLog(b, s.log, every)))
		}
		logs[key] = bytes
	}
	for _, size := range bytes {
		w = append(w, size/units)
	}
	return w
}

// benchmarkEncode seals each batch of a set, with one encoder and the memory that it has by then.
func benchmarkEncode(b *testing.B, batches []batch) (cells []string) {
	b.Run("encode", func(b *testing.B) {
		var e telemetrypb.Encoder
		var sealed []byte
		h := head(1)
		cells = speed(b, batches, func(i int) {
			var err error
			if sealed, err = e.AppendBatch(sealed[:0], h, batches[i].samples); err != nil {
				b.Fatal(err)
			}
		})
	})
	return cells
}

// benchmarkDecode opens each batch of a set: checksum, envelope and samples.
func benchmarkDecode(b *testing.B, batches []batch) (cells []string) {
	b.Run("decode", func(b *testing.B) {
		var sealed [][]byte
		for i := range batches {
			one, err := telemetrypb.AppendBatch(nil, head(i+1), batches[i].samples)
			if err != nil {
				b.Fatal(err)
			}
			sealed = append(sealed, one)
		}
		var decoded []telemetrypb.Sample
		cells = speed(b, batches, func(i int) { decoded = openBatch(b, sealed[i], decoded[:0]) })
	})
	return cells
}

// speed reports how many samples a second do sees to, and what it allocates a batch. The machine is shared: of each batch
// the fastest time counts.
func speed(b *testing.B, batches []batch, do func(i int)) (cells []string) {
	b.Helper()
	samples := 0
	fastest := make([]time.Duration, len(batches))
	for i, part := range batches {
		samples += len(part.samples)
		fastest[i] = math.MaxInt64
	}
	round := func() {
		for i := range batches {
			begin := time.Now()
			do(i)
			fastest[i] = min(fastest[i], time.Since(begin))
		}
	}
	allocations := testing.AllocsPerRun(2, round) / float64(len(batches))
	b.ReportAllocs()
	for b.Loop() {
		round()
	}
	var sum time.Duration
	for _, d := range fastest {
		sum += d
	}
	rate := float64(samples) / sum.Seconds() / 1e6
	b.ReportMetric(rate, "Msamples/s")
	b.ReportMetric(allocations, "allocs/batch")
	return []string{fmt.Sprintf("%.1f", rate), fmt.Sprintf("%.1f", allocations)}
}

func latest(samples []telemetrypb.Sample) int64 {
	at := samples[0].Time
	for _, s := range samples {
		at = max(at, s.Time)
	}
	return at
}
