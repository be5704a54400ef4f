package ota

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// release is a change of what a folder of metadata serves.
type release struct {
	roots    [][]byte                         // newer than the folder's, one after the other, complete
	roles    map[string][]byte                // files of targets roles, complete
	directed map[string]*metadata.TargetFiles // not nil: targets are a director's and signed here

	timestampOnly  bool  // nothing else is new
	targets        int64 // version of what is directed
	snapshot, time int64 // versions
}

// prepared is what a release writes.
type prepared struct {
	roots      []namedFile
	files      map[string][]byte // but root and timestamp
	timestamp  []byte
	rootsFirst bool
	current    map[string]int64 // versions, by role, of what prune looks at
}

type namedFile struct {
	name string
	data []byte
}

// apply publishes a release so that a client sees a whole repository at any moment: versioned files first, the timestamp
// last. A new root comes after all, when what was published is signed by the keys of the old root and of the new one.
// Only where the keys of the old root do not reach its thresholds any more the root comes first, and until the
// timestamp follows, a client refuses (and asks again later).
func (w *Workspace) apply(h *holding, r *release, keys []*Key) error {
	p, err := w.prepare(h, r, keys)
	if err != nil {
		return fmt.Errorf("%s: %w", h.dir, err)
	}
	return w.write(h.dir, p)
}

func (w *Workspace) write(dir string, p *prepared) error {
	if p.rootsFirst {
		if err := w.putRoots(dir, p); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		if err := w.put(filepath.Join(dir, name), p.files[name]); err != nil {
			return err
		}
	}
	if err := w.put(filepath.Join(dir, fileOf(0, roleTimestamp)), p.timestamp); err != nil {
		return err
	}
	if !p.rootsFirst {
		if err := w.putRoots(dir, p); err != nil {
			return err
		}
	}
	return w.prune(dir, p.current)
}

// putRoots writes them in their order.
func (w *Workspace) putRoots(dir string, p *prepared) error {
	for _, root := range p.roots {
		if err := w.put(filepath.Join(dir, root.name), root.data); err != nil {
			return err
		}
	}
	return nil
}

