package cloudtest

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is a waybill-fleet that can be killed, stopped and started again. Its log is shown when the test failed.
type Process struct {
	Name    string
	metrics string // address
	program string
	args    []string
	dir     string
	t       testing.TB
	cmd     *exec.Cmd     // nil: it was ended
	done    chan struct{} // closed when cmd has ended
	ended   error         // of cmd; set before done is closed
	cpu     time.Duration // of those before this one
}

// Process starts one; slots are Auto's arguments, or fixed ones.
func (c *Cloud) Process(program, name string, slots []string, more ...string) *Process {
	c.t.Helper()
	p := &Process{Name: name, metrics: freeAddress(c.t), program: program, dir: c.dir, t: c.t}
	p.args = append(append(c.ServeArgs(slots...), "--every", "1s", "--metrics", p.metrics), more...)
	c.t.Cleanup(func() {
		p.Kill()
		if c.t.Failed() {
			text, _ := os.ReadFile(p.log())
			c.t.Logf("log of %s:\n%s", name, text[max(0, len(text)-8<<10):])
		}
	})
	p.Start()
	return p
}

func (p *Process) log() string { return filepath.Join(p.dir, p.Name+".log") }

// Start runs it, unless it runs.
func (p *Process) Start() {
	p.t.Helper()
	if p.cmd != nil {
		return
	}
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(p.program, p.args...)
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { // ends with the process
		defer close(done)
		p.ended = cmd.Wait()
	}(p.cmd, p.done)
}

// Kill ends it as a power cut would. One that has ended by itself is a failure.
func (p *Process) Kill() {
	if p.cmd != nil && !p.Running() {
		p.t.Errorf("%s has ended by itself: %v", p.Name, p.ended)
	}
	_ = p.end(syscall.SIGKILL) // how one ends that is killed is known
}

// Stop ends it as a service manager would, and wants it to end well.
func (p *Process) Stop() {
	p.t.Helper()
	if err := p.end(syscall.SIGTERM); err != nil {
		p.t.Errorf("%s: %v", p.Name, err)
	}
}

func (p *Process) end(s syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	cmd := p.cmd
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	<-p.done
	timer.Stop()
	p.cpu += p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	p.cmd = nil
	return p.ended
}

// CPU is what it has used, user and system, over all its lives that are over.
func (p *Process) CPU() time.Duration { return p.cpu }

// Running says whether it has not ended by itself.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done: // a signal would not tell: nobody has waited for it, and it still has its number
		return false
	default:
		return true
	}
}

// Metrics are its figures, by their names with labels. nil: it does not answer (yet).
func (p *Process) Metrics() map[string]float64 {
	client := http.Client{Timeout: 20 * time.Second}
	answer, err := client.Get("http://" + p.metrics + "/metrics")
	if err != nil {
		return nil
	}
	defer answer.Body.Close()
	figures := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		name, text, ok := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseFloat(text, 64); ok && err == nil {
			figures[name] = n
		}
	}
	return figures
}

// Use is what a process takes.
type Use struct {
	Goroutines int
	Resident   int64 // bytes
	Files      int
}

// String is for logs.
func (u Use) String() string {
	return fmt.Sprintf("%d goroutines, %d MiB resident, %d open files", u.Goroutines, u.Resident>>20, u.Files)
}

// Use asks the process and the kernel.
func (p *Process) Use() Use {
	p.t.Helper()
	m := p.Metrics()
	if m == nil {
		p.t.Errorf("%s: no metrics", p.Name)
	}
	return Use{int(m["go_goroutines"]), int64(m["process_resident_memory_bytes"]), int(m["process_open_fds"])}
}
