package wire

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// column makes the value of a column's i-th sample.
type column struct {
	name  string
	value func(r *rand.Rand, i int) telemetrypb.Sample // Signal and Time are not set
}

func float(v float64) telemetrypb.Sample { return telemetrypb.FloatSample(0, 0, v) }

func pattern(bits uint64) telemetrypb.Sample {
	return telemetrypb.Sample{Kind: telemetrypb.KindFloat, Bits: bits} // no processor has touched it
}

// oneOf takes one of the values, at random.
func oneOf(values ...telemetrypb.Sample) func(*rand.Rand, int) telemetrypb.Sample {
	return func(r *rand.Rand, _ int) telemetrypb.Sample { return values[r.IntN(len(values))] }
}

const (
	quietNaN     = 0x7ff8 << 48
	infinity     = 0x7ff0 << 48
	signBit      = 1 << 63
	fractionBits = 1<<52 - 1
)

// columns are what `batch encode` cannot be told, and what a codec may be tempted to round.
func columns() []column {
	list := []column{
		{"any bits", func(r *rand.Rand, _ int) telemetrypb.Sample { return pattern(r.Uint64()) }},
		{"NaN with payloads, signalling and negative ones too", func(r *rand.Rand, _ int) telemetrypb.Sample {
			return pattern(infinity | r.Uint64()&signBit | max(1, r.Uint64()&fractionBits>>uint(r.IntN(52))))
		}},
		{"one NaN among numbers", func(_ *rand.Rand, i int) telemetrypb.Sample {
			if i%50 == 7 {
				return pattern(quietNaN | 0xbeef)
			}
			return float(float64(i) / 8)
		}},
		{"zeros of both signs", oneOf(float(0), float(math.Copysign(0, -1)))},
		{"-0 among decimals", func(_ *rand.Rand, i int) telemetrypb.Sample {
			if i%9 == 4 {
				return float(math.Copysign(0, -1))
			}
			return float(float64(i) / 100)
		}},
		{"infinities and limits", oneOf(float(math.Inf(1)), float(math.Inf(-1)), float(math.MaxFloat64), float(-math.MaxFloat64),
			float(math.SmallestNonzeroFloat64), float(1), float(math.Nextafter(1, 2)))},
		{"denormals", func(r *rand.Rand, _ int) telemetrypb.Sample {
			return pattern(r.Uint64()&fractionBits>>uint(r.IntN(52)) | r.Uint64()&signBit)
		}},
		{"whole, about where float64 stops being exact", func(r *rand.Rand, i int) telemetrypb.Sample {
			return float(float64(int64(1)<<uint(50+i%14)) + float64(r.IntN(5)))
		}},
		{"float32 made wide", func(r *rand.Rand, _ int) telemetrypb.Sample { return float(float64(float32(r.NormFloat64()))) }},
		{"walk", func(r *rand.Rand, i int) telemetrypb.Sample { return float(math.Sin(float64(i)/30) + r.Float64()/1e3) }},
		{"raw × scale + offset", func(r *rand.Rand, i int) telemetrypb.Sample {
			return float(float64(float64(i+r.IntN(9))*0.03125) - 40.1)
		}},
		{"next to a decimal", func(r *rand.Rand, i int) telemetrypb.Sample {
			v := float64(i) / 100
			if r.IntN(40) == 0 {
				v = math.Nextafter(v, 1e9) // one bit more
			}
			return float(v)
		}},
		{"integers at their limits", oneOf(telemetrypb.IntSample(0, 0, math.MinInt64), telemetrypb.IntSample(0, 0, math.MaxInt64),
			telemetrypb.IntSample(0, 0, 0), telemetrypb.IntSample(0, 0, -1))},
		{"naturals at their limits", oneOf(telemetrypb.UintSample(0, 0, math.MaxUint64), telemetrypb.UintSample(0, 0, 1<<63), telemetrypb.UintSample(0, 0, 0))},
		{"any integers", func(r *rand.Rand, _ int) telemetrypb.Sample {
			return telemetrypb.IntSample(0, 0, int64(r.Uint64())>>uint(r.IntN(64)))
		}},
		{"texts", func(r *rand.Rand, i int) telemetrypb.Sample {
			return telemetrypb.StringSample(0, 0, []string{"", "P", "Zündung", "\x00\xff", strings.Repeat("x", 300), fmt.Sprint(i), fmt.Sprint(r.IntN(4))}[r.IntN(7)])
		}},
		{"all kinds", func(r *rand.Rand, i int) telemetrypb.Sample {
			return []telemetrypb.Sample{telemetrypb.IntSample(0, 0, int64(i)), telemetrypb.UintSample(0, 0, uint64(i)), float(float64(i)),
				telemetrypb.StringSample(0, 0, fmt.Sprint(i))}[r.IntN(4)]
		}},
	}
	for digits := 1; digits <= 17; digits++ {
		power := math.Pow(10, float64(digits))
		list = append(list, column{fmt.Sprintf("%d decimals", digits), func(r *rand.Rand, _ int) telemetrypb.Sample {
			return float(math.Round(r.NormFloat64()*power*10) / power)
		}})
	}
	return list
}

