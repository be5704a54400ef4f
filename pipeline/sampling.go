package pipeline

import (
	"math"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// stepBack: a signal whose time runs back by more than this is another recording (a log played again): its sampling
// begins anew. Less is jitter between time stamps.
const stepBack = int64(time.Second)

// policy is a Collect made ready for one signal.
type policy struct {
	lane      telemetrypb.Lane // 0: only watched by rules, never sent
	onChange  bool
	bandSteps uint64  // dead band of integers, in raw steps
	bandFloat float64 // dead band of floats, in raw units
	minNS     int64
	maxNS     int64
	part      bool // Collect.Part
}

// everySample: there is nothing to decide.
func (p *policy) everySample() bool { return !p.onChange && p.minNS == 0 }

// sampler decides which samples of one signal are sent.
//
//	         changed, or MaxInterval over
//	idle ──────────────────────────────────▶ send, when MinInterval is over
//	 ▲ │                                      │
//	 │ └──────────▶ holding (the latest) ─────┘ when it is over
//	 └───── the value came back ──┘
type sampler struct {
	policy
	seen    bool
	holding bool
	sent    telemetrypb.Sample // the last one sent
	slot    int64              // the moment at which it was due to be sent: MinInterval runs from here
	held    telemetrypb.Sample // inside MinInterval: the latest that is to be sent
}

// due hands out the sample held back whose interval is over at the given time.
func (s *sampler) due(at int64) (telemetrypb.Sample, bool) {
	if !s.holding || at-s.slot < s.minNS {
		return telemetrypb.Sample{}, false
	}
	s.holding = false
	s.sent, s.slot = s.held, s.slot+s.minNS
	return s.sent, true
}

// flush hands out the sample held back, interval or not.
func (s *sampler) flush() (telemetrypb.Sample, bool) {
	return s.due(s.slot + s.minNS)
}

// begins says that v starts another recording: nothing before it can be compared with it.
func (s *sampler) begins(v *telemetrypb.Sample) bool {
	return s.seen && v.Time < s.sent.Time-stepBack
}

// repeats says that v is what is held, seen again: a value goes out with the time at which it was first seen, however
// often the bus repeats it, and whether or not a reader leaves repetitions out.
func (s *sampler) repeats(v *telemetrypb.Sample) bool {
	return s.holding && s.onChange && v.Time >= s.held.Time && v.Bits == s.held.Bits && v.Kind == s.held.Kind && v.Str == s.held.Str
}

// take decides on a sample; what due(v.Time−1) held, or due(v.Time) where v repeats it, must have been handed out before.
func (s *sampler) take(v *telemetrypb.Sample) bool {
	if s.seen && !s.begins(v) {
		wanted := !s.onChange || s.differs(&s.sent, v) || s.maxNS > 0 && v.Time-s.sent.Time >= s.maxNS
		if !wanted {
			s.holding = false
			return false
		}
		if v.Time-s.slot < s.minNS {
			if !s.repeats(v) {
				s.held, s.holding = *v, true
			}
			return false
		}
	}
	s.seen, s.holding = true, false
	s.sent, s.slot = *v, v.Time
	return true
}

// differs says whether b is more than the dead band away from a. Integers are compared exactly to 64 bits; a change
// to or from NaN is one, and −0 equals 0.
func (p *policy) differs(a, b *telemetrypb.Sample) bool {
	if a.Kind != b.Kind {
		return true
	}
	switch a.Kind {
	case telemetrypb.KindInt:
		x, y := int64(a.Bits), int64(b.Bits)
		if x < y {
			x, y = y, x
		}
		return uint64(x)-uint64(y) > p.bandSteps
	case telemetrypb.KindUint:
		return max(a.Bits, b.Bits)-min(a.Bits, b.Bits) > p.bandSteps
	case telemetrypb.KindFloat:
		x, y := math.Float64frombits(a.Bits), math.Float64frombits(b.Bits)
		switch {
		case x == y: // infinities too, whose difference is no number
			return false
		case math.IsNaN(x) || math.IsNaN(y):
			return math.IsNaN(x) != math.IsNaN(y)
		}
		return math.Abs(x-y) > p.bandFloat
	}
	return a.Str != b.Str
}
