// Package ota holds both sides of updates against each other: what the OEM's tool publishes, served as files over HTTP, and a vehicle
// that follows it with all the agent's parts but the agent.
package ota

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
	"github.com/waybill-telematics/waybill/firmware/update"
	"github.com/waybill-telematics/waybill/fleet/ota"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const campaign = `
id: spring
images: [{name: linux-arm64/agent-1.1, hardware: linux/arm64}]
conditions: {parked: true, min_battery_volts: 12.2}
stages: [{percent: 100}]
stop: {rolled_back: 3}
`

// told is what the vehicle said, as the OEM's side reads it.
type told struct {
	mu   sync.Mutex // guards list
	list []ota.Outcome
}

func (o *told) add(u *telemetrypb.UpdateOutcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, ota.Outcome{Tenant: "acme", Device: "car-1", UpdateOutcome: *u})
}

func (o *told) last() telemetrypb.Outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) == 0 {
		return ""
	}
	return o.list[len(o.list)-1].Outcome
}

func (o *told) Outcomes(context.Context, string, []string) ([]ota.Outcome, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.list, nil
}

// TestFromTheToolToTheSlot: an OEM publishes a version with a patch from the one before, and a campaign for all; a vehicle waits until it is
// parked, fetches less than a tenth of the image, starts it on trial, commits it, and the campaign counts it. A version that does not read the bus
// is rolled back, and the campaign counts that.
func TestFromTheToolToTheSlot(t *testing.T) {
	for name, healthy := range map[string]bool{"healthy": true, "unhealthy": false} {
		t.Run(name, func(t *testing.T) { follow(t, healthy) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func follow(t *testing.T, healthy bool) {
	ctx := t.Context()
	dir := t.TempDir()
	// Two versions of one program that differ in a line.
	body := make([]byte, 1<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range body {
		body[i] = byte(random.Uint32())
	}
	version := func(v string) (path string, data []byte) {
		data = append([]byte("version "+v+"\n"), body...)
		path = filepath.Join(dir, "agent-"+v)
		must(t, os.WriteFile(path, data, 0o755))
		return path, data
	}
	oldPath, old := version("1.0")
	newPath, fresh := version("1.1")

	// The OEM.
	keys := map[string][]*ota.Key{}
	w, err := ota.Init(ota.InitOptions{Options: ota.Options{Dir: filepath.Join(dir, "oem"), Now: time.Now}, Bench: true,
		Lines: []ota.Line{{Name: "sedan", ECUs: map[string]string{"agent": "linux/arm64"}}},
		Keep:  func(path string, k []*ota.Key) error { keys[filepath.Base(filepath.Dir(path))] = k; return nil }})
	must(t, err)
	if w == nil {
		w, err = ota.Open(ota.Options{Dir: filepath.Join(dir, "oem"), Now: time.Now})
		must(t, err)
	}
	signers := append(keys["online"], keys["team-linux-arm64"]...)
	_, err = w.Publish(&ota.PublishOptions{Path: newPath, Name: "agent", Hardware: []string{"linux/arm64"}, Version: "1.1", Release: 2, PatchFrom: []string{oldPath}}, signers)
	must(t, err)
	_, err = w.Create([]byte(campaign))
	must(t, err)
	outcomes := &told{}
	_, err = w.Advance(ctx, "spring", outcomes, keys["online"])
	must(t, err)
	var served atomic.Int64
	files := http.FileServer(http.Dir(filepath.Join(dir, "oem", "public")))
	host := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if match, _ := filepath.Match("/image/targets/*/*", r.URL.Path); match {
			files.ServeHTTP(countedWriter{rw, &served}, r)
			return
		}
		files.ServeHTTP(rw, r)
	}))
	defer host.Close()

	// The vehicle.
	open := func(running slots.Slot) *slots.Slots {
		s, err := slots.Open(filepath.Join(dir, "firmware"), slots.Options{Running: running, BootID: "boot"})
		must(t, err)
		return s
	}
	sum := func(data []byte) string { h := sha256.Sum256(data); return hex.EncodeToString(h[:]) }
	_, err = open("").Seed(ctx, bytes.NewReader(old), slots.Meta{SHA256: sum(old), Version: "1.0"})
	must(t, err)
	client := func(name, base string, director bool) *trust.Client {
		mirror, err := trust.NewHTTP(trust.HTTPOptions{Base: base})
		must(t, err)
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
		store, err := trust.OpenStore(filepath.Join(dir, name))
		must(t, err)
		root, err := os.ReadFile(filepath.Join(dir, "oem", "factory", name+".root.json"))
		must(t, err)
		c, err := trust.New(trust.Options{Name: name, Mirrors: []trust.Fetcher{mirror}, Store: store, FactoryRoot: root, Reference: time.Now, NoDelegations: director})
		must(t, err)
		return c
	}
	reference, err := trust.OpenReference(trust.ReferenceOptions{Path: filepath.Join(dir, "time"), Clock: func() (time.Time, bool) { return time.Now(), true }})
	must(t, err)
	vehicle, err := trust.NewVehicle(trust.VehicleOptions{Director: client("director", fmt.Sprintf("%s/director/sedan/%d/", host.URL, telemetrypb.Cohort("acme", "car-1")), true),
		Image: client("image", host.URL+"/image/", false), Reference: reference})
	must(t, err)
	began := time.Now()
	var parked atomic.Bool
	live := func(slot slots.Slot, until func() bool) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		go func() {
			for ctx.Err() == nil && !until() {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		checker, err := conditions.New(conditions.Options{Hold: time.Millisecond, MaxGap: time.Hour, GearPark: []float64{0}})
		must(t, err)
		s := open(slot)
		u, err := update.New(update.Options{
			Dir: filepath.Join(dir, "update"), ECU: "agent", Version: map[slots.Slot]string{slots.A: "1.0", slots.B: "1.1"}[slot], Slots: s,
			Resolve: func(ctx context.Context) (trust.Bundle, error) {
				return vehicle.Resolve(ctx, []trust.ECU{{ID: "agent", Hardware: "linux/arm64", Release: 1}})
			},
			Delivery: delivery.Options{Mirrors: []delivery.Mirror{{Base: host.URL + "/image/targets/"}}, Running: s.Executable(slot), Reserve: 1},
			Checker:  checker,
			Readings: func() (conditions.Readings, int64) {
				now := int64(time.Since(began)) + 1
				at := func(v float64) conditions.Reading { return conditions.Reading{Value: v, At: now, Seen: true} }
				r := conditions.Readings{Speed: at(30), Gear: at(4), Volts: at(12.6)}
				if parked.Load() {
					r.Speed, r.Gear = at(0), at(0)
				}
				return r, now
			},
			Health: func() probation.Health {
				return probation.Health{Sources: []probation.Source{{Name: "can:can0", Reads: healthy || slot == slots.A, Traffic: true}}}
			},
			Sources: []string{"can:can0"},
			Awake:   func() time.Duration { return 300 * time.Since(began) },
			Report:  func(_ context.Context, o *telemetrypb.UpdateOutcome) error { outcomes.add(o); return nil },
			Poll:    5 * time.Minute, Look: 5 * time.Millisecond,
			Write: func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) },
			Log:   slog.New(slog.DiscardHandler),
		})
		must(t, err)
		return u.Run(ctx)
	}
	launch := func() (slot slots.Slot) {
		_ = open("").Launch(ctx, func(s slots.Start) error {
			if slot == "" {
				slot = s.Slot
			}
			return errors.New("a test")
		})
		return slot
	}
	says := func(o telemetrypb.Outcome) func() bool { return func() bool { return outcomes.last() == o } }

	if err := live(launch(), says(telemetrypb.UpdateRefused)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	parked.Store(true)
	if err := live(launch(), func() bool { return false }); !errors.Is(err, update.ErrRestart) {
		t.Fatal(err)
	}
	if n := served.Load(); n == 0 || n > int64(len(fresh))/10 {
		t.Errorf("%d bytes of an image of %d were fetched", n, len(fresh))
	}
	slot := launch()
	if data, err := os.ReadFile(open("").Executable(slot)); slot != slots.B || err != nil || !bytes.Equal(data, fresh) {
		t.Fatalf("slot %s is started, with another image: %v", slot, err)
	}
	if !healthy {
		if err := live(slot, func() bool { return false }); !errors.Is(err, update.ErrRestart) {
			t.Fatal(err)
		}
		if slot = launch(); slot != slots.A {
			t.Fatal(slot)
		}
		if err := live(slot, says(telemetrypb.UpdateRolledBack)); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	} else if err := live(slot, says(telemetrypb.UpdateCommitted)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	list, err := w.Campaigns()
	must(t, err)
	tally, err := w.Tally(ctx, list[0], outcomes)
	must(t, err)
	t.Logf("%d bytes fetched for %d; %+v", served.Load(), len(fresh), tally)
	if healthy != (tally.Committed == 1) || healthy == (tally.RolledBack == 1) {
		t.Errorf("%+v", tally)
	}
}

type countedWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w countedWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.n.Add(int64(n))
	return n, err
}
