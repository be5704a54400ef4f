package uplink_test

import (
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	crand "crypto/rand"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// wan is a link to measure on.
type wan struct {
	rate  int           // bytes/s
	delay time.Duration // each way
	cut   time.Duration // between cuts; 0: none
}

var (
	broadband = wan{1 << 20, 50 * time.Millisecond, 0}
	narrow    = wan{20 << 10, 20 * time.Millisecond, 0}
	flapping  = wan{20 << 10, 20 * time.Millisecond, 4 * time.Second}
)

func (w wan) shape(p *uplinktest.Proxy) {
	p.SetRate(w.rate)
	p.SetDelay(w.delay)
}

// BenchmarkDrain says what share of a link carries new batches to the store, beside TCP alone through another proxy of the same
// kind at the same time. Where the link is cut, handshakes, ramps and what was cut off count. The bars are 95 and 80 % of
// TCP, without TLS.
func BenchmarkDrain(b *testing.B) {
	for _, c := range []struct {
		name    string
		wan     wan
		samples int           // a batch, of about 6 bytes
		ramp    time.Duration // that does not count: connecting, and finding out what the link takes
		lasts   time.Duration
		secure  string
		bar     float64 // % of TCP; 0: none
	}{
		{"1MBs-100ms", broadband, 2700, 2 * time.Second, 10 * time.Second, "", 95},
		{"1MBs-100ms-small-batches", broadband, 300, 2 * time.Second, 10 * time.Second, "", 95},
		{"20kBs-cut4s", flapping, 2700, 0, 24 * time.Second, "", 80},
		{"20kBs-cut4s-small-batches", flapping, 300, 0, 24 * time.Second, "", 80},
		{"20kBs-cut4s-mtls", flapping, 2700, 0, 24 * time.Second, "full", 0},
		{"20kBs-cut4s-mtls-resumed", flapping, 2700, 0, 24 * time.Second, "resumed", 0},
		{"20kBs-cut4s-mtls-small-batches", flapping, 300, 0, 24 * time.Second, "full", 0},
		{"20kBs-cut4s-mtls-resumed-small-batches", flapping, 300, 0, 24 * time.Second, "resumed", 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				l := newLinkBench(b, c.wan, c.secure)
				raw := newRawTCP(b, c.wan)
				l.fill(float64(c.wan.rate)*(c.lasts+time.Second).Seconds(), c.samples)
				u, stop := l.start(l.options)
				go raw.send()
				began := time.Now()
				var next <-chan time.Time
				if c.wan.cut > 0 {
					ticker := time.NewTicker(c.wan.cut)
					defer ticker.Stop()
					next = ticker.C
				}
				var ours, theirs int64 // what had arrived when the ramp was over
				for end, ramp := time.After(c.lasts), time.After(c.ramp); end != nil; {
					select {
					case <-ramp:
						ours, theirs = l.arrived(), raw.got.Load()
						began = time.Now()
					case <-next:
						l.proxy.Cut(true)
						raw.proxy.Cut(true)
					case <-end:
						end = nil
					}
				}
				allOurs, allTheirs, took := l.arrived(), raw.got.Load(), time.Since(began).Seconds()
				b.ReportMetric(100*float64(allOurs-ours)/float64(allTheirs-theirs), "%tcp")
				if c.bar > 0 {
					b.ReportMetric(c.bar, "%tcp-bar")
				}
				if c.ramp > 0 {
					b.ReportMetric(100*float64(allOurs)/float64(allTheirs), "%tcp-with-ramp")
				}
				b.ReportMetric(100*float64(allOurs-ours)/took/float64(c.wan.rate), "%link")
				b.ReportMetric(100*float64(allTheirs-theirs)/took/float64(c.wan.rate), "%link-tcp")
				b.ReportMetric(float64(l.sizes[1]), "B/batch")
				state := u.State()
				b.ReportMetric(float64(state.BytesSent)/float64(max(state.Payloads, 1)), "B/publish")
				b.ReportMetric(float64(state.InFlightMost), "B-budget")
				if c.secure != "" {
					b.ReportMetric(float64(state.Resumed), "resumed")
				}
				raw.stop()
				stop()
				l.close()
			}
		})
	}
}

