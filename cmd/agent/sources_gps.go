package main

import (
	"context"
	"fmt"
	"time"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// gpsSource reads one receiver.
type gpsSource struct {
	*agent
	gpsSettings
	ids    gps.IDs
	source *pipeline.Source
}

func (g *gpsSource) run(ctx context.Context) error {
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
		return g.runReplay(ctx, parser)
	}
	// A receiver's two-digit year, or one whose week number has rolled over, is read near this day.
	parser.Reference = firmware.Current().Built
	if now := time.Now(); now.After(parser.Reference) {
		parser.Reference = now
	}
	alarmName := "gps." + g.Name
	serial, err := gps.NewSerial(gps.SerialOptions{
		Device: g.Serial, Baud: g.Baud, Parser: parser, Clock: g.clock, Log: g.log,
		OnState: func(err error) {
			if err == nil {
				g.alarms.Clear(alarmName)
				return
			}
			g.alarms.Raise(alarmName, fmt.Sprintf("no receiver on %s: %v; is it plugged in, and may the agent's user read it (group dialout)?", g.Serial, err))
		},
	})
	if err != nil {
		return err
	}
	return serial.Run(ctx, func(f gps.Fix) {
		chunk := g.source.Chunk()
		chunk.Samples = gps.AppendSamples(chunk.Samples, g.ids, f)
		g.source.Offer(chunk)
	})
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
	err = replay.Run(ctx, func(f gps.Fix) {
		chunk := g.source.Chunk()
		chunk.Samples = gps.AppendSamples(chunk.Samples, g.ids, f)
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
