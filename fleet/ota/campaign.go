package ota

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Status of a campaign.
//
//	created ──advance──▶ active ──advance, after the last stage──▶ done
//	                     │    ▲
//	                   pause  advance          any ──stop──▶ stopped
//	                     ▼    │
//	                     paused
type Status string

const (
	Created Status = "created" // offered to nobody yet
	Active  Status = "active"
	Paused  Status = "paused"  // offered to nobody any more, until it goes on
	Stopped Status = "stopped" // for good, by a person or by its rule
	Done    Status = "done"    // its last stage was seen to be good; it stays what directors say until a newer one has something else
)

// State of a campaign, kept beside its spec.
type State struct {
	Number  int       `json:"number"` // of campaigns, in the order of their making
	Status  Status    `json:"status"`
	Stage   int       `json:"stage"` // that it is in, from 1; 0: in none yet
	Since   time.Time `json:"since"` // of stage and status
	History []Event   `json:"history"`
}

// Event is a change of a campaign, for people.
type Event struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// Campaign is one of a workspace.
type Campaign struct {
	Spec  *Spec
	State State
	order [Cohorts]int // of each cohort, its place in the order in which this campaign reaches them
}

// shuffle orders cohorts by a hash of campaign and cohort: the first 1 % are not the same vehicles in each campaign.
func (c *Campaign) shuffle() {
	type place struct {
		hash   uint64
		cohort int
	}
	places := make([]place, Cohorts)
	for i := range places {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", c.Spec.ID, i))
		places[i] = place{binary.BigEndian.Uint64(sum[:8]), i}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), a.cohort-b.cohort)
	})
	for i, p := range places {
		c.order[p.cohort] = i
	}
}

// Percent is how many of the cohorts it has reached.
func (c *Campaign) Percent() int {
	if c.State.Stage == 0 {
		return 0
	}
	return c.Spec.Stages[c.State.Stage-1].Percent
}

// reached says whether a cohort's vehicles were offered it.
func (c *Campaign) reached(cohort int) bool { return c.order[cohort] < c.Percent() }

func (c *Campaign) overlaps(other *Campaign) (ecu, hardware string, yes bool) {
	for _, a := range c.Spec.Images {
		for _, b := range other.Spec.Images {
			if a.ECU == b.ECU && a.Hardware == b.Hardware {
				return a.ECU, a.Hardware, true
			}
		}
	}
	return "", "", false
}

func (w *Workspace) campaignPath(id, ending string) string {
	return filepath.Join(w.dir, "campaigns", id+ending)
}

// campaigns reads all, the oldest first. A spec without a state is one whose making was interrupted.
func (w *Workspace) campaigns() ([]*Campaign, error) {
	entries, err := os.ReadDir(filepath.Join(w.dir, "campaigns"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []*Campaign
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		c, err := w.readCampaign(id)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *Campaign) int { return a.State.Number - b.State.Number })
	return list, nil
}

func (w *Workspace) readCampaign(id string) (*Campaign, error) {
	text, err := readFile(w.campaignPath(id, ".yaml"), maxSpec)
	if err != nil {
		return nil, err
	}
	c := &Campaign{}
	if c.Spec, err = ParseSpec(text); err != nil {
		return nil, fmt.Errorf("%s: %w", w.campaignPath(id, ".yaml"), err)
	}
	data, err := readFile(w.campaignPath(id, ".json"), maxDocument)
	if err == nil {
		err = json.Unmarshal(data, &c.State)
	}
	if err == nil && (c.Spec.ID != id || c.State.Stage < 0 || c.State.Stage > len(c.Spec.Stages)) {
		err = errors.New("it does not belong to its spec")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.campaignPath(id, ".json"), err)
	}
	c.shuffle()
	return c, nil
}

// Campaigns lists all, the oldest first.
func (w *Workspace) Campaigns() ([]*Campaign, error) { return w.campaigns() }

func (w *Workspace) find(id string) (*Campaign, error) {
	if err := checkWord("campaign", id); err != nil {
		return nil, err
	}
	if !exists(w.campaignPath(id, ".json")) {
		return nil, fmt.Errorf("there is no campaign %s; `waybill-fleet ota campaign create FILE` makes one, `ota status` lists them", id)
	}
	return w.readCampaign(id)
}

