package slots

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fsys is what this package needs of a file system. Tests put a model of a disk in its place that loses what was not
// synced.
type fsys interface {
	Open(name string) (file, error)   // for reading
	Create(name string) (file, error) // for writing, empty, mode 0644 less the umask
	Rename(from, to string) error
	Remove(name string) error // of a file that is not there: nil
	Symlink(target, name string) error
	Readlink(name string) (string, error)
	Mkdir(name string) error             // one that is there: nil
	Lstat(name string) (fileInfo, error) // fs.ErrNotExist when there is none
	SyncFolder(name string) error
	Free(name string) (uint64, error) // bytes that may still be written below a folder
	Lock(name string) (io.Closer, error)
}

type file interface {
	io.Reader
	io.Writer
	io.Closer
	Chmod(fs.FileMode) error
	Sync() error
	Forget() // give cached pages back, so that what is read comes from the disk
}

// fileInfo is little: no time of a file may count for anything.
type fileInfo struct {
	size int64
	mode fs.FileMode
}

// errBusy: somebody else holds the lock.
var errBusy = errors.New("locked")

// osFS is the real one.
type osFS struct{}

type osFile struct{ *os.File }

func (f osFile) Forget() {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // a file system without a cache refuses, and needs none
}

func (osFS) Open(name string) (file, error) {
	f, err := os.Open(name)
	return osFile{f}, err
}

func (osFS) Create(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	return osFile{f}, err
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (osFS) Symlink(target, name string) error    { return os.Symlink(target, name) }
func (osFS) Readlink(name string) (string, error) { return os.Readlink(name) }

func (osFS) Mkdir(name string) error {
	if err := os.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (osFS) Lstat(name string) (fileInfo, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return fileInfo{}, err
	}
	return fileInfo{info.Size(), info.Mode()}, nil
}

func (osFS) SyncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osFS) Free(name string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(name, &s); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// Lock does not wait: errBusy. The kernel drops the lock when the process ends or becomes another program (O_CLOEXEC).
func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	switch err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		return f, nil
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, syscall.EINTR):
		err = errBusy
	default:
		err = os.NewSyscallError("flock", err)
	}
	return nil, errors.Join(err, f.Close())
}
