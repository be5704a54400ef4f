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

// quick is an operation on the first eight bytes of a frame in 16 bytes, so that a loop over them stays in registers.
type quick struct {
	sign uint64
	id   uint32
	how  uint32 // left, then from bit 8 down, from bit 16 kind, in bit 24 flip
}

// Where the parts of quick.how begin.
const (
	quickDown = 8
	quickKind = 16
	quickFlip = 24
)

// quick packs the operation; false when it needs more than the first eight bytes and shifts.
func (o *operation) quick() (quick, bool) {
	q := quick{sign: o.sign, id: o.id, how: uint32(o.left) | uint32(o.down)<<quickDown | uint32(o.kind)<<quickKind}
	if o.flip {
		q.how |= 1 << quickFlip
	}
	return q, o.odd == oddNone && o.need <= 8
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

// decodeQuick fills out, one sample for each operation. It is a leaf of few variables for the sake of the registers.
func decodeQuick(operations []quick, f *Frame, out []telemetrypb.Sample) {
	little := binary.LittleEndian.Uint64(f.Data[:8])
	turn := little ^ bits.ReverseBytes64(little)
	at := f.Time
	out = out[:len(operations)] // one bounds check and not one a signal
	for i := range operations {
		o, s := &operations[i], &out[i]
		how, sign := o.how, o.sign
		x := little ^ turn&-uint64(how>>quickFlip)
		x = x << (how & 63) >> (how >> quickDown & 63)
		// Field by field, and Str only where a recycled sample has one: the write of a pointer costs more than the rest.
		s.Signal, s.Kind, s.Time, s.Bits = o.id, telemetrypb.Kind(how>>quickKind), at, (x^sign)-sign
		if s.Str != "" {
			s.Str = ""
		}
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
