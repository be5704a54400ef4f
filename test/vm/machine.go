package vm

import (
	"bufio"
	"io"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Machine is a computer that runs until its power is cut. What it wrote to its disks is in their files; what its
// kernel had not written yet, its page cache, is gone with the process.
type Machine struct {
	cmd   *exec.Cmd
	lines chan string
	gone  bool
}

// Boot starts the machine. It has to be cut: it ends by itself only when the job's command does.
func (b *Bed) Boot(t testing.TB) *Machine {
	t.Helper()
	cmd, _ := b.command(t)
	ownGroup(cmd)
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		t.Fatalf("boot: %v", err)
	}
	m := &Machine{cmd: cmd, lines: make(chan string, 4096)}
	go func() {
		_ = cmd.Wait() // which ends when all of the console has been read
		in.Close()
	}()
	go func() {
		defer close(m.lines)
		read := bufio.NewReader(out)
		for {
			line, err := read.ReadString('\n')
			if err != nil {
				break // half a line is none
			}
			m.lines <- line[:len(line)-1]
		}
	}()
	t.Cleanup(func() { m.Cut(t, func(string) {}) })
	return m
}

// Lines are the lines of the console. It is closed when the machine has ended.
func (m *Machine) Lines() <-chan string { return m.lines }

// Cut cuts the power and hands over what was still on its way from the console.
func (m *Machine) Cut(t testing.TB, hear func(line string)) {
	t.Helper()
	if m.gone { // its number may be another's by now
		return
	}
	m.gone = true
	group := -m.cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGKILL)
	for line := range m.lines {
		hear(line)
	}
	// Its helper processes write to the disk, and have to be gone too.
	for end := time.Now().Add(20 * time.Second); syscall.Kill(group, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a process of the machine does not end")
		}
	}
}
