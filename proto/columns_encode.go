package telemetrypb

import (
	"fmt"
	"math/bits"
	"slices"
)

// Encoder writes batches and columnar bodies, and keeps its memory from one to the next, so that in steady state it
// allocates nothing. The zero value is ready. Not safe for use from several goroutines.
type Encoder struct {
	w        bitWriter
	integers integerCoder
	body     []byte
	envelope []byte

	order, spare []uint32 // indices of the samples by signal, and the other half of the sort
	values       []uint64
	lastKind     Kind

	times      []timeColumn
	timesAt    map[uint64]int // hash → the first time column that has it
	lastTimes  int
	lastFirst  int64
	lastUnit   uint
	dictionary map[string]int
	strings    []string
}

// timeColumn is one that was written, by the samples that it was written from.
type timeColumn struct {
	hash uint64
	rows []uint32 // of order
}

// AppendSamples is the package's AppendSamples with this encoder's memory.
func (e *Encoder) AppendSamples(dst []byte, samples []Sample) ([]byte, error) {
	if len(samples) > MaxSamples {
		return dst, fmt.Errorf("%d samples: %w: at most %d", len(samples), ErrTooLarge, MaxSamples)
	}
	for i := range samples {
		if s := &samples[i]; s.Signal == 0 || s.Kind == KindNone || s.Kind > KindString {
			return dst, fmt.Errorf("sample %d: signal %d, kind %d: ids and kinds start at 1, kinds end at %d", i, s.Signal, s.Kind, KindString)
		}
	}
	e.sort(samples)
	e.reset(append(dst, columnsVersion))
	e.w.putGolomb(uint64(countColumns(samples, e.order)), orderColumns)
	previous := uint32(0)
	for rows := e.order; len(rows) > 0; {
		id := samples[rows[0]].Signal
		n := 1
		for n < len(rows) && samples[rows[n]].Signal == id {
			n++
		}
		e.w.putGolomb(uint64(id-previous-1), orderID)
		e.putTimes(samples, rows[:n])
		e.putColumn(samples, rows[:n])
		previous, rows = id, rows[n:]
	}
	out := e.w.finish()
	e.w.buf = nil // it is the caller's, as the texts are
	e.release()
	return out, nil
}

// reset makes the encoder ready to write behind dst.
func (e *Encoder) reset(dst []byte) {
	e.w = bitWriter{buf: dst}
	e.times = e.times[:0]
	if e.timesAt == nil {
		e.timesAt, e.dictionary = make(map[uint64]int), make(map[string]int)
	}
	clear(e.timesAt)
	e.lastKind, e.lastTimes, e.lastFirst, e.lastUnit = KindInt, -1, 0, 0
}

// release forgets the texts of a column.
func (e *Encoder) release() {
	clear(e.dictionary)
	clear(e.strings)
	e.strings = e.strings[:0]
}

// sort orders the samples by signal and, within it, as they came: a radix sort over the bits that ids have.
func (e *Encoder) sort(samples []Sample) {
	const digit = 10
	e.order, e.spare = e.order[:0], slices.Grow(e.spare[:0], len(samples))[:len(samples)]
	used, sorted := uint32(0), true
	for i := range samples {
		used |= samples[i].Signal
		sorted = sorted && (i == 0 || samples[i-1].Signal <= samples[i].Signal)
		e.order = append(e.order, uint32(i))
	}
	if sorted {
		return
	}
	for shift := 0; shift < bits.Len32(used); shift += digit {
		var starts [1<<digit + 1]uint32
		for i := range samples {
			starts[samples[i].Signal>>shift&(1<<digit-1)+1]++
		}
		for i := range 1 << digit {
			starts[i+1] += starts[i]
		}
		for _, row := range e.order {
			bucket := samples[row].Signal >> shift & (1<<digit - 1)
			e.spare[starts[bucket]] = row
			starts[bucket]++
		}
		e.order, e.spare = e.spare, e.order
	}
}

// countColumns is how many signals there are.
func countColumns(samples []Sample, order []uint32) int {
	count, last := 0, uint32(0)
	for _, row := range order {
		if id := samples[row].Signal; id != last {
			count, last = count+1, id
		}
	}
	return count
}

// putTimes writes which times a column has, and the times if no column before had them.
func (e *Encoder) putTimes(samples []Sample, rows []uint32) {
	if e.lastTimes >= 0 && sameTimes(samples, rows, e.times[e.lastTimes].rows) {
		e.w.putGolomb(timesSame, orderTimes)
		return
	}
	hash := hashTimes(samples, rows)
	if at, known := e.timesAt[hash]; known && sameTimes(samples, rows, e.times[at].rows) {
		e.w.putGolomb(timesBack+uint64(at), orderTimes)
		e.lastTimes = at
		return
	}
	e.w.putGolomb(timesNew, orderTimes)
	e.lastTimes = len(e.times)
	e.timesAt[hash] = e.lastTimes // of two columns with one hash, the later is found
	e.times = append(e.times, timeColumn{hash: hash, rows: rows})

	e.w.putGolomb(uint64(len(rows)-1), orderCount)
	unit := timeUnit(samples, rows)
	e.w.putBit(unit == e.lastUnit)
	if unit != e.lastUnit {
		e.w.put(uint64(unit), 4)
	}
	nanoseconds := powerOfTen(unit)
	e.values = e.values[:0]
	for _, row := range rows {
		e.values = append(e.values, uint64(samples[row].Time/nanoseconds))
	}
	e.integers.put(&e.w, e.values, uint64(e.lastFirst/nanoseconds), true)
	e.lastUnit, e.lastFirst = unit, samples[rows[0]].Time
}

