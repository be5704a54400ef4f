//go:build system

// Package crowd has thousands of vehicles at one broker and one store, and takes the broker away from all of them at
// once: they come back one after another, and everything arrives.
package crowd

import (
	"context"
	crand "crypto/rand"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
)

// TestCrowd: WAYBILL_CROWD vehicles (5,000) start at the same moment, as in a depot whose power comes back, and lose
// their broker to SIGKILL twice, for five seconds and for hardly any time. Each is online again in the end, after few tries
// and at a time of its own, and drained; the store has each batch once.
func TestCrowd(t *testing.T) {
	n := 5000
	if text := os.Getenv("WAYBILL_CROWD"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			t.Fatalf("WAYBILL_CROWD=%s: want a number from 1", text)
		}
	}
	c := newCrowd(t, n)
	defer c.stop()

	c.add(2)
	began := time.Now()
	c.start()
	c.settled("start of all at once", began)
	if most := c.tell("start of all at once", began); most > 5 {
		t.Errorf("a vehicle tried %d times to connect to a broker that was there", most)
	}
	c.say()

	c.outage("broker killed for five seconds", 5*time.Second)
	c.outage("broker killed and started again at once", 0)
	c.check()
}

// crowd is the vehicles, their broker and the store.
type crowd struct {
	t        testing.TB
	broker   *deps.Broker
	store    *store.SQLite
	receiver *ingest.Receiver
	vehicles []*vehicle
	began    usage
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	run      context.Context
}

func newCrowd(t testing.TB, n int) *crowd {
	t.Helper()
	moreFiles(t, uint64(2*n+1000)) // of this process, and inherited by the broker
	c := &crowd{t: t}
	c.run, c.cancel = context.WithCancel(context.Background())
	c.broker = deps.Mosquitto(t, deps.MosquittoOptions{Config: []string{"max_queued_messages 0", "log_type none", "log_type error", "log_type warning"}})
	var err error
	if c.store, err = store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{Rand: crand.Reader}); err != nil {
		t.Fatal(err)
	}
	if c.receiver, err = ingest.NewReceiver(ingest.ReceiverOptions{Broker: c.broker.URL(), ClientID: "store"}, ingest.New(ingest.Options{}, c.store)); err != nil {
		t.Fatal(err)
	}
	c.tasks.Go(func() {
		if err := c.receiver.Run(c.run); err != nil {
			t.Errorf("the store: %v", err)
		}
	})
	c.wait("the store is attached", time.Minute, c.receiver.Connected)

	data, hash := telemetrypb.EncodeCatalogue(&telemetrypb.Catalogue{Format: 1, Signals: []*telemetrypb.Signal{
		{Id: 1, Name: "can0.Motor.Speed", Unit: "rpm", Scale: 0.25, Type: telemetrypb.ValueType_VALUE_TYPE_UINT},
	}})
	c.began = use()
	log := discard()
	for i := range n {
		c.vehicles = append(c.vehicles, newVehicle(t, i, c.broker.Addr, data, [16]byte(hash[:16]), log))
	}
	return c
}

// start runs all vehicles, from the same moment on.
func (c *crowd) start() {
	for _, v := range c.vehicles {
		c.tasks.Go(func() {
			if err := v.up.Run(c.run); err != nil {
				c.t.Errorf("Run: %v", err)
			}
		})
	}
}

func (c *crowd) stop() {
	c.cancel()
	c.tasks.Wait()
	if err := c.store.Close(); err != nil {
		c.t.Error(err)
	}
}

// add gives each vehicle n batches.
func (c *crowd) add(n int) {
	c.t.Helper()
	for _, v := range c.vehicles {
		if err := v.add(n); err != nil {
			c.t.Fatal(err)
		}
	}
}

// outage kills the broker, and starts it again after a while, in which the vehicles go on collecting.
func (c *crowd) outage(what string, down time.Duration) {
	c.t.Helper()
	c.add(1) // on its way while the broker goes
	began := time.Now()
	c.broker.Kill()
	c.wait("the store has lost its broker", time.Minute, func() bool { return !c.receiver.Connected() })
	c.add(2)
	time.Sleep(time.Until(began.Add(down)))
	c.broker.Start()
	c.wait("the store is attached again", 2*time.Minute, c.receiver.Connected)
	c.t.Logf("%s: the store is back after %.1f s", what, time.Since(began).Seconds())
	c.settled(what, began)
	c.judge(what, began)
	c.say()
}

// settled waits until every vehicle has been online since a moment, and has nothing left to send.
func (c *crowd) settled(what string, since time.Time) {
	c.t.Helper()
	online := func(v *vehicle) bool {
		tries := v.since(since)
		return len(tries) > 0 && !tries[len(tries)-1].ended.IsZero() && tries[len(tries)-1].err == nil && v.up.State().Phase == uplink.Online
	}
	c.every(what+": online", 5*time.Minute, online)
	reached := time.Since(since)
	c.every(what+": drained", 5*time.Minute, func(v *vehicle) bool { return online(v) && v.queue.Len() == 0 })
	c.t.Logf("%s: all online after %.1f s, all drained after %.1f s", what, reached.Seconds(), time.Since(since).Seconds())
}

// every waits for a condition of each vehicle.
func (c *crowd) every(what string, bound time.Duration, ok func(*vehicle) bool) {
	c.t.Helper()
	left := slices.Clone(c.vehicles)
	for end := time.Now().Add(bound); ; time.Sleep(100 * time.Millisecond) {
		left = slices.DeleteFunc(left, ok)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s: %d of %d vehicles are not, after %v; one of them: %s", what, len(left), len(c.vehicles), bound, left[0].up.State())
		}
	}
}

