//go:build system

// Package shares tries several stores' receivers that share what vehicles publish, on brokers of several makers: with the
// real uplink as the vehicle, the real receiver with its slots and leases, and the real store.
package shares

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const (
	slots        = 4
	vehicles     = 6
	batchSamples = 10
)

// fleet is some processes before one store, and some vehicles. A process is a Slots with a lease file of its own, which
// reaches the broker through a proxy, so that it can be cut off as a killed one is.
type fleet struct {
	t         *testing.T
	broker    *deps.Broker
	dir       string
	store     *store.SQLite
	ingester  *ingest.Ingester
	processes []*process
	cars      []*car
	log       *slog.Logger
	least     int // processes that take part, of those there are
}

func newFleet(t *testing.T, b *deps.Broker) *fleet {
	t.Helper()
	f := &fleet{t: t, broker: b, dir: t.TempDir(), log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))}
	var err error
	if f.store, err = store.Open(context.Background(), filepath.Join(f.dir, "fleet.db"), store.Options{Rand: crand.Reader}); err != nil {
		t.Fatal(err)
	}
	f.ingester = ingest.New(ingest.Options{}, f.store)
	t.Cleanup(func() {
		for _, c := range f.cars {
			c.stop()
		}
		for _, p := range f.processes {
			p.end()
		}
		if err := f.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// process is one of those that share.
type process struct {
	f      *fleet
	slots  *ingest.Slots
	leases *ingest.FileLeaser
	proxy  *uplinktest.Proxy
	end    func()
	dead   atomic.Bool
	taken  atomic.Int64 // messages
}

// commitTime is what a commit takes here, so that one process alone would fall behind: HiveMQ has one queue for the group, from
// which who has room is given all that fits.
const commitTime = 300 * time.Millisecond

// Apply is the store as long as the process lives.
func (p *process) Apply(ctx context.Context, m []ingest.Message) ([]ingest.Reply, ingest.Counts, error) {
	if p.dead.Load() {
		return nil, ingest.Counts{}, errors.New("killed")
	}
	time.Sleep(commitTime)
	replies, counts, err := p.f.ingester.Apply(ctx, m)
	if p.dead.Load() { // between commit and receipt, the worst moment
		return nil, ingest.Counts{}, errors.New("killed")
	}
	if err == nil {
		p.taken.Add(int64(len(m)))
	}
	return replies, counts, err
}

func (f *fleet) join() *process {
	f.t.Helper()
	p := &process{f: f}
	var err error
	if p.proxy, err = uplinktest.NewProxy(f.broker.Addr); err != nil {
		f.t.Fatal(err)
	}
	if p.leases, err = ingest.NewFileLeaser(filepath.Join(f.dir, "slots")); err != nil {
		f.t.Fatal(err)
	}
	p.slots, err = ingest.NewSlots(ingest.SlotsOptions{
		Receiver: ingest.ReceiverOptions{Broker: "tcp://" + p.proxy.Addr(), ClientID: "fleet", Share: "stores", BackoffBase: 50 * time.Millisecond, BackoffCap: time.Second, Log: f.log},
		Leaser:   p.leases, Count: slots, Every: 50 * time.Millisecond,
	}, p)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.slots.Run(ctx); err != nil {
			f.t.Error(err)
		}
	}()
	p.end = sync.OnceFunc(func() { cancel(); <-done; p.proxy.Close(); p.leases.Close() })
	f.processes = append(f.processes, p)
	return p
}

// kill ends a process as SIGKILL does: nothing of it is heard any more, its connections are reset, its locks are gone.
func (p *process) kill() {
	p.dead.Store(true)
	p.proxy.Close()
	p.end()
}

// settle waits until so many processes have slots, and all slots are run.
func (f *fleet) settle(n int) {
	f.t.Helper()
	f.wait(fmt.Sprintf("%d processes run %d slots", n, slots), func() bool {
		all, with := []int{}, 0
		for _, p := range f.processes {
			list := p.slots.Running()
			all = append(all, list...)
			with += min(1, len(list))
		}
		slices.Sort(all)
		return with == n && slices.Equal(all, []int{0, 1, 2, 3})
	})
}

func (f *fleet) wait(what string, done func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			text := ""
			for i, p := range f.processes {
				text += fmt.Sprintf("\nprocess %d took %d messages, has slots %v", i, p.taken.Load(), p.slots.Running())
			}
			for i, c := range f.cars {
				text += fmt.Sprintf("\ncar-%d has %d batches left, %+v", i, c.queue.Len(), c.up.State())
			}
			f.t.Fatalf("never: %s; store %+v%s", what, f.store.Totals(), text)
		}
	}
}

