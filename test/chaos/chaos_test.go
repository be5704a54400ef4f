//go:build system

// Package chaos drives the uplink over links and brokers that fail in every way that we can make them fail, against
// brokers of several makers, and counts what the store has at the end.
package chaos

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const (
	tenant = "chaos"
	device = "vehicle-0000001"
	event  = telemetrypb.Lane_LANE_EVENT
	mass   = telemetrypb.Lane_LANE_TELEMETRY

	payload  = 16 << 10
	inFlight = 10

	heapGrowth = 8 << 20 // bytes that may be in use at the end beyond those of the beginning; the queue's memory is among them
)

// broker is what the brokers have in common.
type broker interface {
	Stop()  // as a service manager would: what was acknowledged is kept
	Kill()  // as a power cut would
	Start() // on the same port
}

// mochi is the broker of the tests' own, in process; it keeps sessions over Stop and forgets all at Kill.
type mochi struct {
	*uplinktest.Broker
	t testing.TB
}

func (m mochi) Kill() {
	m.Stop()
	if err := m.Forget(); err != nil {
		m.t.Error(err)
	}
}

func (m mochi) Start() {
	if err := m.Broker.Start(); err != nil {
		m.t.Error(err)
	}
}

func startMochi(t testing.TB) (broker, string) {
	b, err := uplinktest.NewBroker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return mochi{b, t}, b.Addr()
}

// number is a bound of the test, from the environment.
func number(t testing.TB, name string, def int) int {
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number from 1", name, text)
	}
	return n
}

// TestChaos: whatever breaks, every batch is in the store once at the end. WAYBILL_CHAOS_BATCHES and
// WAYBILL_CHAOS_LOSSES say how many batches and lost connections there are at least, for each broker;
// WAYBILL_CHAOS_SEED which accidents.
func TestChaos(t *testing.T) {
	seed := uint64(number(t, "WAYBILL_CHAOS_SEED", 1))
	for name, start := range map[string]func(testing.TB) (broker, string){
		"mochi": startMochi,
		"mosquitto": func(t testing.TB) (broker, string) {
			b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true, Config: []string{"max_queued_messages 0"}})
			return b, b.Addr
		},
		"rabbitmq": func(t testing.TB) (broker, string) { b := deps.RabbitMQ(t, ""); return b, b.Addr },
		"hivemq":   func(t testing.TB) (broker, string) { b := deps.HiveMQ(t, ""); return b, b.Addr },
	} {
		t.Run(name, func(t *testing.T) {
			b, addr := start(t)
			restarts := map[string]int{"mochi": 20, "mosquitto": 20, "rabbitmq": 2, "hivemq": 2}[name] // in a hundred accidents; some brokers take half a minute for one
			c := newCourse(t, b, addr, seed)
			c.run(number(t, "WAYBILL_CHAOS_BATCHES", 2500), number(t, "WAYBILL_CHAOS_LOSSES", 16), restarts)
		})
	}
}

// course is one vehicle on its way through accidents.
type course struct {
	t      testing.TB
	broker broker
	addr   string
	proxy  *uplinktest.Proxy
	store  *uplinktest.Store
	queue  *uplinktest.Queue
	up     *uplink.Uplink
	rand   *rand.Rand
	noName atomic.Bool // the broker's name does not resolve

	added    map[telemetrypb.Lane]int
	bytes    int  // of the batches added
	forgot   bool // a broker died without its sessions: what it acknowledged may come late
	happened map[string]int
}

func newCourse(t testing.TB, b broker, addr string, seed uint64) *course {
	c := &course{t: t, broker: b, addr: addr, rand: rand.New(rand.NewPCG(seed, 7)), added: map[telemetrypb.Lane]int{}, happened: map[string]int{}}
	var err error
	if c.proxy, err = uplinktest.NewProxy(addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.proxy.Close)
	c.store = uplinktest.NewStore(addr, "store")
	t.Cleanup(func() {
		if c.store != nil {
			c.store.Close()
		}
	})
	if c.queue, err = uplinktest.NewQueue(tenant, device, 1); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	c.up, err = uplink.New(uplink.Options{
		URL: "mqtt://broker.test:1883", Tenant: tenant, Device: device, Insecure: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			if c.noName.Load() {
				return nil, &net.DNSError{Err: "no such host", Name: "broker.test", IsNotFound: true}
			}
			return new(net.Dialer).DialContext(ctx, network, c.proxy.Addr())
		},
		// A tenth of what vehicles wait, with as little of the back-off as lets a broker breathe.
		KeepAlive: 2 * time.Second, PingTimeout: 2 * time.Second, WriteTimeout: 2500 * time.Millisecond, ConnectTimeout: 3 * time.Second,
		AckTimeout: 4 * time.Second, ReceiptTimeout: 2 * time.Second, BackoffBase: 20 * time.Millisecond, BackoffCap: 500 * time.Millisecond,
		RefusedRetry: 500 * time.Millisecond, PoisonRetry: 100 * time.Millisecond, PayloadBytes: payload, InFlight: inFlight,
		Rand: rand.New(rand.NewPCG(seed, 8)), Alarms: alarm.NewBoard(func() int64 { return time.Now().UnixNano() }, log), Log: log,
	}, c.queue)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// add puts batches of 100 to 200 bytes into the queue.
