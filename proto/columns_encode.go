package telemetrypb

import (
	"fmt"
	"math/bits"
	"slices"
)

// Encoder writes batches and columnar bodies, and keeps its memory from one to the next, so that in steady state it
// allocates nothing. The zero value is ready. Not safe for use from several goroutines.
type Encoder struct {
	w        rangeWriter
	models   bodyModels
	fresh    *bodyModels
	integers integerCoder
	entries  dictionaryCoder
	body     []byte
	envelope []byte

	order, spare []uint32 // indices of the samples by signal, and the other half of the sort
	columns      []signalColumn
	at           []uint64 // times in that order
	bits         []uint64 // values in that order; a column's are changed while it is written
	values       []uint64 // memory for numbers that are made of those, and for what tells columns apart

	sets     []timeSet
	setsAt   []uint32 // hash table: 1 + the index of a set that has this hash; a power of two long
	groups   []timeGroup
	timesPut int // time columns written, and those of them that are bases
	basesPut int

	lastSet    int // of the column before
	lastFirst  int64
	lastUnit   uint
	lastKind   Kind
	dictionary map[string]int
	strings    []string
}

// signalColumn is one signal's part of order, at and bits.
type signalColumn struct {
	id         uint32
	kind       Kind // kindMixed: not all are of one
	begin, end int
	set        int // of times
}

// AppendSamples is the package's AppendSamples with this encoder's memory.
func (e *Encoder) AppendSamples(dst []byte, samples []Sample) ([]byte, error) {
	if len(samples) > MaxSamples {
		return dst, fmt.Errorf("%d samples: %w: at most %d", len(samples), ErrTooLarge, MaxSamples)
	}
	if err := e.sort(samples); err != nil {
		return dst, err
	}
	e.gather(samples)
	e.group()
	e.reset()
	e.w.putWide(&e.models.columns, uint64(len(e.columns)))
	previous := uint32(0)
	for i := range e.columns {
		c := &e.columns[i]
		e.w.put(&e.models.id, uint64(c.id-previous-1))
		e.putTimes(c.set)
		e.putColumn(c, samples)
		previous = c.id
	}
	e.release() // they are the caller's
	return e.w.finish(append(dst, columnsVersion)), nil
}

// reset makes the encoder ready to write the gathered columns.
func (e *Encoder) reset() {
	e.w.reset()
	if e.fresh == nil {
		e.fresh, e.dictionary = newModels(), make(map[string]int)
	}
	e.models = *e.fresh
	e.timesPut, e.basesPut, e.entries.set = 0, 0, -1
	e.lastSet, e.lastFirst, e.lastUnit, e.lastKind = -1, 0, 0, KindInt
}

// release forgets the texts of a column.
func (e *Encoder) release() {
	clear(e.dictionary)
	clear(e.strings)
	e.strings = e.strings[:0]
}

// sort orders the samples by signal and, within it, as they came: a radix sort over the bits that ids have.
func (e *Encoder) sort(samples []Sample) error {
	const digit = 10
	var starts [1<<digit + 1]uint32
	used, last, sorted := uint32(0), uint32(0), true
	for i := range samples {
		s := &samples[i]
		id := s.Signal
		if id == 0 || s.Kind-KindInt > KindString-KindInt {
			return fmt.Errorf("sample %d: signal %d, kind %d: ids and kinds start at 1, kinds end at %d", i, id, s.Kind, KindString)
		}
		starts[id&(1<<digit-1)+1]++
		used |= id
		sorted = sorted && last <= id
		last = id
	}
	e.order = slices.Grow(e.order[:0], len(samples))[:len(samples)]
	e.spare = slices.Grow(e.spare[:0], len(samples))[:len(samples)]
	order, spare := e.order, e.spare
	if sorted {
		for i := range order {
			order[i] = uint32(i)
		}
		return nil
	}
	addUp(starts[:])
	for i := range samples {
		start := &starts[samples[i].Signal&(1<<digit-1)]
		order[*start] = uint32(i)
		*start++
	}
	for shift := digit; shift < bits.Len32(used); shift += digit {
		clear(starts[:])
		for i := range samples {
			starts[samples[i].Signal>>(shift&31)&(1<<digit-1)+1]++
		}
		addUp(starts[:])
		for _, row := range order {
			start := &starts[samples[row].Signal>>(shift&31)&(1<<digit-1)]
			spare[*start] = row
			*start++
		}
		order, spare = spare, order
	}
	e.order, e.spare = order, spare
	return nil
}

// addUp turns counts into where each begins.
func addUp(counts []uint32) {
	sum := uint32(0)
	for i, n := range counts {
		sum += n
		counts[i] = sum
	}
}

