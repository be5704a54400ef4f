package telemetrypb

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
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
func column(signal uint32, n int, of func(i int) Sample) []Sample {
	out := make([]Sample, n)
	for i := range out {
		out[i] = of(i)
		out[i].Signal, out[i].Time = signal, 1e12+int64(i)*1e7
	}
	return out
}

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
		"mixed kinds": {IntSample(1, 5, -1), StringSample(1, 4, "x"), FloatSample(1, 3, math.NaN()), UintSample(1, 2, 1<<63),
			IntSample(1, 1, 7), StringSample(1, 4, ""), IntSample(2, 1, 1), StringSample(3, 9, "x"), UintSample(3, 9, 1)},
		"interleaved": interleaved(random, 70, 65536),
		"sparse ids":  interleaved(random, 1<<30, 3000),
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

// interleaved is samples of all kinds as they come from several buses: signals in any order, some of them at the same times.
func interleaved(random *rand.Rand, ids, n int) []Sample {
	out := make([]Sample, n)
	for i := range out {
		s := Sample{Signal: 1 + uint32(random.IntN(ids)), Time: int64(i/8)*1e6 + int64(random.IntN(2)), Bits: random.Uint64() >> random.IntN(64)}
		switch random.IntN(30) {
		case 0:
			s.Kind, s.Bits = KindString, 0
			s.Str = strconv.Itoa(random.IntN(5))
		case 1:
			s.Kind = KindUint
		case 2, 3:
			s.Kind = KindFloat
		default:
			s.Kind = KindInt
		}
		out[i] = s
	}
	return out
}

// Signals of one message share their times: a second signal costs its values alone, wherever the first stands.
func TestColumnsShareTimes(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	times := make([]int64, 500)
	for i := range times {
		times[i] = int64(i)*1e7 + random.Int64N(1e6)
	}
	of := func(ids ...uint32) (out []Sample) {
		for _, at := range times {
			for _, id := range ids {
				out = append(out, IntSample(id, at, 1))
			}
		}
		return out
	}
	one := len(roundTrip(t, of(1)))
	other := column(2, 500, func(int) Sample { return IntSample(0, 0, 1) })
	apart := len(roundTrip(t, slices.Concat(of(1), other)))
	if both := len(roundTrip(t, slices.Concat(of(1, 3), other))); both > apart+4 {
		t.Errorf("times of %d bytes alone; with another column %d, and shared across it %d", one, apart, both)
	}
	if hundred := len(roundTrip(t, of(slices.Collect(func(yield func(uint32) bool) {
		for id := range uint32(100) {
			if !yield(id + 1) {
				return
			}
		}
	})...))); hundred > one+99*4 {
		t.Errorf("one column %d bytes, a hundred of the same times %d", one, hundred)
	}
}

// What the columns promise of size, on columns whose least size is known.
func TestColumnsAreSmall(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for _, c := range []struct {
		name    string
		samples []Sample
		most    int
	}{
		{"constant", column(1, 10000, func(int) Sample { return IntSample(0, 0, 1<<40) }), 64},
		{"counter", column(1, 10000, func(i int) Sample { return UintSample(0, 0, uint64(i)*3) }), 64},
		{"counter of four bits", column(1, 10000, func(i int) Sample { return UintSample(0, 0, uint64(i)%16) }), 10000*3/8 + 64},
		{"counter down", column(1, 10000, func(i int) Sample { return UintSample(0, 0, uint64(-5*i)%256) }), 10000*7/2/8 + 64},
		{"noise about a slope", column(1, 10000, func(i int) Sample { return IntSample(0, 0, int64(i)*37/10+random.Int64N(32)) }), 7200},
		{"parabola", column(1, 200, func(i int) Sample { return IntSample(0, 0, int64(i)*int64(i)*50+random.Int64N(2)) }), 200*4/8 + 64},
		{"cubic", column(1, 200, func(i int) Sample { return IntSample(0, 0, int64(i)*int64(i)*int64(i)*9) }), 230},
		{"steps far apart", column(1, 1000, func(i int) Sample { return IntSample(0, 0, int64((i+45)/50)*(1<<30+12345)) }), 300},
		{"one bit of noise", column(1, 10000, func(int) Sample { return IntSample(0, 0, 1000+random.Int64N(2)) }), 10000*3/2/8 + 100},
		{"ten bits of noise", column(1, 10000, func(int) Sample { return IntSample(0, 0, random.Int64N(1024)) }), 10000*11/8 + 64},
		{"64 bits of noise", column(1, 10000, func(int) Sample { return UintSample(0, 0, random.Uint64()) }), 10000*69/8 + 64},
		{"noise of 32-bit floats", column(1, 10000, func(int) Sample { return FloatSample(0, 0, float64(random.Float32())) }), 10000*4 + 64},
		{"tenths", column(1, 10000, func(i int) Sample { return FloatSample(0, 0, float64(i%128)/10) }), 10000*9/8 + 64},
	} {
		if n := len(roundTrip(t, c.samples)); n > c.most {
			t.Errorf("%s: %d bytes for %d samples, want at most %d", c.name, n, len(c.samples), c.most)
		}
	}
}

