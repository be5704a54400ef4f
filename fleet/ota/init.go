package ota

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// InitOptions of a new workspace.
type InitOptions struct {
	Options
	Lines     []Line
	Lifetimes Lifetimes // zero: DefaultLifetimes
	Bench     bool      // one key a role; not for vehicles on a road

	// Keep writes the keys of one holder to a file below Dir/keys.
	Keep func(path string, keys []*Key) error
}

// How many keys roots and targets have, and how many of them sign.
const (
	rootKeys, rootThreshold       = 5, 3
	targetsKeys, targetsThreshold = 3, 2
)

// Init makes keys, both roots, empty repositories and the factory's roots. It works beside Dir and renames at the end: a workspace
// is there whole or not at all.
func Init(o InitOptions) (*Workspace, error) {
	if o.Lifetimes == (Lifetimes{}) {
		o.Lifetimes = DefaultLifetimes()
	}
	final := filepath.Clean(o.Dir)
	if entries, err := os.ReadDir(final); err != nil && !errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
		return nil, errors.Join(err, fmt.Errorf("%s is not empty; `ota init` makes a folder of its own", final))
	}
	o.Dir = final + ".new"
	marker := filepath.Join(o.Dir, ".init")
	if exists(o.Dir) {
		entries, err := os.ReadDir(o.Dir)
		if err != nil {
			return nil, err
		}
		if !exists(marker) && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != ".init.new" }) {
			return nil, fmt.Errorf("%s is there, and is not what an interrupted `ota init` left; remove it", o.Dir)
		}
		if err := os.RemoveAll(o.Dir); err != nil {
			return nil, err
		}
	}
	w := newWorkspace(o.Options)
	w.config = config{Format: 1, Bench: o.Bench, Lines: o.Lines, Lifetimes: o.Lifetimes}
	if err := w.config.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := w.put(marker, nil); err != nil {
		return nil, err
	}
	if err := w.fill(o); err != nil {
		return nil, err
	}
	if err := w.remove(marker); err != nil {
		return nil, err
	}
	if err := w.step(final); err != nil {
		return nil, err
	}
	if err := os.Rename(o.Dir, final); err != nil {
		return nil, err
	}
	w.dir = final
	return w, syncFolder(filepath.Dir(final))
}

// ceremony is who holds what.
type ceremony struct {
	holders []string
	keys    map[string][]*Key // by holder
}

func (c *ceremony) add(w *Workspace, holder, name string) (*Key, error) {
	k, err := NewKey(name, w.rand)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(c.holders, holder) {
		c.holders = append(c.holders, holder)
	}
	c.keys[holder] = append(c.keys[holder], k)
	return k, nil
}

