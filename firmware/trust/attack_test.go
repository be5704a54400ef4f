package trust_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/trust"
	"github.com/waybill-telematics/waybill/firmware/trust/trusttest"
)

// The attacks that TUF names (specification §1.5.2), one test each. Each begins with a vehicle that trusts version 2 of a repository
// and ends with that unchanged, or changed by nothing but what was rightly signed.

func attacked(t *testing.T) *bed {
	b := newBed(t, 1)
	b.repo.AddTarget("targets", "agent", []byte("version one"), nil)
	b.repo.PublishAll()
	b.mustRefresh()
	return b
}

// Arbitrary installation: the attacker gives a vehicle what he likes, with metadata of his own keys and without.
func TestArbitraryInstallation(t *testing.T) {
	b := attacked(t)
	evil := trusttest.New(66, expiry)
	evil.AddTarget("targets", "agent", []byte("evil"), nil)
	evil.PublishAll()
	evil.PublishAll()
	b.mirrors = []trust.Fetcher{evil}
	b.unmoved(func() { is(t, b.refresh(), trust.Unsigned) })

	b.mirrors = []trust.Fetcher{b.repo}
	target, err := b.mustRefresh().Target(context.Background(), "agent")
	if err != nil {
		t.Fatal(err)
	}
	b.repo.Files[target.Remote()] = []byte("evil versio") // as long as the good one
	var got bytes.Buffer
	is(t, target.Fetch(context.Background(), b.mirrors, func() (io.Writer, error) { return &got, nil }), trust.Mismatch)
}

// Endless data: an answer without end, for metadata and for an image.
func TestEndlessData(t *testing.T) {
	b := attacked(t)
	target, err := b.mustRefresh().Target(context.Background(), "agent")
	if err != nil {
		t.Fatal(err)
	}
	b.mirrors = []trust.Fetcher{endless{}}
	b.unmoved(func() { is(t, b.refresh(), trust.TooLong) })
	var got bytes.Buffer
	is(t, target.Fetch(context.Background(), b.mirrors, func() (io.Writer, error) { return &got, nil }), trust.TooLong)
	if int64(got.Len()) > target.Length() {
		t.Errorf("%d bytes were taken for an image of %d", got.Len(), target.Length())
	}
}

// endless is a Fetcher that does not keep the limit either.
type endless struct{}

func (endless) Fetch(_ context.Context, _ string, _ int64, w io.Writer) error {
	for {
		if _, err := w.Write(make([]byte, 1000)); err != nil {
			return err
		}
	}
}

// Extraneous dependencies: who may speak of some targets only makes a vehicle take something else beside. A delegated role
// is not heard outside its paths, nor may it take the place of another role.
func TestExtraneousDependencies(t *testing.T) {
	b := attacked(t)
	b.repo.Delegate("targets", "maps", doc{"paths": []string{"maps/*"}})
	b.repo.AddTarget("maps", "maps/europe", []byte("map"), nil)
	b.repo.AddTarget("maps", "library", []byte("evil"), nil)
	b.repo.AddTarget("maps", "maps/deep/down", []byte("evil"), nil)
	b.repo.Publish("maps")
	b.repo.PublishAll()
	c := b.mustRefresh()
	if _, err := c.Target(context.Background(), "maps/europe"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"library", "maps/deep/down"} {
		_, err := c.Target(context.Background(), name)
		is(t, err, trust.NotFound)
	}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		b := attacked(t)
		b.repo.Signed["targets"]["delegations"] = doc{"keys": doc{}, "roles": []doc{{"name": role, "keyids": []string{}, "threshold": 1, "terminating": true, "paths": []string{"*"}}}}
		b.repo.PublishAll()
		b.unmoved(func() { is(t, b.refresh(), trust.Malformed) }, "timestamp.json", "snapshot.json")
	}
}

