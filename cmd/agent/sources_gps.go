package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// gpsSource reads one receiver. What it reads goes this way:
//
//	receiver ─▶ Fix ─▶ judge (what is suspect) ─▶ motion (thinning, parked, odometer) ─▶ privacy ─▶ samples
type gpsSource struct {
	*agent
	gpsSettings
	ids      gps.IDs
	source   *pipeline.Source
	pulse    *pulse
	judge    gps.Judge
	motion   *gps.Motion
	gate     *positionGate
	odometer *odometerFile
	thinned  prometheus.Counter
	told     uint64 // of thinned
	open     bool   // the gate, at the last fix
	fixed    bool   // the last fix was one
	sky      func([]gps.Satellite) []gps.Satellite
	view     receiverView

	opened atomic.Bool   // the receiver was, once
	epochs atomic.Uint64 // that were read, with a fix or without
}

func newGPSSource(a *agent, s gpsSettings, i int, source *pipeline.Source) *gpsSource {
	return &gpsSource{agent: a, gpsSettings: s, ids: a.vehicle.receivers[i], source: source, gate: a.vehicle.gates[i],
		pulse: a.pulse("gps " + s.Name)}
}

func (g *gpsSource) run(ctx context.Context) error {
	g.thinned = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "waybill", Subsystem: "gps", Name: "thinned_fixes_total", Help: "Fixes that motion: left out.",
		ConstLabels: prometheus.Labels{"source": g.Name},
	})
	if err := g.metrics.Register(g.thinned); err != nil {
		return fmt.Errorf("registering the metrics of %s: %w", g.Name, err)
	}
	parser := gps.ParserOptions{
		OnReject: func(r gps.Reject) {
			if r.Reason == gps.ReasonUnknown || r.Reason == gps.ReasonNoChecksum {
				return // a proprietary sentence is no loss
			}
			g.pipe.Ledger().Add(telemetrypb.LossReason_LOSS_UNDECODABLE, "gps:"+g.Name, "sentences", 1, r.Reason.String())
		},
		Metrics: g.metrics, Source: g.Name,
	}
	if g.Replay != nil {
		g.motion = gps.NewMotion(g.Motion)
		return g.runReplay(ctx, parser)
	}
	// A receiver's two-digit year, or one whose week number has rolled over, is read near this day.
	parser.Reference = g.dateReference()
	receiver, err := g.receiver(parser)
	if err != nil {
		return err
	}
	g.sky = receiver.AppendSky
	g.odometer = openOdometer(g.settings.DataDir, g.Name, g.log)
	options := g.Motion
	options.Odometer = g.odometer.metres
	g.motion = gps.NewMotion(options)
	defer func() { g.odometer.save(g.log) }()
	return receiver.Run(ctx, func(f gps.Fix) {
		g.epochs.Add(1)
		g.live(f)
	})
}

// liveReceiver is a receiver that is read as it speaks.
type liveReceiver interface {
	Run(ctx context.Context, emit func(gps.Fix)) error
	AppendSky(dst []gps.Satellite) []gps.Satellite
}

// receiver makes the reader that the settings ask for.
func (g *gpsSource) receiver(parser gps.ParserOptions) (liveReceiver, error) {
	switch {
	case g.TCP != "":
		return gps.NewTCP(gps.TCPOptions{
			Address: g.TCP, Parser: parser, Clock: g.clock, Log: g.log,
			OnState: g.onState("no receiver at "+g.TCP, "does the router send NMEA to TCP clients there?"),
		})
	case g.GPSD != nil:
		return gps.NewGPSD(gps.GPSDOptions{
			Address: g.GPSD.Address, Device: g.GPSD.Device, Parser: parser, Clock: g.clock, Log: g.log,
			OnState: g.onState("no reports by gpsd at "+g.GPSD.Address, "does it run, and has it a receiver? `gpspipe -w` shows"),
		})
	}
	return gps.NewSerial(gps.SerialOptions{
		Device: g.Serial, Baud: g.Baud, Parser: parser, Clock: g.clock, Log: g.log,
		OnState: g.onState("no receiver on "+g.Serial, "is it plugged in, and may the agent's user read it (group dialout)?"),
	})
}

