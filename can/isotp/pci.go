package isotp

import (
	"encoding/binary"

	"github.com/waybill-telematics/waybill/can"
)

// pci is the protocol control information of a frame, and the part of a message that the frame carries.
type pci struct {
	kind   uint8  // pciSingle and so on
	length uint32 // of the whole message: SF_DL, FF_DL
	seq    uint8  // of a consecutive frame, 0–15
	flow   uint8  // flow status
	block  uint8  // BS
	stmin  uint8
	data   []byte // still with its padding in consecutive frames
}

// parsePCI reads a frame whose protocol control information begins behind head bytes; false when it is none that §9.6
// allows. It is lenient in one point: a single frame of more than 8 bytes may carry few enough for 8.
func parsePCI(f *can.Frame, head int) (p pci, ok bool) {
	b := f.Payload()
	if len(b) <= head {
		return p, false
	}
	size := len(b) // CAN_DL
	b = b[head:]
	p.kind = b[0] >> 4
	low := uint32(b[0] & 0x0F)
	switch p.kind {
	case pciSingle:
		at := 1
		p.length = low
		if size > can.MaxClassicLen { // the escape is the only form there (§9.6.2.1)
			if low != 0 || len(b) < 2 {
				return p, false
			}
			at, p.length = 2, uint32(b[1])
		}
		if p.length == 0 || p.length > uint32(len(b)-at) {
			return p, false
		}
		p.data = b[at : at+int(p.length)]
		return p, true
	case pciFirst:
		if size < can.MaxClassicLen {
			return p, false
		}
		at := 2
		p.length = low<<8 | uint32(b[1])
		if p.length == 0 {
			if p.length = binary.BigEndian.Uint32(b[2:]); p.length <= maxShortLength {
				return p, false
			}
			at = 6
		}
		p.data = b[at:]
		return p, p.length > uint32(singleCapacity(size, head))
	case pciConsecutive:
		p.seq, p.data = uint8(low), b[1:]
		return p, len(p.data) > 0
	case pciFlow:
		if len(b) < 3 {
			return p, false
		}
		p.flow, p.block, p.stmin = uint8(low), b[1], b[2]
		return p, true
	}
	return p, false
}

// singleCapacity is how many bytes a single frame of size bytes holds at most (§9.6.2.1).
func singleCapacity(size, head int) int {
	if size > can.MaxClassicLen {
		return size - head - 2
	}
	return size - head - 1
}
