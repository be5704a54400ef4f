package ota

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/trust"
)

const everybody = `
id: %s
images: [{name: %s, hardware: linux/arm64}]
stages: [{percent: 100}]
stop: {rolled_back: 3}
`

// The whole chain with a real client: keys of several holders, an image signed by its team, a campaign.
func TestChain(t *testing.T) {
	t.Parallel()
	b := newBed(t, true)
	c := b.car("car-1")
	c.wants("") // empty repositories are whole
	p := b.publish("1.2.3", 12, "agent 1.2.3")
	if p.Target != "linux-arm64/agent-1.2.3" || len(p.Waiting) != 0 || len(p.Files) != 1 {
		t.Fatalf("%+v", p)
	}
	c.wants("") // nobody directs it yet
	b.create(strings.Replace(fmt.Sprintf(everybody, "c-1", "linux-arm64/agent-1.2.3"), "stop:", `wifi_only: true
budget_bytes: 20000000
conditions: {parked: true, ignition: "off", min_battery_volts: 12.2, min_soc_percent: 30, window: {from: "02:00", to: "05:00"}, consent: true}
stop:`, 1))
	c.wants("")
	b.advance("c-1")
	target := c.wants("linux-arm64/agent-1.2.3")
	if got := target.Provenance(); got != "director/targets and image/linux-arm64" {
		t.Errorf("provenance is %s", got)
	}
	b.car("another").wants("linux-arm64/agent-1.2.3")
	// What the director says of it: signed, and as docs/OTA.md has it.
	h, err := load(b.w.cohortDir("sedan", c.cohort()))
	b.must(err)
	var custom map[string]any
	b.must(json.Unmarshal(*h.targets(roleTargets).Targets["linux-arm64/agent-1.2.3"].Custom, &custom))
	want := `{"budget_bytes":20000000,"campaign":"c-1","conditions":{"consent":true,"ignition":"off","min_battery_volts":"12.2","min_soc_percent":30,"parked":true,"window":{"from":"02:00","to":"05:00","zone":"UTC"}},"ecus":{"agent":{"hardware_id":"linux/arm64"}},"release_counter":12,"wifi_only":true}`
	if got, _ := json.Marshal(custom); string(got) != want {
		t.Errorf("custom is %s", got)
	}
	// The vehicle reads it as it was meant.
	asked, err := conditions.FromCustom(*h.targets(roleTargets).Targets["linux-arm64/agent-1.2.3"].Custom)
	if err != nil || asked.Campaign != "c-1" || !asked.Parked || asked.MinVolts == nil || *asked.MinVolts != 12.2 || *asked.MinSoC != 30 || asked.Window == nil || !asked.Consent {
		t.Errorf("%+v %v", asked, err)
	}
	// The other line has other hardware, and nothing of it.
	truck := b.car("truck-1")
	truck.line, truck.units = "truck", []trust.ECU{{ID: "agent", Hardware: "linux/armv7"}}
	truck.wants("")
}

// Threshold signing by holders that have a copy of the staged folder each, and nothing else.
func TestThresholdSigning(t *testing.T) {
	t.Parallel()
	b := newBed(t, false, agents)
	c := b.car("car-1")
	c.wants("")
	before := b.w.imageDir()
	staged, err := b.w.Rotate(RotateOptions{Repository: Image, Role: roleTargets}, nil) // only a later expiry
	b.must(err)
	if len(staged) != 1 {
		t.Fatal(staged)
	}
	copies := []string{}
	for i := 1; i <= 2; i++ {
		dir := filepath.Join(folder(t), "stick")
		b.must(os.CopyFS(dir, os.DirFS(b.w.stagedDir(Image))))
		p, err := OpenPending(filepath.Join(dir, "2.targets.json"))
		b.must(err)
		words, err := p.Words()
		b.must(err)
		if text := strings.Join(words, "\n"); !strings.Contains(text, "nothing but version and expiry") || !strings.Contains(text, "targets, version 2") {
			t.Errorf("%s", text)
		}
		if err := p.Sign(b.online()); err == nil || !strings.Contains(err.Error(), "image-targets-1") {
			t.Errorf("a key of another role: %v", err)
		}
		b.must(p.Sign(b.of(fmt.Sprintf("offline-%d", i))))
		if done, err := p.Complete(); err != nil || done {
			t.Error("one signature is enough", err)
		}
		copies = append(copies, p.Path)
	}
	for i, path := range copies {
		p, err := OpenPending(staged[0].Path)
		b.must(err)
		b.must(p.Merge(path))
		out, err := b.w.Publish(nil, b.online())
		b.must(err)
		if i == 0 != (len(out.Waiting) == 1) || i == 1 != (len(out.Files) == 1) {
			t.Fatalf("after %d signatures: %+v", i+1, out)
		}
	}
	c.wants("")
	h, err := load(before)
	b.must(err)
	if h.targets(roleTargets).Version != 2 {
		t.Error("not published")
	}
	if exists(staged[0].Path) {
		t.Error("still staged")
	}
}

