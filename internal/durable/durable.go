// Package durable replaces small files so that a power cut leaves the old one or the new one, whole. Packages whose tests replay the
// disks that a power cut may leave (firmware/slots, firmware/delivery) do the same through a seam of their own.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces a file: written beside (PATH.new), synced, renamed, its folder synced. It has the mode that is given, whatever the umask
// and a file left over say. With an error the old file is still there, or the new one whose folder could not be synced.
func Write(path string, data []byte, mode fs.FileMode) error {
	beside := path + ".new"
	err := write(beside, data, mode)
	if err == nil {
		err = os.Rename(beside, path)
	}
	if err != nil {
		_ = os.Remove(beside) // room on a full disk
		return err
	}
	return SyncFolder(filepath.Dir(path))
}

func write(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncFolder makes durable what was made, renamed and removed in a folder.
func SyncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
