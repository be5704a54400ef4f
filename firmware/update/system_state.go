package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

// systemState is the file of a System. Texts of the installer's name what it starts ("rootfs.1").
type systemState struct {
	Serial   uint64            `json:"serial"`           // of each write one more
	Image    *slots.Meta       `json:"image,omitempty"`  // that was committed here and is to run; nil: the maker's
	Booted   string            `json:"booted,omitempty"` // where it is, the installer's word
	Marked   string            `json:"marked,omitempty"` // the last boot in which what runs was marked good
	Trial    *systemTrial      `json:"trial,omitempty"`
	Failed   *failedInstalls   `json:"failed,omitempty"`
	Rejected []slots.Rejection `json:"rejected,omitempty"` // oldest first
	Outcomes []slots.Outcome   `json:"outcomes,omitempty"` // not reported yet, oldest first
}

// systemTrial is an image from the moment at which installing it begins. In the boot of that it waits; in a later one
// either it runs, or what was there before, which then was not left or was come back to.
type systemTrial struct {
	Image slots.Meta `json:"image"`
	Phase phase      `json:"phase"`
	Boot  string     `json:"boot"` // in which it was installed
	From  string     `json:"from"` // what ran then, the installer's word
	Why   string     `json:"why,omitempty"`
	// Of its own starts, which are those of the agent in it:
	Starts  int    `json:"starts,omitempty"`
	Crashes int    `json:"crashes,omitempty"` // that ended before their boot did, without a word (Stopped)
	Cut     int    `json:"cut,omitempty"`     // one after the other that ended with their boot, without a word
	Back    int    `json:"back,omitempty"`    // since it was rejected (Why)
	Last    string `json:"last,omitempty"`    // the boot of the last one
	Stopped bool   `json:"stopped,omitempty"` // that one ended because it was told to
}

// phase is how far an update was brought before the restart. Who updates may have the next start use what it installs
// at once: from the first phase on it may run.
type phase string

const (
	installing phase = "installing"
	installed  phase = "installed"
	armed      phase = "armed" // the next start is to use it: if it does not, that is a rollback
)

// failedInstalls counts how often an image could not be installed.
type failedInstalls struct {
	SHA256 string `json:"sha256"`
	Times  int    `json:"times"`
}

// Bounds of the state: the oldest go.
const (
	maxRejected = 32
	maxOutcomes = 16
	maxReason   = 256 // bytes
)

// load reads the state. One that cannot be read is an error, one that is damaged is not: a vehicle has to go on without
// it. What runs may be on trial then, so this boot does not mark it good; if it is not good, the boot loader comes back
// from it before another one.
func (s *System) load() (*systemState, error) {
	data, err := os.ReadFile(s.o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return &systemState{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("whole system: %w", err)
	}
	st := &systemState{}
	if err := json.Unmarshal(data, st); err != nil {
		s.o.Log.Error("how the system's updates stand is lost, and with it what was rejected", "file", s.o.Path, "error", err)
		return &systemState{Marked: s.o.BootID}, nil
	}
	return st, nil
}

// change reads the state and stores it when f says so.
func (s *System) change(f func(*systemState) (save bool, err error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.load()
	if err != nil {
		return err
	}
	save, err := f(st)
	if err != nil {
		return fmt.Errorf("whole system: %w", err)
	}
	if !save {
		return nil
	}
	return s.save(st)
}

func (s *System) save(st *systemState) error {
	st.Serial++
	st.Rejected = st.Rejected[max(0, len(st.Rejected)-maxRejected):]
	st.Outcomes = st.Outcomes[max(0, len(st.Outcomes)-maxOutcomes):]
	data, err := json.MarshalIndent(st, "", " ")
	if err == nil {
		err = s.o.Write(s.o.Path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("whole system: the state cannot be stored: %w", err)
	}
	return nil
}

// runs says whether the trial's image runs, as it is known since begin.
func (t *systemTrial) runs(boot string) bool { return t != nil && t.Last == boot }

// end ends the trial with an outcome.
func (st *systemState) end(kind, reason, boot string) {
	t := st.Trial
	st.Trial, st.Failed = nil, nil
	st.conclude(slots.Outcome{Kind: kind, Reason: reason, Image: t.Image, Starts: t.Starts}, boot)
	switch kind {
	case slots.Committed:
		st.forgive(t.Image.SHA256)
	case slots.RolledBack, notInstalled, stayed:
		st.forgive(t.Image.SHA256)
		st.Rejected = append(st.Rejected, slots.Rejection{Meta: t.Image, Reason: short(reason)})
	}
}

// conclude keeps an outcome until it is reported; its id is none of those before.
func (st *systemState) conclude(o slots.Outcome, boot string) {
	o.ID, o.Reason = fmt.Sprintf("%d-%.8s", st.Serial+1, boot), short(o.Reason)
	st.Outcomes = append(st.Outcomes, o)
}

func (st *systemState) forgive(sum string) {
	st.Rejected = slices.DeleteFunc(st.Rejected, func(r slots.Rejection) bool { return r.SHA256 == sum })
}

func (st *systemState) rejection(sum string) *slots.Rejection {
	for i := range st.Rejected {
		if st.Rejected[i].SHA256 == sum {
			return &st.Rejected[i]
		}
	}
	return nil
}

func short(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxReason)], "") }