// A copy of something else, a signature that is none, and a key counted twice.
func TestMergeBelievesNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t, false, agents)
	staged, err := b.w.Rotate(RotateOptions{Repository: Image, Role: roleTargets}, b.of("offline-1"))
	b.must(err)
	path := staged[0].Path
	data, err := os.ReadFile(path)
	b.must(err)
	other := filepath.Join(folder(t), "2.targets.json")
	b.must(os.WriteFile(other, []byte(strings.Replace(string(data), `"version": 2`, `"version": 3`, 1)), 0o644))
	p, err := OpenPending(path)
	b.must(err)
	if err := p.Merge(other); err == nil || !strings.Contains(err.Error(), "differs") {
		t.Errorf("%v", err)
	}
	forged := *p.doc
	forged.Signatures = nil
	forged.add(signature{b.of("offline-2")[2].ID, strings.Repeat("00", 64)})
	raw, err := forged.bytes()
	b.must(err)
	b.must(os.WriteFile(other, raw, 0o644))
	b.must(p.Merge(other))
	p.doc.Signatures = append(p.doc.Signatures, p.doc.Signatures[0])
	if ok, err := p.Complete(); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

func (b *bed) key(name string) *Key {
	b.t.Helper()
	k, err := NewKey(name, b.w.rand)
	b.must(err)
	return k
}

// Rotation of roots and of all kinds of keys: a client that was there at the beginning follows, at each file that is written;
// what the revoked keys sign afterwards is refused.
func TestRotation(t *testing.T) {
	t.Parallel()
	b := newBed(t, false, agents)
	b.publish("1.2.3", 12, "agent 1.2.3")
	b.create(fmt.Sprintf(everybody, "c-1", "linux-arm64/agent-1.2.3"))
	b.advance("c-1")
	const want = "linux-arm64/agent-1.2.3"
	c := b.car("car-1")
	c.wants(want)
	old := map[string]*Key{}
	for _, holder := range []string{"offline-1", "online", "team-linux-arm64"} {
		for _, k := range b.keys[holder] {
			old[k.Name] = k
		}
	}
	asked := 0 // before each file of what this vehicle looks at
	b.before = func(path string) error {
		if strings.HasPrefix(path, b.w.cohortDir("sedan", c.cohort())+"/") || strings.HasPrefix(path, b.w.imageDir()) {
			asked++
			c.wants(want)
		}
		return nil
	}
	rotate := func(o RotateOptions, add *Key, holder string, signers ...string) {
		t.Helper()
		o.Add = []Public{add.Public}
		b.keys[holder] = append(b.keys[holder], add)
		staged, err := b.w.Rotate(o, nil)
		b.must(err)
		for _, p := range staged {
			for _, signer := range signers {
				q, err := OpenPending(p.Path)
				b.must(err)
				if len(q.Mine(b.of(signer))) > 0 {
					b.must(q.Sign(b.of(signer)))
				}
			}
		}
		out, err := b.w.Publish(nil, b.online())
		b.must(err)
		if len(out.Waiting) > 0 {
			lines, _ := out.Waiting[0].Signatures()
			t.Fatalf("%s still waits: %q", out.Waiting[0].Path, lines)
		}
		c.wants(want)
	}
	all := []string{"offline-1", "offline-2", "offline-3", "offline-4"}
	rotate(RotateOptions{Repository: Image, Role: roleRoot, Remove: []string{"image-root-1"}}, b.key("image-root-6"), "offline-6", append(all, "offline-6")...)
	rotate(RotateOptions{Repository: Image, Role: roleTargets, Remove: []string{"image-targets-1"}}, b.key("image-targets-4"), "offline-4", all...)
	rotate(RotateOptions{Repository: Image, Role: roleOnline, Remove: []string{"image-online"}}, b.key("image-online-2"), "online", all...)
	rotate(RotateOptions{Repository: Director, Role: roleOnline, Remove: []string{"director-online"}}, b.key("director-online-2"), "online", all...)
	rotate(RotateOptions{Repository: Image, Role: "linux-arm64", Remove: []string{"linux-arm64-1"}}, b.key("linux-arm64-2"), "team-linux-arm64", append(all, "team-linux-arm64")...)
	if asked < 18 {
		t.Errorf("asked %d times", asked)
	}
	b.before = nil
	b.car("new-car").wants(want)

	// The old keys: the tool does not take them, and the client does not either.
	out, err := b.w.Publish(&PublishOptions{Path: b.image("evil"), Name: "agent", Hardware: []string{"linux/arm64"}, Version: "6.6.6", Release: 666},
		append(b.online(), old["linux-arm64-1"]))
	b.must(err)
	if len(out.Waiting) != 1 {
		t.Fatalf("signed by a revoked key, and %+v", out)
	}
	b.must(os.Remove(out.Waiting[0].Path))
	dir := b.w.cohortDir("sedan", c.cohort())
	h, err := load(dir)
	b.must(err)
	h.timestamp.Version += 10
	forged, err := signAll(h.timestamp, []*Key{old["director-online"]})
	b.must(err)
	good, err := os.ReadFile(filepath.Join(dir, "timestamp.json"))
	b.must(err)
	b.must(os.WriteFile(filepath.Join(dir, "timestamp.json"), forged, 0o644))
	c.refused(trust.Unsigned)
	b.must(os.WriteFile(filepath.Join(dir, "timestamp.json"), good, 0o644))
	c.wants(want)
}

