package gps

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// checkFix holds whatever comes out to what a fix may be.
func checkFix(t *testing.T, f Fix) {
	t.Helper()
	switch {
	case f.Mode > Mode3D:
		t.Errorf("mode %d", f.Mode)
	case f.Has(HasPosition) && (f.Latitude < -90e9 || f.Latitude > 90e9 || f.Longitude < -180e9 || f.Longitude > 180e9):
		t.Errorf("position %d %d", f.Latitude, f.Longitude)
	case f.Has(HasPosition) && f.Latitude == 0 && f.Longitude == 0:
		t.Error("a position at 0, 0")
	case f.Has(HasSpeed) && !(f.Speed >= 0 && f.Speed <= maxSpeed):
		t.Errorf("speed %v", f.Speed)
	case f.Has(HasTrack) && !(f.Track >= 0 && f.Track < 360):
		t.Errorf("track %v", f.Track)
	case f.Has(HasAltitude) && !(math.Abs(f.Altitude) <= maxAltitude):
		t.Errorf("altitude %v", f.Altitude)
	case f.Has(HasHDOP) && !(f.HDOP >= 0 && f.HDOP < 99):
		t.Errorf("hdop %v", f.HDOP)
	case f.Has(HasErrorHorizontal) && !(f.ErrorLatitude >= 0 && f.ErrorLongitude >= 0 && f.ErrorLatitude < maxError && f.ErrorLongitude < maxError):
		t.Errorf("errors %v %v", f.ErrorLatitude, f.ErrorLongitude)
	case f.Has(HasErrorVertical) && !(f.ErrorAltitude >= 0 && f.ErrorAltitude < maxError):
		t.Errorf("altitude's error %v", f.ErrorAltitude)
	case f.Has(HasHeading) && !(f.Heading >= 0 && f.Heading < 360):
		t.Errorf("heading %v", f.Heading)
	case f.Seen < 0 || f.Seen > maxSky:
		t.Errorf("%d satellites in view", f.Seen)
	case f.Satellites < 0:
		t.Errorf("%d satellites", f.Satellites)
	}
}

// FuzzParser: bytes of any kind, cut anywhere, never panic, never make an impossible fix, and no fix at all without a
// sentence whose checksum is right.
func FuzzParser(f *testing.F) {
	f.Add(rmcGGA("00"), uint16(7))
	f.Add(slices.Concat(rmcGGA("01"), rmcGGA("02"), lines("GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1")), uint16(1))
	f.Add([]byte("# Date: 2019-2-4\n$GPTXT*4F\n$PQGSA*00$PSTI,030*00"), uint16(3))
	f.Add(lines("GNGNS,120000,4807.038,N,01131.000,E,AN,08,0.9,545.4,46.9,,,V", "GPGLL,4807.038,N,01131.000,E,120001,A,A"), uint16(64))
	f.Add(lines("GPZDA,120000.00,29,02,2024,-12,30", "GPRMC,235960,A,4807.038,S,17959.999,W,022.4,360.0,311216,,", "PGRMZ,246,f,3"), uint16(2))
	f.Add(lines("GPGST,120000,1,,,,2.5,3.5,5", "GLGBS,120000,1,2,3,,,,", "GPGSV,2,1,05,01,40,083,46,02,17,308,,12,07,344,39,14,22,228,45,1", "GNHDT,123.4,T"), uint16(9))
	f.Add(lines("PSTI,030,120000.000,A,4807.038,N,01131.000,E,100.0,1,2,3,230326,A,1,2", "PSRFEPE,120000,A,,,,,"), uint16(5))
	f.Fuzz(func(t *testing.T, data []byte, chunk uint16) {
		p, err := NewParser(ParserOptions{LogHeaders: true, OnReject: func(Reject) {}})
		if err != nil {
			t.Fatal(err)
		}
		emit := func(fix Fix) {
			checkFix(t, fix)
			sky := p.AppendSky(nil)
			if len(sky) > maxSky {
				t.Errorf("%d in the sky", len(sky))
			}
			if fix.Valid() && p.Counters().Sentences == 0 {
				t.Error("a fix without a sentence")
			}
		}
		for part := range slices.Chunk(data, int(chunk)+1) {
			p.Feed(part, 0, emit)
			p.Idle(emit)
		}
		p.End(emit)
		p.Reset(emit)
		if !bytes.ContainsAny(data, "$!") && p.Counters().Sentences != 0 {
			t.Error("a sentence without a beginning")
		}
	})
}

