package gps_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/test/deps"
	simulated "github.com/waybill-telematics/waybill/test/drive"
)

// directly are the fixes in sentences, read without gpsd.
func directly(t *testing.T, data []byte) (fixes []gps.Fix) {
	t.Helper()
	p, err := gps.NewParser(gps.ParserOptions{LogHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	emit := func(f gps.Fix) { fixes = append(fixes, f) }
	p.Feed(data, 0, emit)
	p.End(emit)
	return fixes
}

func startGPSD(t *testing.T, o gps.GPSDOptions) *running {
	t.Helper()
	r := &running{fixes: make(chan gps.Fix, 100_000), states: make(chan error, 1000), done: make(chan error, 1)}
	o.OnState = func(err error) { r.states <- err }
	o.Log, o.Clock, o.RetryMin, o.RetryMax = quiet(), &stepClock{}, 20*time.Millisecond, 100*time.Millisecond
	source, err := gps.NewGPSD(o)
	if err != nil {
		t.Fatal(err)
	}
	r.run(t, source.Run)
	return r
}

// compare says where the fix by gpsd differs from the one read directly: by the tolerances for which receivers' logs are
// compared with gpsd, and 0.16 m of altitude (gpsd 3.22 takes Garmin's whole feet). How many satellites are used is not
// compared: 3.22 leaves Galileo and BeiDou out.
func compare(t *testing.T, direct, byGPSD gps.Fix) {
	t.Helper()
	at := time.Unix(0, direct.Time).UTC().Format("15:04:05.000")
	if direct.Mode != byGPSD.Mode {
		t.Errorf("%s: mode %d, by gpsd %d", at, direct.Mode, byGPSD.Mode)
	}
	differs := func(name string, a, b, within float64, has bool) {
		if has && !(math.Abs(a-b) <= within) {
			t.Errorf("%s: %s %v, by gpsd %v", at, name, a, b)
		}
	}
	differs("latitude", float64(direct.Latitude), float64(byGPSD.Latitude), 2000, true)
	differs("longitude", float64(direct.Longitude), float64(byGPSD.Longitude), 2000, true)
	differs("altitude", direct.Altitude, byGPSD.Altitude, 0.16, direct.Has(gps.HasAltitude))
	differs("separation", direct.Separation, byGPSD.Separation, 0.16, direct.Has(gps.HasSeparation))
	differs("speed", direct.Speed, byGPSD.Speed, 0.02, direct.Has(gps.HasSpeed))
	differs("track", math.Remainder(direct.Track-byGPSD.Track, 360), 0, 0.02, direct.Has(gps.HasTrack))
	differs("hdop", direct.HDOP, byGPSD.HDOP, 0.011, direct.Has(gps.HasHDOP) && byGPSD.Has(gps.HasHDOP))
	if !direct.Has(gps.ErrorsDerived) {
		differs("latitude's error", direct.ErrorLatitude, byGPSD.ErrorLatitude, 0.05, direct.Has(gps.HasErrorHorizontal))
		differs("altitude's error", direct.ErrorAltitude, byGPSD.ErrorAltitude, 0.05, direct.Has(gps.HasErrorVertical))
	}
}

// A live gpsd into which a log is played reports what the log says. gpsfake plays it over and over, since the first
// seconds pass while gpsd finds the rate and who listens connects.
func TestLiveGPSDAgreesWithReadingTheLog(t *testing.T) {
	if testing.Short() {
		t.Skip("plays into a real gpsd")
	}
	for _, name := range []string{"nd-1005.log", "neo-m8n.log", "nl551e.log", "ublox-f9p-hpnmea.log"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(deps.Testdata(t, "gps"), name)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := map[int64]gps.Fix{}
			var reference time.Time
			for _, f := range directly(t, data) {
				if f.Valid() && f.Has(gps.HasTime) {
					want[f.Time/1e7] = f
					reference = time.Unix(0, f.Time)
				}
			}
			// gpsd 3.22 knows no `# Date:`; the reference brings its weeks in order, as on a vehicle.
			r := startGPSD(t, gps.GPSDOptions{Address: deps.GPSFake(t, path), Parser: gps.ParserOptions{Reference: reference}})
			got := map[int64]gps.Fix{}
			deadline := time.After(patience)
			for before, rounds := int64(0), 0; rounds < 3; {
				select {
				case f := <-r.fixes:
					if !f.Has(gps.HasTime) {
						continue
					}
					if f.Time < before-1e9 {
						rounds++
					}
					before = f.Time
					if f.Valid() && rounds > 0 {
						got[f.Time/1e7] = f
					}
					continue
				case <-deadline:
					t.Fatalf("%d of %d epochs in %d rounds", len(got), len(want), rounds)
				}
			}
			for at, f := range want {
				g, ok := got[at]
				if !ok {
					t.Errorf("%s: not by gpsd", time.Unix(0, f.Time).UTC())
					continue
				}
				compare(t, f, g)
			}
			if len(want) == 0 {
				t.Error("nothing to compare")
			}
		})
	}
}

// gpsdecode, which is gpsd's own parser, agrees about drives that were never driven before.
func TestSimulatedDrivesAgreeWithGpsdecode(t *testing.T) {
	if testing.Short() {
		t.Skip("plays into a real gpsd")
	}
	for _, seed := range []uint64{1, 2, 3} {
		d, err := simulated.New(simulated.Options{Seed: seed, Duration: 5 * time.Minute, Start: time.Date(2026, 5, int(seed), 23, 58, 0, 0, time.UTC)})
		if err != nil {
			t.Fatal(err)
		}
		var sentences []byte
		for {
			e, ok := d.Next()
			if !ok {
				break
			}
			sentences = append(sentences, e.Sentences...)
		}
		decode := deps.Program(t, "gpsd", "gpsdecode", "-j")
		decode.Stdin = bytes.NewReader(sentences)
		reports, err := decode.Output()
		if err != nil {
			t.Fatal(err)
		}
		listener, accepted := server(t)
		r := startGPSD(t, gps.GPSDOptions{Address: listener.Addr().String()})
		conn := r.accept(t, accepted)
		if _, err := conn.Write(reports); err != nil {
			t.Fatal(err)
		}
		want := directly(t, sentences)
		byTime := map[int64]gps.Fix{}
		valid := 0
		for _, f := range want {
			byTime[f.Time] = f
			if f.Valid() {
				valid++
			}
		}
		for compared := 0; compared < valid-3; { // the first while the ender is learned, the last while more may come
			select {
			case g := <-r.fixes:
				if !g.Valid() {
					continue
				}
				f, ok := byTime[g.Time]
				if !ok || !f.Valid() {
					t.Fatalf("seed %d: gpsd has a fix at %s, we have none", seed, time.Unix(0, g.Time).UTC())
				}
				compared++
				compare(t, f, g)
			case <-time.After(patience):
				t.Fatalf("seed %d: %d of %d fixes by gpsdecode", seed, compared, valid)
			}
		}
		_ = conn.Close()
	}
}
