package telemetrypb

import (
	"math"
	"math/bits"
	"slices"
)

const (
	fewValues   = 24  // for fewer a search costs more time than it saves
	mostWeighed = 256 // values, in the middle of a column, by which shapes are compared
)

// choose finds a predictor that costs little, by integers alone: every machine writes the same bytes.
func (c *integerCoder) choose(values []uint64, times bool) shape {
	n := len(values)
	if n == 1 {
		return shape{}
	}
	c.least = math.MaxInt
	window := values
	if n > mostWeighed {
		window = values[(n-mostWeighed)/2:][:mostWeighed]
	}
	if times {
		return c.chooseTimes(window)
	}
	d := walkDifferences(window, 0)
	if d.up+d.down == 0 && (len(window) == n || allEqual(values)) {
		return shape{}
	}
	values, n = window, len(window)
	if n < fewValues {
		if d.square2() < d.square1/2 {
			return shape{order: 2}
		}
		return shape{order: 1, memory: startMemory(-d.lag1, d.square1, 18, 18)}
	}
	c.climb(shape{order: 1, memory: startMemory(-d.lag1, d.square1, 13, 29)}, values)
	if most := (n - 1) * 3 / 4; d.up >= most || d.down >= most { // counters
		c.climb(shape{order: 1, memory: c.shape.memory, drift: medianStep(values)}, values)
	}
	// A line helps where differences follow one another, or where there is a way to go beneath the noise.
	if c.least > bitCost*n && (d.square2() < d.square1 || d.lag1 < -d.square1/4 && way(values) > 16*(d.square1/int64(n))) {
		c.climb(shape{order: 2, memory: startMemory(-d.lagOf2(), d.square2(), 19, 40)}, values)
	}
	if c.least > 2*bitCost*n {
		if bend, ok := fitBend(values); ok {
			c.try(shape{order: 3}, values)
			c.swing(shape{order: 3, memory: 1, bend: bend}, values)
		}
	}
	return c.shape
}

// chooseTimes chooses for times, which mostly come at a steady pace, each late by as much as it likes.
func (c *integerCoder) chooseTimes(values []uint64) shape {
	if len(values) < 4 {
		return shape{order: 1}
	}
	pace := medianStep(values)
	d := walkDifferences(values, int64(pace))
	steady := shape{order: 1, memory: startMemory(-d.lag1, d.square1, 16, 24), drift: pace}
	if len(values) < fewValues {
		return steady
	}
	c.climb(steady, values)
	if d.square2() < d.square1 {
		c.climb(shape{order: 2, memory: startMemory(-d.lagOf2(), d.square2(), 19, 40)}, values)
	}
	return c.shape
}

// try keeps a shape if it costs less than those before.
func (c *integerCoder) try(s shape, values []uint64) bool {
	cost := c.cost(&s, values)
	if cost >= c.least {
		return false
	}
	c.shape, c.least = s, cost
	return true
}

// climb tries a shape, then, if it is any good, longer or else shorter memories for as long as that helps.
func (c *integerCoder) climb(s shape, values []uint64) {
	longest := min(uint(bits.Len(uint(len(values)))), memories-1) // what is longer than the column makes no difference
	s.memory = min(s.memory, longest)
	cost := c.cost(&s, values)
	if cost < c.least {
		c.shape, c.least = s, cost
	} else if cost > c.least+c.least/4 {
		return
	}
	moved := false
	for s.memory++; s.memory <= longest && c.try(s, values); s.memory++ {
		moved = true
	}
	if moved || c.shape.memory == 0 {
		return
	}
	for s.memory -= 2; s.memory < memories && c.try(s, values); s.memory-- {
	}
}

// swing is climb for an oscillation: the longer the memory, the more exact the bend has to be.
func (c *integerCoder) swing(s shape, values []uint64) {
	if !c.try(s, values) {
		return
	}
	for step := int64(bendStep); step > 0; step /= 4 {
		for _, by := range []int64{-step, step} {
			s := c.shape
			if s.bend += by; s.bend >= 0 && s.bend <= bendMost && c.try(s, values) {
				break
			}
		}
		s := c.shape
		for s.memory++; s.memory < memories && c.try(s, values); s.memory++ {
		}
	}
}

// differences is what one walk over a column tells of it.
type differences struct {
	up, down            int   // differences above and below zero
	square1, lag1, lag2 int64 // sums of squares, of products with the one before, and with the one before that
	last                int64 // the square of the last
}

// walkDifferences takes large differences as if they were smaller: it is to tell noise from movement.
func walkDifferences(values []uint64, drift int64) (d differences) {
	const most = 1 << 20
	last, d1, d2 := values[0], int64(0), int64(0)
	for _, v := range values[1:] {
		by := int64(v-last) - drift
		last = v
		d.up += int(uint64(-by) >> 63)
		d.down += int(uint64(by) >> 63)
		if by > most {
			by = most
		} else if by < -most {
			by = -most
		}
		d.square1 += by * by
		d.lag1 += by * d1
		d.lag2 += by * d2
		d1, d2 = by, d1
	}
	d.last = d1 * d1
	return d
}

