//go:build system

package chaos

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// said is within what the vehicle has to say what is wrong, by the timers that vehicles have.
const said = time.Minute

// trial is a vehicle with default timers before a broker that refuses something.
type trial struct {
	t      *testing.T
	device string
	queue  *uplinktest.Queue
	up     *uplink.Uplink
	rand   *rand.Rand
	added  int
	began  time.Time // of what is refused
	stop   func()
	// patient is for a broker that, on a busy machine, closes before its PUBACKs are out: it takes more tries to learn what it
	// denies, so they are kept near to each other, and it has longer.
	patient bool

	mu     sync.Mutex // guards raised
	raised map[string]raise
}

// raise is an alarm's first.
type raise struct {
	at   time.Time
	text string
}

func newTrial(t *testing.T, device string) *trial {
	t.Helper()
	q, err := uplinktest.NewQueue(tenant, device, rand.Uint64())
	if err != nil {
		t.Fatal(err)
	}
	r := &trial{t: t, device: device, queue: q, rand: rand.New(rand.NewPCG(1, 2)), stop: func() {}}
	t.Cleanup(func() { r.stop() })
	return r
}

// Samples of a batch: one of some 100 bytes, one of 12 KiB.
const (
	small = 8
	big   = 2000
)

// add commits batches.
func (r *trial) add(l telemetrypb.Lane, n, size int) {
	r.t.Helper()
	for range n {
		samples := make([]telemetrypb.Sample, size)
		for i := range samples {
			samples[i] = telemetrypb.UintSample(1, int64(i)*1e7, r.rand.Uint64N(1<<48))
		}
		if _, err := r.queue.Add(l, telemetrypb.Head{BootID: [16]byte{1}, BootCount: 1, Catalogue: [16]byte{9}}, samples); err != nil {
			r.t.Fatal(err)
		}
		r.added++
	}
}

// drive starts an uplink with default timers; one that ran before is stopped.
func (r *trial) drive(addr string, change ...func(*uplink.Options)) {
	r.t.Helper()
	r.stop()
	r.mu.Lock()
	r.raised = map[string]raise{}
	r.mu.Unlock()
	log := slog.New(slog.NewTextHandler(r.t.Output(), nil))
	board := alarm.NewBoard(func() int64 { return time.Now().UnixNano() }, log)
	board.Watch(func(a alarm.Alarm) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, known := r.raised[a.Name]; a.Raised && !known {
			r.raised[a.Name] = raise{time.Now(), a.Text}
		}
	})
	o := uplink.Options{URL: "mqtt://" + addr, Insecure: true, Tenant: tenant, Device: r.device, Alarms: board, Log: log}
	if r.patient {
		o.BackoffCap = 10 * time.Second
	}
	for _, c := range change {
		c(&o)
	}
	up, err := uplink.New(o, r.queue)
	if err != nil {
		r.t.Fatal(err)
	}
	r.up, r.began = up, time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- up.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
}

// says waits for an alarm with all the words, and wants it in time.
func (r *trial) says(name string, words ...string) {
	r.t.Helper()
	var first raise
	r.wait(name, 2*r.bound(), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		first = r.raised[name]
		return first.text != ""
	})
	after := first.at.Sub(r.began)
	r.t.Logf("%s after %s, %d attempts: %s", name, after.Round(time.Millisecond), r.up.State().Attempts, first.text)
	if after > r.bound() {
		r.t.Errorf("%s after %s, want it within %s", name, after, r.bound())
	}
	for _, w := range words {
		if !strings.Contains(first.text, w) {
			r.t.Errorf("%s does not name %q: %s", name, w, first.text)
		}
	}
}

// bound is within what the vehicle has to say what is wrong.
func (r *trial) bound() time.Duration {
	if r.patient {
		return 4 * said
	}
	return said
}

// calm wants no more tries to connect than so many.
func (r *trial) calm(most uint64) {
	r.t.Helper()
	if s := r.up.State(); s.Attempts > most {
		r.t.Errorf("%d tries to connect in %s, want %d at most", s.Attempts, time.Since(r.began).Round(time.Second), most)
	}
}

// holds waits until so many batches are left in the queue.
func (r *trial) holds(n int) {
	r.t.Helper()
	r.wait("the rest flows", said, func() bool { return r.queue.Len() <= n })
	if got := r.queue.Len(); got != n {
		r.t.Errorf("%d batches are held, want %d", got, n)
	}
}

// arrives waits until every batch is in the store, and wants each there once.
func (r *trial) arrives(store *uplinktest.Store) {
	r.t.Helper()
	r.wait("everything released", 2*r.bound(), func() bool { return r.queue.Len() == 0 })
	if err := store.Err(); err != nil {
		r.t.Errorf("the store: %v", err)
	}
	seen := map[uplinktest.Key]bool{}
	for _, s := range store.Order() {
		if s.Device != r.device || s.Epoch != r.queue.Epoch() {
			continue
		}
		if seen[s.Key] {
			r.t.Errorf("batch %v is in the store twice", s.Key)
		}
		seen[s.Key] = true
	}
	if len(seen) != r.added {
		r.t.Errorf("%d batches in the store, %d were taken in", len(seen), r.added)
	}
}

func (r *trial) wait(what string, bound time.Duration, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.t.Fatalf("not within %v: %s; %s; alarms %v", bound, what, r.up.State(), r.raised)
		}
	}
}

// attach has a store take what comes to a broker.
func attach(t *testing.T, addr string) *uplinktest.Store {
	t.Helper()
	store := uplinktest.NewStore(addr, "store")
	t.Cleanup(store.Close)
	attached(t, store)
	return store
}

func attached(t *testing.T, store *uplinktest.Store) {
	t.Helper()
	for end := time.Now().Add(said); !store.Attached(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the store cannot attach")
		}
	}
}

// reconfigure mends a broker: it starts again without the lines of its file that have the word.
func reconfigure(t *testing.T, b *deps.Broker, file, word string) {
	t.Helper()
	path := filepath.Join(b.Dir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, word) {
			kept = append(kept, line)
		}
	}
	if err := os.WriteFile(path, []byte(strings.Join(kept, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Restart()
}
