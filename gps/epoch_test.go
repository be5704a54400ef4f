package gps

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// testData is the folder of recorded receivers; the test is skipped without it, except in CI.
func testData(t testing.TB) string {
	t.Helper()
	return deps.Testdata(t, "gps")
}

// gpsdEpoch is what gpsd reports of an epoch.
type gpsdEpoch struct {
	Log       string       `json:"log"`
	Time      time.Time    `json:"time"`
	Mode      Mode         `json:"mode"`
	Positions [][2]float64 `json:"positions"`
	Speed     *float64     `json:"speed"`
	Track     *float64     `json:"track"`
	AltMSL    *float64     `json:"altMSL"`
}

func gpsdEpochs(t testing.TB, dir string) map[string][]gpsdEpoch {
	t.Helper()
	file, err := os.Open(filepath.Join(dir, "expected_epochs.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	epochs := map[string][]gpsdEpoch{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var e gpsdEpoch
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		epochs[e.Log] = append(epochs[e.Log], e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return epochs
}

func mustParser(t testing.TB, o ParserOptions) *Parser {
	t.Helper()
	p, err := NewParser(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fixesIn parses a whole log, in chunks of a length.
func fixesIn(t testing.TB, data []byte, chunk int) ([]Fix, Counters) {
	t.Helper()
	p := mustParser(t, ParserOptions{LogHeaders: true})
	var fixes []Fix
	emit := func(f Fix) { fixes = append(fixes, f) }
	for part := range slices.Chunk(data, chunk) {
		p.Feed(part, 0, emit)
	}
	p.End(emit)
	return fixes, p.Counters()
}

// notYet are the logs that differ from gpsd, with the reason. The test fails when one of them agrees.
var notYet = map[string]string{
	"bundg_zeus_9.log": "gpsd makes a track out of a magnetic compass (HDG) where the receiver gives none, and takes the variation off instead of adding it",
}

func TestRecordedReceiversAgreeWithGpsd(t *testing.T) {
	dir := testData(t)
	epochs := gpsdEpochs(t, dir)
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(logs) < 49 {
		t.Fatalf("%d logs, want 49 or more (%v)", len(logs), err)
	}
	for _, path := range logs {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			fixes, counters := fixesIn(t, data, 512)
			differences := compareWithGpsd(fixes, epochs[name])
			reason, excused := notYet[name]
			switch {
			case excused && len(differences) == 0:
				t.Errorf("agrees now; take it off the list (%s)", reason)
			case !excused:
				for _, d := range differences[:min(len(differences), 10)] {
					t.Error(d)
				}
			}
			if got := uint64(len(fixes)); counters.Fixes != got {
				t.Errorf("counted %d fixes, emitted %d", counters.Fixes, got)
			}
			whole, _ := fixesIn(t, data, len(data))
			single, _ := fixesIn(t, data, 1)
			if !slices.Equal(whole, single) || !slices.Equal(whole, fixes) {
				t.Error("the fixes depend on how the bytes are cut")
			}
		})
	}
}

// compareWithGpsd says what differs: a stamp may differ by 10 ms, a position by 2e-6°, a speed by 0.02 m/s, a track by
// 0.02°.
func compareWithGpsd(fixes []Fix, epochs []gpsdEpoch) (differences []string) {
	const stamp = 10 * time.Millisecond
	differ := func(e gpsdEpoch, format string, args ...any) {
		differences = append(differences, e.Time.Format("15:04:05.000: ")+fmt.Sprintf(format, args...))
	}
	for _, e := range epochs {
		var best *Fix
		for i := range fixes {
			f := &fixes[i]
			if f.Valid() && f.Has(HasTime) && near(f, e.Time) <= stamp && (best == nil || near(f, e.Time) <= near(best, e.Time)) {
				best = f
			}
		}
		if best == nil {
			differ(e, "no fix; gpsd has one of mode %d", e.Mode)
			continue
		}
		if best.Mode != e.Mode {
			differ(e, "mode %d; gpsd says %d", best.Mode, e.Mode)
		}
		lat, lon := best.Degrees()
		if !slices.ContainsFunc(e.Positions, func(p [2]float64) bool {
			return math.Abs(p[0]-lat) <= 2e-6 && math.Abs(p[1]-lon) <= 2e-6
		}) {
			differ(e, "position %.9f %.9f; gpsd says %v", lat, lon, e.Positions)
		}
		if e.Speed != nil && (!best.Has(HasSpeed) || math.Abs(best.Speed-*e.Speed) > 0.02) {
			differ(e, "speed %g; gpsd says %g", best.Speed, *e.Speed)
		}
		if e.Track != nil && (!best.Has(HasTrack) || math.Abs(math.Remainder(best.Track-*e.Track, 360)) > 0.02) {
			differ(e, "track %g; gpsd says %g", best.Track, *e.Track)
		}
		// gpsd lets the altitude of Garmin's PGRMZ, in whole feet, stand in place of the receiver's own.
		if e.AltMSL != nil && best.Has(HasAltitude) && math.Abs(best.Altitude-*e.AltMSL) > 0.16 {
			differ(e, "altitude %g; gpsd says %g", best.Altitude, *e.AltMSL)
		}
	}
	for i := range fixes {
		f := &fixes[i]
		if f.Valid() && f.Has(HasTime) && !slices.ContainsFunc(epochs, func(e gpsdEpoch) bool { return near(f, e.Time) <= stamp }) {
			differences = append(differences, time.Unix(0, f.Time).UTC().Format("15:04:05.000")+": a fix that gpsd does not have")
		}
	}
	return differences
}

func near(f *Fix, t time.Time) time.Duration { return time.Unix(0, f.Time).Sub(t).Abs() }

// lines makes sentences with checksums out of bodies.
func lines(bodies ...string) []byte {
	var b []byte
	for _, body := range bodies {
		start := len(b)
		b = append(b, '$')
		b = append(b, body...)
		b = appendChecksum(b, start)
	}
	return b
}

func TestOneFixAnEpochWithEveryField(t *testing.T) {
	var input []byte
	for second := range 4 {
		at := fmt.Sprintf("1235%02d.00", second)
		input = append(input, lines(
			"GNRMC,"+at+",A,4807.0380,N,01131.0000,E,022.400,084.40,230326,,,D",
			"GNVTG,084.40,T,,M,022.400,N,041.485,K,D",
			"GNGGA,"+at+",4807.0380,N,01131.0000,E,2,08,0.90,545.400,M,46.900,M,,",
			"GNGSA,A,3,04,05,09,12,24,25,29,31,,,,,1.80,0.90,1.60,1",
		)...)
	}
	p := mustParser(t, ParserOptions{Reference: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)})
	var fixes []Fix
	emit := func(f Fix) { fixes = append(fixes, f) }
	p.Feed(input, 77, emit)
	p.End(emit)
	vdop := 1.6 // a variable: constants are multiplied exactly
	want := Fix{
		Boot: 77, Latitude: 48117300000, Longitude: 11516666667, Altitude: 545.4, Separation: 46.9,
		Speed: 22.4 * 1852 / 3600, Track: 84.4, PDOP: 1.8, HDOP: 0.9, VDOP: 1.6, Satellites: 8, Mode: Mode3D,
		Quality: QualityDGNSS,
		// Derived: 1.5 m a range times the dilution, its horizontal part in equal shares.
		ErrorLatitude: 0.9 * 1.5 / math.Sqrt2, ErrorLongitude: 0.9 * 1.5 / math.Sqrt2, ErrorAltitude: float64(vdop * 1.5),
		Fields: 1<<11 - 1 | HasDate | HasErrorHorizontal | HasErrorVertical | ErrorsDerived,
	}
	want.Systems[SystemGPS].Used = 8
	if len(fixes) != 4 {
		t.Fatalf("%d fixes, want 4", len(fixes))
	}
	for i, got := range fixes {
		want.Time = time.Date(2026, 3, 23, 12, 35, i, 0, time.UTC).UnixNano()
		if math.Abs(got.Speed-want.Speed) > 1e-12 {
			t.Errorf("speed %v, want %v", got.Speed, want.Speed)
		}
		got.Speed = want.Speed
		if got != want {
			t.Errorf("epoch %d:\n got %+v\nwant %+v", i, got, want)
		}
	}
}

// A first epoch is known to be over only when the second begins; later ones as soon as the line is silent.
func TestEpochEndsWithItsLastSentenceOnceThatIsKnown(t *testing.T) {
	p := mustParser(t, ParserOptions{})
	count := 0
	emit := func(Fix) { count++ }
	for second := range 5 {
		at := fmt.Sprintf("1200%02d", second)
		p.Feed(lines("GPGGA,"+at+",4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"), 0, emit)
		p.Idle(emit)
		if second > 0 && count != second {
			t.Fatalf("second %d: %d fixes after the middle of the epoch, want %d", second, count, second)
		}
		p.Feed(lines("GPRMC,"+at+",A,4807.038,N,01131.000,E,022.4,084.4,230326,,"), 0, emit)
		p.Idle(emit)
		if second > 0 && count != second+1 {
			t.Fatalf("second %d: %d fixes after its last sentence, want %d", second, count, second+1)
		}
	}
}

func TestEpochThatLacksItsLastSentenceIsCounted(t *testing.T) {
	p := mustParser(t, ParserOptions{})
	var times []string
	emit := func(f Fix) { times = append(times, time.Unix(0, f.Time).UTC().Format("05")) }
	for second := range 5 {
		at := fmt.Sprintf("1200%02d", second)
		p.Feed(lines("GPRMC,"+at+",A,4807.038,N,01131.000,E,022.4,084.4,230326,,"), 0, emit)
		if second != 3 {
			p.Feed(lines("GPGGA,"+at+",4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"), 0, emit)
		}
	}
	p.End(emit)
	if got := strings.Join(times, " "); got != "00 01 02 04" {
		t.Errorf("epochs %s, want 00 01 02 04", got)
	}
	if n := p.Counters().Unfinished; n != 1 {
		t.Errorf("%d unfinished epochs counted, want 1", n)
	}
}

// A receiver that loses its satellites says so in every epoch, with and without a clock.
func TestNoFixIsAStateAndNotZero(t *testing.T) {
	for name, bodies := range map[string][]string{
		"RMC only":         {"GPRMC,12000%d,V,,,,,,,230326,,,N"},
		"no clock":         {"GPRMC,,V,,,,,,,,,,N", "GPGGA,,,,,,0,00,99.99,,,,,,"},
		"clock":            {"GPRMC,12000%d,V,,,,,,,230326,,,N", "GPGGA,12000%d,,,,,0,00,99.99,,,,,,", "GPGSA,A,1,,,,,,,,,,,,,99.99,99.99,99.99"},
		"stale position":   {"GPRMC,12000%d,V,4807.038,N,01131.000,E,,,230326,,,N", "GPGGA,12000%d,4807.038,N,01131.000,E,0,00,,,M,,M,,"},
		"zero for nothing": {"GPRMC,12000%d,A,0000.0000,N,00000.0000,E,0.0,0.0,230326,,,A", "GPGGA,12000%d,0000.0000,N,00000.0000,E,1,05,1.0,0.0,M,0.0,M,,"},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustParser(t, ParserOptions{})
			var fixes []Fix
			emit := func(f Fix) { fixes = append(fixes, f) }
			for second := range 6 {
				for _, body := range bodies {
					p.Feed(lines(strings.ReplaceAll(body, "%d", fmt.Sprint(second))), 0, emit)
				}
			}
			p.End(emit)
			if len(fixes) < 5 || len(fixes) > 6 {
				t.Errorf("%d epochs, want one a second", len(fixes))
			}
			for _, f := range fixes {
				if f.Valid() || f.Mode != ModeNoFix {
					t.Errorf("a fix out of nothing: %+v", f)
				}
			}
		})
	}
}

