package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// childEnv makes this test binary a vehicle: "FOLDER STEP" says where, and at which step it kills itself (0: never).
const childEnv = "WAYBILL_COMMAND_CHILD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		var dir string
		var step int
		if _, err := fmt.Sscanf(spec, "%s %d", &dir, &step); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		if err := childMain(dir, step); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// appendLine is durable when it returns, as far as kills go.
func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// childMain runs a vehicle on a folder: it takes the messages of the file `messages`, in this order, until each has a final answer on
// "disk". Its queue is the file `results`; what it does is a line in `effects`. Between any two things that it does stands a step at which
// it can be killed.
func childMain(dir string, kill int) error {
	at := 0
	step := func() {
		if at++; at == kill {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	var pending []string // emitted, and not committed
	keys := Keys{}
	keys.Add(publicOf(testKey(1)))
	finals := make(chan string, 100)
	clock := &handClock{now: int64(time.Minute)}
	r, _, err := New(Options{
		Tenant: "acme", Device: "car-1", Dir: dir, Epoch: 1, BootID: [16]byte{1}, Keys: keys, Allow: []string{"act"}, Clock: clock, Log: slog.New(slog.DiscardHandler),
		Time: func() (int64, uint64) { return clock.Wall().UnixNano(), 0 },
		Emit: func(r *telemetrypb.CommandResult) {
			step()
			line, _ := json.Marshal(r)
			pending = append(pending, string(line))
			if s := State(r.GetState()); s == Done || s == Failed || s == Refused {
				finals <- r.GetId()
			}
		},
		Commit: func(context.Context) error {
			step()
			for _, line := range pending {
				if err := appendLine(filepath.Join(dir, "results"), line); err != nil {
					return err
				}
			}
			pending = nil
			step()
			return nil
		},
		Write: func(path string, data []byte) error {
			step()
			if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
				return err
			}
			step()
			if err := os.Rename(path+".tmp", path); err != nil {
				return err
			}
			step()
			return nil
		},
		Handlers: []Handler{{Name: "act", Run: func(_ context.Context, c *Call) (string, error) {
			step()
			if err := appendLine(filepath.Join(dir, "effects"), c.ID); err != nil {
				return "", err
			}
			step()
			return "acted", nil
		}}},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	messages, err := os.ReadFile(filepath.Join(dir, "messages"))
	if err != nil {
		return err
	}
	for n := 0; len(messages) > 0; n++ {
		size := int(messages[0])<<8 | int(messages[1])
		r.Offer(messages[2 : 2+size])
		messages = messages[2+size:]
		for id := ""; id != fmt.Sprintf("id-%d", n); {
			id = <-finals
		}
	}
	cancel()
	return <-done
}

// child runs childMain in a process and says whether it was killed.
func child(t *testing.T, dir string, step int) (killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	if run := os.Getenv("WAYBILL_TEST_EXEC"); run != "" { // an emulator
		cmd = exec.Command(run, os.Args[0])
	}
	cmd.Env = append(os.Environ(), childEnv+"="+dir+" "+strconv.Itoa(step))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("step %d: %v\n%s", step, err, out)
	}
	return false
}

func lines(t *testing.T, path string) (list []string) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		list = append(list, s.Text())
	}
	return list
}

// TestKilledAtEveryStep kills a vehicle with SIGKILL at each step of taking two commands, starts it anew with the same messages, and looks at
// what was done and what was said.
func TestKilledAtEveryStep(t *testing.T) {
	const commands = 2
	var messages []byte
	for n := range commands {
		issued := noon.Add(50 * time.Second)
		m, err := Sign(testKey(1), &telemetrypb.DownBody{
			Tenant: "acme", Device: "car-1", Counter: uint64(n + 1), Id: fmt.Sprintf("id-%d", n), IssuedUnixNs: issued.UnixNano(), ExpiresUnixNs: issued.Add(time.Hour).UnixNano(),
			Body: &telemetrypb.DownBody_Command{Command: &telemetrypb.Command{Name: "act"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		messages = append(append(messages, byte(len(m)>>8), byte(len(m))), m...)
	}
	interrupted, steps, stride := 0, 0, 1
	if testing.Short() {
		stride = 4
	}
	for killed := true; killed; {
		steps += stride
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "messages"), messages, 0o600); err != nil {
			t.Fatal(err)
		}
		// A ledger that began before the commands were issued.
		l, _ := openLedger(dir, 1, func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) })
		if err := l.settle(noon.UnixNano()); err != nil {
			t.Fatal(err)
		}
		killed = child(t, dir, steps)
		if child(t, dir, 0) {
			t.Fatal("killed without having been told to")
		}
		effects := map[string]int{}
		for _, id := range lines(t, filepath.Join(dir, "effects")) {
			effects[id]++
		}
		said := map[string]*telemetrypb.CommandResult{}
		for _, line := range lines(t, filepath.Join(dir, "results")) {
			var r telemetrypb.CommandResult
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if s := State(r.GetState()); s != Done && s != Failed {
				continue
			}
			if old := said[r.GetId()]; old != nil && old.GetState() != r.GetState() {
				t.Errorf("step %d: %s was %s, and is %s", steps, r.GetId(), old.GetState(), r.GetState())
			}
			said[r.GetId()] = &r
		}
		for n := range commands {
			id := fmt.Sprintf("id-%d", n)
			r := said[id]
			switch {
			case effects[id] > 1:
				t.Errorf("step %d: %s ran %d times", steps, id, effects[id])
			case r == nil:
				t.Errorf("step %d: %s has no result", steps, id)
			case r.GetState() == string(Done) && effects[id] != 1:
				t.Errorf("step %d: %s says done and did not run", steps, id)
			case r.GetState() == string(Failed):
				if Reason(r.GetReason()) != ReasonInterrupted {
					t.Errorf("step %d: %s: %s", steps, id, r.GetReason())
				}
				interrupted++
			}
		}
	}
	if steps < 20 || interrupted == 0 {
		t.Errorf("%d steps, %d commands interrupted: the test does not test", steps, interrupted)
	}
	t.Logf("%d steps, %d commands interrupted", steps, interrupted)
}
