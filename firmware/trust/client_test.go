package trust_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/trust"
	"github.com/waybill-telematics/waybill/firmware/trust/trusttest"
)

type doc = trusttest.Doc

var (
	now    = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	expiry = now.Add(30 * 24 * time.Hour)
)

// bed is a repository and a vehicle's trusted metadata of it. open is a start of the agent.
type bed struct {
	t       *testing.T
	repo    *trusttest.Repo
	dir     string
	factory []byte
	now     time.Time
	mirrors []trust.Fetcher
	options trust.Options
}

func newBed(t *testing.T, seed uint64) *bed {
	repo := trusttest.New(seed, expiry)
	return &bed{t: t, repo: repo, dir: folder(t), factory: repo.Sign("root"), now: now, mirrors: []trust.Fetcher{repo},
		options: trust.Options{Name: "image"}}
}

// folder is in memory where there is such a place: these tests store a thousand files, each synced to the disk.
func folder(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "waybill-trust-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (b *bed) open() *trust.Client {
	b.t.Helper()
	c, err := b.try()
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bed) try() (*trust.Client, error) {
	b.t.Helper()
	store, err := trust.OpenStore(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	o := b.options
	o.Mirrors, o.Store, o.FactoryRoot, o.Reference = b.mirrors, store, b.factory, func() time.Time { return b.now }
	return trust.New(o)
}

// refresh is a refresh right after a start.
func (b *bed) refresh() error {
	b.t.Helper()
	return b.open().Refresh(context.Background())
}

func (b *bed) mustRefresh() *trust.Client {
	b.t.Helper()
	c := b.open()
	if err := c.Refresh(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	return c
}

// stored is every file that the vehicle trusts.
func (b *bed) stored() map[string]string {
	b.t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(b.dir, e.Name()))
		if err != nil {
			b.t.Fatal(err)
		}
		files[e.Name()] = string(data)
	}
	return files
}

// is holds that an error is a refusal for a reason.
func is(t *testing.T, err error, want trust.Reason) {
	t.Helper()
	if got := trust.ReasonOf(err); err == nil || got != want {
		t.Fatalf("refused with reason %q, want %q: %v", got, want, err)
	}
}

// unmoved holds that nothing that was trusted changed over f, but for the files named.
func (b *bed) unmoved(f func(), but ...string) {
	b.t.Helper()
	before := b.stored()
	f()
	after := b.stored()
	for _, name := range but {
		delete(before, name)
		delete(after, name)
	}
	if len(before) != len(after) {
		b.t.Fatalf("other files are trusted than before: %d, were %d", len(after), len(before))
	}
	for name, data := range before {
		if after[name] != data {
			b.t.Errorf("%s changed", name)
		}
	}
}

func verify(t *testing.T, target *trust.Target, image []byte) error {
	t.Helper()
	return target.Verify(bytes.NewReader(image))
}

func TestRefreshStoresWhatWasSignedByteForByte(t *testing.T) {
	for _, hashes := range []bool{false, true} {
		b := newBed(t, 1)
		b.repo.Hashes = hashes
		b.repo.AddTarget("targets", "agent/arm64", []byte("image"), doc{"release_counter": 3})
		b.repo.PublishAll()
		c := b.mustRefresh()
		want := []string{"2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"}
		if strings.Join(b.repo.Requests, " ") != strings.Join(want, " ") {
			t.Errorf("asked for %q", b.repo.Requests)
		}
		for role, file := range map[string]string{"root": "1.root.json", "timestamp": "timestamp.json", "snapshot": "2.snapshot.json", "targets": "2.targets.json"} {
			if b.stored()[role+".json"] != string(b.repo.Files[file]) {
				t.Errorf("%s.json is not what was signed", role)
			}
		}
		target, err := c.Target(context.Background(), "agent/arm64")
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(t, target, []byte("image")); err != nil {
			t.Error(err)
		}
		if string(target.Custom()) == "" || target.Length() != 5 || target.Name() != "agent/arm64" || len(target.Hash("sha512")) != 64 {
			t.Errorf("target is %+v", target)
		}
		var got bytes.Buffer
		if err := target.Fetch(context.Background(), b.mirrors, func() (io.Writer, error) { got.Reset(); return &got, nil }); err != nil || got.String() != "image" {
			t.Errorf("fetched %q: %v", got.String(), err)
		}

		// A second refresh asks for what may be new, and for nothing else.
		b.repo.Requests = nil
		b.mustRefresh()
		if got := strings.Join(b.repo.Requests, " "); got != "2.root.json timestamp.json" {
			t.Errorf("asked for %s", got)
		}
	}
}

