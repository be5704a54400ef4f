//go:build system

package packages

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/vm"
)

//go:embed testdata/systemd.sh
var systemdScript string

// The exposure that docs/INSTALL.md states, as systemd 252 counts it (0 to 10, less is better).
const exposure = "1.9"

// systemd's own analysis finds the unit as closed as the document says, and nothing wrong in any unit of the package.
func TestUnitsAreHardened(t *testing.T) {
	tree := debian(t, "rootfs-amd64")
	put(t, tree, map[string]string{"agent.deb": filepath.Join(release(t, "0.1.0"), "waybill-agent_0.1.0_amd64.deb")})
	out, err := bound(t, exec.Command("unshare", "--mount", "chroot", tree, "sh", "-euc", `
		dpkg --unpack /agent.deb >&2
		systemd-analyze security --offline=true --no-pager /usr/lib/systemd/system/waybill-agent.service
		systemd-analyze verify --man=no /usr/lib/systemd/system/waybill-agent.service /usr/lib/systemd/system/waybill-can@vcan0.service`), 5*time.Minute)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := regexp.MustCompile(`Overall exposure level for waybill-agent.service: (\S+) `).FindStringSubmatch(out)
	if got == nil || got[1] != exposure {
		t.Errorf("exposure %v, the document says %s:\n%s", got, exposure, out)
	}
	if strings.Contains(out, "Unknown key") || strings.Contains(out, "Failed to parse") {
		t.Errorf("systemd does not understand the unit:\n%s", out)
	}
	document, err := os.ReadFile(filepath.Join(deps.Root(t), "docs", "INSTALL.md"))
	if err != nil || !strings.Contains(string(document), exposure+" of 10") {
		t.Errorf("docs/INSTALL.md does not say %q (%v)", exposure+" of 10", err)
	}
}

// In a system that systemd runs, the package's service starts under its hardening, without a capability, and reads a bus
// that a udev rule brings up; its watchdog is fed, and ends what hangs; and it goes when the package does.
func TestServiceUnderSystemd(t *testing.T) {
	tree := debian(t, "rootfs-amd64")
	files := map[string]string{
		"agent.deb":       filepath.Join(release(t, "0.1.0"), "waybill-agent_0.1.0_amd64.deb"),
		"usr/bin/cansend": deps.CanUtils(t, "cansend").Path,
	}
	files["usr/bin/load"] = vm.Build(t, "amd64", "build", "./test/packages/load")
	load := "load"
	for _, path := range vm.Modules(t) {
		files[filepath.Base(path)] = path
		load += " /" + filepath.Base(path)
	}
	put(t, tree, files)
	for name, text := range map[string]string{
		"trial.sh":      strings.Replace(systemdScript, "LOAD_MODULES", load, 1),
		"trial.target":  "[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=trial.service\n",
		"trial.service": "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nStandardOutput=file:/dev/console\nStandardError=inherit\nExecStart=/bin/bash -eux /trial.sh\nExecStopPost=systemctl --force --force poweroff\n",
	} {
		path := filepath.Join(tree, "etc/systemd/system", name)
		if name == "trial.sh" {
			path = filepath.Join(tree, name)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if out, err := deps.Program(t, "e2fsprogs", "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, disk, "800M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	console := vm.System(t, disk, 12*time.Minute, "init=/lib/systemd/systemd", "systemd.unit=trial.target", "systemd.show_status=0")
	if !strings.Contains(console, "\nTRIAL PASSED") {
		t.Fatalf("console:\n%s", console)
	}
}