func TestColumnsRefuseWhatHasNoPlace(t *testing.T) {
	for name, samples := range map[string][]Sample{
		"signal 0": {{Kind: KindInt}},
		"no kind":  {{Signal: 1}},
		"kind 5":   {{Signal: 1, Kind: kindMixed}},
		"too many": make([]Sample, MaxSamples+1),
	} {
		dst := []byte("kept")
		out, err := AppendSamples(dst, samples)
		if err == nil || string(out) != "kept" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}

// A body that claims much is refused without the memory that it claims.
func TestColumnsBounds(t *testing.T) {
	claim := func(write func(w *rangeWriter, m *bodyModels)) []byte {
		w, m := new(rangeWriter), newModels()
		w.reset()
		write(w, m)
		return w.finish([]byte{columnsVersion})
	}
	times := func(w *rangeWriter, m *bodyModels, n uint64) {
		w.putWide(&m.columns, 1)
		w.put(&m.id, 0)
		w.put(&m.times, timesNew)
		w.putWide(&m.count, n-1)
		w.put(&m.unit, 0)
	}
	cases := map[string][]byte{
		"10^9 columns": claim(func(w *rangeWriter, m *bodyModels) { w.putWide(&m.columns, 1e9) }),
		"10^5 columns": claim(func(w *rangeWriter, m *bodyModels) { w.putWide(&m.columns, 1e5) }),
		"10^9 times":   claim(func(w *rangeWriter, m *bodyModels) { times(w, m, 1e9) }),
		"10^6 times":   claim(func(w *rangeWriter, m *bodyModels) { times(w, m, 1e6) }),
		"10^6 times of no residuals": claim(func(w *rangeWriter, m *bodyModels) {
			times(w, m, 1e6)
			w.put(&m.at.same, 1)
			w.put(&m.at.order, 0)
			w.putWide(&m.at.first, 0)
		}),
		"a part of no base": claim(func(w *rangeWriter, m *bodyModels) {
			w.putWide(&m.columns, 1)
			w.put(&m.id, 0)
			w.put(&m.times, timesPart)
			w.put(&m.base, 0)
		}),
		"a part of 10^6 times of a base of one": claim(func(w *rangeWriter, m *bodyModels) {
			w.putWide(&m.columns, 1)
			w.put(&m.id, 0)
			w.put(&m.times, timesBase)
			w.putWide(&m.count, 0)
			w.put(&m.unit, 0)
			w.put(&m.at.same, 0)
			w.putWide(&m.at.first, 0)
			w.put(&m.times, timesPart)
			w.put(&m.base, 0)
			w.putWide(&m.part, 1e6-1)
		}),
		"a part beyond its base": claim(func(w *rangeWriter, m *bodyModels) {
			w.putWide(&m.columns, 1)
			w.put(&m.id, 0)
			w.put(&m.times, timesBase)
			w.putWide(&m.count, 0)
			w.put(&m.unit, 0)
			w.put(&m.at.same, 0)
			w.putWide(&m.at.first, 0)
			w.put(&m.times, timesPart)
			w.put(&m.base, 0)
			w.putWide(&m.part, 0)
			w.putScaled(&m.gaps, []uint64{1}, meanGap(1, 1))
		}),
		"a base before a base": claim(func(w *rangeWriter, m *bodyModels) {
			w.putWide(&m.columns, 1)
			w.put(&m.id, 0)
			for range 1 << 14 {
				w.put(&m.times, timesBase)
				w.putWide(&m.count, 0)
				w.put(&m.unit, 0)
				w.put(&m.at.same, 0)
				w.putWide(&m.at.first, 0)
			}
		}),
		"a text of 10^9 bytes": claim(func(w *rangeWriter, m *bodyModels) {
			times(w, m, 1)
			w.put(&m.at.same, 1)
			w.put(&m.at.order, 0)
			w.putWide(&m.at.first, 0)
			w.put(&m.kind, uint64(KindString-KindInt))
			w.putWide(&m.texts, 0)
			w.putWide(&m.text, 1e9)
		}),
		"more texts than values": claim(func(w *rangeWriter, m *bodyModels) {
			times(w, m, 1)
			w.put(&m.at.same, 1)
			w.put(&m.at.order, 0)
			w.putWide(&m.at.first, 0)
			w.put(&m.kind, uint64(KindString-KindInt))
			w.putWide(&m.texts, 1e6)
		}),
	}
	for name, body := range cases {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out, err := DecodeSamples(nil, body)
		runtime.ReadMemStats(&after)
		if err == nil || !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %d samples, %v", name, len(out), err)
		}
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 64<<10 {
			t.Errorf("%s: %d bytes allocated to refuse %d", name, spent, len(body))
		}
	}

	// More samples than a batch may hold, honestly encoded: 1,025 constant columns over one column of 1,024 times.
	var samples []Sample
	for id := range uint32(1024) {
		samples = append(samples, column(id+1, 1024, func(int) Sample { return IntSample(0, 0, 0) })...)
	}
	body := roundTrip(t, samples) // exactly MaxSamples is fine
	if _, err := decodeSamples(nil, body, MaxSamples-1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one sample above the limit: %v", err)
	}
}

