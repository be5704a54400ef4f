package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/waybill-telematics/waybill/internal/durable"
)

// Store keeps the metadata that was verified, byte for byte as it was signed: ROLE.json, unversioned, and a second copy
// of the root. A file is written beside, synced, renamed and its folder synced: after a power cut it is the old or the new one.
// One Client uses it at a time.
type Store struct{ dir string }

// What a store's file may have at most; beyond every limit of Limits.
const maxStored = 16 << 20

// rootCopy is the second copy of root.json. The root is the only file whose loss cannot be made good from outside:
// without it the vehicle would have to fall back to its factory's root and so trust again what was revoked since.
const rootCopy = "root.copy"

// OpenStore makes the folder if there is none.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("metadata folder: %w", err)
	}
	return &Store{dir}, nil
}

// load returns nil without an error when there is no such file.
func (s *Store) load(file string) ([]byte, error) {
	f, err := os.Open(filepath.Join(s.dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &refusal{Storage, err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStored+1))
	if err != nil {
		return nil, &refusal{Storage, err}
	}
	if len(data) > maxStored {
		return nil, refuse(Storage, "%s has more than %d bytes", f.Name(), maxStored)
	}
	return data, nil
}

func (s *Store) save(file string, data []byte) error {
	if err := durable.Write(filepath.Join(s.dir, file), data, 0o644); err != nil {
		return &refusal{Storage, err}
	}
	return nil
}

func (s *Store) remove(files ...string) error {
	for _, file := range files {
		if err := os.Remove(filepath.Join(s.dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &refusal{Storage, err}
		}
	}
	if err := durable.SyncFolder(s.dir); err != nil {
		return &refusal{Storage, err}
	}
	return nil
}

// saveRoot writes the copy first: at each moment at least one of the two is whole, and the newer one counts.
func (s *Store) saveRoot(data []byte) error {
	if err := s.save(rootCopy, data); err != nil {
		return err
	}
	return s.save(fileOf("root"), data)
}

// virgin says that nothing was ever trusted here: only then may the factory's root be.
func (s *Store) virgin() (bool, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return false, &refusal{Storage, err}
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") || e.Name() == rootCopy {
			return false, nil
		}
	}
	return true, nil
}

// fileOf is a role's file in the store. A role's name is foreign: everything but letters, digits, "-", "_" and "~" and
// inner dots is escaped, so that it names no other folder and no file that is not its own.
func fileOf(role string) string { return escape(role) + ".json" }

// escape is RFC 3986's percent encoding of all but unreserved characters.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// readSmall reads a file of our own outside a store; nil when there is none.
func readSmall(path string) ([]byte, error) {
	s := Store{filepath.Dir(path)}
	return s.load(filepath.Base(path))
}
