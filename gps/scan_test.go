package gps

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// rmcGGA is a sound epoch at a second of 12:00.
func rmcGGA(second string) []byte {
	return lines("GPRMC,1200"+second+",A,4807.038,N,01131.000,E,022.4,084.4,230326,,",
		"GPGGA,1200"+second+",4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,")
}

func TestSentencesAreFoundInNoise(t *testing.T) {
	good := string(rmcGGA("00"))
	// The checksum of the sentence in NMEA's own widely printed example.
	const published = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n"
	for name, c := range map[string]struct {
		input    string
		used     uint64
		rejected [reasons]uint64
		noise    uint64
	}{
		"clean":                {input: good, used: 2},
		"published example":    {input: published, used: 1},
		"lower case checksum":  {input: "$GPVTG,,,,,,,,,N*" + "5x\r\n$GPVTG,084.4,T,,M,022.4,N,041.5,K*6c\r\n", used: 1, rejected: [reasons]uint64{ReasonMalformed: 1}},
		"no line ends":         {input: strings.ReplaceAll(good, "\r\n", ""), used: 2},
		"noise before, after":  {input: "\xff\x00abc" + good + "\x80\x81", used: 2, noise: 7},
		"wrong checksum":       {input: strings.Replace(good, "022.4", "922.4", 1), used: 1, rejected: [reasons]uint64{ReasonChecksum: 1}},
		"no checksum":          {input: "$GPRMC,120000,A,4807.038,N,01131.000,E,022.4,084.4,230326,,\r\n" + good, used: 2, rejected: [reasons]uint64{ReasonNoChecksum: 1}},
		"cut by the next":      {input: "$GPRMC,1200" + good, used: 2, rejected: [reasons]uint64{ReasonMalformed: 1}},
		"binary inside":        {input: "$GPRMC,12\x0200\r\n" + good, used: 2, rejected: [reasons]uint64{ReasonMalformed: 1}},
		"too long":             {input: "$GPRMC," + strings.Repeat("1", 1<<20) + "\r\n" + good, used: 2, rejected: [reasons]uint64{ReasonTooLong: 1}},
		"too many fields":      {input: string(lines("GPRMC"+strings.Repeat(",", 60))) + good, used: 2, rejected: [reasons]uint64{ReasonMalformed: 1}},
		"half a checksum":      {input: "$GPRMC*4\r\n" + good, used: 2, rejected: [reasons]uint64{ReasonMalformed: 1}},
		"text that others die": {input: "$GPTXT*4F\r\n" + good, used: 2, rejected: [reasons]uint64{ReasonUnknown: 1}},
		"empty sentence":       {input: "$*00\r\n" + good, used: 2, rejected: [reasons]uint64{ReasonUnknown: 1}},
		"AIS":                  {input: "!AIVDM,1,1,,A,14eG;o@034o8sd<L9i:a;WF>062D,0*7D\r\n" + good, used: 2, rejected: [reasons]uint64{ReasonUnknown: 1}},
		"log header on a line": {input: "# Date: 1999-01-01\r\n" + good, used: 2, noise: 18},
		"every talker":         {input: string(lines("QXGGA,120000,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,")), used: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustParser(t, ParserOptions{})
			p.Feed([]byte(c.input), 0, func(Fix) {})
			got := p.Counters()
			if got.Sentences != c.used || got.Rejected != c.rejected || got.NoiseBytes != c.noise {
				t.Errorf("used %d, rejected %v, noise %d; want %d, %v, %d", got.Sentences, got.Rejected, got.NoiseBytes, c.used, c.rejected, c.noise)
			}
		})
	}
}

func TestRejectsTellTheLine(t *testing.T) {
	var got []string
	p := mustParser(t, ParserOptions{OnReject: func(r Reject) {
		got = append(got, r.Reason.String()+" "+string('0'+byte(r.Line))+" "+string(r.Text))
	}})
	p.Feed([]byte("\n$GPGGA,1*00\n\n$GPRMC\n$GPG"), 0, nil)
	p.End(nil)
	want := "checksum 2 GPGGA,1;no checksum 4 GPRMC;malformed 5 GPG"
	if s := strings.Join(got, ";"); s != want {
		t.Errorf("got %q, want %q", s, want)
	}
}

