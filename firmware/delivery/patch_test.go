package delivery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

const unit = 50_000

// edited is an old file and a new one that differs as software does: most of it the same, somewhere else.
func edited() (old, image []byte) {
	old = noise(1, 6*unit)
	image = append(append(bytes.Clone(old[:2*unit]), "a line more"...), old[2*unit:]...)
	image[4*unit] ^= 1
	return old, image[:len(image)-1000]
}

func makePatch(t testing.TB, old, image []byte) []byte {
	t.Helper()
	var patch bytes.Buffer
	if err := MakePatch(&patch, bytes.NewReader(old), bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	return patch.Bytes()
}

// thePatch is that of edited; the race detector makes it take seconds.
func thePatch(t testing.TB) []byte {
	t.Helper()
	oncePatched.Do(func() {
		old, image := edited()
		patchOfEdited = makePatch(t, old, image)
	})
	return patchOfEdited
}

var (
	oncePatched   sync.Once
	patchOfEdited []byte
)

// offer is a campaign's patch, on a site that has image and patch and counts them apart.
func offer(t *testing.T, old, image, patch []byte) (o Options, images, patches *int) {
	t.Helper()
	images, patches = new(int), new(int)
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/patches/1 to 2.zst" {
			*patches++
			serve(patch, "")(w, r)
			return
		}
		*images++
		serve(image, "")(w, r)
	})
	o = options(t.TempDir(), image, s.URL)
	o.Running = filepath.Join(t.TempDir(), "running")
	if err := os.WriteFile(o.Running, old, 0o755); err != nil {
		t.Fatal(err)
	}
	from, sum := sha256.Sum256(old), sha256.Sum256(patch)
	o.Patch = &Patch{From: hex.EncodeToString(from[:]), Name: "patches/1 to 2.zst", Length: int64(len(patch)), SHA256: hex.EncodeToString(sum[:])}
	return o, images, patches
}

