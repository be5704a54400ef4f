package pipeline

import (
	"cmp"
	"errors"
	"math"
	"runtime"
	"slices"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func oddSamples() []telemetrypb.Sample {
	return []telemetrypb.Sample{
		telemetrypb.IntSample(9, 1e12, -1), telemetrypb.IntSample(10, 1e12, math.MinInt64), telemetrypb.IntSample(11, 1e12, math.MaxInt64),
		telemetrypb.UintSample(math.MaxUint32, math.MinInt64, math.MaxUint64), telemetrypb.IntSample(1, math.MaxInt64, 0),
		telemetrypb.FloatSample(1, 5, math.NaN()), telemetrypb.FloatSample(1, 5, math.Inf(-1)), telemetrypb.FloatSample(2, 4, math.Copysign(0, -1)),
		telemetrypb.FloatSample(2, 4, math.Float64frombits(0xfff8dead0000beef)), telemetrypb.StringSample(3, 4, ""),
		telemetrypb.StringSample(3, -4, "\xff\x00é"), telemetrypb.UintSample(9, 1e12, 1<<63), telemetrypb.IntSample(9, 0, 1),
		telemetrypb.IntSample(10, 0, -1), telemetrypb.IntSample(11, 0, math.MinInt64), telemetrypb.IntSample(12, 0, math.MaxInt64/2),
		telemetrypb.UintSample(13, 0, 1<<63-1), telemetrypb.UintSample(14, 0, 1<<63), telemetrypb.FloatSample(15, 0, 1.5), telemetrypb.FloatSample(16, 0, -2),
		telemetrypb.FloatSample(17, 0, math.NaN()), telemetrypb.StringSample(18, 0, "a"), telemetrypb.StringSample(19, 0, "b"),
	}
}

// bySignal is the order in which an entry gives its samples back.
func bySignal(samples []telemetrypb.Sample) []telemetrypb.Sample {
	out := slices.Clone(samples)
	slices.SortStableFunc(out, func(a, b telemetrypb.Sample) int { return cmp.Compare(a.Signal, b.Signal) })
	return out
}

func TestJournalKeepsSamples(t *testing.T) {
	for _, samples := range [][]telemetrypb.Sample{nil, oddSamples(), oddSamples()[:1]} {
		kept := []telemetrypb.Sample{telemetrypb.IntSample(7, 7, 7)}
		entry := AppendJournal([]byte("before"), 12, samples)[len("before"):]
		before, got, err := DecodeJournal(kept, entry)
		if err != nil || before != 12 || !slices.Equal(got, append(kept, bySignal(samples)...)) {
			t.Errorf("%v came back as %v, %d before, %v", samples, got, before, err)
		}
		for n := range entry {
			if _, got, err := DecodeJournal(kept, entry[:n]); err == nil && len(got) > len(samples) || err != nil && (len(got) != 1 || !errors.Is(err, telemetrypb.ErrMalformed)) {
				t.Fatalf("%d of %d bytes: %d samples, %v", n, len(entry), len(got)-1, err)
			}
		}
	}
}

// What an entry claims costs nothing until it is there.
func TestJournalRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":                {},
		"another format":         {1, 0},
		"no number":              {journalFormat},
		"a number too large":     {journalFormat, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"signal 0":               append([]byte{journalFormat, 0}, 1<<rowFlags|longRow|otherKind, 1, 0), // −1, that is signal 0
		"signal of 33 bits":      append([]byte{journalFormat, 0}, append(appendUvarint(nil, 1<<33<<rowFlags|longRow|otherKind), 1, 0)...),
		"kind 0":                 {journalFormat, 0, longRow, 0},
		"no kind yet":            {journalFormat, 0, 0},
		"text in a short row":    {journalFormat, 0, longRow | otherKind, byte(telemetrypb.KindString), 0, 0},
		"kind 5":                 {journalFormat, 0, longRow | otherKind, 5, 0},
		"a text of 10^12 bytes":  append([]byte{journalFormat, 0, longRow | otherKind, byte(telemetrypb.KindString)}, appendUvarint(nil, 1e12)...),
		"a number of eleven":     append([]byte{journalFormat, 0, longRow | otherKind, 2}, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1),
		"a row that is cut off":  {journalFormat, 0, longRow | otherKind | otherTime, 1, 2},
		"2^20 before and a half": appendUvarint([]byte{journalFormat}, telemetrypb.MaxSamples+1),
	} {
		var was, is runtime.MemStats
		runtime.ReadMemStats(&was)
		_, got, err := DecodeJournal(nil, b)
		runtime.ReadMemStats(&is)
		if !errors.Is(err, telemetrypb.ErrMalformed) || len(got) > 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if spent := is.TotalAlloc - was.TotalAlloc; spent > 16<<10 {
			t.Errorf("%s: %d bytes allocated to refuse %d", name, spent, len(b))
		}
	}
}

// A journal that a second fills at 1,000 samples/s fits a page, beside its heads.
func TestJournalIsSmallBesideACommit(t *testing.T) {
	var samples []telemetrypb.Sample
	for frame := range 125 {
		for k := range 8 {
			at := int64(1e12) + int64(frame)*8e6 + int64(frame*frame)%977
			samples = append(samples, telemetrypb.IntSample(uint32(frame%10*8+k+1), at, int64(frame*k*31%4096)-2048))
		}
	}
	if n := len(AppendJournal(nil, 0, samples)); n > 3<<10 {
		t.Errorf("%d bytes for %d samples", n, len(samples))
	}
	buf := make([]byte, 0, 16<<10)
	if n := testing.AllocsPerRun(10, func() { buf = AppendJournal(buf[:0], 0, samples) }); n != 0 {
		t.Errorf("%v allocations an entry", n)
	}
}

// FuzzDecodeJournal: any bytes are an entry or are refused, and what is one can be written again.
func FuzzDecodeJournal(f *testing.F) {
	f.Add(AppendJournal(nil, 3, oddSamples()))
	f.Add(AppendJournal(nil, 0, nil))
	f.Add([]byte{journalFormat, 0, longRow | otherKind, 5, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		before, samples, err := DecodeJournal(nil, b)
		if err != nil {
			if !errors.Is(err, telemetrypb.ErrMalformed) || len(samples) > 0 {
				t.Fatalf("%d samples, %v", len(samples), err)
			}
			return
		}
		again, got, err := DecodeJournal(nil, AppendJournal(nil, int(before), samples))
		if err != nil || again != before || !slices.Equal(got, samples) {
			t.Fatalf("%d samples came back as %d, %v", len(samples), len(got), err)
		}
	})
}
