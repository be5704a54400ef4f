package can

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// errorFrame is one as a driver makes it: always of eight bytes.
func errorFrame(classes uint32, details map[int]byte) *Frame {
	f := &Frame{ID: classes, Len: unix.CAN_ERR_DLC, Flags: FlagError}
	for i, b := range details {
		f.Data[i] = b
	}
	return f
}

// The constants are the kernel's: x/sys makes them from linux/can/error.h.
func TestErrorFrames(t *testing.T) {
	const none = BusGone
	for _, test := range []struct {
		frame *Frame
		text  string
		state BusState
	}{
		{errorFrame(unix.CAN_ERR_TX_TIMEOUT, nil), "transmit timeout", none},
		{errorFrame(unix.CAN_ERR_LOSTARB, nil), "lost arbitration", none},
		{errorFrame(unix.CAN_ERR_LOSTARB, map[int]byte{0: 11}), "lost arbitration at bit 11", none},
		{errorFrame(unix.CAN_ERR_CRTL, nil), "controller", none},
		{errorFrame(unix.CAN_ERR_CRTL, map[int]byte{1: unix.CAN_ERR_CRTL_RX_OVERFLOW | unix.CAN_ERR_CRTL_TX_OVERFLOW}),
			"controller: receive buffer overflow, transmit buffer overflow", none},
		{errorFrame(unix.CAN_ERR_CRTL, map[int]byte{1: unix.CAN_ERR_CRTL_RX_WARNING}), "controller: receive error warning", BusErrorWarning},
		{errorFrame(unix.CAN_ERR_CRTL|unix.CAN_ERR_CNT, map[int]byte{1: unix.CAN_ERR_CRTL_TX_WARNING, 6: 97, 7: 3}),
			"controller: transmit error warning; counters: 97 transmit, 3 receive", BusErrorWarning},
		{errorFrame(unix.CAN_ERR_CRTL, map[int]byte{1: unix.CAN_ERR_CRTL_RX_PASSIVE}), "controller: receive error passive", BusErrorPassive},
		{errorFrame(unix.CAN_ERR_CRTL, map[int]byte{1: unix.CAN_ERR_CRTL_TX_PASSIVE | unix.CAN_ERR_CRTL_TX_WARNING}),
			"controller: transmit error warning, transmit error passive", BusErrorPassive},
		{errorFrame(unix.CAN_ERR_CRTL, map[int]byte{1: unix.CAN_ERR_CRTL_ACTIVE}), "controller: error active again", BusErrorActive},
		{errorFrame(unix.CAN_ERR_CRTL, map[int]byte{1: 0x80}), "controller: bit 0x80", none},
		{errorFrame(unix.CAN_ERR_PROT, nil), "protocol violation", none},
		{errorFrame(unix.CAN_ERR_PROT|unix.CAN_ERR_BUSERROR, map[int]byte{2: unix.CAN_ERR_PROT_STUFF, 3: unix.CAN_ERR_PROT_LOC_DATA}),
			"protocol violation: stuff error at data; bus error", none},
		{errorFrame(unix.CAN_ERR_PROT, map[int]byte{2: unix.CAN_ERR_PROT_BIT | unix.CAN_ERR_PROT_FORM | unix.CAN_ERR_PROT_TX}),
			"protocol violation: bit error, form error, while sending", none},
		{errorFrame(unix.CAN_ERR_PROT, map[int]byte{2: unix.CAN_ERR_PROT_BIT0 | unix.CAN_ERR_PROT_OVERLOAD, 3: unix.CAN_ERR_PROT_LOC_SOF}),
			"protocol violation: dominant bit could not be sent, overload at start of frame", none},
		{errorFrame(unix.CAN_ERR_PROT, map[int]byte{2: unix.CAN_ERR_PROT_BIT1 | unix.CAN_ERR_PROT_ACTIVE, 3: unix.CAN_ERR_PROT_LOC_CRC_SEQ}),
			"protocol violation: recessive bit could not be sent, active error flag at CRC sequence", none},
		{errorFrame(unix.CAN_ERR_PROT, map[int]byte{3: 0x1F}), "protocol violation: at position 0x1F", none},
		{errorFrame(unix.CAN_ERR_TRX, map[int]byte{4: unix.CAN_ERR_TRX_CANH_NO_WIRE | unix.CAN_ERR_TRX_CANL_SHORT_TO_GND}),
			"transceiver: CAN_H: no wire, CAN_L: short to ground", none},
		{errorFrame(unix.CAN_ERR_TRX, map[int]byte{4: unix.CAN_ERR_TRX_CANL_SHORT_TO_CANH}), "transceiver: CAN_L: short to CAN_H", none},
		{errorFrame(unix.CAN_ERR_TRX, map[int]byte{4: unix.CAN_ERR_TRX_CANH_SHORT_TO_BAT}), "transceiver: CAN_H: short to battery", none},
		{errorFrame(unix.CAN_ERR_TRX, map[int]byte{4: unix.CAN_ERR_TRX_CANH_SHORT_TO_VCC | unix.CAN_ERR_TRX_CANL_SHORT_TO_VCC}),
			"transceiver: CAN_H: short to supply, CAN_L: short to supply", none},
		{errorFrame(unix.CAN_ERR_TRX, map[int]byte{4: 0x91}), "transceiver: status 0x01, status 0x90", none},
		{errorFrame(unix.CAN_ERR_ACK|unix.CAN_ERR_CNT, map[int]byte{6: 128}), "no acknowledgement; counters: 128 transmit, 0 receive", none},
		{errorFrame(unix.CAN_ERR_BUSOFF, nil), "bus-off", BusOff},
		{errorFrame(unix.CAN_ERR_BUSOFF|unix.CAN_ERR_CRTL, map[int]byte{1: unix.CAN_ERR_CRTL_TX_PASSIVE}), "controller: transmit error passive; bus-off", BusOff},
		{errorFrame(unix.CAN_ERR_RESTARTED, nil), "restarted", BusErrorActive},
		{errorFrame(unix.CAN_ERR_RESTARTED|unix.CAN_ERR_CRTL, map[int]byte{1: unix.CAN_ERR_CRTL_RX_WARNING}), "controller: receive error warning; restarted", BusErrorWarning},
		{errorFrame(0, nil), "nothing", none},
		{errorFrame(0x8000, nil), "unknown class 0x8000", none},
		// Details of classes that are not named count for nothing, and those behind the end of the frame neither.
		{errorFrame(unix.CAN_ERR_ACK, map[int]byte{0: 1, 1: unix.CAN_ERR_CRTL_TX_PASSIVE, 2: 1, 4: 4, 6: 9}), "no acknowledgement", none},
		{&Frame{ID: unix.CAN_ERR_CRTL | unix.CAN_ERR_CNT, Len: 1, Flags: FlagError, Data: [MaxLen]byte{0, unix.CAN_ERR_CRTL_TX_PASSIVE, 6: 9}}, "controller", none},
	} {
		r, ok := ParseErrorFrame(test.frame)
		if !ok {
			t.Fatalf("%+v is none", test.frame)
		}
		if got := r.String(); got != test.text {
			t.Errorf("class 0x%X, data % X:\n%s, want\n%s", test.frame.ID, test.frame.Payload(), got, test.text)
		}
		if state, known := r.State(); known != (test.state != none) || known && state != test.state {
			t.Errorf("%s: state %v, %t", test.text, state, known)
		}
	}
	if _, ok := ParseErrorFrame(&Frame{ID: unix.CAN_ERR_BUSOFF, Len: 8}); ok {
		t.Error("a data frame was taken for an error frame")
	}
}

