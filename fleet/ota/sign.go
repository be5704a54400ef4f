package ota

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Pending is a file of metadata that waits for signatures. It needs no workspace: a holder of keys has the file, and the
// folder previous/ beside it, on a machine of his own.
type Pending struct {
	Path    string
	Role    string
	Version int64

	doc      *document
	previous *document  // nil: none is beside it
	wanted   []*holders // each has to reach its threshold: of a root the old root's and its own. Empty: not known here
	also     *holders   // who signed until now, where a staged delegator names others: with them, nobody notices the change
}

// previousDir is where, beside a file to be signed, lie the version before it and what names its keys.
const previousDir = "previous"

// OpenPending reads a staged file, named VERSION.ROLE.json.
func OpenPending(path string) (*Pending, error) {
	p := &Pending{Path: path}
	var ok bool
	if p.Version, p.Role, ok = roleFile(filepath.Base(path)); !ok {
		return nil, fmt.Errorf("%s: want a staged file, named such as 2.root.json", path)
	}
	data, err := readFile(path, maxDocument)
	if err != nil {
		return nil, err
	}
	if p.doc, err = parseDocument(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	version, err := versionOf(p.Role, p.doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if version != p.Version {
		return nil, fmt.Errorf("%s: it holds version %d", path, version)
	}
	dir := filepath.Join(filepath.Dir(path), previousDir)
	if p.previous, err = newestIn(dir, p.Role, p.Version-1); err != nil {
		return nil, err
	}
	if p.wanted, err = p.whoSigns(dir); err != nil {
		return nil, err
	}
	return p, nil
}

func versionOf(role string, d *document) (int64, error) {
	if role == roleRoot {
		root, err := parse[metadata.RootType](d)
		if err != nil {
			return 0, err
		}
		return root.Version, nil
	}
	t, err := parse[metadata.TargetsType](d)
	if err != nil {
		return 0, err
	}
	return t.Version, nil
}

// newestIn is a role's newest file up to a version; nil when there is none.
func newestIn(dir, role string, most int64) (*document, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	newest := int64(0)
	for _, e := range entries {
		if version, name, ok := roleFile(e.Name()); ok && name == role && version <= most {
			newest = max(newest, version)
		}
	}
	if newest == 0 {
		return nil, nil
	}
	data, err := readFile(filepath.Join(dir, fileOf(newest, role)), maxDocument)
	if err != nil {
		return nil, err
	}
	return parseDocument(data)
}

// anyVersion is above every version.
const anyVersion = 1<<63 - 1

// whoSigns finds the keys by what is beside the file: a role's next delegator, if that is staged too, else the one that holds.
func (p *Pending) whoSigns(dir string) ([]*holders, error) {
	if p.Role == roleRoot {
		root, err := parse[metadata.RootType](p.doc)
		if err != nil {
			return nil, err
		}
		list := []*holders{rootHolders(root, roleRoot)}
		if p.previous != nil {
			old, err := parse[metadata.RootType](p.previous)
			if err != nil {
				return nil, err
			}
			list = append(list, rootHolders(old, roleRoot))
		}
		return list, nil
	}
	delegator := roleTargets
	if p.Role == roleTargets {
		delegator = roleRoot
	}
	var list []*holders
	for _, where := range []string{filepath.Dir(p.Path), dir} {
		d, err := newestIn(where, delegator, anyVersion)
		if err != nil || d == nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		if delegator == roleRoot {
			root, err := parse[metadata.RootType](d)
			if err != nil {
				return nil, err
			}
			list = append(list, rootHolders(root, p.Role))
			continue
		}
		t, err := parse[metadata.TargetsType](d)
		if err != nil {
			return nil, err
		}
		if h := delegatedHolders(t, p.Role); len(h.keys) > 0 {
			list = append(list, h)
		}
	}
	if len(list) == 2 {
		p.also = list[1]
	}
	return list[:min(1, len(list))], nil
}

// Words tell what is signed, new against the version before.
func (p *Pending) Words() ([]string, error) {
	lines, err := describe(p.Role, p.doc, p.previous)
	if err != nil || p.previous == nil {
		return lines, err
	}
	for _, h := range p.signers() {
		if enough(p.previous, h) {
			return lines, nil
		}
	}
	return append(lines, "! the version that it is compared with is not signed by those who should have: do not rely on the comparison"), nil
}

// Signatures tell who has signed and who still has to.
func (p *Pending) Signatures() ([]string, error) {
	if len(p.wanted) == 0 {
		return []string{fmt.Sprintf("%d signatures; who has to sign is not known here, previous/ is not beside the file", len(p.doc.Signatures))}, nil
	}
	var lines []string
	for i, h := range p.wanted {
		good, err := p.doc.signed(h)
		if err != nil {
			return nil, err
		}
		names := make([]string, len(good))
		for i, id := range good {
			k, _ := h.find(id)
			names[i] = k.Name
		}
		slices.Sort(names)
		whose := ""
		if i > 0 {
			whose = "by the keys of the root before: "
		}
		line := fmt.Sprintf("%s%d of %d signatures", whose, len(good), h.threshold)
		if len(names) > 0 {
			line += " (" + strings.Join(names, ", ") + ")"
		}
		if len(good) < h.threshold {
			line += "; wanted are " + h.words()
		}
		lines = append(lines, line)
	}
	if p.also != nil {
		good, err := p.doc.signed(p.also)
		if err != nil {
			return nil, err
		}
		if len(good) < p.also.threshold {
			lines = append(lines, fmt.Sprintf("by those who signed until now: %d of %d; not needed, but without them vehicles may refuse for the moment between two files: %s", len(good), p.also.threshold, p.also.words()))
		}
	}
	return lines, nil
}

// Complete says that no signature is missing, as far as it is known here.
func (p *Pending) Complete() (bool, error) {
	for _, h := range p.wanted {
		if ok, err := p.doc.complete(h); err != nil || !ok {
			return false, err
		}
	}
	return len(p.wanted) > 0, nil
}

// Mine are those of the keys that may sign this file.
func (p *Pending) Mine(keys []*Key) []*Key {
	var mine []*Key
	for _, k := range keys {
		if len(p.wanted) == 0 || slices.ContainsFunc(p.signers(), func(h *holders) bool { _, ok := h.find(k.ID); return ok }) {
			mine = append(mine, k)
		}
	}
	return mine
}

func (p *Pending) signers() []*holders {
	if p.also == nil {
		return p.wanted
	}
	return append(slices.Clone(p.wanted), p.also)
}

// Sign adds the signatures of keys and writes the file.
func (p *Pending) Sign(keys []*Key) error {
	mine := p.Mine(keys)
	if len(mine) == 0 {
		var wanted []string
		for _, h := range p.wanted {
			wanted = append(wanted, h.words())
		}
		return fmt.Errorf("%s: none of these keys signs %s; wanted are %s", p.Path, p.Role, strings.Join(wanted, ", and "))
	}
	if err := p.doc.sign(mine...); err != nil {
		return err
	}
	return p.write()
}

// Merge takes over the signatures of a copy that somebody else has signed. They are not believed here: publishing counts those that verify.
func (p *Pending) Merge(path string) error {
	if len(p.wanted) == 0 {
		return fmt.Errorf("%s: who has to sign is not known here, so nothing of %s is taken over; bring the folder previous/ beside it", p.Path, path)
	}
	data, err := readFile(path, maxDocument)
	if err != nil {
		return err
	}
	other, err := parseDocument(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	ours, err := p.doc.payload()
	if err != nil {
		return err
	}
	theirs, err := other.payload()
	if err != nil {
		return err
	}
	if !bytes.Equal(ours, theirs) {
		return fmt.Errorf("%s is not a copy of %s: what is signed differs", path, p.Path)
	}
	for _, h := range p.signers() {
		good, err := other.signed(h)
		if err != nil {
			return err
		}
		for _, s := range other.Signatures {
			if slices.Contains(good, s.KeyID) {
				p.doc.add(s)
			}
		}
	}
	return p.write()
}

func (p *Pending) write() error {
	data, err := p.doc.bytes()
	if err != nil {
		return err
	}
	return writeFile(p.Path, 0o644, func(w io.Writer) error { _, err := w.Write(data); return err })
}
