package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/test/deps"
)

// slotOf is the slot that an agent said it runs from.
func slotOf(said string) string { slot, _, _ := strings.Cut(said, " "); return slot }

func (b *bench) want(slot, said string) {
	b.t.Helper()
	if slotOf(said) != slot || strings.Contains(said, "E ") {
		b.t.Fatalf("%q ran, want slot %s\n%+v", said, slot, b.status())
	}
}

// TestCommit: what passes its trial stays. Arguments, environment and process stay what they were.
func TestCommit(t *testing.T) {
	b := newBench(t)
	args := []string{"run", "--config", "/etc/a b", "--status", "", "*"}
	b.want("a", b.run(args...))
	b.update(build(t, "new alive commit"), "c1", slots.Limits{})
	cmd := b.command("launch", args...)
	out, err := cmd.Output()
	if want := fmt.Sprintf("b %d new alive commit %v\n", cmd.Process.Pid, args); string(out) != want || err != nil {
		t.Fatalf("%q, %v; want %q", out, err, want)
	}
	st := b.status()
	if st.Committed != slots.B || st.Trial != nil || len(st.Outcomes) != 1 || st.Outcomes[0].Kind != slots.Committed || st.Outcomes[0].Image.Campaign != "c1" {
		t.Fatalf("%+v", st)
	}
	b.want("b", b.run())
	// sha256sum finds the hash file right, and current leads there.
	if out, err := exec.Command("sh", "-c", `cd "$0" && sha256sum -c waybill-agent.sha256`, b.dir+"/current").CombinedOutput(); err != nil ||
		!strings.Contains(string(out), "waybill-agent: OK") {
		t.Errorf("%v %s", err, out)
	}
	if target, _ := os.Readlink(b.dir + "/current"); target != "slots/b" {
		t.Errorf("current is %s", target)
	}
	for range 2 { // reported once or twice
		if err := b.slots(slots.B).Reported(t.Context(), st.Outcomes[0].ID); err != nil {
			t.Error(err)
		}
	}
	if st = b.status(); len(st.Outcomes) > 0 {
		t.Errorf("%+v", st.Outcomes)
	}
	// The next one goes into slot a.
	if slot := b.update(build(t, "newer alive commit"), "c2", slots.Limits{}); slot != slots.A {
		t.Errorf("slot %s", slot)
	}
	b.want("a", b.run())
	b.want("a", b.run())
}

// TestRollback: each of these images is rolled back after three starts in one boot, and not tried again.
func TestRollback(t *testing.T) {
	for name, behaviour := range map[string]string{
		"crashes at start": "crash", "panics": "panic", "crashes after it came up": "alive crash", "ends by itself": "alive",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			bad := build(t, behaviour)
			b.update(bad, "c1", slots.Limits{})
			for range 3 {
				b.want("b", b.run())
			}
			b.want("a", b.run())
			b.want("a", b.run())
			b.rejected(bad, "ended by itself or was killed 3 times")
		})
	}
}

// rejected wants an image to have been rolled back for a reason, and refused when it comes again.
func (b *bench) rejected(image []byte, reason string) {
	b.t.Helper()
	st := b.status()
	n := len(st.Outcomes)
	if st.Trial != nil || len(st.Rejected) != 1 || !strings.Contains(st.Rejected[0].Reason, reason) ||
		n == 0 || st.Outcomes[n-1].Kind != slots.RolledBack || !strings.Contains(st.Outcomes[n-1].Reason, reason) {
		b.t.Fatalf("want it rolled back for %q: %+v", reason, st)
	}
	s := b.slots(st.Committed)
	m := metaOf(image, "c2")
	if _, err := s.Install(b.t.Context(), bytes.NewReader(image), m); !errors.Is(err, slots.ErrRejected) {
		b.t.Fatalf("it is installed again: %v", err)
	}
	if err := s.Try(b.t.Context(), slots.Limits{}); !errors.Is(err, slots.ErrRejected) {
		b.t.Fatalf("it is tried again: %v", err)
	}
	// A later campaign may allow it: once.
	m.RetryOf = "c1"
	if _, err := s.Install(b.t.Context(), bytes.NewReader(image), m); err != nil {
		b.t.Fatal(err)
	}
	if err := s.Try(b.t.Context(), slots.Limits{}); err != nil {
		b.t.Fatal(err)
	}
	if err := s.Reject(b.t.Context(), "again"); err != nil {
		b.t.Fatal(err)
	}
	if _, err := s.Install(b.t.Context(), bytes.NewReader(image), m); !errors.Is(err, slots.ErrRejected) {
		b.t.Fatalf("one permission is good for two tries: %v", err)
	}
}

