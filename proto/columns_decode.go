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
	limit  int // samples
	values []uint64
	kinds  []uint64

	times     []uint64 // all time columns in a row, ns
	starts    []int    // where each begins, and the last ends
	lastTimes int
}

func (d *decoder) decode(dst []Sample, body []byte, limit int) ([]Sample, error) {
	if len(body) == 0 {
		return dst, fmt.Errorf("%w: empty", ErrMalformed)
	}
	if body[0] != columnsVersion {
		return dst, fmt.Errorf("%w: version %d, not %d", ErrMalformed, body[0], columnsVersion)
	}
	if len(body) > MaxPayload {
		return dst, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), MaxPayload)
	}
	*d = decoder{r: newRangeReader(body[1:]), limit: limit, lastTimes: -1,
		values: d.values, kinds: d.kinds, times: d.times[:0], starts: append(d.starts[:0], 0)}
	defer func() { d.r.b = nil }() // it is the caller's
	columns := d.r.get(&d.models.columns)
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
	known := len(d.starts) - 1
	switch {
	case reference == timesNew:
		if err := d.getNewTimes(); err != nil {
			return nil, err
		}
		d.lastTimes = known
	case reference == timesSame && d.lastTimes >= 0:
	case reference >= timesBack && reference-timesBack < uint64(known):
		d.lastTimes = int(reference - timesBack)
	default:
		return nil, fmt.Errorf("%w: time column %d of %d", ErrMalformed, reference, known)
	}
	return d.times[d.starts[d.lastTimes]:d.starts[d.lastTimes+1]], nil
}

// getNewTimes reads a time column.
func (d *decoder) getNewTimes() error {
	n := d.r.get(&d.models.count) + 1
	if n == 0 || n > uint64(d.limit) || len(d.times)+int(n) > d.limit {
		return fmt.Errorf("%w: %d times, at most %d", ErrTooLarge, n, d.limit)
	}
	unit := d.r.get(&d.models.unit)
	if unit > maxUnit {
		return fmt.Errorf("%w: times in 10^%d ns", ErrMalformed, unit)
	}
	nanoseconds := powerOfTen(uint(unit))
	origin := int64(0)
	if begin := len(d.starts) - 2; begin >= 0 {
		origin = int64(d.times[d.starts[begin]]) / nanoseconds
	}
	begin := len(d.times)
	d.times = getIntegers(&d.r, &d.models.at, d.times, int(n), uint64(origin), true)
	if d.r.bad {
		return fmt.Errorf("times: %w", ErrMalformed)
	}
	for i, t := range d.times[begin:] {
		if int64(t) > math.MaxInt64/nanoseconds || int64(t) < math.MinInt64/nanoseconds {
			return fmt.Errorf("%w: time %d × %d ns leaves 64 bits", ErrMalformed, int64(t), nanoseconds)
		}
		d.times[begin+i] = t * uint64(nanoseconds)
	}
	d.starts = append(d.starts, len(d.times))
	return nil
}

// getColumn appends the samples of one signal.
func (d *decoder) getColumn(dst []Sample, id uint32, times []uint64) ([]Sample, error) {
	number := d.r.get(&d.models.kind)
	if number < uint64(KindInt) || number > uint64(kindMixed) || d.r.bad {
		return dst, fmt.Errorf("%w: kind %d", ErrMalformed, number)
	}
	kind := Kind(number)
	if kind != kindMixed {
		begin := len(dst)
		var err error
		if dst, err = d.getValues(dst, len(times), kind); err != nil {
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
	count := d.r.get(&d.models.texts) + 1
	if count == 0 || count > uint64(n) {
		return nil, fmt.Errorf("%w: %d texts for %d values", ErrMalformed, count, n)
	}
	dictionary := make([]string, 0, count)
	for range count {
		length := d.r.get(&d.models.text)
		if length > uint64(d.r.left()+textSlack) {
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