// BenchmarkEventBehindBacklog says how long an event takes from being raised to the broker while a backlog fills the
// link: its commit, what is in flight before it, and the way. The queue is the agent's, on disk.
func BenchmarkEventBehindBacklog(b *testing.B) {
	for _, c := range []struct {
		name    string
		wan     wan
		samples int
		settle  time.Duration // before the first event
		events  int
		pause   time.Duration
		bar     func(commit, payload time.Duration) time.Duration
	}{
		{"1MBs-100ms", broadband, 2700, 2 * time.Second, 20, 300 * time.Millisecond,
			func(commit, payload time.Duration) time.Duration { return 4*broadband.delay + commit + payload }},
		{"20kBs", narrow, 2700, 3 * time.Second, 12, 2 * time.Second,
			func(commit, payload time.Duration) time.Duration { return 2 * time.Second }},
		{"20kBs-small-batches", narrow, 300, 3 * time.Second, 12, 2 * time.Second,
			func(commit, payload time.Duration) time.Duration { return 2 * time.Second }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				l := newLinkBench(b, c.wan, "")
				arrived := make(chan time.Time, 1)
				l.broker.SetRules(uplinktest.Rules{Swallow: func(_, topic string, _ []byte) bool {
					if strings.HasSuffix(topic, telemetrypb.TopicLane(event)) {
						arrived <- time.Now()
					}
					return false
				}})
				lasts := c.settle + time.Duration(c.events+1)*(c.pause+c.bar(0, 0))
				l.fill(1.5*float64(c.wan.rate)*lasts.Seconds(), c.samples)
				u, stop := l.start(l.options)
				time.Sleep(c.settle)
				var worst, sum, commit, most time.Duration
				flying := 0
				for n := range c.events {
					state := u.State()
					payload := time.Duration(float64(max(state.PayloadBytes, l.largest)) / float64(c.wan.rate) * float64(time.Second))
					flying = max(flying, state.InFlightBytes)
					raised := time.Now()
					if err := l.disk.Commit([]buffer.Record{l.batch(event, 20)}, nil); err != nil {
						b.Fatal(err)
					}
					committed := time.Since(raised)
					took := (<-arrived).Sub(raised)
					commit, most = max(commit, committed), max(most, c.bar(committed, payload))
					worst, sum = max(worst, took), sum+took
					time.Sleep(c.pause + time.Duration(n%7)*c.pause/20)
				}
				if l.queue.Len() < 10 {
					b.Error("the backlog ran out")
				}
				b.ReportMetric(worst.Seconds()*1e3, "ms-worst")
				b.ReportMetric(sum.Seconds()*1e3/float64(c.events), "ms-mean")
				b.ReportMetric(most.Seconds()*1e3, "ms-bar")
				b.ReportMetric(worst.Seconds()/most.Seconds(), "x-bar")
				b.ReportMetric(commit.Seconds()*1e3, "ms-commit")
				b.ReportMetric(float64(flying), "B-in-flight")
				stop()
				l.close()
			}
		})
	}
}

// linkBench is a vehicle with the agent's queue behind a link.
type linkBench struct {
	*bench
	disk    *buffer.Queue
	options uplink.Options
	sizes   map[uint64]int // of telemetry, by number
	largest int
}

func newLinkBench(b *testing.B, w wan, secure string) *linkBench {
	l := &linkBench{bench: newBench(b, true), sizes: map[uint64]int{}}
	var err error
	if l.disk, err = buffer.Open(b.TempDir(), buffer.Options{Rand: crand.Reader}); err != nil {
		b.Fatal(err)
	}
	l.queue = uplinktest.Name(l.disk, tenant, device)
	w.shape(l.proxy)
	l.options = l.bench.options()
	l.options.BackoffBase, l.options.BackoffCap = 200*time.Millisecond, time.Second
	if secure != "" {
		l.secure(b, w, secure == "resumed")
	}
	return l
}

