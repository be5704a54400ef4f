package telemetrypb

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// What became of an update travels as a CommandResult in the control lane: one for each vehicle, campaign and image, so that
// stores keep it, and what is sent twice is there once. docs/OTA.md has its members.

// Outcome is how an update came out.
type Outcome string

// The outcomes. The last three are final; of them the first that is stored stands. Refused says least: it may change.
const (
	UpdateRefused    Outcome = "refused"     // not now, or not at all: the reason says which condition or which check
	UpdateInstalled  Outcome = "installed"   // it runs, on probation
	UpdateCommitted  Outcome = "committed"   // it runs and stays
	UpdateRolledBack Outcome = "rolled_back" // it ran, was not healthy, and what was there before runs again
	UpdateFailed     Outcome = "failed"      // it never ran
)

// updateName is CommandResult.name of an update's outcome; no command is called so.
const updateName = "update"

// UpdateOutcome is what a vehicle tells of one image of a campaign.
type UpdateOutcome struct {
	Campaign string  `json:"campaign"`
	SHA256   string  `json:"sha256"` // of the image, 64 hexadecimal digits
	ECU      string  `json:"ecu,omitempty"`
	From     string  `json:"from,omitempty"` // version that was there
	To       string  `json:"to,omitempty"`   // version of the image
	Outcome  Outcome `json:"outcome"`
	Reason   string  `json:"-"` // one word, of refused, rolled_back and failed; CommandResult.reason
}

// UpdateID names the outcome of an image of a campaign, on whatever vehicle.
func UpdateID(campaign, sha256 string) string {
	return updateName + "." + campaign + "." + sha256[:min(32, len(sha256))]
}

func (o Outcome) state() string {
	switch o {
	case UpdateRefused:
		return "refused"
	case UpdateInstalled:
		return "running"
	case UpdateCommitted:
		return "done"
	case UpdateRolledBack, UpdateFailed:
		return "failed"
	}
	return ""
}

// Result is the record to be sent; boot id, count and time of the boot are the sender's to add.
func (u *UpdateOutcome) Result() (*CommandResult, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	return &CommandResult{Id: UpdateID(u.Campaign, u.SHA256), Name: updateName, State: u.Outcome.state(), Reason: u.Reason, Text: string(text)}, nil
}

func (u *UpdateOutcome) check() error {
	if u.Campaign == "" || len(u.SHA256) != 2*sha256.Size || u.Outcome.state() == "" {
		return fmt.Errorf("outcome %.20q of an update: campaign, sha256 and a known outcome are needed", u.Outcome)
	}
	return nil
}

// ParseUpdateOutcome reads a CommandResult's id, state, reason and text, as a store kept them.
func ParseUpdateOutcome(id, state, reason, text string) (*UpdateOutcome, error) {
	u := UpdateOutcome{Reason: reason}
	if err := json.Unmarshal([]byte(text), &u); err != nil {
		return nil, fmt.Errorf("outcome of an update: %w", err)
	}
	if err := u.check(); err != nil {
		return nil, err
	}
	if id != UpdateID(u.Campaign, u.SHA256) || state != u.Outcome.state() {
		return nil, errors.New("outcome of an update: its text does not belong to its id and state")
	}
	return &u, nil
}

// Cohorts is how many cohorts the vehicles of a fleet fall into.
const Cohorts = 100

// Cohort is a vehicle's own for life, 0 to 99: the first eight bytes of the SHA-256 of TENANT/DEVICE, big-endian, modulo 100. The
// director that it asks is its cohort's.
func Cohort(tenant, device string) int {
	sum := sha256.Sum256([]byte(tenant + "/" + device))
	return int(binary.BigEndian.Uint64(sum[:8]) % Cohorts)
}
