package gps

import (
	"math"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

var fullFix = Fix{
	Boot: 1234, Latitude: 48117300001, Longitude: -11516666667, Altitude: 545.437, Separation: -46.9, Speed: 22.401 * 1852 / 3600,
	Track: 84.421, PDOP: 1.8, HDOP: 0.93, VDOP: 1.6, Satellites: 8, Mode: Mode3D, Quality: QualityDGNSS,
	ErrorLatitude: 1.25, ErrorLongitude: 2.5, ErrorAltitude: 3.75, Heading: 90.5, Seen: 11, Suspect: SuspectJump,
	Systems: [systems]SystemCount{SystemGPS: {6, 7}, SystemGalileo: {2, 4}},
	Fields:  1<<11 - 1 | HasErrorHorizontal | HasErrorVertical | HasHeading | HasSeen,
}

// ids numbers every signal of a receiver from 1, in the order of Signals.
func ids(source string) (IDs, map[string]*telemetrypb.Signal, map[uint32]*telemetrypb.Signal) {
	byName, byID := map[string]*telemetrypb.Signal{}, map[uint32]*telemetrypb.Signal{}
	for i, s := range Signals(source) {
		s.Id = uint32(i) + 1
		byName[s.Name], byID[s.Id] = s, s
	}
	return ChooseIDs(source, func(name string) (uint32, bool) {
		s, ok := byName[name]
		return s.GetId(), ok
	}), byName, byID
}

func TestSamplesKeepWhatTheReceiverSaid(t *testing.T) {
	chosen, _, byID := ids("gps0")
	want := map[string]float64{
		"gps0.fix.latitude": 48.117300001, "gps0.fix.longitude": -11.516666667, "gps0.fix.altitude": 545.437,
		"gps0.fix.geoid_separation": -46.9, "gps0.fix.speed": 22.401 * 1852 / 3600, "gps0.fix.track": 84.421,
		"gps0.fix.mode": 3, "gps0.fix.quality": 2, "gps0.fix.satellites": 8, "gps0.fix.pdop": 1.8, "gps0.fix.hdop": 0.93,
		"gps0.fix.vdop": 1.6, "gps0.fix.error_latitude": 1.25, "gps0.fix.error_longitude": 2.5, "gps0.fix.error_altitude": 3.75,
		"gps0.fix.error_source": 1, "gps0.fix.heading": 90.5, "gps0.fix.suspect": 1, "gps0.fix.satellites_seen": 11,
		"gps0.fix.parked": 1, "gps0.odometer": 1234,
	}
	for i, n := range fullFix.Systems[SystemGPS:] {
		name := "gps0.fix." + systemNames[i+1]
		want[name+"_used"], want[name+"_seen"] = float64(n.Used), float64(n.Seen)
	}
	samples := AppendSamples(nil, chosen, fullFix)
	samples = AppendMovement(samples, chosen, fullFix.Boot, Movement{Parked: true, Odometer: 1234.9})
	if len(samples) != len(want) {
		t.Fatalf("%d samples, want %d", len(samples), len(want))
	}
	for _, s := range samples {
		signal := byID[s.Signal]
		got := s.Physical(signal.Scale, signal.Offset)
		if math.Abs(got-want[signal.Name]) > 1e-12*math.Max(1, math.Abs(got)) {
			t.Errorf("%s = %v, want %v", signal.Name, got, want[signal.Name])
		}
		kind := map[telemetrypb.ValueType]telemetrypb.Kind{
			telemetrypb.ValueType_VALUE_TYPE_INT: telemetrypb.KindInt, telemetrypb.ValueType_VALUE_TYPE_UINT: telemetrypb.KindUint,
		}[signal.Type]
		if s.Kind != kind || s.Time != 1234 {
			t.Errorf("%s: kind %d at %d", signal.Name, s.Kind, s.Time)
		}
		if signal.Message != "gps0.fix" || signal.Source != "gps:gps0" {
			t.Errorf("%s: message %s, source %s", signal.Name, signal.Message, signal.Source)
		}
	}
}

func TestSamplesOnlyOfWhatIsKnownAndCollected(t *testing.T) {
	chosen, byName, byID := ids("gps0")
	names := func(f Fix, ids IDs) map[string]bool {
		got := map[string]bool{}
		for _, s := range AppendSamples(nil, ids, f) {
			got[byID[s.Signal].Name] = true
		}
		return got
	}
	lost := fullFix
	lost.Mode = ModeNoFix
	got := names(lost, chosen)
	if !got["gps0.fix.mode"] || got["gps0.fix.latitude"] || got["gps0.fix.speed"] || got["gps0.fix.altitude"] {
		t.Errorf("no fix: %v", got)
	}
	derived := fullFix
	derived.Fields = HasPosition | HasSpeed | SpeedDerived
	if got := names(derived, chosen); len(got) != 4 || got["gps0.fix.speed"] {
		t.Errorf("derived speed: %v", got)
	}
	withheld := fullFix
	Privacy{Off: true}.Apply(&withheld)
	if got := names(withheld, chosen); got["gps0.fix.latitude"] || got["gps0.fix.altitude"] || got["gps0.fix.geoid_separation"] || !got["gps0.fix.speed"] || !got["gps0.fix.track"] {
		t.Errorf("position withheld: %v", got)
	}
	if got := names(Fix{}, chosen); len(got) != 0 {
		t.Errorf("nothing known: %v", got)
	}
	only := ChooseIDs("gps0", func(name string) (uint32, bool) { return byName[name].Id, name == "gps0.fix.track" })
	if got := names(fullFix, only); len(got) != 1 || !got["gps0.fix.track"] {
		t.Errorf("only the track is collected: %v", got)
	}
}

func TestSamplesAllocateNothing(t *testing.T) {
	chosen, _, _ := ids("gps0")
	buf := make([]telemetrypb.Sample, 0, signals)
	if n := testing.AllocsPerRun(100, func() { buf = AppendSamples(buf[:0], chosen, fullFix) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Two points of a geodesic published by Vincenty's test: Flinders Peak to Buninyong, 54,972.271 m.
func TestDistance(t *testing.T) {
	flinders := Fix{Latitude: NanoDegrees(-37.951033417), Longitude: NanoDegrees(144.424867889)}
	buninyong := Fix{Latitude: NanoDegrees(-37.652821139), Longitude: NanoDegrees(143.926495528)}
	if d := distance(&flinders, &buninyong); math.Abs(d-54972.271) > 1 {
		t.Errorf("%.3f m, want 54,972.271", d)
	}
	west, east := Fix{Longitude: -179999999000}, Fix{Longitude: 179999999000}
	if d := distance(&west, &east); d > 1 {
		t.Errorf("across the date line: %v m", d)
	}
}