// TestHang: what hangs is killed by systemd's watchdog, which sends SIGABRT or SIGKILL; that is a crash.
func TestHang(t *testing.T) {
	b := newBench(t)
	bad := build(t, "alive hang")
	b.update(bad, "c1", slots.Limits{Crashes: 2})
	b.want("b", b.kill())
	b.want("b", b.kill())
	b.want("a", b.run())
	b.rejected(bad, "ended by itself or was killed 2 times")
}

// TestAgentRejects: what finds itself unhealthy says so, and the old one runs at the next start.
func TestAgentRejects(t *testing.T) {
	b := newBench(t)
	bad := build(t, "alive reject")
	b.update(bad, "c1", slots.Limits{})
	b.want("b", b.run())
	b.want("a", b.run())
	b.rejected(bad, "it reads no CAN")
}

// TestShortCycles: ten ignition cycles, in each of which the power goes before the new agent has come up, or just after,
// or in which it is stopped in order, do not roll it back.
func TestShortCycles(t *testing.T) {
	for _, behaviour := range []string{"hang", "alive hang", "stopped hang", "alive stopped"} {
		t.Run(behaviour, func(t *testing.T) {
			b := newBench(t)
			b.update(build(t, behaviour), "c1", slots.Limits{})
			for n := range 10 {
				b.boot = fmt.Sprint("boot-", n)
				b.want("b", b.kill())
			}
			st := b.status()
			if st.Trial == nil || st.Trial.Starts != 10 || st.Trial.Crashes != 0 {
				t.Fatalf("%+v", st.Trial)
			}
			b.boot = "boot-10"
			b.want("b", b.kill()) // judges the tenth
			if err := b.slots(slots.B).Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.want("b", b.kill())
		})
	}
	t.Run("stopped in one boot", func(t *testing.T) {
		b := newBench(t)
		b.update(build(t, "alive stopped"), "c1", slots.Limits{})
		for range 20 {
			b.want("b", b.run())
		}
	})
}

// TestBoardResets: an image with which no start comes up, boot after boot, is rolled back, and so is one that never lives
// long enough to commit.
func TestBoardResets(t *testing.T) {
	for behaviour, reason := range map[string]string{
		"hang": "did not come through its start 4 times", "stopped hang": "did not come through its start 4 times",
		"alive hang": "was cut off 6 times",
	} {
		t.Run(behaviour, func(t *testing.T) {
			b := newBench(t)
			bad := build(t, behaviour)
			b.update(bad, "c1", slots.Limits{Dead: 4, Cut: 6})
			for n := range 6 {
				b.boot = fmt.Sprint("boot-", n)
				if n == 4 && behaviour != "alive hang" {
					break
				}
				b.want("b", b.kill())
			}
			b.boot = "boot-last"
			b.want("a", b.run())
			b.rejected(bad, reason)
		})
	}
}

// TestCannotBeExecuted: what execve(2) refuses for good is rolled back in the same process, which becomes the old agent.
func TestCannotBeExecuted(t *testing.T) {
	b := newBench(t)
	self := build(t, "never runs")
	foreign := bytes.Clone(self)
	binary.LittleEndian.PutUint16(foreign[18:], uint16(elf.EM_SPARC)) // e_machine
	images := map[string]struct {
		image  []byte
		reason string
	}{
		"other processor": {foreign, "no program for this processor"},
		"garbage":         {bytes.Repeat([]byte("garbage "), 1000), "no program for this processor"},
		"cut off":         {self[:40], "no program for this processor"},
		"missing loader":  {[]byte("#!/nonexistent/loader\n"), "a loader that is not here"},
	}
	if dynamic, err := os.ReadFile("/bin/true"); err == nil {
		if i := bytes.Index(dynamic, []byte("/ld-linux")); i > 0 {
			dynamic[i+1] = 'X'
			images["missing dynamic loader"] = struct {
				image  []byte
				reason string
			}{dynamic, "a loader that is not here"}
		}
	}
	for name, c := range images {
		t.Run(name, func(t *testing.T) {
			b := &bench{t, filepath.Join(scratch(t), "firmware"), b.boot}
			if _, err := b.slots("").Seed(t.Context(), bytes.NewReader(build(t, "old alive")), slots.Meta{}); err != nil {
				t.Fatal(err)
			}
			b.update(c.image, "c1", slots.Limits{})
			b.want("a", b.run())
			b.rejected(c.image, c.reason)
		})
	}
}

