package telemetrypb

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// sealEvery cuts samples into batches of so many seconds and gives their size, envelopes included.
func sealEvery(t testing.TB, samples []Sample, seconds int64) (size int) {
	t.Helper()
	for begin := 0; begin < len(samples); {
		limit := (samples[begin].Time/(seconds*1e9) + 1) * seconds * 1e9
		end := begin
		for end < len(samples) && samples[end].Time < limit {
			end++
		}
		batch, err := AppendBatch(nil, exampleHead(), samples[begin:end])
		if err != nil {
			t.Fatal(err)
		}
		size, begin = size+len(batch), end
	}
	return size
}

// The bars of what a sample may weigh, in one batch of 10 s. Sizes are the same on every machine.
func TestWireIsSmall(t *testing.T) {
	for _, file := range wireFiles(t) {
		most := 0.72
		if strings.HasPrefix(filepath.Base(file), "slow") {
			most = 0.62
		}
		samples := readWire(t, file)
		if weight := float64(sealEvery(t, samples, 10)) / float64(len(samples)); weight > most {
			t.Errorf("%s: %.4f bytes a sample, want at most %.2f", filepath.Base(file), weight, most)
		}
	}
}

// BenchmarkWire prints what a recorded sample weighs, by how often a batch is sealed, beside JSON and gzip of one batch.
func BenchmarkWire(b *testing.B) {
	for _, file := range wireFiles(b) {
		b.Run(strings.TrimSuffix(filepath.Base(file), ".csv"), func(b *testing.B) {
			samples := readWire(b, file)
			rows := make([][3]int64, len(samples))
			for i, s := range samples {
				rows[i] = [3]int64{s.Time / 1e6, int64(s.Signal), int64(s.Bits)}
			}
			text, err := json.Marshal(rows)
			if err != nil {
				b.Fatal(err)
			}
			var packed bytes.Buffer
			z := gzip.NewWriter(&packed)
			if _, err := z.Write(text); err != nil {
				b.Fatal(err)
			}
			if err := z.Close(); err != nil {
				b.Fatal(err)
			}
			weights := map[string]float64{"json-gzip-B/sample": float64(packed.Len()) / float64(len(samples))}
			for _, seconds := range []int64{1, 5, 10, 30} { // a recording has 10 s
				weights[fmt.Sprintf("%ds-B/sample", seconds)] = float64(sealEvery(b, samples, seconds)) / float64(len(samples))
			}
			e, head := new(Encoder), exampleHead()
			var batch []byte
			b.ReportAllocs()
			for b.Loop() {
				if batch, err = e.AppendBatch(batch[:0], head, samples); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(samples)), "ns/sample")
			for unit, weight := range weights {
				b.ReportMetric(weight, unit)
			}
		})
	}
}
