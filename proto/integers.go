package telemetrypb

import (
	"math/bits"
	"slices"
)

// An integer column is a predictor, its parameters and the residuals, all modulo 2^64, so that signed, unsigned and
// bit patterns are coded alike and nothing overflows. FORMAT.md, "Integer column".

// predictor is the 3-bit code of how a column is predicted.
type predictor uint

const (
	predictConstant predictor = iota // every value is the first
	predictOffset                    // one level
	predictDelta1                    // the value before
	predictDelta2                    // the line through the two before
	predictDelta3                    // the parabola through the three before
	predictLine                      // one line for the whole column
	predictStep                      // the value before and a fixed step
)

// Orders of the exponential Golomb codes of a column's parameters.
const (
	orderFirst  = 7
	orderWarmup = 5
	orderSlope  = 12
	orderStep   = 7
)

// Residual blocks.
const (
	blockLen   = 64      // residuals of one Rice parameter
	riceBits   = 6       // of the parameter itself
	riceMax    = 60      // largest parameter
	riceZeros  = 63      // in its place: every residual of the block is zero
	sumCap     = 1 << 50 // counts at most so much towards a block's sum, which then cannot overflow
	riceEscape = 24      // a quotient of this says: verbatim, 6 bits of length less one, then the bits
)

// shape is a predictor with its parameters.
type shape struct {
	kind  predictor
	first uint64 // value 0; of an offset or a line, its level at index 0
	slope uint64 // line: per sample, with shift fraction bits; step: the step
	shift uint
}

// warmup is how many values stand outside the residuals.
func (s *shape) warmup() int {
	switch s.kind {
	case predictOffset, predictLine:
		return 0
	case predictDelta2:
		return 2
	case predictDelta3:
		return 3
	}
	return 1
}

// residuals fills dst with the zigzag residuals of values, those after the warm-up.
func (s *shape) residuals(dst, values []uint64) []uint64 {
	dst = dst[:0]
	skip := min(s.warmup(), len(values))
	switch s.kind {
	case predictOffset:
		for _, v := range values {
			dst = append(dst, zigzag(v-s.first))
		}
	case predictDelta1, predictStep:
		for i := skip; i < len(values); i++ {
			dst = append(dst, zigzag(values[i]-values[i-1]-s.slope))
		}
	case predictDelta2:
		for i := skip; i < len(values); i++ {
			dst = append(dst, zigzag(values[i]-2*values[i-1]+values[i-2]))
		}
	case predictDelta3:
		for i := skip; i < len(values); i++ {
			dst = append(dst, zigzag(values[i]-3*values[i-1]+3*values[i-2]-values[i-3]))
		}
	case predictLine:
		rise := uint64(0)
		for _, v := range values {
			dst = append(dst, zigzag(v-s.first-uint64(int64(rise)>>s.shift)))
			rise += s.slope
		}
	}
	return dst
}

// restore turns residuals into values, in place; the warm-up stands there already.
func (s *shape) restore(values []uint64) {
	i := min(s.warmup(), len(values))
	switch s.kind {
	case predictConstant:
		for ; i < len(values); i++ {
			values[i] = s.first
		}
	case predictOffset:
		for ; i < len(values); i++ {
			values[i] = unzigzag(values[i]) + s.first
		}
	case predictDelta1, predictStep:
		for ; i < len(values); i++ {
			values[i] = unzigzag(values[i]) + values[i-1] + s.slope
		}
	case predictDelta2:
		for ; i < len(values); i++ {
			values[i] = unzigzag(values[i]) + 2*values[i-1] - values[i-2]
		}
	case predictDelta3:
		for ; i < len(values); i++ {
			values[i] = unzigzag(values[i]) + 3*values[i-1] - 3*values[i-2] + values[i-3]
		}
	case predictLine:
		rise := uint64(0)
		for ; i < len(values); i++ {
			values[i] = unzigzag(values[i]) + s.first + uint64(int64(rise)>>s.shift)
			rise += s.slope
		}
	}
}

// integerCoder writes integer columns; it holds only memory for residuals.
type integerCoder struct {
	trial []uint64
}

