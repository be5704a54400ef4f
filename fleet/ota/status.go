package ota

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"
)

// Report is what a workspace holds and what has to be done with it.
type Report struct {
	Bench     bool             `json:"bench"`
	Roles     []RoleReport     `json:"roles"`
	Images    []ImageReport    `json:"images"`
	Waiting   []WaitingReport  `json:"waiting"`
	Campaigns []CampaignReport `json:"campaigns"`
	Notes     []string         `json:"notes"`
	Warnings  []string         `json:"warnings"` // what somebody has to see to
}

// RoleReport is a role that is public.
type RoleReport struct {
	Repository string    `json:"repository"`
	Role       string    `json:"role"`
	Version    int64     `json:"version"`
	Expires    time.Time `json:"expires"`
	Signed     int       `json:"signed"`
	Threshold  int       `json:"threshold"`
	Keys       []string  `json:"keys"`
}

// ImageReport is an image that is public.
type ImageReport struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Release uint64   `json:"release_counter"`
	Length  int64    `json:"length"`
	Made    []string `json:"hardware_ids"`
	Patches int      `json:"patches"`
}

// WaitingReport is a file that waits for signatures.
type WaitingReport struct {
	Path       string   `json:"path"`
	Signatures []string `json:"signatures"`
}

// CampaignReport is a campaign and what became of it.
type CampaignReport struct {
	ID      string    `json:"id"`
	Status  Status    `json:"status"`
	Stage   int       `json:"stage"`
	Stages  int       `json:"stages"`
	Percent int       `json:"percent"`
	Since   time.Time `json:"since"`
	Tally   *Tally    `json:"outcomes,omitempty"` // nil: not asked
	Waits   string    `json:"waits,omitempty"`
	Last    string    `json:"last"`
}

// Warnings begin when so little of a life is left: of what people have to sign a quarter, of what is signed here a quarter too, by when a
// timer that works has renewed it long since.
const warnBelow = 4

// Report looks at everything. Without outcomes campaigns are told without what became of them.
func (w *Workspace) Report(ctx context.Context, outcomes Outcomes) (*Report, error) {
	r := &Report{Bench: w.config.Bench, Notes: []string{}, Warnings: []string{}}
	if r.Bench {
		r.Notes = append(r.Notes, "this is for a bench: one key a role; never let vehicles on a road trust it")
	}
	if exists(filepath.Join(w.dir, "keys", "offline-1")) && !r.Bench {
		r.Notes = append(r.Notes, "keys/offline-… are still here: carry them to their holders, keep a copy apart, and remove them")
	}
	images, err := w.holdingOf(Image)
	if err != nil {
		return nil, err
	}
	life := w.config.Lifetimes
	if err := r.repository(w, Image, images, life.Targets); err != nil {
		return nil, err
	}
	for _, role := range slices.Sorted(maps.Keys(images.roles)) {
		for _, name := range slices.Sorted(maps.Keys(images.targets(role).Targets)) {
			t, about, err := images.image(name)
			if err != nil {
				r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %v", name, err))
				continue
			}
			r.Images = append(r.Images, ImageReport{name, about.Version, *about.Release, t.Length, about.Hardware, len(about.Patches)})
		}
	}
	// Of the directors the one that expires first stands for all.
	var first *holding
	read := newReader()
	for _, line := range w.config.Lines {
		for cohort := range Cohorts {
			h, err := read.load(w.cohortDir(line.Name, cohort))
			if err != nil {
				return nil, err
			}
			if h.timestamp == nil {
				r.Warnings = append(r.Warnings, h.dir+" is not published: `ota campaign refresh` does it")
			} else if first == nil || h.timestamp.Expires.Before(first.timestamp.Expires) {
				first = h
			}
		}
	}
	if first != nil {
		if err := r.repository(w, Director, first, life.Directed); err != nil {
			return nil, err
		}
	}
	if err := r.waiting(w); err != nil {
		return nil, err
	}
	return r, r.campaigns(ctx, w, outcomes)
}

