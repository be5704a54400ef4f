package vm

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"testing"
	"time"
)

// drained is what test/vm/drain prints.
type drained struct {
	Early, Late arrivals
	Congestion  string
	Payload     []int
	Losses      uint64
	Resent      uint64
	Left        int
	Busy        float64
}

// arrivals are bytes at the far end, one number a link.
type arrivals struct {
	Seconds       float64
	Plain, Uplink []int
}

// less is what came later.
func (a arrivals) less(earlier arrivals) arrivals {
	a.Plain, a.Uplink = slices.Clone(a.Plain), slices.Clone(a.Uplink)
	for i := range a.Plain {
		a.Plain[i] -= earlier.Plain[i]
		a.Uplink[i] -= earlier.Uplink[i]
	}
	a.Seconds -= earlier.Seconds
	return a
}

// ratio is the uplink's share of plain TCP's bytes, and its standard error.
func (a arrivals) ratio() (ratio, doubt float64) {
	plain, plainDoubt := mean(a.Plain)
	ours, oursDoubt := mean(a.Uplink)
	return ours / plain, ours / plain * math.Hypot(plainDoubt/plain, oursDoubt/ours)
}

// drain measures uplinks and plain TCP on links of their own, all in one emulated machine whose time runs by its
// instructions: what else the host does is no part of it.
func drain(b *testing.B, seconds int, flags ...string) (d drained) {
	b.Helper()
	r := Emulate(b, "arm64", Job{
		Command: append([]string{"/bin/drain", "-seconds", fmt.Sprint(seconds)}, flags...), Interfaces: []string{},
		Modules: []string{"drivers/net/veth", "net/sched/sch_netem"}, Timeout: 5*time.Duration(seconds)*time.Second + 2*time.Minute,
		Memory: 768, Steady: true,
	}, map[string]string{"/bin/drain": Build(b, "arm64", "build", "./test/vm/drain")})
	line := regexp.MustCompile(`(?m)^{"early":.*}$`).FindString(r.Output)
	if err := json.Unmarshal([]byte(line), &d); r.Exit != 0 || err != nil {
		b.Fatalf("exit code %d, %v; the guest said:\n%.4000s", r.Exit, err, r.Output)
	}
	b.Logf("%+v; boot %v, in all %v; the guest said:\n%s", d, r.Boot, r.Total, r.Output)
	if d.Left == 0 {
		b.Fatal("a queue ran empty: more batches are needed")
	}
	return d
}

// mean is the mean of a link's bytes, and how sure it is (standard error).
func mean(bytes []int) (mean, doubt float64) {
	for _, n := range bytes {
		mean += float64(n) / float64(len(bytes))
	}
	for _, n := range bytes {
		doubt += (float64(n) - mean) * (float64(n) - mean)
	}
	return mean, math.Sqrt(doubt/float64(max(1, len(bytes)-1))) / math.Sqrt(float64(len(bytes)))
}

// BenchmarkDrainBesideTCP says what share of plain TCP's bytes the uplink brings to the store in the same time over the
// same kind of link, from the dial on. The bar is 0.90 for 600 ms of round trip and 2 % of packets lost each way.
func BenchmarkDrainBesideTCP(b *testing.B) {
	for _, c := range []struct {
		name    string
		seconds int
		flags   []string
	}{
		{"600ms-2%", 120, []string{"-delay", "300ms", "-loss", "0.02", "-pairs", "12", "-batches", "800"}},
		{"100ms-1MBs", 10, []string{"-delay", "50ms", "-loss", "0", "-rate", "1048576", "-packets", "200", "-pairs", "1", "-batches", "700"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				d := drain(b, c.seconds, c.flags...)
				whole, doubt := d.Late.ratio()
				b.ReportMetric(whole, "x-tcp")
				b.ReportMetric(doubt, "x-tcp±")
				steady, doubt := d.Late.less(d.Early).ratio()
				b.ReportMetric(steady, "x-tcp-steady")
				b.ReportMetric(doubt, "x-tcp-steady±")
				plain, _ := mean(d.Late.Plain)
				b.ReportMetric(plain/d.Late.Seconds, "tcp-B/s")
				b.ReportMetric(float64(d.Losses), "losses")
				b.ReportMetric(d.Busy, "guest-busy")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}
