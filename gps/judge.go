package gps

import "math"

// Suspect says why a fix is not to be believed. The fix is handed on as the receiver gave it: who uses it decides.
type Suspect uint8

// The reasons, as bits.
const (
	SuspectJump       Suspect = 1 << iota // farther from the last good fix than a vehicle gets in the time between
	SuspectHemisphere                     // a jump to where the last good fix would be with N and S or E and W exchanged
	SuspectStale                          // the same epoch again
	SuspectBackwards                      // an earlier time than the fix before
	SuspectNullIsland                     // within a kilometre of 0, 0, which receivers give that have no position
)

var suspectNames = [...]string{"jump", "hemisphere", "stale", "backwards", "null island"}

// AppendNames appends the names of the reasons.
func (s Suspect) AppendNames(dst []string) []string {
	for i, name := range suspectNames {
		if s&(1<<i) != 0 {
			dst = append(dst, name)
		}
	}
	return dst
}

// Limits of what is believed.
const (
	maxVehicleSpeed = 100  // m/s: 360 km/h
	jumpAllowance   = 100  // m: what a position may jump when buildings or a tunnel's end disturb it, above any speed
	nullIsland      = 1000 // m
	mirrored        = 5000 // m, between a fix and the mirror image of the last good one
	// convinced: so many fixes in a row that agree with one another, and not with the last good one, are believed: the
	// vehicle was carried, or the last good one was not.
	convinced = 5
	// forgets: after so long without a good fix anything may be the next. ns.
	forgets = 600e9
)

// Judge marks outliers. It belongs to one goroutine; the zero value is ready.
type Judge struct {
	good, candidate       Fix
	hasGood, hasCandidate bool
	agreed                int
	lastTime              int64
	hasTime               bool
}

// Judge sets f.Suspect. f.Boot must be that of its receipt, or its Time known.
func (j *Judge) Judge(f *Fix) {
	f.Suspect = 0
	if f.Has(HasTime) && f.Mode != ModeUnknown { // a lone ZDA may run ahead
		if j.hasTime && f.Time == j.lastTime {
			f.Suspect |= SuspectStale
		} else if j.hasTime && f.Time < j.lastTime {
			f.Suspect |= SuspectBackwards
		}
		j.lastTime, j.hasTime = f.Time, true
	}
	if !f.Valid() {
		return
	}
	var origin Fix
	if distance(&origin, f) < nullIsland {
		f.Suspect |= SuspectNullIsland
		return
	}
	if f.Suspect&SuspectStale != 0 {
		return
	}
	if !j.hasGood || reachable(&j.good, f) {
		j.believe(f)
		return
	}
	f.Suspect |= SuspectJump
	if mirrors(&j.good, f) {
		f.Suspect |= SuspectHemisphere
	}
	if j.hasCandidate && reachable(&j.candidate, f) {
		j.agreed++
	} else {
		j.agreed = 1
	}
	j.candidate, j.hasCandidate = *f, true
	if j.agreed > convinced {
		f.Suspect &^= SuspectJump | SuspectHemisphere
		j.believe(f)
	}
}

func (j *Judge) believe(f *Fix) {
	j.good, j.hasGood, j.hasCandidate, j.agreed = *f, true, false, 0
}

// reachable says whether a vehicle can have come from a to b.
func reachable(a, b *Fix) bool {
	elapsed := b.Boot - a.Boot
	if stamps := b.Time - a.Time; a.Has(HasTime) && b.Has(HasTime) && (elapsed == 0 || stamps < 60e9) {
		elapsed = max(elapsed, stamps) // they came in one burst, or out of a log
	}
	if elapsed > forgets {
		return true
	}
	radius, _ := a.ErrorRadius()
	other, _ := b.ErrorRadius()
	return distance(a, b) <= maxVehicleSpeed*float64(max(elapsed, 0))/1e9+jumpAllowance+3*(radius+other)
}

// mirrors says whether b is near a with one or both of its hemispheres exchanged.
func mirrors(a, b *Fix) bool {
	for _, m := range [...]Fix{
		{Latitude: -a.Latitude, Longitude: a.Longitude},
		{Latitude: a.Latitude, Longitude: -a.Longitude},
		{Latitude: -a.Latitude, Longitude: -a.Longitude},
	} {
		if near := distance(&m, b); near < mirrored && !math.IsNaN(near) {
			return true
		}
	}
	return false
}
