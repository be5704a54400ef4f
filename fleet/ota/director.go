package ota

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// directorCustom is what the director says of a target (docs/OTA.md).
type directorCustom struct {
	ECUs       map[string]directedECU `json:"ecus"`
	Release    uint64                 `json:"release_counter"`
	Campaign   string                 `json:"campaign"`
	Conditions *Conditions            `json:"conditions,omitempty"`
	Patch      *Patch                 `json:"patch,omitempty"`   // the first of Patches, for clients that know one
	Patches    []Patch                `json:"patches,omitempty"` // more than one: all of them
	Budget     int64                  `json:"budget_bytes,omitempty"`
	WifiOnly   bool                   `json:"wifi_only,omitempty"`
	RetryOf    string                 `json:"retry_of,omitempty"`
}

type directedECU struct {
	Hardware string `json:"hardware_id"`
}

// publishDirectorRoot moves a root that is signed by enough to where reconcile takes it from.
func (w *Workspace) publishDirectorRoot(keys []*Key) (published []string, waiting []*Pending, err error) {
	h, err := w.holdingOf(Director)
	if err != nil {
		return nil, nil, err
	}
	list, err := w.staged(Director, h)
	if err != nil {
		return nil, nil, err
	}
	p := list[roleRoot]
	if p == nil {
		return nil, nil, nil
	}
	next, err := parse[metadata.RootType](p.doc)
	if err != nil {
		return nil, nil, err
	}
	if next.Version != h.root.Version+1 || !enough(p.doc, rootHolders(h.root, roleRoot)) || !enough(p.doc, rootHolders(next, roleRoot)) {
		return nil, []*Pending{p}, nil
	}
	for _, role := range onlineRoles(Director) {
		may, here := rootHolders(next, role), 0
		for _, k := range keys {
			if _, ok := may.find(k.ID); ok {
				here++
			}
		}
		if here < may.threshold { // published, it would stop every renewal
			return nil, nil, fmt.Errorf("%s: role %s is signed here, and the keys for it are not: want %s; give --online-keys, or --key", p.Path, role, may.words())
		}
	}
	data, err := p.doc.bytes()
	if err != nil {
		return nil, nil, err
	}
	if err := w.put(filepath.Join(w.directorDir(), fileOf(next.Version, roleRoot)), data); err != nil {
		return nil, nil, err
	}
	return []string{"director's " + filepath.Base(p.Path)}, nil, w.remove(p.Path)
}

// reconcile publishes the directors as the campaigns say, if anything differs or will expire, or if force says so; it completes what a
// killed process has begun. All cohorts of all lines have the same versions: a mirror that shows one cohort the files
// of another gets nowhere with versions that the right ones do not reach.
func (w *Workspace) reconcile(keys []*Key, force bool) (bool, error) {
	master, err := w.holdingOf(Director)
	if err != nil {
		return false, err
	}
	campaigns, err := w.campaigns()
	if err != nil {
		return false, err
	}
	images, err := w.holdingOf(Image)
	if err != nil {
		return false, err
	}
	type place struct {
		h       *holding
		content map[string]*metadata.TargetFiles
		same    string // content, as bytes
		roots   [][]byte
	}
	read := newReader()
	contents := map[string]string{}
	var places []place
	var highest, stamp int64
	known := map[string]bool{}
	all, any := force, force // publish everything, publish the timestamps
	for _, line := range w.config.Lines {
		for cohort := range Cohorts {
			h, err := read.load(w.cohortDir(line.Name, cohort))
			if err != nil {
				return false, err
			}
			p := place{h: h}
			if p.content, err = directed(campaigns, images, line, cohort); err != nil {
				return false, err
			}
			from := int64(1)
			if h.root != nil {
				from = h.root.Version + 1
			}
			for v := from; v <= master.root.Version; v++ {
				data, err := readFile(filepath.Join(w.directorDir(), fileOf(v, roleRoot)), maxDocument)
				if err != nil {
					return false, err
				}
				p.roots = append(p.roots, data)
			}
			if p.same, err = sameAs(p.content); err != nil {
				return false, err
			}
			for role, version := range h.highest {
				if role == roleTargets || role == roleSnapshot {
					highest = max(highest, version)
				}
			}
			if h.timestamp != nil {
				stamp = max(stamp, h.timestamp.Version)
			}
			places = append(places, p)
		}
	}
	life := w.config.Lifetimes
	for _, p := range places {
		t := p.h.targets(roleTargets)
		published := ""
		if t != nil { // one parsed object for all that are alike
			key := string(p.h.roles[roleTargets].data)
			if contents[key] == "" {
				if contents[key], err = sameAs(t.Targets); err != nil {
					return false, err
				}
			}
			published = contents[key]
		}
		if p.h.timestamp == nil || len(p.roots) > 0 || !p.h.sealed(Director, known) || t.Version != highest || p.h.snapshot.Version != highest || published != p.same ||
			w.due(t.Expires, life.Directed) || w.due(p.h.snapshot.Expires, life.Snapshot) {
			all = true
		}
		if all || p.h.timestamp.Version != stamp || w.due(p.h.timestamp.Expires, life.Timestamp) {
			any = true
		}
	}
	if !any {
		return false, nil
	}
	// Cohorts that are told the same have the same files.
	alike := map[string]*prepared{}
	for _, p := range places {
		r := &release{roots: p.roots, directed: p.content, targets: highest + 1, snapshot: highest + 1, time: stamp + 1, timestampOnly: !all}
		key := fmt.Sprintf("%d %s %s", len(p.roots), p.same, p.h.snapshotData)
		if alike[key] == nil {
			if alike[key], err = w.prepare(p.h, r, keys); err != nil {
				return false, fmt.Errorf("%s: %w", p.h.dir, err)
			}
		}
		if err := w.write(p.h.dir, alike[key]); err != nil {
			return false, err
		}
	}
	return true, nil
}