// No fix may come out of these, alone and repeated over seconds.
func TestNonsenseIsNoFix(t *testing.T) {
	for name, body := range map[string]string{
		"hour 25":               "GPRMC,2500%s,A,4807.038,N,01131.000,E,022.4,084.4,230326,,",
		"minute 60":             "GPRMC,1260%s,A,4807.038,N,01131.000,E,022.4,084.4,230326,,",
		"second 61":             "GPRMC,120061.%s,A,4807.038,N,01131.000,E,022.4,084.4,230326,,",
		"31 February":           "GPRMC,1200%s,A,4807.038,N,01131.000,E,022.4,084.4,310226,,",
		"29 February, 2026":     "GPRMC,1200%s,A,4807.038,N,01131.000,E,022.4,084.4,290226,,",
		"month 13":              "GPRMC,1200%s,A,4807.038,N,01131.000,E,022.4,084.4,231326,,",
		"day 0":                 "GPRMC,1200%s,A,4807.038,N,01131.000,E,022.4,084.4,000326,,",
		"date of five digits":   "GPRMC,1200%s,A,4807.038,N,01131.000,E,022.4,084.4,23032,,",
		"time of letters":       "GPRMC,noon%s,A,4807.038,N,01131.000,E,022.4,084.4,230326,,",
		"NaN position":          "GPRMC,1200%s,A,NaN,N,NaN,E,022.4,084.4,230326,,",
		"infinite position":     "GPGGA,1200%s,inf,N,inf,E,1,08,0.9,545.4,M,46.9,M,,",
		"exponent":              "GPGGA,1200%s,48e2.0,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"empty position":        "GPRMC,1200%s,A,,,,,022.4,084.4,230326,,",
		"no hemisphere":         "GPRMC,1200%s,A,4807.038,,01131.000,,022.4,084.4,230326,,",
		"wrong hemisphere":      "GPRMC,1200%s,A,4807.038,E,01131.000,N,022.4,084.4,230326,,",
		"beyond the pole":       "GPRMC,1200%s,A,9000.001,N,01131.000,E,022.4,084.4,230326,,",
		"beyond the date line":  "GPRMC,1200%s,A,4807.038,N,18000.001,E,022.4,084.4,230326,,",
		"minutes above 59":      "GPRMC,1200%s,A,4860.000,N,01131.000,E,022.4,084.4,230326,,",
		"a long number":         "GPRMC,1200%s,A,99999999999999999999999.0,N,01131.000,E,022.4,084.4,230326,,",
		"latitude without end":  "GPRMC,1200%s,A,4807.,N,01131.000,E,022.4,084.4,230326,,",
		"negative latitude":     "GPRMC,1200%s,A,-4807.038,N,01131.000,E,022.4,084.4,230326,,",
		"speed of letters":      "GPRMC,1200%s,A,4807.038,N,01131.000,E,fast,084.4,230326,,",
		"altitude NaN":          "GPGGA,1200%s,4807.038,N,01131.000,E,1,08,0.9,nan,M,46.9,M,,",
		"quality beyond digits": "GPGGA,1200%s,4807.038,N,01131.000,E,x,08,0.9,545.4,M,46.9,M,,",
		"GLL not valid":         "GPGLL,4807.038,N,01131.000,E,1200%s,V,N",
		"cut short":             "GPRMC,1200%s,A,4807.038,N",
	} {
		t.Run(name, func(t *testing.T) {
			p := mustParser(t, ParserOptions{})
			emit := func(f Fix) {
				if f.Valid() {
					t.Errorf("a fix: %+v", f)
				}
			}
			for _, second := range []string{"01", "02", "03", "04"} {
				p.Feed(lines(strings.Replace(body, "%s", second, 1)), 0, emit)
			}
			p.End(emit)
		})
	}
}

