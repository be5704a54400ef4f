package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
	"github.com/waybill-telematics/waybill/firmware/trust/trusttest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

type doc = trusttest.Doc

// car is a vehicle with its repositories, slots and a clock that runs a thousand times as fast.
type car struct {
	t               *testing.T
	dir             string
	director, image *trusttest.Repo
	mirror          *httptest.Server
	boot            string
	began           time.Time
	log             *slog.Logger

	mu     sync.Mutex // guards what follows
	moves  bool
	health func(slot slots.Slot) probation.Health
	told   []telemetrypb.UpdateOutcome
	deaf   bool // reports do not get through
	looks  int
}

var expires = time.Now().Add(24 * time.Hour)

func newCar(t *testing.T) *car {
	t.Parallel()
	c := &car{t: t, dir: t.TempDir(), director: trusttest.New(1, expires), image: trusttest.New(2, expires), boot: "boot-1", began: time.Now(),
		log:    slog.New(slog.NewTextHandler(io.Discard, nil)),
		health: func(slots.Slot) probation.Health { return works }}
	c.mirror = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		if err := c.image.Fetch(r.Context(), strings.TrimPrefix(r.URL.Path, "/"), 1<<20, &b); err != nil {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.Bytes()))
	}))
	t.Cleanup(c.mirror.Close)
	for _, name := range []string{"director", "image"} {
		if err := os.MkdirAll(filepath.Join(c.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old := program("1.0")
	if seeded, err := c.slots("").Seed(t.Context(), bytes.NewReader(old), slots.Meta{SHA256: sum(old), Version: "1.0"}); err != nil || !seeded {
		t.Fatal(seeded, err)
	}
	return c
}

// works is what a healthy version shows.
var works = probation.Health{Sources: []probation.Source{{Name: "can:can0", Reads: true, Traffic: true}}, Acked: true, Reach: probation.ReachBroker}

func program(version string) []byte {
	return append([]byte("#!/bin/sh\n# "+version+"\n"), make([]byte, 100_000)...)
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func (c *car) slots(running slots.Slot) *slots.Slots {
	c.t.Helper()
	s, err := slots.Open(filepath.Join(c.dir, "firmware"), slots.Options{Running: running, BootID: c.boot})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// publish has the director want a version.
func (c *car) publish(version string, release int, order doc) string {
	return c.publishFor("agent", version, release, order)
}

// publishFor has it want a version for a unit, beside what it wants for others.
func (c *car) publishFor(ecu, version string, release int, order doc) string {
	data := program(version)
	name := ecu + "-" + version
	custom := doc{"ecus": doc{ecu: doc{"hardware_id": "linux/arm64"}}, "campaign": "campaign-" + version}
	for k, v := range order {
		custom[k] = v
	}
	c.image.AddTarget("targets", name, data, doc{"hardware_ids": []string{"linux/arm64"}, "release_counter": release, "version": version})
	wanted := c.director.Signed["targets"]["targets"].(doc)
	for other := range wanted {
		if strings.HasPrefix(other, ecu) {
			delete(wanted, other)
		}
	}
	c.director.AddTarget("targets", name, data, custom)
	c.image.PublishAll()
	c.director.PublishAll()
	return sum(data)
}

// withdraw has it want nothing.
func (c *car) withdraw() {
	clear(c.director.Signed["targets"]["targets"].(doc))
	c.director.PublishAll()
}

// launch is the launcher: it says what it would become.
func (c *car) launch() slots.Slot {
	c.t.Helper()
	var first slots.Slot
	_ = c.slots("").Launch(c.t.Context(), func(s slots.Start) error { // an error each time: nothing is executed
		if first == "" {
			first = s.Slot
		}
		return errors.New("a test")
	})
	return first
}

// live is the agent that the launcher started: until it wants to be restarted, or is switched off once something has come about.
func (c *car) live(slot slots.Slot, off func() bool) error {
	c.t.Helper()
	return c.run(off, c.agent(c.resolver(), slot))
}

// run runs Updaters, one by its own Run.
func (c *car) run(off func() bool, units ...*Updater) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), long)
	defer cancel()
	go func() {
		for ctx.Err() == nil && !off() {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if len(units) == 1 {
		return units[0].Run(ctx)
	}
	return Run(ctx, units...)
}

// resolver is a client of both repositories, as a start opens it.
func (c *car) resolver() func(context.Context) (trust.Bundle, error) {
	c.t.Helper()
	open := func(repo *trusttest.Repo, name string) *trust.Client {
		root := repo.Sign("root")
		store, err := trust.OpenStore(filepath.Join(c.dir, name))
		if err != nil {
			c.t.Fatal(err)
		}
		client, err := trust.New(trust.Options{Name: name, Mirrors: []trust.Fetcher{repo}, Store: store, FactoryRoot: root,
			Reference: time.Now, NoDelegations: name == "director"})
		if err != nil {
			c.t.Fatal(err)
		}
		return client
	}
	reference, err := trust.OpenReference(trust.ReferenceOptions{Path: filepath.Join(c.dir, "time"), Clock: func() (time.Time, bool) { return time.Now(), true }})
	if err != nil {
		c.t.Fatal(err)
	}
	vehicle, err := trust.NewVehicle(trust.VehicleOptions{Director: open(c.director, "director"), Image: open(c.image, "image"), Reference: reference})
	if err != nil {
		c.t.Fatal(err)
	}
	units := []trust.ECU{{ID: "agent", Hardware: "linux/arm64", Release: 1}, {ID: "system", Hardware: "linux/arm64", Release: 1}}
	return func(ctx context.Context) (trust.Bundle, error) { return vehicle.Resolve(ctx, units) }
}

func (c *car) agent(resolve func(context.Context) (trust.Bundle, error), slot slots.Slot) *Updater {
	c.t.Helper()
	s := c.slots(slot)
	st, err := s.Status()
	if err != nil {
		c.t.Fatal(err)
	}
	o := c.options(resolve, "agent", st.Slots[slot].Image.Version, func() probation.Health { return c.health(slot) })
	o.Slots, o.Delivery.Running = s, s.Executable(slot)
	return c.updater(o)
}

func (c *car) updater(o Options) *Updater {
	c.t.Helper()
	u, err := New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	return u
}

// options are those of any unit.
func (c *car) options(resolve func(context.Context) (trust.Bundle, error), ecu, version string, health func() probation.Health) Options {
	c.t.Helper()
	checker, err := conditions.New(conditions.Options{Hold: time.Millisecond, MaxGap: time.Hour, SpeedAge: time.Hour, GearAge: time.Hour, IgnitionAge: time.Hour, GearPark: []float64{0}})
	if err != nil {
		c.t.Fatal(err)
	}
	return Options{
		Dir: filepath.Join(c.dir, "update-"+ecu), ECU: ecu, Version: version, Resolve: resolve,
		Delivery: delivery.Options{Mirrors: []delivery.Mirror{{Base: c.mirror.URL + "/"}}, Reserve: 1},
		Checker:  checker,
		Readings: func() (conditions.Readings, int64) {
			c.mu.Lock()
			defer c.mu.Unlock()
			now := int64(time.Since(c.began)) + 1
			at := func(v float64) conditions.Reading { return conditions.Reading{Value: v, At: now, Seen: true} }
			r := conditions.Readings{Speed: at(0), Gear: at(0), Ignition: at(0)}
			if c.moves {
				r.Speed = at(50)
			}
			return r, now
		},
		Health: func() probation.Health {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.looks++
			return health()
		},
		Sources: []string{"can:can0"},
		Awake:   func() time.Duration { return 1000 * time.Since(c.began) },
		Report: func(_ context.Context, o *telemetrypb.UpdateOutcome) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.deaf {
				return errors.New("nobody listens")
			}
			if _, err := o.Result(); err != nil {
				c.t.Error(err)
			}
			c.told = append(c.told, *o)
			return nil
		},
		Poll: time.Minute, Look: 5 * time.Millisecond, Probation: probation.Options{MemoryCap: 64 << 20, MostBetween: 10 * time.Second},
		Write: func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) },
		Log:   c.log,
	}
}

