package vm

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

func TestGuestCarriesClassicAndFDFrames(t *testing.T) {
	candump, cansend := deps.CanUtils(t, "candump").Path, deps.CanUtils(t, "cansend").Path
	script := candump + ` -L -n 2 -T 5000 vcan0,0:0 & sleep 0.5; ` + cansend + ` vcan0 123#1122334455667788; ` +
		cansend + ` vcan0 18FEF100##1` + strings.Repeat("A5", 64) + `; wait; exit 7`
	r := Run(t, Job{Command: []string{"/bin/sh", "-c", script}})
	t.Logf("boot %v, in all %v", r.Boot.Round(time.Millisecond), r.Total.Round(time.Millisecond))
	for _, want := range []string{"vcan0 123#1122334455667788\n", "vcan0 18FEF100##5" + strings.Repeat("A5", 64) + "\n"} {
		if !strings.Contains(r.Output, want) {
			t.Errorf("candump did not print %q", want)
		}
	}
	if r.Exit != 7 {
		t.Errorf("exit code %d, want the command's 7", r.Exit)
	}
	if t.Failed() {
		t.Log(r.Output)
	}
}

func TestACommandThatHangsIsEnded(t *testing.T) {
	r := Run(t, Job{Command: []string{"/bin/sleep", "1000"}, Timeout: time.Second})
	if r.Exit != 124 {
		t.Errorf("exit code %d, want 124", r.Exit)
	}
}

func TestAMachineThatDoesNotGetToItsCommandIsAnError(t *testing.T) {
	guest := Job{Command: []string{"/bin/true"}}.guest(nil)
	for name, command := range map[string]string{
		"ends at once":              "exit 0",
		"claims an exit, not a job": "echo; echo guest exit 0",
		"ends within its command":   "echo " + guest.Token + " start; echo some output",
	} {
		if _, err := boot(exec.Command("/bin/sh", "-c", command), guest); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	complete := "echo " + guest.Token + " start; echo out; echo; echo " + guest.Token + " exit 3"
	r, err := boot(exec.Command("/bin/sh", "-c", complete), guest)
	if err != nil || r.Exit != 3 || r.Output != "out\n" {
		t.Errorf("a complete run: exit %d, output %q, error %v", r.Exit, r.Output, err)
	}
}

// The tests of package can that want a real bus: those named TestVcan….
func TestCANOnVcan(t *testing.T) {
	binary := Build(t, "amd64", "test", "./can")
	r := Run(t, Job{
		Command: []string{binary, "-test.v", "-test.run", "^TestVcan"}, Dir: filepath.Join(deps.Root(t), "can"),
		Env: []string{"WAYBILL_VM=1", "WAYBILL_TESTDATA=" + deps.Testdata(t)}, Timeout: 5 * time.Minute,
	})
	requireTests(t, r)
}

// requireTests fails the test unless tests ran in the guest, all passed, and none was skipped.
func requireTests(t *testing.T, r Result) {
	t.Helper()
	passed, skipped := strings.Count(r.Output, "--- PASS: "), strings.Count(r.Output, "--- SKIP: ")
	t.Logf("%d passed, %d skipped in the guest; boot %v, in all %v", passed, skipped,
		r.Boot.Round(time.Millisecond), r.Total.Round(time.Millisecond))
	if r.Exit != 0 || passed == 0 || skipped > 0 {
		t.Errorf("exit code %d; the guest said:\n%s", r.Exit, r.Output)
	}
}