// Fast-forward: who has the online keys raises versions so far that nothing legitimate can follow. After the keys are
// rotated in the root, versions begin anew; before that, they do not.
func TestFastForward(t *testing.T) {
	b := attacked(t)
	b.repo.Publish("targets")
	b.repo.PublishAs("snapshot", 1<<29)
	b.repo.PublishAs("timestamp", 1<<30)
	b.mustRefresh()
	b.repo.PublishAs("snapshot", 4)
	b.repo.PublishAs("timestamp", 4)
	b.unmoved(func() { is(t, b.refresh(), trust.WrongVer) })

	b.repo.SetKeys("timestamp", 1, b.repo.Key())
	b.repo.SetKeys("snapshot", 1, b.repo.Key())
	b.repo.Publish("root")
	b.repo.PublishAs("snapshot", 5)
	b.repo.PublishAs("timestamp", 5)
	b.mustRefresh()

	// Also where a second key still vouches for the old metadata: a key was lost, so what it may have signed is forgotten.
	b = attacked(t)
	good, stolen := b.repo.Keys["timestamp"][0], b.repo.Key()
	b.repo.SetKeys("timestamp", 1, good, stolen)
	b.repo.Publish("root")
	b.repo.PublishAs("timestamp", 1<<30) // both sign
	b.mustRefresh()
	b.repo.SetKeys("timestamp", 1, good)
	b.repo.Publish("root")
	b.repo.PublishAs("timestamp", 3)
	b.mustRefresh()
}

// Indefinite freeze: the attacker keeps serving what was valid once.
func TestIndefiniteFreeze(t *testing.T) {
	b := attacked(t)
	frozen := b.repo.Mirror()
	b.repo.Publish("timestamp")
	b.mirrors = []trust.Fetcher{frozen}
	b.unmoved(func() {
		if err := b.refresh(); err != nil {
			t.Errorf("metadata is valid still: %v", err)
		}
		b.now = expiry
		is(t, b.refresh(), trust.Expired)
	})
}

// Malicious mirror: one mirror of several serves what is forged, old or nothing. The next is asked.
func TestMaliciousMirror(t *testing.T) {
	for name, bend := range map[string]func(files map[string][]byte){
		"nothing": func(files map[string][]byte) { clear(files) },
		"garbage": func(files map[string][]byte) {
			for name := range files {
				files[name] = []byte(`{"signed":{"targets":{"a":null}}}`)
			}
		},
		"forged": func(files map[string][]byte) {
			evil := trusttest.New(66, expiry)
			evil.Publish("root", "targets", "snapshot", "timestamp")
			evil.PublishAll()
			maps.Copy(files, evil.Files)
		},
		"flipped": func(files map[string][]byte) {
			for name, data := range files {
				files[name] = bytes.Replace(data, []byte("version"), []byte("Version"), 1)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := attacked(t)
			b.repo.AddTarget("targets", "agent", []byte("version two"), nil)
			b.repo.Publish("root", "targets", "snapshot", "timestamp")
			mirror := b.repo.Mirror()
			bend(mirror.Files)
			b.mirrors = []trust.Fetcher{mirror, b.repo}
			target, err := b.mustRefresh().Target(context.Background(), "agent")
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := target.Fetch(context.Background(), b.mirrors, func() (io.Writer, error) { got.Reset(); return &got, nil }); err != nil || got.String() != "version two" {
				t.Errorf("fetched %q: %v", got.String(), err)
			}
			if b.stored()["root.json"] != string(b.repo.Files["2.root.json"]) {
				t.Error("the new root was not taken from the second mirror")
			}
		})
	}
}

// Mix-and-match: files that were all signed, of states that never were together.
func TestMixAndMatch(t *testing.T) {
	for _, hashes := range []bool{false, true} {
		for _, mixed := range []string{"targets", "snapshot"} {
			b := attacked(t)
			b.repo.Hashes = hashes
			b.repo.PublishAll()
			old := b.repo.Mirror()
			b.repo.AddTarget("targets", "agent", []byte("version two"), nil)
			b.repo.PublishAll()
			mirror := b.repo.Mirror()
			mirror.Files["4."+mixed+".json"] = old.Files["3."+mixed+".json"]
			b.mirrors = []trust.Fetcher{mirror}
			want := trust.WrongVer
			if hashes {
				want = trust.Mismatch
			}
			b.unmoved(func() { is(t, b.refresh(), want) }, "timestamp.json", "snapshot.json")
		}
	}
}

