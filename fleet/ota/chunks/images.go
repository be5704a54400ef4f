package chunks

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
)

// Sum is the SHA-256 of a file.
type Sum = [sha256.Size]byte

// targets is where the repository's files are below the public folder: ROLE/HASH.NAME-VERSION, and patches as ROLE/HASH.NAME.from-….zst.
const targets = "image/targets"

// Images are the files of a published image repository. A file counts when its name begins with the SHA-256 of what is in it: each is read
// once, when it is first seen. It is safe for use from several goroutines.
type Images struct {
	root *os.Root
	log  *slog.Logger

	mu    sync.RWMutex // guards what follows
	files map[Sum]file
	seen  map[string]stamp // by path: what has been read
}

type file struct {
	path   string
	length int64
}

// stamp says whether a file is still what it was.
type stamp struct {
	size int64
	at   time.Time
	sum  Sum
	good bool
}

// OpenImages opens DIR/public, or a copy of it.
func OpenImages(public string, log *slog.Logger) (*Images, error) {
	root, err := os.OpenRoot(filepath.Join(public, targets))
	if err != nil {
		return nil, fmt.Errorf("%w; want the folder public that waybill-fleet ota writes, or a copy of it", err)
	}
	m := &Images{root: root, log: log, files: map[Sum]file{}, seen: map[string]stamp{}}
	if err := m.Scan(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return m, nil
}

// Close gives the folder up.
func (m *Images) Close() error { return m.root.Close() }

// Len is how many files there are.
func (m *Images) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.files)
}

// Length is how long a file is; ok is false when there is none.
func (m *Images) Length(sum Sum) (length int64, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	f, ok := m.files[sum]
	return f.length, ok
}

// Read gives some bytes of a file.
func (m *Images) Read(sum Sum, offset int64, length int) ([]byte, error) {
	m.mu.RLock()
	f, ok := m.files[sum]
	m.mu.RUnlock()
	if !ok {
		return nil, fs.ErrNotExist
	}
	in, err := m.root.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	b := make([]byte, length)
	if _, err := io.ReadFull(io.NewSectionReader(in, offset, int64(length)), b); err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	return b, nil
}

// Scan looks at the folder: what is new is read, what is gone is forgotten. It is for one goroutine at a time.
func (m *Images) Scan() error {
	files, seen := map[Sum]file{}, map[string]stamp{}
	roles, err := fs.ReadDir(m.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	for _, role := range roles {
		if !role.IsDir() {
			continue
		}
		entries, err := fs.ReadDir(m.root.FS(), role.Name())
		if err != nil {
			return fmt.Errorf("images: %w", err)
		}
		for _, e := range entries {
			name := path.Join(role.Name(), e.Name())
			s, ok := m.look(name, e)
			if !ok {
				continue
			}
			if seen[name] = s; s.good {
				files[s.sum] = file{name, s.size}
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files, m.seen = files, seen
	return nil
}

// look says what a file is; ok is false for what cannot be one, or is gone.
func (m *Images) look(name string, e fs.DirEntry) (s stamp, ok bool) {
	sum, named := sumOf(e.Name())
	info, err := e.Info()
	if !named || err != nil || !info.Mode().IsRegular() {
		return s, false
	}
	s = stamp{size: info.Size(), at: info.ModTime(), sum: sum}
	if had, there := m.seen[name]; there && had.size == s.size && had.at.Equal(s.at) {
		return had, true
	}
	have, err := m.hash(name)
	switch {
	case err != nil:
		m.log.Warn("an image cannot be read, and is not served", "file", name, "err", err)
		return s, false
	case have != sum || s.size == 0:
		m.log.Warn("a file is not what its name says, or not yet, and is not served", "file", name, "sha256", hex.EncodeToString(have[:]))
	default:
		s.good = true
	}
	return s, true
}

// sumOf reads the SHA-256 that a file's name begins with: 64 lower-case digits and a point.
func sumOf(name string) (sum Sum, ok bool) {
	const digits = 2 * sha256.Size
	if len(name) <= digits+1 || name[digits] != '.' {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(name[:digits]))
	return sum, err == nil && hex.EncodeToString(sum[:]) == name[:digits]
}

func (m *Images) hash(name string) (sum Sum, err error) {
	in, err := m.root.Open(name)
	if err != nil {
		return sum, err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return sum, err
	}
	return Sum(h.Sum(nil)), nil
}
