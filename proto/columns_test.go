package telemetrypb

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// bySignal is the order in which a body gives back what was put in.
func bySignal(samples []Sample) []Sample {
	out := slices.Clone(samples)
	slices.SortStableFunc(out, func(a, b Sample) int {
		return cmp.Compare(a.Signal, b.Signal)
	})
	return out
}

// roundTrip encodes, decodes and compares, and returns the body.
func roundTrip(t testing.TB, samples []Sample) []byte {
	t.Helper()
	body, err := AppendSamples(nil, samples)
	if err != nil {
		t.Fatalf("encoding %d samples: %v", len(samples), err)
	}
	got, err := DecodeSamples(nil, body)
	if err != nil {
		t.Fatalf("decoding %d bytes of %d samples: %v", len(body), len(samples), err)
	}
	if want := bySignal(samples); !slices.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("sample %d of %d: got %+v, want %+v", i, len(want), got[i], want[i])
			}
		}
		t.Fatalf("%d samples came back of %d", len(got), len(want))
	}
	return body
}

// column is samples of one signal at a steady 10 ms.
func column(signal uint32, n int, make func(i int) Sample) []Sample {
	out := strip(n)
	for i := range out {
		out[i] = make(i)
		out[i].Signal, out[i].Time = signal, 1e12+int64(i)*1e7
	}
	return out
}

func strip(n int) []Sample { return make([]Sample, n) }

func intsOf(values ...int64) []Sample {
	return column(3, len(values), func(i int) Sample { return IntSample(0, 0, values[i]) })
}

func floatsOf(values ...float64) []Sample {
	return column(3, len(values), func(i int) Sample { return FloatSample(0, 0, values[i]) })
}

func TestColumnsRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	timesOf := func(times ...int64) (out []Sample) {
		for i, at := range times {
			out = append(out, IntSample(1, at, int64(i)))
		}
		return out
	}
	cases := map[string][]Sample{
		"none":                   nil,
		"one":                    {IntSample(1, 0, 0)},
		"largest id":             {UintSample(math.MaxUint32, math.MaxInt64, math.MaxUint64), IntSample(1, math.MinInt64, math.MinInt64)},
		"integer limits":         intsOf(math.MinInt64, math.MaxInt64, 0, -1, math.MinInt64, math.MinInt64, math.MaxInt64, 1),
		"constant":               column(9, 1000, func(int) Sample { return IntSample(0, 0, -77) }),
		"ramp":                   column(9, 1000, func(i int) Sample { return UintSample(0, 0, uint64(i)*uint64(i)) }),
		"cubic":                  column(9, 300, func(i int) Sample { return IntSample(0, 0, int64(i)*int64(i)*int64(i)-1e6) }),
		"rare outliers":          column(9, 5000, func(i int) Sample { return IntSample(0, 0, int64(i%257/256)<<50) }),
		"random 64 bits":         column(9, 3000, func(int) Sample { return UintSample(0, 0, random.Uint64()) }),
		"random floats":          column(9, 3000, func(int) Sample { return FloatSample(0, 0, math.Float64frombits(random.Uint64())) }),
		"floats of 32 bit":       column(9, 3000, func(int) Sample { return FloatSample(0, 0, float64(random.Float32())) }),
		"latitude":               column(9, 500, func(i int) Sample { return FloatSample(0, 0, 48.1234567+float64(i)/1e7) }),
		"decimals":               column(9, 500, func(i int) Sample { return FloatSample(0, 0, float64(i)/10) }),
		"more decimals than fit": floatsOf(0.000000000001, 1e15, 3),
		"odd floats": floatsOf(math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), 0, math.MaxFloat64,
			math.SmallestNonzeroFloat64, math.Float64frombits(0x7ff0000000000001), math.Float64frombits(0xfff8dead0000beef), 1<<53, 1<<53+2, -1<<53),
		"minus zero":     floatsOf(math.Copysign(0, -1), math.Copysign(0, -1)),
		"plus zeros":     floatsOf(0, 0, 0),
		"texts":          column(4, 400, func(i int) Sample { return StringSample(0, 0, strings.Repeat("é", i%7)) }),
		"all texts new":  column(4, 900, func(i int) Sample { return StringSample(0, 0, strconv.Itoa(i)) }),
		"not UTF-8":      {StringSample(1, 5, "\xff\x00"), StringSample(1, 6, "")},
		"equal times":    timesOf(5, 5, 5, 5, 5, 5),
		"times back":     timesOf(9e9, 8e9, 7e9, 20e9, math.MinInt64, math.MaxInt64, 0, -1),
		"times in s":     timesOf(1e9, 2e9, 3e9, 5e9, 4e9, -7e9),
		"times at limit": timesOf(math.MaxInt64/1e9*1e9, math.MinInt64/1e9*1e9, math.MaxInt64/1e9*1e9),
		"units differ": slices.Concat(timesOf(1e9, 2e9), column(2, 9, func(i int) Sample { return IntSample(0, 0, 1) }),
			[]Sample{IntSample(7, 1, 1), IntSample(8, 3e9, 1), IntSample(9, 1, 1), IntSample(6, 3e9, 1)}),
	}
	for name, samples := range cases {
		t.Run(name, func(t *testing.T) {
			body := roundTrip(t, samples)
			t.Logf("%d samples in %d bytes", len(samples), len(body))
		})
	}
}
