package trust_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/trust"
	"github.com/waybill-telematics/waybill/firmware/trust/trusttest"
)

// car is a vehicle with two units under a director and an image repository.
type car struct {
	t               *testing.T
	director, image *bed
	units           []trust.ECU
	timeFile        string
	clock           func() (time.Time, bool)
	built           time.Time
}

func newCar(t *testing.T) *car {
	c := &car{t: t, director: newBed(t, 1), image: newBed(t, 2), timeFile: filepath.Join(folder(t), "time"), built: now.Add(-300 * 24 * time.Hour),
		units: []trust.ECU{{ID: "agent-1", Hardware: "linux/arm64", Release: 4}, {ID: "head-1", Hardware: "head-unit-b", Release: 10}},
		clock: func() (time.Time, bool) { return now, true }}
	c.director.options.Name, c.director.options.NoDelegations = "director", true
	c.publish("agent-5", []byte("agent five"), 5, "linux/arm64", "agent-1")
	return c
}

// publish puts an image into the image repository and tells the director's targets that the units named shall have it.
func (c *car) publish(name string, image []byte, release int, hardware string, ids ...string) {
	wanted := c.director.repo.Signed["targets"]["targets"].(doc)
	maps.DeleteFunc(wanted, func(_ string, v any) bool { // what they had to have until now
		old, _ := v.(doc)["custom"].(doc)["ecus"].(doc)
		return slices.ContainsFunc(ids, func(id string) bool { return old[id] != nil })
	})
	ecus := doc{}
	for _, id := range ids {
		ecus[id] = doc{"hardware_id": hardware}
	}
	c.image.repo.AddTarget("targets", name, image, doc{"hardware_ids": []string{hardware, "other"}, "release_counter": release})
	c.director.repo.AddTarget("targets", name, image, doc{"ecus": ecus, "release_counter": release})
	c.image.repo.PublishAll()
	c.director.repo.PublishAll()
}

func (c *car) resolve() (trust.Bundle, error) {
	c.t.Helper()
	reference, err := trust.OpenReference(trust.ReferenceOptions{Path: c.timeFile, Built: c.built, Clock: c.clock})
	if err != nil {
		c.t.Fatal(err)
	}
	v, err := trust.NewVehicle(trust.VehicleOptions{Director: c.director.open(), Image: c.image.open(), Reference: reference})
	if err != nil {
		c.t.Fatal(err)
	}
	return v.Resolve(context.Background(), c.units)
}

func (c *car) refused(want trust.Reason) {
	c.t.Helper()
	bundle, err := c.resolve()
	is(c.t, err, want)
	if bundle != nil {
		c.t.Fatal("a bundle with an error")
	}
}

// directed changes what the director says of a target.
func (c *car) directed(name string) doc {
	return c.director.repo.Signed["targets"]["targets"].(doc)[name].(doc)
}

func TestResolve(t *testing.T) {
	c := newCar(t)
	c.publish("maps/2026", []byte("map"), 11, "head-unit-b", "head-1")
	bundle, err := c.resolve()
	if err != nil {
		t.Fatal(err)
	}
	if len(bundle) != 2 || bundle["agent-1"].Name() != "agent-5" || bundle["head-1"].Name() != "maps/2026" {
		t.Fatalf("bundle is %v", bundle)
	}
	if err := verify(t, bundle["agent-1"], []byte("agent five")); err != nil {
		t.Error(err)
	}
	if p := bundle["agent-1"].Provenance(); p != "director/targets and image/targets" {
		t.Errorf("provenance is %s", p)
	}
	// Nothing is wanted.
	c.director.repo.Signed["targets"]["targets"] = doc{}
	c.director.repo.PublishAll()
	if bundle, err := c.resolve(); err != nil || len(bundle) != 0 {
		t.Errorf("%v %v", bundle, err)
	}
}

