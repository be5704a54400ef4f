package page

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"github.com/waybill-telematics/waybill/internal/local"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func testTable() *Table {
	return NewTable([]Shown{
		{Lane: "telemetry", Signal: &telemetrypb.Signal{Id: 1, Name: "can0.Motion.Speed", Unit: "km/h", Scale: 0.1, Offset: -5,
			Source: "can:can0"}},
		{Lane: "event", Signal: &telemetrypb.Signal{Id: 2, Name: `odd "name"` + "\u2028</script>",
			Labels: []*telemetrypb.Label{{Value: -1, Text: "reverse"}}}},
		{Signal: &telemetrypb.Signal{Id: 4, Name: "text"}},
	})
}

func signalsOf(t *testing.T, text []byte) (s local.Signals) {
	t.Helper()
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return s
}

func valuesOf(t *testing.T, text []byte) (v local.Values) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// What the table tells, by the documents' own types.
func TestTable(t *testing.T) {
	tab := testTable()
	tab.Take([]telemetrypb.Sample{telemetrypb.IntSample(1, 1e9, 99)}) // nobody looks
	tab.start()
	all := signalsOf(t, tab.all(nil, 5e9))
	if len(all.Signals) != 3 || all.BootMS != 5000 || all.Signals[0].AtMS != 0 || all.Signals[0].Value.Value.Known() {
		t.Fatalf("at first %+v", all)
	}
	if s := all.Signals[0]; s.Name != "can0.Motion.Speed" || s.Unit != "km/h" || s.Source != "can:can0" ||
		s.Lane != "telemetry" || s.ID != 1 {
		t.Errorf("%+v", s)
	}
	if all.Signals[1].Name != `odd "name"`+"\u2028</script>" || all.Signals[2].ID != 4 {
		t.Errorf("%+v", all.Signals[1:])
	}
	tab.Take([]telemetrypb.Sample{
		telemetrypb.IntSample(1, 6e9, 52), telemetrypb.IntSample(1, 6.1e9, 53), telemetrypb.IntSample(2, 6.2e9, -1),
		telemetrypb.UintSample(3, 6e9, 7), // of recorded frames
		telemetrypb.StringSample(4, 6.3e9, "a\nb"), telemetrypb.UintSample(99, 1, 1), telemetrypb.UintSample(0, 1, 1),
	})
	got := valuesOf(t, tab.beat(nil, 7e9))
	want := []local.Value{{ID: 1, Value: 0.3, AtMS: 6100, Rate: 2}, {ID: 2, Value: -1, Text: "reverse", AtMS: 6200, Rate: 1}}
	if len(got.Values) != 3 || got.BootMS != 7000 || got.Values[0] != want[0] || got.Values[1] != want[1] ||
		got.Values[2].Text != "a\nb" || got.Values[2].Value.Known() {
		t.Errorf("%+v, want %+v", got, want)
	}
	tab.Take([]telemetrypb.Sample{telemetrypb.FloatSample(2, 7e9, math.NaN())})
	if got := valuesOf(t, tab.beat(nil, 8e9)); len(got.Values) != 3 || got.Values[1].Value.Known() || got.Values[0].Rate != 1 {
		t.Errorf("after a second beat %+v", got)
	}
	tab.stop()
	tab.Take([]telemetrypb.Sample{telemetrypb.IntSample(1, 9e9, 1)})
	tab.start()
	if all := signalsOf(t, tab.all(nil, 9e9)); all.Signals[0].AtMS != 0 || len(all.Signals[0].History) != 0 {
		t.Errorf("what nobody looked at was kept: %+v", all.Signals[0])
	}
}

// Whoever follows the events has what whoever asks for the whole has, at any time.
func TestFollowerKnowsWhatTheTableKnows(t *testing.T) {
	tab := testTable()
	tab.start()
	var v local.View
	apply := func(event string, data []byte) {
		if err := v.Apply(event, data); err != nil {
			t.Fatal(err)
		}
	}
	apply(local.EventSignals, tab.all(nil, 0))
	for n := range int64(3 * local.HistoryPoints) {
		if n > 3 && n%7 != 0 {
			tab.Take([]telemetrypb.Sample{telemetrypb.IntSample(1, n*1e9+5e8, n*n%100)})
		}
		if n == 40 {
			tab.Take([]telemetrypb.Sample{telemetrypb.StringSample(4, n*1e9+5e8, "once")})
		}
		apply(local.EventValues, tab.beat(nil, (n+1)*1e9))
		want := signalsOf(t, tab.all(nil, (n+1)*1e9))
		if a, b := fmtSignals(t, v.Signals), fmtSignals(t, want); !reflect.DeepEqual(a, b) {
			t.Fatalf("after beat %d:\n%s\nwant\n%s", n, a, b)
		}
	}
}

func fmtSignals(t *testing.T, s local.Signals) string {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestTakeAllocatesNothing: it is called on the way of every sample.
func TestTakeAllocatesNothing(t *testing.T) {
	tab := testTable()
	samples := []telemetrypb.Sample{telemetrypb.IntSample(1, 1e9, 7), telemetrypb.StringSample(4, 1e9, "x")}
	for range 2 {
		if n := testing.AllocsPerRun(100, func() { tab.Take(samples) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		tab.start()
	}
}

func BenchmarkTake(b *testing.B) {
	var signals []Shown
	samples := make([]telemetrypb.Sample, 256)
	for i := range samples {
		signals = append(signals, Shown{Signal: &telemetrypb.Signal{Id: uint32(i + 1)}})
		samples[i] = telemetrypb.IntSample(uint32(i+1), 1, int64(i))
	}
	tab := NewTable(signals)
	for _, look := range []string{"nobody", "somebody"} {
		b.Run(look, func(b *testing.B) {
			if look == "somebody" {
				tab.start()
			}
			b.ReportAllocs()
			for b.Loop() {
				tab.Take(samples)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256, "ns/sample")
		})
	}
}

func BenchmarkBeat(b *testing.B) {
	var signals []Shown
	samples := make([]telemetrypb.Sample, 2000)
	for i := range samples {
		signals = append(signals, Shown{Signal: &telemetrypb.Signal{Id: uint32(i + 1), Scale: 0.1}})
		samples[i] = telemetrypb.IntSample(uint32(i+1), 1, int64(i))
	}
	tab := NewTable(signals)
	tab.start()
	var out []byte
	for b.Loop() {
		tab.Take(samples)
		out = tab.beat(out[:0], 1e9)
	}
}
