package telemetrypb

import "slices"

// An integer column is a predictor, its parameters and the residuals, all modulo 2^64, so that signed, unsigned and
// bit patterns are coded alike and nothing overflows. FORMAT.md, "Integer column".

// A shape is how a column is predicted: by its order, that of the difference that is taken for noise.
//
//	0  all values are the first
//	1  a level, which wanders: the value before and a drift
//	2  a line, whose slope wanders
//	3  an oscillation about a level; at its slowest a parabola
//
// Memory says how long the past is believed: not at all makes plain differences of it, long averages noise away.
type shape struct {
	order  uint
	memory uint   // 0…memories−1
	drift  uint64 // order 1: by which each value is more than the one before
	bend   int64  // order 3: 2 − 2 cos(angle between two values), in 1/2^bendBits
}

const (
	orders    = 4
	memories  = 8
	errorBits = 8  // fraction of a predictor's error
	keepBits  = 16 // fraction of what is kept of it
	bendBits  = 14
	bendMost  = 4 << bendBits
)

// keepMost is how much of the error at the value before is taken for noise, in the end: 0, 1/2, 3/4, 7/8…
func (s *shape) keepMost() int64 { return 1<<keepBits - 1<<keepBits>>s.memory }

// settled is the index from which on that holds. Before it, at value i, 1 − order/i is kept, as a fit through all
// values would.
func (s *shape) settled() int { return int(s.order) << s.memory }

func (s *shape) keepEarly(i int) int64 {
	return int64(1<<keepBits - uint32(s.order)<<keepBits/uint32(i))
}

// trail is what a prediction is made from: the latest differences and the errors of their predictions, in
// 1/2^errorBits. d1 and e1 are the latest.
type trail struct {
	d1, d2, e1, e2, e3 int64
}

// guess predicts the next difference; keep is the share of noise.
func (s *shape) guess(t *trail, keep int64) int64 {
	switch s.order {
	case 1:
		return int64(s.drift)<<errorBits - t.e1*keep>>keepBits
	case 2:
		keep2 := keep * keep >> keepBits
		return t.d1<<errorBits + (t.e2*keep2-2*t.e1*keep)>>keepBits
	}
	turn := 2<<bendBits - s.bend
	keep2 := keep * keep >> keepBits
	keep3 := keep2 * keep >> keepBits
	gain := turn + 1<<bendBits
	return turn*t.d1>>(bendBits-errorBits) - t.d2<<errorBits +
		(t.e2*(gain*keep2>>bendBits)-t.e1*(gain*keep>>bendBits)-t.e3*keep3)>>keepBits
}

// take enters the next difference, of which p was predicted.
func (t *trail) take(by uint64, p int64) {
	t.d1, t.d2 = int64(by), t.d1
	t.e1, t.e2, t.e3 = int64(by)<<errorBits-p, t.e1, t.e2
}

// rounded is a prediction as a whole number.
func rounded(p int64) uint64 { return uint64((p + 1<<(errorBits-1)) >> errorBits) }

// begin is the trail behind the first values, as many as the order.
func (s *shape) begin(values []uint64) (t trail) {
	if s.order > 1 {
		t.d1 = int64(values[s.order-1] - values[s.order-2])
	}
	if s.order > 2 {
		t.d2 = int64(values[1] - values[0])
	}
	return t
}

// residuals puts the zigzag residuals of values into dst, which is as long, from index order on. It is guess and take,
// once more for orders 1 and 2 by themselves: the choice of a shape spends its time here.
func (s *shape) residuals(dst, values []uint64) {
	dst = dst[:len(values)]
	t, i := s.begin(values), int(s.order)
	last := values[i-1]
	settled := min(len(values), s.settled())
	keep := s.keepMost()
	switch s.order {
	case 1:
		drift, e := int64(s.drift)<<errorBits, int64(0)
		for ; i < settled; i++ {
			p := drift - e*s.keepEarly(i)>>keepBits
			by := values[i] - last
			last = values[i]
			dst[i] = zigzag(by - rounded(p))
			e = int64(by)<<errorBits - p
		}
		for ; i < len(values); i++ {
			p := drift - e*keep>>keepBits
			by := values[i] - last
			last = values[i]
			dst[i] = zigzag(by - rounded(p))
			e = int64(by)<<errorBits - p
		}
	case 2:
		d, e1, e2 := t.d1, int64(0), int64(0)
		for ; i < len(values); i++ {
			k := keep
			if i < settled {
				k = s.keepEarly(i)
			}
			p := d<<errorBits + (e2*(k*k>>keepBits)-2*e1*k)>>keepBits
			by := values[i] - last
			last = values[i]
			dst[i] = zigzag(by - rounded(p))
			d = int64(by)
			e1, e2 = d<<errorBits-p, e1
		}
	default:
		for ; i < len(values); i++ {
			k := keep
			if i < settled {
				k = s.keepEarly(i)
			}
			p := s.guess(&t, k)
			by := values[i] - last
			last = values[i]
			dst[i] = zigzag(by - rounded(p))
			t.take(by, p)
		}
	}
}

