package api

import (
	"math"
	"math/rand/v2"
	"testing"
)

// What is left of a line lies where the line was: no point that was left out is far from it.
func TestThinKeepsTheShape(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var points []Point
	lat, lon, heading := 47.9, 179.9, 1.0 // across the date line
	for i := range 5000 {
		heading += 0.1 * rng.NormFloat64()
		lat, lon = lat+2e-5*math.Cos(heading), lon+3e-5*math.Sin(heading)
		points = append(points, Point{UnixNS: int64(i), Latitude: lat, Longitude: math.Remainder(lon, 360)})
	}
	points[2500].Begins = true
	for _, most := range []int{2, 3, 50, 500, 5000, 6000} {
		kept := thin(points, most)
		if len(kept) != min(most, len(points)) {
			t.Errorf("%d points, want %d", len(kept), most)
		}
		if kept[0] != points[0] || most > 3 && kept[len(kept)-1] != points[len(points)-1] {
			t.Errorf("%d: the ends are not kept", most)
		}
		worst, at := 0., 0
		for _, p := range points {
			for at+2 < len(kept) && kept[at+1].UnixNS <= p.UnixNS {
				at++
			}
			worst = max(worst, fromLine(p, kept[at], kept[min(at+1, len(kept)-1)]))
		}
		if most == 500 && worst > 10 || most == 5000 && worst > 1e-6 {
			t.Errorf("of %d points one lies %.1f m off", most, worst)
		}
	}
	if n := len(thin(points[:1], 2)); n != 1 {
		t.Errorf("%d", n)
	}
}
