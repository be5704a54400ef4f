package buffer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Trouble says whether an error is the disk's and may pass: no room, read-only, input or output failed. What it fails
// can be tried again.
func Trouble(err error) bool {
	for _, e := range [...]error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// errAppeared: the folder that could not be made at the start is there, and not empty: a disk that was mounted late.
var errAppeared = errors.New("a queue has appeared since the start; a restart reads it")

// take makes the folder and takes its lock. Where there is no queue yet and the disk takes no writes, both are left to the
// first commit that finds it well: until then there is nothing to be kept from others.
func (q *Queue) take() error {
	err := q.makeAndLock()
	if err != nil && Trouble(err) && blank(q.dir) {
		q.log.Error("queue: there is no folder yet, and the disk takes none", "dir", q.dir, "err", err)
		q.untaken = true
		return nil
	}
	return err
}

func (q *Queue) makeAndLock() (err error) {
	if err = makeFolder(q.dir); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	q.lockFile, err = lock(q.dir, q.o.LockTimeout)
	return err
}

// takeLate does what take could not. The caller holds commitMu.
func (q *Queue) takeLate() error {
	if !q.untaken {
		return nil
	}
	if !blank(q.dir) {
		return fmt.Errorf("queue: %s: %w", q.dir, errAppeared)
	}
	if err := q.makeAndLock(); err != nil {
		return err
	}
	if !blank(q.dir) { // another process was faster
		q.lockFile.Close()
		return fmt.Errorf("queue: %s: %w", q.dir, errAppeared)
	}
	q.untaken = false
	return nil
}

// blank says whether a folder is missing, or holds nothing of a queue.
func blank(dir string) bool {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	for _, n := range names {
		if n.Name() != lockName && n.Name() != reserveName && filepath.Ext(n.Name()) != tmpSuffix {
			return false
		}
	}
	return err == nil
}

// unreadable is what a segment holds that the disk does not give back at all.
func unreadable(err error) (*contents, bool) {
	if !errors.Is(err, syscall.EIO) {
		return nil, false
	}
	return &contents{salvaged: true, damage: err.Error()}, true
}

// writable says whether a flush that went well means anything: ext4 that was made read-only while files were open for
// writing (SysRq-u, as watchdogs and updaters do before a reset) takes writes to them and says that they are flushed.
func writable(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("queue: %w", os.NewSyscallError("statfs", err))
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("queue: %s: %w", dir, unix.EROFS)
	}
	return nil
}
