package ingest

import (
	"fmt"
	"math"

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

// dateBy is the wall time that a record gives; a nil record knows nothing.
func dateBy(c *telemetrypb.ClockRecord, bootNS int64) store.Time {
	unix, doubt, source := c.WallTime(bootNS)
	if source == telemetrypb.TimeSource_TIME_SOURCE_NONE {
		return store.Time{}
	}
	return store.Time{UnixNS: unix, UncertaintyNS: doubt, Source: source}
}

// changedFrom is the first CLOCK_BOOTTIME that a new record may date otherwise than the old one. A record that only
// grew within its last piece leaves everything before the old end as it was, so that an hourly anchor on a long drive
// does not touch the drive from its beginning.
func changedFrom(old, now *telemetrypb.ClockRecord) int64 {
	had, have := old.GetAnchors(), now.GetAnchors()
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