// car is a vehicle: the real uplink over a queue in memory.
type car struct {
	t     *testing.T
	queue *uplinktest.Queue
	short [16]byte
	added uint64
	up    *uplink.Uplink
	stop  func()
}

func (f *fleet) drive() {
	f.t.Helper()
	data, hash := telemetrypb.EncodeCatalogue(&telemetrypb.Catalogue{Format: 1, Signals: []*telemetrypb.Signal{{Id: 1, Name: "count", Type: telemetrypb.ValueType_VALUE_TYPE_UINT}}})
	for i := range vehicles {
		name := fmt.Sprint("car-", i)
		queue, err := uplinktest.NewQueue("acme", name, uint64(i)+1)
		if err != nil {
			f.t.Fatal(err)
		}
		c := &car{t: f.t, queue: queue, short: [16]byte(hash[:16])}
		rec := buffer.Record{Lane: buffer.Lane(telemetrypb.Lane_LANE_CONTROL), Samples: 1}
		rec.Seq = queue.Reserve(rec.Lane)
		rec.Bytes, err = telemetrypb.AppendControl(nil, &telemetrypb.Head{
			Tenant: "acme", Device: name, Epoch: queue.Epoch(), Lane: telemetrypb.Lane_LANE_CONTROL, Seq: rec.Seq, BootID: [16]byte{1}, BootCount: 1,
		}, &telemetrypb.Records{Records: []*telemetrypb.Record{{Record: &telemetrypb.Record_Catalogue{Catalogue: telemetrypb.SplitCatalogue(data)[0]}}}})
		if err := errors.Join(err, queue.Commit([]buffer.Record{rec}, nil)); err != nil {
			f.t.Fatal(err)
		}
		quiet := slog.New(slog.DiscardHandler)
		up, err := uplink.New(uplink.Options{
			URL: "mqtt://" + f.broker.Addr, Tenant: "acme", Device: name, Insecure: true,
			ReceiptTimeout: 2 * time.Second, ParkedRetry: 2 * time.Second, BackoffBase: 50 * time.Millisecond, BackoffCap: time.Second, StopTimeout: time.Second,
			PayloadBytes: 1, // a batch in each, many messages rather than few
			Alarms:       alarm.NewBoard(func() int64 { return time.Now().UnixNano() }, quiet), Log: quiet,
		}, queue)
		if err != nil {
			f.t.Fatal(err)
		}
		c.up = up
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := up.Run(ctx); err != nil {
				f.t.Error(err)
			}
		}()
		c.stop = sync.OnceFunc(func() { cancel(); <-done })
		f.cars = append(f.cars, c)
	}
}

