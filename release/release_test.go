package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

var at = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

// dpkg runs one of dpkg's programs.
func dpkg(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		deps.Missing(t, "%v", err)
	}
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// What git says becomes versions that dpkg orders as they came.
func TestVersionsRise(t *testing.T) {
	before := ""
	for _, describe := range []string{"abcdef0", "abcdef0-dirty", "v0.9.0", "v1.0.0-rc.1", "v1.0.0-rc.1-3-gabcdef0", "v1.0.0-rc.2", "v1.0.0",
		"v1.0.0-2-gabcdef0", "v1.0.0-10-gabcdef0", "v1.0.0-10-gabcdef0-dirty", "1.0.1", "v1.10.0"} {
		version, err := debVersion(describe, at)
		if err != nil {
			t.Fatal(describe, err)
		}
		if before != "" {
			if out, err := dpkg(t, "dpkg", "--compare-versions", before, "lt", version); err != nil {
				t.Errorf("%s is not below %s (of %s): %v %s", before, version, describe, err, out)
			}
		}
		before = version
	}
	for _, describe := range []string{"", "unknown", "v1.0", "latest", "v1.0.0 x"} {
		if version, err := debVersion(describe, at); err == nil {
			t.Errorf("%q became %q", describe, version)
		}
	}
}

// dpkg's own tools read the package: names, modes, owners, configuration files, sums.
func TestDebAsDpkgReadsIt(t *testing.T) {
	t.Chdir(deps.Root(t))
	program := bytes.Repeat([]byte("agent\n"), 1001) // an odd number of blocks, and of bytes with what is before
	p := pkg{Name: "waybill-agent", Version: "1.2.3~rc.1", Arch: "armhf", Time: at, Files: []file{
		{path: "usr/lib/waybill/waybill-agent", mode: 0o755, data: program},
		{path: "etc/waybill/agent.yaml", mode: 0o640, data: []byte("device: {id: a}\n"), config: true},
	}}
	var a, b bytes.Buffer
	if err := p.writeDeb(&a); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(p.Files)
	if err := p.writeDeb(&b); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Errorf("the order in which files are given shows (%v)", err)
	}
	path := filepath.Join(t.TempDir(), "a.deb")
	if err := os.WriteFile(path, a.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--field", path, "Version"}, "1.2.3~rc.1\n"},
		{[]string{"--field", path, "Architecture"}, "armhf\n"},
		{[]string{"--field", path, "Installed-Size"}, "7\n"},
		{[]string{"--info", path, "conffiles"}, "/etc/waybill/agent.yaml\n"},
		{[]string{"--info", path, "md5sums"}, "  usr/lib/waybill/waybill-agent\n"},
		{[]string{"--contents", path}, "-rw-r----- root/root        16 2026-11-20 "},
		{[]string{"--contents", path}, "-rwxr-xr-x root/root      6006 2026-11-20 "},
	} {
		out, err := dpkg(t, append([]string{"dpkg-deb"}, c.args...)...)
		if err != nil || !strings.Contains(out, c.want) {
			t.Errorf("dpkg-deb %v: %v, no %q in\n%s", c.args, err, c.want, out)
		}
	}
	tree := t.TempDir()
	if out, err := dpkg(t, "dpkg-deb", "--extract", path, tree); err != nil {
		t.Fatal(err, out)
	}
	if got, err := os.ReadFile(filepath.Join(tree, "usr/lib/waybill/waybill-agent")); err != nil || !bytes.Equal(got, program) {
		t.Errorf("%d bytes came out, %v", len(got), err)
	}
}

// Somebody read the licence of each module that is linked.
func TestEveryLicenceIsKnown(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64", "arm"} {
		cmd := deps.Go(t, "list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}`, "./cmd/agent", "./cmd/launcher", "./cmd/fleet")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range strings.Fields(string(out)) {
			if licences[path] == "" {
				t.Errorf("%s is linked for %s and not in licences.go", path, arch)
			}
		}
	}
}

// The recipes of Yocto and Buildroot take files that the archive has, and the archive that a release writes.
func TestRecipesTakeWhatIsPacked(t *testing.T) {
	t.Chdir(deps.Root(t))
	empty := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(empty, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := vehicleFiles(empty, empty, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := map[string]bool{}
	for _, f := range files {
		packed[f.path] = true
	}
	for recipe, archive := range map[string]string{
		"deploy/yocto/meta-waybill/recipes-telematics/waybill/waybill-agent.bb": `\$\{S\}/(\S+)`,
		"deploy/buildroot/package/waybill-agent/waybill-agent.mk":               `\$\(@D\)/(\S+)`,
	} {
		text, err := os.ReadFile(recipe)
		if err != nil {
			t.Fatal(err)
		}
		taken := map[string]bool{}
		for _, m := range regexp.MustCompile(archive).FindAllStringSubmatch(string(text), -1) {
			taken[m[1]] = true
			if !packed[m[1]] {
				t.Errorf("%s takes %s, which is not packed", recipe, m[1])
			}
		}
		for path := range packed {
			if !strings.HasPrefix(path, "usr/share/") && !taken[path] {
				t.Errorf("%s leaves %s out", recipe, path)
			}
		}
	}

	probe := `generic-package =
qstrip = $(strip $(subst ",,$(1)))
BR2_PACKAGE_WAYBILL_AGENT_RELEASE = "/r"
BR2_PACKAGE_WAYBILL_AGENT_RELEASE_VERSION = "1.2.3"
BR2_aarch64 = y
include deploy/buildroot/package/waybill-agent/waybill-agent.mk
$(info $(WAYBILL_AGENT_SITE)/$(WAYBILL_AGENT_SOURCE))
all:
`
	cmd := exec.Command("make", "-s", "--warn-undefined-variables", "-f", "-")
	cmd.Stdin = strings.NewReader(probe)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "/r/waybill-agent-1.2.3-linux-arm64.tar.gz\n") {
		t.Errorf("make reads %q, %v", out, err)
	}
}

// A shell takes each script of the packages.
func TestScriptsParse(t *testing.T) {
	t.Chdir(deps.Root(t))
	for _, script := range []string{"deploy/debian/postinst", "deploy/debian/prerm", "deploy/debian/postrm", "deploy/debian/waybill-agent.sh",
		"deploy/buildroot/package/waybill-agent/S80waybill"} {
		if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}