// put writes a column of at least one value. The first value is written as its distance from origin. A column of
// times is never constant, so that every sample that a body claims costs it something.
func (c *integerCoder) put(w *bitWriter, values []uint64, origin uint64, times bool) {
	s := c.choose(values, times)
	w.put(uint64(s.kind), 3)
	w.putSigned(s.first-origin, orderFirst)
	switch s.kind {
	case predictConstant:
		return
	case predictLine:
		w.put(uint64(s.shift), 5)
		w.putSigned(s.slope, orderSlope)
	case predictStep:
		w.putSigned(s.slope, orderStep)
	case predictDelta2, predictDelta3:
		for i := 1; i < s.warmup() && i < len(values); i++ {
			w.putSigned(values[i]-values[i-1], orderWarmup)
		}
	}
	c.trial = s.residuals(c.trial, values)
	putResiduals(w, c.trial)
}

// choose finds the predictor that costs least, by integers alone: every machine writes the same bytes.
func (c *integerCoder) choose(values []uint64, times bool) shape {
	first := values[0]
	if len(values) == 1 || !times && !slices.ContainsFunc(values, func(v uint64) bool { return v != first }) {
		return shape{kind: predictConstant, first: first}
	}
	best := shape{kind: predictDelta1, first: first}
	c.trial = best.residuals(c.trial, values)
	least := estimate(c.trial)
	try := func(s shape, head int) {
		c.trial = s.residuals(c.trial, values)
		if cost := estimate(c.trial) + head; cost < least {
			best, least = s, cost
		}
	}
	if len(values) > 2 {
		try(shape{kind: predictDelta2, first: first}, 2*orderWarmup)
	}
	if len(values) > 3 {
		try(shape{kind: predictDelta3, first: first}, 4*orderWarmup)
	}
	try(level(values), 0)
	if len(values) > 4 {
		step := medianStep(values)
		try(shape{kind: predictStep, first: first, slope: step}, 2+bits.Len64(zigzag(step)))
		if line, ok := fitLine(values); ok {
			try(line, 9+bits.Len64(zigzag(line.slope)))
		}
	}
	return best
}

// level is the offset predictor at the mean.
func level(values []uint64) shape {
	sum := int64(0) // wraps for columns that span 64 bits; the level is then poor, not wrong
	for _, v := range values {
		sum += int64(v - values[0])
	}
	return shape{kind: predictOffset, first: values[0] + uint64(middle(sum, int64(len(values))))}
}

// fitLine is a line of the slope between the ends, at the mean height. Columns that span more than 2^40 have none.
func fitLine(values []uint64) (shape, bool) {
	n := int64(len(values))
	rise := int64(values[n-1] - values[0])
	if rise <= -1<<40 || rise >= 1<<40 {
		return shape{}, false
	}
	shift := min(uint(bits.Len64(uint64(n))), 21) // half a unit of error over the column
	s := shape{kind: predictLine, first: values[0], slope: uint64((rise << shift) / (n - 1)), shift: shift}
	sum, climbed := int64(0), uint64(0)
	for _, v := range values {
		sum += int64(v-s.first) - int64(climbed)>>shift
		climbed += s.slope
	}
	s.first += uint64(middle(sum, n))
	return s, true
}