// due says that half of a lifetime or less is left.
func (w *Workspace) due(expires time.Time, days int) bool {
	return expires.Sub(w.now()) <= time.Duration(days)*12*time.Hour
}

func sameAs(content map[string]*metadata.TargetFiles) (string, error) {
	data, err := json.Marshal(content)
	return string(compact(data)), err
}

// directed is what the director of a cohort says: of each unit, what the newest campaign has for it that has reached the
// cohort. One that is stopped or paused has nothing for it, and hides those before it: what it gave may be installed, and
// anything older would be refused as a downgrade.
func directed(campaigns []*Campaign, images *holding, line Line, cohort int) (map[string]*metadata.TargetFiles, error) {
	content := map[string]*metadata.TargetFiles{}
	custom := map[string]*directorCustom{}
	decided := map[string]bool{}
	for i := len(campaigns) - 1; i >= 0; i-- { // the newest first
		c := campaigns[i]
		if !c.reached(cohort) {
			continue
		}
		for _, image := range c.Spec.Images {
			if line.ECUs[image.ECU] != image.Hardware || decided[image.ECU] {
				continue
			}
			decided[image.ECU] = true
			if c.State.Status != Active && c.State.Status != Done {
				continue
			}
			t, about, err := images.image(image.Name)
			if err != nil {
				continue // withdrawn: nobody installs it, and the others' directors are published all the same
			}
			d := custom[image.Name]
			if d == nil {
				d = c.custom(about)
				custom[image.Name] = d
				content[image.Name] = &metadata.TargetFiles{Length: t.Length, Hashes: t.Hashes}
			}
			d.ECUs[image.ECU] = directedECU{image.Hardware}
		}
	}
	for name, d := range custom {
		raw, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		content[name].Custom = (*json.RawMessage)(&raw)
	}
	return content, nil
}

func (c *Campaign) custom(about *ImageCustom) *directorCustom {
	d := &directorCustom{ECUs: map[string]directedECU{}, Release: *about.Release, Campaign: c.Spec.ID, Conditions: c.Spec.Conditions,
		Budget: c.Spec.BudgetBytes, WifiOnly: c.Spec.WifiOnly, RetryOf: c.Spec.RetryOf}
	if len(about.Patches) > 0 {
		d.Patch = &about.Patches[0]
	}
	if len(about.Patches) > 1 {
		d.Patches = about.Patches
	}
	return d
}

// Refresh renews what is signed here and will expire: less than half of its life is left, or all of it if force says so.
func (w *Workspace) Refresh(keys []*Key, force bool) ([]string, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return w.refresh(keys, force)
}

// refresh does the directors also where the image repository cannot be renewed: a campaign that has to stop must not wait for that.
func (w *Workspace) refresh(keys []*Key, force bool) ([]string, error) {
	var did []string
	renewed, err := w.refreshImage(keys, force)
	if renewed {
		did = append(did, fmt.Sprintf("image repository: timestamp renewed until %s", day(w.expires(w.config.Lifetimes.Timestamp))))
	}
	renewed, err2 := w.reconcile(keys, force)
	if renewed {
		did = append(did, fmt.Sprintf("directors: published, valid until %s", day(w.expires(w.config.Lifetimes.Timestamp))))
	}
	return did, errors.Join(err, err2)
}

func (w *Workspace) refreshImage(keys []*Key, force bool) (bool, error) {
	h, err := w.holdingOf(Image)
	if err != nil {
		return false, err
	}
	life := w.config.Lifetimes
	whole := force || !h.sealed(Image, map[string]bool{}) || w.due(h.snapshot.Expires, life.Snapshot)
	if !whole && !w.due(h.timestamp.Expires, life.Timestamp) {
		return false, nil
	}
	r := &release{snapshot: h.highest[roleSnapshot] + 1, time: 1, timestampOnly: !whole}
	if h.timestamp != nil {
		r.time = h.timestamp.Version + 1
	}
	return true, w.apply(h, r, keys)
}
