package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const lockName = "lock"

// lock takes the queue's lock: an flock on one file, which the kernel drops when the process ends, however it ends.
// The file holds the owner's pid for whoever finds it taken.
func lock(dir string, timeout time.Duration) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, unix.EROFS) { // a read-only remount: what is stored can still be sent
		if there, openErr := os.Open(path); openErr == nil {
			f, err = there, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	for waited := time.Duration(0); ; waited += 20 * time.Millisecond {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, os.NewSyscallError("flock", err))
		}
		if waited >= timeout {
			text, _ := os.ReadFile(path)
			f.Close()
			return nil, fmt.Errorf("%w by process %s (%s)", ErrLocked, pidText(text), path)
		}
		time.Sleep(20 * time.Millisecond)
	}
	// The pid is for people: a full disk must not keep the queue from opening.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return f, nil
}

// InUse says whether a process has the queue in a folder open. The answer may be old when it arrives.
func InUse(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("queue: %w", err)
	}
	defer f.Close() // which gives the lock back
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, os.NewSyscallError("flock", err)
}

func pidText(text []byte) string {
	if s := strings.TrimSpace(string(text)); s != "" {
		return s
	}
	return "of unknown id"
}
