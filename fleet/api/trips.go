package api

import (
	"maps"
	"slices"
	"time"
)

// The rule of a trip. Signals are looked at in steps; a step in which nothing came is not driven.
const (
	tripStep  = 5 * time.Second  // at least; the window's part where that is longer
	tripSteps = 20_000           // at most in a window
	tripStop  = 5 * time.Minute  // standing for longer ends a trip
	tripGap   = 10 * time.Minute // likewise nothing having come
	tripMoves = 1.               // m/s: faster is driving
)

// Trips are the drives of a window, and by what they were told.
type Trips struct {
	By    string  `json:"by"` // ignition, speed, or none where a vehicle has neither
	Speed string  `json:"speed_signal"`
	Step  float64 `json:"step_s"`
	Rule  string  `json:"rule"`
	Items []Trip  `json:"items"`
}

// Trip is one drive.
type Trip struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Open     bool      `json:"open"`       // it reaches the end of the window
	Distance *float64  `json:"distance_m"` // of the speed over time; null: there is no speed with a unit that is known
	Top      *float64  `json:"top_speed_mps"`
}

const tripRule = "a trip is where the ignition is on or, without such a signal, where the mean speed of a step is above 1 m/s; " +
	"shorter stops than 5 minutes belong to it; 10 minutes without any sample end it; of speed over time the distance"

// step is what is known of one step.
type step struct {
	on    bool
	speed float64 // m/s, mean
	top   float64
	known bool
	first int64 // Unix ns
	last  int64
}

func (s step) middle() int64 { return s.first + (s.last-s.first)/2 }

func (s *Server) trips(q *request) (any, error) {
	id, err := q.id()
	if err != nil {
		return nil, err
	}
	p := q.parameters()
	w := p.window(s.o.Now(), 24*time.Hour, maxTrips)
	if err := p.done(); err != nil {
		return nil, err
	}
	signals, err := s.o.Reader.Signals(q.Context(), id, SignalQuery{Now: s.o.Now(), Limit: 1 << 20})
	if err != nil {
		return nil, err
	}
	width := max(widthFor(w, tripSteps), tripStep)
	a := Trips{By: "none", Step: width.Seconds(), Rule: tripRule, Items: []Trip{}}
	steps := map[int64]step{}
	speed, factor := withRole(signals, speedSuffixes), 0.
	if speed != nil {
		factor, a.Speed = metresPerSecond(speed.Unit), speed.Name
	}
	if factor > 0 {
		buckets, err := s.o.Reader.Buckets(q.Context(), id, speed.Name, w, width)
		if err != nil {
			return nil, err
		}
		a.By = "speed"
		for _, b := range buckets {
			v := b.Mean * factor
			steps[b.Index] = step{on: v > tripMoves, speed: v, top: b.Max * factor, known: true, first: b.FirstNS, last: b.LastNS}
		}
	}
	if ignition := withRole(signals, ignitionSuffixes); ignition != nil {
		buckets, err := s.o.Reader.Buckets(q.Context(), id, ignition.Name, w, width)
		if err != nil {
			return nil, err
		}
		if len(buckets) > 0 {
			a.By = "ignition"
			underIgnition(steps, buckets)
		}
	}
	a.Items = cutTrips(steps, w)
	return a, nil
}

// underIgnition has the ignition decide. It is often sent only when it changes, so that its state holds until it is told anew.
func underIgnition(steps map[int64]step, buckets []Bucket) {
	for _, b := range buckets {
		s := steps[b.Index]
		if s.first == 0 {
			s.first, s.last = b.FirstNS, b.LastNS
		}
		steps[b.Index] = s
	}
	on, at := false, 0
	for _, i := range sorted(steps) {
		for at < len(buckets) && buckets[at].Index <= i {
			on = buckets[at].Max > 0
			at++
		}
		s := steps[i]
		s.on = on
		steps[i] = s
	}
}

// cutTrips goes over the steps in order of time.
func cutTrips(steps map[int64]step, w Window) []Trip {
	trips := []Trip{}
	var open *Trip
	var heard int64 // Unix ns: the last sample of any kind
	var before step // the step of the open trip that had a speed
	end := func() {
		if open != nil {
			trips, open = append(trips, *open), nil
		}
	}
	for _, i := range sorted(steps) {
		s := steps[i]
		if open != nil && (s.first-heard > int64(tripGap) || s.first-open.End.UnixNano() > int64(tripStop)) {
			end()
		}
		heard = s.last
		if !s.on {
			continue
		}
		if open == nil {
			open, before = &Trip{Start: time.Unix(0, s.first).UTC()}, step{}
		}
		open.End = time.Unix(0, s.last).UTC()
		if s.known {
			if open.Distance == nil {
				open.Distance, open.Top = new(float64), new(float64)
			}
			if before.known { // samples may be further apart than steps
				*open.Distance += (before.speed + s.speed) / 2 * time.Duration(s.middle()-before.middle()).Seconds()
			}
			*open.Top, before = max(*open.Top, s.top), s
		}
	}
	if open != nil {
		open.Open = w.To.UnixNano()-open.End.UnixNano() <= int64(tripStop)
	}
	end()
	return trips
}

func sorted(steps map[int64]step) []int64 { return slices.Sorted(maps.Keys(steps)) }
