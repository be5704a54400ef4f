package durable

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

const childPath = "DURABLE_TEST_CHILD"

// TestOrder looks at what the kernel is asked for, by strace: without the two syncs, in their places, a power cut could leave half a file.
func TestOrder(t *testing.T) {
	if path := os.Getenv(childPath); path != "" {
		if err := Write(path, []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if testing.Short() {
		t.Skip("strace is not for what an emulator runs; the order is the same on every processor")
	}
	dir := t.TempDir()
	log := filepath.Join(t.TempDir(), "log")
	cmd := deps.Program(t, "strace", "strace", "-f", "-qq", "-y", "-o", log, "-e", "signal=none",
		"-e", "trace=write,fsync,fdatasync,rename,renameat,renameat2", os.Args[0], "-test.run", "^TestOrder$")
	cmd.Env = append(cmd.Env, childPath+"="+filepath.Join(dir, "state"))
	if out, err := cmd.CombinedOutput(); err != nil {
		if _, ran := err.(*exec.ExitError); len(out) == 0 && ran && os.Getenv("CI") != "true" {
			t.Skipf("strace does not work here: %v", err)
		}
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	calls := regexp.MustCompile(`(write|fsync|rename)\w*\([^\n]*`+regexp.QuoteMeta(dir)+`(/state\.new)?[>"]`).FindAllStringSubmatch(string(data), -1)
	var got []string
	for _, c := range calls {
		got = append(got, c[1]+" "+c[2])
	}
	want := []string{"write /state.new", "fsync /state.new", "rename /state.new", "fsync "}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q:\n%s", got, want, data)
	}
}
