// Package benchnmea measures our NMEA parser beside github.com/adrianmo/go-nmea, the one most Go programs use. It is a
// module of its own so that the comparison is no dependency of what we build.
package benchnmea

import (
	"testing"
	"time"

	nmea "github.com/adrianmo/go-nmea"

	"github.com/waybill-telematics/waybill/gps"
)

// sentences are an epoch of a receiver with two systems, as it stands on the line: RMC, VTG, GGA, GSA, GSV, GLL.
var sentences = []string{
	"$GPRMC,123519.00,A,4807.03812,N,01131.00045,E,022.41,084.4,230324,003.1,W,A*27",
	"$GPVTG,084.4,T,077.8,M,022.4,N,041.5,K,A*21",
	"$GPGGA,123519.00,4807.03812,N,01131.00045,E,1,08,0.9,545.4,M,46.9,M,,*68",
	"$GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1*39",
	"$GPGSV,2,1,08,01,40,083,46,02,17,308,41,12,07,344,39,14,22,228,45*75",
	"$GPGLL,4807.03812,N,01131.00045,E,123519.00,A,A*65",
}

// sound makes the checksums right, so that both parsers take every sentence.
func sound(t testing.TB) (list []string, line []byte) {
	t.Helper()
	for _, s := range sentences {
		body := s[1 : len(s)-3]
		full := "$" + body + "*" + nmea.Checksum(body)
		list = append(list, full)
		line = append(line, full...)
		line = append(line, '\r', '\n')
	}
	return list, line
}

// BenchmarkEpoch reads one epoch: ours from the bytes of the line to the fix, go-nmea from sentences that somebody has
// already cut, to one struct each; what it would take to make a fix of them is not counted.
func BenchmarkEpoch(b *testing.B) {
	list, line := sound(b)
	b.Run("waybill", func(b *testing.B) {
		p, err := gps.NewParser(gps.ParserOptions{})
		if err != nil {
			b.Fatal(err)
		}
		fixes := 0
		emit := func(gps.Fix) { fixes++ }
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			p.Feed(line, 0, emit)
			p.Idle(emit)
		}
		if c := p.Counters(); c.Sentences != uint64(b.N*len(list)) {
			b.Fatalf("took %d of %d sentences", c.Sentences, b.N*len(list))
		}
	})
	b.Run("go-nmea", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			for _, s := range list {
				if _, err := nmea.Parse(s); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// TestRatio prints how many times faster ours is, by the best of many short turns, which a loaded machine disturbs least,
// and holds our allocations to none. It judges no time.
func TestRatio(t *testing.T) {
	list, line := sound(t)
	p, err := gps.NewParser(gps.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	emit := func(gps.Fix) {}
	const turns, epochs = 60, 500
	best := func(least *time.Duration, epoch func()) {
		started := time.Now()
		for range epochs {
			epoch()
		}
		if took := time.Since(started); *least == 0 || took < *least {
			*least = took
		}
	}
	var ours, theirs time.Duration
	for range turns {
		best(&ours, func() { p.Feed(line, 0, emit) })
		best(&theirs, func() {
			for _, s := range list {
				if _, err := nmea.Parse(s); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	t.Logf("an epoch of %d sentences: %v; go-nmea %v: %.1f times", len(list), ours/epochs, theirs/epochs, float64(theirs)/float64(ours))
	if n := testing.AllocsPerRun(1000, func() { p.Feed(line, 0, emit) }); n != 0 {
		t.Errorf("%v allocations an epoch", n)
	}
}