// The image repository may delegate by hardware; the director may not delegate at all.
func TestDelegationsOfTheTwo(t *testing.T) {
	c := newCar(t)
	image := []byte("by another team")
	c.image.repo.Delegate("targets", "maps", doc{"paths": []string{"maps/*"}})
	c.image.repo.AddTarget("maps", "maps/2027", image, doc{"hardware_ids": []string{"head-unit-b"}, "release_counter": 12})
	c.director.repo.AddTarget("targets", "maps/2027", image, doc{"ecus": doc{"head-1": doc{"hardware_id": "head-unit-b"}}})
	c.image.repo.Publish("maps")
	c.image.repo.PublishAll()
	c.director.repo.PublishAll()
	bundle, err := c.resolve()
	if err != nil || bundle["head-1"].Provenance() != "director/targets and image/maps" {
		t.Fatalf("%v %v", bundle, err)
	}
	c.director.repo.Delegate("targets", "maps", doc{"paths": []string{"maps/*"}})
	c.director.repo.Publish("maps")
	c.director.repo.PublishAll()
	c.refused(trust.Delegation)
}

// Drop-request: the attacker lets nothing through, for one repository or both. Nothing changes, and it is said.
func TestDropRequest(t *testing.T) {
	for _, which := range []func(*car) *bed{func(c *car) *bed { return c.director }, func(c *car) *bed { return c.image }} {
		c := newCar(t)
		if _, err := c.resolve(); err != nil {
			t.Fatal(err)
		}
		c.publish("agent-6", []byte("agent six"), 6, "linux/arm64", "agent-1")
		b := which(c)
		b.mirrors = []trust.Fetcher{dropping{}}
		b.unmoved(func() { c.refused(trust.Unreachable) })
	}
	// What a mirror keeps back file by file.
	for _, file := range []string{"timestamp.json", "3.snapshot.json", "3.targets.json"} {
		c := newCar(t)
		if _, err := c.resolve(); err != nil {
			t.Fatal(err)
		}
		c.image.repo.PublishAll()
		delete(c.image.repo.Files, file)
		c.image.unmoved(func() { c.refused(trust.NotFound) }, "timestamp.json", "snapshot.json")
	}
}

// dropping is a mirror of which nothing comes back: nobody listens there.
type dropping struct{}

func (dropping) Fetch(ctx context.Context, name string, limit int64, w io.Writer) error {
	h, err := trust.NewHTTP(trust.HTTPOptions{Base: "http://127.0.0.1:1/"})
	if err != nil {
		return err
	}
	return h.Fetch(ctx, name, limit, w)
}

// Partial bundle: of what belongs together a part is missing, so that units would not fit each other. None is installed.
func TestPartialBundle(t *testing.T) {
	c := newCar(t)
	c.publish("head-11", []byte("head"), 11, "head-unit-b", "head-1")
	delete(c.image.repo.Signed["targets"]["targets"].(doc), "head-11")
	c.image.repo.PublishAll()
	c.refused(trust.Partial)
	// Nor when one of them is not right.
	c = newCar(t)
	c.publish("head-9", []byte("head"), 9, "head-unit-b", "head-1")
	c.refused(trust.Downgrade)
}

// Replay: metadata that was valid once, for this vehicle or for another.
func TestReplay(t *testing.T) {
	c := newCar(t)
	old := c.director.repo.Mirror()
	c.publish("agent-6", []byte("agent six"), 6, "linux/arm64", "agent-1")
	if _, err := c.resolve(); err != nil {
		t.Fatal(err)
	}
	c.director.mirrors = []trust.Fetcher{old}
	c.director.unmoved(func() { c.refused(trust.WrongVer) })

	// Of another vehicle, by the same director's keys, and newer.
	c.director.mirrors = []trust.Fetcher{c.director.repo}
	c.directed("agent-6")["custom"] = doc{"ecus": doc{"agent-2": doc{"hardware_id": "linux/arm64"}}}
	c.director.repo.PublishAll()
	c.refused(trust.ForeignECU)
}

// Foreign ECU: an image for a unit that this vehicle does not have, alone or beside one that it has.
func TestForeignECU(t *testing.T) {
	c := newCar(t)
	c.publish("agent-6", []byte("agent six"), 6, "linux/arm64", "agent-1", "agent-99")
	c.refused(trust.ForeignECU)
}

