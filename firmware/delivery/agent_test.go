//go:build system

package delivery

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// The patch between two agents of which one has a line more is a tenth of the agent at most, and takes the memory that is said.
func TestPatchOfTheAgent(t *testing.T) {
	root, dir := deps.Root(t), t.TempDir()
	identity := filepath.Join(root, "firmware", "identity.go")
	text, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	const place = "func (id Identity) String() string {\n"
	changed := strings.Replace(string(text), place, place+"\tif id.Go == \"\" {\n\t\treturn \"no toolchain \" + id.Hardware\n\t}\n", 1)
	if changed == string(text) {
		t.Fatal("the line to change is not there")
	}
	change := filepath.Join(dir, "identity.go")
	overlay := filepath.Join(dir, "overlay.json")
	if err := errors.Join(os.WriteFile(change, []byte(changed), 0o600), os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace":{%q:%q}}`, identity, change), 0o600)); err != nil {
		t.Fatal(err)
	}
	build := func(version string, more ...string) []byte {
		t.Helper()
		out := filepath.Join(dir, version)
		args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X github.com/waybill-telematics/waybill/firmware.version=" + version, "-o", out}, more...)
		cmd := exec.Command("go", append(args, "./cmd/agent")...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64", "GOFLAGS=-p=1")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, text)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	old, image := build("1.2.3"), build("1.2.4", "-overlay", overlay)
	patch := makePatch(t, old, image)
	t.Logf("a patch of %d bytes for an agent of %d: %.4f of it", len(patch), len(image), float64(len(patch))/float64(len(image)))
	if len(patch) > len(image)/10 {
		t.Errorf("a patch of %d bytes for an agent of %d: a tenth is the bar", len(patch), len(image))
	}
	if bytes.Equal(old, image) {
		t.Error("there is no difference")
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sum := sha256.New()
	if err := ApplyPatch(sum, old, bytes.NewReader(patch), int64(len(image))); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	// All that was allocated, freed or not: the window and what the decoder has beside it.
	took := after.TotalAlloc - before.TotalAlloc
	t.Logf("applying it allocated %d bytes beside the old agent's %d", took, len(old))
	if took > uint64(len(image)+decoderBytes) {
		t.Errorf("applying it allocated %d bytes, %d are accounted for", took, len(image)+decoderBytes)
	}
	if want := sha256.Sum256(image); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("another agent")
	}
}