// FuzzRoundTrip: what the writers write of a fix, the parser reads back.
func FuzzRoundTrip(f *testing.F) {
	f.Add(int64(48117300000), int64(11516666667), 545.4, 46.9, 11.5, 84.4, uint8(8), uint8(2), int64(1774267200123))
	f.Add(int64(-1), int64(-179999999999), -30.4, -13.9, 0.0, 359.99, uint8(12), uint8(1), int64(1483228799999))
	f.Add(int64(90000000000), int64(180000000000), 0.0, 0.0, 300.0, 0.0, uint8(4), uint8(5), int64(1700000000000))
	f.Fuzz(func(t *testing.T, latitude, longitude int64, altitude, separation, speed, track float64, satellites, quality uint8, ms int64) {
		in := Fix{
			Time: 1.2e18 + (ms%7e11+7e11)%7e11*1e6, Latitude: latitude % (90e9 + 1), Longitude: longitude % (180e9 + 1),
			Altitude: math.Mod(altitude, 1e5), Separation: math.Mod(separation, 100), Speed: math.Abs(math.Mod(speed, 500)),
			Track: math.Abs(math.Mod(track, 359.99)), HDOP: 1.25, PDOP: 2, VDOP: 1.5, Satellites: int(satellites)%9 + 4,
			Mode: Mode3D, Quality: Quality(quality%8) + 1, Fields: 1<<11 - 1,
		}
		if math.IsNaN(in.Altitude + in.Separation + in.Speed + in.Track) {
			return
		}
		p := mustParser(t, ParserOptions{Reference: time.Unix(0, in.Time)})
		var out []Fix
		emit := func(f Fix) { out = append(out, f) }
		p.Feed(AppendGSA(AppendGGA(AppendVTG(AppendRMC(nil, in), in), in), in), 0, emit)
		p.End(emit)
		// 0.2 mm of position may round to 0, 0 exactly, which is no position.
		if max(in.Latitude, -in.Latitude, in.Longitude, -in.Longitude) < 2 {
			return
		}
		if len(out) != 1 {
			t.Fatalf("%d fixes out of one; %+v", len(out), p.Counters())
		}
		got := out[0]
		close := func(name string, got, want, within float64) {
			if !(math.Abs(got-want) <= within) {
				t.Errorf("%s %v, want %v", name, got, want)
			}
		}
		close("latitude", float64(got.Latitude), float64(in.Latitude), 1)
		close("longitude", float64(got.Longitude), float64(in.Longitude), 1)
		close("altitude", got.Altitude, in.Altitude, 0.000501)
		close("separation", got.Separation, in.Separation, 0.000501)
		close("speed", got.Speed, in.Speed, 0.000258)
		close("track", math.Remainder(got.Track-in.Track, 360), 0, 0.00501)
		if got.Time != in.Time || got.Satellites != in.Satellites || got.Mode != in.Mode || got.Quality != in.Quality ||
			got.HDOP != in.HDOP || got.PDOP != in.PDOP || got.VDOP != in.VDOP || got.Fields&(1<<11-1) != in.Fields || got.Systems[SystemGPS].Used != uint8(in.Satellites) || !got.Has(HasDate) {
			t.Errorf("\n got %+v\nwant %+v", got, in)
		}
	})
}

// Random bytes hold no fix.
func TestRandomBytes(t *testing.T) {
	const mebibyte = 1 << 20
	data := make([]byte, mebibyte)
	state := uint64(42)
	for i := range data {
		state = state*6364136223846793005 + 1442695040888963407
		data[i] = byte(state >> 56)
	}
	fixes, counters := fixesIn(t, data, 4096)
	for _, f := range fixes {
		if f.Valid() {
			t.Errorf("a fix: %+v", f)
		}
	}
	rejected := counters.NoiseBytes
	for _, n := range counters.Rejected {
		rejected += n
	}
	if rejected == 0 {
		t.Error("nothing was counted")
	}
}

// Every single bit flip in an epoch is caught by the checksum, the framing or the field checks, or changes nothing
// but the noise around it.
func TestBitFlips(t *testing.T) {
	good := rmcGGA("00")
	want, _ := fixesIn(t, good, len(good))
	for i := range good {
		for bit := range 8 {
			data := slices.Clone(good)
			data[i] ^= 1 << bit
			got, _ := fixesIn(t, data, len(data))
			for _, f := range got {
				if f.Valid() && (f.Latitude != want[0].Latitude || f.Longitude != want[0].Longitude || f.Has(HasTime) && f.Time != want[0].Time) {
					t.Errorf("byte %d bit %d (%q): a wrong fix %+v", i, bit, data[i], f)
				}
			}
		}
	}
}

func TestNoAllocationsPerSentence(t *testing.T) {
	p := mustParser(t, ParserOptions{})
	input := slices.Concat(rmcGGA("00"), rmcGGA("01"), []byte("noise$GPGGA*00\r\n"))
	count := 0
	emit := func(Fix) { count++ }
	if n := testing.AllocsPerRun(200, func() { p.Feed(input, 1, emit) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if count == 0 {
		t.Error("no fixes")
	}
}

func BenchmarkParser(b *testing.B) {
	data, err := os.ReadFile(filepath.Join(testData(b), "ublox-neo-m9n-nmea.log"))
	if err != nil {
		b.Fatal(err)
	}
	p := mustParser(b, ParserOptions{LogHeaders: true})
	emit := func(Fix) {}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	p.Feed(data, 0, emit)
	before := p.Counters()
	for b.Loop() {
		p.Feed(data, 0, emit)
	}
	after := p.Counters()
	sentences := float64(after.Sentences - before.Sentences + after.Rejected[ReasonUnknown] - before.Rejected[ReasonUnknown])
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/sentences, "ns/sentence")
}

// What AppendGSV writes is what is read.
func TestSkyRoundTrip(t *testing.T) {
	const all = KnownElevation | KnownAzimuth | KnownSNR
	for n := range 14 {
		var sky []Satellite
		for i := range n {
			s := Satellite{System: SystemGPS, ID: uint16(i + 1), Elevation: int16(7 * i), Azimuth: int16(29 * i), SNR: int16(20 + i), Known: all}
			switch i % 4 {
			case 1:
				s.SNR, s.Known = 0, KnownElevation|KnownAzimuth
			case 2:
				s.Elevation, s.Azimuth, s.Known = 0, 0, KnownSNR
			}
			sky = append(sky, s)
		}
		p, err := NewParser(ParserOptions{OnReject: func(r Reject) { t.Errorf("%d satellites: %s: %s", n, r.Reason, r.Text) }})
		if err != nil {
			t.Fatal(err)
		}
		text := AppendGSV(nil, sky)
		p.Feed(text, 0, func(Fix) {})
		if got := p.AppendSky(nil); !slices.Equal(got, sky) {
			t.Errorf("%d satellites: %v, want %v, in\n%s", n, got, sky, text)
		}
	}
}
