package telemetrypb

import (
	"encoding/binary"
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
	dst = slices.Grow(dst[:0], len(values))[:len(values)]
	skip := min(s.warmup(), len(values))
	switch s.kind {
	case predictOffset:
		for i, v := range values {
			dst[i] = zigzag(v - s.first)
		}
	case predictDelta1, predictStep:
		dst = dst[:len(values)-1]
		last := values[0]
		for i, v := range values[1:] {
			dst[i] = zigzag(v - last - s.slope)
			last = v
		}
	case predictDelta2:
		dst = dst[:0]
		for i := skip; i < len(values); i++ {
			dst = append(dst, zigzag(values[i]-2*values[i-1]+values[i-2]))
		}
	case predictDelta3:
		dst = dst[:0]
		for i := skip; i < len(values); i++ {
			dst = append(dst, zigzag(values[i]-3*values[i-1]+3*values[i-2]-values[i-3]))
		}
	case predictLine:
		rise := uint64(0)
		for i, v := range values {
			dst[i] = zigzag(v - s.first - uint64(int64(rise)>>(s.shift&63)))
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
	tried shape // whose residuals they are, of the column at hand
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
	if s != c.tried {
		c.trial = s.residuals(c.trial, values)
	}
	putResiduals(w, c.trial)
}

// choose finds the predictor that costs least, by integers alone: every machine writes the same bytes. Delta, second
// difference and, but for times, offset are always weighed, the others where these say that it may be worth while.
func (c *integerCoder) choose(values []uint64, times bool) shape {
	first, n := values[0], len(values)
	if n == 1 || !times && allEqual(values) {
		return shape{kind: predictConstant, first: first}
	}
	c.tried = shape{}
	best := shape{kind: predictDelta1, first: first}
	d := weighDifferences(values)
	least := d.cost1
	if n > 2 && d.cost2 < least {
		best.kind, least = predictDelta2, d.cost2
	}
	if n > 3 && !times && d.cost2 < d.cost1+4 { // times are jitter about a step
		try := shape{kind: predictDelta3, first: first}
		if cost := c.cost(&try, values) + golombBits(d.first, orderWarmup) + golombBits(zigzag(values[2]-values[1]), orderWarmup); cost < least {
			best, least = try, cost
		}
	}
	if !times { // they go up
		flat := shape{kind: predictOffset, first: first + uint64(middle(int64(d.sum), int64(n)))}
		if cost := c.costOffset(&flat, values); cost < least {
			best, least = flat, cost
		}
	}
	if n <= 4 {
		return best
	}
	// A step shows in differences of one sign: counters, times.
	if most := (n - 1) * 3 / 4; d.up >= most || d.down >= most {
		step := medianStep(values)
		try := shape{kind: predictStep, first: first, slope: step}
		if cost := c.cost(&try, values) + golombBits(zigzag(step), orderStep); cost < least {
			best, least = try, cost
		}
	}
	// Noise about a line is wider by √6 in the second differences, 1.3 bits; more than that a line will not save, and it
	// costs its head.
	if d.cost2+18 < least+n*3/2 {
		if line, ok := fitLine(values); ok {
			if cost := c.cost(&line, values) + 5 + golombBits(zigzag(line.slope), orderSlope); cost < least {
				best = line
			}
		}
	}
	return best
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

// cost is about how many bits the residuals take.
func (c *integerCoder) cost(s *shape, values []uint64) int {
	c.tried, c.trial = *s, s.residuals(c.trial, values)
	return estimate(c.trial)
}

// costOffset is cost of an offset, which is asked for each column, in one walk.
func (c *integerCoder) costOffset(s *shape, values []uint64) (cost int) {
	c.tried, c.trial = *s, slices.Grow(c.trial[:0], len(values))[:len(values)]
	level := s.first
	for begin := 0; begin < len(values); begin += blockLen {
		block := values[begin:min(begin+blockLen, len(values))]
		trial, sum := c.trial[begin:][:len(block)], uint64(0)
		for i, v := range block {
			u := zigzag(v - level)
			trial[i] = u
			sum += min(u, sumCap)
		}
		cost += blockCost(sum, len(block))
	}
	return cost
}

// differences is what one walk over a column tells of it.
type differences struct {
	cost1, cost2 int    // of delta and of second difference, heads included
	first        uint64 // difference, zigzag
	up, down     int    // differences above and below zero
	sum          uint64 // of the values' distances from the first; it wraps for columns that span 64 bits, their level is then poor, not wrong
}

// weighDifferences walks over a column of at least two values.
func weighDifferences(values []uint64) (d differences) {
	last := values[0]
	slope := values[1] - last
	d.first = zigzag(slope)
	d.cost2 = golombBits(d.first, orderWarmup)
	down, moves, sum, first := uint64(0), uint64(0), uint64(0), last
	for rest := values[1:]; len(rest) > 0; {
		block := rest[:min(blockLen, len(rest))]
		rest = rest[len(block):]
		sum1, sum2 := uint64(0), uint64(0)
		for _, v := range block {
			by := v - last
			sum1 += min(zigzag(by), sumCap)
			sum2 += min(zigzag(by-slope), sumCap)
			down += by >> 63
			moves += (by | -by) >> 63
			sum += v - first
			last, slope = v, by
		}
		d.cost1 += blockCost(sum1, len(block))
		d.cost2 += blockCost(sum2, len(block))
	}
	d.sum, d.down = sum, int(down)
	d.up = int(moves) - d.down
	return d
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
		sum += int64(v-s.first) - int64(climbed)>>(shift&63)
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

// medianStep is a median of nine differences spread over the column, of each three and then of the three, which a gap
// or two do not move.
func medianStep(values []uint64) uint64 {
	var steps [9]int64
	for i := range steps {
		at := 1 + i*(len(values)-2)/(len(steps)-1)
		steps[i] = int64(values[at] - values[at-1])
	}
	return uint64(median(
		median(steps[0], steps[1], steps[2]), median(steps[3], steps[4], steps[5]), median(steps[6], steps[7], steps[8])))
}

func median(a, b, c int64) int64 { return max(min(a, b), min(max(a, b), c)) }

// estimate is about how many bits putResiduals needs, from the sum of each block alone.
func estimate(residuals []uint64) int {
	cost := 0
	for len(residuals) > 0 {
		block := residuals[:min(blockLen, len(residuals))]
		residuals = residuals[len(block):]
		cost += blockCost(cappedSum(block), len(block))
	}
	return cost
}

func cappedSum(block []uint64) (sum uint64) {
	for _, u := range block {
		sum += min(u, sumCap)
	}
	return sum
}

// blockCost is about how many bits a block of n residuals of this sum takes.
func blockCost(sum uint64, n int) int {
	if sum == 0 {
		return 1
	}
	k := riceParameter(sum, n)
	return 1 + n*(int(k)+1) + int(sum>>k)
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
		if k != riceZeros {
			w.putRice(block, k)
		}
	}
}

// putRice appends a block with parameter k.
func (w *bitWriter) putRice(block []uint64, k uint) {
	one := uint64(1) << (k & 63)
	acc, used := w.acc, w.used // in registers
	for _, u := range block {
		q := u >> (k & 63)
		n := uint(q) + 1 + k
		if q >= riceEscape || n > 64 {
			w.acc, w.used = acc, used
			w.putWide(u, k)
			acc, used = w.acc, w.used
			continue
		}
		code := one | u&(one-1)
		if used += n; used < 64 {
			acc = acc<<(n&63) | code
			continue
		}
		used -= 64
		w.buf = binary.BigEndian.AppendUint64(w.buf, acc<<((n-used)&63)|code>>(used&63))
		acc = code & (1<<(used&63) - 1)
	}
	w.acc, w.used = acc, used
}

// putWide appends a residual whose code is an escape or longer than 64 bits.
func (w *bitWriter) putWide(u uint64, k uint) {
	if q := u >> k; q < riceEscape {
		w.put(1, uint(q)+1)
		w.put(u&(1<<k-1), k)
		return
	}
	n := uint(bits.Len64(u))
	w.put(1, riceEscape+1)
	w.put(uint64(n-1), 6)
	w.put(u, n)
}

// blockParameter is the Rice parameter of least cost near the one that the sum suggests.
func blockParameter(block []uint64) uint {
	sum, all := uint64(0), uint64(0)
	for _, u := range block {
		sum += u
		all |= u
	}
	if all == 0 {
		return riceZeros
	}
	if all >= sumCap {
		sum = cappedSum(block)
	}
	k := riceParameter(sum, len(block))
	var cost, lower, higher int
	if k > 0 && all>>(k-1) < riceEscape { // nothing is escaped: three costs in one go
		for _, u := range block {
			lower += int(u >> ((k - 1) & 63))
			cost += int(u >> (k & 63))
			higher += int(u >> ((k + 1) & 63))
		}
		cost += len(block)
		higher += 2 * len(block)
		if cost <= lower && cost <= higher {
			return k
		}
	}
	cost = riceCost(block, k)
	// Few large residuals among small ones are escaped; many are not, and the sum may say too little of them.
	if wide := uint(max(0, min(bits.Len64(slices.Max(block))-3, riceMax))); wide > k+riceBits && riceCost(block, wide) < cost {
		k, cost = wide, riceCost(block, wide)
	}
	for k > 0 {
		if lower = riceCost(block, k-1); lower >= cost {
			break
		}
		k, cost = k-1, lower
	}
	for k < riceMax {
		if higher = riceCost(block, k+1); higher >= cost {
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