func (c *course) add(l telemetrypb.Lane, n int) {
	c.t.Helper()
	for range n {
		samples := make([]telemetrypb.Sample, 8)
		for i := range samples {
			samples[i] = telemetrypb.IntSample(1, int64(c.added[l]*100+i), c.rand.Int64N(1<<40))
		}
		rec, err := c.queue.Add(l, telemetrypb.Head{BootID: [16]byte{1}, BootCount: 1, Catalogue: [16]byte{9}}, samples)
		if err != nil {
			c.t.Fatal(err)
		}
		c.bytes += len(rec.Bytes)
		c.added[l]++
	}
}

// run drives until so many batches were taken in and so many connections were lost, and waits for the rest to arrive.
func (c *course) run(batches, losses, restarts int) {
	c.t.Helper()
	c.wait("the store is attached", time.Minute, c.store.Attached)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.up.Run(ctx) }()
	c.add(mass, 500) // a backlog
	c.wait("online", time.Minute, func() bool { return c.up.State().Connections > 0 })
	goroutines, heap := runtime.NumGoroutine(), heapInUse()

	began, told := time.Now(), 0
	for {
		state := c.up.State()
		total := c.added[mass] + c.added[event]
		if told < total/10000 {
			told = total / 10000
			c.t.Logf("%s: %d of %d batches, %d of %d losses", time.Since(began).Round(time.Second), total, batches, state.Losses, losses)
		}
		if total >= batches && int(state.Losses) >= losses {
			break
		}
		if time.Since(began) > 50*time.Minute {
			c.t.Fatalf("%d of %d batches and %d of %d losses after 50 minutes: %s", total, batches, state.Losses, losses, state)
		}
		if c.queue.Len() < 2000 {
			c.add(mass, 1+c.rand.IntN(1+2*max(0, batches-total)/max(10, (losses-int(state.Losses))/2))) // an accident costs several connections
			c.add(event, c.rand.IntN(3))
		}
		c.accident(restarts)
		c.calm(5 * time.Second)
		for end := time.Now().Add(10 * time.Second); c.queue.Len() >= 2000 && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
	}
	c.calm(time.Minute)
	c.wait("everything released", 5*time.Minute, func() bool { return c.queue.Len() == 0 })
	c.check(goroutines, heap)
	cancel()
	if err := <-done; err != nil {
		c.t.Errorf("Run: %v", err)
	}
}

// accident breaks something and repairs it.
func (c *course) accident(restarts int) {
	pause := func(most int) { time.Sleep(time.Duration(1+c.rand.IntN(most)) * time.Millisecond) }
	note := func(what string) { c.happened[what]++ }
	if c.rand.IntN(100) < restarts {
		if c.rand.IntN(3) == 0 {
			note("broker killed")
			c.forgot = true
			c.broker.Kill()
		} else {
			note("broker stopped")
			c.broker.Stop()
		}
		c.add(event, 1)
		pause(300)
		c.broker.Start()
		return
	}
	switch c.rand.IntN(9) {
	case 0:
		note("connection closed")
		c.proxy.Cut(false)
	case 1:
		note("connection reset")
		c.proxy.Cut(true)
	case 2:
		note("PUBACKs and all else from the broker swallowed")
		c.proxy.Drop(false, true)
		pause(400)
		c.proxy.Cut(c.rand.IntN(2) == 0)
		c.proxy.Drop(false, false)
	case 3:
		note("half open upwards")
		c.proxy.Drop(true, false)
		c.lose()
		c.proxy.Cut(true)
		c.proxy.Drop(false, false)
	case 4:
		note("half open both ways")
		c.proxy.Drop(true, true)
		c.lose()
		c.proxy.Cut(true)
		c.proxy.Drop(false, false)
	case 5:
		note("frozen, then cut")
		c.proxy.Freeze()
		pause(500)
		c.proxy.Cut(true)
		c.proxy.Thaw()
	case 6:
		note("cut at random bytes")
		c.proxy.CutAfter(c.rand, 8<<10)
		c.proxy.Cut(false)
		pause(1500)
		c.proxy.CutAfter(nil, 0)
	case 7:
		note("taken over by another client")
		o := mqtt.NewClientOptions().AddBroker("tcp://" + c.addr).SetClientID(device).SetCleanSession(false).SetAutoReconnect(false).
			SetProtocolVersion(4).SetConnectTimeout(3 * time.Second)
		other := mqtt.NewClient(o)
		if token := other.Connect(); token.WaitTimeout(5*time.Second) && token.Error() == nil {
			pause(100)
		}
		other.Disconnect(0)
	case 8:
		note("name not resolved")
		c.noName.Store(true)
		c.proxy.Cut(true)
		pause(400)
		c.noName.Store(false)
	}
}

