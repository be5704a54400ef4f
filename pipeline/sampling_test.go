package pipeline

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const ms = int64(time.Millisecond)

// sink is a queue for tests that never commit.
type sink struct{}

func (sink) Epoch() uint64                    { return 1 }
func (sink) Reserve(telemetrypb.Lane) uint64  { return 1 }
func (sink) Commit([]Sealed, []Journal) error { return nil }

func (sink) Stored(telemetrypb.Lane, uint64) bool { return false }

func testOptions() Options {
	return Options{Tenant: "acme", Device: "WB-0000000000001", BootID: [16]byte{1}}
}

func mustNew(t testing.TB, o Options, sel *Selection, q Queue) *Pipeline {
	t.Helper()
	p, err := New(o, sel, q)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// words writes samples as time in ms and value: "0:5 10:7".
func words(samples []telemetrypb.Sample) string {
	var list []string
	for _, s := range samples {
		value := fmt.Sprint(s.Float())
		if s.Kind == telemetrypb.KindString {
			value = s.Str
		}
		list = append(list, fmt.Sprintf("%d:%s", s.Time/ms, value))
	}
	return strings.Join(list, " ")
}

func TestSampling(t *testing.T) {
	i := func(at, v int64) telemetrypb.Sample { return telemetrypb.IntSample(1, at*ms, v) }
	u := func(at int64, v uint64) telemetrypb.Sample { return telemetrypb.UintSample(1, at*ms, v) }
	f := func(at int64, v float64) telemetrypb.Sample { return telemetrypb.FloatSample(1, at*ms, v) }
	s := func(at int64, v string) telemetrypb.Sample { return telemetrypb.StringSample(1, at*ms, v) }
	tick := func(at int64) telemetrypb.Sample { return telemetrypb.Sample{Signal: 99, Time: at * ms} } // a tick, not a sample
	type list = []telemetrypb.Sample
	nan := math.NaN()
	for _, c := range []struct {
		name  string
		how   Collect
		scale float64
		in    list
		want  string
	}{
		{"every sample", Collect{}, 1, list{i(0, 5), i(1, 5), i(2, 5)}, "0:5 1:5 2:5"},
		{"on change", Collect{OnChange: true}, 1, list{i(0, 5), i(1, 5), i(2, 6), i(3, 6), i(4, 5)}, "0:5 2:6 4:5"},
		{"dead band is exceeded, not reached", Collect{DeadBand: 2}, 1, list{i(0, 0), i(1, 2), i(2, 3), i(3, 1), i(4, 0)}, "0:0 2:3 4:0"},
		{"dead band from the last one sent", Collect{DeadBand: 2}, 1, list{i(0, 0), i(1, 1), i(2, 2), i(3, 3), i(4, 4)}, "0:0 3:3"},
		{"dead band is physical", Collect{DeadBand: 1}, 0.5, list{i(0, 0), i(1, 2), i(2, 3)}, "0:0 2:3"},
		{"dead band of a negative scale", Collect{DeadBand: 1}, -0.5, list{i(0, 0), i(1, -2), i(2, -3)}, "0:0 2:-3"},
		{"dead band of scale 0, which reads as 1", Collect{DeadBand: 1}, 0, list{i(0, 0), i(1, 1), i(2, 2)}, "0:0 2:2"},
		{"dead band that binary64 makes a little short", Collect{DeadBand: 0.3}, 0.1, list{i(0, 0), i(1, 3), i(2, 4)}, "0:0 2:4"},
		{"dead band between two steps", Collect{DeadBand: 0.25}, 0.1, list{i(0, 0), i(1, 2), i(2, 3)}, "0:0 2:3"},
		{"integers beyond binary64", Collect{OnChange: true}, 1, list{i(0, 1<<62), i(1, 1<<62+1), i(2, 1<<62+1)}, "0:4.611686018427388e+18 1:4.611686018427388e+18"},
		{"from the lowest to the highest", Collect{DeadBand: 1e18}, 1, list{i(0, math.MinInt64), i(1, math.MaxInt64)}, "0:-9.223372036854775808e+18 1:9.223372036854775807e+18"},
		{"a band wider than all integers", Collect{DeadBand: 1e30}, 1, list{i(0, math.MinInt64), i(1, math.MaxInt64)}, "0:-9.223372036854775808e+18"},
		{"unsigned", Collect{DeadBand: 1}, 1, list{u(0, math.MaxUint64), u(1, math.MaxUint64-1), u(2, 0)}, "0:1.8446744073709552e+19 2:0"},
		{"floats", Collect{DeadBand: 0.5}, 1, list{f(0, 1), f(1, 1.5), f(2, 1.625)}, "0:1 2:1.625"},
		{"NaN comes and goes", Collect{DeadBand: 5}, 1, list{f(0, 1), f(1, nan), f(2, nan), f(3, 1)}, "0:1 1:NaN 3:1"},
		{"NaN first", Collect{OnChange: true}, 1, list{f(0, nan), f(1, nan), f(2, 0)}, "0:NaN 2:0"},
		{"NaN of another payload is no change", Collect{OnChange: true}, 1, list{f(0, nan), {Signal: 1, Kind: telemetrypb.KindFloat, Time: ms, Bits: 0xfff8000000000123}}, "0:NaN"},
		{"infinities", Collect{DeadBand: 5}, 1, list{f(0, math.Inf(1)), f(1, math.Inf(1)), f(2, math.Inf(-1)), f(3, 0)}, "0:+Inf 2:-Inf 3:0"},
		{"minus zero is zero", Collect{OnChange: true}, 1, list{f(0, 0), f(1, math.Copysign(0, -1))}, "0:0"},
		{"text", Collect{DeadBand: 5}, 1, list{s(0, "a"), s(1, "a"), s(2, "b")}, "0:a 2:b"},
		{"another kind is a change", Collect{OnChange: true}, 1, list{i(0, 5), f(1, 5)}, "0:5 1:5"},

		{"longest interval", Collect{OnChange: true, MaxInterval: 10 * time.Millisecond}, 1,
			list{i(0, 5), i(9, 5), i(10, 5), i(15, 5), i(21, 5)}, "0:5 10:5 21:5"},
		{"longest interval runs from a change", Collect{OnChange: true, MaxInterval: 10 * time.Millisecond}, 1,
			list{i(0, 5), i(5, 6), i(10, 6), i(14, 6), i(15, 6)}, "0:5 5:6 15:6"},
		{"longest interval makes nothing up", Collect{OnChange: true, MaxInterval: 10 * time.Millisecond}, 1,
			list{i(0, 5), tick(50), tick(100)}, "0:5"},

		{"shortest interval, samples in step with it", Collect{MinInterval: 10 * time.Millisecond}, 1,
			list{i(0, 0), i(5, 1), i(10, 2), i(15, 3), i(20, 4)}, "0:0 10:2 20:4"},
		{"shortest interval: the latest is sent when it is over", Collect{OnChange: true, MinInterval: 10 * time.Millisecond}, 1,
			list{i(0, 0), i(3, 1), i(6, 2), tick(9), tick(10)}, "0:0 6:2"},
		{"shortest interval: over by a later sample's time", Collect{OnChange: true, MinInterval: 10 * time.Millisecond}, 1,
			list{i(0, 0), i(3, 1), i(12, 0), tick(19), tick(20)}, "0:0 3:1 12:0"},
		{"shortest interval: slots, not gaps", Collect{OnChange: true, MinInterval: 10 * time.Millisecond}, 1,
			list{i(0, 0), i(3, 1), tick(10), i(13, 2), i(16, 3), tick(19), i(20, 4)}, "0:0 3:1 20:4"},
		{"shortest interval: a value that came back", Collect{OnChange: true, MinInterval: 10 * time.Millisecond}, 1,
			list{i(0, 0), i(3, 1), i(6, 0), tick(10), tick(20)}, "0:0"},
		{"shortest interval, quiet before", Collect{OnChange: true, MinInterval: 10 * time.Millisecond}, 1,
			list{i(0, 0), i(50, 1), i(55, 2), tick(60)}, "0:0 50:1 55:2"},
		{"shortest interval: a value is of the time at which it was first seen", Collect{OnChange: true, MinInterval: 10 * time.Millisecond}, 1,
			list{i(0, 0), i(3, 1), i(5, 1), i(9, 1), i(10, 1), i(11, 1)}, "0:0 3:1"},
		{"shortest interval without on change: the latest", Collect{MinInterval: 10 * time.Millisecond}, 1,
			list{i(0, 0), i(3, 1), i(5, 1), i(9, 1), tick(10)}, "0:0 9:1"},
		{"shortest interval: first seen, and seen again at an earlier time", Collect{OnChange: true, MinInterval: 3 * time.Second}, 1,
			list{i(7000, 1), i(9900, 2), i(8500, 2), tick(10000)}, "7000:1 8500:2"},
		{"shortest and longest", Collect{OnChange: true, MinInterval: 10 * time.Millisecond, MaxInterval: 20 * time.Millisecond}, 1,
			list{i(0, 0), i(10, 0), i(20, 0), i(25, 1), i(30, 0), i(39, 0), i(40, 0)}, "0:0 20:0 40:0"},
		{"a tick while nothing is held", Collect{MinInterval: 10 * time.Millisecond}, 1, list{i(0, 0), tick(10), tick(20)}, "0:0"},
		{"time runs back: another recording", Collect{OnChange: true, MinInterval: 10 * time.Millisecond}, 1,
			list{i(5000, 7), i(5001, 8), i(0, 7), i(1, 7), i(10, 8)}, "5000:7 5001:8 0:7 10:8"},
		{"time jitters", Collect{OnChange: true}, 1, list{i(5000, 7), i(4999, 7), i(5001, 7)}, "5000:7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.how.Match = "*"
			sel, err := Choose([]*telemetrypb.Signal{{Name: "x", Scale: c.scale, Offset: 1000}}, []Collect{c.how})
			if err != nil {
				t.Fatal(err)
			}
			now := int64(0)
			o := testOptions()
			o.Now = func() int64 { return now }
			p := mustNew(t, o, sel, sink{})
			for k := range c.in {
				if c.in[k].Signal == 99 {
					now = c.in[k].Time
					p.tick()
					continue
				}
				p.sample(&c.in[k])
			}
			want := strings.NewReplacer("-9.223372036854775808e+18", fmt.Sprint(-0x1p63), "9.223372036854775807e+18", fmt.Sprint(0x1p63)).Replace(c.want)
			if got := words(p.lanes[telemetrypb.Lane_LANE_TELEMETRY].samples); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestThreshold(t *testing.T) {
	for _, c := range []struct {
		name string
		rule Threshold
		in   []float64
		want string // time = index
	}{
		{"above", Threshold{Above: bound(10)}, []float64{9, 10, 11, 12, 10, 11}, "2:11 5:11"},
		{"above from the start", Threshold{Above: bound(10)}, []float64{11, 11}, "0:11"},
		{"below", Threshold{Below: bound(10)}, []float64{11, 10, 9, 8, 10, 9}, "2:9 5:9"},
		{"hysteresis", Threshold{Above: bound(10), Hysteresis: 2}, []float64{11, 9, 11, 8, 11}, "0:11 4:11"},
		{"hysteresis below", Threshold{Below: bound(10), Hysteresis: 2}, []float64{9, 11, 9, 12, 9}, "0:9 4:9"},
		{"both", Threshold{Above: bound(10), Below: bound(5)}, []float64{7, 11, 4, 12, 7}, "1:11 2:4 3:12"},
		{"NaN neither raises nor arms", Threshold{Above: bound(10)}, []float64{math.NaN(), 11, math.NaN(), 11, 9, 11}, "1:11 5:11"},
		{"infinite", Threshold{Above: bound(10)}, []float64{math.Inf(1), math.Inf(-1), 11}, "0:+Inf 2:11"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.rule.Name, c.rule.Signal = "r", "x"
			// Scale and offset: the bounds and the event are physical.
			sel, err := Choose([]*telemetrypb.Signal{{Name: "x", Scale: 0.5, Offset: 1, Unit: "°C"}}, nil, c.rule)
			if err != nil {
				t.Fatal(err)
			}
			p := mustNew(t, testOptions(), sel, sink{})
			for k, v := range c.in {
				s := telemetrypb.FloatSample(1, int64(k)*ms, (v-1)*2)
				p.sample(&s)
			}
			events := p.lanes[telemetrypb.Lane_LANE_EVENT].samples
			if got := words(events); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			for _, e := range events {
				if id, _ := sel.ID("event.r"); e.Signal != id || e.Kind != telemetrypb.KindFloat {
					t.Errorf("the event is %+v", e)
				}
			}
			if n := len(p.lanes[telemetrypb.Lane_LANE_TELEMETRY].samples); n != 0 {
				t.Errorf("%d samples of a signal that only the rule asks for", n)
			}
		})
	}
}
