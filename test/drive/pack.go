package drive

import (
	"math"

	"github.com/waybill-telematics/waybill/can"
)

// Raw is the raw value whose physical value is nearest: what an ECU puts on the bus. Values out of range stop at the
// ends of the field, as they do in an ECU.
func Raw(s *can.Signal, physical float64) uint64 {
	scale := s.Scale
	if scale == 0 {
		scale = 1
	}
	low, high := 0.0, math.Ldexp(1, s.Size)-1
	if s.Signed {
		low, high = -math.Ldexp(1, s.Size-1), math.Ldexp(1, s.Size-1)-1
	}
	raw := min(max(math.Round((physical-s.Offset)/scale), low), high)
	if s.Signed {
		return uint64(int64(raw))
	}
	return uint64(raw)
}

// Pack writes the low s.Size bits of raw to their place in data. Bits are numbered as in a DBC file: bit 0 is the
// least significant of byte 0; a little-endian signal starts at its least significant bit and runs upwards, a
// big-endian one starts at its most significant bit and runs down through each byte, then on to the next one.
func Pack(data []byte, s *can.Signal, raw uint64) {
	bit := s.Start
	for i := range s.Size {
		place := i // of the bit within raw
		if s.BigEndian {
			place = s.Size - 1 - i
		}
		mask := byte(1) << (bit % 8)
		if raw>>place&1 != 0 {
			data[bit/8] |= mask
		} else {
			data[bit/8] &^= mask
		}
		switch {
		case !s.BigEndian:
			bit++
		case bit%8 == 0:
			bit += 15 // the most significant bit of the next byte
		default:
			bit--
		}
	}
}