// heard are the outcomes that were told, in order, each once.
func (c *car) heard() (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.told {
		text := string(o.Outcome) + " " + o.To
		if n := len(list); n == 0 || list[n-1] != text {
			list = append(list, text)
		}
	}
	return list
}

func (c *car) expect(want ...string) {
	c.t.Helper()
	if got := strings.Join(c.heard(), ", "); got != strings.Join(want, ", ") {
		c.t.Errorf("told %q, want %q", got, want)
	}
}

func (c *car) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// long is enough for all that is to happen.
const long = time.Minute

func never() bool { return false }

// says is when an outcome was told.
func (c *car) says(outcome string) func() bool {
	return func() bool { return slices.Contains(c.heard(), outcome) }
}

// looked is when it was looked at health so many times: several polls.
func (c *car) looked(n int) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until := c.looks + n
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.looks >= until
	}
}

func TestInstalledOnceParkedAndCommitted(t *testing.T) {
	c := newCar(t)
	image := c.publish("2.0", 2, doc{"conditions": doc{"parked": true}})
	c.moves = true
	if slot := c.launch(); slot != slots.A {
		t.Fatal(slot)
	}
	if err := c.live(slots.A, c.says("refused 2.0")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	c.expect("refused 2.0")
	if st, _ := c.slots("").Status(); st.Trial != nil {
		t.Fatal("it was armed while the car moves")
	}
	c.moves = false
	if err := c.live(slots.A, never); !errors.Is(err, ErrRestart) {
		t.Fatal(err)
	}
	if slot := c.launch(); slot != slots.B {
		t.Fatal(slot)
	}
	if data, err := os.ReadFile(c.slots("").Executable(slots.B)); err != nil || sum(data) != image {
		t.Fatal("another image", err)
	}
	if err := c.live(slots.B, c.says("committed 2.0")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	c.expect("refused 2.0", "installed 2.0", "committed 2.0")
	if slot := c.launch(); slot != slots.B {
		t.Fatal(slot)
	}
	if last := c.told[len(c.told)-1]; last.Campaign != "campaign-2.0" || last.SHA256 != image || last.From != "1.0" || last.ECU != "agent" {
		t.Errorf("%+v", last)
	}
}

func TestUnhealthyIsRolledBackAndNotTriedAgain(t *testing.T) {
	for name, bad := range map[string]func(h *probation.Health){
		"cannot read CAN":           func(h *probation.Health) { h.Sources = []probation.Source{{Name: "can:can0", Err: "no"}} },
		"does not hear CAN":         func(h *probation.Health) { h.Sources = []probation.Source{{Name: "can:can0", Traffic: true}} },
		"does not reach the broker": func(h *probation.Health) { h.Acked = false },
		"leaks":                     func(h *probation.Health) { h.AnonBytes = 1 << 30 },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCar(t)
			c.health = func(slot slots.Slot) probation.Health {
				h := works
				if slot == slots.B {
					bad(&h)
				}
				return h
			}
			c.publish("2.0", 2, nil)
			if err := c.live(c.launch(), never); !errors.Is(err, ErrRestart) {
				t.Fatal(err)
			}
			slot := c.launch()
			if err := c.live(slot, never); slot != slots.B || !errors.Is(err, ErrRestart) {
				t.Fatal(slot, err)
			}
			if slot = c.launch(); slot != slots.A {
				t.Fatal(slot)
			}
			if err := c.live(slot, c.looked(50)); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			c.expect("installed 2.0", "rolled_back 2.0")
			if last := c.told[len(c.told)-1]; last.Reason == "" {
				t.Error("no reason is told")
			}
			// Fixed, under another number: taken.
			c.health = func(slots.Slot) probation.Health { return works }
			c.publish("2.1", 3, nil)
			if err := c.live(slot, never); !errors.Is(err, ErrRestart) {
				t.Fatal(err)
			}
			if err := c.live(c.launch(), c.says("committed 2.1")); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			c.expect("installed 2.0", "rolled_back 2.0", "installed 2.1", "committed 2.1")
		})
	}
}

