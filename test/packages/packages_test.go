//go:build system

// Package packages tries what make release makes: the same bytes twice, a bill of materials that others can read, and the
// Debian package in systems that debootstrap made.
package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

const (
	commit = "0123456789abcdef0123456789abcdef01234567"
	built  = "2026-11-20T10:00:00Z"
)

// releases are folders of releases, by version; made once, since most of it is linking.
var releases sync.Map

type made struct {
	once sync.Once
	dir  string
}

var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "waybill-packages"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// release runs the release program for a version, for amd64 and arm64, without the cloud side.
func release(t *testing.T, version string) (dir string) {
	t.Helper()
	entry, _ := releases.LoadOrStore(version, &made{})
	r := entry.(*made)
	r.once.Do(func() {
		dir := filepath.Join(scratch, version)
		if makeRelease(t, deps.Root(t), dir, version, "amd64,arm64", nil) {
			r.dir = dir
		}
	})
	if r.dir == "" {
		t.Fatalf("no release %s", version)
	}
	return r.dir
}

func makeRelease(t *testing.T, root, dir, version, arches string, env []string) bool {
	t.Helper()
	cmd := exec.Command("go", "run", "./release", "-version", "v"+version, "-commit", commit, "-built", built, "-arch", arches, "-fleet", "", "-out", dir)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v\n%s", cmd.Args, err, text)
	}
	return err == nil
}

// The same sources give the same bytes in another folder, another time zone, with another umask and nothing cached.
func TestReproducible(t *testing.T) {
	root := deps.Root(t)
	copied := filepath.Join(t.TempDir(), "elsewhere")
	list, err := exec.Command("git", "-C", root, "ls-files", "-co", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(list)) {
		data, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) { // removed, and not committed
			continue
		}
		if err == nil {
			if err = os.MkdirAll(filepath.Dir(filepath.Join(copied, name)), 0o700); err == nil {
				err = os.WriteFile(filepath.Join(copied, name), data, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cache := t.TempDir()
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	if !makeRelease(t, root, a, "0.1.0", "amd64", nil) ||
		!makeRelease(t, copied, b, "0.1.0", "amd64", []string{"GOCACHE=" + cache, "TZ=Asia/Tokyo", "LC_ALL=C", "SOURCE_DATE_EPOCH=1"}) {
		return
	}
	sums := func(dir string) string {
		text, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
		check.Dir = dir
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("sha256sum: %v\n%s", err, out)
		}
		return string(text)
	}
	first, second := sums(a), sums(b)
	if first != second {
		t.Errorf("two builds differ:\n%s\n%s", first, second)
	}
	for _, want := range []string{"waybill-agent_0.1.0_amd64.deb", "waybill-agent-0.1.0-linux-amd64.tar.gz", "waybill-0.1.0.cdx.json", "LICENCES.txt"} {
		if !strings.Contains(first, "  "+want+"\n") {
			t.Errorf("no %s in\n%s", want, first)
		}
	}
}

// CycloneDX's own library takes the bill of materials, strictly by its schema, and it names what the agent links.
func TestBillOfMaterials(t *testing.T) {
	dir := release(t, "0.1.0")
	const program = `
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = open(sys.argv[1]).read()
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
if error: sys.exit(str(error))
bom = json.loads(text)
refs = [c["bom-ref"] for c in bom["components"]]
assert len(refs) == len(set(refs)), "a component twice"
known = set(refs) | {bom["metadata"]["component"]["bom-ref"]}
for d in bom["dependencies"]:
    assert {d["ref"], *d["dependsOn"]} <= known, d
print("\n".join(refs))
`
	cmd := exec.Command(filepath.Join(deps.Folder(t, "cyclonedx"), "python3"), "-c", program, filepath.Join(dir, "waybill-0.1.0.cdx.json"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"waybill-agent-amd64", "waybill-launcher-arm64", "pkg:golang/go.etcd.io/bbolt@v", "pkg:golang/golang.org/x/sys@v"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in the bill of materials", want)
		}
	}
}

// A linter of Yocto's recipes reads ours and finds no error but two that are meant: the version is the release's and not in
// the file's name, and Go's programs come stripped.
func TestYoctoRecipe(t *testing.T) {
	cmd := exec.Command(filepath.Join(deps.Folder(t, "oelint"), "python3"), "-m", "oelint_adv", "--quiet", "--release", "scarthgap",
		"--hide", "info", "--hide", "warning", "--suppress", "oelint.file.underscores", "--suppress", "oelint.vars.insaneskip",
		"--suppress", "oelint.vars.homepageping", // it would ask the network
		"deploy/yocto/meta-waybill/recipes-telematics/waybill/waybill-agent.bb")
	cmd.Dir = deps.Root(t)
	out, err := bound(t, cmd, 5*time.Minute)
	if err != nil || strings.Contains(out, ":error:") {
		t.Errorf("%v\n%s", err, out)
	}
	broken := filepath.Join(t.TempDir(), "broken_1.0.bb")
	if err := os.WriteFile(broken, []byte("LICENSE = \"Apache-2.0\"\ndo_install() {\n    cp a ${D}/a\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(cmd.Args[0], append(append([]string{}, cmd.Args[1:len(cmd.Args)-1]...), broken)...)
	if out, err := bound(t, cmd, 5*time.Minute); err == nil && !strings.Contains(out, ":error:") {
		t.Errorf("a recipe without what it has to have passes:\n%s", out)
	}
}

// bound ends a command that hangs, and returns what it said.
func bound(t *testing.T, cmd *exec.Cmd, limit time.Duration) (string, error) {
	t.Helper()
	timer := time.AfterFunc(limit, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
	})
	defer timer.Stop()
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}
