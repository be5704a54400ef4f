package pipeline

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Collect says which signals are collected and how. The zero value but for Match collects every sample on the
// telemetry lane. All times are measured between the samples' own BOOTTIME stamps, never by the wall.
type Collect struct {
	// Match is a glob over signal names, case-sensitive: `*` is any run of characters, dots included, `?` is one.
	Match string
	// Lane is EVENT, TELEMETRY or RAW; unspecified reads as TELEMETRY.
	Lane telemetrypb.Lane
	// OnChange leaves out a sample whose value is the one last sent.
	OnChange bool
	// DeadBand, in the signal's physical unit: only a change of more than this from the value last sent counts. It
	// implies OnChange, and means nothing for text, where any difference counts. A number that becomes NaN, or a NaN
	// that becomes a number, is a change; NaN after NaN is none.
	DeadBand float64
	// MinInterval is an inhibit time, as CANopen has it (CiA 301, PDO communication parameter, sub-index 3): after a
	// sample was sent the next is sent no sooner than this. What came in between is replaced by what came after it,
	// and the latest is sent when the interval is over, with the time at which it was taken; with OnChange only if
	// it still differs then, and with the time at which it was first taken of those in a row that are the same.
	MinInterval time.Duration
	// MaxInterval sends an unchanged value all the same when this has passed since the last one sent. It needs a
	// sample to send: nothing is made up on a silent bus. Where readers leave repetitions out (Selection.OnChange) it
	// comes later by as much as they may, and with a dead band or MinInterval what is sent after it may differ as well.
	MaxInterval time.Duration
	// Part says that a sample of this signal belongs to the sample that came before it, as a frame's data belong to the
	// frame: the two are in one batch, or refused both. It is for the raw lane, where every sample is sent.
	Part bool
}

// Selection is the outcome of Choose: a catalogue with its signal ids, and how each of them is sampled. It is not
// changed after Choose and safe for use from several goroutines, as long as nobody writes to what Catalogue returns.
type Selection struct {
	catalogue *telemetrypb.Catalogue
	data      []byte
	hash      [32]byte
	ids       map[string]uint32
	policies  []policy // by signal id; [0] is unused
	rules     []rule
}