// onState makes the callback of a receiver that comes and goes. A receiver that is gone has no fix: its last one must
// not stand for the rest of the drive.
func (g *gpsSource) onState(what, remedy string) func(error) {
	alarmName := "gps." + g.Name
	return func(err error) {
		if err == nil {
			g.alarms.Clear(alarmName)
			g.opened.Store(true)
			return
		}
		g.alarms.Raise(alarmName, fmt.Sprintf("%s: %v; %s", what, err, remedy))
		if g.fixed {
			g.live(gps.Fix{Boot: g.clock.Boot(), Mode: gps.ModeNoFix, Quality: gps.QualityInvalid, Fields: gps.HasQuality})
		}
	}
}

// live takes a fix of a receiver that does not wait.
func (g *gpsSource) live(f gps.Fix) {
	g.pulse.work()
	defer g.pulse.rest()
	g.offerTime(&f)
	chunk := g.source.Chunk()
	chunk.Samples = g.take(f, chunk.Samples)
	g.source.Offer(chunk)
	g.odometer.keep(g.clock.Boot(), g.log)
}

// take appends the samples of a fix, if it is worth any.
func (g *gpsSource) take(f gps.Fix, dst []telemetrypb.Sample) []telemetrypb.Sample {
	g.judge.Judge(&f)
	if f.Mode != gps.ModeUnknown {
		g.fixed = f.Valid()
	}
	privacy := g.Privacy
	if g.gate != nil {
		open := g.gate.isOpen(f.Boot)
		if open != g.open {
			g.open = open
			g.motion.KeepNext()
		}
		privacy.Off = !open
	}
	moved := g.motion.See(&f)
	if n := g.motion.Thinned(); n > g.told {
		g.thinned.Add(float64(n - g.told))
		g.told = n
	}
	if g.odometer != nil {
		g.odometer.metres = moved.Odometer
	}
	privacy.Apply(&f)
	g.show(&f, moved, privacy.Off)
	if !moved.Keep {
		return dst
	}
	dst = gps.AppendSamples(dst, g.ids, f)
	return gps.AppendMovement(dst, g.ids, f.Boot, moved)
}

func (g *gpsSource) runReplay(ctx context.Context, parser gps.ParserOptions) error {
	o := gps.ReplayOptions{Path: g.Replay.File, Speed: g.Replay.Speed, Clock: g.clock, Parser: parser}
	live := g.Replay.Time == "receipt"
	if !live {
		o.Stamp = g.stamp
	}
	replay, err := gps.NewReplay(o)
	if err != nil {
		return err
	}
	g.sky = replay.AppendSky
	err = replay.Run(ctx, func(f gps.Fix) {
		g.epochs.Add(1)
		chunk := g.source.Chunk()
		chunk.Samples = g.take(f, chunk.Samples)
		if live {
			g.source.Offer(chunk)
		} else {
			_ = g.source.Send(ctx, chunk) // the error is ctx's, which ends Run
		}
	})
	if n := replay.Undated(); n > 0 {
		g.pipe.Ledger().Add(telemetrypb.LossReason_LOSS_UNDECODABLE, "gps:"+g.Name, "epochs", n, "nothing before them told a date")
	}
	g.log.Info("replay read", "receiver", g.Name, "file", g.Replay.File, "fixes", replay.Counters().Fixes)
	return err
}

// positionGate lets a receiver's position out for a while after a rule raised its event (position: on_event). Events
// come from the pipeline's goroutine, questions from the receiver's.
type positionGate struct {
	event uint32 // signal id
	hold  int64  // ns
	until atomic.Int64
}

func newPositionGate(s *gpsSettings, id func(name string) (uint32, bool)) *positionGate {
	if s.When == "" {
		return nil
	}
	event, _ := id("event." + s.When) // that there is such a rule was checked
	return &positionGate{event: event, hold: int64(s.Hold)}
}

func (p *positionGate) isOpen(boot int64) bool { return boot < p.until.Load() }

// openGates is told of every event.
func (v *vehicle) openGates(event uint32, boot int64) {
	for _, g := range v.gates {
		if g != nil && g.event == event {
			g.until.Store(max(g.until.Load(), boot+g.hold))
		}
	}
}
