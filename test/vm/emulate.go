package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// machine is how a GOARCH is emulated as a whole computer.
type machine struct {
	group, program string   // of fetch.sh: the kernel; and qemu
	args           []string // a CPU of the kind that head units have
}

var machines = map[string]machine{
	"arm64": {"kernel-arm64", "qemu-system-aarch64", []string{"-M", "virt", "-cpu", "cortex-a53", "-smp", "2"}},
	"arm":   {"kernel-armhf", "qemu-system-arm", []string{"-M", "virt", "-cpu", "cortex-a7", "-smp", "2"}},
}

// Emulate boots Debian's kernel for a GOARCH (arm64, or arm for armv7) under full emulation and runs the job there. The
// guest has no file tree but files: paths in the guest, and the host's files that stand there.
func Emulate(t testing.TB, goarch string, j Job, files map[string]string) Result {
	t.Helper()
	m, ok := machines[goarch]
	if !ok {
		t.Fatalf("no machine for GOARCH=%s", goarch)
	}
	group := m.group
	if slices.ContainsFunc(j.Modules, func(name string) bool { return !strings.HasPrefix(name, "net/can/") }) {
		group += "-net" // the same kernel, with veth and netem
	}
	kernel := deps.Folder(t, group)
	images, _ := filepath.Glob(filepath.Join(kernel, "boot/vmlinuz-*"))
	if len(images) != 1 {
		t.Fatalf("%d kernels in %s", len(images), kernel)
	}
	dir := t.TempDir()
	all := map[string]string{"/init": BuildGuest(t, goarch), "/job.json": filepath.Join(dir, "job.json")}
	for path, source := range files {
		all[path] = source
	}
	var modules []string
	for _, source := range modulePaths(t, filepath.Join(kernel, "lib/modules"), j.Modules) {
		path := "/modules/" + filepath.Base(source)
		modules = append(modules, path)
		all[path] = source
	}
	guest := j.guest(modules, "HOME=/tmp", "TMPDIR=/tmp")
	writeJob(t, all["/job.json"], guest)
	initrd := filepath.Join(dir, "initrd")
	if err := writeInitrd(initrd, all); err != nil {
		t.Fatal(err)
	}
	args := slices.Clone(m.args)
	if j.Steady {
		args = append(args, "-smp", "1", "-icount", "shift=1,sleep=off")
	}
	cmd := deps.Program(t, "qemu-system", m.program, append(args,
		"-m", fmt.Sprint(j.memory()), "-nic", "none", "-nographic", "-monitor", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", images[0], "-initrd", initrd, "-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init waybill.job=/job.json")...)
	r, err := boot(cmd, guest)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// writeInitrd writes the files as a cpio archive of the kind that Linux unpacks for itself
// (Documentation/driver-api/early-userspace/buffer-format.rst, "newc").
func writeInitrd(path string, files map[string]string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	inode := 0
	entry := func(name string, mode uint32, content []byte) error {
		inode++
		head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
		head += name + "\x00"
		_, err := out.Write(append(pad([]byte(head)), pad(content)...))
		return err
	}
	directories := map[string]bool{"tmp": true}
	for name := range files {
		for dir := filepath.Dir(name[1:]); dir != "."; dir = filepath.Dir(dir) {
			directories[dir] = true
		}
	}
	for _, dir := range sorted(directories) { // a folder sorts before what is in it
		if err := entry(dir, 0o40755, nil); err != nil {
			return err
		}
	}
	for _, name := range sorted(files) {
		content, err := os.ReadFile(files[name])
		if err != nil {
			return err
		}
		if err := entry(name[1:], 0o100755, content); err != nil {
			return err
		}
	}
	if err := entry("TRAILER!!!", 0, nil); err != nil {
		return err
	}
	return out.Close()
}

// pad fills to a multiple of 4 bytes, as the format wants heads and contents to be.
func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
