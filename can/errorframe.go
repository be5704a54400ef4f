package can

import (
	"fmt"
	"strings"
)

// ErrorClass is a set of what an error frame tells of (linux/can/error.h).
type ErrorClass uint16

// The classes of an error frame; in brackets the bytes of its data that say more.
const (
	ErrorTxTimeout   ErrorClass = 0x001 // the driver gave up on a frame
	ErrorLostBit     ErrorClass = 0x002 // lost arbitration [0]
	ErrorController  ErrorClass = 0x004 // state of the controller, overflows [1]
	ErrorProtocol    ErrorClass = 0x008 // a protocol violation [2, 3]
	ErrorTransceiver ErrorClass = 0x010 // wires [4]
	ErrorNoAck       ErrorClass = 0x020 // nobody acknowledged a frame
	ErrorBusOff      ErrorClass = 0x040 // the node has left the bus
	ErrorBus         ErrorClass = 0x080 // an error on the bus; may come with every frame
	ErrorRestarted   ErrorClass = 0x100 // the node is back on the bus after bus-off
	ErrorCounters    ErrorClass = 0x200 // the error counters are given [6, 7]; from Linux 6.0 on
)

// Bits of ErrorReport.Controller (CAN_ERR_CRTL_…).
const (
	controllerRxOverflow = 0x01
	controllerTxOverflow = 0x02
	controllerRxWarning  = 0x04
	controllerTxWarning  = 0x08
	controllerRxPassive  = 0x10
	controllerTxPassive  = 0x20
	controllerActive     = 0x40
)

// ErrorReport is what an error frame says. Which fields mean something depends on Classes; the others are zero. The zero
// value says nothing.
type ErrorReport struct {
	Classes     ErrorClass
	LostBit     uint8 // ErrorLostBit: the bit of the frame at which another node won; 0: not known
	Controller  uint8 // ErrorController: CAN_ERR_CRTL_… bits
	Protocol    uint8 // ErrorProtocol: CAN_ERR_PROT_… bits
	Location    uint8 // ErrorProtocol: CAN_ERR_PROT_LOC_…, where in the frame; 0: not known
	Transceiver uint8 // ErrorTransceiver: CAN_ERR_TRX_…, CAN_H in the low half, CAN_L in the high half
	TxErrors    uint8 // ErrorCounters: transmit error counter
	RxErrors    uint8 // ErrorCounters: receive error counter
}

// ParseErrorFrame reads an error frame; false when the frame is none. Details that a short frame does not have are zero.
// It allocates nothing.
func ParseErrorFrame(f *Frame) (ErrorReport, bool) {
	if f.Flags&FlagError == 0 {
		return ErrorReport{}, false
	}
	length := len(f.Payload())
	detail := func(class ErrorClass, i int) uint8 {
		if f.ID&uint32(class) == 0 || i >= length {
			return 0
		}
		return f.Data[i]
	}
	r := ErrorReport{
		Classes:     ErrorClass(f.ID & 0xFFFF),
		LostBit:     detail(ErrorLostBit, 0),
		Controller:  detail(ErrorController, 1),
		Protocol:    detail(ErrorProtocol, 2),
		Location:    detail(ErrorProtocol, 3),
		Transceiver: detail(ErrorTransceiver, 4),
		TxErrors:    detail(ErrorCounters, 6),
		RxErrors:    detail(ErrorCounters, 7),
	}
	if length <= 7 {
		r.Classes &^= ErrorCounters
		r.TxErrors, r.RxErrors = 0, 0
	}
	return r, true
}

// State is the state that the controller has now, as far as this frame tells it. Of several the worst counts, but a
// restart ends bus-off.
func (r ErrorReport) State() (s BusState, known bool) {
	c := r.Controller
	switch {
	case r.Classes&ErrorBusOff != 0:
		return BusOff, true
	case c&(controllerRxPassive|controllerTxPassive) != 0:
		return BusErrorPassive, true
	case c&(controllerRxWarning|controllerTxWarning) != 0:
		return BusErrorWarning, true
	case c&controllerActive != 0 || r.Classes&ErrorRestarted != 0:
		return BusErrorActive, true
	}
	return 0, false
}

