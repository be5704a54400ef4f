// Package deps hands the tests what they need and Go does not have: brokers, CAN tools, emulators, cantools, and the
// folder of recorded data. It fetches (see fetch.sh) into .cache, starts what has to run, and stops it after the test.
//
// What cannot be had ends the test by one rule, [Missing]: a failure in CI, a skip with a reason on a person's machine.
// The package knows nothing of the agent; it is imported by tests, and by test/cloud, which stands in for one.
package deps

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fetchTimeout bounds one call of fetch.sh, which may wait for another call that is downloading.
const fetchTimeout = 10 * time.Minute

// Missing ends the test because a part that it needs is not there. It is the one way in which a test of this repository
// may skip for such a reason: with CI=true it fails instead, so that no test is lost unnoticed.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if InCI() {
		t.Fatalf("missing in CI: "+format, args...)
	}
	t.Skipf("skipped: "+format, args...)
}

// InCI tells whether the tests run where nothing may be skipped.
func InCI() bool { return os.Getenv("CI") == "true" }

// Root returns the repository's root, the folder of go.mod above the test's own.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test's folder")
		}
		dir = parent
	}
}

// Testdata returns the absolute path of a file or folder of the recorded data: WAYBILL_TESTDATA, by default
// ../shared/data from the repository's root.
func Testdata(t testing.TB, name ...string) string {
	t.Helper()
	dir := os.Getenv("WAYBILL_TESTDATA")
	if dir == "" {
		dir = filepath.Join(Root(t), "..", "shared", "data")
	}
	path, err := filepath.Abs(filepath.Join(append([]string{dir}, name...)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		Missing(t, "recorded data: %v; set WAYBILL_TESTDATA to its folder", err)
	}
	return path
}

// Folder returns the folder into which a group of fetch.sh is unpacked, fetching it when it is not there yet.
func Folder(t testing.TB, group string) string {
	t.Helper()
	folder, err := fetch(t, group)
	if err != nil {
		Missing(t, "%v", err)
	}
	return folder
}

// Program returns a program of a group, ready to run with the shared libraries of that group. A machine where the
// group cannot be fetched may have the program itself; then that one is taken.
func Program(t testing.TB, group, name string, args ...string) *exec.Cmd {
	t.Helper()
	folder, err := fetch(t, group)
	if err != nil {
		if path, lookErr := exec.LookPath(name); lookErr == nil {
			return exec.Command(path, args...)
		}
		Missing(t, "%s: %v", name, err)
	}
	for _, dir := range []string{"usr/bin", "usr/sbin", "bin", "sbin"} {
		path := filepath.Join(folder, dir, name)
		if _, err := os.Stat(path); err == nil {
			cmd := exec.Command(path, args...)
			cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries(folder))
			return cmd
		}
	}
	t.Fatalf("group %s has no program %s", group, name)
	return nil
}

// CanUtils returns a program of Debian's can-utils: candump, cansend, canplayer, cangen.
func CanUtils(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	return Program(t, "can-utils", name, args...)
}

// QEMU returns the static user-mode emulator for a GOARCH, as `go test -exec` takes it.
func QEMU(t testing.TB, goarch string) string {
	t.Helper()
	name, ok := map[string]string{"arm": "qemu-arm-static", "arm64": "qemu-aarch64-static"}[goarch]
	if !ok {
		t.Fatalf("no emulator for GOARCH=%s", goarch)
	}
	return Program(t, "qemu-user", name).Path
}

// Python returns a Python interpreter that can import cantools.
func Python(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	folder, err := fetch(t, "cantools")
	if err == nil {
		return exec.Command(filepath.Join(folder, "python3"), args...)
	}
	if path, lookErr := exec.LookPath("python3"); lookErr == nil && exec.Command(path, "-c", "import cantools").Run() == nil {
		return exec.Command(path, args...)
	}
	Missing(t, "python3 with cantools: %v", err)
	return nil
}

func fetch(t testing.TB, group string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(Root(t), "test", "deps", "fetch.sh"), group)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("fetch.sh %s: %w: %s", group, err, lastLine(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// libraries lists the folders of an unpacked group that hold shared libraries, as LD_LIBRARY_PATH takes them.
func libraries(folder string) string {
	var dirs []string
	for _, pattern := range []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib"} {
		matches, _ := filepath.Glob(filepath.Join(folder, pattern))
		dirs = append(dirs, matches...)
	}
	return strings.Join(dirs, ":")
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