// TestDamagedSlot: an executable that is not what was installed is not started, which is not its image's fault; one of the
// committed slot leaves the other.
func TestDamagedSlot(t *testing.T) {
	damage := map[string]func(path string) error{
		"empty":          func(path string) error { return os.Truncate(path, 0) },
		"cut off":        func(path string) error { return os.Truncate(path, 4096) },
		"not executable": func(path string) error { return os.Chmod(path, 0o644) },
		"gone":           os.Remove,
		"a folder":       func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) },
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			image := build(t, "new alive commit")
			b.update(image, "c1", slots.Limits{})
			if err := do(b.dir + "/slots/b/waybill-agent"); err != nil {
				t.Fatal(err)
			}
			b.want("a", b.run())
			if st := b.status(); st.Trial != nil || len(st.Rejected) > 0 || len(st.Outcomes) != 1 || st.Outcomes[0].Kind != slots.Damaged {
				t.Fatalf("%+v", st)
			}
			if name == "a folder" {
				if err := os.Remove(b.dir + "/slots/b/waybill-agent"); err != nil {
					t.Fatal(err)
				}
			}
			b.update(image, "c1", slots.Limits{}) // it comes once more
			b.want("b", b.run())
			if err := do(b.dir + "/slots/b/waybill-agent"); err != nil {
				t.Fatal(err)
			}
			b.want("a", b.run())
			fell := b.slots(slots.A)
			if st, err := fell.Status(); err != nil || !st.FellBack() || st.Committed != slots.B {
				t.Fatalf("%v %+v", err, st)
			}
			if err := fell.Commit(t.Context()); err != nil { // it is healthy
				t.Fatal(err)
			}
			st := b.status()
			if st.Committed != slots.A || st.Outcomes[len(st.Outcomes)-1].Kind != slots.FellBack {
				t.Fatalf("%+v", st)
			}
			b.want("a", b.run())
			if name != "a folder" {
				b.update(image, "c2", slots.Limits{}) // where the damaged one is
				b.want("b", b.run())
				b.want("b", b.run())
			}
		})
	}
}

// TestDisksThatTakeNothing: nothing can be stored, and the committed agent runs; a trial waits.
func TestDisksThatTakeNothing(t *testing.T) {
	for _, part := range []string{"read-only", "full"} {
		t.Run(part, func(t *testing.T) {
			b := newBench(t)
			b.update(build(t, "new alive commit"), "c1", slots.Limits{})
			if err := os.Mkdir(b.dir+".full", 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := b.command(part)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
			if os.Geteuid() != 0 {
				cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
				cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
			}
			out, err := cmd.Output()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) || exit != nil && exit.ExitCode() == noMount {
				t.Skipf("no mount namespace of our own here: %v %s", err, out)
			}
			if slotOf(string(out)) != "a" || !strings.Contains(fmt.Sprint(cmd.Stderr), "the committed slot runs") {
				t.Fatalf("%s\n%s", out, cmd.Stderr)
			}
			b.want("b", b.run()) // and here the disk is as it was
		})
	}
}