func TestWrongHardware(t *testing.T) {
	// The director errs.
	c := newCar(t)
	c.directed("agent-5")["custom"] = doc{"ecus": doc{"agent-1": doc{"hardware_id": "linux/armv7"}}}
	c.director.repo.PublishAll()
	c.refused(trust.Hardware)
	// The director lies: only the image repository, whose keys are offline, says what an image is for.
	c = newCar(t)
	c.publish("head-11", []byte("head"), 11, "head-unit-b", "head-1")
	c.directed("head-11")["custom"] = doc{"ecus": doc{"agent-1": doc{"hardware_id": "linux/arm64"}}}
	delete(c.director.repo.Signed["targets"]["targets"].(doc), "agent-5")
	c.director.repo.PublishAll()
	c.refused(trust.Hardware)
}

func TestNoDowngradeOfTheReleaseCounter(t *testing.T) {
	c := newCar(t)
	c.units[0].Release = 6
	c.refused(trust.Downgrade)
	c.units[0].Release = 5
	if _, err := c.resolve(); err != nil {
		t.Errorf("the same release: %v", err)
	}
	// The director alone cannot give an old image a higher counter.
	c.units[0].Release = 6
	c.directed("agent-5")["custom"] = doc{"ecus": doc{"agent-1": doc{"hardware_id": "linux/arm64"}}, "release_counter": 7}
	c.director.repo.PublishAll()
	c.refused(trust.Disagree)
}

// A director whose keys are all stolen can only choose among what the image repository has.
func TestDirectorCompromise(t *testing.T) {
	for name, bend := range map[string]func(target doc, hashes doc){
		"other hash":   func(_, hashes doc) { hashes["sha256"] = strings.Repeat("ab", 32) },
		"fewer hashes": func(_, hashes doc) { delete(hashes, "sha512") },
		"other length": func(target, _ doc) { target["length"] = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCar(t)
			target := c.directed("agent-5")
			bend(target, target["hashes"].(doc))
			c.director.repo.PublishAll()
			c.refused(trust.Disagree)
		})
	}
	c := newCar(t)
	c.director.repo.AddTarget("targets", "evil", []byte("evil"), doc{"ecus": doc{"agent-1": doc{"hardware_id": "linux/arm64"}}})
	c.director.repo.PublishAll()
	c.refused(trust.Partial)
}

func TestWhatTheTwoSayMustBeReadable(t *testing.T) {
	for name, bend := range map[string]func(director, image doc){
		"no units":           func(d, _ doc) { d["custom"] = doc{"ecus": doc{}} },
		"nothing said":       func(d, _ doc) { delete(d, "custom") },
		"units of text":      func(d, _ doc) { d["custom"] = doc{"ecus": "agent-1"} },
		"no counter":         func(_, i doc) { i["custom"] = doc{"hardware_ids": []string{"linux/arm64"}} },
		"counter below zero": func(_, i doc) { i["custom"] = doc{"hardware_ids": []string{"linux/arm64"}, "release_counter": -1} },
		"counter of text":    func(_, i doc) { i["custom"] = doc{"hardware_ids": []string{"linux/arm64"}, "release_counter": "5"} },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCar(t)
			bend(c.directed("agent-5"), c.image.repo.Signed["targets"]["targets"].(doc)["agent-5"].(doc))
			c.director.repo.PublishAll()
			c.image.repo.PublishAll()
			c.refused(trust.Malformed)
		})
	}
	t.Run("two images for one unit", func(t *testing.T) {
		c := newCar(t)
		for _, name := range []string{"agent-6", "agent-7"} {
			c.image.repo.AddTarget("targets", name, []byte(name), doc{"hardware_ids": []string{"linux/arm64"}, "release_counter": 7})
			c.director.repo.AddTarget("targets", name, []byte(name), doc{"ecus": doc{"agent-1": doc{"hardware_id": "linux/arm64"}}})
		}
		c.image.repo.PublishAll()
		c.director.repo.PublishAll()
		c.refused(trust.Malformed)
	})
}

func TestADirectorNeedsAClientThatRefusesDelegations(t *testing.T) {
	if _, err := trust.NewVehicle(trust.VehicleOptions{Director: newBed(t, 1).open()}); err == nil {
		t.Error("taken")
	}
}

