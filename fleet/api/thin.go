package api

import (
	"math"
	"slices"
)

// thin leaves at most `most` of the points of a track, first and last among them, so that what is left out lies as close to the
// line as can be had: Douglas and Peucker's rule, with the points ranked by the distance at which each matters (1973).
// Points that begin a stretch, and those before them, go last.
func thin(points []Point, most int) []Point {
	if len(points) <= most || most < 2 {
		return points
	}
	rank := make([]float64, len(points)) // metres
	rank[0], rank[len(points)-1] = math.Inf(1), math.Inf(1)
	type stretch struct {
		first, last int
		bound       float64 // no point within matters more than the one that divided its stretch
	}
	work := []stretch{{0, len(points) - 1, math.Inf(1)}}
	for len(work) > 0 {
		s := work[len(work)-1]
		work = work[:len(work)-1]
		far, at := -1., 0
		for i := s.first + 1; i < s.last; i++ {
			if d := fromLine(points[i], points[s.first], points[s.last]); d > far {
				far, at = d, i
			}
		}
		if at == 0 {
			continue
		}
		rank[at] = min(far, s.bound)
		work = append(work, stretch{s.first, at, rank[at]}, stretch{at, s.last, rank[at]})
	}
	for i := 1; i < len(points); i++ {
		if points[i].Begins {
			rank[i-1], rank[i] = math.Inf(1), math.Inf(1)
		}
	}
	ordered := slices.Sorted(slices.Values(rank))
	limit := ordered[len(ordered)-most]
	kept := make([]Point, 0, most)
	spare := most
	for _, r := range rank {
		if r > limit {
			spare--
		}
	}
	for i, p := range points {
		switch {
		case rank[i] > limit:
			kept = append(kept, p)
		case rank[i] == limit && spare > 0:
			kept, spare = append(kept, p), spare-1
		}
	}
	return kept
}

// fromLine is the distance of p from the stretch between a and b in metres, on a plane: tracks are short against the earth. Across
// the date line the short way counts.
func fromLine(p, a, b Point) float64 {
	const metres = 111_320. // a degree of latitude
	scale := math.Cos(a.Latitude * math.Pi / 180)
	x := func(q Point) float64 { return math.Remainder(q.Longitude-a.Longitude, 360) * scale * metres }
	y := func(q Point) float64 { return (q.Latitude - a.Latitude) * metres }
	bx, by, px, py := x(b), y(b), x(p), y(p)
	along := 0.
	if length := bx*bx + by*by; length > 0 {
		along = min(max((px*bx+py*by)/length, 0), 1)
	}
	return math.Hypot(px-along*bx, py-along*by)
}
