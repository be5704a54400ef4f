package uplink_test

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const (
	tenant = "acme"
	device = "vehicle-0000001"
	epoch  = 0xE90C_0000_0000_0001
)

// patience is when a test gives up waiting; it says nothing of how long anything should take.
const patience = time.Minute

// bench is a vehicle's uplink, its queue, a broker and a store.
type bench struct {
	t      testing.TB
	broker *uplinktest.Broker
	proxy  *uplinktest.Proxy // nil: none
	store  *uplinktest.Store
	queue  *uplinktest.Queue
	alarms *alarm.Board
	rand   *rand.Rand
	boot   [16]byte
}

func newBench(t testing.TB, proxied bool) *bench {
	t.Helper()
	b := &bench{t: t, rand: rand.New(rand.NewPCG(7, 11)), boot: [16]byte{1, 2, 3}}
	var err error
	if b.queue, err = uplinktest.NewQueue(tenant, device, epoch); err != nil {
		t.Fatal(err)
	}
	if b.broker, err = uplinktest.NewBroker(); err != nil {
		t.Fatal(err)
	}
	if proxied {
		if b.proxy, err = uplinktest.NewProxy(b.broker.Addr()); err != nil {
			t.Fatal(err)
		}
	}
	b.store = uplinktest.NewStore(b.broker.Addr(), "store")
	b.alarms = alarm.NewBoard(func() int64 { return 1 }, b.logger())
	t.Cleanup(func() {
		if err := b.store.Err(); err != nil {
			t.Errorf("the store: %v", err)
		}
		b.store.Close()
		if b.proxy != nil {
			b.proxy.Close()
		}
		b.broker.Close()
		noGoroutinesLeft(t)
	})
	b.wait("the store attached", b.store.Attached)
	return b
}

func (b *bench) logger() *slog.Logger {
	w := io.Discard
	if os.Getenv("WAYBILL_TESTLOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

// options wait little between connections. The other timeouts stay long, for a loaded machine; a test that is about one
// of them shortens it.
func (b *bench) options() uplink.Options {
	addr := b.broker.Addr()
	if b.proxy != nil {
		addr = b.proxy.Addr()
	}
	return uplink.Options{
		URL: "mqtt://" + addr, Tenant: tenant, Device: device, Insecure: true,
		WriteTimeout: 10 * time.Second, ConnectTimeout: 10 * time.Second, StopTimeout: 10 * time.Second,
		BackoffBase: 10 * time.Millisecond, BackoffCap: 100 * time.Millisecond, RefusedRetry: 100 * time.Millisecond,
		PoisonRetry: 50 * time.Millisecond,
		Rand:        rand.New(rand.NewPCG(3, 5)), Alarms: b.alarms, Log: b.logger(),
	}
}

// start runs an uplink until the test ends, or stop is called.
func (b *bench) start(o uplink.Options) (u *uplink.Uplink, stop func()) {
	b.t.Helper()
	u, err := uplink.New(o, b.queue)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				b.t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			b.t.Error("Run does not end")
		}
	}
	b.t.Cleanup(stop)
	return u, stop
}

// add commits n batches of telemetry, about 60 to 700 bytes each.
func (b *bench) add(l telemetrypb.Lane, n int) {
	b.t.Helper()
	for range n {
		samples := make([]telemetrypb.Sample, 1+b.rand.IntN(80))
		at := b.rand.Int64N(1e12)
		for i := range samples {
			samples[i] = telemetrypb.IntSample(1+uint32(i%3), at+int64(i)*1e7, b.rand.Int64N(1<<40))
		}
		if _, err := b.queue.Add(l, telemetrypb.Head{BootID: b.boot, BootCount: 3, Catalogue: [16]byte{9}}, samples); err != nil {
			b.t.Fatal(err)
		}
	}
}

// wait waits until a condition holds.
func (b *bench) wait(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func (b *bench) raised(name string) bool {
	for _, a := range b.alarms.Standing() {
		if a.Name == name {
			return true
		}
	}
	return false
}

// arrived waits for the queue to be drained and checks that the store has every number of the lane once.
func (b *bench) arrived(want int) {
	b.t.Helper()
	b.wait("everything released", func() bool { return b.queue.Len() == 0 })
	b.wait("everything stored", func() bool { return b.store.Len() >= want })
	seen := map[uplinktest.Key]bool{}
	for _, s := range b.store.Order() {
		if seen[s.Key] {
			b.t.Errorf("batch %v is in the store twice", s.Key)
		}
		seen[s.Key] = true
	}
	if len(seen) != want {
		b.t.Errorf("%d batches in the store, want %d", len(seen), want)
	}
}

// noGoroutinesLeft fails when a goroutine of the uplink or of paho outlives its test.
func noGoroutinesLeft(t testing.TB) {
	t.Helper()
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = left[:0]
		for _, g := range strings.Split(string(buf), "\n\n") {
			if (strings.Contains(g, "waybill/uplink") || strings.Contains(g, "paho.mqtt")) && !strings.Contains(g, "testing.(*") && !strings.Contains(g, "testing.tRunner") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return
		}
	}
	t.Errorf("%d goroutines are left, among them:\n%s", len(left), left[0])
}