func TestCrashesAtStart(t *testing.T) {
	c := newCar(t)
	c.publish("2.0", 2, nil)
	if err := c.live(c.launch(), never); !errors.Is(err, ErrRestart) {
		t.Fatal(err)
	}
	for range 3 {
		if slot := c.launch(); slot != slots.B {
			t.Fatal(slot)
		}
	}
	slot := c.launch()
	if err := c.live(slot, c.looked(50)); slot != slots.A || !errors.Is(err, context.Canceled) {
		t.Fatal(slot, err)
	}
	c.expect("rolled_back 2.0")
}

// Ten short journeys, each with a boot of its own and cut off hard, do not roll a healthy version back: they add up to its probation.
func TestShortJourneys(t *testing.T) {
	c := newCar(t)
	c.publish("2.0", 2, nil)
	if err := c.live(c.launch(), never); !errors.Is(err, ErrRestart) {
		t.Fatal(err)
	}
	c.deaf = true // and nobody hears of it
	for i := range 40 {
		c.boot = "boot-" + string(rune('a'+i))
		if slot := c.launch(); slot != slots.B {
			t.Fatalf("journey %d runs from slot %s", i, slot)
		}
		if err := c.live(slots.B, c.looked(3)); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if st, err := c.slots("").Status(); err == nil && st.Committed == slots.B {
			if i < 2 {
				t.Errorf("committed after %d journeys", i+1)
			}
			c.deaf = false
			if err := c.live(slots.B, c.says("committed 2.0")); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			c.expect("committed 2.0")
			return
		}
	}
	t.Fatal("never committed")
}