func TestDates(t *testing.T) {
	date := func(s string) time.Time {
		d, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for name, c := range map[string]struct {
		reference string
		header    string
		body      string
		want      string
	}{
		"century by reference":         {reference: "2026-01-01", body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,230326,,", want: "2026-03-23T12:00:00Z"},
		"century of a log of 1998":     {header: "# Date: 1998-03-01", body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,230398,,", want: "1998-03-23T12:00:00Z"},
		"header, other form":           {header: "#Date = 1998-3-1T00", body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,230398,,", want: "1998-03-23T12:00:00Z"},
		"across a century":             {reference: "2099-12-30", body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,020100,,", want: "2100-01-02T12:00:00Z"},
		"no reference, 80":             {body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,230380,,", want: "1980-03-23T12:00:00Z"},
		"no reference, 79":             {body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,230379,,", want: "2079-03-23T12:00:00Z"},
		"1024 weeks behind":            {reference: "2026-11-22", body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,080407,,", want: "2026-11-22T12:00:00Z"},
		"2048 weeks behind":            {reference: "2026-11-22", body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,230887,,", want: "2026-11-22T12:00:00Z"},
		"1024 weeks ahead":             {reference: "2015-03-18", body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,011134,,", want: "2015-03-18T12:00:00Z"},
		"leap second":                  {reference: "2016-12-31", body: "GPRMC,235960,A,4807.038,N,01131.000,E,1,2,311216,,", want: "2017-01-01T00:00:00Z"},
		"fraction":                     {reference: "2026-01-01", body: "GPRMC,120000.123456789,A,4807.038,N,01131.000,E,1,2,230326,,", want: "2026-03-23T12:00:00.123456789Z"},
		"29 February":                  {reference: "2026-01-01", body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,290224,,", want: "2024-02-29T12:00:00Z"},
		"29 February of the rollover":  {reference: "2026-01-01", body: "GPRMC,120000,A,4807.038,N,01131.000,E,1,2,290204,,", want: "2023-10-15T12:00:00Z"},
		"first full date is reference": {body: string("ZDA"), want: "2019-04-07T12:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			o := ParserOptions{LogHeaders: true}
			if c.reference != "" {
				o.Reference = date(c.reference)
			}
			p := mustParser(t, o)
			var got []string
			emit := func(f Fix) { got = append(got, time.Unix(0, f.Time).UTC().Format(time.RFC3339Nano)) }
			p.Feed([]byte(c.header+"\n"), 0, emit)
			if c.body == "ZDA" {
				p.Feed(lines("GPZDA,120000,07,04,2019,,", "GPGNS,120000,4807.038,N,01131.000,E,A,08,0.9,545.4,46.9,,,"), 0, emit)
			} else {
				p.Feed(lines(c.body), 0, emit)
			}
			p.End(emit)
			if len(got) != 1 || got[0] != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

// A receiver that sends its date with RMC only, last, and an epoch across midnight.
func TestMidnight(t *testing.T) {
	p := mustParser(t, ParserOptions{})
	var got []string
	emit := func(f Fix) {
		if f.Has(HasTime) {
			got = append(got, time.Unix(0, f.Time).UTC().Format("02T15:04:05"))
		}
	}
	p.Feed(lines("GPRMC,235957,A,4807.038,N,01131.000,E,1,2,280226,,"), 0, emit)
	for _, at := range []string{"235957", "235958", "235959", "000000", "000001"} {
		p.Feed(lines("GPGGA,"+at+",4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"), 0, emit)
	}
	p.End(emit)
	if s := strings.Join(got, " "); s != "28T23:59:57 28T23:59:58 28T23:59:59 01T00:00:00 01T00:00:01" {
		t.Error(s)
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]float64{
		"1": 1, "-1.5": -1.5, "+2": 2, " 3.25 ": 3.25, ".5": .5, "5.": 5, "007": 7, "0.1": 0.1, "1.234567890123456789": 1.234567890123456,
		"": math.NaN(), "-": math.NaN(), ".": math.NaN(), "1e3": math.NaN(), "nan": math.NaN(), "0x1": math.NaN(), "1.2.3": math.NaN(),
		"99999999999999999999": math.NaN(), "--1": math.NaN(), "inf": math.NaN(),
	} {
		got, ok := parseNumber([]byte(text))
		if ok == math.IsNaN(want) || ok && math.Abs(got-want) > 1e-15 {
			t.Errorf("%q: %v %v, want %v", text, got, ok, want)
		}
	}
}

func TestMetricsFollowTheCounters(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := mustParser(t, ParserOptions{Metrics: registry, Source: "gps0"})
	p.Feed([]byte("x$GPRMC*00\r\n"), 0, func(Fix) {})
	for _, second := range []string{"00", "01", "02"} {
		p.Feed(rmcGGA(second), 0, func(Fix) {})
	}
	p.End(func(Fix) {})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				if l.GetName() == "reason" {
					name += " " + l.GetValue()
				}
			}
			got[name] = m.Counter.GetValue()
		}
	}
	for name, want := range map[string]float64{
		"waybill_gps_sentences_total": 6, "waybill_gps_fixes_total": 3, "waybill_gps_noise_bytes_total": 1,
		"waybill_gps_rejected_sentences_total checksum": 1, "waybill_gps_rejected_sentences_total too long": 0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s = %v, want %v", name, value, want)
		}
	}
}
