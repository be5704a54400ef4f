package main

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/gps"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// receiverWithEverything is a receiver all of whose signals are collected, without an agent.
func receiverWithEverything(s gpsSettings) (*gpsSource, map[uint32]*telemetrypb.Signal) {
	s.Name = "gps0"
	byID := map[uint32]*telemetrypb.Signal{}
	byName := map[string]uint32{}
	for i, signal := range gps.Signals(s.Name) {
		byID[uint32(i)+1], byName[signal.Name] = signal, uint32(i)+1
	}
	id := func(name string) (uint32, bool) { n, ok := byName[name]; return n, ok }
	g := &gpsSource{gpsSettings: s, ids: gps.ChooseIDs(s.Name, id), motion: gps.NewMotion(s.Motion)}
	g.thinned = prometheus.NewCounter(prometheus.CounterOpts{Name: "thinned"})
	return g, byID
}

// secondFix is a second of a drive north at 10 m/s from a place whose digits are told from those of its cell.
func secondFix(s int) gps.Fix {
	return gps.Fix{
		Boot: int64(s+1) * 1e9, Time: 1.78e18 + int64(s)*1e9, Latitude: 48_123_456_789 + int64(s)*90_000, Longitude: 11_987_654_321,
		Altitude: 543.21, Separation: 47.89, Speed: 10, Track: 1, HDOP: 0.9, VDOP: 1.2, PDOP: 1.5, ErrorLatitude: 2, ErrorLongitude: 2,
		ErrorAltitude: 3, Satellites: 9, Mode: gps.Mode3D, Quality: gps.QualityGNSS,
		Fields: gps.HasTime | gps.HasPosition | gps.HasAltitude | gps.HasSeparation | gps.HasSpeed | gps.HasTrack | gps.HasHDOP | gps.HasVDOP |
			gps.HasPDOP | gps.HasErrorHorizontal | gps.HasErrorVertical | gps.HasSatellites | gps.HasQuality,
	}
}

// leaves says what of a drive's position is in the samples: whether there is any, and the smallest distance from the
// truth, in degrees.
func leaves(t *testing.T, g *gpsSource, byID map[uint32]*telemetrypb.Signal, from, to int) (position, altitude, track int, nearest float64) {
	t.Helper()
	nearest = math.Inf(1)
	for s := from; s < to; s++ {
		f := secondFix(s)
		lat, lon := f.Degrees()
		for _, one := range g.take(f, nil) {
			signal := byID[one.Signal]
			v := one.Physical(signal.Scale, signal.Offset)
			switch signal.Name {
			case "gps0.fix.latitude":
				position++
				nearest = min(nearest, math.Abs(v-lat))
			case "gps0.fix.longitude":
				nearest = min(nearest, math.Abs(v-lon))
			case "gps0.fix.altitude", "gps0.fix.geoid_separation", "gps0.fix.error_altitude":
				altitude++
			case "gps0.fix.track", "gps0.fix.speed":
				track++
			default: // no other signal may carry what was taken out, whatever its unit
				for _, secret := range []float64{lat, lon, f.Altitude, f.Separation} {
					if math.Abs(v-secret) < 1e-3 {
						t.Errorf("%s tells %v", signal.Name, v)
					}
				}
			}
		}
	}
	return position, altitude, track, nearest
}

func TestPositionLeavesOnlyAsFarAsConfigured(t *testing.T) {
	g, byID := receiverWithEverything(gpsSettings{})
	if n, altitudes, _, off := leaves(t, g, byID, 0, 100); n < 20 || altitudes == 0 || off > 1e-8 {
		t.Errorf("full: %d positions, %d altitudes, %v° off", n, altitudes, off)
	}
	g, byID = receiverWithEverything(gpsSettings{Privacy: gps.Privacy{Off: true}})
	if n, altitudes, tracks, _ := leaves(t, g, byID, 0, 100); n > 0 || altitudes > 0 || tracks < 20 {
		t.Errorf("off: %d positions, %d altitudes, %d of track and speed", n, altitudes, tracks)
	}
	// On a grid, which cell it is is all there is: the values are those of the cells' middles.
	g, byID = receiverWithEverything(gpsSettings{Privacy: gps.Privacy{Grid: 5000}})
	cells := map[float64]bool{}
	for s := range 100 {
		for _, one := range g.take(secondFix(s), nil) {
			if signal := byID[one.Signal]; signal.Name == "gps0.fix.latitude" {
				cells[one.Physical(signal.Scale, signal.Offset)] = true
			}
		}
	}
	if len(cells) > 2 {
		t.Errorf("grid: %d values on one kilometre", len(cells))
	}
	g, byID = receiverWithEverything(gpsSettings{Privacy: gps.Privacy{Grid: 5000}})
	if n, altitudes, tracks, _ := leaves(t, g, byID, 0, 100); n < 20 || altitudes > 0 || tracks < 20 {
		t.Errorf("grid: %d positions, %d altitudes, %d of track and speed", n, altitudes, tracks)
	}
}

func TestPositionLeavesOnlyAfterTheEvent(t *testing.T) {
	s := gpsSettings{When: "crash", Hold: 20 * time.Second, Motion: gps.MotionOptions{MaxInterval: time.Hour, Distance: 1e4}}
	g, byID := receiverWithEverything(s)
	g.gate = newPositionGate(&s, func(name string) (uint32, bool) { return 77, name == "event.crash" })
	v := &vehicle{gates: []*positionGate{nil, g.gate}}
	if n, _, _, _ := leaves(t, g, byID, 0, 30); n > 0 {
		t.Errorf("%d positions before the event", n)
	}
	v.openGates(76, 31e9) // another rule's
	if n, _, _, _ := leaves(t, g, byID, 30, 31); n > 0 {
		t.Errorf("%d positions after another event", n)
	}
	v.openGates(77, 32e9)
	if n, _, _, off := leaves(t, g, byID, 31, 51); n == 0 || off > 1e-8 {
		t.Errorf("%d positions after the event, %v° off: the first fix must not be thinned away", n, off)
	}
	if n, _, _, _ := leaves(t, g, byID, 51, 100); n > 0 {
		t.Errorf("%d positions when it is long over", n)
	}
}

func TestOdometerIsKeptOverRestarts(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	o := openOdometer(dir, "gps0", log)
	o.metres = 1234.9
	o.keep(1, log)
	o.keep(int64(odometerEvery)/2, log)
	if _, err := os.Stat(filepath.Join(dir, "odometer-gps0")); err == nil {
		t.Error("written too often")
	}
	o.keep(int64(odometerEvery)+1, log)
	if again := openOdometer(dir, "gps0", log); again.metres != 1234 {
		t.Errorf("%v m, want 1,234", again.metres)
	}
	o.metres += 50
	o.save(log)
	if again := openOdometer(dir, "gps0", log); again.metres != 1284 {
		t.Errorf("%v m, want 1,284", again.metres)
	}
	for _, text := range []string{"", "far", "-5", "Inf", "NaN"} {
		if err := os.WriteFile(o.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if again := openOdometer(dir, "gps0", log); again.metres != 0 {
			t.Errorf("%q: %v m", text, again.metres)
		}
	}
}
