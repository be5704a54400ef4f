package telemetrypb

import (
	"fmt"
	"math"
	"slices"
)

// decoder reads columnar bodies and keeps its memory from one to the next.
type decoder struct {
	r      rangeReader
	models bodyModels
	fresh  *bodyModels
	limit  int // samples
	values []uint64
	kinds  []uint64

	entries *dictionaryReader // nil until a body has a dictionary
	keys    []uint16

	times     []uint64 // all time columns in a row, ns
	starts    []int    // where each begins, and the last ends
	bases     []int    // indices of those that are no parts
	lastTimes int
	lastFirst int64
	lastUnit  uint64
	lastKind  Kind
}

func (d *decoder) decode(dst []Sample, body []byte, limit int) ([]Sample, error) {
	if len(body) == 0 {
		return dst, fmt.Errorf("%w: empty", ErrMalformed)
	}
	if body[0] > columnsVersion {
		return dst, fmt.Errorf("version %d, this reader knows %d: %w", body[0], columnsVersion, ErrNewerFormat)
	}
	if body[0] != columnsVersion {
		return dst, fmt.Errorf("%w: version %d", ErrMalformed, body[0])
	}
	if len(body) > MaxPayload {
		return dst, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), MaxPayload)
	}
	if d.fresh == nil {
		d.fresh = newModels()
	}
	*d = decoder{fresh: d.fresh, models: *d.fresh, r: newRangeReader(body[1:]), limit: limit, lastTimes: -1, lastKind: KindInt,
		values: d.values, kinds: d.kinds, entries: d.entries, keys: d.keys, times: d.times[:0], starts: append(d.starts[:0], 0), bases: d.bases[:0]}
	if d.entries != nil {
		d.entries.times = -1
	}
	defer func() { d.r.b, d.r.plains = nil, nil }() // they are the caller's
	columns := d.r.getWide(&d.models.columns)
	if columns > uint64(limit) {
		return dst, fmt.Errorf("%w: %d columns in %d bytes", ErrMalformed, columns, len(body))
	}
	have, id := len(dst), uint64(0)
	for column := range columns {
		id += d.r.get(&d.models.id) + 1
		if d.r.bad || id == 0 || id > math.MaxUint32 {
			return dst, fmt.Errorf("column %d: %w: signal id %d", column, ErrMalformed, id)
		}
		times, err := d.getTimes()
		if err != nil {
			return dst, fmt.Errorf("column %d, signal %d: %w", column, id, err)
		}
		if len(dst)-have+len(times) > limit {
			return dst, fmt.Errorf("column %d, signal %d: %w: more than %d samples", column, id, ErrTooLarge, limit)
		}
		if dst, err = d.getColumn(dst, uint32(id), times); err != nil {
			return dst, fmt.Errorf("column %d, signal %d: %w", column, id, err)
		}
	}
	if !d.r.atEnd() {
		return dst, fmt.Errorf("%w: bytes after the last column, or too few for it", ErrMalformed)
	}
	return dst, nil
}

// getTimes reads which times a column has. They stay the decoder's.
func (d *decoder) getTimes() ([]uint64, error) {
	reference := d.r.get(&d.models.times)
	if reference == timesBase {
		if err := d.getNewTimes(); err != nil {
			return nil, err
		}
		reference = d.r.get(&d.models.times)
	}
	known := len(d.starts) - 1
	switch {
	case reference == timesNew || reference == timesPart:
		var err error
		if reference == timesNew {
			err = d.getNewTimes()
		} else {
			err = d.getPart()
		}
		if err != nil {
			return nil, err
		}
		d.lastTimes = known
	case reference == timesSame && d.lastTimes >= 0:
	case reference >= timesBack && reference-timesBack < uint64(known):
		d.lastTimes = int(reference - timesBack)
	default:
		return nil, fmt.Errorf("%w: time column %d of %d", ErrMalformed, reference, known)
	}
	return d.timesOf(d.lastTimes), nil
}

func (d *decoder) timesOf(number int) []uint64 { return d.times[d.starts[number]:d.starts[number+1]] }

// room says whether so many more times may come: bases may double those that samples have.
func (d *decoder) room(n uint64) error {
	if n == 0 || n > uint64(d.limit) || len(d.times)+int(n) > 2*d.limit {
		return fmt.Errorf("%w: %d times, at most %d", ErrTooLarge, n, d.limit)
	}
	return nil
}

// getNewTimes reads a time column that is no part of another.
func (d *decoder) getNewTimes() error {
	n := d.r.getWide(&d.models.count) + 1
	if err := d.room(n); err != nil {
		return err
	}
	unit := d.r.get(&d.models.unit)
	if unit > maxUnit {
		return fmt.Errorf("%w: times in unit +%d", ErrMalformed, unit)
	}
	unit = (unit + d.lastUnit) % (maxUnit + 1)
	nanoseconds := powerOfTen(uint(unit))
	begin := len(d.times)
	d.times = getIntegers(&d.r, &d.models.at, d.times, int(n), uint64(d.lastFirst/nanoseconds), true)
	if d.r.bad {
		return fmt.Errorf("times: %w", ErrMalformed)
	}
	for i, t := range d.times[begin:] {
		if int64(t) > math.MaxInt64/nanoseconds || int64(t) < math.MinInt64/nanoseconds {
			return fmt.Errorf("%w: time %d × %d ns leaves 64 bits", ErrMalformed, int64(t), nanoseconds)
		}
		d.times[begin+i] = t * uint64(nanoseconds)
	}
	d.lastFirst, d.lastUnit = int64(d.times[begin]), unit
	d.bases = append(d.bases, len(d.starts)-1)
	d.starts = append(d.starts, len(d.times))
	return nil
}