// restore turns residuals into values, in place; the first values, as many as the order, stand there already.
func (s *shape) restore(values []uint64) {
	t, n, settled, keep := s.begin(values), int(s.order), s.settled(), s.keepMost()
	last := values[n-1]
	for i := n; i < len(values); i++ {
		k := keep
		if i < settled {
			k = s.keepEarly(i)
		}
		p := s.guess(&t, k)
		by := unzigzag(values[i]) + rounded(p)
		last += by
		values[i] = last
		t.take(by, p)
	}
}

// integerModels is what is known of integer columns of one kind.
type integerModels struct {
	last                 shape // of the column before, as far as it is told
	same                 number
	order, memory, drift number
	first, bend          length
	slope, turn          length // v[1] − v[0]; by how much v[2] − v[1] is more
	start                length // of the mean of the first residuals
	entries              length // of a dictionary
	keys, width          number // of a keyed column: whether it has keys, and its bytes
	scales               scaleModels
}

// integerCoder writes integer columns; it holds only memory for residuals.
type integerCoder struct {
	residuals []uint64
	shape     shape // of least cost so far
	least     int
}

// put writes a column of at least one value. The first value is written as its distance from origin.
func (c *integerCoder) put(w *rangeWriter, m *integerModels, values []uint64, origin uint64, times bool) {
	c.putShape(w, m, c.choose(values, times), values, origin)
}

// putShape writes a column as this shape has it.
func (c *integerCoder) putShape(w *rangeWriter, m *integerModels, s shape, values []uint64, origin uint64) {
	same := s.order == m.last.order && s.drift == 0 && (s.order == 0 || s.memory == m.last.memory)
	if same {
		w.put(&m.same, 0)
	} else {
		w.put(&m.same, 1)
		w.put(&m.order, uint64(s.order))
		m.last.order = s.order
	}
	w.putWide(&m.first, zigzag(values[0]-origin))
	if s.order == 0 {
		return
	}
	if !same {
		w.put(&m.memory, uint64(s.memory))
		m.last.memory = s.memory
	}
	switch s.order {
	case 1:
		if !same {
			w.putSigned(&m.drift, s.drift)
		}
	case 2:
		w.putWide(&m.slope, zigzag(values[1]-values[0]))
	case 3:
		w.putWide(&m.bend, uint64(s.bend))
		w.putWide(&m.slope, zigzag(values[1]-values[0]))
		w.putWide(&m.turn, zigzag(values[2]-2*values[1]+values[0]))
	}
	c.residuals = slices.Grow(c.residuals[:0], len(values))[:len(values)]
	s.residuals(c.residuals, values)
	w.putResiduals(m, c.residuals[s.order:])
}

// getIntegers appends a column of n values to dst, growing it only as far as the bytes go.
func getIntegers(r *rangeReader, m *integerModels, dst []uint64, n int, origin uint64, times bool) []uint64 {
	order, same := r.getOrder(m)
	return getShape(r, m, dst, n, origin, times, order, same)
}

// getOrder reads the order of a column, and whether its shape is that of the column before.
func (r *rangeReader) getOrder(m *integerModels) (order uint, same bool) {
	switch r.get(&m.same) {
	case 0:
		return m.last.order, true
	case 1:
		order = uint(min(r.get(&m.order), orderKeyed+1))
		if order < orders {
			m.last.order = order
		}
		return order, false
	}
	r.bad = true
	return 0, false
}

// getShape is getIntegers from behind the order on.
func getShape(r *rangeReader, m *integerModels, dst []uint64, n int, origin uint64, times bool, order uint, same bool) []uint64 {
	s := shape{order: order}
	if r.bad || s.order >= orders || s.order > uint(n) || s.order == 0 && times && n > 1 {
		r.bad = true
		return dst
	}
	first := unzigzag(r.getWide(&m.first)) + origin
	begin := len(dst)
	if s.order == 0 {
		for range n {
			dst = append(dst, first)
		}
		return dst
	}
	if !same {
		m.last.memory = uint(min(r.get(&m.memory), memories))
	}
	if s.memory = m.last.memory; s.memory >= memories {
		r.bad = true
		return dst
	}
	dst = append(dst, first)
	switch s.order {
	case 1:
		if !same {
			s.drift = r.getSigned(&m.drift)
		}
	case 2:
		dst = append(dst, first+unzigzag(r.getWide(&m.slope)))
	case 3:
		bend := r.getWide(&m.bend)
		if bend > bendMost {
			r.bad = true
			return dst
		}
		s.bend = int64(bend)
		slope := unzigzag(r.getWide(&m.slope))
		dst = append(dst, first+slope, first+2*slope+unzigzag(r.getWide(&m.turn)))
	}
	dst = r.getResiduals(m, dst, n-int(s.order))
	if !r.bad {
		s.restore(dst[begin:])
	}
	return dst
}
