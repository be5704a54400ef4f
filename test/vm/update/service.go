package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// hangs is what a faulty agent says when it hangs. It is killed then, as systemd's timeouts would in the end.
const hangs = "fault: hangs"

// service keeps the agent running as systemd does with the package's unit: Type=notify, Restart=always.
type service struct {
	command []string
	env     []string
	socket  *net.UnixConn

	mu       sync.Mutex // guards what follows
	process  *exec.Cmd
	ended    chan struct{} // closed when process has ended
	stopping bool
	ready    bool     // process has said READY=1
	failures int      // processes that ended by themselves and not well
	log      []string // all lines of all processes
}

// newService makes the socket that READY=1 is said to.
func newService(command []string, env ...string) (*service, error) {
	const path = "/run/notify"
	_ = os.Remove(path)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	s := &service{command: command, env: append(append(os.Environ(), env...), "NOTIFY_SOCKET="+path), socket: socket}
	go s.hear()
	return s, nil
}

func (s *service) hear() {
	buffer := make([]byte, 4096)
	for {
		n, err := s.socket.Read(buffer)
		if err != nil {
			return
		}
		if strings.Contains("\n"+string(buffer[:n])+"\n", "\nREADY=1\n") {
			s.mu.Lock()
			s.ready = true
			s.mu.Unlock()
		}
	}
}

func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = false
	return s.startLocked()
}

func (s *service) startLocked() error {
	cmd := exec.Command(s.command[0], s.command[1:]...)
	cmd.Env = s.env
	log, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.command[0], err)
	}
	s.process, s.ended, s.ready = cmd, make(chan struct{}), false
	go s.keep(cmd, log, s.ended)
	return nil
}

// keep repeats what a process says, waits for its end, and starts the next unless it was to stop.
func (s *service) keep(cmd *exec.Cmd, log io.Reader, ended chan struct{}) {
	for lines := bufio.NewScanner(log); lines.Scan(); {
		fmt.Println("agent:", lines.Text())
		s.mu.Lock()
		s.log = append(s.log, lines.Text())
		s.mu.Unlock()
		if lines.Text() == hangs {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	fmt.Println("agent ended:", cmd.ProcessState)
	time.Sleep(100 * time.Millisecond) // RestartSec
	s.mu.Lock()
	defer s.mu.Unlock()
	close(ended)
	s.ready = false
	if !cmd.ProcessState.Success() {
		s.failures++
	}
	if !s.stopping {
		if err := s.startLocked(); err != nil {
			fmt.Println("broken:", err)
		}
	}
}

// stop ends the agent as ignition off does, and says how it ended.
func (s *service) stop() error {
	s.mu.Lock()
	s.stopping = true
	cmd, ended := s.process, s.ended
	_ = cmd.Process.Signal(syscall.SIGTERM)
	s.mu.Unlock()
	<-ended
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the agent was to stop and ended with %v", cmd.ProcessState)
	}
	return nil
}

// failed says how often the agent failed.
func (s *service) failed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures
}

func (s *service) isReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// said tells whether some line has all of the words.
func (s *service) said(words ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.log {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			return true
		}
	}
	return false
}

// slot is the folder of the executable that runs.
func (s *service) slot() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.process.Process.Pid))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(path[strings.Index(path, "/slots/")+1:], "/waybill-agent")
}
