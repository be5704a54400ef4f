package ota

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// words are who has to sign: 2 of image-targets-1, image-targets-2, image-targets-3.
func (h *holders) words() string {
	names := make([]string, len(h.keys))
	for i, k := range h.keys {
		names[i] = fmt.Sprintf("%s (%.8s)", k.Name, k.ID)
	}
	slices.Sort(names)
	return fmt.Sprintf("%d of %s", h.threshold, strings.Join(names, ", "))
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// describe tells in lines what is signed, and what of it is new against an earlier version; before is nil where there is none.
func describe(role string, now, before *document) ([]string, error) {
	if role == roleRoot {
		root, err := parse[metadata.RootType](now)
		if err != nil {
			return nil, err
		}
		var old *metadata.RootType
		if before != nil {
			if old, err = parse[metadata.RootType](before); err != nil {
				return nil, err
			}
		}
		return describeRoot(root, old), nil
	}
	t, err := parse[metadata.TargetsType](now)
	if err != nil {
		return nil, err
	}
	var old *metadata.TargetsType
	if before != nil {
		if old, err = parse[metadata.TargetsType](before); err != nil {
			return nil, err
		}
	}
	return describeTargets(role, t, old), nil
}

func headline(role string, version int64, expires time.Time, before bool, old int64, oldExpires time.Time) []string {
	lines := []string{fmt.Sprintf("%s, version %d, expires %s", role, version, day(expires))}
	if !before {
		return append(lines, "there is no earlier version here to compare with: this is all of it")
	}
	return append(lines, fmt.Sprintf("what follows is new against version %d (expires %s)", old, day(oldExpires)))
}

func describeRoot(root, old *metadata.RootType) []string {
	was := &metadata.RootType{}
	if old != nil {
		was = old
	}
	lines := headline(roleRoot, root.Version, root.Expires, old != nil, was.Version, was.Expires)
	if old != nil && root.Version != old.Version+1 {
		lines = append(lines, fmt.Sprintf("! its version does not follow %d: no vehicle will take it", old.Version))
	}
	if root.ConsistentSnapshot != was.ConsistentSnapshot {
		lines = append(lines, fmt.Sprintf("! consistent snapshots: %v", root.ConsistentSnapshot))
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		lines = append(lines, describeHolders(role, rootHolders(root, role), rootHolders(was, role), old != nil)...)
	}
	return nothingNew(append(lines, unknown(root.UnrecognizedFields)...))
}

func unknown(fields map[string]any) (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if name != namesField {
			lines = append(lines, fmt.Sprintf("! it has a member %q, which this program does not know", name))
		}
	}
	return lines
}

func describeHolders(role string, h, was *holders, compare bool) []string {
	if !compare {
		return []string{fmt.Sprintf("role %s: %s", role, h.words())}
	}
	var lines []string
	for _, k := range h.keys {
		if _, ok := was.find(k.ID); !ok {
			lines = append(lines, fmt.Sprintf("role %s: key %s (%s) is added", role, k.Name, k.ID))
		}
	}
	for _, k := range was.keys {
		if _, ok := h.find(k.ID); !ok {
			lines = append(lines, fmt.Sprintf("role %s: key %s (%s) is taken away", role, k.Name, k.ID))
		}
	}
	if h.threshold != was.threshold {
		lines = append(lines, fmt.Sprintf("role %s: %d have to sign, not %d", role, h.threshold, was.threshold))
	}
	return lines
}

func describeTargets(role string, t, old *metadata.TargetsType) []string {
	was := &metadata.TargetsType{}
	if old != nil {
		was = old
	}
	lines := headline(role, t.Version, t.Expires, old != nil, was.Version, was.Expires)
	if old != nil && t.Version <= old.Version {
		lines = append(lines, fmt.Sprintf("! its version is not above %d: no vehicle will take it", old.Version))
	}
	for _, name := range slices.Sorted(maps.Keys(t.Targets)) {
		if before := was.Targets[name]; before == nil {
			lines = append(lines, "image is added: "+imageWords(name, t.Targets[name]))
		} else if a, b := imageWords(name, before), imageWords(name, t.Targets[name]); a != b {
			lines = append(lines, "image is changed: "+b, "           it was: "+a)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was.Targets)) {
		if t.Targets[name] == nil {
			lines = append(lines, "image is taken away: "+imageWords(name, was.Targets[name]))
		}
	}
	for _, d := range delegations(t) {
		before := delegation(was, d.Name)
		if before == nil {
			lines = append(lines, fmt.Sprintf("delegation is added: %s may vouch for %s", d.Name, strings.Join(d.Paths, ", ")))
		} else if !slices.Equal(d.Paths, before.Paths) || !slices.Equal(d.PathHashPrefixes, before.PathHashPrefixes) || d.Terminating != before.Terminating {
			lines = append(lines, fmt.Sprintf("! delegation is changed: %s may vouch for %s (it was %s)", d.Name, strings.Join(append(d.Paths, d.PathHashPrefixes...), ", "), strings.Join(before.Paths, ", ")))
		}
		lines = append(lines, describeHolders(d.Name, delegatedHolders(t, d.Name), delegatedHolders(was, d.Name), before != nil)...)
	}
	for _, d := range delegations(was) {
		if delegation(t, d.Name) == nil {
			lines = append(lines, fmt.Sprintf("delegation is taken away: %s", d.Name))
		}
	}
	return nothingNew(append(lines, unknown(t.UnrecognizedFields)...))
}

func delegations(t *metadata.TargetsType) []metadata.DelegatedRole {
	if t.Delegations == nil {
		return nil
	}
	return t.Delegations.Roles
}

func nothingNew(lines []string) []string {
	if len(lines) == 2 {
		return append(lines, "nothing but version and expiry")
	}
	return lines
}

// imageWords tells all of a target that is signed, foreign members of its custom object too.
func imageWords(name string, t *metadata.TargetFiles) string {
	text := fmt.Sprintf("%q, %d bytes", name, t.Length)
	for _, algorithm := range slices.Sorted(maps.Keys(t.Hashes)) {
		text += fmt.Sprintf(", %s %s", algorithm, hex.EncodeToString(t.Hashes[algorithm]))
	}
	if t.Custom != nil {
		var v any
		custom := []byte(*t.Custom)
		if err := json.Unmarshal(custom, &v); err == nil {
			if compact, err := json.Marshal(v); err == nil { // escapes what would drive a terminal
				custom = compact
			}
		}
		text += fmt.Sprintf(", %s", custom)
	}
	return text
}
