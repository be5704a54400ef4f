package sim

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// within is how close to the truth a sample has to be that has anchors around it.
const within = 50 * time.Millisecond

// result is what check found.
type result struct {
	samples    int
	surrounded int           // by anchors of one piece, GPS on both sides
	worst      time.Duration // of those
	unbounded  int           // nobody vouches for their time
	wrong      int           // told; of many the first are enough
	sources    map[telemetrypb.TimeSource]int
}

// check compares what the store holds with the truth: every sample once, in order, and its time as near the truth as is
// claimed.
func (v *vehicle) check() (r result) {
	t := v.t
	t.Helper()
	v.cloud.settle(t)
	r.sources = map[telemetrypb.TimeSource]int{}
	rows := map[string][]*store.Reading{canSignal: make([]*store.Reading, len(v.canTruth)), gpsSignal: make([]*store.Reading, len(v.gpsTruth))}
	v.cloud.eachRow(t, func(row *store.Reading) {
		list := rows[row.Signal]
		switch serial := row.Raw.Bits; {
		case serial >= uint64(len(list)):
			t.Fatalf("%s %d was never taken", row.Signal, serial)
		case list[serial] != nil:
			t.Fatalf("%s %d is stored twice", row.Signal, serial)
		default:
			list[serial] = row
		}
	})
	for signal, truths := range map[string][]truth{canSignal: v.canTruth, gpsSignal: v.gpsTruth} {
		var before *store.Reading
		var beforeUnix int64
		for i, truth := range truths {
			row := rows[signal][i]
			if row == nil {
				t.Fatalf("%s %d of boot %d is missing", signal, i, truth.in)
			}
			v.checkRow(&r, row, truth)
			if before != nil && before.BootID == row.BootID {
				if row.BootNS <= before.BootNS || row.Epoch == before.Epoch && (row.Seq < before.Seq || row.Seq == before.Seq && row.Index < before.Index) {
					t.Errorf("%s %d is out of order", signal, i)
				}
				if v.surrounded(row) && v.surrounded(before) && v.pieceOf(row) == v.pieceOf(before) && row.Time.UnixNS < before.Time.UnixNS && truth.unix >= beforeUnix {
					t.Errorf("%s %d is dated before the one ahead of it", signal, i)
				}
			}
			before, beforeUnix = row, truth.unix
		}
	}
	if t.Failed() {
		for boot := range v.boots {
			t.Logf("boot %d: %v", boot+1, v.times.Clock(bootID(boot+1)))
		}
	}
	losses, err := v.cloud.store.Losses(context.Background(), "")
	if err != nil || len(losses) > 0 {
		t.Errorf("losses %+v, %v", losses, err)
	}
	if totals := v.cloud.store.Totals(); totals.Gaps > 0 || totals.Parked > 0 || totals.Letters > 0 {
		t.Errorf("store %+v", totals)
	}
	return r
}

// checkRow judges one sample's time.
func (v *vehicle) checkRow(r *result, row *store.Reading, truth truth) {
	t := v.t
	t.Helper()
	if r.wrong > 5 {
		return
	}
	if row.BootNS != truth.boot {
		t.Fatalf("%s %d: taken at %d, stored with %d", row.Signal, row.Raw.Bits, truth.boot, row.BootNS)
	}
	r.samples++
	r.sources[row.Time.Source]++
	off := time.Duration(row.Time.UnixNS - truth.unix).Abs()
	if v.world.secondTime(truth.unix) { // of a second that is there twice either is right
		off = min(off, (off - time.Second).Abs())
	}
	if !v.world.leap.IsZero() && !v.world.heard {
		off = min(off, (off - time.Second).Abs()) // nobody told the vehicle of the leap second, and it claims nothing
	}
	surrounded := v.surrounded(row)
	switch {
	case row.Time.Source == telemetrypb.TimeSource_TIME_SOURCE_NONE || row.Time.UncertaintyNS >= telemetrypb.Unbounded:
		r.unbounded++
		if surrounded {
			t.Errorf("%s %d of boot %d has anchors around it and nobody vouches for it", row.Signal, row.Raw.Bits, truth.in)
		}
	case uint64(off) > row.Time.UncertaintyNS:
		r.wrong++
		t.Errorf("%s %d of boot %d at %v: %v off, %v are claimed, by %v", row.Signal, row.Raw.Bits, truth.in,
			time.Unix(0, truth.unix).UTC(), time.Duration(row.Time.UnixNS-truth.unix), time.Duration(row.Time.UncertaintyNS), row.Time.Source)
	case surrounded && off > within:
		r.wrong++
		t.Errorf("%s %d of boot %d at %v: %v off between anchors", row.Signal, row.Raw.Bits, truth.in, time.Unix(0, truth.unix).UTC(), off)
	}
	if surrounded {
		r.surrounded++
		r.worst = max(r.worst, off)
	}
}

// secondTime says whether a Unix time is there twice.
func (w *world) secondTime(unix int64) bool {
	return !w.leap.IsZero() && unix >= w.leap.UnixNano() && unix < w.leap.UnixNano()+int64(time.Second)
}

// recordOf is the record of a reading's boot in the end.
func (v *vehicle) recordOf(row *store.Reading) *telemetrypb.ClockRecord {
	return v.times.Clock(row.BootID)
}

// surrounded says whether anchors of GPS lie on both sides of a sample, with no beginning of a piece between.
func (v *vehicle) surrounded(row *store.Reading) bool {
	anchors := v.recordOf(row).GetAnchors()
	for i := 1; i < len(anchors); i++ {
		a, b := anchors[i-1], anchors[i]
		if !b.GetNewPiece() && a.GetBootNs() <= row.BootNS && row.BootNS <= b.GetBootNs() {
			return a.GetSource() == telemetrypb.TimeSource_TIME_SOURCE_GPS && b.GetSource() == a.GetSource() &&
				a.GetUncertaintyNs() < uint64(time.Second) && b.GetUncertaintyNs() < uint64(time.Second)
		}
	}
	return false
}

// pieceOf numbers the piece that a sample lies in.
func (v *vehicle) pieceOf(row *store.Reading) (n int) {
	for _, a := range v.recordOf(row).GetAnchors() {
		if a.GetBootNs() > row.BootNS {
			break
		}
		if a.GetNewPiece() {
			n++
		}
	}
	return n
}

// settle dates again what is left to be.
func (c *cloud) settle(t testing.TB) {
	t.Helper()
	for more := true; more; {
		var err error
		if more, _, err = c.ingest.Retime(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// eachRow goes through the store.
func (c *cloud) eachRow(t testing.TB, f func(*store.Reading)) {
	t.Helper()
	if err := c.store.Samples(context.Background(), store.Query{}, func(row *store.Reading) error {
		f(row)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// dump writes all rows as text, for comparing two states of a store.
func (c *cloud) dump(t testing.TB) []byte {
	c.settle(t)
	var text bytes.Buffer
	c.eachRow(t, func(row *store.Reading) {
		fmt.Fprintf(&text, "%016x/%d/%d/%d %s %x %d %d±%d/%d %d\n", row.Epoch, row.Lane, row.Seq, row.Index, row.Signal, row.BootID, row.BootNS,
			row.Time.UnixNS, row.Time.UncertaintyNS, row.Time.Source, row.Raw.Bits)
	})
	return text.Bytes()
}

// sources counts what the store holds by where its time comes from.
func (c *cloud) sources(t testing.TB) map[telemetrypb.TimeSource]int {
	c.settle(t)
	n := map[telemetrypb.TimeSource]int{}
	c.eachRow(t, func(row *store.Reading) { n[row.Time.Source]++ })
	return n
}