// timing makes the times of a column.
type timing struct {
	name string
	at   func(r *rand.Rand, i int, before int64) int64
}

func timings() []timing {
	return []timing{
		{"steady", func(_ *rand.Rand, i int, _ int64) int64 { return 3600e9 + int64(i)*100e6 }},
		{"kernel's", func(r *rand.Rand, i int, _ int64) int64 { return 3600e9 + int64(i)*10e6 + r.Int64N(300e3) }},
		{"equal", func(*rand.Rand, int, int64) int64 { return 42 }},
		{"backward", func(r *rand.Rand, _ int, before int64) int64 { return before - r.Int64N(1e9) }},
		{"anywhere", func(r *rand.Rand, _ int, _ int64) int64 { return int64(r.Uint64()) }},
	}
}

// TestColumns seals columns of each sort with each sort of times, alone and side by side, and wants back every bit of every
// sample: whether the encoder is new or has written others before.
func TestColumns(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 11))
	var used telemetrypb.Encoder
	for _, timing := range timings() {
		for _, size := range []int{1, 2, 3, 64, 65, 500} {
			var together []telemetrypb.Sample
			for i, c := range columns() {
				samples := c.samples(r, timing, uint32(i)*7+1, size)
				roundTripBatch(t, &used, fmt.Sprintf("%s, %s times, %d", c.name, timing.name, size), samples)
				together = append(together, samples...)
			}
			r.Shuffle(len(together), func(i, j int) { together[i], together[j] = together[j], together[i] })
			roundTripBatch(t, &used, fmt.Sprintf("all, %s times, %d each", timing.name, size), together)
		}
	}
	// 64k of a sort, and signals at random.
	for _, c := range columns() {
		samples := c.samples(r, timings()[r.IntN(len(timings()))], 1, 1<<16/16)
		if c.name == "any bits" || c.name == "2 decimals" || c.name == "any integers" {
			samples = c.samples(r, timings()[1], 1, 1<<16)
		}
		for i := range samples {
			samples[i].Signal = 1 + r.Uint32N(1+uint32(i%50))
		}
		roundTripBatch(t, &used, c.name+", many", samples)
	}
}

func (c *column) samples(r *rand.Rand, times timing, signal uint32, n int) []telemetrypb.Sample {
	list := make([]telemetrypb.Sample, n)
	at := int64(0)
	for i := range list {
		at = times.at(r, i, at)
		list[i] = c.value(r, i)
		list[i].Signal, list[i].Time = signal, at
	}
	return list
}

// roundTripBatch seals samples and opens the batch.
func roundTripBatch(t *testing.T, used *telemetrypb.Encoder, name string, samples []telemetrypb.Sample) {
	t.Helper()
	sealed, err := used.AppendBatch(nil, head(1), samples)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if again, err := new(telemetrypb.Encoder).AppendBatch(nil, head(1), samples); err != nil || !bytes.Equal(again, sealed) {
		t.Fatalf("%s: a new encoder writes %d bytes (%v), one that was used before %d others", name, len(again), err, len(sealed))
	}
	want := slices.Clone(samples)
	slices.SortStableFunc(want, func(a, b telemetrypb.Sample) int { return cmp.Compare(a.Signal, b.Signal) })
	if got := openBatch(t, sealed, nil); !slices.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("%s: sample %d of %d: got %+v, want %+v", name, i, len(want), got[i], want[i])
			}
		}
		t.Fatalf("%s: %d samples, want %d", name, len(got), len(want))
	}
}
