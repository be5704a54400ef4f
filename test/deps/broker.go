package deps

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Broker is an MQTT broker on a free port of the loopback, running as the test's own child. Its methods may be called
// from several goroutines. It is stopped when the test ends, and its log is shown when the test failed.
type Broker struct {
	Addr string // "127.0.0.1:port", the same over Stop and Start
	Dir  string

	t       testing.TB
	name    string
	log     string        // of Dir; standard output and error, unless the broker writes it itself
	within  time.Duration // from the start of the process to the first accepted connection, and from its end's asking to its end
	command func() *exec.Cmd
	stdin   bool // the broker ends when its standard input does
	// What servers of several processes need; nil and 0 suit the others.
	ready  func() error        // beyond accepting connections
	others func(pid int) []int // of the process: those that Kill ends with it
	stop   syscall.Signal      // asks for an end; 0: SIGTERM

	mu    sync.Mutex // guards what follows
	cmd   *exec.Cmd
	input io.Closer
	done  chan struct{} // closed when cmd has been waited for
}

// run starts the broker and has it stopped with the test.
func (b *Broker) run(t testing.TB) *Broker {
	t.Helper()
	b.t = t
	t.Cleanup(func() {
		b.Kill()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(b.Dir, b.log))
			t.Logf("log of %s:\n%s", b.name, tail(log, 8<<10))
		}
	})
	b.Start()
	return b
}

// freePort is a port of the loopback that nobody listens on. It is below those that the kernel gives to outgoing connections
// (net.ipv4.ip_local_port_range), so that none has it before the broker does, or while the broker is down.
func freePort(t testing.TB) int {
	t.Helper()
	var err error
	for range 100 {
		port := 15000 + rand.IntN(15000)
		var listener net.Listener
		if listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			listener.Close()
			return port
		}
	}
	t.Fatal(err)
	return 0
}

// URL is the broker's address as MQTT clients take it.
func (b *Broker) URL() string { return "tcp://" + b.Addr }

// Start runs the broker again after Stop or Kill, on the same port and folder, and returns when it accepts connections.
func (b *Broker) Start() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd != nil {
		return
	}
	cmd := b.command()
	// A test binary that is killed takes its broker along.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true // a Ctrl-C is for whoever started it, who ends things in their order
	output, err := os.OpenFile(filepath.Join(b.Dir, b.name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	var input io.Closer
	if b.stdin {
		if input, err = cmd.StdinPipe(); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("%s: %v", b.name, err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()

	deadline := time.Now().Add(b.within)
	for {
		conn, err := net.DialTimeout("tcp", b.Addr, time.Second)
		if err == nil {
			conn.Close()
			if b.ready != nil {
				err = b.ready()
			}
		}
		if err == nil {
			b.cmd, b.input, b.done = cmd, input, done
			return
		}
		select {
		case <-done:
			said, _ := os.ReadFile(output.Name())
			b.t.Fatalf("%s ended at once: %v\n%s", b.name, cmd.ProcessState, tail(said, 8<<10))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			said, _ := os.ReadFile(output.Name())
			b.t.Fatalf("%s does not accept connections on %s: %v\n%s", b.name, b.Addr, err, bytes.TrimSpace(tail(said, 8<<10)))
		}
	}
}

// Stop ends the broker as a service manager would: it closes its sessions and, where it keeps them, writes its store.
func (b *Broker) Stop() { b.signal(cmp.Or(b.stop, syscall.SIGTERM)) }

// Kill ends the broker at once, as a power cut would.
func (b *Broker) Kill() { b.signal(syscall.SIGKILL) }

// Reload asks the broker to read its files again (SIGHUP).
func (b *Broker) Reload() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		b.t.Errorf("%s: %v", b.name, err)
	}
}

// Restart is Stop and Start.
func (b *Broker) Restart() {
	b.t.Helper()
	b.Stop()
	b.Start()
}

// signal ends the process and waits until it is gone, so that its port is free again.
func (b *Broker) signal(s syscall.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cmd == nil {
		return
	}
	var others []int
	if b.others != nil && s == syscall.SIGKILL {
		_ = b.cmd.Process.Signal(syscall.SIGSTOP) // so that it starts no more of them
		others = b.others(b.cmd.Process.Pid)
	}
	if b.stdin && s != syscall.SIGKILL {
		_ = b.input.Close()
	} else if err := b.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		b.t.Errorf("%s: %v", b.name, err)
	}
	for _, pid := range others {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, pid := range others {
		for deadline := time.Now().Add(b.within); running(pid) && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
	select {
	case <-b.done:
	case <-time.After(b.within):
		_ = b.cmd.Process.Kill()
		<-b.done
		b.t.Errorf("%s did not end on %v", b.name, s)
	}
	b.cmd = nil
}

// running says whether a process runs. One that has ended and that nobody has asked for does not.
func running(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(line, []byte(") Z "))
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
