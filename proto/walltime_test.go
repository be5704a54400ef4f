package telemetrypb

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"
)

const (
	second = int64(1e9)
	noon   = int64(1_790_000_000) * second
)

func TestWallTime(t *testing.T) {
	gps, ntp, system := TimeSource_TIME_SOURCE_GPS, TimeSource_TIME_SOURCE_NTP, TimeSource_TIME_SOURCE_SYSTEM
	one := &ClockRecord{Anchors: []*Anchor{{BootNs: 100 * second, UnixNs: noon, UncertaintyNs: 10, Source: gps}}}
	// A crystal that is 20 ppm slow: 1,000 s of it are 1,000.02 s.
	two := &ClockRecord{Anchors: []*Anchor{
		{BootNs: 100 * second, UnixNs: noon, UncertaintyNs: 10, Source: gps},
		{BootNs: 1100 * second, UnixNs: noon + 1000*second + 20_000_000, UncertaintyNs: 50, Source: ntp},
	}}
	// A suspend between 1,100 and 5,000 s.
	suspended := &ClockRecord{Anchors: append([]*Anchor{}, append(two.Anchors,
		&Anchor{BootNs: 5000 * second, UnixNs: noon + 7000*second, UncertaintyNs: 20, Source: gps, NewPiece: true},
		&Anchor{BootNs: 6000 * second, UnixNs: noon + 8000*second, UncertaintyNs: 20, Source: gps})...)}
	// An unset clock, then a fix an hour later.
	repaired := &ClockRecord{Anchors: []*Anchor{
		{BootNs: 1 * second, UnixNs: 5 * second, UncertaintyNs: 1e15, Source: system},
		{BootNs: 3600 * second, UnixNs: noon, UncertaintyNs: 100, Source: gps, NewPiece: true},
	}}
	unset := func(unix int64, after, before *int64) *ClockRecord {
		return &ClockRecord{NotBeforeUnixNs: after, NotAfterUnixNs: before, Anchors: []*Anchor{{BootNs: second, UnixNs: unix, UncertaintyNs: Unbounded, Source: system}}}
	}
	liar := func(unix int64, source TimeSource, after, before *int64) *ClockRecord {
		return &ClockRecord{NotBeforeUnixNs: after, NotAfterUnixNs: before, Anchors: []*Anchor{{UnixNs: unix, UncertaintyNs: 10, Source: source}}}
	}
	// A suspend at 2,000 s, after which the clocks were 1,001 s apart.
	gaps := &ClockRecord{Anchors: []*Anchor{
		{BootNs: 1000 * second, UnixNs: noon + 1000*second, UncertaintyNs: 10, Source: gps},
		{BootNs: 2100 * second, UnixNs: noon + 1099*second, UncertaintyNs: 10, Source: gps, NewPiece: true, BeginsNs: 2000 * second, GapNs: uint64(1001 * second)},
	}}
	for _, c := range []struct {
		name        string
		record      *ClockRecord
		at          int64
		unix        int64
		uncertainty uint64
		source      TimeSource
	}{
		{"at its anchor", one, 100 * second, noon, 10, gps},
		{"1,000 s later", one, 1100 * second, noon + 1000*second, 10 + 50_000_000, gps},
		{"100 s before", one, 0, noon - 100*second, 10 + 5_000_000, gps},
		{"half way", two, 600 * second, noon + 500*second + 10_000_000, 50, ntp},
		{"at the first", two, 100 * second, noon, 10, gps},
		{"at the last", two, 1100 * second, noon + 1000*second + 20_000_000, 50, ntp},
		{"after the last", two, 1200 * second, noon + 1100*second + 20_000_000, 50 + 5_000_000, ntp},
		{"before the suspend", suspended, 600 * second, noon + 500*second + 10_000_000, 50, ntp},
		{"soon after the last before it", suspended, 1200 * second, noon + 1100*second + 20_000_000, 50 + 5_000_000, ntp},
		{"shortly before the first after it", suspended, 4900 * second, noon + 6900*second, 20 + 5_000_000, gps},
		{"after the suspend", suspended, 5500 * second, noon + 7500*second, 20, gps},
		{"the hour before the fix", repaired, 2 * second, noon - 3598*second, 100 + 3598*50_000, gps},
		{"far away", one, math.MinInt64, math.MinInt64 + noon - 100*second, 10 + (1<<63+uint64(100*second))/20000, gps},
		{"a replayed log knows its own time", &ClockRecord{Anchors: []*Anchor{{BootNs: 100 * second, UnixNs: noon, Source: TimeSource_TIME_SOURCE_LOG}}}, 1100 * second, noon + 1000*second, 0, TimeSource_TIME_SOURCE_LOG},
		{"two bounds", &ClockRecord{NotBeforeUnixNs: proto.Int64(1000), NotAfterUnixNs: proto.Int64(2001)}, 100, 1550, 451, TimeSource_TIME_SOURCE_NEIGHBOUR},
		{"a floor", &ClockRecord{NotBeforeUnixNs: proto.Int64(1000)}, 100, 1100, Unbounded, TimeSource_TIME_SOURCE_FLOOR},
		{"an end alone", &ClockRecord{NotAfterUnixNs: proto.Int64(1000)}, 100, 0, 0, TimeSource_TIME_SOURCE_NONE},
		{"an unset clock before its floor", unset(5*second, proto.Int64(noon), nil), 9 * second, noon + 9*second, Unbounded, TimeSource_TIME_SOURCE_FLOOR},
		{"a clock that nobody vouches for, above its floor", unset(noon+5*second, proto.Int64(noon), nil), 9 * second, noon + 13*second, Unbounded + 8*50_000, system},
		{"the same between two bounds", unset(noon+5*second, proto.Int64(noon), proto.Int64(noon+60*second)), 9 * second, noon + 13*second, uint64(47 * second), system},
		{"the same after its end", unset(noon+70*second, proto.Int64(noon), proto.Int64(noon+60*second)), 10 * second, noon + 35*second, uint64(25 * second), TimeSource_TIME_SOURCE_NEIGHBOUR},
		{"a liar before its floor", liar(noon-second, ntp, proto.Int64(noon), nil), 0, noon, Unbounded, TimeSource_TIME_SOURCE_FLOOR},
		{"one that its end refutes", liar(noon+100*second, ntp, nil, proto.Int64(noon)), 0, 0, 0, TimeSource_TIME_SOURCE_NONE},
		{"a little before its floor, within its doubt", liar(noon-5, ntp, proto.Int64(noon), nil), 0, noon - 5, 10, ntp},
		{"before a beginning with a gap", gaps, 1900 * second, noon + 1900*second, 10 + 45_000_000, gps},
		{"after a beginning with a gap", gaps, 2050 * second, noon + 1049*second, 10 + 50*50_000, gps},
		{"the far side of one piece is not the other's", gaps, 2000*second - 1, noon + 2000*second - 1, 10 + 50_000*1000 - 1, gps},
		{"a third piece crosses two", &ClockRecord{Anchors: gaps.Anchors[1:]}, 1500 * second, noon + 499*second, 10 + 600*50_000 + uint64(1001*second), gps},
		{"and the first crosses them forward", &ClockRecord{Anchors: []*Anchor{gaps.Anchors[0], {BootNs: 2500 * second, UnixNs: 0, UncertaintyNs: Unbounded, NewPiece: true, BeginsNs: 2000 * second, GapNs: uint64(7 * second)}}}, 2400 * second, noon + 2400*second, 10 + 1400*50_000 + uint64(7*second), gps},
		{"bounds crossed", &ClockRecord{NotBeforeUnixNs: proto.Int64(3000), NotAfterUnixNs: proto.Int64(2000)}, 100, 0, 0, TimeSource_TIME_SOURCE_NONE},
		{"nothing", &ClockRecord{}, 100, 0, 0, TimeSource_TIME_SOURCE_NONE},
		{"no record", nil, 100, 0, 0, TimeSource_TIME_SOURCE_NONE},
	} {
		unix, uncertainty, source := c.record.WallTime(c.at)
		if unix != c.unix || uncertainty != c.uncertainty || source != c.source {
			t.Errorf("%s: %d ± %d %v, want %d ± %d %v", c.name, unix, uncertainty, source, c.unix, c.uncertainty, c.source)
		}
	}
}

