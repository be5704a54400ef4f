package buffer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// quarantineName is the folder of what is damaged, kept for whoever wants to look. It is bounded in number and bytes,
// the oldest goes first, and nothing depends on it.
const quarantineName = "quarantine"

// keepAside writes a damaged record's bytes to quarantine and returns the file's name relative to the queue's folder,
// empty when it could not be kept.
func (q *Queue) keepAside(name string, value []byte) string {
	if q.o.QuarantineFiles < 0 || int64(len(value)) > q.o.QuarantineBytes || len(value) == 0 {
		return ""
	}
	folder := filepath.Join(q.dir, quarantineName)
	err := os.MkdirAll(folder, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, name), value, 0o600)
	}
	if err != nil {
		q.log.Warn("queue: a damaged batch could not be kept", "file", name, "err", err)
		return ""
	}
	q.prune(folder)
	return filepath.Join(quarantineName, name)
}

// setAside moves a damaged segment, of which everything that could be read was released, out of the way.
func (q *Queue) setAside(s *segment) {
	folder := filepath.Join(q.dir, quarantineName)
	var err error
	if q.o.QuarantineFiles < 0 {
		err = os.Remove(s.path)
	} else {
		err = os.MkdirAll(folder, 0o700)
		if err == nil {
			err = os.Rename(s.path, filepath.Join(folder, fmt.Sprintf("%s-%s", s.lane, filepath.Base(s.path))))
		}
		q.prune(folder)
	}
	if err != nil && exists(s.path) {
		q.log.Warn("queue: a damaged segment could not be set aside", "file", s.file(), "err", err)
	}
}

// prune keeps the folder within its bounds.
func (q *Queue) prune(folder string) {
	names, err := os.ReadDir(folder)
	if err != nil {
		return
	}
	var files []os.FileInfo
	var sum int64
	for _, n := range names {
		if info, err := n.Info(); err == nil {
			files = append(files, info)
			sum += blocks(info)
		}
	}
	slices.SortStableFunc(files, func(a, b os.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for i := 0; i < len(files) && (len(files)-i > q.o.QuarantineFiles || sum > q.o.QuarantineBytes); i++ {
		sum -= blocks(files[i])
		if err := os.Remove(filepath.Join(folder, files[i].Name())); err != nil {
			q.log.Warn("queue: removing an old file from quarantine", "file", files[i].Name(), "err", err)
		}
	}
}