// Of two sentences of a kind with different times the second is another epoch, even 10 ms later; the same difference
// between kinds is a receiver that rounds.
func TestEpochsCloseTogetherAreToldByTheirKinds(t *testing.T) {
	p := mustParser(t, ParserOptions{})
	var times []string
	emit := func(f Fix) { times = append(times, time.Unix(0, f.Time).UTC().Format("05.00")) }
	for _, at := range [...][2]string{{"10.00", "10.00"}, {"11.00", "11.00"}, {"11.99", "11.99"}, {"12.00", "12.00"}, {"13.00", "13.01"}} {
		p.Feed(lines(
			"GPRMC,1200"+at[0]+",A,4807.038,N,01131.000,E,022.4,084.4,230326,,",
			"GPGGA,1200"+at[1]+",4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		), 0, emit)
	}
	p.End(emit)
	if got := strings.Join(times, " "); got != "10.00 11.00 11.99 12.00 13.01" {
		t.Errorf("epochs %s", got)
	}
}

// A receiver that loses its satellites after it has told a fix had that fix; the next epoch says that there is none.
func TestAFixThatWasToldIsNotUndoneInItsEpoch(t *testing.T) {
	p := mustParser(t, ParserOptions{})
	var modes []Mode
	emit := func(f Fix) { modes = append(modes, f.Mode) }
	for _, s := range []string{"10", "11", "12"} {
		p.Feed(lines(
			"GPGGA,1200"+s+",4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
			"GPRMC,1200"+s+",A,4807.038,N,01131.000,E,022.4,084.4,230326,,",
			"GPGSA,A,3,04,05,09,12,24,,,,,,,,1.80,0.90,1.60",
		), 0, emit)
	}
	p.Feed(lines("GPGSA,A,1,,,,,,,,,,,,,,,", "GPGGA,,,,,,0,,,,,,,,", "GPRMC,,V,,,,,,,,,,N"), 0, emit)
	p.End(emit)
	if !slices.Equal(modes[:3], []Mode{Mode3D, Mode3D, Mode3D}) || modes[len(modes)-1] != ModeNoFix || len(modes) > 5 {
		t.Errorf("modes %v, want three fixes and then none", modes)
	}
}