// gather lays times and values side by side, in order, and says where each signal's are.
func (e *Encoder) gather(samples []Sample) {
	n := len(e.order)
	e.at, e.bits = slices.Grow(e.at[:0], n)[:n], slices.Grow(e.bits[:0], n)[:n]
	at, values := e.at[:n], e.bits[:n]
	e.columns = e.columns[:0]
	last := uint64(0)
	for i, row := range e.order {
		s := &samples[row]
		at[i], values[i] = uint64(s.Time), s.Bits
		if key := uint64(s.Signal)<<8 | uint64(s.Kind); key != last {
			if key>>8 != last>>8 {
				e.columns = append(e.columns, signalColumn{id: s.Signal, kind: s.Kind, begin: i})
			} else {
				e.columns[len(e.columns)-1].kind = kindMixed
			}
			last = key
		}
	}
	for i, end := len(e.columns)-1, n; i >= 0; i-- {
		e.columns[i].end = end
		end = e.columns[i].begin
	}
}

// putColumn writes the kind and the values of one signal.
func (e *Encoder) putColumn(c *signalColumn, samples []Sample) {
	e.w.put(&e.models.kind, uint64((c.kind+kindMixed-e.lastKind)%kindMixed))
	e.lastKind = c.kind
	rows, values := e.order[c.begin:c.end], e.bits[c.begin:c.end]
	switch c.kind {
	case kindMixed:
		e.putMixed(samples, rows)
	case KindString:
		e.putStrings(samples, rows)
	case KindFloat:
		e.putNumbers(values, c.kind)
	default:
		e.putWhole(c, values)
	}
}

// putMixed writes the kind of each sample, then the values of each kind.
func (e *Encoder) putMixed(samples []Sample, rows []uint32) {
	e.values = e.values[:0]
	for _, row := range rows {
		e.values = append(e.values, uint64(samples[row].Kind))
	}
	e.integers.put(&e.w, &e.models.values, e.values, 0, false)
	for kind := KindInt; kind < KindString; kind++ {
		e.values = e.values[:0]
		for _, row := range rows {
			if samples[row].Kind == kind {
				e.values = append(e.values, samples[row].Bits)
			}
		}
		e.putNumbers(e.values, kind)
	}
	e.putStrings(samples, rows)
}

// putNumbers writes values that are no texts, if there are any, and changes them on the way.
func (e *Encoder) putNumbers(values []uint64, kind Kind) {
	if len(values) == 0 {
		return
	}
	if kind == KindFloat {
		e.scaleFloats(values)
	}
	e.integers.put(&e.w, &e.models.values, values, 0, false)
}

// scaleFloats turns bit patterns into integers and writes how: as decimals where that is exact, else as patterns
// without the zeros at their end.
func (e *Encoder) scaleFloats(values []uint64) {
	decimals := uint(0)
	for _, pattern := range values {
		for decimals <= maxDecimals {
			if _, exact := scaledFloat(pattern, float64(powerOfTen(decimals))); exact {
				break
			}
			decimals++
		}
		if decimals > maxDecimals {
			e.patternFloats(values)
			return
		}
	}
	power := float64(powerOfTen(decimals))
	for _, pattern := range values {
		// One that fits fewer decimals need not fit more: it may then have more than 53 bits.
		if _, exact := scaledFloat(pattern, power); !exact {
			e.patternFloats(values)
			return
		}
	}
	e.w.put(&e.models.decimals, uint64(decimals))
	for i, pattern := range values {
		m, _ := scaledFloat(pattern, power)
		values[i] = uint64(m)
	}
}

// patternFloats keeps the bit patterns, shifted by the zeros that all have at their end.
func (e *Encoder) patternFloats(values []uint64) {
	all := uint64(1 << 63) // at most 63 zeros
	for _, pattern := range values {
		all |= pattern
	}
	zeros := uint(bits.TrailingZeros64(all))
	e.w.put(&e.models.decimals, floatPatterns)
	e.w.put(&e.models.zeros, uint64(zeros))
	for i := range values {
		values[i] >>= zeros
	}
}

// putStrings writes the dictionary of those rows that are texts, in order of appearance, then a column of indices.
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
	e.w.putWide(&e.models.texts, uint64(len(e.strings)-1))
	for _, text := range e.strings {
		e.w.putWide(&e.models.text, uint64(len(text)))
		for i := range len(text) {
			e.w.plain(uint64(text[i]), 8)
		}
	}
	e.integers.put(&e.w, &e.models.values, e.values, 0, false)
}
