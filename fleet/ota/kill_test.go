//go:build system

package ota

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var errKilled = errors.New("killed")

// killAt ends the process, as far as the folder can tell, before its n-th change of it; what was being written is left half.
func (b *bed) killAt(n int) *int {
	count := 0
	b.before = func(path string) error {
		if count++; count < n {
			return nil
		}
		if count == n && !strings.HasSuffix(path, "oem") {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path+".new", []byte(`{"half`), 0o600); err != nil {
				return err
			}
		}
		return errKilled
	}
	return &count
}

// again makes parts of the bed over from a copy of its folder.
func (b *bed) again(dir string, parts ...string) {
	b.t.Helper()
	b.before = nil
	for _, part := range parts {
		b.must(os.RemoveAll(filepath.Join(b.dir, part)))
		if exists(filepath.Join(dir, part)) {
			b.link(filepath.Join(dir, part), filepath.Join(b.dir, part))
		}
	}
	b.open()
}

// link copies a folder by links: what changes is renamed into its place.
func (b *bed) link(dir, to string) {
	b.t.Helper()
	b.must(filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		at := filepath.Join(to, strings.TrimPrefix(path, dir))
		if err == nil && e.IsDir() {
			return os.Mkdir(at, 0o755)
		}
		return errors.Join(err, os.Link(path, at))
	}))
}

// Publishing an image is killed before each change of the folder: a client is never refused, and the next try completes it.
func TestKilledPublish(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	base := filepath.Join(filepath.Dir(b.dir), "base")
	b.link(b.dir, base)
	old := b.image(strings.Repeat("old ", 1000))
	o := &PublishOptions{Path: b.image(strings.Repeat("old ", 999) + "new"), Name: "agent", Hardware: []string{"linux/arm64"}, Version: "1", Release: 1, PatchFrom: []string{old}}
	keys := append(b.online(), b.of("team-linux-arm64")...)
	for n := 1; ; n++ {
		b.again(base, "public/image", "staged")
		if n > 3 { // the patch is written by then
			o.PatchFrom = nil
		}
		c := b.car("car-1")
		c.wants("")
		count := b.killAt(n)
		_, err := b.w.Publish(o, keys)
		if err == nil {
			if n < 8 {
				t.Errorf("%d changes", *count)
			}
			return
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		b.before = nil
		c.wants("")
		b.open()
		if _, err := b.w.Publish(o, keys); err != nil {
			t.Fatalf("after a kill before change %d: %v", n, err)
		}
		c.wants("")
		h, err := load(b.w.imageDir())
		b.must(err)
		image, custom, err := h.image("linux-arm64/agent-1")
		b.must(err)
		paths := []string{"linux-arm64/" + image.Hashes["sha256"].String() + ".agent-1"}
		for _, p := range custom.Patches {
			paths = append(paths, p.Name)
		}
		if len(paths) != 1+len(o.PatchFrom) {
			t.Fatalf("after a kill before change %d: %+v", n, custom)
		}
		for _, path := range paths {
			if !exists(filepath.Join(b.w.imageDir(), "targets", path)) {
				t.Fatalf("after a kill before change %d there is no %s", n, path)
			}
		}
	}
}

// Leading a campaign on is killed at changes here and there, and resumed by whatever comes next.
func TestKilledAdvance(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	b.publish("1", 1, "one")
	b.create(fmt.Sprintf(everybody, "c-1", "linux-arm64/agent-1"))
	base := filepath.Join(filepath.Dir(b.dir), "base")
	b.link(b.dir, base)
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 2 + random.IntN(300), 301} {
		b.again(base, "public/director", "campaigns")
		cars := []*car{b.car("car-1"), b.car("car-2")}
		for _, c := range cars {
			c.wants("")
		}
		b.killAt(n)
		if _, err := b.w.Advance(t.Context(), "c-1", b.outcome, b.online()); !errors.Is(err, errKilled) {
			t.Fatalf("before change %d: %v", n, err)
		}
		b.before = nil
		for _, c := range cars {
			if _, err := c.resolve(); err != nil {
				t.Fatalf("after a kill before change %d: %v", n, err)
			}
		}
		b.open()
		if n == 1 { // nothing was decided yet
			b.advance("c-1")
		}
		if _, _, err := b.w.Run(t.Context(), b.outcome, b.online()); err != nil {
			t.Fatal(err)
		}
		for _, c := range cars {
			c.wants("linux-arm64/agent-1")
		}
	}
}

// Init is there whole or not at all.
func TestKilledInit(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 5, 150, 400} {
		b := &bed{t: t, dir: filepath.Join(folder(t), "oem"), time: time.Now(), keys: map[string][]*Key{}}
		o := InitOptions{Options: b.options(), Lines: []Line{agents}, Bench: true, Keep: b.keep}
		count := b.killAt(n)
		_, err := Init(o)
		if err == nil {
			t.Fatalf("%d changes only", *count)
		}
		b.before = nil
		if _, err := Open(b.options()); err == nil {
			t.Fatalf("half a workspace is one, after a kill before change %d", n)
		}
		if _, err := Init(o); err != nil {
			t.Fatalf("after a kill before change %d: %v", n, err)
		}
		b.open()
		b.car("car-1").wants("")
		if _, err := Init(o); err == nil {
			t.Error("a workspace is overwritten")
		}
	}
}

// The same with a process that is really killed, at moments that nobody chose.
func TestKilledProcess(t *testing.T) {
	if dir := os.Getenv("OTA_TEST_DIR"); dir != "" { // the process
		keys, err := ReadKeys(filepath.Join(dir, "online.keys"), nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := Open(Options{Dir: filepath.Join(dir, "oem")})
		if err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := w.Refresh(keys, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := folder(t)
	b := &bed{t: t, dir: filepath.Join(dir, "oem"), time: time.Now(), keys: map[string][]*Key{}}
	_, err := Init(InitOptions{Options: b.options(), Lines: []Line{agents}, Bench: true, Keep: b.keep})
	b.must(err)
	b.open()
	b.must(WriteKeys(filepath.Join(dir, "online.keys"), b.online(), nil))
	c := b.car("car-1")
	c.wants("")
	for range 3 {
		before, err := load(b.w.imageDir())
		b.must(err)
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
		cmd.Env = append(os.Environ(), "OTA_TEST_DIR="+dir)
		b.must(cmd.Start())
		for { // it works
			h, err := load(b.w.imageDir())
			if err == nil && h.timestamp.Version > before.timestamp.Version {
				break
			}
			time.Sleep(time.Millisecond)
			c.wants("")
		}
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		b.must(cmd.Process.Kill())
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("the process ended by itself: %v", err)
		}
		c.wants("")
		b.car("new").wants("")
	}
	if _, err := b.w.Refresh(b.online(), false); err != nil {
		t.Fatal(err)
	}
	c.wants("")
}
