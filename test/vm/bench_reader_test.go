package vm

import (
	"regexp"
	"strconv"
	"testing"
)

// What reading a frame from a real socket costs in batches of 64, and one at a time: x-single is the second by the first.
func BenchmarkReaderThroughput(b *testing.B) {
	for b.Loop() {
		r := Emulate(b, "arm64", Job{
			Command: []string{"/can.test", "-test.run", "^$", "-test.bench", "^BenchmarkVcanRead$", "-test.benchtime", "5x"}, Dir: "/tmp",
			Env: []string{"WAYBILL_VM=1"}, Steady: true,
		}, map[string]string{"/can.test": Build(b, "arm64", "test", "./can")})
		cost := map[string]float64{}
		for _, m := range regexp.MustCompile(`(?m)^BenchmarkVcanRead/(\d+).* ([\d.]+) ns/frame`).FindAllStringSubmatch(r.Output, -1) {
			cost[m[1]], _ = strconv.ParseFloat(m[2], 64)
		}
		if r.Exit != 0 || len(cost) != 2 {
			b.Fatalf("exit code %d; the guest said:\n%s", r.Exit, r.Output)
		}
		b.Logf("boot %v, in all %v\n%s", r.Boot, r.Total, r.Output)
		b.ReportMetric(cost["1"]/cost["64"], "x-single")
		b.ReportMetric(cost["64"], "batch-ns/frame")
		b.ReportMetric(cost["1"], "single-ns/frame")
		b.ReportMetric(0, "ns/op")
	}
}