// middle is the mean, rounded up from 3/8: a residual of −1 is cheaper than one of +1.
func middle(sum, n int64) int64 {
	sum += n * 5 / 8
	mean := sum / n
	if sum%n < 0 {
		mean--
	}
	return mean
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

// estimate is about how many bits putResiduals needs, from the sum of each block alone.
func estimate(residuals []uint64) int {
	cost := 0
	for len(residuals) > 0 {
		block := residuals[:min(blockLen, len(residuals))]
		residuals = residuals[len(block):]
		sum := uint64(0)
		for _, u := range block {
			sum += min(u, sumCap)
		}
		k := riceParameter(sum, len(block))
		cost += 1 + len(block)*(int(k)+1) + int(sum>>k)
	}
	return cost
}

// riceParameter is the parameter that suits residuals of this sum: about log2 of 0.7 times the mean.
func riceParameter(sum uint64, n int) uint {
	return uint(max(0, min(bits.Len64(sum*45/64/uint64(n)), riceMax+1)-1)) & 63
}

// riceCost is what a block costs with parameter k, exactly.
func riceCost(block []uint64, k uint) int {
	cost := len(block) * (1 + int(k))
	for _, u := range block {
		if q := u >> k; q < riceEscape {
			cost += int(q)
		} else {
			cost += riceEscape + 6 + bits.Len64(u) - int(k)
		}
	}
	return cost
}

// putResiduals writes residuals in blocks, each with the parameter that costs least.
func putResiduals(w *bitWriter, residuals []uint64) {
	last := uint(0)
	for begin := 0; begin < len(residuals); begin += blockLen {
		block := residuals[begin:min(begin+blockLen, len(residuals))]
		k := blockParameter(block)
		if begin == 0 {
			w.put(uint64(k), riceBits)
		} else {
			if k != last && k != riceZeros && last != riceZeros && riceCost(block, last) <= riceCost(block, k)+riceBits {
				k = last
			}
			w.putBit(k == last)
			if k != last {
				w.put(uint64(k), riceBits)
			}
		}
		last = k
		if k == riceZeros {
			continue
		}
		for _, u := range block {
			q := uint(u >> k)
			if u>>k >= riceEscape {
				n := uint(bits.Len64(u))
				w.put(1, riceEscape+1)
				w.put(uint64(n-1), 6)
				w.put(u, n)
				continue
			}
			w.put(1, q+1)
			w.put(u&(1<<k-1), k)
		}
	}
}

// blockParameter is the Rice parameter of least cost near the one that the sum suggests.
func blockParameter(block []uint64) uint {
	sum := uint64(0)
	for _, u := range block {
		sum += min(u, sumCap)
	}
	if sum == 0 {
		return riceZeros
	}
	k := riceParameter(sum, len(block))
	cost := riceCost(block, k)
	// Few large residuals among small ones are escaped; many are not, and the sum may say too little of them.
	if wide := uint(max(0, min(bits.Len64(slices.Max(block))-3, riceMax))); wide > k+riceBits && riceCost(block, wide) < cost {
		k, cost = wide, riceCost(block, wide)
	}
	for k > 0 {
		lower := riceCost(block, k-1)
		if lower >= cost {
			break
		}
		k, cost = k-1, lower
	}
	for k < riceMax {
		higher := riceCost(block, k+1)
		if higher >= cost {
			break
		}
		k, cost = k+1, higher
	}
	return k
}

// getIntegers appends a column of n values to dst, growing it only as far as the bits go.
func getIntegers(r *bitReader, dst []uint64, n int, origin uint64, times bool) []uint64 {
	s := shape{kind: predictor(r.get(3)), first: r.getSigned(orderFirst) + origin}
	if s.kind > predictStep || s.kind == predictConstant && times && n > 1 {
		r.bad = true
		return dst
	}
	begin := len(dst)
	switch s.kind {
	case predictLine:
		s.shift = uint(r.get(5))
		s.slope = r.getSigned(orderSlope)
	case predictStep:
		s.slope = r.getSigned(orderStep)
	case predictConstant:
		dst = slices.Grow(dst, n)[:begin+n]
		dst[begin] = s.first
		s.restore(dst[begin:])
		return dst
	}
	if s.warmup() > 0 {
		dst = append(dst, s.first)
	}
	for i := 1; i < s.warmup() && i < n; i++ {
		dst = append(dst, dst[len(dst)-1]+r.getSigned(orderWarmup))
	}
	dst = getResiduals(r, dst, n-(len(dst)-begin))
	if r.bad {
		return dst
	}
	s.restore(dst[begin:])
	return dst
}

// getResiduals appends n residuals, block by block.
func getResiduals(r *bitReader, dst []uint64, n int) []uint64 {
	k := uint(0)
	for done := 0; done < n; done += blockLen {
		if done == 0 || !r.getBit() {
			k = uint(r.get(riceBits))
		}
		if r.bad || k > riceMax && k != riceZeros {
			r.bad = true
			return dst
		}
		count := min(blockLen, n-done)
		dst = slices.Grow(dst, count)
		if k == riceZeros {
			begin := len(dst)
			dst = dst[:begin+count]
			clear(dst[begin:])
			continue
		}
		for range count {
			dst = append(dst, r.getRice(k))
		}
		if r.bad {
			return dst
		}
	}
	return dst
}

// getRice reads one residual.
func (r *bitReader) getRice(k uint) uint64 {
	q := uint(bits.LeadingZeros64(r.peek() | 1))
	switch {
	case q < riceEscape:
		r.skip(q + 1)
		return uint64(q)<<k | r.get(k)
	case q == riceEscape:
		r.skip(q + 1)
		return r.get(uint(r.get(6)) + 1)
	}
	r.bad = true
	return 0
}
