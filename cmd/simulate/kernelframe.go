package main

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/can"
)

// canFDFrame is the length of struct canfd_frame, CANFD_MTU of linux/can.h.
const canFDFrame = 72

// The flags of struct canfd_frame.
const (
	canFDBRS = 0x01 // CANFD_BRS
	canFDESI = 0x02 // CANFD_ESI
	canFDFDF = 0x04 // CANFD_FDF
)

// kernelFrame is struct can_frame or canfd_frame of linux/can.h, in b: identifier with flags in the machine's byte order, length, flags
// of CAN FD, two bytes of padding, data.
func kernelFrame(b *[canFDFrame]byte, f *can.Frame) []byte {
	*b = [canFDFrame]byte{}
	id := f.ID
	if f.Extended() {
		id |= unix.CAN_EFF_FLAG
	}
	if f.Flags&can.FlagRemote != 0 {
		id |= unix.CAN_RTR_FLAG
	}
	if f.Flags&can.FlagError != 0 {
		id |= unix.CAN_ERR_FLAG
	}
	binary.NativeEndian.PutUint32(b[:4], id)
	b[4] = f.Len
	copy(b[8:], f.Payload())
	if f.Flags&can.FlagFD == 0 {
		return b[:unix.CAN_MTU]
	}
	b[5] = canFDFDF
	if f.Flags&can.FlagBRS != 0 {
		b[5] |= canFDBRS
	}
	if f.Flags&can.FlagESI != 0 {
		b[5] |= canFDESI
	}
	return b[:]
}
