package gps

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func reports(t testing.TB, o ParserOptions, device string) *gpsdReports {
	t.Helper()
	g, err := newGPSDReports(o, device)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func fed(t testing.TB, g *gpsdReports, lines ...string) (fixes []Fix) {
	t.Helper()
	emit := func(f Fix) { fixes = append(fixes, f) }
	for i, line := range lines {
		g.Feed([]byte(line+"\n"), int64(i+1), emit)
	}
	g.Idle(emit)
	return fixes
}

const (
	tpv1 = `{"class":"TPV","device":"/dev/a","status":2,"mode":3,"time":"2026-05-01T12:00:01.500Z","ept":0.005,"lat":47.95,"lon":9.25,"altHAE":660.1,"altMSL":612.0,"epx":1.5,"epy":2.5,"epv":3.5,"track":70.25,"speed":5.5,"geoidSep":48.1}`
	tpv2 = `{"class":"TPV","device":"/dev/a","mode":2,"time":"2026-05-01T12:00:02.500Z","lat":47.96,"lon":9.26}`
	lost = `{"class":"TPV","device":"/dev/a","mode":1,"time":"2026-05-01T12:00:02.500Z"}`
	none = `{"class":"TPV","device":"/dev/a","mode":0}`
	sky1 = `{"class":"SKY","device":"/dev/a","hdop":0.9,"pdop":1.7,"vdop":1.4,"satellites":[{"PRN":3,"gnssid":0,"svid":3,"el":40.0,"az":83.0,"ss":46.0,"used":true},{"PRN":3,"gnssid":0,"svid":3,"sigid":4,"ss":40,"used":true},{"PRN":66,"gnssid":6,"svid":2,"el":10,"az":20,"ss":0,"used":false},{"PRN":303,"gnssid":2,"svid":3,"used":true}]}`
)

func TestGpsdReportsBecomeFixes(t *testing.T) {
	g := reports(t, ParserOptions{}, "")
	fixes := fed(t, g, `{"class":"VERSION","release":"3.22"}`, tpv1, tpv1, sky1, tpv2)
	want := Fix{
		Boot: 2, Time: time.Date(2026, 5, 1, 12, 0, 1, 500e6, time.UTC).UnixNano(), Latitude: 47.95e9, Longitude: 9.25e9,
		Altitude: 612, Separation: 48.1, Speed: 5.5, Track: 70.25, PDOP: 1.7, HDOP: 0.9, VDOP: 1.4,
		ErrorLatitude: 2.5, ErrorLongitude: 1.5, ErrorAltitude: 3.5, TimeError: 0.005, Satellites: 2, Seen: 3, Mode: Mode3D,
		Quality: QualityDGNSS, Fields: 1<<11 - 1 | HasDate | HasErrorHorizontal | HasErrorVertical | HasSeen | HasTimeError,
	}
	want.Systems[SystemGPS], want.Systems[SystemGLONASS], want.Systems[SystemGalileo] = SystemCount{1, 1}, SystemCount{0, 1}, SystemCount{1, 1}
	if len(fixes) != 2 || fixes[0] != want {
		t.Fatalf("%d fixes\n got %+v\nwant %+v", len(fixes), fixes[0], want)
	}
	if fixes[1].Mode != Mode2D || fixes[1].Quality != QualityGNSS || fixes[1].Has(HasSpeed) || fixes[1].Boot != 5 {
		t.Errorf("%+v", fixes[1])
	}
	sky := g.sky[:g.inView]
	if len(sky) != 4 || !slices.Contains(sky, Satellite{System: SystemGPS, ID: 3, Elevation: 40, Azimuth: 83, SNR: 46, Known: 7, Used: true}) {
		t.Errorf("%+v", sky)
	}
}

func TestGpsdStatesWithoutAFix(t *testing.T) {
	for name, c := range map[string]struct {
		lines []string
		want  string // modes
	}{
		"no fix, no time":              {[]string{none}, "1"},
		"lost":                         {[]string{tpv1, lost}, "31"},
		"lost within the epoch":        {[]string{tpv2, lost}, "21"},
		"found within the epoch":       {[]string{lost, tpv2}, "2"},
		"a fix without a position":     {[]string{`{"class":"TPV","mode":3,"time":"2026-05-01T12:00:02.500Z"}`}, "1"},
		"at null island":               {[]string{`{"class":"TPV","mode":3,"lat":0,"lon":0}`}, "1"},
		"beyond the pole":              {[]string{`{"class":"TPV","mode":3,"lat":90.1,"lon":0}`}, "1"},
		"a mode that is none":          {[]string{`{"class":"TPV","mode":17,"lat":1,"lon":0}`}, "1"},
		"unplugged from gpsd":          {[]string{tpv1, `{"class":"DEVICE","path":"/dev/a","activated":0}`}, "31"},
		"plugged in":                   {[]string{tpv1, `{"class":"DEVICE","path":"/dev/a","activated":"2026-05-01T12:00:00Z"}`}, "3"},
		"another device":               {[]string{`{"class":"TPV","device":"/dev/b","mode":3,"lat":1,"lon":1}`, `{"class":"DEVICE","path":"/dev/b","activated":0}`}, ""},
		"no mode":                      {[]string{`{"class":"TPV","lat":1,"lon":1}`}, ""},
		"no class":                     {[]string{`{"mode":3,"lat":1,"lon":1}`, `{}`, `null`, `[]`, `7`}, ""},
		"not JSON":                     {[]string{tpv1[:60], "$GPRMC", "", "NaN"}, ""},
		"text for a number":            {[]string{`{"class":"TPV","mode":3,"lat":"1","lon":1}`}, ""},
		"a line longer than any":       {[]string{tpv1[:len(tpv1)-1] + strings.Repeat(" ", maxReport) + "}", tpv2}, "2"},
		"no time in an epoch at first": {[]string{`{"class":"TPV","device":"/dev/a","mode":3,"lat":47.95,"lon":9.25}`, tpv1}, "3"},
	} {
		device := "/dev/a"
		if !strings.Contains(strings.Join(c.lines, ""), "/dev/") {
			device = ""
		}
		g := reports(t, ParserOptions{}, device)
		var got string
		for _, f := range fed(t, g, c.lines...) {
			got += string('0' + rune(f.Mode))
			if f.Mode < Mode2D && f.Valid() {
				t.Errorf("%s: %+v", name, f)
			}
		}
		if got != c.want {
			t.Errorf("%s: modes %q, want %q (%+v)", name, got, c.want, g.count)
		}
	}
}

// What has been told of an epoch after it went out is not told again; second 60 is the second after; weeks that rolled
// over are brought back.
func TestGpsdTimes(t *testing.T) {
	g := reports(t, ParserOptions{}, "")
	if n := len(fed(t, g, tpv1)) + len(fed(t, g, tpv1)) + len(fed(t, g, tpv2)); n != 2 {
		t.Errorf("%d fixes of two epochs", n)
	}
	leap := fed(t, reports(t, ParserOptions{}, ""), strings.Replace(tpv1, "2026-05-01T12:00:01.500Z", "2016-12-31T23:59:60.250Z", 1))
	if got := time.Unix(0, leap[0].Time).UTC(); !got.Equal(time.Date(2017, 1, 1, 0, 0, 0, 250e6, time.UTC)) {
		t.Errorf("leap second: %v", got)
	}
	reference := ParserOptions{Reference: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	rolled := fed(t, reports(t, reference, ""), strings.Replace(tpv1, "2026-05-01", "2006-09-15", 1))
	if got := time.Unix(0, rolled[0].Time).UTC(); !got.Equal(time.Date(2026, 5, 1, 12, 0, 1, 500e6, time.UTC)) {
		t.Errorf("a rollover: %v", got)
	}
}

// FuzzGPSD: whatever comes from the socket, cut anywhere, never panics, makes no impossible fix, and is held to a bound.
func FuzzGPSD(f *testing.F) {
	for _, seed := range []string{tpv1, tpv2, lost, none, sky1, tpv1 + "\n" + sky1 + "\r\n" + tpv2, `{"class":"SKY","satellites":[{"PRN":-1,"gnssid":9,"el":1e99}]}`} {
		f.Add([]byte(seed+"\n"), uint16(9))
	}
	f.Fuzz(func(t *testing.T, data []byte, chunk uint16) {
		g := reports(t, ParserOptions{OnReject: func(Reject) {}}, "")
		emit := func(fix Fix) { checkFix(t, fix) }
		for part := range slices.Chunk(data, int(chunk)+1) {
			g.Feed(part, 0, emit)
		}
		g.End(emit)
		if len(g.line) > maxReport || g.inView > maxSky {
			t.Errorf("%d bytes, %d satellites are kept", len(g.line), g.inView)
		}
		g.Reset(emit)
	})
}
