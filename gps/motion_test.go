package gps

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// at is a fix so many seconds into a drive, so many metres north and east of a place.
func at(second float64, north, east, speed, track float64) Fix {
	const lat = 48.0
	return Fix{
		Boot: int64(second * 1e9), Latitude: NanoDegrees(lat + north/111_194.9), Longitude: NanoDegrees(11 + east/(111_319.5*math.Cos(lat*math.Pi/180))),
		Speed: speed, Track: track, Mode: Mode3D, Quality: QualityGNSS, Fields: HasPosition | HasSpeed | HasTrack | HasQuality,
	}
}

func TestThinningOfAStraightRoadAndATurn(t *testing.T) {
	m := NewMotion(MotionOptions{})
	var kept []int
	for s := range 40 { // 8 m/s straight on for 20 s, then a turn of 9° a second for 10 s, then on
		turn := 9 * float64(min(max(s-20, 0), 10))
		f := at(float64(s), 8*float64(s), 0, 8, turn)
		if m.See(&f).Keep {
			kept = append(kept, s)
		}
	}
	// Every 5 s; in the turn every second fix, as 9° are less than the 10 that are asked for and 18 more.
	want := []int{0, 5, 10, 15, 20, 22, 24, 26, 28, 30, 35}
	if len(kept) != len(want) {
		t.Fatalf("kept %v, want %v", kept, want)
	}
	for i := range want {
		if kept[i] != want[i] {
			t.Errorf("kept %v, want %v", kept, want)
		}
	}
	if m.Thinned() != 40-uint64(len(kept)) {
		t.Errorf("%d thinned of 40, %d kept", m.Thinned(), len(kept))
	}
	every := NewMotion(MotionOptions{Every: true})
	for s := range 10 {
		if f := at(float64(s), 0, 0, 8, 0); !every.See(&f).Keep {
			t.Error("every: a fix was thinned")
		}
	}
}

func TestThinningByDistanceAndSpeed(t *testing.T) {
	m := NewMotion(MotionOptions{})
	keeps := func(f Fix) bool { return m.See(&f).Keep }
	if !keeps(at(0, 0, 0, 30, 0)) || keeps(at(1, 30, 0, 30, 0)) || !keeps(at(2, 60, 0, 30, 0)) {
		t.Error("50 m")
	}
	if keeps(at(3, 89, 0, 28.1, 0)) || !keeps(at(3.5, 100, 0, 27.9, 0)) {
		t.Error("braking by 2 m/s")
	}
}

// No change of state is hidden, however soon after a kept fix it comes.
func TestThinningHidesNoChangeOfState(t *testing.T) {
	steady := func(s float64) Fix { return at(s, s, 0, 1, 0) }
	for name, change := range map[string]func(*Fix){
		"lost":     func(f *Fix) { f.Mode = ModeNoFix },
		"2D":       func(f *Fix) { f.Mode = Mode2D },
		"quality":  func(f *Fix) { f.Quality = QualityDGNSS },
		"suspect":  func(f *Fix) { f.Suspect = SuspectStale },
		"position": func(f *Fix) { f.Fields &^= HasPosition },
	} {
		m := NewMotion(MotionOptions{MaxInterval: time.Hour})
		for s := range 6 {
			f := steady(float64(s))
			if s == 3 {
				change(&f)
			}
			if got, want := m.See(&f).Keep, s == 0 || s == 3 || s == 4; got != want {
				t.Errorf("%s: fix %d kept: %v", name, s, got)
			}
		}
	}
}

// A parked car's wandering fixes are one position and no distance; a start is seen at the second fix.
func TestParkedDriftIsHeld(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, spread := range []float64{3, 7} {
		m := NewMotion(MotionOptions{})
		odometer, kept, parkedAt := 0.0, 0, -1
		var held Fix
		for s := range 3600 {
			f := at(float64(s), max(min(spread*random.NormFloat64(), 7.4), -7.4), max(min(spread*random.NormFloat64(), 7.4), -7.4), 0.5*random.Float64(), 360*random.Float64())
			mv := m.See(&f)
			if mv.Keep {
				kept++
			}
			if mv.Parked && parkedAt < 0 {
				parkedAt, held = s, f
			}
			if mv.Parked && (f.Latitude != held.Latitude || f.Longitude != held.Longitude || f.Has(HasTrack)) {
				t.Fatalf("second %d: the parked car moves, or has a track", s)
			}
			if mv.Odometer < odometer {
				t.Fatalf("the odometer runs backwards")
			}
			odometer = mv.Odometer
		}
		if parkedAt < 10 || parkedAt > 60 {
			t.Errorf("spread %v m: parked at %d s", spread, parkedAt)
		}
		if odometer > 30 {
			t.Errorf("spread %v m: %v m driven while parked", spread, odometer)
		}
		if kept > 90 { // one a minute, and those before it was parked
			t.Errorf("spread %v m: %d fixes kept of an hour", spread, kept)
		}
		start := at(3600, 40, 0, 4, 0)
		if mv := m.See(&start); !mv.Parked {
			t.Error("one fix outside ends the parking")
		}
		start = at(3601, 44, 0, 4, 0)
		if mv := m.See(&start); mv.Parked || !mv.Keep || start.Latitude == held.Latitude {
			t.Error("the start was not seen")
		}
	}
}

