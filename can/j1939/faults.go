// Package j1939 reads the payloads of J1939 and NMEA 2000 messages that a DBC file cannot describe: lists of trouble
// codes and the names of nodes. It knows bytes only: how they came, and who wants to know, is decided elsewhere.
package j1939

import (
	"encoding/binary"
	"errors"
)

// Parameter groups whose payloads ParseFaults reads.
const (
	GroupDM1 = 65226 // active trouble codes
	GroupDM2 = 65227 // previously active trouble codes
)

// LampState says whether a lamp is on.
type LampState uint8

// The states of a lamp (SAE J1939-73 §5.7.1).
const (
	LampOff LampState = iota
	LampOn
	LampError        // reserved
	LampNotAvailable // the sender has no such lamp
)

// LampFlash says how a lamp that is on flashes.
type LampFlash uint8

// The ways to flash (SAE J1939-73 §5.7.1).
const (
	FlashSlow LampFlash = iota // once a second
	FlashFast                  // twice a second or faster
	FlashReserved
	FlashNone // steady, or not known
)

// Lamp is what one lamp of the dashboard shows.
type Lamp struct {
	State LampState
	Flash LampFlash
}

// Lamps are those that a node asks for.
type Lamps struct {
	Malfunction Lamp // MIL: emissions
	Stop        Lamp // red: stop the vehicle
	Warning     Lamp // amber: a fault that needs no stop
	Protect     Lamp // a fault that is most likely not of the electronics
}

// DTC is a diagnostic trouble code.
type DTC struct {
	SPN         uint32 // suspect parameter number: what is at fault
	FMI         uint8  // failure mode identifier: how
	Occurrences uint8  // times it became active; 127 where that is not known
	// OldConversion reports a set conversion method bit: the sender orders the bits of the SPN in one of three older ways,
	// which the code itself does not tell apart. SPN is read in today's order and may be wrong.
	OldConversion bool
}

// Faults is what a DM1 or DM2 says.
type Faults struct {
	Lamps Lamps
	Codes []DTC // none where the sender has no fault
}

// ErrShort says that a payload ends before what it must have.
var ErrShort = errors.New("the payload is too short")

// Lengths in a DM1.
const (
	lampBytes = 2
	dtcBytes  = 4
)

// ParseFaults reads the payload of a DM1 or DM2 (SAE J1939-73 §5.7.1–5.7.2): two bytes of lamps and four a trouble code.
// The two entries that say that there is no fault, all zeros and, from older senders, all ones, are left out, and so
// are the bytes that fill up a frame.
func ParseFaults(payload []byte) (Faults, error) {
	if len(payload) < lampBytes+dtcBytes {
		return Faults{}, ErrShort
	}
	lamp := func(shift int) Lamp {
		return Lamp{LampState(payload[0] >> shift & 3), LampFlash(payload[1] >> shift & 3)}
	}
	f := Faults{Lamps: Lamps{Malfunction: lamp(6), Stop: lamp(4), Warning: lamp(2), Protect: lamp(0)}}
	f.Codes = ParseDTCs(payload[lampBytes:])
	return f, nil
}

// ParseDTCs reads trouble codes of four bytes each (SAE J1939-73 §5.7.1): the SPN in 19 bits, its lower two bytes first,
// the FMI in 5, the conversion method in the top bit of the last byte and the occurrences below.
func ParseDTCs(codes []byte) []DTC {
	const noFault, noFaultOld = 0, 1<<32 - 1
	var list []DTC
	for ; len(codes) >= dtcBytes; codes = codes[dtcBytes:] {
		x := binary.LittleEndian.Uint32(codes)
		if x == noFault || x == noFaultOld {
			continue
		}
		list = append(list, DTC{
			SPN:           x&0xFFFF | x>>21&7<<16,
			FMI:           uint8(x >> 16 & 0x1F),
			Occurrences:   uint8(x >> 24 & 0x7F),
			OldConversion: x>>31 != 0,
		})
	}
	return list
}
