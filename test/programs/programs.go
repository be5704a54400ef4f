// Package programs builds our programs and runs them, for what shows them to a person: test/demo and test/cloud.
package programs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Group is what was started from one folder. It is used by one goroutine.
type Group struct {
	Folder string // of programs and logs
	all    []*Process
}

// Process is one program; its standard error is kept in a file.
type Process struct {
	Name string
	Done chan struct{} // closed when it has ended
	Err  error         // how it ended; set before Done is closed

	log string
	cmd *exec.Cmd
}

// Path of a file in the folder.
func (g *Group) Path(name ...string) string {
	return filepath.Join(append([]string{g.Folder}, name...)...)
}

// Build makes agent, fleet and car, as `make build` does but without its stamps. The working directory is the repository's root.
func (g *Group) Build(ctx context.Context) error {
	for _, name := range []string{"agent", "fleet", "simulate"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", g.Path("waybill-"+name), "./cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("building %s: %w; run it from the repository's root", name, err)
		}
	}
	return nil
}

// Start runs a program in a folder, with its log in NAME.log, and hands each line of its standard output to read. It has a process group
// of its own: a Ctrl-C reaches us alone, and we stop things in their order. It dies with us.
func (g *Group) Start(read func(line []byte), folder, name, program string, args ...string) (*Process, error) {
	p := &Process{Name: name, Done: make(chan struct{}), log: g.Path(name + ".log"), cmd: exec.Command(g.Path(program), args...)}
	p.cmd.Dir = folder
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = log
	stdout, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), log.Close())
	}
	g.all = append(g.all, p)
	go func() { // ends with the process, which KillAll ends
		defer close(p.Done)
		defer log.Close()
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if read != nil {
				read(lines.Bytes())
			}
		}
		_, _ = io.Copy(io.Discard, stdout)
		p.Err = p.cmd.Wait()
	}()
	return p, nil
}

// KillAll ends what still runs.
func (g *Group) KillAll() {
	for _, p := range g.all {
		_ = p.cmd.Process.Kill()
		<-p.Done
	}
}

// Stop ends a program as a service manager would and wants it to end well.
func (p *Process) Stop(bound time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	select {
	case <-p.Done:
		if p.Err != nil {
			return fmt.Errorf("%s: %w:\n%s", p.Name, p.Err, p.LastWords())
		}
		return nil
	case <-time.After(bound):
		return fmt.Errorf("%s did not stop within %v:\n%s", p.Name, bound, p.LastWords())
	}
}

// StopAll asks all of them to end at the same time.
func StopAll(list []*Process, bound time.Duration) error {
	errs := make([]error, len(list))
	var tasks sync.WaitGroup
	for i, p := range list {
		tasks.Go(func() { errs[i] = p.Stop(bound) })
	}
	tasks.Wait()
	return errors.Join(errs...)
}

// Ended says whether it has.
func (p *Process) Ended() bool {
	select {
	case <-p.Done:
		return true
	default:
		return false
	}
}

// LastWords are the end of its log.
func (p *Process) LastWords() []byte {
	text, _ := os.ReadFile(p.log)
	return bytes.TrimSpace(text[max(0, len(text)-2000):])
}

// Drive is the last line of waybill-simulate. The counters are values of DriveCounter.FrameCounter.
type Drive struct {
	Frames       int64  `json:"frames"`
	FirstCounter uint64 `json:"counter_first"`
	LastCounter  uint64 `json:"counter_last"`
}

// Counted is how many frames had a number.
func (d *Drive) Counted() int64 {
	if d.FirstCounter == 0 {
		return 0
	}
	return int64(d.LastCounter - d.FirstCounter + 1)
}

// agentConfig is of an agent that stands in the folder of its car.
const agentConfig = `
device: {id: %s, tenant: demo}
data_dir: agent
log: {level: info}
can:
  - {bus: can0, replay: can0.fifo, speed: 0, time: receipt, dbc: [demo.dbc]}
gps:
  - {name: gps0, serial: gps0}
collect:
  signals:
    - {match: "*.FrameCounter", sample: every}
    - {match: "*"}
  rules:
    - {name: overspeed, signal: can0.DriveCounter.VehicleSpeed, above: 120, hysteresis: 3}
queue: {commit_every: 500ms, seal_every: 1s}
uplink:
  broker: mqtt://%s
  insecure: true
  retry_base: 200ms
  drain: 30s
%s`

// AgentConfig is agent.yaml of a vehicle at a broker, HOST:PORT. more is what follows: lines of the section uplink, and further sections.
func AgentConfig(vehicle, broker, more string) []byte {
	return fmt.Appendf(nil, agentConfig, vehicle, broker, more)
}
