package ingest

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// times are wall times by batch and boottime.
func (c *cloud) times() map[[2]int64]store.Time {
	c.t.Helper()
	m := map[[2]int64]store.Time{}
	if err := c.s.Samples(context.Background(), store.Query{}, func(r *store.Reading) error {
		m[[2]int64{int64(r.Seq), r.BootNS}] = r.Time
		return nil
	}); err != nil {
		c.t.Fatal(err)
	}
	return m
}

func TestSamplesWaitForTheirTime(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	batch := v.telemetry(v.samples(60))
	c.take(v.message(control, nil, v.catalogueBatch()), v.message(telemetry, nil, batch))
	for at, when := range c.times() {
		if when != (store.Time{}) {
			t.Fatalf("%v is dated %v before anything is known", at, when)
		}
	}
	// The clock comes with a duplicate, an hour late.
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	rev2 := v.clock(2, anchor(3_600_000_000_000, at, 1000))
	_, counts := c.take(v.message(telemetry, []*telemetrypb.ClockRecord{rev2}, batch))
	if counts.Duplicates != 1 || counts.Retimed != uint64(len(v.samples(60))) {
		t.Fatalf("counts %+v", counts)
	}
	check := func(record *telemetrypb.ClockRecord) {
		t.Helper()
		for key, when := range c.times() {
			unix, doubt, source := record.WallTime(key[1])
			if when != (store.Time{UnixNS: unix, UncertaintyNS: doubt, Source: source}) {
				t.Fatalf("%v is dated %v, want %d±%d by %v", key, when, unix, doubt, source)
			}
		}
	}
	check(rev2)
	// An older revision changes nothing, a newer one everything; also by a control batch.
	_, counts = c.take(v.message(telemetry, []*telemetrypb.ClockRecord{v.clock(1, anchor(0, at.AddDate(-5, 0, 0), 1))}, batch))
	if counts.Retimed != 0 {
		t.Errorf("an older revision dated %d samples", counts.Retimed)
	}
	check(rev2)
	rev3 := v.clock(3, anchor(1_000_000_000, at.Add(-time.Hour), 10), anchor(3_600_000_000_000, at, 1000))
	c.take(v.message(control, nil, v.control(&telemetrypb.Record{Record: &telemetrypb.Record_Clock{Clock: rev3}})))
	check(rev3)
	c.reopen()
	check(rev3)
}

func TestReplayedLogStaysInItsYear(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	at := time.Date(2021, 5, 6, 7, 8, 9, 0, time.UTC)
	clock := v.clock(1, &telemetrypb.Anchor{BootNs: 0, UnixNs: at.UnixNano(), Source: telemetrypb.TimeSource_TIME_SOURCE_LOG})
	c.take(v.message(control, nil, v.catalogueBatch()), v.message(telemetry, []*telemetrypb.ClockRecord{clock}, v.telemetry(v.samples(2))))
	n := 0
	err := c.s.Samples(context.Background(), store.Query{From: at, To: at.Add(time.Minute)}, func(r *store.Reading) error {
		if r.Time.Source != telemetrypb.TimeSource_TIME_SOURCE_LOG {
			t.Errorf("source %v", r.Time.Source)
		}
		n++
		return nil
	})
	if err != nil || n != len(v.samples(2)) {
		t.Errorf("%d samples in 2021, %v", n, err)
	}
}

// A drive of random revisions must leave every sample where the last revision alone would put it: the short cut that
// leaves the beginning of a long drive alone must never show.
func TestRetimingInStepsIsRetimingAtOnce(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c, v := newCloud(t), newVehicle(t, "car-1")
		c.take(v.message(control, nil, v.catalogueBatch()))
		base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var anchors []*telemetrypb.Anchor
		boot, steps := int64(0), uint32(0)
		for n := int64(1); n < 14; n++ {
			c.take(v.message(telemetry, nil, v.telemetry(v.samples(n))))
			if rng.IntN(3) > 0 {
				boot += rng.Int64N(3) * 1_000_000_000
				a := anchor(boot, base.Add(time.Duration(boot+rng.Int64N(1000))), rng.Uint64N(100_000_000))
				a.NewPiece = rng.IntN(4) == 0
				if len(anchors) > 0 && rng.IntN(6) == 0 {
					anchors[rng.IntN(len(anchors))].UncertaintyNs = rng.Uint64N(1000) // history may be written anew
				}
				anchors = append(anchors, a)
				steps++
				c.take(v.message(control, nil, v.control(&telemetrypb.Record{Record: &telemetrypb.Record_Clock{Clock: v.clock(steps, anchors...)}})))
			}
		}
		last := v.clock(steps, anchors...)
		for key, when := range c.times() {
			if want := dateBy(last, key[1]); when != want {
				t.Fatalf("seed %d: %v is dated %v, want %v", seed, key, when, want)
			}
		}
	}
}

