package deps

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// brokerStart bounds the time from the start of a broker's process to its first accepted connection.
const brokerStart = 10 * time.Second

// MosquittoOptions say how the broker runs.
type MosquittoOptions struct {
	Dir         string   // where configuration, log and store lie; "" is a temporary folder
	Persistence bool     // keep sessions and queued messages over Stop and Start; written at Stop only, unless Config says otherwise
	Config      []string // further lines of mosquitto.conf, which outrank ours
}

// Broker is a Mosquitto of Debian's on a free port of the loopback, running as the test's own child. Its methods may be
// called from several goroutines. It is stopped when the test ends, and its log is shown when the test failed.
type Broker struct {
	Addr string // "127.0.0.1:port", the same over Stop and Start
	Dir  string

	t    testing.TB
	conf string

	mu   sync.Mutex // guards what follows
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has been waited for
}

// Mosquitto starts a broker and returns when it accepts connections.
func Mosquitto(t testing.TB, o MosquittoOptions) *Broker {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().(*net.TCPAddr)
	listener.Close()

	lines := []string{
		fmt.Sprintf("listener %d 127.0.0.1", addr.Port),
		"allow_anonymous true",
		"log_type all",
		fmt.Sprintf("log_dest file %s", filepath.Join(o.Dir, "mosquitto.log")),
		fmt.Sprintf("persistence %t", o.Persistence),
		fmt.Sprintf("persistence_location %s/", o.Dir),
	}
	if os.Geteuid() == 0 {
		lines = append(lines, "user root") // else it becomes a user who may not write to Dir
	}
	b := &Broker{Addr: addr.String(), Dir: o.Dir, t: t, conf: filepath.Join(o.Dir, "mosquitto.conf")}
	conf := strings.Join(append(lines, o.Config...), "\n") + "\n"
	if err := os.WriteFile(b.conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Kill()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(b.Dir, "mosquitto.log"))
			t.Logf("mosquitto's log:\n%s", tail(log, 8<<10))
		}
	})
	b.Start()
	return b
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
	cmd := Program(b.t, "mosquitto", "mosquitto", "-c", b.conf)
	// A test binary that is killed takes its broker along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("mosquitto: %v", err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()

	deadline := time.Now().Add(brokerStart)
	for {
		conn, err := net.DialTimeout("tcp", b.Addr, time.Second)
		if err == nil {
			conn.Close()
			b.cmd, b.done = cmd, done
			return
		}
		select {
		case <-done:
			b.t.Fatalf("mosquitto ended at once: %v\n%s", cmd.ProcessState, output.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			b.t.Fatalf("mosquitto does not accept connections on %s: %v", b.Addr, err)
		}
	}
}

// Stop ends the broker as a service manager would: it closes its sessions and, with Persistence, writes its store.
func (b *Broker) Stop() { b.signal(syscall.SIGTERM) }

// Kill ends the broker at once, as a power cut would.
func (b *Broker) Kill() { b.signal(syscall.SIGKILL) }

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
	if err := b.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		b.t.Errorf("mosquitto: %v", err)
	}
	select {
	case <-b.done:
	case <-time.After(brokerStart):
		_ = b.cmd.Process.Kill()
		<-b.done
		b.t.Errorf("mosquitto did not end on %v", s)
	}
	b.cmd = nil
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
