package ingest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// maxMembers is the most processes that share the slots of one folder.
const maxMembers = 64

// FileLeaser leases slots to the processes of one machine by locks on files of one folder (flock): slot-N is held by who
// runs slot N, member-K by a process that shares. The kernel lets go of them when a process ends, however it ends. It is safe
// for use from several goroutines.
type FileLeaser struct {
	dir string

	mu     sync.Mutex // guards what follows
	member *os.File   // nil: no place yet
	place  int
	slots  map[int]*os.File
}

// NewFileLeaser makes the folder if need be.
func NewFileLeaser(dir string) (*FileLeaser, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of slots: %w", err)
	}
	return &FileLeaser{dir: dir, slots: map[int]*os.File{}}, nil
}

// tryLock locks a file; nil: another has it.
func tryLock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return f, nil
}

func (l *FileLeaser) file(kind string, n int) string {
	return filepath.Join(l.dir, fmt.Sprintf("%s-%d", kind, n))
}

// Lease takes free slots up to this process's share: n by the number of processes, the first of them one more where that
// leaves a rest.
func (l *FileLeaser) Lease(_ context.Context, n int) (slots []int, over int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	share, err := l.shareLocked(n)
	if err != nil {
		return nil, 0, fmt.Errorf("lease slots: %w", err)
	}
	for i := 0; i < n && len(l.slots) < share; i++ {
		if l.slots[i] != nil {
			continue
		}
		f, err := tryLock(l.file("slot", i), unix.LOCK_EX)
		if err != nil {
			return nil, 0, fmt.Errorf("lease slot %d: %w", i, err)
		}
		if f != nil {
			l.slots[i] = f
		}
	}
	for i := range l.slots {
		slots = append(slots, i)
	}
	return slots, max(0, len(slots)-share), nil
}

// shareLocked takes a place among the processes, and counts them.
func (l *FileLeaser) shareLocked(n int) (int, error) {
	for place := 0; l.member == nil && place < maxMembers; place++ {
		f, err := tryLock(l.file("member", place), unix.LOCK_EX)
		if err != nil {
			return 0, err
		}
		l.member, l.place = f, place
	}
	if l.member == nil {
		return 0, fmt.Errorf("%s: %d processes share it already", l.dir, maxMembers)
	}
	members, before := 1, 0
	for place := range maxMembers {
		if _, err := os.Stat(l.file("member", place)); place == l.place || err != nil {
			continue
		}
		// Who only looks locks with others: two that look at once do not take each other for members.
		f, err := tryLock(l.file("member", place), unix.LOCK_SH)
		if err != nil {
			return 0, err
		}
		if f != nil {
			f.Close()
			continue
		}
		members++
		if place < l.place {
			before++
		}
	}
	share := n / members
	if before < n%members {
		share++
	}
	return share, nil
}

// Release gives a slot up.
func (l *FileLeaser) Release(slot int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.slots[slot]
	if f == nil {
		return nil
	}
	delete(l.slots, slot)
	return f.Close()
}

// Close leaves: slots and place are free for others.
func (l *FileLeaser) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for slot, f := range l.slots {
		errs = append(errs, f.Close())
		delete(l.slots, slot)
	}
	if l.member != nil {
		errs = append(errs, l.member.Close())
		l.member = nil
	}
	return errors.Join(errs...)
}