// Rollback: older metadata than the vehicle has seen, of each role.
func TestRollback(t *testing.T) {
	b := attacked(t)
	old := b.repo.Mirror()
	b.repo.PublishAll()
	b.mustRefresh()
	b.mirrors = []trust.Fetcher{old}
	b.unmoved(func() { is(t, b.refresh(), trust.WrongVer) })

	// Signed anew, by who has the timestamp's key, and the snapshot's.
	b.mirrors = []trust.Fetcher{b.repo}
	b.repo.PublishAs("snapshot", 2)
	b.repo.Publish("timestamp")
	b.unmoved(func() { is(t, b.refresh(), trust.WrongVer) })
	b.repo.PublishAs("targets", 2)
	b.repo.PublishAs("snapshot", 5)
	b.repo.Publish("timestamp")
	b.unmoved(func() { is(t, b.refresh(), trust.WrongVer) }, "timestamp.json")
	// A role that is not vouched for any more.
	b = attacked(t)
	b.repo.Delegate("targets", "maps", doc{"paths": []string{"maps/*"}})
	b.repo.Publish("maps")
	b.repo.PublishAll()
	b.mustRefresh()
	delete(b.repo.Signed["snapshot"]["meta"].(doc), "maps.json")
	b.repo.Publish("snapshot", "timestamp")
	b.unmoved(func() {
		if err := b.refresh(); err == nil {
			t.Error("a role was taken out of the snapshot unnoticed")
		}
	}, "timestamp.json")
}

// Key compromise below the threshold: one stolen key of two that are needed signs nothing.
func TestKeyCompromiseBelowTheThreshold(t *testing.T) {
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		t.Run(role, func(t *testing.T) {
			b := newBed(t, 1)
			old := b.repo.Keys["root"]
			stolen, other := b.repo.Key(), b.repo.Key()
			b.repo.SetKeys(role, 2, stolen, other)
			if role == "root" {
				b.repo.Keys["root"] = append(old, stolen, other)
			}
			b.repo.Publish("root", "targets", "snapshot", "timestamp")
			b.mustRefresh()
			b.repo.Keys[role] = append(b.repo.Keys[role][:0:0], stolen, b.repo.Key())
			if role == "root" {
				b.repo.Publish("root")
			} else {
				b.repo.AddTarget("targets", "agent", []byte("evil"), nil)
				b.repo.PublishAll()
			}
			b.unmoved(func() { is(t, b.refresh(), trust.Unsigned) }, "timestamp.json", "snapshot.json")
			if role == "timestamp" && b.stored()["timestamp.json"] == string(b.repo.Files["timestamp.json"]) {
				t.Error("it was stored")
			}
		})
	}
}

// Wrong software: a good image for something else, in the place of the one asked for.
func TestWrongSoftware(t *testing.T) {
	b := attacked(t)
	b.repo.AddTarget("targets", "radio", []byte("for radios!"), nil)
	b.repo.PublishAll()
	c := b.mustRefresh()
	agent, err := c.Target(context.Background(), "agent")
	if err != nil {
		t.Fatal(err)
	}
	radio, err := c.Target(context.Background(), "radio")
	if err != nil {
		t.Fatal(err)
	}
	b.repo.Files[agent.Remote()] = b.repo.Files[radio.Remote()]
	var got bytes.Buffer
	is(t, agent.Fetch(context.Background(), b.mirrors, func() (io.Writer, error) { return &got, nil }), trust.Mismatch)
	// With good metadata for other hardware: TestWrongHardware.
}

// Clocks that are wrong are in reference_test.go; here the metadata is what is wrong with time.
func TestExpiredMetadataOfEachRole(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		b := attacked(t)
		b.repo.Signed[role]["expires"] = now.Add(-time.Second).Format(time.RFC3339)
		b.repo.PublishAll()
		b.unmoved(func() { is(t, b.refresh(), trust.Expired) }, map[string][]string{"timestamp": nil, "snapshot": {"timestamp.json"}, "targets": {"timestamp.json", "snapshot.json"}}[role]...)
	}
}

// Two roles delegate to a third by different keys: what one vouches for does not count for the other's paths.
func TestARoleIsVouchedForByEachDelegatorAlone(t *testing.T) {
	b := attacked(t)
	b.repo.Delegate("targets", "A", doc{"paths": []string{"a*"}, "terminating": true})
	b.repo.Delegate("targets", "B", doc{"paths": []string{"b*"}, "terminating": true})
	b.repo.Delegate("A", "C", doc{"paths": []string{"*"}})
	b.repo.Delegate("B", "C", doc{"paths": []string{"*"}})
	b.repo.Keys["C"] = b.repo.Keys["C"][:1] // A's key alone signs
	for _, name := range []string{"a1", "b1"} {
		b.repo.AddTarget("C", name, []byte("image"), nil)
	}
	b.repo.Publish("A", "B", "C")
	b.repo.PublishAll()
	c := b.mustRefresh()
	if _, err := c.Target(context.Background(), "a1"); err != nil {
		t.Fatal(err)
	}
	_, err := c.Target(context.Background(), "b1")
	is(t, err, trust.Unsigned)
}