// Every location of the header has a text.
func TestErrorLocations(t *testing.T) {
	for _, location := range []byte{
		unix.CAN_ERR_PROT_LOC_SOF, unix.CAN_ERR_PROT_LOC_ID28_21, unix.CAN_ERR_PROT_LOC_ID20_18, unix.CAN_ERR_PROT_LOC_SRTR,
		unix.CAN_ERR_PROT_LOC_IDE, unix.CAN_ERR_PROT_LOC_ID17_13, unix.CAN_ERR_PROT_LOC_ID12_05, unix.CAN_ERR_PROT_LOC_ID04_00,
		unix.CAN_ERR_PROT_LOC_RTR, unix.CAN_ERR_PROT_LOC_RES1, unix.CAN_ERR_PROT_LOC_RES0, unix.CAN_ERR_PROT_LOC_DLC,
		unix.CAN_ERR_PROT_LOC_DATA, unix.CAN_ERR_PROT_LOC_CRC_SEQ, unix.CAN_ERR_PROT_LOC_CRC_DEL, unix.CAN_ERR_PROT_LOC_ACK,
		unix.CAN_ERR_PROT_LOC_ACK_DEL, unix.CAN_ERR_PROT_LOC_EOF, unix.CAN_ERR_PROT_LOC_INTERM,
	} {
		r, _ := ParseErrorFrame(errorFrame(unix.CAN_ERR_PROT, map[int]byte{3: location}))
		if text := r.String(); strings.Contains(text, "0x") {
			t.Errorf("0x%02X: %s", location, text)
		}
	}
}