// sameTimes says whether two columns have the same times.
func sameTimes(samples []Sample, a, b []uint32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if samples[a[i]].Time != samples[b[i]].Time {
			return false
		}
	}
	return true
}

// hashTimes finds equal time columns; a collision costs bytes, never correctness.
func hashTimes(samples []Sample, rows []uint32) uint64 {
	h := uint64(len(rows))
	for _, row := range rows {
		h = (bits.RotateLeft64(h, 23) ^ uint64(samples[row].Time)) * 0x9e3779b97f4a7c15
	}
	return h
}

// timeUnit is the largest power of ten, as its exponent, that all times are multiples of.
func timeUnit(samples []Sample, rows []uint32) uint {
	unit, nanoseconds := uint(maxUnit), powerOfTen(maxUnit)
	for _, row := range rows {
		for unit > 0 && samples[row].Time%nanoseconds != 0 {
			unit--
			nanoseconds /= 10
		}
		if unit == 0 {
			break
		}
	}
	return unit
}

// putColumn writes the kind and the values of one signal.
func (e *Encoder) putColumn(samples []Sample, rows []uint32) {
	kind := samples[rows[0]].Kind
	for _, row := range rows {
		if samples[row].Kind != kind {
			kind = kindMixed
			break
		}
	}
	e.w.putBit(kind == e.lastKind)
	if kind != e.lastKind {
		e.w.put(uint64(kind), 3)
	}
	e.lastKind = kind
	if kind != kindMixed {
		e.putValues(samples, rows, kind)
		return
	}
	e.values = e.values[:0]
	for _, row := range rows {
		e.values = append(e.values, uint64(samples[row].Kind))
	}
	e.integers.put(&e.w, e.values, 0, false)
	for kind := KindInt; kind <= KindString; kind++ {
		e.putValues(samples, rows, kind)
	}
}

// putValues writes the values of those rows that are of this kind, if there are any.
func (e *Encoder) putValues(samples []Sample, rows []uint32, kind Kind) {
	if kind == KindString {
		e.putStrings(samples, rows)
		return
	}
	e.values = e.values[:0]
	for _, row := range rows {
		if samples[row].Kind == kind {
			e.values = append(e.values, samples[row].Bits)
		}
	}
	if len(e.values) == 0 {
		return
	}
	if kind == KindFloat {
		e.scaleFloats()
	}
	e.integers.put(&e.w, e.values, 0, false)
}

// scaleFloats turns bit patterns into integers and writes how: as decimals where that is exact, else as patterns
// without the zeros at their end.
func (e *Encoder) scaleFloats() {
	decimals := uint(0)
	for _, pattern := range e.values {
		for decimals <= maxDecimals {
			if _, exact := scaledFloat(pattern, float64(powerOfTen(decimals))); exact {
				break
			}
			decimals++
		}
		if decimals > maxDecimals {
			e.patternFloats()
			return
		}
	}
	power := float64(powerOfTen(decimals))
	for _, pattern := range e.values {
		// One that fits fewer decimals need not fit more: it may then have more than 53 bits.
		if _, exact := scaledFloat(pattern, power); !exact {
			e.patternFloats()
			return
		}
	}
	e.w.put(uint64(decimals), 4)
	for i, pattern := range e.values {
		m, _ := scaledFloat(pattern, power)
		e.values[i] = uint64(m)
	}
}

// patternFloats keeps the bit patterns, shifted by the zeros that all have at their end.
func (e *Encoder) patternFloats() {
	all := uint64(1 << 63) // at most 63 zeros
	for _, pattern := range e.values {
		all |= pattern
	}
	zeros := uint(bits.TrailingZeros64(all))
	e.w.put(floatPatterns, 4)
	e.w.put(uint64(zeros), 6)
	for i := range e.values {
		e.values[i] >>= zeros
	}
}

// putStrings writes the dictionary of the texts in order of appearance, then a column of indices.
func (e *Encoder) putStrings(samples []Sample, rows []uint32) {
	e.release()
	e.values = e.values[:0]
	for _, row := range rows {
		s := &samples[row]
		if s.Kind != KindString {
			continue
		}
		at, known := e.dictionary[s.Str]
		if !known {
			at = len(e.strings)
			e.dictionary[s.Str] = at
			e.strings = append(e.strings, s.Str)
		}
		e.values = append(e.values, uint64(at))
	}
	if len(e.values) == 0 {
		return
	}
	e.w.putGolomb(uint64(len(e.strings)-1), orderStrings)
	for _, text := range e.strings {
		e.w.putGolomb(uint64(len(text)), orderLength)
		for i := range len(text) {
			e.w.put(uint64(text[i]), 8)
		}
	}
	e.integers.put(&e.w, e.values, 0, false)
}
