package can

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// operation reads one signal: eight bytes from off, turned round for big-endian ones, shifted left until the signal's
// first bit is the top one and right until its last is the bottom one, with or without its sign.
type operation struct {
	id   uint32
	off  uint8 // 0–56, so that eight bytes never leave Frame.Data
	left uint8 // bits
	down uint8 // bits
	need uint8 // bytes that the frame must have
	flip bool  // big-endian
	sign bool
	odd  oddity
	kind telemetrypb.Kind
}

// oddity names what the shifts alone cannot read.
type oddity uint8

const (
	oddNone    oddity = iota
	oddNine           // spans nine bytes
	oddFloat32        // a binary32 in the low bits
	oddFloat64
	oddNineFloat64
)

// compileSignal makes the operation of a signal; false when it lies beyond the 64 bytes of a frame.
func compileSignal(s *Signal, id uint32) (operation, bool) {
	first := s.firstBit()
	if s.Size < 1 || s.Size > 64 || first < 0 || first+s.Size > 8*MaxLen {
		return operation{}, false
	}
	off := min(first/8, MaxLen-8)
	within := first - 8*off // bits before the signal, 0–7 but near the end of the frame
	op := operation{
		id: id, off: uint8(off), down: uint8(64 - s.Size), need: uint8(s.lastByte()),
		flip: s.BigEndian, sign: s.Signed, kind: telemetrypb.KindUint,
	}
	if s.Signed {
		op.kind = telemetrypb.KindInt
	}
	nine := within+s.Size > 64
	switch {
	case nine:
		op.odd, op.left = oddNine, uint8(within) // see readNine
	case s.BigEndian:
		op.left = uint8(within)
	default:
		op.left = uint8(64 - s.Size - within)
	}
	switch s.Encoding {
	case EncodingFloat32:
		op.odd, op.kind, op.sign = oddFloat32, telemetrypb.KindFloat, false
	case EncodingFloat64:
		op.kind, op.sign = telemetrypb.KindFloat, false
		op.odd = oddFloat64
		if nine {
			op.odd = oddNineFloat64
		}
	}
	return op, true
}

// read returns the raw bits, sign extended where the signal has a sign.
func (o *operation) read(data *[MaxLen]byte) uint64 {
	if o.odd != oddNone {
		return o.readOdd(data)
	}
	return o.shift(binary.LittleEndian.Uint64(data[o.off&63:]))
}

func (o *operation) shift(x uint64) uint64 {
	flipped := bits.ReverseBytes64(x)
	if o.flip {
		x = flipped
	}
	x <<= o.left & 63
	signed := uint64(int64(x) >> (o.down & 63))
	x >>= o.down & 63
	if o.sign {
		x = signed
	}
	return x
}

// readOdd reads what spans nine bytes, and turns floats into the bits of a binary64.
func (o *operation) readOdd(data *[MaxLen]byte) uint64 {
	switch o.odd {
	case oddNine, oddNineFloat64:
		return o.readNine(data)
	case oddFloat32:
		raw := o.shift(binary.LittleEndian.Uint64(data[o.off:]))
		return math.Float64bits(float64(math.Float32frombits(uint32(raw))))
	}
	return o.shift(binary.LittleEndian.Uint64(data[o.off:]))
}

// readNine reads a signal of 58 to 64 bits behind left bits of its first byte; the ninth byte gives the rest.
func (o *operation) readNine(data *[MaxLen]byte) uint64 {
	eight, ninth := data[o.off:o.off+8], uint64(data[o.off+8])
	var x uint64
	if o.flip {
		x = binary.BigEndian.Uint64(eight)<<o.left | ninth>>(8-o.left)
	} else {
		// The signal's top bit goes to the top, as in shift.
		x = binary.LittleEndian.Uint64(eight)>>o.left | ninth<<(64-o.left)
		x <<= o.down
	}
	if o.sign {
		return uint64(int64(x) >> o.down)
	}
	return x >> o.down
}

// holds reports whether the guard's multiplexors select it in a frame of n bytes; short, that the frame ends before one
// of them.
func (g *guard) holds(data *[MaxLen]byte, n int) (ok, short bool) {
	for ; g != nil; g = g.parent {
		if int(g.read.need) > n {
			return false, true
		}
		raw := g.read.read(data)
		if !slices.ContainsFunc(g.ranges, func(r MuxRange) bool { return raw >= r.First && raw <= r.Last }) {
			return false, false
		}
	}
	return true, false
}

// decode appends the samples of a frame.
func (m *planMessage) decode(p *Plan, f *Frame, dst []telemetrypb.Sample) []telemetrypb.Sample {
	n := int(f.Len)
	dst = slices.Grow(dst, m.most)
	short := false
	if m.need <= n {
		base := len(dst)
		dst = dst[:base+len(m.plain)]
		out := dst[base:]
		for i := range m.plain {
			o := &m.plain[i]
			out[i] = telemetrypb.Sample{Signal: o.id, Kind: o.kind, Time: f.Time, Bits: o.read(&f.Data)}
		}
	} else {
		dst, short = appendFitting(dst, f, m.plain, n)
	}
	for i := range m.guarded {
		s := &m.guarded[i]
		held, cut := s.guard.holds(&f.Data, n)
		if held {
			dst, cut = appendFitting(dst, f, s.operations, n)
		}
		short = short || cut
	}
	if short {
		p.Counters.Short.Add(1)
	}
	return dst
}

// appendFitting decodes what lies within the first n bytes and reports whether anything did not.
func appendFitting(dst []telemetrypb.Sample, f *Frame, operations []operation, n int) (_ []telemetrypb.Sample, short bool) {
	for i := range operations {
		o := &operations[i]
		if int(o.need) > n {
			short = true
			continue
		}
		dst = append(dst, telemetrypb.Sample{Signal: o.id, Kind: o.kind, Time: f.Time, Bits: o.read(&f.Data)})
	}
	return dst, short
}
