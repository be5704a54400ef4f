package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/clock"
)

// boot names one run of CLOCK_BOOTTIME on this device.
type boot struct {
	ID    [16]byte
	Count uint32 // 1 for the first one that this data folder has seen

	unsaved bool // the disk does not know the number
}

// bootFile holds "COUNT BOOT-ID\n" of the latest boot.
const bootFile = "boot"

// nextBoot counts the boot with this id: the same id as last time keeps its number. The caller holds the queue's
// lock, so that no other process counts at the same time. A file that cannot be read starts again from 1 and says so;
// the id alone still tells boots apart. A disk that takes no writes is a warning too.
func nextBoot(dir string, id [16]byte) (b boot, warning error, err error) {
	b = boot{ID: id, Count: 1}
	path := filepath.Join(dir, bootFile)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && !buffer.Trouble(err):
		return b, nil, err
	case err != nil:
		warning = fmt.Errorf("%w; the count of boots starts again", err)
	default:
		var count uint32
		var last string
		if _, scanErr := fmt.Sscanf(string(text), "%d %s", &count, &last); scanErr != nil {
			warning = fmt.Errorf("%s: %w; the count of boots starts again", path, scanErr)
		} else if lastID, parseErr := clock.ParseBootID(strings.TrimSpace(last)); parseErr != nil {
			warning = fmt.Errorf("%s: %w; the count of boots starts again", path, parseErr)
		} else if lastID == id {
			b.Count = count
			return b, nil, nil
		} else {
			b.Count = count + 1
		}
	}
	if err = b.save(dir); buffer.Trouble(err) || errors.Is(err, fs.ErrNotExist) { // the folder could not be made
		b.unsaved = true
		warning, err = errors.Join(warning, fmt.Errorf("%w; the count of boots is kept in memory until the disk takes it", err)), nil
	}
	return b, warning, err
}

func (b *boot) save(dir string) error {
	return writeDurably(filepath.Join(dir, bootFile), fmt.Appendf(nil, "%d %s\n", b.Count, clock.FormatBootID(b.ID)))
}

// writeDurably replaces a small file so that a power cut leaves the old one or the new one, whole.
func writeDurably(path string, data []byte) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	if _, err = temp.Write(data); err == nil {
		err = temp.Sync()
	}
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(temp.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
