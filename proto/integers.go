package telemetrypb

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

// residuals puts the zigzag residuals of values into dst, which is as long, from index order on.
func (s *shape) residuals(dst, values []uint64) {
	t, i := s.begin(values), int(s.order)
	last := values[i-1]
	for ; i < len(values) && i < s.settled(); i++ {
		by := values[i] - last
		last = values[i]
		p := s.guess(&t, s.keepEarly(i))
		dst[i] = zigzag(by - rounded(p))
		t.take(by, p)
	}
	// The rest is guess and take once more, each order by itself: the choice of a shape spends its time here.
	dst, values = dst[i:len(values)], values[i:]
	keep := s.keepMost()
	keep2 := keep * keep >> keepBits
	switch s.order {
	case 1:
		drift := int64(s.drift) << errorBits
		for i, v := range values {
			p := drift - t.e1*keep>>keepBits
			by := v - last
			last = v
			dst[i] = zigzag(by - rounded(p))
			t.e1 = int64(by)<<errorBits - p
		}
	case 2:
		for i, v := range values {
			p := t.d1<<errorBits + (t.e2*keep2-2*t.e1*keep)>>keepBits
			by := v - last
			last = v
			dst[i] = zigzag(by - rounded(p))
			t.d1 = int64(by)
			t.e1, t.e2 = int64(by)<<errorBits-p, t.e1
		}
	case 3:
		for i, v := range values {
			p := s.guess(&t, keep)
			by := v - last
			last = v
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
	order, memory, first, drift, bend number
	slope, turn                       number // v[1] − v[0]; by how much v[2] − v[1] is more
	residuals                         residualModels
}

// integerCoder writes integer columns; it holds only memory for residuals.
type integerCoder struct {
	trial, best []uint64
	shape       shape // of least cost so far, whose residuals are in best
	least       int
}

// put writes a column of at least one value. The first value is written as its distance from origin.
func (c *integerCoder) put(w *rangeWriter, m *integerModels, values []uint64, origin uint64, times bool) {
	s := c.choose(values, times)
	w.put(&m.order, uint64(s.order))
	w.putSigned(&m.first, values[0]-origin)
	if s.order == 0 {
		return
	}
	w.put(&m.memory, uint64(s.memory))
	switch s.order {
	case 1:
		w.putSigned(&m.drift, s.drift)
	case 2:
		w.putSigned(&m.slope, values[1]-values[0])
	case 3:
		w.put(&m.bend, uint64(s.bend))
		w.putSigned(&m.slope, values[1]-values[0])
		w.putSigned(&m.turn, values[2]-2*values[1]+values[0])
	}
	w.putResiduals(&m.residuals, c.best[s.order:])
}

// getIntegers appends a column of n values to dst, growing it only as far as the bytes go.
func getIntegers(r *rangeReader, m *integerModels, dst []uint64, n int, origin uint64, times bool) []uint64 {
	order := r.get(&m.order)
	if order >= orders || order > uint64(n) || order == 0 && times && n > 1 {
		r.bad = true
		return dst
	}
	s := shape{order: uint(order)}
	first := r.getSigned(&m.first) + origin
	begin := len(dst)
	if s.order == 0 {
		for range n {
			dst = append(dst, first)
		}
		return dst
	}
	memory := r.get(&m.memory)
	if memory >= memories {
		r.bad = true
		return dst
	}
	s.memory = uint(memory)
	dst = append(dst, first)
	switch s.order {
	case 1:
		s.drift = r.getSigned(&m.drift)
	case 2:
		dst = append(dst, first+r.getSigned(&m.slope))
	case 3:
		bend := r.get(&m.bend)
		if bend > bendMost {
			r.bad = true
			return dst
		}
		s.bend = int64(bend)
		slope := r.getSigned(&m.slope)
		dst = append(dst, first+slope, first+2*slope+r.getSigned(&m.turn))
	}
	dst = r.getResiduals(&m.residuals, dst, n-int(s.order))
	if !r.bad {
		s.restore(dst[begin:])
	}
	return dst
}