// getPart reads a time column that is a part of a base.
func (d *decoder) getPart() error {
	back := d.r.get(&d.models.base)
	if back >= uint64(len(d.bases)) {
		return fmt.Errorf("%w: part of base −%d of %d", ErrMalformed, back, len(d.bases))
	}
	base := d.timesOf(d.bases[len(d.bases)-1-int(back)])
	n := d.r.getWide(&d.models.part) + 1
	if err := d.room(n); err != nil {
		return err
	}
	if n > uint64(len(base)) {
		return fmt.Errorf("%w: %d times as a part of %d", ErrMalformed, n, len(base))
	}
	d.values = d.r.getScaled(&d.models.gaps, d.values[:0], int(n), meanGap(int(n), len(base)))
	for _, gap := range d.values {
		if gap >= uint64(len(base)) {
			d.r.bad = true
			break
		}
		d.times = append(d.times, base[gap])
		base = base[gap+1:]
	}
	if d.r.bad {
		return fmt.Errorf("part of %d times: %w", n, ErrMalformed)
	}
	d.starts = append(d.starts, len(d.times))
	return nil
}

// getColumn appends the samples of one signal.
func (d *decoder) getColumn(dst []Sample, id uint32, times []uint64) ([]Sample, error) {
	number := d.r.get(&d.models.kind)
	if number >= uint64(kindMixed) || d.r.bad {
		return dst, fmt.Errorf("%w: kind +%d", ErrMalformed, number)
	}
	kind := 1 + (d.lastKind-1+Kind(number))%kindMixed
	d.lastKind = kind
	if kind != kindMixed {
		begin := len(dst)
		var err error
		if kind == KindInt || kind == KindUint {
			dst, err = d.getWhole(dst, times)
		} else {
			dst, err = d.getValues(dst, len(times), kind)
		}
		if err != nil {
			return dst, err
		}
		for i, t := range times {
			s := &dst[begin+i]
			s.Signal, s.Kind, s.Time = id, kind, int64(t)
		}
		return dst, nil
	}
	d.kinds = getIntegers(&d.r, &d.models.values, d.kinds[:0], len(times), 0, false)
	var counts [kindMixed]int
	for _, k := range d.kinds {
		if k < uint64(KindInt) || k > uint64(KindString) {
			return dst, fmt.Errorf("%w: kind %d among mixed ones", ErrMalformed, k)
		}
		counts[k]++
	}
	if d.r.bad {
		return dst, fmt.Errorf("kinds: %w", ErrMalformed)
	}
	var split [kindMixed][]Sample
	for k := KindInt; k <= KindString; k++ {
		if counts[k] == 0 {
			continue
		}
		var err error
		if split[k], err = d.getValues(nil, counts[k], k); err != nil {
			return dst, err
		}
	}
	for i, k := range d.kinds {
		s := split[k][0]
		split[k] = split[k][1:]
		s.Signal, s.Kind, s.Time = id, Kind(k), int64(times[i])
		dst = append(dst, s)
	}
	return dst, nil
}

// getValues appends n samples that have nothing but a value.
func (d *decoder) getValues(dst []Sample, n int, kind Kind) ([]Sample, error) {
	decimals, zeros := uint64(0), uint64(0)
	var dictionary []string
	switch kind {
	case KindFloat:
		if decimals = d.r.get(&d.models.decimals); decimals == floatPatterns {
			zeros = d.r.get(&d.models.zeros)
		} else if decimals > maxDecimals {
			return dst, fmt.Errorf("%w: %d decimals", ErrMalformed, decimals)
		}
		if zeros > maxZeros {
			return dst, fmt.Errorf("%w: %d zeros behind a pattern", ErrMalformed, zeros)
		}
	case KindString:
		var err error
		if dictionary, err = d.getDictionary(n); err != nil {
			return dst, err
		}
	}
	d.values = getIntegers(&d.r, &d.models.values, d.values[:0], n, 0, false)
	if d.r.bad {
		return dst, fmt.Errorf("values: %w", ErrMalformed)
	}
	dst = slices.Grow(dst, n)
	switch {
	case kind == KindString:
		for _, at := range d.values {
			if at >= uint64(len(dictionary)) {
				return dst, fmt.Errorf("%w: text %d of %d", ErrMalformed, at, len(dictionary))
			}
			dst = append(dst, Sample{Str: dictionary[at]})
		}
	case kind == KindFloat && decimals != floatPatterns:
		power := float64(powerOfTen(uint(decimals)))
		for _, m := range d.values {
			dst = append(dst, Sample{Bits: math.Float64bits(unscaledFloat(int64(m), power))})
		}
	default:
		for _, v := range d.values {
			dst = append(dst, Sample{Bits: v << zeros})
		}
	}
	return dst, nil
}

// getDictionary reads the texts of a column of n values.
func (d *decoder) getDictionary(n int) ([]string, error) {
	count := d.r.getWide(&d.models.texts) + 1
	if count == 0 || count > uint64(n) {
		return nil, fmt.Errorf("%w: %d texts for %d values", ErrMalformed, count, n)
	}
	dictionary := make([]string, 0, count)
	for range count {
		length := d.r.getWide(&d.models.text)
		if length > uint64(d.r.left()) {
			return nil, fmt.Errorf("%w: text of %d bytes with %d bytes left", ErrMalformed, length, d.r.left())
		}
		text := make([]byte, length)
		for i := range text {
			text[i] = byte(d.r.plain(8))
		}
		dictionary = append(dictionary, string(text))
	}
	return dictionary, nil
}
