package obd

import (
	"fmt"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
)

// The identifiers of ISO 15765-4 §8.
const (
	functional11 = 0x7DF
	physical11   = 0x7E0 // to 7E7
	answers11    = 0x7E8 // to 7EF
	functional29 = 0x18DB33F1
	physical29   = 0x18DA00F1 // the unit's address in the second byte
	answers29    = 0x18DAF100 // the unit's address in the last byte
)

// Functional asks every unit on 11-bit identifiers at once.
func Functional() isotp.ConnOptions {
	return isotp.ConnOptions{Send: isotp.Address{ID: functional11}, Answer: func(f *can.Frame) (from, flow isotp.Address, ok bool) {
		return isotp.Address{ID: f.ID}, isotp.Address{ID: f.ID - 8}, !f.Extended() && f.ID >= answers11 && f.ID < answers11+8
	}}
}

// Functional29 asks every unit on 29-bit identifiers at once.
func Functional29() isotp.ConnOptions {
	return isotp.ConnOptions{Send: isotp.Address{ID: functional29, Extended: true}, Answer: func(f *can.Frame) (from, flow isotp.Address, ok bool) {
		return isotp.Address{ID: f.ID, Extended: true}, isotp.Address{ID: physical29 | f.ID&0xFF<<8, Extended: true},
			f.Extended() && f.ID&^0xFF == answers29
	}}
}

// Physical asks unit 0–7 on 11-bit identifiers: 7E0 is the engine's, 7E1 the transmission's.
func Physical(unit uint8) (isotp.ConnOptions, error) {
	if unit > 7 {
		return isotp.ConnOptions{}, fmt.Errorf("unit %d of 0–7: %w", unit, ErrRequest)
	}
	return isotp.ConnOptions{Send: isotp.Address{ID: physical11 + uint32(unit)}, Receive: isotp.Address{ID: answers11 + uint32(unit)}}, nil
}

// Physical29 asks the unit of an address on 29-bit identifiers.
func Physical29(unit uint8) isotp.ConnOptions {
	return isotp.ConnOptions{Send: isotp.Address{ID: physical29 | uint32(unit)<<8, Extended: true},
		Receive: isotp.Address{ID: answers29 | uint32(unit), Extended: true}}
}
