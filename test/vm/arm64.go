package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// RunARM64 boots Debian's arm64 kernel under full emulation (two Cortex-A53) and runs the job there. The guest has no
// file tree but Files: paths in the guest, and the host's files that stand there.
func RunARM64(t testing.TB, j Job, files map[string]string) Result {
	t.Helper()
	kernel := deps.Folder(t, "kernel-arm64")
	images, _ := filepath.Glob(filepath.Join(kernel, "boot/vmlinuz-*"))
	if len(images) != 1 {
		t.Fatalf("%d kernels in %s", len(images), kernel)
	}
	dir := t.TempDir()
	all := map[string]string{"/init": BuildGuest(t, "arm64"), "/job.json": filepath.Join(dir, "job.json")}
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
	cmd := deps.Program(t, "qemu-system", "qemu-system-aarch64",
		"-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", fmt.Sprint(j.memory()), "-nic", "none", "-nographic",
		"-monitor", "none", "-serial", "stdio", "-no-reboot", "-kernel", images[0], "-initrd", initrd,
		"-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init waybill.job=/job.json")
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