// A targets key that is lost: nobody can sign by the old threshold any more. The new root comes first.
func TestRotationWithoutTheOld(t *testing.T) {
	t.Parallel()
	b := newBed(t, false, agents)
	c := b.car("car-1")
	c.wants("")
	k := []*Key{b.key("image-targets-4"), b.key("image-targets-5")}
	staged, err := b.w.Rotate(RotateOptions{Repository: Image, Role: roleTargets, Remove: []string{"image-targets-1", "image-targets-2"},
		Add: []Public{k[0].Public, k[1].Public}}, nil)
	b.must(err)
	for _, p := range staged {
		q, err := OpenPending(p.Path)
		b.must(err)
		if q.Role == roleRoot {
			b.must(q.Sign(b.of("offline-3", "offline-4", "offline-5")))
			continue
		}
		// The root alone would leave a repository that nobody can verify: it waits.
		out, err := b.w.Publish(nil, b.online())
		b.must(err)
		if len(out.Files) != 0 || len(out.Waiting) != 2 {
			t.Fatalf("%+v", out)
		}
		c.wants("")
		b.must(q.Sign(k))
		lines, err := q.Signatures()
		b.must(err)
		if !strings.Contains(strings.Join(lines, "\n"), "by those who signed until now: 0 of 2") {
			t.Errorf("%q", lines)
		}
	}
	// The root comes first here. Killed right after it: the next try signs the rest by the new keys.
	killed := errors.New("killed")
	b.before = func(path string) error {
		if strings.HasSuffix(path, "timestamp.json") {
			return killed
		}
		return nil
	}
	if _, err := b.w.Publish(nil, b.online()); !errors.Is(err, killed) {
		t.Fatal(err)
	}
	b.before = nil
	_, err = b.w.Publish(nil, b.online())
	b.must(err)
	c.wants("")
}

// The online keys are lost, and all with them that could have signed for both roots.
func TestOnlineKeysLost(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	c := b.car("car-1")
	c.wants("")
	for _, repository := range []string{Image, Director} {
		k := b.key(repository + "-online-2")
		_, err := b.w.Rotate(RotateOptions{Repository: repository, Role: roleOnline, Remove: []string{repository + "-online"}, Add: []Public{k.Public}}, b.of("offline-1"))
		b.must(err)
		b.keys["new"] = append(b.keys["new"], k)
	}
	if _, err := b.w.Publish(nil, b.of("new")[:1]); err == nil || !strings.Contains(err.Error(), "director-online-2") {
		t.Fatalf("a root whose keys are not here: %v", err)
	}
	c.wants("")
	killed := errors.New("killed")
	cohort := b.w.cohortDir("sedan", c.cohort())
	b.before = func(path string) error {
		if path == filepath.Join(cohort, "2.targets.json") {
			return killed
		}
		return nil
	}
	if _, err := b.w.Publish(nil, b.of("new")); !errors.Is(err, killed) {
		t.Fatal(err)
	}
	b.before = nil
	c.refused(trust.Unsigned) // the root is there, and nothing by its keys yet
	if _, err := b.w.Refresh(b.of("new"), false); err != nil {
		t.Fatal(err)
	}
	c.wants("")
}

// What expires, and what renews it.
func TestExpiryAndRefresh(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	c := b.car("car-1")
	c.wants("")
	if did, err := b.w.Refresh(b.online(), false); err != nil || len(did) != 0 {
		t.Fatalf("%v %v", did, err)
	}
	b.time = b.time.Add(3 * 24 * time.Hour)
	c.refused(trust.Expired)
	report, err := b.w.Report(t.Context(), nil)
	b.must(err)
	if text := strings.Join(report.Warnings, "\n"); !strings.Contains(text, "director: timestamp expired") || !strings.Contains(text, "image: timestamp expired") {
		t.Errorf("%s", text)
	}
	for range 7 { // each day
		did, err := b.w.Refresh(b.online(), false)
		b.must(err)
		if len(did) != 2 {
			t.Fatalf("%v", did)
		}
		c.wants("")
		b.time = b.time.Add(24 * time.Hour)
	}
	b.time = b.time.Add(81 * 24 * time.Hour) // the targets of the image repository lived 90 days
	if _, err := b.w.Refresh(b.online(), false); err == nil || !strings.Contains(err.Error(), "ota rotate image targets") {
		t.Fatalf("%v", err)
	}
	for _, role := range []string{roleTargets, "linux-arm64"} {
		_, err := b.w.Rotate(RotateOptions{Repository: Image, Role: role}, b.of("offline-1", "team-linux-arm64"))
		b.must(err)
	}
	if _, err := b.w.Publish(nil, b.online()); err != nil {
		t.Fatal(err)
	}
	c.wants("")
	// Not more files than what is kept.
	entries, err := os.ReadDir(b.w.cohortDir("sedan", 7))
	b.must(err)
	if len(entries) > 2+2*keepVersions {
		t.Errorf("%d files", len(entries))
	}
}
