package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/clock"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	// clockEvery is how often the system's clocks are read; a step and a suspend are noticed at once.
	clockEvery = 5 * time.Second
	// A receiver's first byte comes usualOffset after the second that it names, by usualDoubt more or less. A time_offset that
	// somebody has measured is good to measuredDoubt. gpsd reports a fix when its epoch is over, which takes a slow line
	// most of the second.
	usualOffset   = 150 * time.Millisecond
	usualDoubt    = 200 * time.Millisecond
	gpsdOffset    = 400 * time.Millisecond
	gpsdDoubt     = 450 * time.Millisecond
	measuredDoubt = 50 * time.Millisecond
)

// clockSettings is what a receiver's time is worth.
type clockSettings struct {
	Ignored bool          // its time is not believed
	Offset  time.Duration // from the second that it names to its first byte
	Doubt   time.Duration // of Offset
}

// receiverClock checks the keys of a receiver's time.
func (c *checker) receiverClock(r *gpsConfig, path func(key ...any) []any) clockSettings {
	o := clockSettings{Ignored: r.SetsClock != nil && !*r.SetsClock, Offset: usualOffset, Doubt: usualDoubt}
	if r.GPSD != nil {
		o.Offset, o.Doubt = gpsdOffset, gpsdDoubt
	}
	if r.TimeOffset != "" {
		o.Offset, o.Doubt = c.duration(r.TimeOffset, usualOffset, 0, 2*time.Second, path("time_offset")...), measuredDoubt
	}
	if r.Replay != "" {
		if r.TimeOffset != "" {
			c.fail("is for receivers: a recording's time is not today's", path("time_offset")...)
		}
		if r.SetsClock != nil {
			c.fail("is for receivers: a recording's time is not today's", path("sets_clock")...)
		}
		o.Ignored = true
	}
	return o
}

// openTime reads what is known of the time, and watches it from then on.
func (a *agent) openTime() error {
	o := clock.TimekeeperOptions{
		Dir: a.settings.DataDir, BootID: a.boot.ID, BootCount: a.boot.Count, Built: firmware.Current().Built,
		Write: writeDurably, Log: a.log,
		Emit: func(r *telemetrypb.ClockRecord) {
			a.pipe.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Clock{Clock: r}})
		},
	}
	if a.logClock != nil {
		o.Dir, o.Built = "", time.Time{} // a recording's time is its own, and nothing of it stays
	}
	var warning error
	a.times, warning = clock.OpenTimekeeper(o)
	if warning != nil {
		a.log.Warn("clock file", "error", warning)
	}
	return a.registerClock()
}

// registerClock makes the clock's metrics.
func (a *agent) registerClock() error {
	count := func(name, help string, pick func(refused, steps, suspends int64) int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 {
			return float64(pick(a.times.Keeper().Counts()))
		})
	}
	for _, c := range []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "waybill_clock_uncertainty_seconds",
			Help: "How far wall time may be off, half width; NaN while nobody vouches for it."},
			func() float64 { _, seconds := a.clockState(); return seconds }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "waybill_clock_source",
			Help: "Where wall time comes from: 0 none, 1 system, 2 NTP, 3 GPS, 4 floor, 5 log, 6 neighbour."},
			func() float64 { source, _ := a.clockState(); return float64(source) }),
		count("waybill_clock_refused_fixes_total", "Fixes with a time that cannot be.", func(n, _, _ int64) int64 { return n }),
		count("waybill_clock_steps_total", "Steps of the system's clock.", func(_, n, _ int64) int64 { return n }),
		count("waybill_clock_suspends_total", "Suspends of the computer.", func(_, _, n int64) int64 { return n }),
	} {
		if err := a.metrics.Register(c); err != nil {
			return fmt.Errorf("clock metrics: %w", err)
		}
	}
	return nil
}

// readClock tells the timekeeper what the system's clocks say.
func (a *agent) readClock() {
	r := clock.Read()
	if a.slept(r.Boot, r.Mono) {
		a.renew()
	}
	a.times.System(r)
	if a.times.Keeper().Denied() {
		a.alarms.Raise("clock.contradicted", "the system's clock claims to be synchronised, and GPS contradicts it: samples follow GPS; look at the NTP servers of this vehicle, or for a receiver that is being deceived")
	} else {
		a.alarms.Clear("clock.contradicted")
	}
}

// keepTime reads the clocks again and again, and samples their state. It owns the source that it offers to.
func (a *agent) keepTime() func(context.Context) error {
	source := a.pipe.Source("agent", 4)
	return func(ctx context.Context) error {
		defer func() { a.times.Save(a.clock.Boot(), true) }()
		return a.often(clockEvery, func() {
			a.readClock()
			chunk := source.Chunk()
			chunk.Samples = a.appendClock(chunk.Samples)
			source.Offer(chunk)
		})(ctx)
	}
}

// watchSteps reads the clocks at once when somebody sets them. A kernel that cannot tell leaves it to keepTime.
func (a *agent) watchSteps(ctx context.Context) error {
	if err := clock.Watch(ctx, a.readClock); err != nil {
		a.log.Warn("a step of the clock is noticed late", "error", err, "within", clockEvery)
	}
	return nil
}

// offerTime tells the timekeeper of a fix. A receiver that guesses, or is told its position, has no time to give.
func (g *gpsSource) offerTime(f *gps.Fix) {
	if g.Clock.Ignored || !f.Valid() || !f.Has(gps.HasTime) || f.Has(gps.HasQuality) && f.Quality >= gps.QualityEstimated {
		return
	}
	g.times.Fix(g.clock.Boot(), f.Boot-int64(g.Clock.Offset), f.Time, uint64(g.Clock.Doubt))
}

// dateReference is a day near which a receiver's dates are read.
func (a *agent) dateReference() time.Time {
	if reference := a.times.Keeper().Reference(); !reference.IsZero() {
		return reference
	}
	return time.Now() // a build that does not know its day
}

// now is the time for checking certificates: what somebody vouches for, else the system's clock, but no earlier than what
// is certain.
func (a *agent) now() time.Time {
	unix, doubt, _ := a.times.Now(a.clock.Boot())
	if doubt < clock.Unbounded && unix != 0 && a.logClock == nil {
		return time.Unix(0, unix)
	}
	now := time.Now()
	if reference := a.times.Keeper().Reference(); now.Before(reference) {
		return reference
	}
	return now
}
