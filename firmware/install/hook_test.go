package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script is a hook made of a shell script.
func script(t *testing.T, text string, o HookOptions) *Hook {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "hook")
	if err := os.WriteFile(path, []byte("cd "+dir+"\n"+text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Command = []string{"/bin/sh", path}
	if o.Lock == "" {
		o.Lock = filepath.Join(dir, "lock")
	}
	h, err := NewHook(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *Hook) file(name string) string { return filepath.Join(filepath.Dir(h.o.Command[1]), name) }

func picture(t *testing.T, data string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestHookInstall(t *testing.T) {
	t.Setenv("WAYBILL_SECRET_OF_THE_AGENT", "hunter2")
	var log bytes.Buffer
	h := script(t, `
echo "progress 10 begin"
cat <&3 >got
cmp got "$WAYBILL_IMAGE" || exit 1
echo "progress 300% all of it"
echo "progress much"
echo plain words
echo "odd" >&2
env >env
printf 'progress 99 no line end'
`, HookOptions{Env: []string{"SLOT=b"}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	image := picture(t, "the image")
	if _, err := image.Seek(4, 0); err != nil { // whoever read of it before
		t.Fatal(err)
	}
	var told []string
	if err := h.Install(t.Context(), image, func(p int, text string) { told = append(told, fmt.Sprint(p, " ", text)) }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"10 begin", "100 all of it", "99 no line end"}; !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
	got, err := os.ReadFile(h.file("got"))
	if err != nil || string(got) != "the image" {
		t.Errorf("got %q, %v", got, err)
	}
	env, err := os.ReadFile(h.file("env"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"WAYBILL_ACTION=install\n", "WAYBILL_IMAGE=" + image.Name() + "\n", "WAYBILL_IMAGE_BYTES=9\n", "SLOT=b\n", "PATH="} {
		if !strings.Contains(string(env), want) {
			t.Errorf("no %q in %s", want, env)
		}
	}
	if strings.Contains(string(env), "hunter2") {
		t.Error("the agent's environment came in")
	}
	for _, want := range []string{"plain words", "odd", "progress much"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log: %s", want, log.String())
		}
	}
}

func TestHookActions(t *testing.T) {
	h := script(t, `
echo "$1 $WAYBILL_ACTION" >>actions
[ "$1" != status ] || { echo "booted a"; echo "primary b"; echo "state trial"; echo "state sleepy"; }
`, HookOptions{})
	ctx := t.Context()
	if err := errors.Join(h.Activate(ctx), h.Rearm(ctx), h.MarkGood(ctx), h.MarkBad(ctx)); err != nil {
		t.Error(err)
	}
	s, err := h.Status(ctx)
	if err != nil || s.Booted != "a" || s.Primary != "b" || s.State != Trial || s.Busy {
		t.Errorf("%+v, %v", s, err)
	}
	got, _ := os.ReadFile(h.file("actions"))
	if want := "activate activate\nrearm rearm\nmark-good mark-good\nmark-bad mark-bad\nstatus status\n"; string(got) != want {
		t.Errorf("%q", got)
	}
}

func TestHookFails(t *testing.T) {
	for text, want := range map[string]struct {
		is   error
		text string
	}{
		"exit 3":                              {ErrFailed, "exit code 3"},
		"echo error no room; exit 1":          {ErrFailed, "no room (exit code 1)"},
		"exit 75":                             {ErrBusy, "exit code 75"},
		"kill -SEGV $$":                       {ErrFailed, "signal 11 (segmentation fault)"},
		"kill -9 $$":                          {ErrFailed, "signal 9 (killed)"},
		"printf 'error a\\033[2Jb\\n';exit 1": {ErrFailed, "a [2Jb (exit code 1)"},
	} {
		err := script(t, text, HookOptions{}).Install(t.Context(), picture(t, "x"), nil)
		if !errors.Is(err, want.is) || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	h := script(t, "", HookOptions{})
	h.o.Command = []string{"/no/such/program"}
	if err := h.MarkGood(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	moved := picture(t, "x")
	if err := os.Rename(moved.Name(), moved.Name()+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(moved.Name(), []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := script(t, "touch ran", HookOptions{}).Install(t.Context(), moved, nil); err == nil || !strings.Contains(err.Error(), "not the file that was verified") {
		t.Errorf("another file of that name: %v", err)
	}
	for _, o := range []HookOptions{{}, {Command: []string{"hook"}, Lock: "/l"}, {Command: []string{"/hook"}},
		{Command: []string{"/h"}, Lock: "/l", Env: []string{"WAYBILL_IMAGE=x"}}, {Command: []string{"/h"}, Lock: "/l", Env: []string{"x"}}} {
		if _, err := NewHook(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// alive counts the processes that a script wrote down and that still run.
func alive(t *testing.T, path string) (n int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for word := range strings.FieldsSeq(string(data)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !bytes.Contains(stat, []byte(") Z ")) {
			n++
		}
	}
	return n
}

// dead waits until none of them does: a killed process takes a moment to go.
func dead(t *testing.T, path string) {
	t.Helper()
	for range 1000 {
		if alive(t, path) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%d processes are left", alive(t, path))
}

// One that hangs, with children that do, is ended whole, also where SIGTERM is ignored.
func TestHookHangs(t *testing.T) {
	for name, text := range map[string]string{
		"asleep":    `echo $$ >pids; sleep 1000 & echo $! >>pids; wait`,
		"stubborn":  `trap '' TERM; echo $$ >pids; (trap '' TERM; exec sleep 1000) & echo $! >>pids; while :; do sleep 1000; done`,
		"polite":    `trap 'exit 0' TERM; echo $$ >pids; sleep 1000 & echo $! >>pids; wait`,
		"pipe held": `echo $$ >pids; sleep 1000 & echo $! >>pids; exec >/dev/null 2>&1; wait`,
	} {
		h := script(t, text, HookOptions{Timeout: 300 * time.Millisecond, Grace: 50 * time.Millisecond})
		err := h.Install(t.Context(), picture(t, "x"), nil)
		if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "more than 300ms") {
			t.Errorf("%s: %v", name, err)
		}
		dead(t, h.file("pids"))
		ctx, cancel := context.WithCancel(t.Context())
		h.o.Timeout = time.Hour
		if err := os.Remove(h.file("pids")); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				if data, _ := os.ReadFile(h.file("pids")); bytes.Count(data, []byte("\n")) == 2 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		if err := h.Install(ctx, picture(t, "x"), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s cancelled: %v", name, err)
		}
		dead(t, h.file("pids"))
	}
}

// What is left of the group when the command has ended goes with it.
func TestHookLeavesChildren(t *testing.T) {
	h := script(t, `for i in 1 2 3 4 5 6 7 8; do sleep 1000 & echo $! >>pids; done; exit 0`, HookOptions{})
	if err := h.MarkGood(t.Context()); err != nil {
		t.Error(err)
	}
	dead(t, h.file("pids"))
}

// A command that starts itself over and over is ended whole as well. Each generation starts two and waits, down to a depth that a test may afford.
func TestHookForks(t *testing.T) {
	h := script(t, `echo $$ >>pids; d=${DEPTH:-0}; [ $d -ge 5 ] && exec sleep 1000; DEPTH=$((d+1)) sh hook & DEPTH=$((d+1)) sh hook & wait`,
		HookOptions{Timeout: time.Second, Grace: 10 * time.Millisecond})
	if err := h.Install(t.Context(), picture(t, "x"), nil); !errors.Is(err, ErrTimeout) {
		t.Errorf("%v", err)
	}
	dead(t, h.file("pids"))
}

// Any amount of output neither stops the command nor fills memory or log.
func TestHookTalks(t *testing.T) {
	var log bytes.Buffer
	h := script(t, `
head -c 3000000 /dev/zero | tr '\0' x; echo
yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789 | head -n 5000 >&2
echo "error the end"; exit 1`, HookOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	err := h.Install(t.Context(), picture(t, "x"), nil)
	if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "the end") {
		t.Errorf("%v", err)
	}
	if log.Len() > 3*maxLogged || !strings.Contains(log.String(), "bytes_left_out") {
		t.Errorf("%d bytes of log", log.Len())
	}
}

// A command that a killed agent left behind keeps the next one out until it ends.
func TestHookLeftBehind(t *testing.T) {
	h := script(t, `echo $1 >>ran`, HookOptions{Call: 100 * time.Millisecond, Timeout: time.Minute, Poll: 10 * time.Millisecond})
	lock, err := h.lock()
	if err != nil {
		t.Fatal(err)
	}
	left, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{Files: []*os.File{nil, nil, nil, nil, lock}})
	if err != nil {
		t.Fatal(err)
	}
	lock.Close() // the agent is gone
	ctx := t.Context()
	if s, err := h.Status(ctx); err != nil || !s.Busy {
		t.Errorf("%+v, %v", s, err)
	}
	if err := h.Activate(ctx); !errors.Is(err, ErrBusy) || !errors.Is(err, ErrTimeout) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(h.file("ran")); err == nil {
		t.Error("it ran beside the other")
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = left.Signal(syscall.SIGKILL); _, _ = left.Wait() })
	if err := h.Install(ctx, picture(t, "x"), nil); err != nil {
		t.Error(err)
	}
	if s, err := h.Status(ctx); err != nil || s.Busy {
		t.Errorf("%+v, %v", s, err)
	}
}

// While a command runs nobody else gets the lock, and it has descriptor 4.
func TestHookHoldsLock(t *testing.T) {
	h := script(t, `flock -n "$(readlink /proc/self/fd/4)" true && exit 1; exit 0`, HookOptions{})
	if err := h.MarkGood(t.Context()); err != nil {
		t.Error(err)
	}
}
