package telemetrypb

import "math/bits"

// Residuals are written by chances that depend on how large they have been of late. FORMAT.md, "Residuals".

const (
	meanBits   = 8  // fraction of the running mean
	meanRate   = 4  // a residual moves it by 1/16
	meanMost   = 48 // residuals count at most as 2^48 − 1 towards it
	scaleMost  = 9  // octaves of the mean that have models of their own: above, low bits are plain
	scaleCount = 2 * (scaleMost + 1)
)

// residualModels is what is known of residuals, by their scale.
type residualModels struct {
	start  number // octave at the beginning of a column
	scales [scaleCount]number
}

// runningMean of the residuals' zigzag.
type runningMean uint64

// startMean is the mean in the middle of an octave.
func startMean(octave uint) runningMean {
	if octave < 2 {
		return runningMean(octave)
	}
	return 3 << (octave - 2)
}

// octaveOf is the octave of the mean of these, for startMean, or what their lengths say where a few are far out.
func octaveOf(residuals []uint64) uint {
	sum, length := uint64(0), 0
	for _, u := range residuals {
		sum += min(u, 1<<meanMost-1)
		length += bits.Len64(u)
	}
	return min(uint(bits.Len64(sum<<meanBits/uint64(len(residuals)))), uint(length/len(residuals))+meanBits+1)
}

// scale is which model comes next, and how many low bits are plain.
func (m runningMean) scale() (model, plain uint) {
	n := uint(bits.Len64(uint64(m)))
	half := uint64(m) << 2 >> n & 1 // the bit below the leading one, 0 if there is none
	if n > scaleMost {
		plain, n = n-scaleMost, scaleMost
	}
	return 2*n + uint(half), plain
}

// learn moves the mean towards a residual; one far out counts as no more than what about doubles it.
func (m *runningMean) learn(u uint64) {
	have := uint64(*m)
	most := have>>meanBits<<meanRate + 1<<meanRate
	*m += runningMean(int64(min(u, most, 1<<meanMost-1)<<meanBits-have) >> meanRate)
}

// putResiduals writes the zigzag of residuals, if there are any.
func (w *rangeWriter) putResiduals(m *residualModels, residuals []uint64) {
	if len(residuals) == 0 {
		return
	}
	octave := octaveOf(residuals[:min(len(residuals), 1<<meanRate)])
	w.put(&m.start, uint64(octave))
	mean := startMean(octave)
	for _, u := range residuals {
		model, plain := mean.scale()
		w.put(&m.scales[model], u>>plain)
		w.plain(u&(1<<plain-1), plain)
		mean.learn(u)
	}
}

// getResiduals appends n of them.
func (r *rangeReader) getResiduals(m *residualModels, dst []uint64, n int) []uint64 {
	if n <= 0 {
		return dst
	}
	octave := r.get(&m.start)
	if octave > meanMost+meanBits {
		r.bad = true
		return dst
	}
	mean := startMean(uint(octave))
	for range n {
		if r.bad {
			break
		}
		model, plain := mean.scale()
		u := r.get(&m.scales[model])
		if u>>(64-plain) != 0 {
			r.bad = true
		}
		u = u<<plain | r.plain(plain)
		dst = append(dst, u)
		mean.learn(u)
	}
	return dst
}
