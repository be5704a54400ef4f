// Package e2e runs the real programs against each other: agent, broker and fleet as processes, a real Mosquitto, real
// recorded traffic. What it expects comes from recordings and other people's tools.
package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// programs holds the built binaries of this run.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "waybill-e2e-")
	if err != nil {
		panic(err)
	}
	programs = dir
	build := exec.Command("go", "build", "-o", dir, "./cmd/agent", "./cmd/fleet", "./cmd/simulate")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// process is one running program. Its output is shown when the test fails.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed

	mu    sync.Mutex // guards what follows
	lines []string   // of standard error
}

// start runs a program of ours and hands each line of its standard error to watch, which may be nil.
func start(t testing.TB, watch func(line string), name string, args ...string) *process {
	t.Helper()
	deps.Watch(t)
	p := &process{t: t, name: name, cmd: exec.Command(filepath.Join(programs, name), args...), done: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		scanner := bufio.NewScanner(stderr)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, scanner.Text())
			if len(p.lines) > 400 {
				p.lines = append(p.lines[:100:100], p.lines[200:]...)
			}
			p.mu.Unlock()
			if watch != nil {
				watch(scanner.Text())
			}
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("%s %s said:\n%s", name, strings.Join(args, " "), strings.Join(p.lines, "\n"))
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop sends SIGTERM and wants a clean exit.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
	p.wait(time.Minute)
}

// wait wants the program to end by itself, without an error.
func (p *process) wait(bound time.Duration) {
	p.t.Helper()
	select {
	case <-p.done:
		if p.err != nil {
			p.t.Fatalf("%s: %v", p.name, p.err)
		}
	case <-time.After(bound):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines tell where it stands
		<-p.done
		p.t.Fatalf("%s did not end within %v", p.name, bound)
	}
}

// startFleet runs the fleet and returns when it has subscribed.
func startFleet(t testing.TB, broker, db string, args ...string) *process {
	t.Helper()
	subscribed := make(chan struct{})
	var once sync.Once
	p := start(t, func(line string) {
		if strings.Contains(line, "subscribed=true") {
			once.Do(func() { close(subscribed) })
		}
	}, "fleet", append([]string{"serve", "--broker", broker, "--insecure", "--db", db, "--json", "--retry", "200ms"}, args...)...)
	select {
	case <-subscribed:
	case <-p.done:
		t.Fatalf("the fleet ended: %v", p.err)
	case <-time.After(time.Minute):
		t.Fatal("the fleet did not subscribe within a minute")
	}
	return p
}

// output runs a program to its end and returns its standard output.
func output(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	deps.Watch(t)
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(programs, name), args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.String())
	}
	return out
}

// row is one sample as the fleet's command prints it.
type row struct {
	Epoch  string          `json:"epoch"`
	Lane   string          `json:"lane"`
	Seq    uint64          `json:"seq"`
	Time   string          `json:"time"`
	Source string          `json:"source"`
	Signal string          `json:"signal"`
	Value  json.RawMessage `json:"value"`
	Raw    json.RawMessage `json:"raw"`
	BootNS int64           `json:"boot_ns"`
}

func (r row) unixNS(t testing.TB) int64 {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, r.Time)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return at.UnixNano()
}

func samples(t testing.TB, db, glob string) []row {
	t.Helper()
	return jsonLines[row](t, output(t, "fleet", "samples", "--db", db, "--signal", glob))
}

// listing is what the fleet's ls prints.
type listing struct {
	Devices []struct {
		Device string `json:"device"`
		Online bool   `json:"online"`
		Lanes  []struct {
			Lane     string `json:"lane"`
			Epoch    string `json:"epoch"`
			Batches  int64  `json:"batches"`
			Samples  int64  `json:"samples"`
			Parked   int64  `json:"parked"`
			Rejected int64  `json:"rejected"`
			Missing  uint64 `json:"missing"`
			Last     uint64 `json:"last_seq"`
		} `json:"lanes"`
	} `json:"devices"`
}

// wantWhole wants one device in the store, every seq of it there, nothing parked, rejected or set aside.
func wantWhole(t testing.TB, db, device string) listing {
	t.Helper()
	list := jsonLines[listing](t, output(t, "fleet", "ls", "--db", db, "--json"))[0]
	if len(list.Devices) != 1 || list.Devices[0].Device != device {
		t.Fatalf("devices in the store: %+v, want %s alone", list.Devices, device)
	}
	epochs := map[string]bool{}
	for _, lane := range list.Devices[0].Lanes {
		epochs[lane.Epoch] = true
		if lane.Missing != 0 || lane.Parked != 0 || lane.Rejected != 0 || lane.Batches != int64(lane.Last) {
			t.Errorf("lane is not whole: %+v", lane)
		}
	}
	if len(epochs) != 1 {
		t.Errorf("epochs %v, want one", epochs)
	}
	if dead := output(t, "fleet", "dead", "--db", db, "--json"); len(bytes.TrimSpace(dead)) > 0 && string(bytes.TrimSpace(dead)) != "[]" {
		t.Errorf("dead letters: %.2000s", dead)
	}
	return list
}

// loss is an entry of the loss ledger as the fleet's command prints it.
type loss struct {
	Reason       string `json:"reason"`
	Source       string `json:"source"`
	Count        uint64 `json:"count"`
	CountUnknown bool   `json:"count_unknown"`
	Unit         string `json:"unit"`
	Detail       string `json:"detail"`
}

func jsonLines[T any](t testing.TB, text []byte) []T {
	t.Helper()
	var list []T
	decoder := json.NewDecoder(bytes.NewReader(text))
	for decoder.More() {
		var one T
		if err := decoder.Decode(&one); err != nil {
			t.Fatalf("%v in %.200s", err, text)
		}
		list = append(list, one)
	}
	return list
}

// eventually polls until it holds.
func eventually(t testing.TB, bound time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(bound); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", bound, what)
		}
	}
}

func writeFile(t testing.TB, path, format string, args ...any) string {
	t.Helper()
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