// Choose goes through the available signals in their order; each is sampled as the first Collect that matches it
// says, and is not collected when there is none. Ids are given from 1 in the order of the list, the ids of the
// events that rules raise (`event.NAME`) after them. A signal that only a rule asks for gets an id too, but its
// samples are not sent. A pattern that matches nothing is an error that names it and the nearest name.
func Choose(available []*telemetrypb.Signal, collect []Collect, rules ...Threshold) (*Selection, error) {
	var errs []error
	for i := range collect {
		if err := collect[i].check(); err != nil {
			errs = append(errs, err)
		}
	}
	watched := make(map[string]bool, len(rules))
	for i := range rules {
		watched[rules[i].Signal] = true
	}
	sel := &Selection{
		catalogue: &telemetrypb.Catalogue{Format: 1},
		ids:       map[string]uint32{},
		policies:  make([]policy, 1),
	}
	type message struct{ source, name string }
	groups := map[message]uint32{}
	used := make([]bool, len(collect))
	for _, signal := range available {
		how := -1
		for i := range collect {
			if matchGlob(collect[i].Match, signal.GetName()) {
				used[i] = true
				if how < 0 {
					how = i
				}
			}
		}
		if how < 0 && !watched[signal.GetName()] {
			continue
		}
		chosen := proto.CloneOf(signal)
		chosen.Group = 0
		if chosen.Message != "" {
			key := message{chosen.Source, chosen.Message}
			if groups[key] == 0 {
				groups[key] = uint32(len(groups) + 1)
			}
			chosen.Group = groups[key]
		}
		var sampled policy // of a signal that is only watched: lane 0, never sent
		if how >= 0 {
			sampled = collect[how].compile(chosen)
		}
		if err := sel.add(chosen, sampled); err != nil {
			errs = append(errs, err)
		}
	}
	for i, hit := range used {
		if !hit {
			errs = append(errs, noMatch("collect", collect[i].Match, available))
		}
	}
	for i := range rules {
		if err := sel.addRule(&rules[i], available); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	sel.data, sel.hash = telemetrypb.EncodeCatalogue(sel.catalogue)
	return sel, nil
}

// add gives a signal the next id.
func (s *Selection) add(signal *telemetrypb.Signal, how policy) error {
	if signal.Name == "" {
		return errors.New("a signal without a name cannot be collected")
	}
	if s.ids[signal.Name] != 0 {
		return fmt.Errorf("signal %q stands twice in the list of available signals: rename one or leave it out", signal.Name)
	}
	signal.Id = uint32(len(s.policies))
	s.ids[signal.Name] = signal.Id
	s.catalogue.Signals = append(s.catalogue.Signals, signal)
	s.policies = append(s.policies, how)
	return nil
}

func noMatch(what, pattern string, available []*telemetrypb.Signal) error {
	if len(available) == 0 {
		return fmt.Errorf("%s: %q matches nothing: there are no signals", what, pattern)
	}
	names := make([]string, len(available))
	for i, s := range available {
		names[i] = s.GetName()
	}
	return fmt.Errorf("%s: %q matches none of %d signals; the nearest name is %q", what, pattern, len(names), nearest(pattern, names))
}

func (c *Collect) check() error {
	switch {
	case c.Match == "":
		return errors.New("collect: a pattern is empty; \"*\" matches every signal")
	case c.Lane == telemetrypb.Lane_LANE_CONTROL || c.Lane < 0 || c.Lane > telemetrypb.Lane_LANE_RAW:
		return fmt.Errorf("collect: %q: lane must be event, telemetry or raw, got %s", c.Match, telemetrypb.LaneName(c.Lane))
	case math.IsNaN(c.DeadBand) || math.IsInf(c.DeadBand, 0) || c.DeadBand < 0:
		return fmt.Errorf("collect: %q: dead band must be a number from 0 in the signal's unit, got %v", c.Match, c.DeadBand)
	case c.MinInterval < 0 || c.MaxInterval < 0:
		return fmt.Errorf("collect: %q: intervals must not be negative, got least %s and most %s", c.Match, c.MinInterval, c.MaxInterval)
	case c.MaxInterval > 0 && c.MaxInterval < c.MinInterval:
		return fmt.Errorf("collect: %q: the longest interval %s is below the shortest %s", c.Match, c.MaxInterval, c.MinInterval)
	case c.Part && (c.Lane != telemetrypb.Lane_LANE_RAW || c.OnChange || c.DeadBand > 0 || c.MinInterval > 0):
		return fmt.Errorf("collect: %q: what is part of another sample goes to the raw lane, every sample", c.Match)
	}
	return nil
}

// compile turns the dead band into raw units of this signal, once.
func (c *Collect) compile(signal *telemetrypb.Signal) policy {
	p := policy{
		lane:     c.Lane,
		onChange: c.OnChange || c.DeadBand > 0,
		minNS:    int64(c.MinInterval),
		maxNS:    int64(c.MaxInterval),
		part:     c.Part,
	}
	if p.lane == telemetrypb.Lane_LANE_UNSPECIFIED {
		p.lane = telemetrypb.Lane_LANE_TELEMETRY
	}
	scale := math.Abs(signal.Scale)
	if scale == 0 {
		scale = 1
	}
	p.bandFloat = c.DeadBand / scale
	p.bandSteps = rawSteps(p.bandFloat)
	return p
}

// rawSteps is the band in whole raw steps: a difference of integers exceeds the band when it exceeds this. A band
// that was meant as a whole number of steps is taken as one: 0.3 / 0.1 is 2.9999999999999996 in binary64.
func rawSteps(band float64) uint64 {
	if whole := math.Round(band); math.Abs(band-whole) <= 1e-9*whole {
		band = whole
	}
	if band >= math.MaxUint64 {
		return math.MaxUint64
	}
	return uint64(band)
}

// Catalogue is what the signal ids mean. Not to be written to.
func (s *Selection) Catalogue() *telemetrypb.Catalogue { return s.catalogue }

// Bytes is the catalogue's encoding, which its hash names. Not to be written to.
func (s *Selection) Bytes() []byte { return s.data }

// Hash is the SHA-256 of Bytes.
func (s *Selection) Hash() [32]byte { return s.hash }

// ShortHash is what batches call the catalogue by: the first 16 bytes of its hash.
func (s *Selection) ShortHash() [16]byte { return [16]byte(s.hash[:16]) }

// ID is the id of a signal by name.
func (s *Selection) ID(name string) (uint32, bool) {
	id, ok := s.ids[name]
	return id, ok
}

// OnChange says whether a sample of a signal that repeats the one before it, bit for bit, may be left out before it
// comes here. It changes nothing then, but for MaxInterval, longest: that is told only by a sample that comes.
func (s *Selection) OnChange(id uint32) (ok bool, longest time.Duration) {
	if id == 0 || int64(id) >= int64(len(s.policies)) {
		return false, 0
	}
	how := &s.policies[id]
	if how.lane == 0 { // only watched by rules, whose edges are changes
		return true, 0
	}
	return how.onChange, time.Duration(how.maxNS)
}

// Lane is the lane of a signal, unspecified for one that only rules look at.
func (s *Selection) Lane(id uint32) telemetrypb.Lane {
	if int64(id) >= int64(len(s.policies)) {
		return telemetrypb.Lane_LANE_UNSPECIFIED
	}
	return s.policies[id].lane
}

// Len is the number of signals, which is also the highest id.
func (s *Selection) Len() int { return len(s.policies) - 1 }
