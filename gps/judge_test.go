package gps

import (
	"math"
	"slices"
	"testing"
)

// drive is a vehicle going east at 20 m/s from 48° N, 11° E, a fix a second.
func drive(seconds int) []Fix {
	list := make([]Fix, seconds)
	for i := range list {
		list[i] = Fix{
			Boot: int64(i+1) * 1e9, Time: 1.7e18 + int64(i)*1e9, Latitude: 48e9, Longitude: 11e9 + int64(i)*268_000,
			Speed: 20, Track: 90, Mode: Mode3D, Fields: HasTime | HasPosition | HasSpeed | HasTrack,
		}
	}
	return list
}

func judged(list []Fix) []Suspect {
	var j Judge
	said := make([]Suspect, len(list))
	for i := range list {
		before := list[i]
		j.Judge(&list[i])
		said[i] = list[i].Suspect
		list[i].Suspect = 0
		if before != list[i] {
			panic("the judge changed the fix")
		}
	}
	return said
}

func TestJudgeMarksOutliers(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(list []Fix)
		want  map[int]Suspect
	}{
		"a drive":      {func([]Fix) {}, nil},
		"a jump":       {func(l []Fix) { l[10].Latitude += 0.01 * 1e9 }, map[int]Suspect{10: SuspectJump}},
		"two jumps":    {func(l []Fix) { l[10].Latitude += 5e9; l[11].Longitude -= 5e9 }, map[int]Suspect{10: SuspectJump, 11: SuspectJump}},
		"south":        {func(l []Fix) { l[10].Latitude *= -1 }, map[int]Suspect{10: SuspectJump | SuspectHemisphere}},
		"west":         {func(l []Fix) { l[10].Longitude *= -1 }, map[int]Suspect{10: SuspectJump | SuspectHemisphere}},
		"resent":       {func(l []Fix) { b := l[10].Boot; l[10] = l[9]; l[10].Boot = b }, map[int]Suspect{10: SuspectStale}},
		"time back":    {func(l []Fix) { l[10].Time -= 3e9 }, map[int]Suspect{10: SuspectBackwards}},
		"null island":  {func(l []Fix) { l[10].Latitude, l[10].Longitude = 1000, 2000 }, map[int]Suspect{10: SuspectNullIsland}},
		"no fix":       {func(l []Fix) { l[10] = Fix{Boot: l[10].Boot, Mode: ModeNoFix} }, nil},
		"out of a log": {func(l []Fix) { clear0(l) }, nil},
		"ten minutes without a fix, a ferry": {func(l []Fix) {
			for i := 10; i < len(l); i++ {
				l[i].Boot += 601e9
				l[i].Latitude += 1e9
			}
		}, nil},
		"carried away at once": {func(l []Fix) {
			for i := 10; i < len(l); i++ {
				l[i].Latitude += 1e9
			}
		}, map[int]Suspect{10: SuspectJump, 11: SuspectJump, 12: SuspectJump, 13: SuspectJump, 14: SuspectJump}},
	} {
		list := drive(30)
		c.spoil(list)
		for i, got := range judged(list) {
			if got != c.want[i] {
				t.Errorf("%s: fix %d: %v, want %v", name, i, got.AppendNames(nil), c.want[i].AppendNames(nil))
			}
		}
	}
}

func clear0(l []Fix) {
	for i := range l {
		l[i].Boot = 0
	}
}

// A sky of several systems and bands, and a set that shrinks.
func TestSkyOfSeveralSystems(t *testing.T) {
	p := mustParser(t, ParserOptions{})
	var last Fix
	emit := func(f Fix) { last = f }
	epoch := func(second string, more ...string) {
		p.Feed(lines(append([]string{
			"GNRMC,1200" + second + ",A,4807.038,N,01131.000,E,022.4,084.4,230326,,",
			"GNGSA,A,3,01,02,33,,,,,,,,,,1.8,0.9,1.6,1",
			"GNGSA,A,3,65,66,,,,,,,,,,,1.8,0.9,1.6,2",
			"GNGSA,A,3,05,05,,,,,,,,,,,1.8,0.9,1.6,3", // once for each of its bands
		}, more...)...), 0, emit)
	}
	epoch("00",
		"GPGSV,2,1,05,01,40,083,46,02,17,308,41,12,07,344,39,33,22,228,45,1", "GPGSV,2,2,05,14,22,228,,1",
		"GPGSV,1,1,01,01,40,083,30,6", "GLGSV,1,1,02,65,10,010,20,66,11,011,21,1", "GAGSV,1,1,01,05,60,100,40,7")
	epoch("01", "GPGSV,1,1,02,01,41,083,47,02,17,308,41,1", "GPGSV,1,1,00,6")
	epoch("02")
	p.End(emit)
	if last.Systems[SystemGPS] != (SystemCount{2, 2}) || last.Systems[SystemGLONASS] != (SystemCount{2, 2}) ||
		last.Systems[SystemGalileo] != (SystemCount{1, 1}) || last.Systems[SystemSBAS] != (SystemCount{1, 0}) || last.Seen != 5 {
		t.Errorf("%d seen, %v", last.Seen, last.Systems)
	}
	sky := p.AppendSky(nil)
	want := Satellite{System: SystemGPS, ID: 1, Signal: 1, Elevation: 41, Azimuth: 83, SNR: 47, Known: 7, Used: true}
	if !slices.Contains(sky, want) || len(sky) != 5 {
		t.Errorf("%d signals in view, %+v is not among them: %+v", len(sky), want, sky)
	}
}

