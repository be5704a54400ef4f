package drive

import (
	"maps"
	"slices"
	"time"
)

// phase is a stretch of the drive with one character.
type phase struct {
	name     string
	from, to time.Duration
	speed    float64 // what the driver aims at, m/s; 0: the car stands
	wander   float64 // how much that varies, m/s
	bend     float64 // how fast the road may turn, degrees/m
	grade    float64 // of the road, metres up a metre
	tunnel   bool
	parked   bool
	charging bool
}

// part is a phase with its share of the drive, of 100.
type part struct {
	share int
	phase phase
}

// Mixed is the scenario of which every other has a part.
const Mixed = "mixed"

var (
	parked = phase{name: "parked", parked: true}
	city   = phase{name: "city", speed: 12, wander: 5, bend: 0.5}
	centre = phase{name: "city", speed: 9, wander: 3, bend: 0.5}
	stop   = phase{name: "stop"}
	climb  = phase{name: "climb", speed: 15, wander: 3, bend: 1.4, grade: 0.075}
	fall   = phase{name: "descent", speed: 13, wander: 2, bend: 1.4, grade: -0.08}
)

func motorway(speed float64) phase {
	return phase{name: "motorway", speed: speed, wander: 3, bend: 0.02}
}

func tunnel(speed float64) phase {
	return phase{name: "tunnel", speed: speed, wander: 1, bend: 0.01, tunnel: true}
}

// scenarios are the drives there are. What is left of 100 the car stands.
var scenarios = map[string][]part{
	Mixed:      {{4, parked}, {24, city}, {6, stop}, {20, motorway(33)}, {16, tunnel(25)}, {16, motorway(35)}, {8, centre}, {6, stop}},
	"city":     {{2, parked}, {18, city}, {3, stop}, {12, centre}, {4, stop}, {16, city}, {3, stop}, {14, centre}, {5, stop}, {20, city}, {2, stop}},
	"motorway": {{1, parked}, {7, city}, {42, motorway(33)}, {41, motorway(37)}, {7, city}, {2, stop}},
	"tunnel":   {{2, parked}, {18, city}, {20, motorway(24)}, {40, tunnel(22)}, {18, city}, {2, stop}},
	"mountain": {{2, parked}, {6, centre}, {40, climb}, {3, stop}, {5, tunnel(16)}, {36, fall}, {6, centre}, {2, stop}},
	"parked":   {{100, parked}},
	"charging": {{3, parked}, {94, phase{name: "charging", parked: true, charging: true}}},
}

// Scenarios are the names that Options.Scenario takes, in order.
func Scenarios() []string { return slices.Sorted(maps.Keys(scenarios)) }

// plan lays the phases over the duration of a drive.
func plan(parts []part, total time.Duration) []phase {
	var phases []phase
	share := 0
	for _, p := range parts {
		p.phase.from = (total * time.Duration(share) / 100).Truncate(tick)
		share += p.share
		p.phase.to = (total * time.Duration(share) / 100).Truncate(tick)
		phases = append(phases, p.phase)
	}
	last := parked
	last.from, last.to = phases[len(phases)-1].to, total
	if last.from < total {
		phases = append(phases, last)
	}
	return phases
}