func (w *Workspace) fill(o InitOptions) error {
	roots, rootOf, targets, targetsOf := rootKeys, rootThreshold, targetsKeys, targetsThreshold
	if o.Bench {
		roots, rootOf, targets, targetsOf = 1, 1, 1, 1
	}
	c := ceremony{keys: map[string][]*Key{}}
	by := map[string][]*Key{} // role, as image/root
	several := func(n int, repository, role string) error {
		for i := range n {
			k, err := c.add(w, fmt.Sprintf("offline-%d", i+1), fmt.Sprintf("%s-%s-%d", repository, role, i+1))
			if err != nil {
				return err
			}
			by[repository+"/"+role] = append(by[repository+"/"+role], k)
		}
		return nil
	}
	err := errors.Join(several(roots, Image, roleRoot), several(roots, Director, roleRoot), several(targets, Image, roleTargets))
	for _, repository := range []string{Image, Director} {
		k, keyErr := c.add(w, roleOnline, repository+"-online")
		err = errors.Join(err, keyErr)
		by[repository+"/"+roleOnline] = []*Key{k}
	}
	top := metadata.Targets(w.expires(o.Lifetimes.Targets)).Signed
	for _, hardware := range w.config.hardware() {
		role, roleErr := roleOf(hardware)
		k, keyErr := c.add(w, "team-"+role, role+"-1")
		if err = errors.Join(err, roleErr, keyErr); err != nil {
			return err
		}
		by[role] = []*Key{k}
		delegate(&top, role, 1, k.Public)
	}
	if err != nil {
		return err
	}
	for _, holder := range c.holders {
		if err := o.Keep(filepath.Join(w.dir, "keys", holder, holder+".keys"), c.keys[holder]); err != nil {
			return fmt.Errorf("keys of %s: %w", holder, err)
		}
	}
	for _, repository := range []string{Image, Director} {
		root := metadata.Root(w.expires(o.Lifetimes.Root)).Signed
		grant(&root, roleRoot, rootOf, by[repository+"/"+roleRoot])
		grant(&root, roleTargets, targetsOf, by[repository+"/"+roleTargets])
		for _, role := range onlineRoles(repository) {
			grant(&root, role, 1, by[repository+"/"+roleOnline])
		}
		data, err := signAll(root, by[repository+"/"+roleRoot])
		if err != nil {
			return err
		}
		if err := w.put(filepath.Join(w.dir, "factory", repository+".root.json"), data); err != nil {
			return err
		}
		r := &release{roots: [][]byte{data}, targets: 1, snapshot: 1, time: 1}
		if repository == Image {
			r.roles = map[string][]byte{}
			if r.roles[roleTargets], err = signAll(top, by["image/targets"]); err != nil {
				return err
			}
			for _, d := range top.Delegations.Roles {
				if r.roles[d.Name], err = signAll(metadata.Targets(w.expires(o.Lifetimes.Targets)).Signed, by[d.Name]); err != nil {
					return err
				}
			}
			if err := w.apply(&holding{dir: w.imageDir()}, r, c.keys[roleOnline]); err != nil {
				return err
			}
			continue
		}
		if err := w.put(filepath.Join(w.directorDir(), fileOf(1, roleRoot)), data); err != nil {
			return err
		}
		r.directed = map[string]*metadata.TargetFiles{}
		p, err := w.prepare(&holding{}, r, c.keys[roleOnline])
		if err != nil {
			return err
		}
		for _, line := range w.config.Lines {
			for cohort := range Cohorts {
				if err := w.write(w.cohortDir(line.Name, cohort), p); err != nil {
					return err
				}
			}
		}
	}
	data, err := json.MarshalIndent(w.config, "", "  ")
	if err != nil {
		return err
	}
	return w.put(filepath.Join(w.dir, "ota.json"), append(data, '\n'))
}

// grant gives a role of a root its keys.
func grant(root *metadata.RootType, role string, threshold int, keys []*Key) {
	root.Roles[role] = &metadata.Role{KeyIDs: []string{}, Threshold: threshold}
	for _, k := range keys {
		root.Roles[role].KeyIDs = append(root.Roles[role].KeyIDs, k.ID)
		root.Keys[k.ID] = k.Key
		setName(&root.UnrecognizedFields, k.ID, k.Name)
	}
}

// delegate lets keys speak of ROLE/*, and nobody else of it.
func delegate(t *metadata.TargetsType, role string, threshold int, keys ...Public) {
	if t.Delegations == nil {
		t.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	}
	d := metadata.DelegatedRole{Name: role, KeyIDs: []string{}, Threshold: threshold, Terminating: true, Paths: []string{role + "/*"}}
	for _, k := range keys {
		d.KeyIDs = append(d.KeyIDs, k.ID)
		t.Delegations.Keys[k.ID] = k.Key
		setName(&t.UnrecognizedFields, k.ID, k.Name)
	}
	t.Delegations.Roles = append(t.Delegations.Roles, d)
}

func signAll(signed any, keys []*Key) ([]byte, error) {
	d, err := newDocument(signed)
	if err == nil {
		err = d.sign(keys...)
	}
	if err != nil {
		return nil, err
	}
	return d.bytes()
}