// Where the committed version cannot be started any more, the one that runs in its place commits itself, and is updated again.
func TestFellBack(t *testing.T) {
	c := newCar(t)
	c.publish("2.0", 2, nil)
	if err := c.live(c.launch(), never); !errors.Is(err, ErrRestart) {
		t.Fatal(err)
	}
	if err := c.live(c.launch(), c.says("committed 2.0")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := os.Remove(c.slots("").Executable(slots.B)); err != nil {
		t.Fatal(err)
	}
	c.publish("3.0", 3, nil)
	ill := works
	ill.AnonBytes = 1 << 30
	c.health = func(slots.Slot) probation.Health { return ill }
	slot := c.launch()
	if slot != slots.A {
		t.Fatal(slot)
	}
	if err := c.live(slot, c.looked(50)); !errors.Is(err, context.Canceled) { // there is nothing else
		t.Fatal(err)
	}
	if st, err := c.slots(slot).Status(); err != nil || st.Committed != slots.B {
		t.Errorf("an ill one is committed, %v", err)
	}
	c.health = func(slots.Slot) probation.Health { return works }
	if err := c.live(slot, never); !errors.Is(err, ErrRestart) {
		t.Fatal(err)
	}
	if err := c.live(c.launch(), c.says("committed 3.0")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// What the director takes back is not installed, however far it is.
func TestWithdrawn(t *testing.T) {
	c := newCar(t)
	c.publish("2.0", 2, doc{"conditions": doc{"parked": true}})
	c.moves = true
	done := make(chan error, 1)
	slot := c.launch()
	over := make(chan bool)
	go func() {
		done <- c.live(slot, func() bool {
			select {
			case <-over:
				return true
			default:
				return false
			}
		})
	}()
	within := func(ok func() bool) {
		t.Helper()
		for end := time.Now().Add(long / 2); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("not in time")
			}
		}
	}
	within(c.says("refused 2.0"))
	c.withdraw()
	within(c.looked(50)) // several polls
	c.set(func() { c.moves = false })
	within(c.looked(50))
	close(over)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	c.expect("refused 2.0")
	if st, _ := c.slots("").Status(); st.Trial != nil || st.Slots[slots.B].Image != nil {
		t.Errorf("installed all the same: %+v", st)
	}
}

// An order that is not understood is not followed, and nothing else happens.
func TestOrdersThatCannotBeFollowed(t *testing.T) {
	for name, order := range map[string]doc{
		"a condition nobody knows": {"conditions": doc{"full_moon": true}},
		"no campaign":              {"campaign": ""},
		"a negative budget":        {"budget_bytes": -1},
		"a consent of nobody":      {"conditions": doc{"consent": true}},
		"a spent budget":           {"budget_bytes": 10},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCar(t)
			c.publish("2.0", 2, order)
			if err := c.live(c.launch(), c.looked(50)); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if slot := c.launch(); slot != slots.A {
				t.Error(slot)
			}
			if st, _ := c.slots("").Status(); st.Trial != nil {
				t.Error("armed")
			}
		})
	}
}