// The numbers are the kernel's.
func TestBusStateNumbers(t *testing.T) {
	for state, number := range map[BusState]int{
		BusErrorActive: unix.CAN_STATE_ERROR_ACTIVE, BusErrorWarning: unix.CAN_STATE_ERROR_WARNING, BusErrorPassive: unix.CAN_STATE_ERROR_PASSIVE,
		BusOff: unix.CAN_STATE_BUS_OFF, BusStopped: unix.CAN_STATE_STOPPED, BusSleeping: unix.CAN_STATE_SLEEPING,
	} {
		if int(state) != number {
			t.Errorf("%v is %d, the kernel has %d", state, state, number)
		}
	}
	for _, state := range BusStates() {
		if state.String() == "unknown" {
			t.Errorf("state %d has no name", uint8(state))
		}
	}
}

func TestErrorFrameAllocatesNothing(t *testing.T) {
	f := errorFrame(0x3FF, map[int]byte{1: 0x20, 6: 128, 7: 1})
	var sum int
	if n := testing.AllocsPerRun(100, func() {
		r, _ := ParseErrorFrame(f)
		state, _ := r.State()
		sum += int(state)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzErrorFrame(f *testing.F) {
	f.Add(uint32(unix.CAN_ERR_CRTL|unix.CAN_ERR_CNT), uint8(8), uint8(FlagError), []byte{0, 0x20, 0, 0, 0, 0, 128, 1})
	f.Add(uint32(unix.CAN_ERR_MASK), uint8(255), uint8(FlagError|FlagFD), []byte{255, 255, 255, 255, 255, 255, 255, 255})
	f.Add(uint32(unix.CAN_ERR_PROT), uint8(3), uint8(FlagError), []byte{0, 0, 4, 10})
	f.Fuzz(func(t *testing.T, id uint32, length, flags uint8, data []byte) {
		frame := Frame{ID: id, Len: length, Flags: Flags(flags)}
		copy(frame.Data[:], data)
		r, ok := ParseErrorFrame(&frame)
		if ok != (frame.Flags&FlagError != 0) {
			t.Fatal(ok)
		}
		if r.String() == "" {
			t.Error("no words for it")
		}
		if state, known := r.State(); known && state > BusOff {
			t.Errorf("state %v", state)
		}
		if r.Classes&ErrorCounters == 0 && (r.TxErrors != 0 || r.RxErrors != 0) {
			t.Errorf("counters that the frame does not give: %+v", r)
		}
	})
}