// change keeps a new state, before the directors say so: what is killed in between, the next step completes.
func (w *Workspace) change(c *Campaign, status Status, stage int, what string) error {
	next := c.State
	if status != next.Status || stage != next.Stage {
		next.Since = w.now().UTC()
	}
	next.Status, next.Stage = status, stage
	next.History = append(slices.Clone(next.History), Event{w.now().UTC(), what})
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := w.put(w.campaignPath(c.Spec.ID, ".json"), append(data, '\n')); err != nil {
		return err
	}
	c.State = next
	return nil
}

// Create takes a campaign's spec, holds it against what is published, and offers it to nobody yet.
func (w *Workspace) Create(text []byte) (*Campaign, error) {
	spec, err := ParseSpec(text)
	if err != nil {
		return nil, err
	}
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	c := &Campaign{Spec: spec}
	c.shuffle()
	if exists(w.campaignPath(spec.ID, ".json")) {
		old, err := readFile(w.campaignPath(spec.ID, ".yaml"), maxSpec)
		if err == nil && bytes.Equal(old, text) {
			return w.find(spec.ID) // a repetition
		}
		return nil, errors.Join(err, fmt.Errorf("there is a campaign %s already; an id is used once, vehicles keep count by it", spec.ID))
	}
	images, err := w.holdingOf(Image)
	if err != nil {
		return nil, err
	}
	for _, image := range spec.Images {
		_, about, err := images.image(image.Name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(about.Hardware, image.Hardware) {
			return nil, fmt.Errorf("%s is made for %s, not for %s", image.Name, strings.Join(about.Hardware, ", "), image.Hardware)
		}
		if !slices.ContainsFunc(w.config.Lines, func(l Line) bool { return l.ECUs[image.ECU] == image.Hardware }) {
			return nil, fmt.Errorf("no line of vehicles has a unit %s with hardware %s; see lines in ota.json", image.ECU, image.Hardware)
		}
	}
	others, err := w.campaigns()
	if err != nil {
		return nil, err
	}
	if spec.RetryOf != "" && !slices.ContainsFunc(others, func(o *Campaign) bool { return o.Spec.ID == spec.RetryOf }) {
		return nil, fmt.Errorf("retry_of: there is no campaign %s", spec.RetryOf)
	}
	for _, other := range others {
		c.State.Number = max(c.State.Number, other.State.Number+1)
		ecu, hardware, yes := c.overlaps(other)
		if yes && other.State.Status != Done && other.State.Status != Stopped {
			return nil, fmt.Errorf("campaign %s is %s and is for unit %s with hardware %s too; let it come to its end, or stop it", other.Spec.ID, other.State.Status, ecu, hardware)
		}
		if err := c.notOlder(other, images); err != nil {
			return nil, err
		}
	}
	if err := w.put(w.campaignPath(spec.ID, ".yaml"), text); err != nil {
		return nil, err
	}
	return c, w.change(c, Created, 0, "created")
}

// notOlder refuses images older than what an earlier campaign has offered to anybody: vehicles that took that would refuse all
// that their director says.
func (c *Campaign) notOlder(other *Campaign, images *holding) error {
	if other.State.Stage == 0 {
		return nil
	}
	for _, a := range c.Spec.Images {
		for _, b := range other.Spec.Images {
			if a.ECU != b.ECU || a.Hardware != b.Hardware {
				continue
			}
			_, now, err := images.image(a.Name)
			if err != nil {
				return err
			}
			_, was, err := images.image(b.Name)
			if err != nil {
				continue // taken out of the repository since
			}
			if *now.Release < *was.Release {
				return fmt.Errorf("%s has release counter %d, and campaign %s has offered %d to unit %s: vehicles never go back; publish the older software as a new release with a higher counter", a.Name, *now.Release, other.Spec.ID, *was.Release, a.ECU)
			}
		}
	}
	return nil
}

// sums are the SHA-256 of its images.
func (c *Campaign) sums(images *holding) ([]string, error) {
	var list []string
	for _, image := range c.Spec.Images {
		t, _, err := images.image(image.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, hex.EncodeToString(t.Hashes["sha256"]))
	}
	return list, nil
}

// Tally counts what became of a campaign.
func (w *Workspace) Tally(ctx context.Context, c *Campaign, outcomes Outcomes) (Tally, error) {
	images, err := w.holdingOf(Image)
	if err != nil {
		return Tally{}, err
	}
	sums, err := c.sums(images)
	if err != nil {
		return Tally{}, err
	}
	list, err := outcomes.Outcomes(ctx, c.Spec.ID, sums)
	if err != nil {
		return Tally{}, fmt.Errorf("outcomes of campaign %s: %w", c.Spec.ID, err)
	}
	return tally(c, sums, list), nil
}