// A receiver that invents satellites fills no memory.
func TestSkyIsBounded(t *testing.T) {
	p := mustParser(t, ParserOptions{})
	for i := range 900 {
		p.Feed(lines("GPGSV,3,2,12,"+itoa(i+1)+",40,083,46"), 0, func(Fix) {})
	}
	if n := len(p.AppendSky(nil)); n != maxSky {
		t.Errorf("%d in view, want %d", n, maxSky)
	}
}

func itoa(n int) string { return string(appendDigits(nil, uint64(n), 1)) }

// The errors are the receiver's own where it gives them: GST before, after and in the midst of the sentences of its
// epoch; GBS where there is no GST.
func TestErrorsOfTheReceiver(t *testing.T) {
	rmc := func(s string) string { return "GPRMC,1200" + s + ",A,4807.038,N,01131.000,E,022.4,084.4,230326,," }
	gga := func(s string) string { return "GPGGA,1200" + s + ",4807.038,N,01131.000,E,1,08,2.0,545.4,M,46.9,M,," }
	gst := func(s string) string { return "GPGST,1200" + s + ",5,,,,1." + s + ",2,3" }
	gbs := func(s string) string { return "GPGBS,1200" + s + ",4.0,4.5,5,,,,," }
	for name, order := range map[string][]func(string) string{
		"first": {gst, rmc, gga}, "between": {rmc, gst, gga}, "last": {rmc, gga, gst}, "with GBS": {gbs, rmc, gst, gga}, "and after": {rmc, gga, gst, gbs},
	} {
		p := mustParser(t, ParserOptions{})
		var fixes []Fix
		emit := func(f Fix) { fixes = append(fixes, f) }
		for _, s := range []string{"10", "20", "30", "40", "50"} {
			for _, one := range order {
				p.Feed(lines(one(s)), 0, emit)
			}
			p.Idle(emit)
		}
		p.End(emit)
		for i, f := range fixes[1:] { // in the first, a GST that leads cannot be told to
			want := 1 + float64(i+2)/10
			if f.ErrorLatitude != want || f.ErrorLongitude != 2 || f.ErrorAltitude != 3 || f.Has(ErrorsDerived) || !f.Has(HasErrorHorizontal|HasErrorVertical) {
				t.Errorf("%s: epoch %d: %v %v %v, want %v 2 3", name, i+1, f.ErrorLatitude, f.ErrorLongitude, f.ErrorAltitude, want)
			}
		}
		if len(fixes) != 5 {
			t.Errorf("%s: %d fixes", name, len(fixes))
		}
	}
	p := mustParser(t, ParserOptions{})
	var f Fix
	emit := func(one Fix) { f = one }
	p.Feed(lines(rmc("10"), gbs("10"), gga("10"), "GPHDT,271.5,T", rmc("11")), 0, emit)
	if f.ErrorLatitude != 4 || f.ErrorAltitude != 5 || f.Has(ErrorsDerived) || f.Heading != 271.5 || !f.Has(HasHeading) {
		t.Errorf("with GBS alone: %+v", f)
	}
	p = mustParser(t, ParserOptions{})
	p.Feed(lines(rmc("10"), gga("10"), rmc("11")), 0, emit)
	if radius, ok := f.ErrorRadius(); !ok || !f.Has(ErrorsDerived) || math.Abs(radius-10) > 1e-9 || f.Has(HasErrorVertical) {
		t.Errorf("derived: %v %v", radius, f)
	}
}
