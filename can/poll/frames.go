package poll

import "github.com/waybill-telematics/waybill/can"

// FromTester reports whether a frame has an identifier by which testers ask (ISO 15765-4 §8): 7DF, 7E0–7E7, 18DB33F1,
// 18DA??F1.
func FromTester(f *can.Frame) bool {
	if f.Flags&(can.FlagError|can.FlagRemote) != 0 {
		return false
	}
	if f.Extended() {
		return f.ID == 0x18DB33F1 || f.ID&^0xFF00 == 0x18DA00F1
	}
	return f.ID == 0x7DF || f.ID >= 0x7E0 && f.ID <= 0x7E7
}

// same reports whether two frames are equal on the bus.
func same(a, b *can.Frame) bool {
	const format = can.FlagExtended | can.FlagFD
	return a.ID == b.ID && a.Flags&format == b.Flags&format && string(a.Payload()) == string(b.Payload())
}

// longestFrame bounds frameBits.
const longestFrame = 900

// frameBits is how many bit times a frame takes at most, with the space behind it: every fifth bit is stuffed (ISO
// 11898-1 §10.5). A CAN FD frame counts as if all of it had the lower bit rate.
func frameBits(f *can.Frame) float64 {
	stuffed := 34 // start, identifier, control, CRC of a base frame
	if f.Extended() {
		stuffed = 54
	}
	if f.Flags&can.FlagFD != 0 {
		stuffed += 12 // the longer CRC, the stuff count, the control bits
	}
	stuffed += 8 * len(f.Payload())
	const unstuffed = 13 // delimiters, acknowledgement, end of frame, space
	return float64(stuffed + (stuffed-1)/4 + unstuffed)
}