// secure puts TLS with client certificates between vehicle and broker.
func (l *linkBench) secure(b *testing.B, w wan, resume bool) {
	a := certs.NewAuthority(b, "authority")
	mine := a.Leaf(device).TLS()
	through, err := uplinktest.NewProxy(front(b, l.bench, &tls.Config{Certificates: []tls.Certificate{a.Leaf("broker").TLS()}, ClientCAs: a.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}, false))
	if err != nil {
		b.Fatal(err)
	}
	l.proxy.Close()
	l.proxy = through
	w.shape(through)
	l.options.URL, l.options.Insecure = "mqtts://"+through.Addr(), false
	l.options.TLS = func() (*tls.Config, error) {
		config := &tls.Config{RootCAs: a.Pool(), Certificates: []tls.Certificate{mine}}
		if !resume {
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1) // a new one each time
		}
		return config, nil
	}
}

// batch seals a batch of noise.
func (l *linkBench) batch(lane telemetrypb.Lane, count int) buffer.Record {
	l.t.Helper()
	samples := make([]telemetrypb.Sample, count)
	for i := range samples {
		samples[i] = telemetrypb.UintSample(1, int64(i)*1e7, l.rand.Uint64N(1<<48))
	}
	rec := buffer.Record{Lane: buffer.Lane(lane), Samples: uint32(count), Seq: l.disk.Reserve(buffer.Lane(lane))}
	head := telemetrypb.Head{Tenant: tenant, Device: device, Epoch: l.disk.Epoch(), Lane: lane, Seq: rec.Seq, BootID: l.boot, Catalogue: [16]byte{9}}
	var err error
	if rec.Bytes, err = telemetrypb.AppendBatch(nil, &head, samples); err != nil {
		l.t.Fatal(err)
	}
	return rec
}

// arrived is how many bytes of telemetry the store has.
func (l *linkBench) arrived() (bytes int64) {
	for _, s := range l.store.Order() {
		bytes += int64(l.sizes[s.Seq])
	}
	return bytes
}

// fill commits telemetry of so many bytes.
func (l *linkBench) fill(bytes float64, count int) {
	l.t.Helper()
	for bytes > 0 {
		var recs []buffer.Record
		for size := 0; size < 1<<20 && bytes > 0; {
			rec := l.batch(telemetry, count)
			recs = append(recs, rec)
			size, bytes = size+len(rec.Bytes), bytes-float64(len(rec.Bytes))
			l.sizes[rec.Seq] = len(rec.Bytes)
			l.largest = max(l.largest, len(rec.Bytes))
		}
		if err := l.disk.Commit(recs, nil); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *linkBench) close() {
	if err := l.disk.Close(); err != nil {
		l.t.Fatal(err)
	}
}

// rawTCP is a sender that does nothing but write, through a link of its own, and connects again at once.
type rawTCP struct {
	proxy *uplinktest.Proxy
	got   atomic.Int64
	done  chan struct{}
	stop  func()
}

func newRawTCP(b *testing.B, w wan) *rawTCP {
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	r := &rawTCP{done: make(chan struct{})}
	if r.proxy, err = uplinktest.NewProxy(sink.Addr().String()); err != nil {
		b.Fatal(err)
	}
	w.shape(r.proxy)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := sink.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer conn.Close()
				for b := make([]byte, 64<<10); ; {
					n, err := conn.Read(b)
					r.got.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
		}
	})
	r.stop = sync.OnceFunc(func() {
		close(r.done)
		r.proxy.Close()
		_ = sink.Close()
		tasks.Wait()
	})
	b.Cleanup(r.stop)
	return r
}

func (r *rawTCP) send() {
	noise := make([]byte, 64<<10)
	for {
		select {
		case <-r.done:
			return
		default:
		}
		conn, err := net.Dial("tcp", r.proxy.Addr())
		if err != nil {
			continue
		}
		for err == nil {
			_, err = conn.Write(noise)
		}
		_ = conn.Close()
	}
}
