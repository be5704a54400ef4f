package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HookOptions say which command installs. Zero values are the defaults in brackets.
type HookOptions struct {
	Command []string      // the program, by its absolute path, and its first arguments; what is to be done follows as the last one
	Env     []string      // NAME=VALUE beside ours; nothing of the agent's own environment but PATH comes in, since that may hold secrets
	Lock    string        // a file that is locked while a command runs, and while one does that a killed agent left behind
	Timeout time.Duration // of an installation [1 h]
	Call    time.Duration // of anything else [30 s]
	Grace   time.Duration // between SIGTERM and SIGKILL [5 s]
	Poll    time.Duration // how often a lock that is held is tried [1 s]
	Logger  *slog.Logger
}

// Hook has a command do what is to be done: "install", "activate", "rearm", "mark-good", "mark-bad" or "status" is its last
// argument, and WAYBILL_ACTION. The image is open for reading as descriptor 3, WAYBILL_IMAGE is its path, WAYBILL_IMAGE_BYTES its length.
//
// It runs in a process group of its own, which is killed whole when it ends or has to. What it writes on standard output is
// lines: "progress PERCENT TEXT" and "error TEXT"; for status "booted SLOT", "primary SLOT", "state good|bad|trial" and
// "busy". Other lines and standard error go into the log, within bounds. Exit code 0 is success, 75 (EX_TEMPFAIL of
// sysexits.h) that it may be tried again later, another that it failed.
//
// Descriptor 4 is the lock: it is held as long as any process has it, so a command that outlives a killed agent keeps the
// next one out. What a command starts to stay has to close it.
type Hook struct{ o HookOptions }

// exitTempFail is EX_TEMPFAIL.
const exitTempFail = 75

// NewHook makes an installer; nothing runs before it is used.
func NewHook(o HookOptions) (*Hook, error) {
	if len(o.Command) == 0 || !filepath.IsAbs(o.Command[0]) {
		return nil, errors.New("install hook: the command has to be an absolute path: what PATH says is not what installs")
	}
	if o.Lock == "" {
		return nil, errors.New("install hook: a lock file is needed, such as /run/waybill/install.lock")
	}
	for _, e := range o.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.HasPrefix(name, "WAYBILL_") {
			return nil, fmt.Errorf("install hook: environment: want NAME=VALUE, not of ours (WAYBILL_), got the name %.40q", name)
		}
	}
	o.Timeout, o.Call = orDefault(o.Timeout, time.Hour), orDefault(o.Call, 30*time.Second)
	o.Grace, o.Poll = orDefault(o.Grace, 5*time.Second), orDefault(o.Poll, time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Hook{o}, nil
}

// Name is "hook".
func (h *Hook) Name() string { return "hook" }

// Install runs the command with "install".
func (h *Hook) Install(ctx context.Context, image *os.File, progress Progress) error {
	_, err := h.run(ctx, "install", h.o.Timeout, image, progress)
	return err
}

// Activate runs the command with "activate".
func (h *Hook) Activate(ctx context.Context) error { return h.do(ctx, "activate") }

// Rearm runs the command with "rearm".
func (h *Hook) Rearm(ctx context.Context) error { return h.do(ctx, "rearm") }

// MarkGood runs the command with "mark-good".
func (h *Hook) MarkGood(ctx context.Context) error { return h.do(ctx, "mark-good") }

// MarkBad runs the command with "mark-bad".
func (h *Hook) MarkBad(ctx context.Context) error { return h.do(ctx, "mark-bad") }

func (h *Hook) do(ctx context.Context, action string) error {
	_, err := h.run(ctx, action, h.o.Call, nil, nil)
	return err
}

// Status runs the command with "status", unless one is at work: then it is Busy and no more is known.
func (h *Hook) Status(ctx context.Context) (Status, error) {
	lock, err := h.lock()
	if errors.Is(err, ErrBusy) {
		return Status{Busy: true}, nil
	}
	if err != nil {
		return Status{}, err
	}
	lock.Close()
	return h.run(ctx, "status", h.o.Call, nil, nil)
}

// lock takes the lock if nobody has it. Its descriptor is inherited by the command: flock(2) belongs to what was opened, and ends
// with the last descriptor of it.
func (h *Hook) lock() (*os.File, error) {
	f, err := os.OpenFile(h.o.Lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("install hook: %w", err)
	}
	switch err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		err = fmt.Errorf("install hook: %w: a command that was started earlier is still at work (%s is locked)", ErrBusy, h.o.Lock)
	case err != nil:
		err = fmt.Errorf("install hook: %s: %w", h.o.Lock, os.NewSyscallError("flock", err))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// run waits for the lock and runs the command to its end.
func (h *Hook) run(caller context.Context, action string, limit time.Duration, image *os.File, progress Progress) (Status, error) {
	ctx, cancel := context.WithTimeout(caller, limit)
	defer cancel()
	doing := "install hook: " + action
	lock, err := h.lock()
	for errors.Is(err, ErrBusy) && wait(ctx, h.o.Poll) == nil {
		lock, err = h.lock()
	}
	if err != nil {
		return Status{}, ended(ctx, caller, limit, doing, err)
	}
	defer lock.Close()
	env := append([]string{"PATH=" + os.Getenv("PATH"), "WAYBILL_ACTION=" + action}, h.o.Env...)
	if image != nil {
		path, err := nameOf(image)
		if err != nil {
			return Status{}, fmt.Errorf("%s: %w", doing, err)
		}
		info, err := image.Stat()
		if err != nil {
			return Status{}, fmt.Errorf("%s: %w", doing, err)
		}
		if _, err := image.Seek(0, 0); err != nil { // a command gets the same description, with its offset
			return Status{}, fmt.Errorf("%s: %w", doing, err)
		}
		env = append(env, "WAYBILL_IMAGE="+path, "WAYBILL_IMAGE_BYTES="+strconv.FormatInt(info.Size(), 10))
	}
	lines := &hookLines{progress: progress, log: h.o.Logger.With("installer", "hook", "action", action)}
	p := process{argv: append(append([]string(nil), h.o.Command...), action), env: env, files: [2]*os.File{image, lock}, grace: h.o.Grace}
	outcome, err := p.run(ctx, lines)
	lines.finish()
	switch {
	case err != nil:
		err = fmt.Errorf("%s: %w: %w", doing, ErrUnreachable, err)
	case outcome.stopped: // whatever it says: some clean up on SIGTERM and exit 0
		err = fmt.Errorf("stopped: %s", outcome.with(lines.failure))
	case outcome.code == 0:
		return lines.status, nil
	case outcome.code == exitTempFail:
		err = fmt.Errorf("%s: %w: %s", doing, ErrBusy, outcome.with(lines.failure))
	default:
		err = fmt.Errorf("%s: %w: %s", doing, ErrFailed, outcome.with(lines.failure))
	}
	if outcome.stopped {
		err = ended(ctx, caller, limit, doing, err)
	}
	return Status{}, err
}
