package telemetrypb

import (
	"encoding/binary"
	"math/bits"
)

// bitWriter appends bits to buf, the most significant first.
type bitWriter struct {
	buf  []byte
	acc  uint64 // the last used bits, not yet in buf
	used uint   // below 64
}

// put appends the low n bits of v, n ≤ 64; the bits of v above them are zero.
func (w *bitWriter) put(v uint64, n uint) {
	free := 64 - w.used
	if n < free {
		w.acc = w.acc<<(n&63) | v
		w.used += n
		return
	}
	rest := n - free
	w.buf = binary.BigEndian.AppendUint64(w.buf, w.acc<<free|v>>rest)
	w.acc = v & (1<<rest - 1)
	w.used = rest
}

// putGolomb appends u as an exponential Golomb code of order k, 1 ≤ k ≤ 32, or 0 for u below 2^64 − 1: with
// x = (u >> k) + 1 of n + 1 bits: n zeros, x, then the low k bits of u.
func (w *bitWriter) putGolomb(u uint64, k uint) {
	if u < 1<<31 && k < 32 { // the three parts follow one another in one number
		x := u + 1<<k
		w.put(x, 2*uint(bits.Len64(x))-k-1)
		return
	}
	x := u>>k + 1
	n := uint(bits.Len64(x))
	w.put(0, n-1)
	w.put(x, n)
	w.put(u&(1<<k-1), k)
}

// golombBits is how many bits putGolomb takes.
func golombBits(u uint64, k uint) int { return 2*bits.Len64(u>>k+1) - 1 + int(k) }

// putSigned is putGolomb of the zigzag of v.
func (w *bitWriter) putSigned(v uint64, k uint) { w.putGolomb(zigzag(v), k) }

// putBit appends one bit.
func (w *bitWriter) putBit(set bool) {
	if set {
		w.put(1, 1)
	} else {
		w.put(0, 1)
	}
}

// finish pads the last byte with zeros.
func (w *bitWriter) finish() []byte {
	for w.used > 0 {
		if w.used < 8 {
			w.acc <<= 8 - w.used
			w.used = 8
		}
		w.used -= 8
		w.buf = append(w.buf, byte(w.acc>>w.used))
	}
	w.acc = 0
	return w.buf
}

// bitReader reads what bitWriter wrote. Past the end it reads zeros and says so in bad; nothing panics.
type bitReader struct {
	b   []byte
	pos uint64 // in bits
	bad bool
}

// left is how many bits remain.
func (r *bitReader) left() uint64 { return uint64(len(r.b))*8 - r.pos }

// peek is the next 57 bits or more, at the top; zeros follow the end.
func (r *bitReader) peek() uint64 {
	at := int(r.pos >> 3)
	if at+8 <= len(r.b) {
		return binary.BigEndian.Uint64(r.b[at:]) << (r.pos & 7)
	}
	var tail [8]byte
	copy(tail[:], r.b[at:])
	return binary.BigEndian.Uint64(tail[:]) << (r.pos & 7)
}

// skip moves on by n bits.
func (r *bitReader) skip(n uint) {
	if uint64(n) > r.left() {
		r.pos = uint64(len(r.b)) * 8
		r.bad = true
		return
	}
	r.pos += uint64(n)
}

// get reads n bits, n ≤ 64.
func (r *bitReader) get(n uint) uint64 {
	if n > 32 {
		high := r.get(n - 32)
		return high<<32 | r.get(32)
	}
	v := r.peek() >> 32 >> (32 - n)
	r.skip(n)
	return v
}

func (r *bitReader) getBit() bool { return r.get(1) == 1 }

// getGolomb reads an exponential Golomb code of order k.
func (r *bitReader) getGolomb(k uint) uint64 {
	zeros := uint(0)
	for !r.bad && r.peek()>>32 == 0 {
		r.skip(32)
		zeros += 32
	}
	n := uint(bits.LeadingZeros64(r.peek()))
	zeros += n
	r.skip(n)
	if r.bad || zeros > 63 {
		r.bad = true
		return 0
	}
	x := r.get(zeros+1) - 1
	if x<<k>>k != x {
		r.bad = true
		return 0
	}
	return x<<k | r.get(k)
}

// getSigned reads what putSigned wrote.
func (r *bitReader) getSigned(k uint) uint64 { return unzigzag(r.getGolomb(k)) }

// atEnd says whether only the padding of the last byte is left.
func (r *bitReader) atEnd() bool {
	return !r.bad && r.left() < 8 && r.get(uint(r.left())) == 0
}

// zigzag maps 0, −1, 1, −2… of two's complement to 0, 1, 2, 3….
func zigzag(v uint64) uint64 { return v<<1 ^ uint64(int64(v)>>63) }

func unzigzag(u uint64) uint64 { return u>>1 ^ -(u & 1) }
