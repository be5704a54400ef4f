//go:build system

package packages

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/vm"
)

//go:embed testdata/chroot.sh
var chrootScript string

// debian unpacks a system that debootstrap made.
func debian(t *testing.T, group string) (tree string) {
	t.Helper()
	if os.Geteuid() != 0 {
		deps.Missing(t, "debootstrap's systems need root")
	}
	archive := filepath.Join(deps.Folder(t, group), "rootfs.tar")
	tree = t.TempDir()
	if out, err := exec.Command("tar", "--numeric-owner", "-C", tree, "-xpf", archive).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return tree
}

// put copies files into a system, programs as such.
func put(t *testing.T, tree string, files map[string]string) {
	t.Helper()
	for to, from := range files {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(tree, to), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The package installs, starts, is upgraded with and without an update in its slots, is removed and purged, and keeps what
// is its owner's as long as it should.
func TestPackageInChroot(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			tree := debian(t, "rootfs-"+arch)
			put(t, tree, map[string]string{
				"first.deb":  filepath.Join(release(t, "0.1.0"), "waybill-agent_0.1.0_"+arch+".deb"),
				"second.deb": filepath.Join(release(t, "0.2.0"), "waybill-agent_0.2.0_"+arch+".deb"),
				"updated":    vm.Build(t, arch, "build", "./test/packages/updated"),
			})
			if err := os.WriteFile(filepath.Join(tree, "trial.sh"), []byte(chrootScript), 0o755); err != nil {
				t.Fatal(err)
			}
			args := []string{"unshare", "--mount"}
			if arch != "amd64" {
				args = []string{filepath.Join(deps.Root(t), "test/deps/emulated.sh"), filepath.Join(deps.Folder(t, "qemu-user"), "usr/bin"), arch}
			}
			args = append(args, "sh", "-c", `mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" /bin/sh -eux /trial.sh`, tree)
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
			out, err := bound(t, cmd, 10*time.Minute)
			if err != nil || !strings.HasSuffix(strings.TrimSpace(out), "TRIAL PASSED") {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}
