package ota

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// holding is what a folder of metadata serves: what its timestamp leads to.
type holding struct {
	dir           string
	root          *metadata.RootType
	rootData      []byte
	timestampData []byte
	timestamp     *metadata.TimestampType // nil before the first publication; what follows then is empty
	snapshot      *metadata.SnapshotType
	snapshotData  []byte
	roles         map[string]*held
	highest       map[string]int64 // by role, of all files there, also of those that a kill left without a timestamp
}

// held is a targets role, top-level or delegated.
type held struct {
	data    []byte
	doc     *document
	targets *metadata.TargetsType
}

func parseHeld(data []byte) (*held, error) {
	d, err := parseDocument(data)
	if err != nil {
		return nil, err
	}
	t, err := parse[metadata.TargetsType](d)
	return &held{data, d, t}, err
}

// reader reads folders of metadata, many of which have the same files: what it has parsed it does not parse again. What it
// returns is not to be changed.
type reader struct {
	roots      map[string]*metadata.RootType
	timestamps map[string]*metadata.TimestampType
	snapshots  map[string]*metadata.SnapshotType
	targets    map[string]*held
}

func newReader() *reader {
	return &reader{map[string]*metadata.RootType{}, map[string]*metadata.TimestampType{}, map[string]*metadata.SnapshotType{}, map[string]*held{}}
}

// once looks data up, or parses and keeps it.
func once[T any](seen map[string]*T, data []byte, parse func([]byte) (*T, error)) (*T, error) {
	if v := seen[string(data)]; v != nil {
		return v, nil
	}
	v, err := parse(data)
	if err == nil {
		seen[string(data)] = v
	}
	return v, err
}

// load reads one folder.
func load(dir string) (*holding, error) { return newReader().load(dir) }

// load reads a folder. One that does not exist holds nothing.
func (r *reader) load(dir string) (*holding, error) {
	h := &holding{dir: dir, roles: map[string]*held{}, highest: map[string]int64{}}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if version, role, ok := roleFile(e.Name()); ok {
			h.highest[role] = max(h.highest[role], version)
		}
	}
	if h.highest[roleRoot] == 0 {
		return h, nil
	}
	// A root is written when it is complete, so the highest counts.
	h.rootData, err = readFile(filepath.Join(dir, fileOf(h.highest[roleRoot], roleRoot)), maxDocument)
	if err == nil {
		h.root, err = once(r.roots, h.rootData, parseBytes[metadata.RootType])
	}
	if err != nil {
		return nil, fmt.Errorf("%s: root: %w", dir, err)
	}
	data, err := readIfThere(filepath.Join(dir, fileOf(0, roleTimestamp)), maxDocument)
	if err != nil || data == nil {
		return h, err
	}
	if err := h.follow(r, data); err != nil {
		return nil, fmt.Errorf("%s: what its timestamp leads to: %w; bring the file back from the host or a copy", dir, err)
	}
	return h, nil
}

func parseBytes[T metadata.Roles](data []byte) (*T, error) {
	d, err := parseDocument(data)
	if err != nil {
		return nil, err
	}
	return parse[T](d)
}

func parseRoot(data []byte) (*metadata.RootType, error) { return parseBytes[metadata.RootType](data) }

func (h *holding) follow(r *reader, timestamp []byte) (err error) {
	if h.timestamp, err = once(r.timestamps, timestamp, parseBytes[metadata.TimestampType]); err != nil {
		return err
	}
	h.timestampData = timestamp
	meta := h.timestamp.Meta["snapshot.json"]
	if meta == nil {
		return errors.New("it names no snapshot")
	}
	if h.snapshotData, err = readFile(filepath.Join(h.dir, fileOf(meta.Version, roleSnapshot)), maxDocument); err != nil {
		return err
	}
	if h.snapshot, err = once(r.snapshots, h.snapshotData, parseBytes[metadata.SnapshotType]); err != nil {
		return err
	}
	for name, meta := range h.snapshot.Meta {
		role := strings.TrimSuffix(name, ".json")
		if err := checkWord("a role in the snapshot", role); err != nil {
			return err
		}
		data, err := readFile(filepath.Join(h.dir, fileOf(meta.Version, role)), maxDocument)
		if err != nil {
			return err
		}
		if h.roles[role], err = once(r.targets, data, parseHeld); err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
	}
	if h.roles[roleTargets] == nil {
		return errors.New("its snapshot names no targets")
	}
	return nil
}

// targets is a role's content; nil when there is none.
func (h *holding) targets(role string) *metadata.TargetsType {
	if r := h.roles[role]; r != nil {
		return r.targets
	}
	return nil
}

// sealed says that what is signed here is signed by the keys of the root that is there: a new root that had to come first may
// stand alone after a kill. known keeps what was found out, by the bytes.
func (h *holding) sealed(repository string, known map[string]bool) bool {
	if h.root == nil || h.timestamp == nil {
		return false
	}
	files := map[string][]byte{roleTimestamp: h.timestampData, roleSnapshot: h.snapshotData}
	if repository == Director {
		files[roleTargets] = h.roles[roleTargets].data
	}
	for role, data := range files {
		key := string(h.rootData) + role + string(data)
		good, seen := known[key]
		if !seen {
			d, err := parseDocument(data)
			good = err == nil && enough(d, rootHolders(h.root, role))
			known[key] = good
		}
		if !good {
			return false
		}
	}
	return true
}
