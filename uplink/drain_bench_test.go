package uplink_test

import (
	crand "crypto/rand"
	"crypto/tls"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// BenchmarkDrain says what share of a link carries new batches to the store: at 100 ms round trip and 1 MB/s, and at
// 20 kB/s with a cut every 4 s, there also in TLS with client certificates, with sessions resumed and without. The bars
// of DESIGN.md §10 are 95 % and 80 %, without TLS.
func BenchmarkDrain(b *testing.B) {
	for _, c := range []struct {
		name     string
		rate     int
		delay    time.Duration // each way
		cut      time.Duration // 0: never
		batches  int           // of about 16 KiB
		duration time.Duration
		secure   string
	}{
		{"1MBs-100ms", 1 << 20, 50 * time.Millisecond, 0, 700, 6 * time.Second, ""},
		{"20kBs-cut4s", 20 << 10, 20 * time.Millisecond, 4 * time.Second, 80, 24 * time.Second, ""},
		{"20kBs-cut4s-mtls", 20 << 10, 20 * time.Millisecond, 4 * time.Second, 80, 24 * time.Second, "full"},
		{"20kBs-cut4s-mtls-resumed", 20 << 10, 20 * time.Millisecond, 4 * time.Second, 80, 24 * time.Second, "resumed"},
	} {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				bench := newBench(b, true)
				q, err := buffer.Open(b.TempDir(), buffer.Options{Rand: crand.Reader})
				if err != nil {
					b.Fatal(err)
				}
				bench.queue = uplinktest.Name(q, tenant, device)
				sizes := map[uint64]int{}
				for range c.batches {
					samples := make([]telemetrypb.Sample, 2700)
					for i := range samples {
						samples[i] = telemetrypb.UintSample(1, int64(i)*1e7, bench.rand.Uint64N(1<<48))
					}
					rec, err := bench.queue.Add(telemetry, telemetrypb.Head{BootID: bench.boot, Catalogue: [16]byte{9}}, samples)
					if err != nil {
						b.Fatal(err)
					}
					sizes[rec.Seq] = len(rec.Bytes)
				}
				bench.proxy.SetRate(c.rate)
				bench.proxy.SetDelay(c.delay)
				o := bench.options()
				if c.secure != "" {
					a := newAuthority(b)
					mine := a.leaf(device)
					through, err := uplinktest.NewProxy(front(b, bench, &tls.Config{Certificates: []tls.Certificate{a.leaf("broker")}, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert}, false))
					if err != nil {
						b.Fatal(err)
					}
					bench.proxy.Close()
					bench.proxy = through
					through.SetRate(c.rate)
					through.SetDelay(c.delay)
					o.URL, o.Insecure = "mqtts://"+through.Addr(), false
					o.TLS = func() (*tls.Config, error) {
						config := &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{mine}}
						if c.secure == "full" {
							config.ClientSessionCache = tls.NewLRUClientSessionCache(1) // a new one each time
						}
						return config, nil
					}
				}
				o.BackoffBase, o.BackoffCap = 200*time.Millisecond, time.Second
				u, stop := bench.start(o)
				began := time.Now()
				for next := began.Add(c.cut); time.Since(began) < c.duration && bench.store.Len() < c.batches; time.Sleep(10 * time.Millisecond) {
					if c.cut > 0 && time.Now().After(next) {
						bench.proxy.Cut(true)
						next = next.Add(c.cut)
					}
				}
				took := time.Since(began)
				got := 0
				for _, s := range bench.store.Order() {
					got += sizes[s.Seq]
				}
				b.ReportMetric(100*float64(got)/took.Seconds()/float64(c.rate), "%link")
				b.ReportMetric(float64(bench.store.Duplicates()), "duplicates")
				b.ReportMetric(float64(sizes[1]), "B/batch")
				b.ReportMetric(float64(u.State().PayloadBytes), "B/payload")
				b.ReportMetric(float64(u.State().Resumed), "resumed")
				stop()
				if err := q.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