func (r *Report) repository(w *Workspace, name string, h *holding, targetsDays int) error {
	life := w.config.Lifetimes
	add := func(role string, version int64, expires time.Time, may *holders, d *document, days int, remedy string) error {
		good, err := d.signed(may)
		if err != nil {
			return err
		}
		keys := make([]string, len(may.keys))
		for i, k := range may.keys {
			keys[i] = k.Name
		}
		r.Roles = append(r.Roles, RoleReport{name, role, version, expires, len(good), may.threshold, keys})
		left := expires.Sub(w.now())
		switch {
		case left <= 0:
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %s expired at %s: vehicles install nothing; %s", name, role, day(expires), remedy))
		case left < time.Duration(days)*24*time.Hour/warnBelow:
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %s expires at %s; %s", name, role, day(expires), remedy))
		}
		return nil
	}
	rotate := func(role string) string {
		return fmt.Sprintf("`ota rotate %s %s` stages the next one for signatures", name, role)
	}
	const online = "`ota campaign run`, by a timer, renews it"
	root, err := parseDocument(h.rootData)
	if err == nil {
		err = add(roleRoot, h.root.Version, h.root.Expires, rootHolders(h.root, roleRoot), root, life.Root, rotate(roleRoot))
	}
	if err != nil {
		return err
	}
	top := h.roles[roleTargets]
	for _, role := range slices.Sorted(maps.Keys(h.roles)) {
		held, may, remedy := h.roles[role], rootHolders(h.root, role), rotate(role)
		if role != roleTargets {
			may = delegatedHolders(top.targets, role)
		}
		if name == Director {
			remedy = online
		}
		if err := add(role, held.targets.Version, held.targets.Expires, may, held.doc, targetsDays, remedy); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		role    string
		version int64
		expires time.Time
		days    int
	}{{roleSnapshot, h.snapshot.Version, h.snapshot.Expires, life.Snapshot}, {roleTimestamp, h.timestamp.Version, h.timestamp.Expires, life.Timestamp}} {
		data, err := readFile(filepath.Join(h.dir, fileOf(f.version, f.role)), maxDocument)
		if err != nil {
			return err
		}
		d, err := parseDocument(data)
		if err == nil {
			err = add(f.role, f.version, f.expires, rootHolders(h.root, f.role), d, f.days, online)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Report) waiting(w *Workspace) error {
	for _, repository := range []string{Image, Director} {
		h, err := w.holdingOf(repository)
		if err != nil {
			return err
		}
		list, err := w.listStaged(repository)
		if err != nil {
			return err
		}
		for _, p := range list {
			if p.Role == roleRoot && p.Version <= h.root.Version || h.targets(p.Role) != nil && p.Version <= h.targets(p.Role).Version {
				continue // public already
			}
			lines, err := p.Signatures()
			if err != nil {
				return err
			}
			r.Waiting = append(r.Waiting, WaitingReport{p.Path, lines})
		}
	}
	return nil
}

func (r *Report) campaigns(ctx context.Context, w *Workspace, outcomes Outcomes) error {
	list, err := w.campaigns()
	if err != nil {
		return err
	}
	for _, c := range list {
		s := CampaignReport{ID: c.Spec.ID, Status: c.State.Status, Stage: c.State.Stage, Stages: len(c.Spec.Stages), Percent: c.Percent(), Since: c.State.Since}
		if n := len(c.State.History); n > 0 {
			s.Last = c.State.History[n-1].What
		}
		images, err := w.holdingOf(Image)
		if err != nil {
			return err
		}
		if _, err := c.sums(images); err != nil { // withdrawn
			s.Waits = err.Error()
			if c.State.Status == Active {
				r.Warnings = append(r.Warnings, fmt.Sprintf("campaign %s: %v", c.Spec.ID, err))
			}
		} else if outcomes != nil {
			t, err := w.Tally(ctx, c, outcomes)
			if err != nil {
				return err
			}
			s.Tally = &t
			if c.State.Status == Active {
				if why := c.Spec.Stop.stopReason(t); why != "" {
					s.Waits = "to be stopped: " + why
					r.Warnings = append(r.Warnings, fmt.Sprintf("campaign %s wants stopping: %s; `ota campaign run` does it", c.Spec.ID, why))
				} else {
					s.Waits = c.missing(t, w.now())
				}
			}
		}
		r.Campaigns = append(r.Campaigns, s)
	}
	return nil
}