var (
	controllerTexts = []string{
		"receive buffer overflow", "transmit buffer overflow", "receive error warning", "transmit error warning",
		"receive error passive", "transmit error passive", "error active again",
	}
	protocolTexts = []string{
		"bit error", "form error", "stuff error", "dominant bit could not be sent", "recessive bit could not be sent",
		"overload", "active error flag", "while sending",
	}
	locationTexts = map[uint8]string{
		0x03: "start of frame", 0x02: "identifier bits 28–21", 0x06: "identifier bits 20–18", 0x04: "substitute remote request",
		0x05: "identifier extension", 0x07: "identifier bits 17–13", 0x0F: "identifier bits 12–5", 0x0E: "identifier bits 4–0",
		0x0C: "remote request", 0x0D: "reserved bit 1", 0x09: "reserved bit 0", 0x0B: "data length code", 0x0A: "data",
		0x08: "CRC sequence", 0x18: "CRC delimiter", 0x19: "acknowledge slot", 0x1B: "acknowledge delimiter",
		0x1A: "end of frame", 0x12: "intermission",
	}
	wireTexts = map[uint8]string{
		0x04: "CAN_H: no wire", 0x05: "CAN_H: short to battery", 0x06: "CAN_H: short to supply", 0x07: "CAN_H: short to ground",
		0x40: "CAN_L: no wire", 0x50: "CAN_L: short to battery", 0x60: "CAN_L: short to supply", 0x70: "CAN_L: short to ground",
		0x80: "CAN_L: short to CAN_H",
	}
)

// String tells it in words, for a log or a person: "bus error; protocol violation: stuff error at data; counters: 8
// transmit, 0 receive".
func (r ErrorReport) String() string {
	var parts []string
	say := func(class ErrorClass, text string, details ...string) {
		if r.Classes&class == 0 {
			return
		}
		if len(details) > 0 {
			text += ": " + strings.Join(details, ", ")
		}
		parts = append(parts, text)
	}
	say(ErrorTxTimeout, "transmit timeout")
	if r.LostBit > 0 {
		say(ErrorLostBit, fmt.Sprintf("lost arbitration at bit %d", r.LostBit))
	} else {
		say(ErrorLostBit, "lost arbitration")
	}
	say(ErrorController, "controller", bitTexts(r.Controller, controllerTexts)...)
	violation := strings.Join(bitTexts(r.Protocol, protocolTexts), ", ")
	if r.Location != 0 {
		at, ok := locationTexts[r.Location]
		if !ok {
			at = fmt.Sprintf("position 0x%02X", r.Location)
		}
		violation = strings.TrimPrefix(violation+" at "+at, " ")
	}
	if violation != "" {
		say(ErrorProtocol, "protocol violation", violation)
	} else {
		say(ErrorProtocol, "protocol violation")
	}
	var wires []string
	for _, half := range []uint8{r.Transceiver & 0x0F, r.Transceiver & 0xF0} {
		if text, ok := wireTexts[half]; ok {
			wires = append(wires, text)
		} else if half != 0 {
			wires = append(wires, fmt.Sprintf("status 0x%02X", half))
		}
	}
	say(ErrorTransceiver, "transceiver", wires...)
	say(ErrorNoAck, "no acknowledgement")
	say(ErrorBusOff, "bus-off")
	say(ErrorBus, "bus error")
	say(ErrorRestarted, "restarted")
	say(ErrorCounters, fmt.Sprintf("counters: %d transmit, %d receive", r.TxErrors, r.RxErrors))
	if unknown := r.Classes &^ 0x3FF; unknown != 0 {
		parts = append(parts, fmt.Sprintf("unknown class 0x%X", uint16(unknown)))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, "; ")
}

// bitTexts are the texts of the bits that are set, the lowest first.
func bitTexts(bits uint8, texts []string) []string {
	var list []string
	for i := range 8 {
		if bits&(1<<i) == 0 {
			continue
		}
		if i < len(texts) {
			list = append(list, texts[i])
		} else {
			list = append(list, fmt.Sprintf("bit 0x%02X", 1<<i))
		}
	}
	return list
}