// Clock in 1970, as after a flat battery, with no network time yet: the update goes on, against the build's time.
func TestAClockIn1970(t *testing.T) {
	c := newCar(t)
	c.clock = func() (time.Time, bool) { return time.Unix(86400, 0), false }
	if _, err := c.resolve(); err != nil {
		t.Fatal(err)
	}
	c.clock = func() (time.Time, bool) { return time.Unix(86400, 0), true } // even one that says it is synced
	if _, err := c.resolve(); err != nil {
		t.Fatal(err)
	}
	// It does not make valid what had expired when the software was built, nor at the last verification.
	c.built = expiry
	c.refused(trust.Expired)
	c.built = time.Time{}
	c.clock = func() (time.Time, bool) { return expiry.Add(-time.Hour), true }
	if _, err := c.resolve(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*trusttest.Repo{c.director.repo, c.image.repo} {
		r.Signed["timestamp"]["expires"] = expiry.Add(-2 * time.Hour).Format(time.RFC3339)
		r.PublishAll()
	}
	c.clock = func() (time.Time, bool) { return time.Unix(86400, 0), false }
	c.refused(trust.Expired)
}

// Clock far in the future: one that nobody set counts for nothing; one that says it is synced stops updates for as long as it is
// wrong, and leaves nothing behind.
func TestAClockFarInTheFuture(t *testing.T) {
	c := newCar(t)
	future := time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
	c.clock = func() (time.Time, bool) { return future, false }
	if _, err := c.resolve(); err != nil {
		t.Fatal(err)
	}
	c.clock = func() (time.Time, bool) { return future, true }
	c.refused(trust.Expired)
	c.clock = func() (time.Time, bool) { return now, true }
	if _, err := c.resolve(); err != nil {
		t.Fatalf("the clock is right again: %v", err)
	}
	// As far as it can move the kept time is the earliest expiry; metadata made later expires later.
	c.clock = func() (time.Time, bool) { return expiry.Add(-time.Second), true }
	if _, err := c.resolve(); err != nil {
		t.Fatal(err)
	}
	c.clock = func() (time.Time, bool) { return now, true }
	for _, r := range []*trusttest.Repo{c.director.repo, c.image.repo} {
		for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
			r.Signed[role]["expires"] = expiry.Add(24 * time.Hour).Format(time.RFC3339)
		}
		r.Publish("root", "targets", "snapshot", "timestamp")
	}
	if _, err := c.resolve(); err != nil {
		t.Fatalf("the clock is right again, and metadata is new: %v", err)
	}
}

// The kept time moves when the whole of both repositories was valid, and not by a part.
func TestTheKeptTimeMovesWithTheWholeOnly(t *testing.T) {
	c := newCar(t)
	c.clock = func() (time.Time, bool) { return expiry.Add(-time.Hour), true }
	delete(c.image.repo.Signed["targets"]["targets"].(doc), "agent-5")
	c.image.repo.PublishAll()
	c.refused(trust.Partial)
	for _, b := range []*bed{c.director, c.image} {
		b.repo.Signed["timestamp"]["expires"] = now.Add(time.Hour).Format(time.RFC3339)
	}
	c.clock = func() (time.Time, bool) { return now, true }
	c.publish("agent-5", []byte("agent five"), 5, "linux/arm64", "agent-1")
	if _, err := c.resolve(); err != nil {
		t.Fatalf("the time of a refused verification was kept: %v", err)
	}
}

func TestAnImageForTheUnitIsFetchedAndVerified(t *testing.T) {
	c := newCar(t)
	bundle, err := c.resolve()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	err = bundle["agent-1"].Fetch(context.Background(), []trust.Fetcher{c.image.repo}, func() (io.Writer, error) { return &got, nil })
	if err != nil || got.String() != "agent five" {
		t.Errorf("%q %v", got.String(), err)
	}
	broken := errors.New("disk full")
	if err := bundle["agent-1"].Fetch(context.Background(), []trust.Fetcher{c.image.repo}, func() (io.Writer, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}
