package ota

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/trust"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// folder is in memory where there is such a place: what is tested is not the disk.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ota")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// bed is an OEM with two kinds of vehicles.
type bed struct {
	t       *testing.T
	dir     string
	time    time.Time
	w       *Workspace
	keys    map[string][]*Key // by holder
	outcome fixed
	before  func(string) error
}

type fixed []Outcome

func (f fixed) Outcomes(_ context.Context, campaign string, _ []string) (list []Outcome, _ error) {
	for _, o := range f {
		if o.Campaign == campaign {
			list = append(list, o)
		}
	}
	return list, nil
}

var testLines = []Line{
	{"sedan", map[string]string{"agent": "linux/arm64", "head": "head-unit-b"}},
	{"truck", map[string]string{"agent": "linux/armv7"}},
}

// agents is one kind of vehicles.
var agents = Line{"sedan", map[string]string{"agent": "linux/arm64"}}

func newBed(t *testing.T, bench bool, lines ...Line) *bed {
	t.Helper()
	b := &bed{t: t, dir: filepath.Join(folder(t), "oem"), time: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC), keys: map[string][]*Key{}}
	if len(lines) == 0 {
		lines = testLines
	}
	_, err := Init(InitOptions{Options: b.options(), Lines: lines, Bench: bench, Keep: b.keep})
	b.must(err)
	b.open()
	return b
}

func (b *bed) options() Options {
	return Options{Dir: b.dir, Now: func() time.Time { return b.time }, before: func(path string) error {
		if b.before != nil {
			return b.before(path)
		}
		return nil
	}}
}

func (b *bed) keep(path string, keys []*Key) error {
	b.keys[filepath.Base(filepath.Dir(path))] = keys
	return nil
}

func (b *bed) open() {
	b.t.Helper()
	w, err := Open(b.options())
	b.must(err)
	b.w = w
}

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// of are the keys of holders.
func (b *bed) of(holders ...string) (list []*Key) {
	b.t.Helper()
	for _, h := range holders {
		if len(b.keys[h]) == 0 {
			b.t.Fatalf("no keys of %s", h)
		}
		list = append(list, b.keys[h]...)
	}
	return list
}

func (b *bed) online() []*Key { return b.of("online") }

// image writes a file.
func (b *bed) image(content string) string {
	b.t.Helper()
	path := filepath.Join(folder(b.t), "image")
	b.must(os.WriteFile(path, []byte(content), 0o644))
	return path
}

// publish adds an image of the agent for linux/arm64, signed by its team.
func (b *bed) publish(version string, release uint64, content string) *Published {
	b.t.Helper()
	p, err := b.w.Publish(&PublishOptions{Path: b.image(content), Name: "agent", Hardware: []string{"linux/arm64"}, Version: version, Release: release},
		append(b.online(), b.of("team-linux-arm64")...))
	b.must(err)
	return p
}

func (b *bed) create(spec string) *Campaign {
	b.t.Helper()
	c, err := b.w.Create([]byte(spec))
	b.must(err)
	return c
}

func (b *bed) advance(id string) *Campaign {
	b.t.Helper()
	c, err := b.w.Advance(context.Background(), id, b.outcome, b.online())
	b.must(err)
	return c
}

// files is a mirror of what is public.
type files struct {
	dir  string
	seen func(string)
}

func (f files) Fetch(_ context.Context, name string, limit int64, w io.Writer) error {
	plain, err := url.PathUnescape(name)
	if err != nil {
		return err
	}
	if f.seen != nil {
		f.seen(plain)
	}
	data, err := os.ReadFile(filepath.Join(f.dir, plain))
	if errors.Is(err, fs.ErrNotExist) {
		return trust.ErrNotFound
	}
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	return err
}

// car is a real client: firmware/trust.
type car struct {
	b              *bed
	tenant, device string
	line           string
	dir            string
	units          []trust.ECU
	vehicle        *trust.Vehicle
	seen           func(string)
	factory        [2][]byte // roots of director and image repository
}

func (b *bed) car(device string) *car {
	b.t.Helper()
	c := &car{b: b, tenant: "default", device: device, line: "sedan", dir: folder(b.t),
		units: []trust.ECU{{ID: "agent", Hardware: "linux/arm64", Release: 1}, {ID: "head", Hardware: "head-unit-b", Release: 1}}}
	for i, repository := range []string{Director, Image} {
		data, err := os.ReadFile(filepath.Join(b.dir, "factory", repository+".root.json"))
		b.must(err)
		c.factory[i] = data
	}
	return c
}

func (c *car) client(name, dir string, factory []byte) *trust.Client {
	c.b.t.Helper()
	store, err := trust.OpenStore(filepath.Join(c.dir, name))
	c.b.must(err)
	client, err := trust.New(trust.Options{Name: name, Mirrors: []trust.Fetcher{files{dir, c.seen}}, Store: store, FactoryRoot: factory,
		Reference: func() time.Time { return c.b.time }, NoDelegations: name == Director})
	c.b.must(err)
	return client
}

func (c *car) cohort() int { return telemetrypb.Cohort(c.tenant, c.device) }

func (c *car) resolve() (trust.Bundle, error) {
	c.b.t.Helper()
	if c.vehicle == nil {
		reference, err := trust.OpenReference(trust.ReferenceOptions{Path: filepath.Join(c.dir, "time"), Clock: func() (time.Time, bool) { return c.b.time, true }})
		c.b.must(err)
		c.vehicle, err = trust.NewVehicle(trust.VehicleOptions{Reference: reference,
			Director: c.client(Director, c.b.w.cohortDir(c.line, c.cohort()), c.factory[0]),
			Image:    c.client(Image, c.b.w.imageDir(), c.factory[1])})
		c.b.must(err)
	}
	return c.vehicle.Resolve(context.Background(), c.units)
}

// wants holds what the vehicle is to install: the agent's image, "" for nothing; and that the image can be fetched.
func (c *car) wants(name string) *trust.Target {
	c.b.t.Helper()
	bundle, err := c.resolve()
	if err != nil {
		c.b.t.Fatal(err)
	}
	got := ""
	target := bundle["agent"]
	if target != nil {
		got = target.Name()
	}
	if got != name {
		c.b.t.Fatalf("%s (cohort %d) is to install %q, want %q", c.device, c.cohort(), got, name)
	}
	if target != nil {
		var image strings.Builder
		c.b.must(target.Fetch(context.Background(), []trust.Fetcher{files{filepath.Join(c.b.w.imageDir(), "targets"), nil}}, func() (io.Writer, error) { return &image, nil }))
	}
	return target
}

func (c *car) refused(reason trust.Reason) {
	c.b.t.Helper()
	if _, err := c.resolve(); trust.ReasonOf(err) != reason {
		c.b.t.Fatalf("want %s, got %v", reason, err)
	}
}
