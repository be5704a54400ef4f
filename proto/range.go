package telemetrypb

import "math/bits"

// A body is one range code: binary decisions, each with a chance that both sides learn alike. FORMAT.md, "Decisions".

// chance is what is known of one decision: the probability of a 0 in 1/65,536, less a half, and how often it was
// taken. The zero value knows nothing.
type chance struct {
	half int16
	seen uint16
}

// Learning: a decision moves its chance by 1/2^rate of what is missing, first by a half, in the end by 1/64.
const (
	slowest  = 6
	seenMost = 1<<(slowest-1) - 1
	minWidth = 1 << 24 // of the range between two decisions
	atOnce   = 12      // plain bits that the range has room for
)

// below is the part of a range of this width that stands for a 0.
func (c *chance) below(width uint32) uint32 {
	return (width >> 12) * uint32((uint16(c.half)^0x8000)>>4)
}

// learn takes note of a decision.
func (c *chance) learn(bit uint32) {
	rate := bits.Len16(c.seen+1) & 15
	if c.seen < seenMost {
		c.seen++
	}
	p := uint16(c.half) ^ 0x8000
	ones := uint16(bit - 1) // of a 0: what is missing to one is p's complement
	c.half = int16((p + (^p>>rate)&ones - (p>>rate)&^ones) ^ 0x8000)
}

// rangeWriter appends decisions to buf.
type rangeWriter struct {
	buf   []byte
	low   uint32 // what follows buf
	width uint32
}

func newRangeWriter(buf []byte) rangeWriter {
	return rangeWriter{buf: buf, width: 1<<32 - 1}
}

// add raises the code.
func (w *rangeWriter) add(n uint32) {
	w.low += n
	if w.low < n {
		w.carry()
	}
}

// carry runs back through the bytes that stand already, never past their beginning.
func (w *rangeWriter) carry() {
	i := len(w.buf) - 1
	for w.buf[i]++; w.buf[i] == 0; w.buf[i]++ {
		i--
	}
}

func (w *rangeWriter) shift() {
	for w.width < minWidth {
		w.buf = append(w.buf, byte(w.low>>24))
		w.low <<= 8
		w.width <<= 8
	}
}

// bit writes a decision.
func (w *rangeWriter) bit(c *chance, bit uint32) {
	below := c.below(w.width)
	mask := -bit // a branch would be guessed wrongly as often as the decision is worth
	low := w.low
	w.low += below & mask
	w.width = below + (w.width-2*below)&mask
	if w.low < low {
		w.carry()
	}
	c.learn(bit)
	if w.width < minWidth {
		w.shift()
	}
}

// plain writes the low n bits of v, of which nothing can be learnt.
func (w *rangeWriter) plain(v uint64, n uint) {
	for n > 0 {
		step := min(n, atOnce)
		n -= step
		w.width >>= step
		w.add(w.width * uint32(v>>n&(1<<step-1)))
		w.shift()
	}
}

// finish writes as little as tells the code from all others; the reader adds three zero bytes.
func (w *rangeWriter) finish() []byte {
	w.add(minWidth - 1)
	return append(w.buf, byte(w.low>>24))
}

// rangeReader reads what rangeWriter wrote. Past the end it reads zeros and says so in bad; nothing panics.
type rangeReader struct {
	b     []byte
	at    int // bytes taken, of b and the zeros behind it
	code  uint32
	width uint32
	bad   bool
}

// tailZeros is how many zero bytes stand behind a code.
const tailZeros = 3

func newRangeReader(b []byte) rangeReader {
	r := rangeReader{b: b, width: 1<<32 - 1}
	for range 4 {
		r.take()
	}
	return r
}

func (r *rangeReader) take() {
	r.code <<= 8
	if r.at < len(r.b) {
		r.code |= uint32(r.b[r.at])
	} else if r.at >= len(r.b)+tailZeros {
		r.bad = true
		return
	}
	r.at++
}

func (r *rangeReader) shift() {
	for r.width < minWidth {
		r.width <<= 8
		r.take()
	}
}

// bit reads a decision.
func (r *rangeReader) bit(c *chance) (bit uint32) {
	below := c.below(r.width)
	if r.code < below {
		r.width = below
	} else {
		r.code -= below
		r.width -= below
		bit = 1
	}
	c.learn(bit)
	r.shift()
	return bit
}

// plain reads n bits.
func (r *rangeReader) plain(n uint) (v uint64) {
	for n > 0 {
		step := min(n, atOnce)
		n -= step
		r.width >>= step
		part := min(r.code/r.width, 1<<step-1) // more is in no code
		r.code -= part * r.width
		r.shift()
		v = v<<step | uint64(part)
	}
	return v
}

// left is how many bytes remain.
func (r *rangeReader) left() int { return max(0, len(r.b)-r.at) }

// atEnd says whether all was read, and no more.
func (r *rangeReader) atEnd() bool { return !r.bad && r.at == len(r.b)+tailZeros }

// Sizes of a number's model.
const (
	lengthModels = 13 // lengths from here on are plain
	lengthBits   = 6
	topNodes     = 3 // of the tree of the two bits below the leading one
)

// number is what is known of numbers of one meaning: their length in bits, and the two bits below the leading one.
type number struct {
	length [lengthModels]chance
	top    [lengthModels - 1][topNodes]chance // from the length 2 on
}

// put writes u.
func (w *rangeWriter) put(m *number, u uint64) {
	n := uint(bits.Len64(u))
	for i := range min(n, lengthModels) {
		w.bit(&m.length[i], 1)
	}
	if n < lengthModels {
		w.bit(&m.length[n], 0)
	} else {
		w.plain(uint64(n-lengthModels), lengthBits)
	}
	if n < 2 {
		return
	}
	top := &m.top[min(n, lengthModels)-2]
	first := uint32(u>>(n-2)) & 1
	w.bit(&top[0], first)
	if n > 2 {
		w.bit(&top[1+first], uint32(u>>(n-3))&1)
		w.plain(u&(1<<(n-3)-1), n-3)
	}
}

// get reads what put wrote.
func (r *rangeReader) get(m *number) uint64 {
	n := uint(0)
	for n < lengthModels && r.bit(&m.length[n]) == 1 {
		n++
	}
	if n < 2 {
		return uint64(n)
	}
	top := &m.top[min(n, lengthModels)-2]
	if n == lengthModels {
		if n += uint(r.plain(lengthBits)); n > 64 {
			r.bad = true
			return 0
		}
	}
	first := r.bit(&top[0])
	if n == 2 {
		return 2 | uint64(first)
	}
	second := r.bit(&top[1+first])
	return (4|uint64(first)<<1|uint64(second))<<(n-3) | r.plain(n-3)
}

// putSigned writes the zigzag of v.
func (w *rangeWriter) putSigned(m *number, v uint64) { w.put(m, zigzag(v)) }

// getSigned reads what putSigned wrote.
func (r *rangeReader) getSigned(m *number) uint64 { return unzigzag(r.get(m)) }

// zigzag maps 0, −1, 1, −2… of two's complement to 0, 1, 2, 3….
func zigzag(v uint64) uint64 { return v<<1 ^ uint64(int64(v)>>63) }

func unzigzag(u uint64) uint64 { return u>>1 ^ -(u & 1) }
