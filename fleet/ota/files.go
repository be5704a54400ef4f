package ota

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, err
}

// readIfThere is nil without an error when there is no such file.
func readIfThere(path string, limit int64) ([]byte, error) {
	data, err := readFile(path, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// writeNew writes a file that must not be there yet; a power cut leaves it whole or not at all.
func writeNew(path string, mode os.FileMode, data []byte) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s: %w; nothing is overwritten", path, fs.ErrExist)
		}
		return err
	}
	return writeFile(path, mode, func(w io.Writer) error { _, err := w.Write(data); return err })
}

// writeFile writes beside, syncs, renames and syncs the folder: a reader sees the old file or the new one.
func writeFile(path string, mode os.FileMode, fill func(io.Writer) error) error {
	temporary := path + ".new" // one name, so that what a kill leaves is overwritten by the next try
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	err = f.Chmod(mode) // the umask, or a leftover of another mode
	if err == nil {
		err = fill(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// put writes a file of the workspace. Every change that a reader can see goes through here or through remove, so that tests can
// end the process before each.
func (w *Workspace) put(path string, data []byte) error {
	return w.putFrom(path, func(out io.Writer) error { _, err := io.Copy(out, bytes.NewReader(data)); return err })
}

func (w *Workspace) putFrom(path string, fill func(io.Writer) error) error {
	if err := w.step(path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return writeFile(path, 0o644, fill)
}

func (w *Workspace) remove(path string) error {
	if err := w.step(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func (w *Workspace) step(path string) error {
	if w.before == nil {
		return nil
	}
	return w.before(path)
}

// lock lets one process change the workspace at a time.
func (w *Workspace) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(w.dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another `waybill-fleet ota`: %w; try again when it has ended", w.dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // the lock ends with the descriptor
}
