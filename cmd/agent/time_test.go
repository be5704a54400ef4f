package main

import (
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// steppedClock is set by hand.
type steppedClock struct{ boot int64 }

func (c *steppedClock) Boot() int64     { return c.boot }
func (c *steppedClock) Wall() time.Time { return time.Unix(0, c.boot) }

// timeBench is an agent of which only the clock is there.
func timeBench(t *testing.T) (*agent, *steppedClock) {
	t.Helper()
	hand := &steppedClock{boot: int64(time.Minute)}
	a := &agent{clock: hand, vehicle: &vehicle{}}
	var err error
	a.times, err = clock.OpenTimekeeper(clock.TimekeeperOptions{
		BootID: [16]byte{1}, BootCount: 1, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Emit: func(*telemetrypb.ClockRecord) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if a.vehicle.selection, err = pipeline.Choose(clockSignals(), []pipeline.Collect{{Match: "agent.clock.*"}}); err != nil {
		t.Fatal(err)
	}
	return a, hand
}

var fixTime = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC).UnixNano()

func TestOnlyHonestFixesSetTheClock(t *testing.T) {
	valid := gps.Fix{Mode: gps.Mode3D, Quality: gps.QualityGNSS, Fields: gps.HasTime | gps.HasPosition | gps.HasQuality}
	for _, c := range []struct {
		name   string
		change func(*gps.Fix, *gpsSource)
		want   bool
	}{
		{"valid", func(*gps.Fix, *gpsSource) {}, true},
		{"RTK", func(f *gps.Fix, _ *gpsSource) { f.Quality = gps.QualityRTK }, true},
		{"of unknown quality", func(f *gps.Fix, _ *gpsSource) { f.Fields &^= gps.HasQuality }, true},
		{"simulated", func(f *gps.Fix, _ *gpsSource) { f.Quality = gps.QualitySimulated }, false},
		{"estimated", func(f *gps.Fix, _ *gpsSource) { f.Quality = gps.QualityEstimated }, false},
		{"manual", func(f *gps.Fix, _ *gpsSource) { f.Quality = gps.QualityManual }, false},
		{"no fix", func(f *gps.Fix, _ *gpsSource) { f.Mode = gps.ModeNoFix }, false},
		{"no time", func(f *gps.Fix, _ *gpsSource) { f.Fields &^= gps.HasTime }, false},
		{"no position", func(f *gps.Fix, _ *gpsSource) { f.Fields &^= gps.HasPosition }, false},
		{"not asked for", func(_ *gps.Fix, g *gpsSource) { g.Clock.Ignored = true }, false},
	} {
		a, hand := timeBench(t)
		g := &gpsSource{agent: a, gpsSettings: gpsSettings{Clock: clockSettings{Offset: 150 * time.Millisecond, Doubt: 200 * time.Millisecond}}}
		for i := range int64(4) {
			fix := valid
			fix.Boot, fix.Time = hand.boot, fixTime+i*int64(time.Second)
			c.change(&fix, g)
			g.offerTime(&fix)
			hand.boot += int64(time.Second)
		}
		unix, doubt, source := a.times.Now(int64(time.Minute))
		if got := source == telemetrypb.TimeSource_TIME_SOURCE_GPS; got != c.want {
			t.Errorf("%s: by %v", c.name, source)
		} else if got && (unix != fixTime+150e6 || doubt > 201e6) {
			t.Errorf("%s: %v ± %v", c.name, time.Unix(0, unix).UTC(), time.Duration(doubt))
		}
	}
}

func TestClockStateIsSampled(t *testing.T) {
	a, hand := timeBench(t)
	state := func() (source uint64, seconds float64) {
		t.Helper()
		samples := a.appendClock(nil)
		if len(samples) != 2 || samples[0].Time != hand.boot {
			t.Fatalf("samples %v", samples)
		}
		return samples[0].Bits, math.Float64frombits(samples[1].Bits)
	}
	if source, seconds := state(); source != 0 || !math.IsNaN(seconds) {
		t.Errorf("at the start: %d ± %v", source, seconds)
	}
	a.times.System(clock.Reading{Boot: hand.boot, Mono: hand.boot, Unix: fixTime})
	if source, seconds := state(); source != 1 || !math.IsNaN(seconds) {
		t.Errorf("a clock that nobody vouches for: %d ± %v", source, seconds)
	}
	a.times.System(clock.Reading{Boot: hand.boot + 1e9, Mono: hand.boot + 1e9, Unix: fixTime, Synced: true, MaxError: 123_400_000})
	hand.boot += 2e9
	if source, seconds := state(); source != 2 || seconds != 0.13 {
		t.Errorf("NTP: %d ± %v", source, seconds)
	}
	if now := a.now(); now.UnixNano() != fixTime+1e9 {
		t.Errorf("certificates are checked by %v", now)
	}
	for value, want := range map[float64]float64{0: 0, 0.2: 0.2, 0.2001: 0.21, 1.04: 1.1, 99.1: 100, 5e-9: 5e-9} {
		if got := roundUp(value); math.Abs(got-want) > 1e-12 {
			t.Errorf("%v is rounded to %v, want %v", value, got, want)
		}
	}
}

func TestReceiversTimeIsConfigured(t *testing.T) {
	const base = "device: {id: car-1}\ngps:\n  - serial: /dev/ttyACM0\n%\ncollect:\n  signals: [{match: 'gps0.*'}]\n"
	read := func(keys string) (*settings, error) {
		d, err := parseConfig("agent.yaml", []byte(strings.Replace(base, "%", keys, 1)))
		if err != nil {
			return nil, err
		}
		return check(d)
	}
	for keys, want := range map[string]clockSettings{
		"":                        {Offset: usualOffset, Doubt: usualDoubt},
		"    time_offset: 80ms":   {Offset: 80 * time.Millisecond, Doubt: measuredDoubt},
		"    sets_clock: false":   {Ignored: true, Offset: usualOffset, Doubt: usualDoubt},
		"    time_offset: 0s":     {Doubt: measuredDoubt},
		"    sets_clock: true   ": {Offset: usualOffset, Doubt: usualDoubt},
	} {
		if s, err := read(keys); err != nil || s.GPS[0].Clock != want {
			t.Errorf("%q: %+v, %v", keys, s, err)
		}
	}
	for keys, words := range map[string]string{
		"    time_offset: 3s":   "must be between 0s and 2s",
		"    time_offset: soon": "want a number with a unit",
		"    sets_clok: true":   `did you mean "sets_clock"`,
	} {
		if _, err := read(keys); err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), ":4:") {
			t.Errorf("%q: %v, want %q and line 4", keys, err, words)
		}
	}
}