// lose waits until the uplink has noticed that its connection is dead.
func (c *course) lose() {
	c.add(event, 1)
	before := c.up.State()
	if before.Phase != uplink.Online {
		return
	}
	c.wait("the dead link noticed", 30*time.Second, func() bool {
		s := c.up.State()
		return s.Losses > before.Losses || s.Phase != uplink.Online
	})
}

// calm lets the vehicle get on for a while: until it is online and something more has arrived.
func (c *course) calm(most time.Duration) {
	released := c.up.State().BatchesReleased
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if s := c.up.State(); s.Phase == uplink.Online && (s.BatchesReleased > released || c.queue.Len() == 0) {
			return
		}
	}
}

func (c *course) check(goroutines int, heap uint64) {
	t := c.t
	t.Helper()
	state := c.up.State()
	if err := c.store.Err(); err != nil {
		t.Errorf("the store: %v", err)
	}
	order := c.store.Order()
	stored := map[telemetrypb.Lane]int{}
	seen := map[uplinktest.Key]bool{}
	last := map[telemetrypb.Lane]map[bool]uint64{event: {}, mass: {}}
	late := 0
	for _, s := range order {
		if seen[s.Key] {
			t.Errorf("batch %v is in the store twice", s.Key)
		}
		seen[s.Key] = true
		stored[s.Lane]++
		if before := last[s.Lane][s.Backlog]; s.Seq < before {
			if late++; late <= 5 {
				t.Logf("late: batch %d of lane %s (backlog: %t), payload %d, after %d", s.Seq, telemetrypb.LaneName(s.Lane), s.Backlog, s.Payload, before)
			}
		}
		last[s.Lane][s.Backlog] = max(last[s.Lane][s.Backlog], s.Seq)
	}
	for lane, n := range c.added {
		if stored[lane] != n {
			t.Errorf("lane %s: %d batches in the store, %d were taken in", telemetrypb.LaneName(lane), stored[lane], n)
		}
	}
	// Two causes, and a few a loss at most: what was in flight at three losses in a row is set aside, and flies alone while
	// others go first; and with a broker of several threads, what a dead connection had sent may still be on its way while the
	// next one sends what is new.
	if late > int(state.Losses) && !c.forgot {
		t.Errorf("%d batches arrived after a later one of their kind, at %d losses, though no broker forgot any", late, state.Losses)
	}
	if most := state.Losses * inFlight * payload; state.BatchesResent*uint64(c.bytes/len(order)) > most {
		t.Errorf("%d batches were resent, more than %d bytes: one in-flight budget a loss", state.BatchesResent, most)
	}
	for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > goroutines+20 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines+20 {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d at the start:\n%s", n, goroutines, buf[:runtime.Stack(buf, true)])
	}
	what := ""
	for name, n := range c.happened {
		what += fmt.Sprintf("; %s: %d", name, n)
	}
	batches, twice := len(order), c.store.Duplicates()
	c.store.Close() // what it remembers is the test's, and grows
	c.store, order, seen = nil, nil, nil
	after := heapInUse()
	if after > heap+heapGrowth {
		t.Errorf("%d KiB of heap, %d at the start", after>>10, heap>>10)
	}
	t.Logf("%d batches in %d payloads, %d losses, %d connections, %d batches resent (%.1f a loss), %d came twice to the store, %d late; heap %d → %d KiB%s",
		batches, state.Payloads, state.Losses, state.Connections, state.BatchesResent,
		float64(state.BatchesResent)/float64(max(1, state.Losses)), twice, late, heap>>10, after>>10, what)
}

func (c *course) wait(what string, bound time.Duration, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("not within %v: %s; %s", bound, what, c.up.State())
		}
	}
}

// heapInUse is what is left after a collection.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