// square2 is the sum of the squares of second differences, but for ends.
func (d *differences) square2() int64 { return 2*(d.square1-d.lag1) - d.last }

// lagOf2 is the sum of products of second differences with the one before, but for ends.
func (d *differences) lagOf2() int64 { return 2*d.lag1 - d.square1 - d.lag2 }

// way is the sum of the squares of how far a column goes in each quarter.
func way(values []uint64) (sum int64) {
	const most = 1 << 28
	for i := range 4 {
		by := int64(values[(i+1)*(len(values)-1)/4] - values[i*(len(values)-1)/4])
		by = max(-most, min(by, most))
		sum += by * by
	}
	return sum
}

// startMemory goes by the correlation with the difference before, in 1/64: noise shows as a negative one.
func startMemory(lag, square int64, some, much int64) uint {
	large := max(0, bits.Len64(uint64(square))-50)
	switch lag, square = lag>>large<<6, square>>large; {
	case lag <= some*square:
		return 0
	case lag < much*square:
		return 1
	}
	return 4
}

// allEqual says whether a column is constant.
func allEqual(values []uint64) bool {
	for _, v := range values {
		if v != values[0] {
			return false
		}
	}
	return true
}

// medianStep is the median of up to nine differences spread over the column, which a gap or two do not move.
func medianStep(values []uint64) uint64 {
	const probes = 9
	var steps [probes]int64
	for i := range steps {
		at := 1 + i*(len(values)-2)/(probes-1)
		steps[i] = int64(values[at] - values[at-1])
	}
	slices.Sort(steps[:])
	return uint64(steps[probes/2])
}

const (
	bendLags     = 9
	bendSpan     = 512 // values looked at
	bendStep     = 16
	bendBitsKept = 22 // of a difference, its sign included
)

// fitBend is the bend of an oscillation, from how differences go with those before. Noise that is new with every value does
// not show at the lags from 3 on; false where nothing else does.
func fitBend(values []uint64) (bend int64, ok bool) {
	values = values[:min(len(values), bendSpan)]
	if len(values) < 4*bendLags {
		return 0, false
	}
	largest := uint64(0)
	for i := range values[1:] {
		largest |= zigzag(values[i+1] - values[i])
	}
	large := max(0, bits.Len64(largest)-bendBitsKept)
	var d [bendSpan]int32
	for i := range values[1:] {
		d[i] = int32(int64(values[i+1]-values[i]) >> large)
	}
	var r [bendLags]int64
	n := len(values) - 1
	for k := range r {
		sum := int64(0)
		for i, by := range d[bendLags-k : n-k] {
			sum += int64(by) * int64(d[bendLags+i])
		}
		r[k] = sum
	}
	shift := uint(max(0, bits.Len64(uint64(r[0]))-24))
	above, below := int64(0), int64(0)
	for k := range r {
		r[k] >>= shift
	}
	for k := 3; k+1 < bendLags; k++ {
		above += r[k] * (r[k-1] + r[k+1])
		below += r[k] * r[k]
	}
	if below < 1<<bendBits || below < r[0]*r[0]/4 {
		return 0, false
	}
	return max(0, min(2<<bendBits-above/(below>>bendBits), bendMost)), true
}

// cost is about how many bits a column takes.
func (c *integerCoder) cost(s *shape, values []uint64) int {
	if len(values) <= int(s.order) {
		return math.MaxInt
	}
	bits := 0
	switch s.order {
	case 1:
		bits = numberBits(s.drift)
	case 2:
		bits = numberBits(values[1] - values[0])
	case 3:
		bits = numberBits(uint64(s.bend)) + numberBits(values[1]-values[0]) + numberBits(values[2]-2*values[1]+values[0])
	}
	c.residuals = slices.Grow(c.residuals[:0], len(values))[:len(values)]
	s.residuals(c.residuals, values)
	return bits*bitCost + residualCost(c.residuals[s.order:])
}

// numberBits is about what a signed number takes.
func numberBits(v uint64) int { return 2 + bits.Len64(zigzag(v)) }

const (
	costBlock = 32
	bitCost   = 16 // costs are in 1/16 bit
)

// residualCost is about what residuals take: log2(1 + 3 × mean) bits each, within a few per cent of the entropy of a
// geometric distribution.
func residualCost(residuals []uint64) int {
	cost := 0
	for len(residuals) > 0 {
		block := residuals[:min(costBlock, len(residuals))]
		residuals = residuals[len(block):]
		sum, length := uint64(0), 0
		for _, u := range block {
			sum += min(u, 1<<meanMost-1)
			length += bits.Len64(u)
		}
		even := len(block) * (log2Cost(256+768*sum/uint64(len(block))) - log2Cost(256))
		cost += min(even, (2*length+len(block)/4)*bitCost) // a few far out among small ones cost no more than their lengths
	}
	return cost
}

// log2Cost is log2 of x, linear between powers of two, x ≥ bitCost.
func log2Cost(x uint64) int {
	n := bits.Len64(x)
	return n*bitCost + int(x>>(n-5)&(bitCost-1))
}