// TestLostState: whatever is in the two copies, an agent runs.
func TestLostState(t *testing.T) {
	b := newBench(t)
	b.update(build(t, "new alive commit"), "c1", slots.Limits{})
	b.want("b", b.run())
	for _, name := range []string{"state.1", "state.2"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte("garbage"), 0o644); err != nil {
			t.Fatal(err)
		}
		b.want("b", b.run())
	}
	if st := b.status(); len(st.Outcomes) != 1 || st.Outcomes[0].Kind != slots.StateLost {
		t.Errorf("%+v", st.Outcomes)
	}
	for _, name := range []string{"state.1", "state.2", "current"} {
		if err := os.Remove(filepath.Join(b.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	b.want("a", b.run()) // the old one, whole as well
}

// TestSecondLauncher: a launcher beside the service that is on trial is no crash of it.
func TestSecondLauncher(t *testing.T) {
	b := newBench(t)
	b.update(build(t, "alive hang"), "c1", slots.Limits{Crashes: 1})
	first := b.command("launch")
	out, err := first.StdoutPipe()
	if err == nil {
		err = first.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer first.Wait()
	defer first.Process.Kill()
	for said := ""; !strings.Contains(said, "hanging"); {
		buffer := make([]byte, 100)
		n, err := out.Read(buffer)
		if err != nil {
			t.Fatal(err, first.Stderr)
		}
		said += string(buffer[:n])
	}
	b.want("b", b.kill())
	if st := b.status(); st.Trial == nil || st.Trial.Starts != 1 || st.Trial.Crashes != 0 {
		t.Errorf("%+v", st.Trial)
	}
}

// TestKilledLauncher kills the launcher at any moment, before it has become the agent or after: a start is counted or it is
// not, what is on trial goes on, and no such end counts twice.
func TestKilledLauncher(t *testing.T) {
	b := newBench(t)
	b.update(build(t, "alive hang"), "c1", slots.Limits{Crashes: 1000})
	counted := 0
	for n := range 25 {
		cmd := b.command("launch")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(40000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		tr := b.status().Trial
		if tr == nil || tr.Starts < counted || tr.Starts > counted+1 || tr.Crashes > tr.Starts || tr.Crashes < tr.Starts-1 {
			t.Fatalf("kill %d: %+v, %d starts before", n, tr, counted)
		}
		counted = tr.Starts
	}
	b.want("b", b.kill())
	t.Logf("%d of 25 starts came to be counted", counted)
}

// TestRealBinary runs the launcher as it is built, with the kernel's boot id.
func TestRealBinary(t *testing.T) {
	b := newBench(t)
	binary := filepath.Join(t.TempDir(), "waybill-launcher")
	if out, err := deps.Go(t, "build", "-o", binary, module+"/cmd/launcher").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.boot = "" // the agent reads the kernel's, too
	call := func(args ...string) (string, int) {
		cmd := b.command("launch", args...)
		cmd.Path = binary
		out, _ := cmd.Output()
		return string(out) + fmt.Sprint(cmd.Stderr), cmd.ProcessState.ExitCode()
	}
	bad := build(t, "crash")
	b.update(bad, "c1", slots.Limits{})
	for n := range 3 {
		if said, code := call("run"); !strings.HasPrefix(said, "b ") || code != 2 {
			t.Fatalf("start %d: %d %s", n, code, said)
		}
		if said, _ := call("--status"); !strings.Contains(said, fmt.Sprintf("trial of b: %d starts", n+1)) {
			t.Errorf("start %d: %s", n, said)
		}
	}
	if said, code := call("run"); !strings.Contains(said, "\na ") && !strings.HasPrefix(said, "a ") || code != 0 {
		t.Fatalf("%d %s", code, said)
	}
	b.rejected(bad, "ended by itself or was killed 3 times")
	b.update(build(t, "alive commit"), "c3", slots.Limits{})
	if said, code := call("run"); !strings.HasPrefix(said, "b ") || code != 0 {
		t.Fatalf("%d %s", code, said)
	}
	said, _ := call("--status")
	for _, want := range []string{b.dir + "\n", "slot a: ", "slot b: ", ", committed\n", "not tried again: SHA-256 ", "not reported yet: committed"} {
		if !strings.Contains(said, want) {
			t.Errorf("--status does not say %q: %s", want, said)
		}
	}
	text, code := call("--status", "--json")
	var st slots.Status
	if err := json.Unmarshal([]byte(text), &st); err != nil || st.Committed != slots.B || code != 0 {
		t.Errorf("%v %d %s", err, code, text)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--help"}, 0, "usage: waybill-launcher"},
		{[]string{"--version"}, 0, "waybill-launcher "},
		{[]string{"--status", "--jsno"}, 2, "see waybill-launcher --help"},
		{[]string{"--seed"}, 2, "see waybill-launcher --help"},
		{[]string{"--seed", "/nonexistent"}, 1, "no such file"},
		{[]string{"--seed", binary}, 0, "nothing changed"},
	} {
		if said, code := call(c.args...); code != c.code || !strings.Contains(said, c.says) {
			t.Errorf("%v: %d %s", c.args, code, said)
		}
	}
	b.dir = filepath.Join(t.TempDir(), "lib", "empty")
	if said, code := call("run"); code != 1 || !strings.Contains(said, "--seed FILE") {
		t.Errorf("no slots: %d %s", code, said)
	}
	if said, code := call("--seed", binary); code != 0 || !strings.Contains(said, "slot a holds") {
		t.Errorf("%d %s", code, said)
	}
}

const module = "github.com/waybill-telematics/waybill"