// A decoder gives dst back as it was when the body is broken anywhere.
func TestColumnsCutOff(t *testing.T) {
	body, err := AppendSamples(nil, interleaved(rand.New(rand.NewPCG(7, 8)), 9, 200))
	if err != nil {
		t.Fatal(err)
	}
	kept := []Sample{IntSample(9, 9, 9)}
	for n := range body {
		out, err := DecodeSamples(kept, body[:n])
		if err == nil || len(out) != 1 || out[0] != kept[0] {
			t.Fatalf("%d of %d bytes: %d samples, %v", n, len(body), len(out), err)
		}
	}
	for _, tail := range []string{"\x00", "\x01"} {
		if _, err := DecodeSamples(nil, append(slices.Clone(body), tail...)); err == nil {
			t.Errorf("a byte %x after the body is not noticed", tail)
		}
	}
}

func TestEncoderAllocatesNothing(t *testing.T) {
	samples := interleaved(rand.New(rand.NewPCG(9, 10)), 40, 4000)
	e, head := new(Encoder), exampleHead()
	var batch []byte
	seal := func() {
		var err error
		if batch, err = e.AppendBatch(batch[:0], head, samples); err != nil {
			t.Fatal(err)
		}
	}
	seal()
	if n := testing.AllocsPerRun(20, seal); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
	view, err := OpenBatch(batch)
	if err != nil {
		t.Fatal(err)
	}
	got, err := view.Samples(nil)
	if err != nil || !slices.Equal(got, bySignal(samples)) {
		t.Errorf("the last batch of a reused encoder holds something else (%v)", err)
	}
}

// samplesOf makes samples of any bytes, few signals and all kinds among them.
func samplesOf(data []byte) (out []Sample) {
	next := func(n int) (v uint64) {
		for range min(n, len(data)) {
			v, data = v<<8|uint64(data[0]), data[1:]
		}
		return v
	}
	at := int64(0)
	for len(data) > 0 {
		op := next(1)
		s := Sample{Signal: 1 + uint32(op&3), Kind: KindInt + Kind(op>>2&3)}
		if op>>4&1 == 1 {
			at = int64(next(8))
		} else {
			at += int64(next(1)) * 1e6
		}
		s.Time = at
		if s.Kind == KindString {
			n := min(int(next(1)&7), len(data))
			s.Str, data = string(data[:n]), data[n:]
		} else {
			s.Bits = next(1 << (op >> 5 & 3))
		}
		out = append(out, s)
	}
	return out
}

func FuzzColumnsRoundTrip(f *testing.F) {
	f.Add([]byte("\x00\x01\x05\x00\x01\x06\x00\x01\x07"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Add([]byte("a time of any bits, and a text or two: \x0c\x01\x03abc\x1c\x80\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) { roundTrip(t, samplesOf(data)) })
}

// FuzzDecodeSamples: any bytes are decoded or refused, and what is decoded can be written again.
func FuzzDecodeSamples(f *testing.F) {
	for _, samples := range [][]Sample{nil, exampleSamples(), interleaved(rand.New(rand.NewPCG(1, 1)), 5, 30),
		framesOf(rand.New(rand.NewPCG(1, 1)), 1, 9, 80)} {
		body, err := AppendSamples(nil, samples)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		samples, err := decodeSamples(nil, body, 1<<14)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrNewerFormat) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		roundTrip(t, samples)
	})
}
