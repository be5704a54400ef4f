// Command guest is process 1 of a test's virtual machine: it loads the CAN modules, makes the virtual buses, runs one
// command, says on the console how it ended, and powers the machine off. It reads what to do from the JSON file that
// the kernel's command line names as waybill.job=PATH (package vm writes it). It runs nowhere else.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// job is the guest's half of vm.Job.
type job struct {
	Token      string   // stands in every line meant for the host, so that no command's output passes for one
	Modules    []string // kernel modules, in order of loading
	Interfaces []string // vcan interfaces to make
	Command    []string
	Env        []string
	Dir        string
	Timeout    time.Duration // for the command
}

func main() {
	// Process 1 must not end: the kernel would panic and nobody would see why.
	code, err := run()
	if err != nil {
		fmt.Printf("guest: %v\n", err)
	}
	fmt.Printf("\n%s exit %d\n", token, code)
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // wait until the console has it all
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// token is known once the job has been read; before that the host takes nothing for a result.
var token = "guest"

func run() (int, error) {
	if err := mountAll(); err != nil {
		return -1, err
	}
	if err := openConsole(); err != nil {
		return -1, err
	}
	j, err := readJob()
	if err != nil {
		return -1, err
	}
	for _, module := range j.Modules {
		if err := load(module); err != nil {
			return -1, err
		}
	}
	if err := up("lo"); err != nil {
		return -1, err
	}
	for _, name := range j.Interfaces {
		if err := addVcan(name); err != nil {
			return -1, err
		}
	}
	token = j.Token
	fmt.Printf("\n%s start\n", token)
	return command(j)
}

func mountAll() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"devpts", "/dev/pts"}, {"tmpfs", "/dev/shm"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

// openConsole gives the process its three standard files, and turns off the terminal's rewriting of line ends.
func openConsole() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	for target := range 3 {
		if err := unix.Dup3(fd, target, 0); err != nil {
			return err
		}
	}
	if mode, err := unix.IoctlGetTermios(1, unix.TCGETS); err == nil {
		mode.Oflag &^= unix.OPOST
		_ = unix.IoctlSetTermios(1, unix.TCSETS, mode)
	}
	return nil
}

func readJob() (j job, err error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return j, err
	}
	for _, word := range strings.Fields(string(cmdline)) {
		path, ok := strings.CutPrefix(word, "waybill.job=")
		if !ok {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return j, err
		}
		return j, json.Unmarshal(text, &j)
	}
	return j, errors.New("the kernel's command line has no waybill.job=")
}

func load(module string) error {
	file, err := os.Open(module)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", filepath.Base(module), err)
	}
	return nil
}

// command runs the job's command to its end; the exit code is 124 when it took too long, as timeout(1) has it.
func command(j job) (int, error) {
	cmd := exec.Command(j.Command[0], j.Command[1:]...)
	cmd.Dir, cmd.Env = j.Dir, j.Env
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 126, err
	}
	var err error
	done := make(chan struct{})
	go func() { err = cmd.Wait(); close(done) }()
	select {
	case <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return 126, err
		}
		return cmd.ProcessState.ExitCode(), nil
	case <-time.After(j.Timeout):
		_ = cmd.Process.Signal(unix.SIGQUIT) // a Go program says where it stood
		select {
		case <-done:
		case <-time.After(5 * time.Second):
		}
		return 124, fmt.Errorf("%s did not end within %v", j.Command[0], j.Timeout)
	}
}
