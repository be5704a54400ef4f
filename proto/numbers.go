package telemetrypb

import "math/bits"

// Numbers are written by their length in bits, of which a model learns what is likely. FORMAT.md, "Numbers".

const (
	lengthModels = 13 // lengths of a number from here on are plain
	lengthBits   = 6
	depth        = 4 // of the tree of a length
	lengthEscape = 1<<depth - 1
)

// number is what is known of numbers of one meaning that are mostly small: their length and the bit below the leading one.
type number struct {
	length [lengthModels]chance
	second [lengthModels - 1]chance // from the length 2 on
}

func (m *number) reset() {
	for i := range m.length {
		m.length[i] = unknown
	}
	for i := range m.second {
		m.second[i] = unknown
	}
}

// put writes u.
func (w *rangeWriter) put(m *number, u uint64) {
	n := uint(bits.Len64(u))
	for i := range min(n, lengthModels) {
		w.put1(&m.length[i])
	}
	if n < lengthModels {
		w.put0(&m.length[n])
	} else {
		w.plain(uint64(n-lengthModels), lengthBits)
	}
	if n > 1 {
		if second := &m.second[min(n, lengthModels)-2]; u>>(n-2)&1 == 0 {
			w.put0(second)
		} else {
			w.put1(second)
		}
		w.plain(u&(1<<(n-2)-1), n-2)
	}
}

// get reads what put wrote.
func (r *rangeReader) get(m *number) uint64 { return r.getWith(m, 0) }

// getWith reads a number of which put wrote all but so many low bits, which are plain and follow.
func (r *rangeReader) getWith(m *number, low uint) uint64 {
	n := uint(0)
	for n < lengthModels && r.bit(&m.length[n]) == 1 {
		n++
	}
	top := uint64(n)
	if n > 1 {
		second := &m.second[n-2]
		if n == lengthModels {
			n += uint(r.plain(lengthBits))
		}
		top = 2 | uint64(r.bit(second))
		low += n - 2
	}
	if low > 62 && (n > 1 || top != 0) {
		r.bad = true
		return 0
	}
	return top<<low | r.plain(low)
}

// length is what is known of lengths, 0…64: a tree of chances, its root in place 1.
type length [1 << depth]chance

func (m *length) reset() {
	for i := range m {
		m[i] = unknown
	}
}

func (w *rangeWriter) putLength(m *length, n uint) {
	class, node := min(n, lengthEscape), uint(1)
	low, width := w.low, w.width
	for i := depth - 1; i >= 0; i-- {
		c := &m[node&lengthEscape]
		bit := class >> (i & 3) & 1
		node = node<<1 | bit
		below := c.below(width)
		if bit == 0 {
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
	}
	w.low, w.width = low, width
	if class == lengthEscape {
		w.plain(uint64(n-lengthEscape), lengthBits)
	}
}

func (r *rangeReader) getLength(m *length) uint {
	node := uint(1)
	for range depth {
		node = node<<1 | uint(r.bit(&m[node&lengthEscape]))
	}
	n := node & lengthEscape
	if n == lengthEscape {
		n += uint(r.plain(lengthBits))
	}
	if n > 64 {
		r.bad = true
		return 0
	}
	return n
}

// putTree writes a number of so many bits by a tree of chances, its root in place 1.
func (w *rangeWriter) putTree(tree []chance, v, depth uint) {
	node := uint(1)
	for depth > 0 {
		depth--
		c := &tree[node]
		bit := v >> (depth & 63) & 1
		if bit == 0 {
			w.put0(c)
		} else {
			w.put1(c)
		}
		node = node<<1 | bit
	}
}

// getTree reads what putTree wrote.
func (r *rangeReader) getTree(tree []chance, depth uint) uint {
	node := uint(1)
	for range depth {
		node = node<<1 | uint(r.bit(&tree[node]))
	}
	return node - 1<<depth
}

// putWide writes a number that may as well be large: its length, and all below the leading one as it is.
func (w *rangeWriter) putWide(m *length, u uint64) {
	n := uint(bits.Len64(u))
	w.putLength(m, n)
	if n > 1 {
		w.plain(u&^(1<<(n-1)), n-1)
	}
}

// getWide reads what putWide wrote.
func (r *rangeReader) getWide(m *length) uint64 {
	n := r.getLength(m)
	if n < 2 {
		return uint64(n)
	}
	return 1<<(n-1) | r.plain(n-1)
}

// putSigned writes a signed number that is mostly 0.
func (w *rangeWriter) putSigned(m *number, v uint64) { w.put(m, zigzag(v)) }

// getSigned reads what putSigned wrote.
func (r *rangeReader) getSigned(m *number) uint64 { return unzigzag(r.get(m)) }

// zigzag maps 0, −1, 1, −2… of two's complement to 0, 1, 2, 3….
func zigzag(v uint64) uint64 { return v<<1 ^ uint64(int64(v)>>63) }

func unzigzag(u uint64) uint64 { return u>>1 ^ -(u & 1) }