func (w *Workspace) prepare(h *holding, r *release, keys []*Key) (*prepared, error) {
	p := &prepared{files: map[string][]byte{}}
	before, after := h.root, h.root
	for _, data := range r.roots {
		var err error
		if after, err = parseRoot(data); err != nil {
			return nil, err
		}
		p.roots = append(p.roots, namedFile{fileOf(after.Version, roleRoot), data})
	}
	if before == nil {
		before, p.rootsFirst = after, true
	}
	if before == nil {
		return nil, errors.New("there is no root")
	}
	// seal signs with the keys of both roots.
	seal := func(role string, signed any) ([]byte, error) {
		d, err := newDocument(signed)
		if err != nil {
			return nil, err
		}
		for _, root := range []*metadata.RootType{before, after} {
			may := rootHolders(root, role)
			for _, k := range keys {
				if _, ok := may.find(k.ID); ok {
					if err := d.sign(k); err != nil {
						return nil, err
					}
				}
			}
		}
		if ok, err := d.complete(rootHolders(after, role)); err != nil || !ok {
			return nil, errors.Join(err, fmt.Errorf("role %s is signed here, and the keys for it are not: want %s", role, rootHolders(after, role).words()))
		}
		if ok, err := d.complete(rootHolders(before, role)); err != nil {
			return nil, err
		} else if !ok {
			p.rootsFirst = true
		}
		return d.bytes()
	}
	roles := map[string][]byte{}
	for name, held := range h.roles {
		roles[name] = held.data
	}
	maps.Copy(roles, r.roles)
	life := w.config.Lifetimes
	if r.directed != nil && !r.timestampOnly {
		t := metadata.Targets(w.expires(life.Directed)).Signed
		t.Version, t.Targets = r.targets, r.directed
		data, err := seal(roleTargets, t)
		if err != nil {
			return nil, err
		}
		roles[roleTargets] = data
		p.files[fileOf(t.Version, roleTargets)] = data
	}
	snapshot := h.snapshot
	var snapshotData []byte
	if !r.timestampOnly {
		s := metadata.Snapshot(w.expires(life.Snapshot)).Signed
		s.Version, s.Meta = r.snapshot, map[string]*metadata.MetaFiles{}
		for name, data := range roles {
			held, err := parseHeld(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			s.Meta[name+".json"] = metaOf(held.targets.Version, data)
			if r.roles[name] != nil {
				p.files[fileOf(held.targets.Version, name)] = data
			}
		}
		data, err := seal(roleSnapshot, s)
		if err != nil {
			return nil, err
		}
		snapshot, snapshotData = &s, data
		p.files[fileOf(s.Version, roleSnapshot)] = data
	} else if h.timestamp != nil {
		snapshotData = h.snapshotData
	}
	if snapshot == nil {
		return nil, errors.New("there is no snapshot to renew the timestamp of")
	}
	p.current = map[string]int64{roleSnapshot: snapshot.Version}
	if r.directed != nil {
		p.current[roleTargets] = snapshot.Meta["targets.json"].Version
	}
	t := metadata.Timestamp(w.expires(life.Timestamp)).Signed
	t.Version, t.Meta = r.time, map[string]*metadata.MetaFiles{"snapshot.json": metaOf(snapshot.Version, snapshotData)}
	data, err := seal(roleTimestamp, t)
	if err != nil {
		return nil, err
	}
	p.timestamp = data
	// What a client would do, by the code that it does it with.
	roots := [][]byte{h.rootData}
	if len(r.roots) > 0 {
		roots = append(roots, r.roots[len(r.roots)-1])
	}
	for i, root := range roots {
		if root == nil {
			continue
		}
		err := rehearse(root, p.timestamp, snapshotData, roles, slices.Collect(maps.Keys(r.roles)), w.now())
		if err == nil {
			continue
		}
		if i == 0 && len(roots) == 2 { // the old root: the new one has to come first
			p.rootsFirst = true
			continue
		}
		return nil, err
	}
	return p, nil
}

func metaOf(version int64, data []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// rehearse verifies what is about to be published as a client does (TUF 1.0 §5.4 to §5.6).
func rehearse(root, timestamp, snapshot []byte, roles map[string][]byte, changed []string, now time.Time) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a client could not read it: %v", r)
		}
	}()
	set, err := trustedmetadata.New(root)
	if err != nil {
		return fmt.Errorf("a client would refuse the root: %w", err)
	}
	set.RefTime = now.UTC()
	if _, err := set.UpdateTimestamp(timestamp); err != nil {
		return fmt.Errorf("a client would refuse the timestamp: %w%s", err, remedy(err, roleRoot))
	}
	if _, err := set.UpdateSnapshot(snapshot, false); err != nil {
		return fmt.Errorf("a client would refuse the snapshot: %w%s", err, remedy(err, ""))
	}
	if _, err := set.UpdateTargets(roles[roleTargets]); err != nil {
		return fmt.Errorf("a client would refuse targets: %w%s", err, remedy(err, roleTargets))
	}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		if name == roleTargets {
			continue
		}
		_, err := set.UpdateDelegatedTargets(roles[name], name, roleTargets)
		var expired *metadata.ErrExpiredMetadata
		if errors.As(err, &expired) && !slices.Contains(changed, name) {
			continue // its images are refused, and no others: that must not stop these
		}
		if err != nil {
			return fmt.Errorf("a client would refuse %s: %w%s", name, err, remedy(err, name))
		}
	}
	return nil
}

func remedy(err error, role string) string {
	var expired *metadata.ErrExpiredMetadata
	if errors.As(err, &expired) && role != "" {
		return fmt.Sprintf("; stage its next version with `waybill-fleet ota rotate image %s` (or director), have it signed, and publish", role)
	}
	return ""
}

// keepVersions is how many of the newest versions of what is signed here stay: a client that has read an older timestamp
// still finds what that leads to.
const keepVersions = 8

// prune removes old snapshots and, of a director, old targets. Roots stay for ever: a vehicle walks along them.
func (w *Workspace) prune(dir string, current map[string]int64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	versions := map[string][]int64{}
	for _, e := range entries {
		if version, role, ok := roleFile(e.Name()); ok && version <= current[role] {
			versions[role] = append(versions[role], version)
		}
	}
	for role, list := range versions {
		slices.Sort(list)
		for _, version := range list[:max(0, len(list)-keepVersions)] {
			if err := w.remove(filepath.Join(dir, fileOf(version, role))); err != nil {
				return err
			}
		}
	}
	return nil
}
