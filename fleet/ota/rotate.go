package ota

import (
	"errors"
	"fmt"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// RotateOptions say how the keys of a role change. With nothing but Repository and Role the next version only expires later.
type RotateOptions struct {
	Repository string   // Image or Director
	Role       string   // root, targets (Image), online, or the delegated role of a hardware (Image)
	Add        []Public // keys
	Remove     []string // by name or id
	Threshold  int      // 0: as it was
	Hardware   string   // of a delegated role that is not there yet
}

// Rotate stages the next root, or the next targets, with other keys for a role, and what these keys have to sign anew. keys
// sign what they may.
func (w *Workspace) Rotate(o RotateOptions, keys []*Key) ([]*Pending, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	h, err := w.holdingOf(o.Repository)
	if err != nil {
		return nil, err
	}
	changes := len(o.Add)+len(o.Remove) > 0 || o.Threshold != 0
	switch {
	case o.Role == roleRoot, o.Role == roleOnline, o.Role == roleTargets && o.Repository == Image && changes:
		return w.rotateRoot(o, h, keys)
	case o.Repository == Director:
		return nil, fmt.Errorf("the director has the roles root and online, not %.40q", o.Role)
	case o.Role == roleTargets:
		t, err := w.draft(h, roleTargets)
		if err != nil {
			return nil, err
		}
		t.Expires = w.expires(w.config.Lifetimes.Targets)
		p, err := w.stage(Image, h, roleTargets, t.Version, t, keys)
		return []*Pending{p}, err
	}
	return w.rotateTeam(o, h, changes, keys)
}

func (w *Workspace) rotateRoot(o RotateOptions, h *holding, keys []*Key) ([]*Pending, error) {
	list, err := w.staged(o.Repository, h)
	if err != nil {
		return nil, err
	}
	from, err := parseRoot(h.rootData) // a copy
	if p := list[roleRoot]; p != nil { // one more change of the same draft
		from, err = parse[metadata.RootType](p.doc)
	}
	if err != nil {
		return nil, err
	}
	from.Version, from.Expires = h.root.Version+1, w.expires(w.config.Lifetimes.Root)
	roles := []string{o.Role}
	if o.Role == roleOnline {
		roles = onlineRoles(o.Repository)
	}
	for _, role := range roles {
		r := from.Roles[role]
		if r == nil {
			return nil, fmt.Errorf("the root has no role %s", role)
		}
		names := rootHolders(from, role)
		if r.KeyIDs, r.Threshold, err = o.change(role, r.KeyIDs, r.Threshold, names); err != nil {
			return nil, err
		}
		for _, k := range o.Add {
			from.Keys[k.ID] = k.Key
			setName(&from.UnrecognizedFields, k.ID, k.Name)
		}
	}
	for id := range from.Keys {
		if !slices.ContainsFunc(metadata.TOP_LEVEL_ROLE_NAMES[:], func(role string) bool { return slices.Contains(from.Roles[role].KeyIDs, id) }) {
			delete(from.Keys, id)
			setName(&from.UnrecognizedFields, id, "")
		}
	}
	root, err := w.stage(o.Repository, h, roleRoot, from.Version, from, keys)
	if err != nil {
		return nil, err
	}
	out := []*Pending{root}
	if o.Role == roleTargets { // what the new keys vouch for has to be signed by them
		t, err := w.draft(h, roleTargets)
		if err != nil {
			return nil, err
		}
		t.Expires = w.expires(w.config.Lifetimes.Targets)
		p, err := w.stage(Image, h, roleTargets, t.Version, t, keys)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (w *Workspace) rotateTeam(o RotateOptions, h *holding, changes bool, keys []*Key) ([]*Pending, error) {
	var out []*Pending
	top, err := w.draft(h, roleTargets)
	if err != nil {
		return nil, err
	}
	d := delegation(top, o.Role)
	if d == nil {
		role, err := roleOf(o.Hardware)
		if err != nil || role != o.Role || len(o.Add) == 0 {
			return nil, errors.Join(err, fmt.Errorf("no team signs as %.60q; a new one wants its hardware (--hardware, its name is the role's with '/' for '-') and its keys (--add)", o.Role))
		}
		delegate(top, role, 1)
		d, changes = delegation(top, role), true
	}
	if changes {
		if d.KeyIDs, d.Threshold, err = o.change(o.Role, d.KeyIDs, d.Threshold, delegatedHolders(top, o.Role)); err != nil {
			return nil, err
		}
		for _, k := range o.Add {
			top.Delegations.Keys[k.ID] = k.Key
			setName(&top.UnrecognizedFields, k.ID, k.Name)
		}
		for id := range top.Delegations.Keys {
			if !slices.ContainsFunc(top.Delegations.Roles, func(d metadata.DelegatedRole) bool { return slices.Contains(d.KeyIDs, id) }) {
				delete(top.Delegations.Keys, id)
				setName(&top.UnrecognizedFields, id, "")
			}
		}
		top.Expires = w.expires(w.config.Lifetimes.Targets)
		p, err := w.stage(Image, h, roleTargets, top.Version, top, keys)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	team := &metadata.TargetsType{}
	if h.roles[o.Role] == nil {
		*team = metadata.Targets(w.expires(w.config.Lifetimes.Targets)).Signed
		team.Version = h.highest[o.Role] + 1
	} else if team, err = w.draft(h, o.Role); err != nil {
		return nil, err
	}
	team.Expires = w.expires(w.config.Lifetimes.Targets)
	p, err := w.stage(Image, h, o.Role, team.Version, team, keys)
	return append(out, p), err
}

// change makes a role's new list of keys.
func (o *RotateOptions) change(role string, ids []string, threshold int, names *holders) ([]string, int, error) {
	for _, which := range o.Remove {
		i := slices.IndexFunc(names.keys, func(k Public) bool { return k.Name == which || k.ID == which })
		if i < 0 {
			return nil, 0, fmt.Errorf("role %s has no key %.80q; it has %s", role, which, names.words())
		}
		ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == names.keys[i].ID })
	}
	for _, k := range o.Add {
		if slices.Contains(ids, k.ID) {
			return nil, 0, fmt.Errorf("role %s has the key %s already", role, k.Name)
		}
		ids = append(ids, k.ID)
	}
	if o.Threshold != 0 {
		threshold = o.Threshold
	}
	if threshold < 1 || threshold > len(ids) || len(ids) > 64 {
		return nil, 0, fmt.Errorf("role %s would have %d keys, %d of which have to sign", role, len(ids), threshold)
	}
	return ids, threshold, nil
}
