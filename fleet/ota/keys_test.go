package ota

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/waybill-telematics/waybill/firmware/delivery"
)

func secret(text string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(text), nil }
}

func TestKeyFiles(t *testing.T) {
	t.Parallel()
	b := &bed{t: t, w: newWorkspace(Options{})}
	keys := []*Key{b.key("one"), b.key("two")}
	path := filepath.Join(t.TempDir(), "a", "b.keys")
	b.must(WriteKeys(path, keys, nil))
	if err := WriteKeys(path, keys, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("overwritten: %v", err)
	}
	back, err := ReadKeys(path, nil)
	if err != nil || len(back) != 2 || back[1].Name != "two" || back[1].ID != keys[1].ID || !back[1].private.Equal(keys[1].private) {
		t.Fatalf("%v %v", back, err)
	}
	public, err := ReadPublic(path + ".pub")
	if err != nil || len(public) != 2 || public[0].ID != keys[0].ID || public[0].Name != "one" {
		t.Errorf("%v %v", public, err)
	}
	text, err := os.ReadFile(path + ".pub")
	b.must(err)
	if bytes.Contains(text, []byte("private")) {
		t.Error("the private half is public")
	}
	b.must(os.Chmod(path, 0o640))
	if _, err := ReadKeys(path, nil); err == nil || !strings.Contains(err.Error(), "others may read it") {
		t.Errorf("%v", err)
	}
	for _, text := range []string{"", "{}", `{"data":[{}]}`, `{"data":[{"name":"a","keytype":"ed25519","keyval":{"public":"00","private":"00"}}]}`, `{"encrypted":true,"data":{"kdf":{"name":"scrypt","params":{"N":1073741824,"r":8,"p":1}}}}`} {
		if keys, err := OpenKeys([]byte(text), secret("x")); err == nil {
			t.Errorf("%s: %v", text, keys)
		}
	}
	// Two halves that do not belong together.
	mixed := strings.Replace(string(must(SealKeys(keys[:1], nil))), keys[0].Key.Value.PublicKey, keys[1].Key.Value.PublicKey, 1)
	if _, err := OpenKeys([]byte(mixed), nil); err == nil {
		t.Error("another key's public half")
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

func FuzzOpenPending(f *testing.F) {
	f.Add([]byte(`{"signatures":[{"keyid":"a","sig":"00"}],"signed":{"_type":"targets","spec_version":"1.0.31","version":2,"expires":"2030-01-01T00:00:00Z","targets":{"a":null},"delegations":{"keys":{"x":null},"roles":[{"name":"y","keyids":["x"],"threshold":1}]}}}`))
	f.Add([]byte(`{"signatures":[],"signed":{"_type":"root","spec_version":"1.0.31","version":2,"expires":"2030-01-01T00:00:00Z","keys":{"x":null},"roles":{"root":null,"targets":{"keyids":["x"],"threshold":1}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := folder(t)
		for _, name := range []string{"2.root.json", "2.a.json"} {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			p, err := OpenPending(path)
			if err != nil {
				continue
			}
			_, _ = p.Words() // foreign bytes: none of it may panic
			_, _ = p.Signatures()
			_, _ = p.Complete()
		}
	})
}

// A patch is undone by zstd's decoder with the old image as its dictionary.
func TestPatch(t *testing.T) {
	t.Parallel()
	old := bytes.Repeat([]byte("what a program is made of, again and again 0123456789\n"), 4000)
	for i := range old {
		old[i] ^= byte(i * i >> 7)
	}
	image := slices.Concat(old[:100_000], []byte("a line more"), old[100_000:])
	var patch bytes.Buffer
	if err := delivery.MakePatch(&patch, bytes.NewReader(old), bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderDictRaw(0, old))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	back, err := d.DecodeAll(patch.Bytes(), nil)
	if err != nil || !bytes.Equal(back, image) || patch.Len() > 2000 {
		t.Errorf("%d bytes, %v", patch.Len(), err)
	}
	if err := delivery.MakePatch(&patch, strings.NewReader(""), bytes.NewReader(image)); err == nil {
		t.Error("from nothing")
	}
}

// A hardware more: its team comes in by a new delegation. One team's expiry is not the others'.
func TestTeams(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	c := b.car("car-1")
	c.wants("")
	team := b.key("linux-armv7-1")
	if _, err := b.w.Rotate(RotateOptions{Repository: Image, Role: "linux-armv7", Hardware: "linux/arm/7", Add: []Public{team.Public}}, nil); err == nil {
		t.Error("a role that is not its hardware's")
	}
	_, err := b.w.Rotate(RotateOptions{Repository: Image, Role: "linux-armv7", Hardware: "linux/armv7", Add: []Public{team.Public}}, append(b.of("offline-1"), team))
	b.must(err)
	out, err := b.w.Publish(nil, b.online())
	b.must(err)
	if len(out.Files) != 2 {
		t.Fatalf("%+v", out)
	}
	// It may not speak of others' images, and others may not of its own.
	_, err = b.w.Publish(&PublishOptions{Path: b.image("seven"), Name: "agent", Hardware: []string{"linux/armv7"}, Version: "1", Release: 1}, append(b.online(), b.of("team-linux-arm64")...))
	b.must(err)
	report, err := b.w.Report(t.Context(), nil)
	b.must(err)
	if len(report.Waiting) != 1 || len(report.Images) != 0 {
		t.Fatalf("%+v", report)
	}
	p, err := OpenPending(report.Waiting[0].Path)
	b.must(err)
	b.must(p.Sign([]*Key{team}))
	_, err = b.w.Publish(nil, b.online())
	b.must(err)
	c.wants("")
	// The first team's role expires; the other's was renewed a month ago.
	b.time = b.time.AddDate(0, 2, 0)
	_, err = b.w.Rotate(RotateOptions{Repository: Image, Role: "linux-armv7"}, []*Key{team})
	b.must(err)
	_, err = b.w.Rotate(RotateOptions{Repository: Image, Role: roleTargets}, b.of("offline-1"))
	b.must(err)
	_, err = b.w.Publish(nil, b.online())
	b.must(err)
	b.time = b.time.AddDate(0, 1, 15)
	if _, err := b.w.Refresh(b.online(), false); err != nil {
		t.Fatal(err)
	}
	c.wants("")
	report, err = b.w.Report(t.Context(), nil)
	b.must(err)
	if text := strings.Join(report.Warnings, "\n"); !strings.Contains(text, "image: linux-arm64 expired") || strings.Contains(text, "linux-armv7 expired") {
		t.Errorf("%s", text)
	}
}

// A name keeps its bytes, and releases count up.
func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	b.publish("2", 12, "two")
	b.publish("2", 12, "two") // a repetition
	keys := append(b.online(), b.of("team-linux-arm64")...)
	for _, v := range []struct {
		o    PublishOptions
		want string
	}{
		{PublishOptions{Path: b.image("other"), Name: "agent", Version: "2", Release: 12, Hardware: []string{"linux/arm64"}}, "keeps its bytes"},
		{PublishOptions{Path: b.image("one"), Name: "agent", Version: "1", Release: 12, Hardware: []string{"linux/arm64"}}, "has 12 already"},
		{PublishOptions{Path: b.image("one"), Name: "agent", Version: "1", Release: 0, Hardware: []string{"linux/arm64"}}, "release counter of 1 or more"},
		{PublishOptions{Path: b.image("one"), Name: "a/../agent", Version: "1", Release: 13, Hardware: []string{"linux/arm64"}}, "may not stand in it"},
		{PublishOptions{Path: b.image("one"), Name: "agent", Version: "1", Release: 13, Hardware: []string{"linux/riscv64"}}, "ota rotate image linux-riscv64"},
		{PublishOptions{Path: b.image(""), Name: "agent", Version: "3", Release: 13, Hardware: []string{"linux/arm64"}}, "an image has 1 to"},
	} {
		if _, err := b.w.Publish(&v.o, keys); err == nil || !strings.Contains(err.Error(), v.want) {
			t.Errorf("want %q, got %v", v.want, err)
		}
	}
	h, err := load(b.w.imageDir())
	b.must(err)
	if n := len(h.targets("linux-arm64").Targets); n != 1 {
		t.Errorf("%d images", n)
	}
}

// A mirror shows a vehicle the files of another cohort's director: it goes no further than that cohort's, and comes back.
func TestMirrorSwapsCohorts(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	b.publish("1.2.3", 12, "agent")
	c := b.create(fmt.Sprintf(staged, "c-2", "linux-arm64/agent-1.2.3"))
	b.advance("c-2")
	reached := slices.Index(c.order[:], 0)
	v := b.car("car-1")
	if v.cohort() == reached {
		t.Fatal("take another vehicle")
	}
	v.wants("")
	own, other := b.w.cohortDir("sedan", v.cohort()), b.w.cohortDir("sedan", reached)
	kept := filepath.Join(folder(t), "own")
	b.must(os.CopyFS(kept, os.DirFS(own)))
	for range 3 { // the other cohort's versions do not run ahead
		if _, err := b.w.Refresh(b.online(), true); err != nil {
			t.Fatal(err)
		}
	}
	b.must(os.Rename(own, own+".kept"))
	b.must(os.CopyFS(own, os.DirFS(other)))
	if _, err := v.resolve(); err != nil {
		t.Errorf("%v", err)
	}
	b.must(os.RemoveAll(own))
	b.must(os.Rename(own+".kept", own))
	if _, err := b.w.Refresh(b.online(), true); err != nil {
		t.Fatal(err)
	}
	v.wants("")
}