func TestATargetThatNobodyVouchesFor(t *testing.T) {
	b := newBed(t, 1)
	c := b.open()
	_, err := c.Target(context.Background(), "agent")
	is(t, err, trust.NotFound) // not refreshed
	c = b.mustRefresh()
	_, err = c.Target(context.Background(), "agent")
	is(t, err, trust.NotFound)
	for _, name := range []string{"../agent", "/agent", "a//b", "a/./b", ""} {
		b.repo.AddTarget("targets", name, []byte("image"), nil)
		b.repo.PublishAll()
		c = b.mustRefresh()
		_, err = c.Target(context.Background(), name)
		is(t, err, trust.Malformed)
	}
}

// The trap in go-tuf's updater: the bytes passed in replace the stored root, so passing the factory's after a rotation
// trusts the revoked keys again.
func TestTheFactoryRootCountsOnTheFirstBootOnly(t *testing.T) {
	b := newBed(t, 1)
	revoked := b.repo.Keys["targets"]
	stolen := b.repo.Keys["root"]
	b.mustRefresh()
	oldRoot := b.repo.Keys["root"][0]
	fresh := b.repo.Key()
	b.repo.SetKeys("root", 1, fresh)
	b.repo.SetKeys("targets", 1, b.repo.Key())
	b.repo.Keys["root"] = append(b.repo.Keys["root"], oldRoot) // signed by both
	b.repo.Publish("root")
	b.repo.PublishAll()
	b.mustRefresh()

	// Who has the revoked keys publishes a root 2 of his own; each start gets the factory's root passed in again.
	evil := trusttest.New(9, expiry)
	evil.Signed["root"]["version"] = 2
	evil.SetKeys("root", 1, evil.Key())
	evil.Keys["root"] = append(evil.Keys["root"], stolen...)
	evil.Keys["targets"] = revoked
	evil.PublishAs("root", 2)
	b.mirrors = []trust.Fetcher{evil}
	for range 2 {
		b.unmoved(func() { is(t, b.refresh(), trust.Unsigned) })
	}
	// Nor when the stored root is gone or damaged: then nothing is trusted, rather than the factory's root.
	for _, damage := range []func(string) error{func(p string) error { return os.WriteFile(p, []byte("{"), 0o644) }, os.Remove} {
		for _, file := range []string{"root.json", "root.copy"} {
			if err := damage(filepath.Join(b.dir, file)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := b.try()
		is(t, err, trust.Storage)
	}
}

func TestOneDamagedRootIsMadeGoodFromTheOther(t *testing.T) {
	for _, file := range []string{"root.json", "root.copy"} {
		b := newBed(t, 1)
		b.mustRefresh()
		if err := os.WriteFile(filepath.Join(b.dir, file), []byte(`{"signed":`), 0o644); err != nil {
			t.Fatal(err)
		}
		b.repo.Publish("root")
		b.mustRefresh()
		for _, file := range []string{"root.json", "root.copy"} {
			if b.stored()[file] != string(b.repo.Files["2.root.json"]) {
				t.Errorf("%s is not the newest root", file)
			}
		}
	}
}

// A power cut leaves what was written beside, and for the root one of the two copies newer.
func TestAPowerCutWhileStoring(t *testing.T) {
	b := newBed(t, 1)
	b.mustRefresh()
	b.repo.Publish("root")
	for name, data := range map[string][]byte{"root.json.new": []byte(`{"si`), "timestamp.json.new": nil, "root.copy": b.repo.Files["2.root.json"]} {
		if err := os.WriteFile(filepath.Join(b.dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.repo.Requests = nil
	b.mustRefresh()
	if b.repo.Requests[0] != "3.root.json" {
		t.Errorf("asked for %q first: the newer copy counts", b.repo.Requests[0])
	}
	// On the very first boot, before anything was whole.
	b.dir = folder(t)
	if err := os.WriteFile(filepath.Join(b.dir, "root.copy.new"), []byte(`{"si`), 0o644); err != nil {
		t.Fatal(err)
	}
	b.mustRefresh()
}

func TestDamagedMetadataIsFetchedAnew(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		b := newBed(t, 1)
		b.mustRefresh()
		whole := b.stored()
		for _, damage := range []string{"", "null", `{"signed":{"targets":{"a":null}}}`, whole[role+".json"][:200]} {
			if err := os.WriteFile(filepath.Join(b.dir, role+".json"), []byte(damage), 0o644); err != nil {
				t.Fatal(err)
			}
			b.mustRefresh()
			if b.stored()[role+".json"] != whole[role+".json"] {
				t.Errorf("%s: not made good after %.20q", role, damage)
			}
		}
	}
}

func TestManyRootRotations(t *testing.T) {
	b := newBed(t, 1)
	b.options.Limits.Rotations = 4
	for range 10 {
		old := b.repo.Keys["root"][0]
		b.repo.SetKeys("root", 1, b.repo.Key())
		b.repo.Keys["root"] = append(b.repo.Keys["root"], old)
		b.repo.Publish("root")
	}
	is(t, b.refresh(), trust.TooLong)
	is(t, b.refresh(), trust.TooLong)
	b.mustRefresh()
	if b.stored()["root.json"] != string(b.repo.Files["11.root.json"]) {
		t.Error("not at the newest root")
	}
}

func TestARootOfAnotherVersionThanItsName(t *testing.T) {
	b := newBed(t, 1)
	b.repo.Signed["root"]["version"] = 3
	b.repo.Files["2.root.json"] = b.repo.Sign("root")
	b.unmoved(func() { is(t, b.refresh(), trust.WrongVer) }, "root.json", "root.copy")
	if b.stored()["root.json"] != string(b.factory) {
		t.Error("the root changed")
	}
}

// An expired root is taken on the way to a newer one, and stored, and nothing else is asked for with it.
func TestAnExpiredRoot(t *testing.T) {
	b := newBed(t, 1)
	b.mustRefresh()
	b.repo.Signed["root"]["expires"] = now.Add(-time.Hour).Format(time.RFC3339)
	b.repo.Publish("root")
	b.repo.Requests = nil
	b.unmoved(func() { is(t, b.refresh(), trust.Expired) }, "root.json", "root.copy")
	if got := strings.Join(b.repo.Requests, " "); got != "2.root.json 3.root.json" {
		t.Errorf("asked for %s", got)
	}
	b.repo.Signed["root"]["expires"] = expiry.Format(time.RFC3339)
	b.repo.Publish("root")
	b.mustRefresh()
}

// It is over at the moment at which it expires (§5.3.10, §5.4.4, §5.5.6, §5.6.6).
func TestTheMomentOfExpiry(t *testing.T) {
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		b := newBed(t, 1)
		b.repo.Signed[role]["expires"] = now.Add(time.Hour).Format(time.RFC3339)
		b.repo.Publish("root", "targets", "snapshot", "timestamp")
		b.now = now.Add(time.Hour)
		is(t, b.refresh(), trust.Expired)
		b.now = now.Add(time.Hour - 1)
		b.mustRefresh()
		b.now = now.Add(time.Hour)
		is(t, b.refresh(), trust.Expired) // nor from the store
	}
}

func TestWithoutConsistentSnapshots(t *testing.T) {
	b := newBed(t, 1)
	b.repo.Signed["root"]["consistent_snapshot"] = false
	b.repo.AddTarget("targets", "agent", []byte("image"), nil)
	b.repo.Publish("root", "targets", "snapshot", "timestamp")
	b.repo.Files["snapshot.json"], b.repo.Files["targets.json"] = b.repo.Files["2.snapshot.json"], b.repo.Files["2.targets.json"]
	target, err := b.mustRefresh().Target(context.Background(), "agent")
	if err != nil || target.Remote() != "agent" {
		t.Errorf("%v %v", target, err)
	}
}

func TestOpenVerifiesFromTheDisk(t *testing.T) {
	b := newBed(t, 1)
	image := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	b.repo.AddTarget("targets", "agent", image, nil)
	b.repo.PublishAll()
	target, err := b.mustRefresh().Target(context.Background(), "agent")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent")
	flipped := bytes.Clone(image)
	flipped[len(flipped)/2] ^= 1
	for name, data := range map[string][]byte{"flipped": flipped, "short": image[1:], "long": append(bytes.Clone(image), 0), "empty": nil} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if f, err := target.Open(path); err == nil {
			f.Close()
			t.Errorf("%s: taken", name)
		}
	}
	if err := os.WriteFile(path, image, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := target.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, image) {
		t.Errorf("not the image from its beginning: %v", err)
	}
	if err := new(trust.Target).Verify(strings.NewReader("")); err == nil {
		t.Error("the zero Target vouches for something")
	}
}

func TestEveryRoleNeedsItsThreshold(t *testing.T) {
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		for signers := range 4 {
			t.Run(role+strconv.Itoa(signers), func(t *testing.T) {
				b := newBed(t, 1)
				first := b.repo.Keys["root"]
				keys := append(b.repo.Keys[role][:1:1], b.repo.Key(), b.repo.Key())
				b.repo.SetKeys(role, 2, keys...)
				if role == "root" {
					b.repo.Publish("root") // by all three
					b.repo.Keys["root"] = keys[:signers]
					b.repo.Publish("root", "targets", "snapshot", "timestamp")
				} else {
					b.repo.Keys["root"] = first
					b.repo.Keys[role] = keys[:signers]
					b.repo.Publish("root", "targets", "snapshot", "timestamp")
				}
				err := b.refresh()
				if signers < 2 {
					is(t, err, trust.Unsigned)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// One key under two ids, and one signature given twice, count once.
func TestAKeyCountsOnce(t *testing.T) {
	b := newBed(t, 1)
	key := b.repo.Keys["snapshot"][0]
	root := b.repo.Signed["root"]
	root["keys"].(doc)["another-id"] = root["keys"].(doc)[trusttest.KeyID(key)]
	root["roles"].(doc)["snapshot"] = doc{"keyids": []string{trusttest.KeyID(key), "another-id"}, "threshold": 2}
	b.repo.Publish("root", "targets", "snapshot", "timestamp")
	twice := strings.Replace(string(b.repo.Files["2.snapshot.json"]), `"signatures": [`, `"signatures": [{"keyid":"another-id","sig":"`+signatureIn(t, b.repo.Files["2.snapshot.json"])+`"},`, 1)
	b.repo.Files["2.snapshot.json"] = []byte(twice)
	is(t, b.refresh(), trust.Unsigned)
}

func signatureIn(t *testing.T, data []byte) string {
	t.Helper()
	_, after, ok := strings.Cut(string(data), `"sig": "`)
	sig, _, ok2 := strings.Cut(after, `"`)
	if !ok || !ok2 {
		t.Fatalf("no signature in %s", data)
	}
	return sig
}

func TestCancelledRefresh(t *testing.T) {
	b := newBed(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	server := blocked{}
	b.mirrors = []trust.Fetcher{server, server}
	if err := b.open().Refresh(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ends with %v", err)
	}
}

// blocked answers only when it is given up.
type blocked struct{}

func (blocked) Fetch(ctx context.Context, _ string, _ int64, _ io.Writer) error {
	<-ctx.Done()
	return ctx.Err()
}
