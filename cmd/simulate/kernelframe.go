package main

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/can"
)

// kernelFrame is struct can_frame of linux/can.h: identifier with flags in the machine's byte order, length, three
// bytes of padding, data.
func kernelFrame(f *can.Frame) (b [unix.CAN_MTU]byte) {
	id := f.ID
	if f.Extended() {
		id |= unix.CAN_EFF_FLAG
	}
	binary.NativeEndian.PutUint32(b[:4], id)
	b[4] = f.Len
	copy(b[8:], f.Payload())
	return b
}