// entries are the files of a folder with a name.
func entries(t *testing.T, dir, name string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestPatch(t *testing.T) {
	old, image := edited()
	patch := thePatch(t)
	if len(patch) > len(image)/50 {
		t.Errorf("a patch of %d bytes", len(patch))
	}
	o, images, patches := offer(t, old, image, patch)
	o.Budget = int64(len(image) / 2)
	if err := os.WriteFile(filepath.Join(o.Dir, patchedFile), image[:1000], 0o644); err != nil { // a power cut while it was applied
		t.Fatal(err)
	}
	d := deliver(t, o)
	if *images != 0 || *patches != 1 {
		t.Errorf("%d requests for the image, %d for the patch", *images, *patches)
	}
	if got := d.Progress().Received; got > int64(len(patch))+4096 {
		t.Errorf("%d bytes counted for a patch of %d", got, len(patch))
	}
	left, err := os.ReadDir(o.Dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left are %v (%v), want the image and the budget", left, err)
	}
}

// Anything about a patch that is not right: the full image, and the patch is not fetched twice.
func TestPatchThatIsOfNoUse(t *testing.T) {
	old, image := edited()
	patch := thePatch(t)
	other := bytes.Clone(old)
	other[7] ^= 1
	another := bytes.Clone(image)
	another[len(another)-1] ^= 1
	for name, c := range map[string]struct {
		change  func(o *Options)
		patch   []byte
		old     []byte // what runs, and what the patch is said to be for
		image   []byte
		patches int // requests for it
	}{
		"other software runs":     {patch: patch, change: func(o *Options) { o.Patch.From = strings.Repeat("0", 64) }},
		"software not to be read": {patch: patch, change: func(o *Options) { o.Running += "-gone" }},
		"not smaller":             {patch: append(bytes.Clone(patch), image...)},
		"no hash":                 {patch: patch, change: func(o *Options) { o.Patch.SHA256 = "00" }},
		"no path":                 {patch: patch, change: func(o *Options) { o.Patch.Name = "../x" }},
		"no length":               {patch: patch, change: func(o *Options) { o.Patch.Length = 0 }},
		"too little memory":       {patch: patch, change: func(o *Options) { o.PatchMemory = int64(len(old)) }},
		"switched off":            {patch: patch, change: func(o *Options) { o.PatchMemory = -1 }},
		"another hash":            {patch: patch, patches: 2, change: func(o *Options) { o.Patch.SHA256 = strings.Repeat("0", 64) }},
		"gives another image":     {patch: patch, image: another, patches: 1},
		"gives a longer one":      {patch: patch, image: image[:len(image)-1], patches: 1},
		"is for other software":   {patch: patch, old: other, patches: 1},
		"is none":                 {patch: noise(9, 1000), patches: 1},
		"is cut off":              {patch: patch[:len(patch)-10], patches: 1},
		"has no end":              {patch: append(bytes.Clone(patch), patch...), patches: 1},
		"wants memory":            {patch: []byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0}, patches: 1},
	} {
		t.Run(name, func(t *testing.T) {
			if c.old == nil {
				c.old = old
			}
			if c.image == nil {
				c.image = image
			}
			o, images, patches := offer(t, c.old, c.image, c.patch)
			if c.change != nil {
				c.change(&o)
			}
			// The first time, the vehicle is switched off when it begins with the full image: the patch is not tried again.
			ctx, cancel := context.WithCancel(t.Context())
			o.Gate = func() (bool, string) {
				if *patches == c.patches && len(entries(t, o.Dir, "image.journal")) > 0 && len(entries(t, o.Dir, "patch.data")) == 0 {
					cancel()
				}
				return true, ""
			}
			d, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			if f, err := d.Run(ctx); err == nil {
				f.Close()
				t.Fatal("it was not interrupted")
			}
			o.Gate = nil
			deliver(t, o)
			if *images == 0 || *patches != c.patches {
				t.Errorf("%d requests for the image, %d for the patch, want %d", *images, *patches, c.patches)
			}
		})
	}
}

// A patch that no mirror has is not waited for.
func TestPatchThatIsNotThere(t *testing.T) {
	old, image := edited()
	o, _, patches := offer(t, old, image, thePatch(t))
	o.Patch.Name = "patches/none" // the site has the image there, which is longer
	deliver(t, o)
	if *patches != 0 {
		t.Errorf("%d requests for the patch", *patches)
	}
}

// What zstd's own command makes is applied here, and what is made here zstd applies.
func TestPatchAgainstZstd(t *testing.T) {
	old, image := edited()
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	oldFile, newFile := file("old", old), file("new", image)
	zstd := func(args ...string) {
		t.Helper()
		if out, err := deps.Program(t, "zstd", "zstd", append([]string{"-q", "-f"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("zstd %v: %v\n%s", args, err, out)
		}
	}
	for _, level := range []string{"-1", "-19"} {
		patchFile := filepath.Join(dir, "patch"+level)
		zstd(level, "--patch-from="+oldFile, newFile, "-o", patchFile)
		patch, err := os.ReadFile(patchFile)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := ApplyPatch(&got, old, bytes.NewReader(patch), int64(len(image))); err != nil || !bytes.Equal(got.Bytes(), image) {
			t.Errorf("zstd %s: %d bytes that are not the new file, %v", level, got.Len(), err)
		}
	}
	back := filepath.Join(dir, "back")
	zstd("-d", "--patch-from="+oldFile, file("ours", thePatch(t)), "-o", back)
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, image) {
		t.Errorf("zstd makes %d other bytes of our patch, %v", len(got), err)
	}
}

func TestFinishedWithoutADownload(t *testing.T) {
	d, err := New(options(t.TempDir(), noise(1, 10), "http://127.0.0.1:1/"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Finished(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("finished: %v", err)
	}
	if err := d.Discard(); err != nil {
		t.Error(err)
	}
}