// tell prints how the tries since a moment went, and says how many a vehicle made at most.
func (c *crowd) tell(what string, began time.Time) (most int) {
	var tries, connacks, took []time.Duration
	failed := map[string]int{}
	for _, v := range c.vehicles {
		all := v.since(began)
		most = max(most, len(all))
		for _, try := range all {
			tries = append(tries, try.at.Sub(began))
			if try.err != nil {
				failed[reason(try.err)]++
				continue
			}
			connacks = append(connacks, try.ended.Sub(began))
			took = append(took, try.ended.Sub(try.at))
		}
	}
	slices.Sort(took)
	c.t.Logf("%s: %d tries, at most %d of one vehicle; failed: %v; dial to CONNACK: median %.2f s, 99 %% within %.2f s, longest %.2f s\n  tries in each second:    %v\n  CONNACKs in each second: %v",
		what, len(tries), most, failed, took[len(took)/2].Seconds(), took[len(took)*99/100].Seconds(), took[len(took)-1].Seconds(), perSecond(tries), perSecond(connacks))
	return most
}

// judge holds what the vehicles did since they lost their broker to what full jitter promises.
func (c *crowd) judge(what string, began time.Time) {
	t := c.t
	t.Helper()
	most := c.tell(what, began)
	var back time.Time // of the broker: when the first try began that it took
	for _, v := range c.vehicles {
		for _, try := range v.since(began) {
			if try.err == nil && (back.IsZero() || try.at.Before(back)) {
				back = try.at
			}
		}
	}
	var came, down []time.Duration
	for _, v := range c.vehicles {
		tries := v.since(back)
		if len(tries) == 0 {
			t.Fatalf("%s: a vehicle did not try since the broker is back", what)
		}
		came = append(came, tries[0].at.Sub(back))
		down = append(down, back.Sub(v.lost(began)))
	}
	expected, bound := foretell(down)
	got, want := perSecond(came), perSecond(expected)
	t.Logf("%s: back after %.1f s; first tries in each second from then on, and what full jitter foretells:\n  %v\n  %v\n  the busiest has %.1f %%, foretold %.1f %%; the last comes after %.0f s, foretold %.0f s",
		what, back.Sub(began).Seconds(), got, divided(want, lives), 100*share(got), 100*share(want), slices.Max(came).Seconds(), slices.Max(expected).Seconds())
	if limit := 1.5*share(want) + 5*math.Sqrt(share(want)/float64(len(c.vehicles))); share(got) > limit {
		t.Errorf("%s: %.1f %% of the vehicles came within a second; full jitter foretells %.1f %%, and %.1f %% are allowed", what, 100*share(got), 100*share(want), 100*limit)
	}
	if most > 2*bound {
		t.Errorf("%s: a vehicle tried %d times; full jitter takes %d", what, most, bound)
	}
}

// check: the store has all, once.
func (c *crowd) check() {
	t := c.t
	t.Helper()
	want := store.Totals{Devices: int64(len(c.vehicles))}
	var resent, sent uint64
	for _, v := range c.vehicles {
		want.Batches += int64(v.added) + 1
		want.Samples += int64(v.added) * batchSamples
		s := v.up.State()
		resent, sent = resent+s.BatchesResent, sent+s.BatchesSent
	}
	if got := c.store.Totals(); got != want {
		t.Errorf("the store has %+v, want %+v", got, want)
	}
	t.Logf("%d vehicles, %d batches in the store, %d sent, of them %d again; the receiver's counts: %+v", len(c.vehicles), want.Batches, sent, resent, c.receiver.Counts())
}

// usage is what a process takes.
type usage struct {
	goroutines int
	heap       uint64
	resident   uint64
}

func use() (u usage) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.goroutines, u.heap = runtime.NumGoroutine(), m.HeapInuse+m.StackInuse
	text, _ := os.ReadFile("/proc/self/statm")
	if fields := strings.Fields(string(text)); len(fields) > 1 {
		pages, _ := strconv.ParseUint(fields[1], 10, 64)
		u.resident = pages * uint64(os.Getpagesize())
	}
	return u
}

// say prints what a vehicle takes.
func (c *crowd) say() {
	now, n := use(), len(c.vehicles)
	c.t.Logf("a vehicle: %.1f goroutines, %d KiB of heap and stacks; this process: %d MiB resident", float64(now.goroutines-c.began.goroutines)/float64(n),
		(int64(now.heap)-int64(c.began.heap))>>10/int64(n), now.resident>>20)
}

func (c *crowd) wait(what string, bound time.Duration, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("not within %v: %s", bound, what)
		}
	}
}

// moreFiles raises the number of files that this process and its children may have open.
func moreFiles(t testing.TB, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	before := limit
	limit.Cur, limit.Max = max(limit.Cur, n), max(limit.Max, n)
	// Called also where it changes nothing: else the go runtime gives children the limit that it found.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		deps.Missing(t, "%d open files for %s: the limit is %d, and stays so: %v", n, t.Name(), before.Max, err)
	}
}

// reason is an error without the addresses in it.
func reason(err error) string {
	text := err.Error()
	return text[strings.LastIndex(text, ": ")+1:]
}

// divided is every count, divided.
func divided(counts []int, by int) []int {
	out := make([]int, len(counts))
	for i, n := range counts {
		out[i] = (n + by/2) / by
	}
	for len(out) > 0 && out[len(out)-1] == 0 {
		out = out[:len(out)-1]
	}
	return out
}
