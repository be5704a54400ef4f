package telemetrypb

import "testing"

// The benchmarks print what a sample costs and what it weighs, on recorded columns.

func BenchmarkAppendBatch(b *testing.B) {
	samples := readWire(b, wireFiles(b)[0])
	e, head := new(Encoder), exampleHead()
	var batch []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if batch, err = e.AppendBatch(batch[:0], head, samples); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(samples)), "ns/sample")
	b.ReportMetric(float64(len(batch))/float64(len(samples)), "B/sample")
}

func BenchmarkSamples(b *testing.B) {
	samples := readWire(b, wireFiles(b)[0])
	batch, err := AppendBatch(nil, exampleHead(), samples)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		view, err := OpenBatch(batch)
		if err != nil {
			b.Fatal(err)
		}
		if samples, err = view.Samples(samples[:0]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(samples)), "ns/sample")
}
