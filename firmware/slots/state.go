package slots

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Slot is one of the two places of an executable.
type Slot string

// The two slots, and what WAYBILL_SLOT says when the package's own copy had to be started.
const (
	A       Slot = "a"
	B       Slot = "b"
	Factory Slot = "factory"
)

func (s Slot) valid() bool { return s == A || s == B }

func (s Slot) other() Slot {
	if s == A {
		return B
	}
	return A
}

// Meta says what an image is. Only the SHA-256 is needed.
type Meta struct {
	Name           string `json:"name,omitempty"`    // the target's path in its repository
	SHA256         string `json:"sha256"`            // 64 lower-case hexadecimal digits
	Length         int64  `json:"length,omitempty"`  // bytes; 0 when not known
	Version        string `json:"version,omitempty"` // for people
	ReleaseCounter int64  `json:"release_counter,omitempty"`
	Campaign       string `json:"campaign,omitempty"`
	// RetryOf allows an image that was rolled back once more: it names the campaign that brought it then, and Campaign has to
	// be another one. So a permission holds for one further try.
	RetryOf string `json:"retry_of,omitempty"`
}

// Trial is an image that has to show whether it works. A start is judged when the launcher runs again.
type Trial struct {
	Slot    Slot   `json:"slot"`
	Limits  Limits `json:"limits,omitzero"`
	Starts  int    `json:"starts"`      // by the launcher, the running one included
	Crashes int    `json:"crashes"`     // starts that ended within the boot they began in, without a word (Stopped)
	Dead    int    `json:"dead_starts"` // one after the other that never came to Alive, and were no crash
	Cut     int    `json:"cut_starts"`  // one after the other that came to Alive and ended with the boot, without a word
	// Of the last start:
	Open    bool   `json:"open,omitempty"` // there is one, and it was not judged yet
	Boot    string `json:"boot,omitempty"` // boot id; empty when it could not be read
	PID     int    `json:"pid,omitempty"`
	Alive   bool   `json:"alive,omitempty"`
	Stopped bool   `json:"stopped,omitempty"`
}

// Limits of a trial: it is rolled back when a count reaches its limit. One that is 0 or absurd is the default. They are
// stored with the trial, since the launcher, which applies them, is never updated.
type Limits struct {
	// Crashes, default 3.
	Crashes int `json:"crashes,omitempty"`
	// Dead, default 15: above ten short ignition cycles, and a board that resets at each start is through within minutes.
	Dead int `json:"dead_starts,omitempty"`
	// Cut, default 50: a vehicle that is always switched off hard may make many journeys before it has a link and commits.
	Cut int `json:"cut_starts,omitempty"`
}

const (
	defaultCrashes = 3
	defaultDead    = 15
	defaultCut     = 50
	maxLimit       = 1000
)

// Effective has the defaults in.
func (l Limits) Effective() Limits {
	pick := func(n, otherwise int) int {
		if n < 1 || n > maxLimit {
			return otherwise
		}
		return n
	}
	return Limits{pick(l.Crashes, defaultCrashes), pick(l.Dead, defaultDead), pick(l.Cut, defaultCut)}
}

// Rejection is an image that is not tried again.
type Rejection struct {
	Meta
	Reason string `json:"reason"`
}

// Kinds of an Outcome.
const (
	Committed  = "committed"   // the image runs and stays
	RolledBack = "rolled-back" // the image was tried, or could not be started, and is not tried again
	Damaged    = "damaged"     // the executable in its slot was not what was installed: the disk's fault, not the image's
	Superseded = "superseded"  // it was to be tried and another one came first
	FellBack   = "fell-back"   // the committed executable could not be started; the one named here was, and is committed now
	StateLost  = "state-lost"  // both copies of the state were damaged; a trial, if there was one, is over
)

// Outcome is how something ended, kept until it was reported. ID tells it from all others of this vehicle.
type Outcome struct {
	ID     string `json:"id"`
	Kind   string `json:"kind"`
	Reason string `json:"reason,omitempty"`
	Image  Meta   `json:"image,omitzero"`
	Starts int    `json:"starts,omitempty"`
}

// Bounds of the state: the oldest go.
const (
	maxRejected = 32
	maxOutcomes = 16
	maxText     = 256     // bytes of a text; longer ones are cut
	maxState    = 1 << 20 // bytes of a file: more than all of that in JSON, escaped
	maxCount    = 1 << 30 // counters stop there
)

// state is what is stored. Its members keep their meaning for ever: a newer agent may add others, which this version
// keeps as they are when they stand at the top (rest).
type state struct {
	Serial    uint64        `json:"serial"` // of each write one more
	Committed Slot          `json:"committed"`
	Images    map[Slot]Meta `json:"images,omitempty"` // whole ones: a slot that is being written has none
	Trial     *Trial        `json:"trial,omitempty"`
	Rejected  []Rejection   `json:"rejected,omitempty"` // oldest first
	Outcomes  []Outcome     `json:"outcomes,omitempty"` // oldest first

	version int                        // of the file it was read from; never lowered
	rest    map[string]json.RawMessage // members that this version does not know
}

const (
	stateVersion = 1
	stateWord    = "waybill-slots"
)

// ErrState: these bytes are not a state.
var ErrState = errors.New("not a state of slots, or damaged")