// Interpolation is exact: math/big says what it should be.
func TestWallTimeInterpolatesExactly(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		span := 1 + random.Int64N(1<<uint(1+random.IntN(50)))
		a := &Anchor{BootNs: random.Int64N(1 << 50), UnixNs: noon + random.Int64N(1<<40)}
		b := &Anchor{BootNs: a.BootNs + span, UnixNs: a.UnixNs + span + random.Int64N(1<<30) - 1<<29}
		into := random.Int64N(span)
		got, _, _ := (&ClockRecord{Anchors: []*Anchor{a, b}}).WallTime(a.BootNs + into)
		gain := big.NewInt(b.UnixNs - a.UnixNs - span)
		want := gain.Mul(gain, big.NewInt(into))
		want = want.Quo(want, big.NewInt(span))
		want = want.Add(want, big.NewInt(a.UnixNs+into))
		if !want.IsInt64() || got != want.Int64() {
			t.Fatalf("%v + %d: %d, want %v", a, into, got, want)
		}
	}
}

// Anchors come from foreign bytes: no order or size of them may panic.
func FuzzWallTime(f *testing.F) {
	f.Add(int64(1), int64(2), int64(3), int64(4), int64(5), int64(6), int64(2), uint64(9), false)
	f.Add(int64(math.MinInt64), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MinInt64), int64(0), int64(-1), int64(0), uint64(math.MaxUint64), true)
	f.Fuzz(func(t *testing.T, a, ua, b, ub, c, uc, at int64, doubt uint64, piece bool) {
		r := &ClockRecord{Anchors: []*Anchor{{BootNs: a, UnixNs: ua, UncertaintyNs: doubt}, {BootNs: b, UnixNs: ub, NewPiece: piece}, {BootNs: c, UnixNs: uc}, nil}}
		r.WallTime(at)
		r.Anchors = r.Anchors[:3]
		unix, _, _ := r.WallTime(a)
		if !piece && a < b && b < c && a == at && unix != ua {
			t.Errorf("at an anchor: %d, want %d", unix, ua)
		}
	})
}
