package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/internal/local"
)

// bus tells of one bus.
func (t *teller) bus(now time.Time, c *canSource) local.Bus {
	b := local.Bus{
		Name: c.Bus, Interface: c.Interface, Bitrate: c.Bitrate, ListenOnly: c.ListenOnly, LoadPercent: local.Missing(),
		Frames: c.counts.replayed.Load(), Short: c.counts.short.Load(), Unknown: c.plan.Counters.Unknown.Load(),
	}
	if c.Replay != nil {
		b.Replay, b.Up = c.Replay.File, true
	}
	if c.monitor != nil {
		b.Up = c.counts.isOpen()
		stats := c.counts.stats()
		b.Frames, b.ErrorFrames, b.Drops = stats.Frames, stats.Errors, stats.Drops
		know := c.monitor.knowledge()
		b.LoadPercent, b.Changes = local.Number(know.percent), know.changed
		if know.known {
			b.State = know.now.state.String()
		}
		if know.counted {
			b.TxErrors, b.RxErrors = &know.tx, &know.rx
		}
		link := know.link
		b.Kind, b.FD, b.DataBitrate = link.Kind, link.FD, link.DataBitrate
		if link.Bitrate != 0 {
			b.Bitrate, b.ListenOnly = link.Bitrate, link.ListenOnly
		}
		b.BusOffs, b.Restarts = link.Events.BusOffs, link.Events.Restarts
	}
	b.FrameRate = t.rate("frames "+c.Bus, now, float64(b.Frames))
	return b
}

func sortLosses(list []local.Loss) {
	slices.SortFunc(list, func(a, b local.Loss) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Unit, b.Unit))
	})
}