func TestOdometer(t *testing.T) {
	var j Judge
	m := NewMotion(MotionOptions{Odometer: 1000})
	see := func(f Fix) float64 {
		j.Judge(&f)
		return m.See(&f).Odometer
	}
	second := 0.0
	var got float64
	for range 101 { // 1,000 m with 1 m of noise
		second++
		got = see(at(second, 10*second, math.Sin(second), 10, 0))
	}
	if math.Abs(got-2000) > 10 {
		t.Errorf("%v m, want 2,000", got)
	}
	before := got
	outlier := at(second+1, 5000, 5000, 10, 0)
	if got = see(outlier); got != before {
		t.Errorf("an outlier adds %v m", got-before)
	}
	second += 2
	if got = see(at(second, 10*second, 0, 10, 0)); math.Abs(got-before-20) > 2 {
		t.Errorf("after the outlier %v m, want 20", got-before)
	}
	// A tunnel of a minute: the straight line through it.
	before = got
	second += 60
	if got = see(at(second, 10*second, 0, 10, 0)); math.Abs(got-before-600) > 2 {
		t.Errorf("through the tunnel %v m, want 600", got-before)
	}
	// Carried on a ferry overnight.
	before = got
	if got = see(at(second+36_000, 1e5, 0, 10, 0)); got != before {
		t.Errorf("carried: %v m", got-before)
	}
}

func TestMotionAllocatesNothing(t *testing.T) {
	m := NewMotion(MotionOptions{})
	var j Judge
	f, s := at(0, 0, 0, 10, 0), 0.0
	if n := testing.AllocsPerRun(1000, func() {
		s++
		f = at(s, 10*s, 0, 10, 0)
		j.Judge(&f)
		m.See(&f)
		Privacy{Grid: 1000}.Apply(&f)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A cell tells nothing of where in it the fix was: all places of a cell give one answer, it is in the same cell, and it
// is at most half a cell away.
func TestGridTellsTheCellOnly(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, size := range []float64{100, 1000, 20_000} {
		for range 20_000 {
			f := fullFix
			f.Latitude, f.Longitude = NanoDegrees(180*random.Float64()-90), NanoDegrees(360*random.Float64()-180)
			f.Suspect = 0
			precise := f
			Privacy{Grid: size}.Apply(&f)
			if f.Latitude == precise.Latitude && f.Longitude == precise.Longitude || f.Has(HasAltitude) || f.Has(HasSeparation) || f.Altitude != 0 || f.Separation != 0 {
				t.Fatalf("precise values are left: %+v", f)
			}
			again := f
			Privacy{Grid: size}.Apply(&again)
			if again.Latitude != f.Latitude || again.Longitude != f.Longitude {
				t.Fatalf("the middle of a cell lies in another: %d %d, %d %d", f.Latitude, f.Longitude, again.Latitude, again.Longitude)
			}
			if d := distance(&precise, &f); d > 0.9*size && math.Abs(float64(precise.Latitude)) < 89e9 {
				t.Fatalf("%v m from the middle of a cell of %v m: %d %d", d, size, precise.Latitude, precise.Longitude)
			}
			if f.Latitude < -90e9 || f.Latitude > 90e9 || f.Longitude < -180e9 || f.Longitude > 180e9 {
				t.Fatalf("no position: %d %d", f.Latitude, f.Longitude)
			}
		}
	}
	for _, corner := range []Fix{{Latitude: 90e9, Longitude: 180e9}, {Latitude: -90e9, Longitude: -180e9}, {Latitude: 0, Longitude: 180e9}} {
		corner.Mode, corner.Fields = Mode3D, HasPosition
		Privacy{Grid: 1000}.Apply(&corner)
		if corner.Latitude < -90e9 || corner.Latitude > 90e9 || corner.Longitude < -180e9 || corner.Longitude > 180e9 {
			t.Errorf("no position: %+v", corner)
		}
	}
	// Two drives within one cell give the same samples, but for what may leave.
	a, b := at(1, 10, 10, 5, 90), at(1, 300, 400, 5, 90)
	Privacy{Grid: 2000}.Apply(&a)
	Privacy{Grid: 2000}.Apply(&b)
	if a != b {
		t.Errorf("%+v\n%+v", a, b)
	}
}