var members = []string{"serial", "committed", "images", "trial", "rejected", "outcomes"} // of a state, in JSON

// encode gives a line "waybill-slots VERSION SHA256" and a line of JSON, whose checksum that is.
func (s *state) encode() ([]byte, error) {
	known, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if len(s.rest) > 0 {
		all := maps.Clone(s.rest)
		if err := json.Unmarshal(known, &all); err != nil {
			return nil, err
		}
		if known, err = json.Marshal(all); err != nil {
			return nil, err
		}
	}
	known = append(known, '\n')
	if len(known) > maxState-200 {
		if s.rest == nil {
			return nil, fmt.Errorf("the state has %d bytes; at most %d", len(known), maxState-200)
		}
		small := *s // what is not ours may not keep us from counting
		small.rest = nil
		return small.encode()
	}
	sum := sha256.Sum256(known)
	return append(fmt.Appendf(nil, "%s %d %x\n", stateWord, max(s.version, stateVersion), sum), known...), nil
}

// parseState reads what encode wrote, here or in a later version.
func parseState(data []byte) (*state, error) {
	head, body, ok := bytes.Cut(data, []byte("\n"))
	words := strings.Split(string(head), " ")
	if !ok || len(data) > maxState || len(words) != 3 || words[0] != stateWord {
		return nil, ErrState
	}
	version, err := strconv.ParseUint(words[1], 10, 16)
	sum := sha256.Sum256(body)
	if err != nil || version == 0 || words[2] != hex.EncodeToString(sum[:]) {
		return nil, ErrState
	}
	s := &state{}
	if err := json.Unmarshal(body, s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if err := json.Unmarshal(body, &s.rest); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	for name := range s.rest {
		if slices.ContainsFunc(members, func(m string) bool { return strings.EqualFold(m, name) }) {
			delete(s.rest, name)
		}
	}
	s.version = int(version)
	if !s.Committed.valid() {
		return nil, fmt.Errorf("%w: no slot is committed", ErrState)
	}
	s.bound()
	return s, nil
}

// bound brings what a file said, or a caller, within what this version works with. A trial that makes no sense is none:
// the committed slot runs.
func (s *state) bound() {
	for slot, m := range s.Images {
		if !slot.valid() || !isSHA256(m.SHA256) || m.Length < 0 {
			delete(s.Images, slot)
		} else {
			s.Images[slot] = m.bounded()
		}
	}
	if t := s.Trial; t != nil {
		for _, n := range []*int{&t.Starts, &t.Crashes, &t.Dead, &t.Cut} {
			*n = min(max(*n, 0), maxCount)
		}
		t.Boot = cut(t.Boot)
		if _, whole := s.Images[t.Slot]; !whole || t.Slot == s.Committed {
			s.Trial = nil
		}
	}
	s.Rejected = newest(s.Rejected, maxRejected)
	for i := range s.Rejected {
		s.Rejected[i].Meta, s.Rejected[i].Reason = s.Rejected[i].bounded(), cut(s.Rejected[i].Reason)
	}
	s.Outcomes = newest(s.Outcomes, maxOutcomes)
	for i := range s.Outcomes {
		o := &s.Outcomes[i]
		o.ID, o.Kind, o.Reason, o.Image = cut(o.ID), cut(o.Kind), cut(o.Reason), o.Image.bounded()
	}
}

func newest[T any](list []T, n int) []T { return list[max(0, len(list)-n):] }

func (m Meta) bounded() Meta {
	m.Name, m.SHA256, m.Version, m.Campaign, m.RetryOf = cut(m.Name), cut(m.SHA256), cut(m.Version), cut(m.Campaign), cut(m.RetryOf)
	return m
}

// cut bounds a text of others and leaves it one line that a terminal and JSON take as it is.
func cut(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
}

func isSHA256(text string) bool {
	sum, err := hex.DecodeString(text)
	return err == nil && len(sum) == sha256.Size && strings.ToLower(text) == text
}

// rejection is the one of an image, nil if there is none.
func (s *state) rejection(sum string) *Rejection {
	for i := range s.Rejected {
		if s.Rejected[i].SHA256 == sum {
			return &s.Rejected[i]
		}
	}
	return nil
}

// forgive takes an image from the rejected ones.
func (s *state) forgive(sum string) {
	s.Rejected = slices.DeleteFunc(s.Rejected, func(r Rejection) bool { return r.SHA256 == sum })
}

// end ends the trial with an outcome; boot makes its id differ from those before a loss of the state.
func (s *state) end(kind, reason, boot string) {
	t := s.Trial
	m := s.Images[t.Slot]
	s.conclude(Outcome{Kind: kind, Reason: reason, Image: m, Starts: t.Starts}, boot)
	switch kind {
	case Committed:
		s.Committed = t.Slot
		s.forgive(m.SHA256)
	case RolledBack:
		s.forgive(m.SHA256)
		s.Rejected = append(s.Rejected, Rejection{m, reason})
	case Damaged:
		delete(s.Images, t.Slot)
	}
	s.Trial = nil
	s.bound()
}

func (s *state) conclude(o Outcome, boot string) {
	o.ID = strconv.FormatUint(s.Serial+1, 10) + "-" + boot[:min(8, len(boot))]
	s.Outcomes = append(s.Outcomes, o)
}
