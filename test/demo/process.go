package main

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
	"syscall"
	"time"
)

// process is one program of the demo; its standard error is kept in NAME.log.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// build makes the three programs, as `make build` does but without its stamps.
func (b *bench) build(ctx context.Context) error {
	for _, name := range []string{"agent", "fleet", "simulate"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.path("waybill-"+name), "./cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("building %s: %w; run it from the repository's root", name, err)
		}
	}
	return nil
}

// start runs a program and hands each line of its standard output to read.
func (b *bench) start(read func(line []byte), name string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(b.path(name), args...), done: make(chan struct{})}
	p.cmd.Dir = b.dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	b.procs = append(b.procs, p)
	go func() {
		defer close(p.done)
		defer log.Close()
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if read != nil {
				read(lines.Bytes())
			}
		}
		_, _ = io.Copy(io.Discard, stdout)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// stop ends a program as a service manager would and wants it to end well.
func (p *process) stop(bound time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("%s: %w; see its log", p.name, p.err)
		}
		return nil
	case <-time.After(bound):
		return fmt.Errorf("%s did not stop within %v", p.name, bound)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (b *bench) killAll() {
	for _, p := range b.procs {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// writeDBC asks the car for its DBC file.
func (b *bench) writeDBC(ctx context.Context) error {
	text, err := exec.CommandContext(ctx, b.path("waybill-simulate"), "dbc").Output()
	if err != nil {
		return fmt.Errorf("waybill-simulate dbc: %w", err)
	}
	return os.WriteFile(b.path("demo.dbc"), text, 0o600)
}

// awaitAgent waits until the agent answers on its page.
func (b *bench) awaitAgent(ctx context.Context) error {
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := b.metrics(ctx); err == nil {
			return nil
		}
		if b.agent.ended() || time.Now().After(deadline) || ctx.Err() != nil {
			text, _ := os.ReadFile(b.path("waybill-agent.log"))
			return fmt.Errorf("the agent did not come up:\n%s", bytes.TrimSpace(text))
		}
	}
}
