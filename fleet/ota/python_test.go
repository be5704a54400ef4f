//go:build system

package ota

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// python-tuf's own client, which shares no code with go-tuf, follows the image repository from its first root, across changes of
// every key, and fetches an image; what a revoked key signs it refuses.
func TestPythonTUF(t *testing.T) {
	python := filepath.Join(deps.Folder(t, "tuf"), "python3")
	b := &bed{t: t, dir: filepath.Join(folder(t), "oem"), time: time.Now(), keys: map[string][]*Key{}}
	_, err := Init(InitOptions{Options: b.options(), Lines: []Line{agents}, Keep: b.keep})
	b.must(err)
	b.open()
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(b.dir, "public", "image"))))
	defer server.Close()
	root, err := os.ReadFile(filepath.Join(b.dir, "factory", "image.root.json"))
	b.must(err)
	work := folder(t)
	b.must(os.WriteFile(filepath.Join(work, "root.json"), root, 0o644))
	follow := func(ok bool, name string) {
		t.Helper()
		out, err := exec.Command(python, "testdata/follow.py", work, server.URL, name).CombinedOutput()
		if (err == nil) != ok {
			t.Fatalf("%v: %s", err, out)
		}
		if want := "agent 1.2.3"; ok && name != "" && strings.TrimSpace(string(out)) != want {
			t.Fatalf("fetched %q, want %q", out, want)
		}
	}
	follow(true, "")
	b.publish("1.2.3", 12, "agent 1.2.3")
	follow(true, "linux-arm64/agent-1.2.3")
	old := b.keys["online"]
	all := b.of("offline-1", "offline-2", "offline-3", "offline-4", "team-linux-arm64")
	for _, o := range []RotateOptions{
		{Repository: Image, Role: roleRoot, Remove: []string{"image-root-1"}},
		{Repository: Image, Role: roleTargets, Remove: []string{"image-targets-1"}},
		{Repository: Image, Role: roleOnline, Remove: []string{"image-online"}},
		{Repository: Image, Role: "linux-arm64", Remove: []string{"linux-arm64-1"}},
	} {
		k := b.key(o.Role + "-new")
		o.Add = []Public{k.Public}
		if o.Role == roleOnline {
			b.keys["online"] = append(b.keys["online"], k)
		}
		_, err := b.w.Rotate(o, append(all, k))
		b.must(err)
		p, err := b.w.Publish(nil, b.online())
		b.must(err)
		if len(p.Waiting) > 0 {
			t.Fatalf("%s: %+v", o.Role, p)
		}
		follow(true, "linux-arm64/agent-1.2.3")
	}
	_, err = b.w.Refresh(b.online(), true)
	b.must(err)
	follow(true, "linux-arm64/agent-1.2.3")
	h, err := load(b.w.imageDir())
	b.must(err)
	h.timestamp.Version += 10
	forged, err := signAll(h.timestamp, old[:1])
	b.must(err)
	b.must(os.WriteFile(filepath.Join(b.w.imageDir(), "timestamp.json"), forged, 0o644))
	follow(false, "")
}

// Encryption takes its time by design, and more under the race detector.
func TestEncryptedKeys(t *testing.T) {
	b := &bed{t: t, w: newWorkspace(Options{})}
	keys := []*Key{b.key("one"), b.key("two")}
	data, err := SealKeys(keys, []byte("correct horse"))
	b.must(err)
	if bytes.Contains(data, []byte(keys[0].Key.Value.PublicKey)) || bytes.Contains(data, keys[0].private.Seed()) {
		t.Error("not encrypted")
	}
	back, err := OpenKeys(data, secret("correct horse"))
	if err != nil || len(back) != 2 || !back[1].private.Equal(keys[1].private) {
		t.Fatalf("%v %v", back, err)
	}
	if _, err := OpenKeys(data, secret("wrong")); err == nil || !strings.Contains(err.Error(), "passphrase") {
		t.Errorf("%v", err)
	}
}
