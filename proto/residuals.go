package telemetrypb

import "math/bits"

// Residuals are written by chances that depend on how large they have been of late. FORMAT.md, "Residuals".

const (
	meanBits   = 8  // fraction of the running mean
	meanRate   = 4  // a residual moves it by 1/16
	meanMost   = 48 // residuals count at most as 2^48 − 1 towards it
	scaleMost  = 8  // octaves of the mean that have models of their own: above, low bits are plain
	scaleCount = 2 * (scaleMost + 1)
	startBits  = 2 // fraction of the mean whose length is written at the start
	startMost  = meanMost + startBits
	startLooks = 8 // residuals that the mean at the start is taken of
)

// scaleModels is what is known of residuals, by their scale.
type scaleModels [scaleCount]number

func (m *scaleModels) reset() {
	for i := range m {
		m[i].reset()
	}
}

// startMean is the mean in the middle of what has this length.
func startMean(start uint) uint64 {
	if start == 0 {
		return 1 << (meanBits - startBits - 3)
	}
	return 3 << (start + meanBits - startBits - 2)
}

// startOf is the length of the mean of these, for startMean, or what their own lengths say where a few are far out.
func startOf(residuals []uint64) uint {
	sum, length := uint64(0), 0
	for _, u := range residuals {
		sum += min(u, 1<<meanMost-1)
		length += bits.Len64(u)
	}
	return min(uint(bits.Len64(sum<<startBits/uint64(len(residuals)))), uint(length/len(residuals))+startBits+1)
}

// scaleOf is which model comes next, and how many low bits are plain.
func scaleOf(mean uint64) (model, plain uint) {
	n := uint(bits.Len64(mean))
	half := uint(mean<<2>>(n&63)) & 1 // the bit below the leading one, 0 if there is none
	if n > scaleMost {
		plain, n = n-scaleMost, scaleMost
	}
	return 2*n + half, plain
}

// moved is the mean after a residual; one far out counts as no more than what about doubles it.
func moved(mean, u uint64) uint64 {
	most := mean>>meanBits<<meanRate + 1<<meanRate
	return mean + uint64(int64(min(u, most, 1<<meanMost-1)<<meanBits-mean)>>meanRate)
}

// putResiduals writes the zigzag of residuals, if there are any.
func (w *rangeWriter) putResiduals(m *integerModels, residuals []uint64) {
	if len(residuals) == 0 {
		return
	}
	start := startOf(residuals[:min(len(residuals), startLooks)])
	w.putLength(&m.start, start)
	w.putScaled(&m.scales, residuals, startMean(start))
}

// putScaled writes numbers of which a running mean is known. It is put, put0, put1 and plain with their state in
// registers: the encoder spends its time here.
func (w *rangeWriter) putScaled(scales *scaleModels, list []uint64, mean uint64) {
	low, width := w.low, w.width
	waiting, have := w.bits, w.have
	for _, u := range list {
		scale, plain := scaleOf(mean)
		m := &scales[scale%scaleCount]
		q := u >> (plain & 63)
		n := uint(bits.Len64(q))
		ones := m.length[:min(n, lengthModels)]
		for i := range ones {
			c := &ones[i]
			below := c.below(width)
			low += uint64(below)
			width -= below
			*c = c.after1()
			if width < minWidth {
				low, width = w.shift(low, width)
			}
		}
		if n < lengthModels {
			c := &m.length[n]
			width = c.below(width)
			*c = c.after0()
			if width < minWidth {
				low, width = w.shift(low, width)
			}
		} else {
			waiting, have = waiting|uint64(n-lengthModels)<<(have&63), have+lengthBits
			if have >= 32 {
				waiting, have = w.flush(waiting, have)
			}
		}
		if n > 1 {
			c := &m.second[min(n, lengthModels)-2]
			below := c.below(width)
			if q>>((n-2)&63)&1 == 0 {
				width = below
				*c = c.after0()
			} else {
				low += uint64(below)
				width -= below
				*c = c.after1()
			}
			if width < minWidth {
				low, width = w.shift(low, width)
			}
			plain += n - 2
		}
		mean = moved(mean, u)
		if plain > 32 {
			waiting, have = w.flush(waiting|u&(1<<32-1)<<(have&63), have+32)
			u >>= 32
			plain -= 32
		}
		waiting, have = waiting|u&(1<<(plain&63)-1)<<(have&63), have+plain
		if have >= 32 {
			waiting, have = w.flush(waiting, have)
		}
	}
	w.low, w.width = low, width
	w.bits, w.have = waiting, have
}

// getResiduals appends n of them.
func (r *rangeReader) getResiduals(m *integerModels, dst []uint64, n int) []uint64 {
	if n <= 0 {
		return dst
	}
	start := r.getLength(&m.start)
	if start > startMost {
		r.bad = true
		return dst
	}
	return r.getScaled(&m.scales, dst, n, startMean(start))
}

// getScaled appends n numbers that putScaled wrote.
func (r *rangeReader) getScaled(scales *scaleModels, dst []uint64, n int, mean uint64) []uint64 {
	for range n {
		if r.bad {
			break
		}
		scale, plain := scaleOf(mean)
		u := r.getWith(&scales[scale%scaleCount], plain)
		dst = append(dst, u)
		mean = moved(mean, u)
	}
	return dst
}
