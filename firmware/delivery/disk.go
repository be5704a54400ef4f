package delivery

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// disk is what a part needs of a file system. Tests put one in between that loses writes, as a power cut does.
type disk interface {
	open(path string) (file, error) // made if it is not there
	rename(from, to string) error
	remove(path string) error
	syncDir(dir string) error
	free(dir string) (int64, error) // bytes that we may still write
}

type file interface {
	ReadAt(b []byte, off int64) (int, error)
	WriteAt(b []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
	size() (int64, error)
}

type systemDisk struct{}

type systemFile struct{ *os.File }

func (systemDisk) open(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	return systemFile{f}, nil
}

func (systemDisk) rename(from, to string) error { return os.Rename(from, to) }

func (systemDisk) remove(path string) error { return os.Remove(path) }

func (systemDisk) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (systemDisk) free(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(min(fs.Bavail, 1<<40) * uint64(fs.Bsize)), nil // no file system has larger blocks than 4 MiB
}

func (f systemFile) size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// replaceDurably puts a file in the place of another: after a power cut it is the old one or the new one.
func replaceDurably(d disk, path string, data []byte) error {
	f, err := d.open(path + ".new")
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := d.rename(path+".new", path); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

// removeAll removes files that may not be there.
func removeAll(d disk, paths ...string) error {
	for _, path := range paths {
		if err := d.remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
