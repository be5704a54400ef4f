package api

import (
	"slices"
	"strings"
)

// Role is what a signal is to the words of docs/API.md; a store that keeps tables of them asks here, so that they mean the same.
type Role string

// The roles.
const (
	RoleLatitude  Role = "latitude"
	RoleLongitude Role = "longitude"
	RoleSuspect   Role = "suspect"
	RoleSpeed     Role = "speed"
	RoleIgnition  Role = "ignition"
)

// RoleOf gives the role of a signal by its name, empty when it has none; the receiver's name where it is one's; and, of several
// that have a role, the place in the order of preference: the least decides, then the name.
func RoleOf(name string) (role Role, source string, rank int) {
	for suffix, role := range map[string]Role{FixLatitude: RoleLatitude, FixLongitude: RoleLongitude, FixSuspect: RoleSuspect} {
		if source, ok := strings.CutSuffix(name, suffix); ok {
			return role, source, 0
		}
	}
	switch name {
	case VSSLocation + VSSLatitude:
		return RoleLatitude, VSSLocation, 0
	case VSSLocation + VSSLongitude:
		return RoleLongitude, VSSLocation, 0
	}
	for rank, suffix := range speedSuffixes {
		if strings.HasSuffix(name, suffix) {
			return RoleSpeed, "", rank
		}
	}
	for rank, suffix := range ignitionSuffixes {
		if strings.HasSuffix(name, suffix) {
			return RoleIgnition, "", rank
		}
	}
	return "", "", 0
}

// MetresPerSecond is the factor from a unit of speed; 0: not known.
func MetresPerSecond(unit string) float64 { return metresPerSecond(unit) }

// DriveStep is the step in which drives are looked for in tables.
const DriveStep = tripStep

// DriveStop: drives that are no further apart are one trip.
const DriveStop = tripStop

// Drive is a trip as far as a window holds it, with what it takes to join it to those of the windows beside.
type Drive struct {
	Trip
	Known   bool // the speed is known of some step
	FirstNS int64
	LastNS  int64   // Unix ns: middles of the first and the last step of which the speed is known
	First   float64 // m/s, likewise
	Last    float64
}

// Drives finds the drives of a window by the rule of the trips, from what speed and ignition were in each DriveStep of it. factor
// makes m/s of the speed; 0: it cannot be known. byIgnition has the ignition decide, and on says how it stood before the window.
func Drives(speed []Bucket, factor float64, ignition []Bucket, byIgnition, on bool, w Window) (list []Drive) {
	steps := map[int64]step{}
	if factor > 0 {
		for _, b := range speed {
			v := b.Mean * factor
			steps[b.Index] = step{on: v > tripMoves, speed: v, top: b.Max * factor, known: true, first: b.FirstNS, last: b.LastNS}
		}
	}
	if byIgnition {
		before := Bucket{Index: -1, FirstNS: w.From.UnixNano() - 1, LastNS: w.From.UnixNano() - 1}
		if on {
			before.Max = 1
		}
		underIgnition(steps, append([]Bucket{before}, ignition...))
		delete(steps, -1)
	}
	order := sorted(steps)
	for _, t := range cutTrips(steps, w) {
		d := Drive{Trip: t}
		begin, _ := slices.BinarySearchFunc(order, t.Start.UnixNano(), func(i, ns int64) int { return int(min(max(steps[i].first-ns, -1), 1)) })
		for _, i := range order[begin:] {
			s := steps[i]
			if s.first > t.End.UnixNano() {
				break
			}
			if !s.on || !s.known {
				continue
			}
			if !d.Known {
				d.Known, d.FirstNS, d.First = true, s.middle(), s.speed
			}
			d.LastNS, d.Last = s.middle(), s.speed
		}
		list = append(list, d)
	}
	return list
}