// collect gives each vehicle n batches, a few at a time: what is collected while it drives is sent while it drives.
func (f *fleet) collect(n int) {
	f.t.Helper()
	for range n {
		for _, c := range f.cars {
			samples := make([]telemetrypb.Sample, batchSamples)
			for i := range samples {
				samples[i] = telemetrypb.UintSample(1, int64(c.added)*1e6, c.added)
				c.added++
			}
			if _, err := c.queue.Add(telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Head{BootID: [16]byte{1}, BootCount: 1, Catalogue: c.short}, samples); err != nil {
				f.t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// arrived waits until every vehicle has let go of everything, and counts what is in the store: each sample once.
func (f *fleet) arrived() {
	f.t.Helper()
	f.wait("all vehicles have all receipts", func() bool {
		for _, c := range f.cars {
			if c.queue.Len() > 0 {
				return false
			}
		}
		return true
	})
	seen := map[string]int{}
	if err := f.store.Samples(context.Background(), store.Query{}, func(r *store.Reading) error { seen[fmt.Sprint(r.Device, r.Raw.Bits)]++; return nil }); err != nil {
		f.t.Fatal(err)
	}
	want := 0
	for i, c := range f.cars {
		want += int(c.added)
		for n := range c.added {
			if got := seen[fmt.Sprintf("car-%d%d", i, n)]; got != 1 {
				f.t.Errorf("car-%d: sample %d is stored %d times", i, n, got)
				return
			}
		}
	}
	if totals := f.store.Totals(); len(seen) != want || totals.Gaps != 0 || totals.Parked != 0 || totals.Letters != 0 {
		f.t.Errorf("%d samples of %d, totals %+v", len(seen), want, totals)
	}
}

// shared says that so many of these processes, or all there are, took a part of what came since the last call. A broker that gives
// to who has room may give all of it to one: then more comes, some times.
func (f *fleet) shared(what string, since map[*process]int64, list ...*process) {
	f.t.Helper()
	for round := 1; ; round++ {
		text, working := "", 0
		for _, p := range list {
			n := p.taken.Load() - since[p]
			text += fmt.Sprint(" ", n)
			working += int(min(n, 1))
		}
		f.t.Logf("%s: messages taken by each:%s", what, text)
		if working >= min(f.least, len(list)) {
			break
		}
		if round == 10 {
			f.t.Errorf("%s: too few took part:%s", what, text)
			break
		}
		f.collect(20)
		f.arrived()
	}
	for _, p := range list {
		since[p] = p.taken.Load()
	}
}

// share is the whole story: two share, four share, one is killed and its share moves, all are replaced one after the other.
// Everything arrives exactly once, and every vehicle gets every receipt.
//
// least is how many processes take part at least: a broker that deals its messages out gives some to each; one with a queue
// for the group gives them to who has room.
func share(t *testing.T, b *deps.Broker, least int) {
	f, since := newFleet(t, b), map[*process]int64{}
	f.least = least
	one, two := f.join(), f.join()
	f.settle(2)
	f.drive()
	f.collect(60)
	f.arrived()
	f.shared("two processes", since, one, two)

	three, four := f.join(), f.join()
	f.settle(4)
	f.collect(60)
	f.arrived()
	f.shared("four processes", since, one, two, three, four)

	f.collect(5) // on their way while it dies
	two.kill()
	f.collect(20)
	f.settle(3)
	f.collect(60)
	f.arrived()
	f.shared("one was killed", since, one, three, four)
	if n := two.taken.Load() - since[two]; two.slots.Running() != nil {
		t.Errorf("the killed one runs %v, and took %d", two.slots.Running(), n)
	}

	for _, p := range []*process{one, three, four} { // a rolling restart
		f.collect(5)
		p.end()
		f.collect(5)
		f.join()
		f.collect(5)
	}
	f.settle(3)
	f.collect(60)
	f.arrived()
	f.shared("after the rolling restart", since, f.processes[4:]...)
	f.statuses()
}

// statuses: one slot has them, retained ones included, in order, whoever runs it.
func (f *fleet) statuses() {
	f.t.Helper()
	f.cars[0].stop()
	f.wait("the first vehicle is offline, the others are not", func() bool {
		list, err := f.store.Devices(context.Background())
		if err != nil {
			f.t.Fatal(err)
		}
		online, gone := 0, false
		for _, d := range list {
			switch {
			case d.Online == nil:
			case *d.Online:
				online++
			default:
				gone = gone || d.Device == "car-0"
			}
		}
		return online == vehicles-1 && gone
	})
	// A store that is new to the broker hears of all of them, also of the one that is gone.
	g := &fleet{t: f.t, broker: f.broker, log: f.log, dir: f.t.TempDir()}
	heard := map[string]bool{}
	var mu sync.Mutex
	fresh, err := ingest.NewSlots(ingest.SlotsOptions{
		Receiver: ingest.ReceiverOptions{Broker: f.broker.URL(), ClientID: "new", Share: "new", BackoffBase: 50 * time.Millisecond, Log: g.log}, Fixed: []int{0, 1},
	}, applier(func(m []ingest.Message) {
		mu.Lock()
		defer mu.Unlock()
		for _, m := range m {
			_, device, rest, _ := telemetrypb.ParseTopic(m.Topic)
			status := new(telemetrypb.Status)
			if rest == telemetrypb.TopicStatus && proto.Unmarshal(m.Payload, status) == nil {
				heard[device] = status.Online
			}
		}
	}))
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fresh.Run(ctx) }()
	f.wait("a new group hears the retained statuses", func() bool {
		mu.Lock()
		defer mu.Unlock()
		gone, known := heard["car-0"]
		return len(heard) == vehicles && known && !gone
	})
	cancel()
	if err := <-done; err != nil {
		f.t.Error(err)
	}
}

// applier takes messages and answers nothing.
type applier func([]ingest.Message)

func (a applier) Apply(_ context.Context, m []ingest.Message) ([]ingest.Reply, ingest.Counts, error) {
	a(m)
	return nil, ingest.Counts{}, nil
}