func TestClockRecordsThatCannotBe(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	now := time.Now()
	bad := []*telemetrypb.ClockRecord{
		{BootId: []byte{1}, Revision: 1},
		v.clock(0, anchor(1, now, 1)),
		v.clock(2, anchor(5, now, 1), anchor(4, now, 1)),
	}
	_, counts := c.take(v.message(control, bad, v.catalogueBatch()))
	letters, err := c.s.DeadLetters(context.Background())
	if err != nil || len(letters) != 3 || counts.Batches != 1 {
		t.Errorf("%d letters, counts %+v, %v", len(letters), counts, err)
	}
	// The extremes of a sound shape must not break anything either.
	c.take(v.message(telemetry, []*telemetrypb.ClockRecord{v.clock(9, anchor(math.MinInt64, time.Unix(0, math.MaxInt64), math.MaxUint64),
		anchor(math.MaxInt64, time.Unix(0, math.MinInt64), math.MaxUint64))}, v.telemetry(v.samples(1))))
	if n := len(c.times()); n == 0 {
		t.Error("nothing stored")
	}
}

// A long boot is dated again in many transactions, over restarts of the store and under newer records that come in
// between; in the end every sample is dated by the newest.
func TestRetimingIsBoundedAndGoesOn(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	c.retimeSamples = 30
	c.take(v.message(control, nil, v.catalogueBatch()))
	for n := int64(1); n <= 40; n++ {
		c.take(v.message(telemetry, nil, v.telemetry(v.samples(n))))
	}
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	whole := len(c.times())
	var last *telemetrypb.ClockRecord
	retimed, steps := uint64(0), 0
	for revision := range uint32(3) {
		last = v.clock(revision+1, anchor(0, base.Add(time.Duration(revision)*time.Hour), 1000))
		_, counts := c.take(v.message(control, []*telemetrypb.ClockRecord{last}))
		if counts.Retimed > 60 {
			t.Fatalf("%d samples in one transaction", counts.Retimed)
		}
		for range 5 {
			more, counts, err := c.Retime(context.Background())
			if err != nil || !more || counts.Retimed > 60 {
				t.Fatalf("more %v, %+v, %v", more, counts, err)
			}
		}
		c.take(v.message(telemetry, nil, v.telemetry(v.samples(int64(revision)+100))))
		c.reopen()
		c.retimeSamples = 30
	}
	for more := true; more; steps++ {
		var counts Counts
		var err error
		if more, counts, err = c.Retime(context.Background()); err != nil {
			t.Fatal(err)
		}
		retimed += counts.Retimed
	}
	for key, when := range c.times() {
		if want := dateBy(last, key[1]); when != want {
			t.Fatalf("%v is dated %v, want %v", key, when, want)
		}
	}
	if retimed == 0 || steps < whole/60 {
		t.Errorf("%d samples in %d steps at last", retimed, steps)
	}
}

// What a process before left is done by Run, without a message to start it.
func TestRunDatesWhatIsLeft(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	c.retimeSamples = 1
	c.take(v.message(control, nil, v.catalogueBatch()))
	for n := int64(1); n <= 20; n++ {
		c.take(v.message(telemetry, nil, v.telemetry(v.samples(n))))
	}
	record := v.clock(1, anchor(0, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), 1000))
	c.take(v.message(control, []*telemetrypb.ClockRecord{record}))
	c.reopen()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	left := 1
	for left > 0 && ctx.Err() == nil {
		left = 0
		for key, when := range c.times() {
			if when != dateBy(record, key[1]) {
				left++
			}
		}
	}
	cancel()
	if err := <-ended; err != nil || left > 0 {
		t.Errorf("%d samples are left, %v", left, err)
	}
}

// New bounds date everything again, also where no anchor changed.
func TestBoundsDateABootThatNobodyVouchedFor(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	c.take(v.message(control, nil, v.catalogueBatch()), v.message(telemetry, nil, v.telemetry(v.samples(5))))
	low, high := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	record := v.clock(1, &telemetrypb.Anchor{BootNs: 1, UnixNs: 5, UncertaintyNs: telemetrypb.Unbounded, Source: telemetrypb.TimeSource_TIME_SOURCE_SYSTEM})
	record.NotBeforeUnixNs = proto.Int64(low.UnixNano())
	for revision, want := range []telemetrypb.TimeSource{telemetrypb.TimeSource_TIME_SOURCE_FLOOR, telemetrypb.TimeSource_TIME_SOURCE_NEIGHBOUR} {
		record.Revision = uint32(revision) + 1
		c.take(v.message(control, []*telemetrypb.ClockRecord{record}))
		for key, when := range c.times() {
			if when.Source != want || when != dateBy(record, key[1]) {
				t.Fatalf("%v is dated %v, want it by %v", key, when, want)
			}
		}
		record.NotAfterUnixNs = proto.Int64(high.UnixNano())
	}
}
