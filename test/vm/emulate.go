package vm

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
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

// diskModules are what a disk with an ext4 needs on Debian's kernels, in order of loading.
var diskModules = []string{"drivers/virtio/virtio_mmio", "drivers/block/virtio_blk",
	"crypto/crc32c_generic", "lib/libcrc32c", "lib/crc16", "fs/mbcache", "fs/jbd2/jbd2", "fs/ext4/ext4"}

// Emulate boots Debian's kernel for a GOARCH (arm64, or arm for armv7) under full emulation and runs the job there. The
// guest has no file tree but files: paths in the guest, and the host's files that stand there.
func Emulate(t testing.TB, goarch string, j Job, files map[string]string) Result {
	t.Helper()
	cmd, guest := NewEmulatedBed(t, goarch, j, files).command(t)
	r, err := boot(cmd, guest)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// NewEmulatedBed prepares for booting j as Emulate does.
func NewEmulatedBed(t testing.TB, goarch string, j Job, files map[string]string) *Bed {
	t.Helper()
	m, ok := machines[goarch]
	if !ok {
		t.Fatalf("no machine for GOARCH=%s", goarch)
	}
	group := m.group
	switch { // the same kernel, with further modules
	case len(j.Disks) > 0:
		group += "-disk"
		j.Modules = append(slices.Clone(diskModules), j.Modules...)
	case slices.ContainsFunc(j.Modules, func(name string) bool { return !strings.HasPrefix(name, "net/can/") }):
		group += "-net"
	}
	kernel := deps.Folder(t, group)
	images, _ := filepath.Glob(filepath.Join(kernel, "boot/vmlinuz-*"))
	if len(images) != 1 {
		t.Fatalf("%d kernels in %s", len(images), kernel)
	}
	files = maps.Clone(files)
	if files == nil {
		files = map[string]string{}
	}
	files["/init"] = BuildGuest(t, goarch)
	var modules []string
	for _, source := range modulePaths(t, filepath.Join(kernel, "lib/modules"), j.Modules) {
		path := "/modules/" + filepath.Base(source)
		modules = append(modules, path)
		files[path] = source
	}
	return &Bed{job: j, dir: t.TempDir(), machine: func(b *Bed, t testing.TB) (*exec.Cmd, guestJob) {
		return b.qemu(t, m, images[0], modules, files)
	}}
}

func (b *Bed) qemu(t testing.TB, m machine, kernel string, modules []string, files map[string]string) (*exec.Cmd, guestJob) {
	t.Helper()
	guest := b.job.guest(modules, "HOME=/tmp", "TMPDIR=/tmp")
	files["/job.json"] = filepath.Join(b.dir, "job.json")
	writeJob(t, files["/job.json"], guest)
	initrd := filepath.Join(b.dir, "initrd")
	if err := writeInitrd(initrd, files); err != nil {
		t.Fatal(err)
	}
	args := slices.Clone(m.args)
	if b.job.Steady {
		args = append(args, "-smp", "1", "-icount", "shift=1,sleep=off")
	}
	for i, disk := range b.job.Disks {
		args = append(args, "-drive", fmt.Sprintf("file=%s,format=raw,if=none,id=disk%d", disk, i),
			"-device", fmt.Sprintf("virtio-blk-device,drive=disk%d", i))
	}
	return deps.Program(t, "qemu-system", m.program, append(args,
		"-m", fmt.Sprint(b.job.memory()), "-nic", "none", "-nographic", "-monitor", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init waybill.job=/job.json")...), guest
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
