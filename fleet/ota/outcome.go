package ota

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Outcome is what became of an image of a campaign on one vehicle.
type Outcome struct {
	Tenant string `json:"tenant"`
	Device string `json:"device"`
	telemetrypb.UpdateOutcome
	Reason string    `json:"reason,omitempty"`
	Time   time.Time `json:"time,omitzero"` // when it was received
}

// Outcomes is where a campaign learns what became of it: a store, or a file.
type Outcomes interface {
	// Outcomes of a campaign's images, by their SHA-256 (hexadecimal). A vehicle may be there several times: what says most counts.
	Outcomes(ctx context.Context, campaign string, images []string) ([]Outcome, error)
}

// OutcomeFile reads outcomes from a file of JSON lines, one Outcome each, for those whose store is not Waybill's. One that does not exist
// holds none.
type OutcomeFile string

// maxOutcomeLine is the longest line that is read, in bytes.
const maxOutcomeLine = 64 << 10

// Outcomes implements the interface. A line that cannot be read is an error: it may be a failure.
func (path OutcomeFile) Outcomes(ctx context.Context, campaign string, _ []string) ([]Outcome, error) {
	f, err := os.Open(string(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []Outcome
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxOutcomeLine)
	for n := 1; lines.Scan(); n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(lines.Bytes()) == 0 {
			continue
		}
		var o Outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", string(path), n, err)
		}
		if o.Campaign == campaign {
			list = append(list, o)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", string(path), err)
	}
	return list, nil
}

// Tally counts the outcomes of a campaign in the cohorts that it has reached.
type Tally struct {
	Committed  int            `json:"committed"`
	RolledBack int            `json:"rolled_back"`
	Failed     int            `json:"failed"`
	Installed  int            `json:"installed"` // on probation
	Refused    int            `json:"refused"`   // so far
	Outside    int            `json:"outside"`   // of vehicles that the campaign has not reached, or of other images: not counted
	Reasons    map[string]int `json:"reasons,omitempty"`
}

// rank orders outcomes by how much they say, as stores do.
func rank(o telemetrypb.Outcome) int {
	switch o {
	case telemetrypb.UpdateCommitted, telemetrypb.UpdateRolledBack, telemetrypb.UpdateFailed:
		return 3
	case telemetrypb.UpdateInstalled:
		return 2
	case telemetrypb.UpdateRefused:
		return 1
	}
	return 0
}

func tally(c *Campaign, images []string, list []Outcome) Tally {
	t := Tally{Reasons: map[string]int{}}
	type key struct{ tenant, device, image string }
	ours := map[string]bool{}
	for _, sum := range images {
		ours[sum] = true
	}
	most := map[key]Outcome{}
	for _, o := range list {
		k := key{o.Tenant, o.Device, o.SHA256}
		if old, there := most[k]; !there || rank(o.Outcome) > rank(old.Outcome) {
			most[k] = o
		}
	}
	for k, o := range most {
		if !ours[o.SHA256] || rank(o.Outcome) == 0 || !c.reached(telemetrypb.Cohort(k.tenant, k.device)) {
			t.Outside++
			continue
		}
		switch o.Outcome {
		case telemetrypb.UpdateCommitted:
			t.Committed++
		case telemetrypb.UpdateRolledBack:
			t.RolledBack++
		case telemetrypb.UpdateFailed:
			t.Failed++
		case telemetrypb.UpdateInstalled:
			t.Installed++
		case telemetrypb.UpdateRefused:
			t.Refused++
		}
		if o.Reason != "" && o.Outcome != telemetrypb.UpdateCommitted {
			t.Reasons[o.Reason]++
		}
	}
	return t
}
