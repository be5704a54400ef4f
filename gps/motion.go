package gps

import (
	"math"
	"time"
)

// MotionOptions say which fixes are worth keeping.
type MotionOptions struct {
	Every       bool          // keep every fix; the rest but the parked ones means nothing then
	Distance    float64       // m from the last kept fix; 0: 50
	Turn        float64       // degrees of track against the last kept fix; 0: 10
	SpeedChange float64       // m/s against the last kept fix; 0: 2
	MaxInterval time.Duration // a fix at least this often; 0: 5 s

	ParkedBelow    float64       // m/s: slower is perhaps parked; 0: 0.7; negative: nothing is ever parked
	ParkedAfter    time.Duration // of that, without leaving the spot; 0: 10 s
	ParkedInterval time.Duration // a fix at least this often while parked; 0: 1 min

	Odometer float64 // m: where to go on counting
}

const (
	parkedRadius    = 15.0  // m: a receiver that stands still wanders so far, and twice its error
	parkedRadiusMax = 100.0 // m: what it says of its error is believed up to here
	turnsFrom       = 2.0   // m/s: the track of anything slower is noise
	odometerStep    = 5.0   // m: shorter steps are noise
	leavesAfter     = 2     // fixes outside the spot, or fast, in a row
)

// Motion thins fixes, holds the position of a parked vehicle, and counts how far it went. It belongs to one goroutine.
//
//	moving ──▶ slow and on the spot for ParkedAfter ──▶ parked: position held, track left out
//	   ▲                                                 │
//	   └─────── two fixes in a row that are fast, or outside the spot
//
// A change of state (of the mode, the quality, what is suspect, whether it is parked) is always kept.
type Motion struct {
	opts    MotionOptions
	kept    Fix // the last fix that was kept, as it was judged
	hasKept bool

	parked     bool
	keptParked bool
	spot       Fix // where it may be parked
	hasSpot    bool
	leaving    int

	odometer   float64
	counted    Fix // up to where the odometer has counted
	hasCounted bool
	thinned    uint64
}

// Movement is what Motion knows of a fix.
type Movement struct {
	Keep     bool // hand it on
	Parked   bool
	Odometer float64 // m, never less than before
}

// NewMotion makes a Motion with defaults for a car.
func NewMotion(o MotionOptions) *Motion {
	or := func(v *float64, usual float64) {
		if *v == 0 {
			*v = usual
		}
	}
	orTime := func(v *time.Duration, usual time.Duration) {
		if *v == 0 {
			*v = usual
		}
	}
	or(&o.Distance, 50)
	or(&o.Turn, 10)
	or(&o.SpeedChange, 2)
	or(&o.ParkedBelow, 0.7)
	orTime(&o.MaxInterval, 5*time.Second)
	orTime(&o.ParkedAfter, 10*time.Second)
	orTime(&o.ParkedInterval, time.Minute)
	return &Motion{opts: o, odometer: o.Odometer}
}

// Thinned is how many fixes were not kept.
func (m *Motion) Thinned() uint64 { return m.thinned }

// KeepNext keeps the next fix, whatever it is: something else about it has changed.
func (m *Motion) KeepNext() { m.hasKept = false }

// See takes the next fix, judged already and stamped with Boot. While parked its position is the held one afterwards,
// and it has no track.
func (m *Motion) See(f *Fix) Movement {
	trusted := f.Valid() && f.Suspect == 0
	if trusted {
		m.park(f)
		m.count(f)
	}
	keep := m.worthKeeping(f, trusted)
	if keep {
		m.kept, m.hasKept, m.keptParked = *f, true, m.parked
	} else {
		m.thinned++
	}
	if m.parked && trusted {
		f.Latitude, f.Longitude = m.spot.Latitude, m.spot.Longitude
		f.Fields &^= HasTrack
	}
	return Movement{Keep: keep, Parked: m.parked, Odometer: m.odometer}
}

// park works out whether the vehicle stands.
func (m *Motion) park(f *Fix) {
	if m.opts.ParkedBelow < 0 {
		return
	}
	slow := !f.Has(HasSpeed) || f.Speed < m.opts.ParkedBelow
	inside := m.hasSpot && distance(&m.spot, f) <= spotRadius(f)
	if m.parked {
		if inside && (slow || f.Speed < 2*m.opts.ParkedBelow) {
			m.leaving = 0
			return
		}
		if m.leaving++; m.leaving >= leavesAfter {
			m.parked, m.hasSpot = false, false
		}
		return
	}
	switch {
	case !slow:
		m.hasSpot = false
	case !inside:
		m.spot, m.hasSpot = *f, true
	case f.Boot-m.spot.Boot >= int64(m.opts.ParkedAfter):
		m.parked, m.leaving = true, 0
	}
}

// spotRadius is how far a fix of a parked vehicle may wander.
func spotRadius(f *Fix) float64 {
	radius, _ := f.ErrorRadius()
	return min(max(parkedRadius, 2*radius), parkedRadiusMax)
}

// count adds to the odometer. What a vehicle cannot have driven is not counted: it was carried.
func (m *Motion) count(f *Fix) {
	if m.parked {
		return
	}
	if !m.hasCounted {
		m.counted, m.hasCounted = *f, true
		return
	}
	if f.Boot-m.counted.Boot > forgets || !reachable(&m.counted, f) {
		m.counted = *f
		return
	}
	step := odometerStep
	if m.hasSpot { // perhaps it stands
		step = spotRadius(f)
	}
	if d := distance(&m.counted, f); d >= step {
		m.odometer += d
		m.counted = *f
	} else if d < odometerStep/2 {
		m.counted.Boot = f.Boot // it is still there
	}
}

func (m *Motion) worthKeeping(f *Fix, trusted bool) bool {
	k := &m.kept
	switch {
	case m.opts.Every || !m.hasKept:
		return true
	case f.Mode != k.Mode || f.Valid() != k.Valid() || f.Quality != k.Quality || f.Suspect != k.Suspect || m.parked != m.keptParked:
		return true
	}
	elapsed := f.Boot - k.Boot
	if m.parked {
		return elapsed >= int64(m.opts.ParkedInterval)
	}
	if elapsed >= int64(m.opts.MaxInterval) || elapsed < 0 {
		return true
	}
	if !trusted || !k.Valid() {
		return false
	}
	if distance(k, f) >= m.opts.Distance {
		return true
	}
	if f.Has(HasSpeed) && k.Has(HasSpeed) && math.Abs(f.Speed-k.Speed) >= m.opts.SpeedChange {
		return true
	}
	return f.Has(HasTrack|HasSpeed) && f.Speed >= turnsFrom &&
		(!k.Has(HasTrack) || math.Abs(math.Remainder(f.Track-k.Track, 360)) >= m.opts.Turn)
}
