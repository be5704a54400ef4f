package can

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// operation reads one signal: eight bytes from off, turned round for big-endian ones, shifted left until the signal's
// first bit is the top one and right until its last is the bottom one. Then the sign is extended: with sign the bit of the
// signal's sign, (x ^ sign) − sign is x below it and x − 2·sign from it on; with 0 nothing changes.
type operation struct {
	sign uint64
	id   uint32
	left uint8 // bits
	down uint8 // bits
	kind telemetrypb.Kind
	flip bool   // big-endian
	off  uint16 // 0–56 for what lies within Frame.Data, so that eight bytes never leave that
	need uint16 // bytes that the payload must have
	odd  oddity
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

// compileSignal makes the operation of a signal; false when it lies beyond the room, in bytes, of a payload.
func compileSignal(s *Signal, id uint32, room int) (operation, bool) {
	first := s.firstBit()
	if s.Size < 1 || s.Size > 64 || first < 0 || first+s.Size > 8*room {
		return operation{}, false
	}
	off := first / 8
	if first+s.Size <= 8*MaxLen {
		off = min(off, MaxLen-8)
	}
	if first+s.Size <= 64 {
		off = 0 // decode has these eight bytes at hand
	}
	within := first - 8*off // bits before the signal
	op := operation{
		id: id, off: uint16(off), down: uint8(64 - s.Size), need: uint16(s.lastByte()), flip: s.BigEndian, kind: telemetrypb.KindUint,
	}
	if s.Signed {
		op.kind, op.sign = telemetrypb.KindInt, 1<<(s.Size-1)
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
		op.odd, op.kind, op.sign = oddFloat32, telemetrypb.KindFloat, 0
	case EncodingFloat64:
		op.kind, op.sign = telemetrypb.KindFloat, 0
		op.odd = oddFloat64
		if nine {
			op.odd = oddNineFloat64
		}
	}
	return op, true
}

// read returns the raw bits, sign extended where the signal has a sign; those of a float as a binary64.
func (o *operation) read(data []byte) uint64 {
	switch o.odd {
	case oddNine, oddNineFloat64:
		return o.readNine(data)
	case oddFloat32:
		return math.Float64bits(float64(math.Float32frombits(uint32(o.shift(o.load(data))))))
	}
	return o.shift(o.load(data))
}

// load returns the eight bytes in the signal's byte order. Those past the end of data, which are none of the signal's, are 0.
func (o *operation) load(data []byte) uint64 {
	off := int(o.off)
	var tail [8]byte
	eight := tail[:]
	if off+8 <= len(data) {
		eight = data[off : off+8]
	} else {
		copy(eight, data[off:])
	}
	if o.flip {
		return binary.BigEndian.Uint64(eight)
	}
	return binary.LittleEndian.Uint64(eight)
}

func (o *operation) shift(x uint64) uint64 {
	x = x << (o.left & 63) >> (o.down & 63)
	return (x ^ o.sign) - o.sign
}

// readNine reads a signal of 58 to 64 bits behind left bits of its first byte; the ninth byte gives the rest.
func (o *operation) readNine(data []byte) uint64 {
	x, ninth := o.load(data), uint64(data[int(o.off)+8])
	if o.flip {
		x = (x<<o.left | ninth>>(8-o.left)) >> o.down
	} else {
		x = (x>>o.left | ninth<<(64-o.left)) << o.down >> o.down
	}
	return (x ^ o.sign) - o.sign
}

// quick is an operation on eight bytes at hand in a register, for nearly every signal of nearly every bus: shifted right,
// masked, the sign extended. Its 24 bytes, and few variables, keep the loops over it in registers.
type quick struct {
	mask, sign uint64
	id         uint32
	shift      uint8 // bits
	flip       uint8 // 1: big-endian
	off        uint8 // of the eight bytes in Frame.Data, 0–56
	kind       telemetrypb.Kind
}

// quick makes the operation smaller; false when it needs more than eight bytes and a shift.
func (o *operation) quick() (quick, bool) {
	if o.odd != oddNone || o.need > MaxLen {
		return quick{}, false
	}
	q := quick{mask: ^uint64(0) >> o.down, sign: o.sign, id: o.id, shift: o.down - o.left, off: uint8(o.off), kind: o.kind}
	if o.flip {
		q.flip = 1
	}
	return q, true
}

// put reads the signal from x, its eight bytes in its byte order.
func (o *quick) put(s *telemetrypb.Sample, x uint64, at int64) {
	x = x >> (o.shift & 63) & o.mask
	// Field by field, and Str only where a recycled sample has one: the write of a pointer costs more than the rest.
	s.Signal, s.Kind, s.Time, s.Bits = o.id, o.kind, at, (x^o.sign)-o.sign
	if s.Str != "" {
		s.Str = ""
	}
}

// holds reports whether the guard's multiplexors select it in a payload of n bytes; short, that the payload ends before
// one of them.
func (g *guard) holds(data []byte, n int) (ok, short bool) {
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

// decodeQuick fills out, one sample for each operation, from the first eight bytes. Four at a time save a tenth: their
// places are constants, and there is one bounds check for all.
func decodeQuick(operations []quick, f *Frame, out []telemetrypb.Sample) {
	x := binary.LittleEndian.Uint64(f.Data[:8])
	turn := x ^ bits.ReverseBytes64(x) // x ^ turn is x the other way round
	at := f.Time
	for len(operations) >= 4 && len(out) >= 4 {
		o, s := (*[4]quick)(operations), (*[4]telemetrypb.Sample)(out)
		o[0].put(&s[0], x^turn&-uint64(o[0].flip), at)
		o[1].put(&s[1], x^turn&-uint64(o[1].flip), at)
		o[2].put(&s[2], x^turn&-uint64(o[2].flip), at)
		o[3].put(&s[3], x^turn&-uint64(o[3].flip), at)
		operations, out = operations[4:], out[4:]
	}
	out = out[:len(operations)]
	for i := range operations {
		o := &operations[i]
		o.put(&out[i], x^turn&-uint64(o.flip), at)
	}
}

// decodeWide is decodeQuick for signals anywhere in the frame.
func decodeWide(operations []quick, f *Frame, out []telemetrypb.Sample) {
	at := f.Time
	out = out[:len(operations)]
	for i := range operations {
		o := &operations[i]
		x := binary.LittleEndian.Uint64(f.Data[o.off:][:8])
		if o.flip != 0 {
			x = bits.ReverseBytes64(x)
		}
		o.put(&out[i], x, at)
	}
}

// decodeOther decodes payloads that are long, multiplexed or cut short: the first n bytes of data.
func (m *planMessage) decodeOther(p *Plan, data []byte, n int, at int64, dst []telemetrypb.Sample) []telemetrypb.Sample {
	dst, short := appendFitting(slices.Grow(dst, m.most), data, n, at, m.plain)
	for i := range m.guarded {
		s := &m.guarded[i]
		held, cut := s.guard.holds(data, n)
		if held {
			dst, cut = appendFitting(dst, data, n, at, s.operations)
		}
		short = short || cut
	}
	// The sender says how long a message of several frames is, and sends a short one in a single frame (DM1 with one
	// trouble code): what it does not send is not lost.
	if short && !m.long {
		p.Counters.Short.Add(1)
	}
	return dst
}

// appendFitting decodes what lies within the first n bytes and reports whether anything did not.
func appendFitting(dst []telemetrypb.Sample, data []byte, n int, at int64, operations []operation) (_ []telemetrypb.Sample, short bool) {
	for i := range operations {
		o := &operations[i]
		if int(o.need) > n {
			short = true
			continue
		}
		dst = append(dst, telemetrypb.Sample{Signal: o.id, Kind: o.kind, Time: at, Bits: o.read(data)})
	}
	return dst, short
}
