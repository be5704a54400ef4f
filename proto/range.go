package telemetrypb

import (
	"encoding/binary"
	"math/bits"
)

// A body is one range code, binary decisions each with a chance that both sides learn alike, and beside it the bits of
// which nothing can be learnt, as they are. FORMAT.md, "Decisions".

// chance is what is known of one decision: the likelihood of a 0 in 1/65,536 in the upper half, in the lower how often it
// was taken, plus one, at most often.
type chance uint32

const (
	unknown  chance = 1<<31 | 1
	often           = 1 << 5
	minWidth        = 1 << 24 // of the range between two decisions
)

// below is the part of a range of this width that stands for a 0.
func (c chance) below(width uint32) uint32 { return width >> 12 * uint32(c>>20) }

// after0 and after1 are what is known after a decision: it moves the likelihood by 1/2^rate of what is missing, first by
// a half, in the end by 1/64.
func (c chance) after0() chance {
	n := c & (2*often - 1)
	rate := bits.Len32(uint32(n)) & 31
	c += ^c >> 16 >> rate << 16
	if n < often {
		c++
	}
	return c
}

func (c chance) after1() chance {
	n := c & (2*often - 1)
	rate := bits.Len32(uint32(n)) & 31
	c -= c >> 16 >> rate << 16
	if n < often {
		c++
	}
	return c
}

// rangeWriter gathers decisions and plain bits.
type rangeWriter struct {
	code  []byte
	low   uint64 // what follows code: 32 bits, and a carry into it
	width uint32

	plains []byte
	bits   uint64 // plain bits behind those, the first one lowest
	have   uint
}

// reset begins anew in the memory that there is.
func (w *rangeWriter) reset() {
	*w = rangeWriter{code: w.code[:0], width: 1<<32 - 1, plains: w.plains[:0]}
}

// shift moves bytes that are settled from low to code.
//
//go:noinline
func (w *rangeWriter) shift(low uint64, width uint32) (uint64, uint32) {
	if low >= 1<<32 { // run back through the bytes that stand already, never past their beginning
		i := len(w.code) - 1
		for w.code[i]++; w.code[i] == 0; w.code[i]++ {
			i--
		}
	}
	for width < minWidth {
		w.code = append(w.code, byte(low>>24))
		low = low << 8 & (1<<32 - 1)
		width <<= 8
	}
	return low, width
}

// put0 writes a 0.
func (w *rangeWriter) put0(c *chance) {
	w.width = c.below(w.width)
	*c = c.after0()
	if w.width < minWidth {
		w.low, w.width = w.shift(w.low, w.width)
	}
}

// put1 writes a 1.
func (w *rangeWriter) put1(c *chance) {
	below := c.below(w.width)
	w.low += uint64(below)
	w.width -= below
	*c = c.after1()
	if w.width < minWidth {
		w.low, w.width = w.shift(w.low, w.width)
	}
}

// plain writes the low n bits of v, and v has no more.
func (w *rangeWriter) plain(v uint64, n uint) {
	if n > 32 {
		w.bits, w.have = w.flush(w.bits|v&(1<<32-1)<<(w.have&63), w.have+32)
		v, n = v>>32, n-32
	}
	w.bits |= v << (w.have & 63)
	w.have += n
	if w.have >= 32 {
		w.bits, w.have = w.flush(w.bits, w.have)
	}
}

// flush moves 32 plain bits, of those that wait, to plains.
//
//go:noinline
func (w *rangeWriter) flush(waiting uint64, have uint) (uint64, uint) {
	w.plains = binary.LittleEndian.AppendUint32(w.plains, uint32(waiting))
	return waiting >> 32, have - 32
}

// finish appends all to dst: how many bytes have plain bits, those, and as little as tells the code from all others; the
// reader adds three zero bytes.
func (w *rangeWriter) finish(dst []byte) []byte {
	for ; w.have > 0; w.have -= min(w.have, 8) {
		w.plains = append(w.plains, byte(w.bits))
		w.bits >>= 8
	}
	low, _ := w.shift(w.low+minWidth-1, minWidth)
	dst = binary.AppendUvarint(dst, uint64(len(w.plains)))
	dst = append(dst, w.plains...)
	dst = append(dst, w.code...)
	return append(dst, byte(low>>24))
}

// rangeReader reads what rangeWriter wrote. Past the end it reads zeros and says so in bad; nothing panics.
type rangeReader struct {
	b     []byte
	at    int // bytes taken, of b and the zeros behind it
	code  uint32
	width uint32
	bad   bool

	plains []byte
	bits   uint64 // taken of them and not read, the next one lowest
	have   uint
}

// tailZeros is how many zero bytes stand behind a code.
const tailZeros = 3

func newRangeReader(b []byte) rangeReader {
	n, begin := binary.Uvarint(b)
	if begin <= 0 || n > uint64(len(b)-begin) || begin > 1 && b[begin-1] == 0 {
		return rangeReader{bad: true, width: 1<<32 - 1}
	}
	r := rangeReader{plains: b[begin : begin+int(n)], b: b[begin+int(n):], width: 1<<32 - 1}
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
		*c = c.after0()
	} else {
		r.code -= below
		r.width -= below
		*c = c.after1()
		bit = 1
	}
	if r.width < minWidth {
		r.shift()
	}
	return bit
}

// plain reads n bits.
func (r *rangeReader) plain(n uint) (v uint64) {
	if n > 32 {
		v = r.plain(32)
		return v | r.plain(n-32)<<32
	}
	if r.have < n {
		r.fill()
		if r.have < n {
			r.bad, r.have = true, n
		}
	}
	v = r.bits & (1<<n - 1)
	r.bits >>= n
	r.have -= n
	return v
}

// fill takes up to 32 more plain bits; there are fewer than 32 in hand.
func (r *rangeReader) fill() {
	if len(r.plains) >= 4 {
		r.bits |= uint64(binary.LittleEndian.Uint32(r.plains)) << r.have
		r.plains, r.have = r.plains[4:], r.have+32
		return
	}
	for _, b := range r.plains {
		r.bits |= uint64(b) << r.have
		r.have += 8
	}
	r.plains = nil
}

// left is how many whole bytes of plain bits remain.
func (r *rangeReader) left() int { return len(r.plains) + int(r.have/8) }

// atEnd says whether all was read, and no more.
func (r *rangeReader) atEnd() bool {
	return !r.bad && r.at == len(r.b)+tailZeros && len(r.plains) == 0 && r.have < 8 && r.bits == 0
}
