package ota

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// stage lays a new version of a role beside what it is compared with, and has it signed by those keys that are here and may.
// What had signed an earlier draft of it has signed something else, and goes.
func (w *Workspace) stage(repository string, h *holding, role string, version int64, signed any, keys []*Key) (*Pending, error) {
	d, err := newDocument(signed)
	if err != nil {
		return nil, err
	}
	dir := w.stagedDir(repository)
	path := filepath.Join(dir, fileOf(version, role))
	if old, err := readIfThere(path, maxDocument); err != nil {
		return nil, err
	} else if old != nil {
		if before, err := parseDocument(old); err == nil {
			a, errA := before.payload()
			b, errB := d.payload()
			if errA == nil && errB == nil && bytes.Equal(a, b) {
				d.Signatures = before.Signatures
			}
		}
	}
	data, err := d.bytes()
	if err != nil {
		return nil, err
	}
	previous := map[string][]byte{fileOf(h.root.Version, roleRoot): h.rootData}
	for name, held := range h.roles {
		if repository == Image && (name == role || name == roleTargets) {
			previous[fileOf(held.targets.Version, name)] = held.data
		}
	}
	for _, name := range slices.Sorted(maps.Keys(previous)) {
		if err := w.put(filepath.Join(dir, previousDir, name), previous[name]); err != nil {
			return nil, err
		}
	}
	if err := w.put(path, data); err != nil {
		return nil, err
	}
	p, err := OpenPending(path)
	if err != nil {
		return nil, err
	}
	if mine := p.Mine(keys); len(p.wanted) > 0 && len(mine) > 0 {
		err = p.Sign(mine)
	}
	return p, err
}

// listStaged are the files that lie there, by name.
func (w *Workspace) listStaged(repository string) ([]*Pending, error) {
	entries, err := os.ReadDir(w.stagedDir(repository))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []*Pending
	for _, e := range entries {
		if _, _, ok := roleFile(e.Name()); !ok {
			continue
		}
		p, err := OpenPending(filepath.Join(w.stagedDir(repository), e.Name()))
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// staged are the files that wait, by role; what was published meanwhile is cleared away.
func (w *Workspace) staged(repository string, h *holding) (map[string]*Pending, error) {
	all, err := w.listStaged(repository)
	if err != nil {
		return nil, err
	}
	list := map[string]*Pending{}
	for _, p := range all {
		current := int64(0)
		if p.Role == roleRoot {
			current = h.root.Version
		} else if t := h.targets(p.Role); t != nil && repository == Image {
			current = t.Version
		}
		if p.Version <= current {
			if err := w.remove(p.Path); err != nil {
				return nil, err
			}
			continue
		}
		if list[p.Role] != nil {
			return nil, fmt.Errorf("%s and %s are both staged; remove one", list[p.Role].Path, p.Path)
		}
		list[p.Role] = p
	}
	return list, nil
}

func (w *Workspace) holdingOf(repository string) (*holding, error) {
	dir := w.imageDir()
	if repository == Director {
		dir = w.directorDir()
	}
	h, err := load(dir)
	if err == nil && h.root == nil {
		err = fmt.Errorf("%s holds no root: bring it back from the host or a copy", dir)
	}
	return h, err
}

// draft is the content of a role's next version: of what is staged already, else of what is published.
func (w *Workspace) draft(h *holding, role string) (*metadata.TargetsType, error) {
	list, err := w.staged(Image, h)
	if err != nil {
		return nil, err
	}
	if p := list[role]; p != nil {
		return parse[metadata.TargetsType](p.doc)
	}
	now := h.targets(role)
	if now == nil {
		return nil, fmt.Errorf("the image repository has no role %s", role)
	}
	doc, err := newDocument(now)
	if err != nil {
		return nil, err
	}
	t, err := parse[metadata.TargetsType](doc) // a copy
	if err != nil {
		return nil, err
	}
	t.Version = h.highest[role] + 1
	return t, nil
}

// publishStaged publishes of the image repository all that is signed by enough, and tells what waits.
func (w *Workspace) publishStaged(keys []*Key) (published []string, waiting []*Pending, err error) {
	h, err := w.holdingOf(Image)
	if err != nil {
		return nil, nil, err
	}
	list, err := w.staged(Image, h)
	if err != nil {
		return nil, nil, err
	}
	r, took := choose(h, list)
	if len(took) > 0 || !h.sealed(Image, map[string]bool{}) {
		r.snapshot, r.time = h.highest[roleSnapshot]+1, 1
		if h.timestamp != nil {
			r.time = h.timestamp.Version + 1
		}
		if err := w.apply(h, r, keys); err != nil {
			return nil, nil, err
		}
	}
	for _, role := range slices.Sorted(maps.Keys(list)) {
		p := list[role]
		if !slices.Contains(took, role) {
			waiting = append(waiting, p)
			continue
		}
		published = append(published, filepath.Base(p.Path))
		if err := w.remove(p.Path); err != nil {
			return nil, nil, err
		}
	}
	return published, waiting, nil
}

// choose takes the most of what is staged that makes a whole repository: a new root waits for what its new keys have to
// sign, a new delegation for the delegated role.
func choose(h *holding, list map[string]*Pending) (*release, []string) {
	for _, with := range [][2]bool{{true, true}, {true, false}, {false, true}, {false, false}} {
		if r, took, ok := try(h, list, with[0], with[1]); ok {
			return r, took
		}
	}
	return &release{}, nil
}

func try(h *holding, list map[string]*Pending, withRoot, withTargets bool) (*release, []string, bool) {
	r := &release{roles: map[string][]byte{}}
	var took []string
	take := func(p *Pending) ([]byte, bool) {
		data, err := p.doc.bytes()
		if err == nil {
			took = append(took, p.Role)
		}
		return data, err == nil
	}
	root := h.root
	if withRoot {
		p := list[roleRoot]
		if p == nil {
			return nil, nil, false
		}
		next, err := parse[metadata.RootType](p.doc)
		if err != nil || next.Version != h.root.Version+1 || !enough(p.doc, rootHolders(h.root, roleRoot)) || !enough(p.doc, rootHolders(next, roleRoot)) {
			return nil, nil, false
		}
		data, ok := take(p)
		if !ok {
			return nil, nil, false
		}
		root, r.roots = next, [][]byte{data}
	}
	targets := h.roles[roleTargets]
	if withTargets {
		p := list[roleTargets]
		if p == nil {
			return nil, nil, false
		}
		data, ok := take(p)
		if !ok {
			return nil, nil, false
		}
		var err error
		if targets, err = parseHeld(data); err != nil {
			return nil, nil, false
		}
		r.roles[roleTargets] = data
	}
	if !enough(targets.doc, rootHolders(root, roleTargets)) {
		return nil, nil, false
	}
	for _, d := range delegations(targets.targets) {
		may := delegatedHolders(targets.targets, d.Name)
		if p := list[d.Name]; p != nil && enough(p.doc, may) {
			data, ok := take(p)
			if !ok {
				return nil, nil, false
			}
			r.roles[d.Name] = data
		} else if held := h.roles[d.Name]; held == nil || !enough(held.doc, may) {
			return nil, nil, false
		}
	}
	return r, took, true
}

func enough(d *document, h *holders) bool {
	ok, err := d.complete(h)
	return err == nil && ok
}
