package ingest

import (
	"context"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// checkClock refuses a record that cannot be one.
func checkClock(c *telemetrypb.ClockRecord) error {
	anchors := c.GetAnchors()
	switch {
	case len(c.GetBootId()) != 16:
		return fmt.Errorf("clock record: boot id of %d bytes, want 16", len(c.GetBootId()))
	case c.GetRevision() == 0:
		return fmt.Errorf("clock record of boot %x: revision 0, they start at 1", c.GetBootId())
	case len(anchors) > maxAnchors:
		return fmt.Errorf("clock record of boot %x: %d anchors, at most %d", c.GetBootId(), len(anchors), maxAnchors)
	}
	for i := 1; i < len(anchors); i++ {
		if anchors[i].GetBootNs() < anchors[i-1].GetBootNs() {
			return fmt.Errorf("clock record of boot %x: anchor %d is earlier than the one before it", c.GetBootId(), i)
		}
	}
	return nil
}

// retime does a bounded part of the work that a new record leaves. New samples of the boot are dated by it at once, so
// in the end all are, whichever comes first.
func (g *Ingester) retime(tx store.Tx, r store.Retiming, most int, c *telemetrypb.ClockRecord, counts *Counts) (done bool, err error) {
	n, done, err := tx.Retime(r.Device, r.Boot, most, func(bootNS int64) store.Time { return dateBy(c, bootNS) })
	counts.Retimed += uint64(n)
	if err == nil && !done {
		g.remind()
	}
	return done, err
}

// remind has Run look for samples to date again.
func (g *Ingester) remind() {
	select {
	case g.left <- struct{}{}:
	default:
	}
}

// Retime dates again a bounded part of what is left, in one transaction, and says whether there may be more.
func (g *Ingester) Retime(ctx context.Context) (more bool, counts Counts, err error) {
	err = g.store.Update(ctx, func(tx store.Tx) error {
		counts = Counts{} // Update may run this again
		r, ok, err := tx.NextRetiming()
		if more = ok; err != nil || !ok {
			return err
		}
		c, err := tx.Clock(r.Device, r.Boot)
		if err != nil {
			return err
		}
		_, err = g.retime(tx, r, g.retimeSamples, c, &counts)
		return err
	})
	return more, counts, err
}

// retimeAgain is the wait after a store that failed.
const retimeAgain = time.Second

// Run dates samples again beside Apply, a bounded number at a time so that nobody waits long for the store, until ctx
// ends; it returns nil. What is not done by then is done after the next start.
func (g *Ingester) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.left:
		}
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, _, err = g.Retime(ctx); err == nil || ctx.Err() != nil {
				continue
			}
			g.log.Warn("samples could not be dated again; they will be", "err", err)
			more = true
			select {
			case <-ctx.Done():
			case <-time.After(retimeAgain):
			}
		}
	}
}

// dateBy is the wall time that a record gives; a nil record knows nothing.
func dateBy(c *telemetrypb.ClockRecord, bootNS int64) store.Time {
	unix, doubt, source := c.WallTime(bootNS)
	if source == telemetrypb.TimeSource_TIME_SOURCE_NONE {
		return store.Time{}
	}
	return timeOf(unix, doubt, source)
}

// timeOf is a wall time, and none within a day of the ends of what 64 bits hold (1677 and 2262): who counts on from there in hours, as
// a database's views do, leaves them.
func timeOf(unix int64, doubt uint64, source telemetrypb.TimeSource) store.Time {
	const day = int64(24 * time.Hour)
	if unix < math.MinInt64+day || unix > math.MaxInt64-day {
		return store.Time{}
	}
	return store.Time{UnixNS: unix, UncertaintyNS: doubt, Source: source}
}

// changedFrom is the first CLOCK_BOOTTIME that a new record may date otherwise than the old one. A record that only
// grew within its last piece leaves everything before the old end as it was, so that an hourly anchor on a long drive
// does not touch the drive from its beginning.
func changedFrom(old, now *telemetrypb.ClockRecord) int64 {
	had, have := old.GetAnchors(), now.GetAnchors()
	if old.GetNotBeforeUnixNs() != now.GetNotBeforeUnixNs() || old.GetNotAfterUnixNs() != now.GetNotAfterUnixNs() {
		return math.MinInt64
	}
	if len(had) == 0 || len(have) < len(had) {
		return math.MinInt64
	}
	for i, a := range had {
		if !proto.Equal(a, have[i]) {
			return math.MinInt64
		}
	}
	for _, a := range have[len(had):] {
		if a.GetNewPiece() {
			return math.MinInt64 // a surer piece speaks of earlier times too
		}
	}
	return had[len(had)-1].GetBootNs()
}
