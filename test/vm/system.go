package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// System boots the system on a disk, a file with a root file system, under User-Mode Linux by that system's own process 1,
// and returns what came on the console until the machine was off. It is given so long at most.
func System(t testing.TB, disk string, limit time.Duration, kernelArgs ...string) (console string) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		deps.Missing(t, "User-Mode Linux exists for amd64 only, this is %s", runtime.GOARCH)
	}
	dir := t.TempDir()
	args := append([]string{"mem=512M", "ubd0=" + disk, "root=/dev/ubda", "rw", "uml_dir=" + dir, "umid=system",
		"con=null", "con0=null,fd:1", "quiet", "panic=-1", "selinux=0"}, kernelArgs...)
	cmd := exec.Command(filepath.Join(deps.Folder(t, "uml"), "usr/bin/linux.uml"), args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+memoryFolder(dir, 512))
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatalf("boot: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	_ = cmd.Wait()                                      // its exit code says nothing of the guest
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may leave a helper process
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Errorf("the machine was not off after %v", limit)
	}
	return text.String()
}

// Modules returns the files of User-Mode Linux's CAN modules, in order of loading.
func Modules(t testing.TB) []string {
	t.Helper()
	return modulePaths(t, filepath.Join(deps.Folder(t, "uml"), "usr/lib/uml/modules"), nil)
}
