package telemetrypb

import (
	"fmt"
	"math"
	"sync"
)

// The columnar body, CODEC_COLUMNS_1, bit by bit in FORMAT.md. It is made for what a bus gives: few signals, many
// values each, those of one message at the same times. Nothing in it is rounded, and no floating point takes part in
// how it is laid out but one exact test, so that every machine writes the same bytes.

// columnsVersion is the first byte of a columnar body.
const columnsVersion = 1

// bodyModels is all that is learnt in the course of a body.
type bodyModels struct {
	id, times, base, unit, kind, decimals, zeros number
	columns, count, part, texts, text            length
	at, values                                   integerModels
	gaps                                         scaleModels
}

// newModels know nothing yet.
func newModels() *bodyModels {
	m := new(bodyModels)
	for _, n := range []*number{&m.id, &m.times, &m.base, &m.unit, &m.kind, &m.decimals, &m.zeros} {
		n.reset()
	}
	for _, l := range []*length{&m.columns, &m.count, &m.part, &m.texts, &m.text} {
		l.reset()
	}
	for _, i := range []*integerModels{&m.at, &m.values} {
		i.last.order = 1
		for _, n := range []*number{&i.same, &i.order, &i.memory, &i.drift, &i.keys, &i.width} {
			n.reset()
		}
		for _, l := range []*length{&i.first, &i.bend, &i.slope, &i.turn, &i.start, &i.entries} {
			l.reset()
		}
		i.scales.reset()
	}
	m.gaps.reset()
	return m
}

// How the times of a column are told apart.
const (
	timesSame = 0 // those of the column before
	timesNew  = 1 // they follow
	timesPart = 2 // a part of a base: which, and which part, follows
	timesBase = 3 // times follow that are not the column's but a base; then it begins again
	timesBack = 4 // plus the index of an earlier time column
)

// kindMixed stands for a signal whose samples are not all of one kind.
const kindMixed = KindString + 1

// maxUnit is the largest power of ten that times are counted in: 10^9 ns, seconds.
const maxUnit = 9

// maxDecimals is the most decimals of a float column that is kept in scaled integers.
const maxDecimals = 12

// floatPatterns stands in place of the decimals: the column holds bit patterns.
const floatPatterns = 15

// maxZeros is the most zeros at the end of a bit pattern that are left out.
const maxZeros = 63

// powerOfTen is 10^n as an integer, n ≤ 18.
func powerOfTen(n uint) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
}

// scaledFloat is v as m × 10^−decimals, if m has at most 53 bits and the division gives back v to the last bit.
// Both the test and the way back are single IEEE 754 operations, which every machine rounds alike.
func scaledFloat(pattern uint64, power float64) (m int64, exact bool) {
	v := math.Float64frombits(pattern)
	scaled := v * power
	if !(scaled >= -1<<53 && scaled <= 1<<53) { // also a NaN
		return 0, false
	}
	m = int64(math.Round(scaled))
	return m, math.Float64bits(unscaledFloat(m, power)) == pattern
}

// unscaledFloat is m ÷ power: one correctly rounded division.
func unscaledFloat(m int64, power float64) float64 { return float64(m) / power }

// encoders serve the package's functions; a goroutine that seals often keeps its own.
var encoders = sync.Pool{New: func() any { return new(Encoder) }}

// decoders keep the memory of DecodeSamples.
var decoders = sync.Pool{New: func() any { return new(decoder) }}

// AppendSamples appends the columnar body of samples, in any order, to dst. Each signal's samples keep their order;
// that between signals is not kept. Safe for use from several goroutines; one that encodes often keeps an Encoder.
func AppendSamples(dst []byte, samples []Sample) ([]byte, error) {
	e := encoders.Get().(*Encoder)
	defer encoders.Put(e)
	return e.AppendSamples(dst, samples)
}

// DecodeSamples appends the samples of a columnar body to dst: signals ascending by id, each signal's samples in the
// order they were put in. A body that claims more than MaxSamples is refused before
// anything is allocated for them, and memory grows only with what is decoded. On an error dst comes back as it was.
func DecodeSamples(dst []Sample, body []byte) ([]Sample, error) {
	return decodeSamples(dst, body, MaxSamples)
}

// decodeSamples is DecodeSamples with a tighter limit.
func decodeSamples(dst []Sample, body []byte, limit int) ([]Sample, error) {
	d := decoders.Get().(*decoder)
	defer decoders.Put(d)
	have := len(dst)
	out, err := d.decode(dst, body, limit)
	if err != nil {
		return dst[:have], fmt.Errorf("columns: %w", err)
	}
	return out, nil
}
