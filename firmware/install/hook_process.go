package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one run of a command, alone in its process group.
type process struct {
	argv, env []string
	files     [2]*os.File // descriptors 3 and 4; without the first, 3 is /dev/null
	grace     time.Duration
}

// outcome is how it ended.
type outcome struct {
	code    int // -1 with a signal
	signal  syscall.Signal
	stopped bool // we ended it
}

func (o outcome) String() string {
	if o.signal != 0 {
		return fmt.Sprintf("it was ended by signal %d (%s)", int(o.signal), o.signal)
	}
	return fmt.Sprintf("exit code %d", o.code)
}

func (o outcome) with(text string) string {
	if text == "" {
		return o.String()
	}
	return text + " (" + o.String() + ")"
}

// run runs it until it ends by itself or ctx does: then its group gets SIGTERM, and after the grace SIGKILL. Whatever of its group is
// left when it has ended is killed too. A process that leaves the group (setsid) escapes this; a service manager's control group does not let it.
func (p *process) run(ctx context.Context, lines *hookLines) (outcome, error) {
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Env, cmd.Dir = p.env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = lines.out(), lines.err()
	cmd.WaitDelay = time.Second // for what is left in the pipes, whoever holds them
	image := p.files[0]
	if image == nil {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return outcome{}, err
		}
		defer null.Close()
		image = null
	}
	cmd.ExtraFiles = []*os.File{image, p.files[1]}
	if err := cmd.Start(); err != nil {
		return outcome{}, err
	}
	// It is waited for without being reaped: as long as it is not, its number is the group's and nobody else's.
	exited := make(chan error, 1)
	go func() { exited <- awaitExit(cmd.Process.Pid) }()
	stopped := false
	var err error
	select {
	case err = <-exited:
	case <-ctx.Done():
		stopped = true
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGTERM)
		timer := time.NewTimer(p.grace)
		select {
		case err = <-exited:
			timer.Stop()
		case <-timer.C:
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			err = <-exited
		}
	}
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	waited := cmd.Wait() // reaps it, and ends the copying of its output
	if err != nil {
		return outcome{}, err
	}
	o := outcome{code: cmd.ProcessState.ExitCode(), stopped: stopped}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		o.signal = status.Signal()
	}
	var exit *exec.ExitError
	if waited != nil && !errors.As(waited, &exit) && !errors.Is(waited, exec.ErrWaitDelay) {
		return o, waited
	}
	return o, nil
}

// awaitExit waits until a child has ended and leaves it a zombie.
func awaitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("waitid", err)
		}
	}
}
