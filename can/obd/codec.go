package obd

import (
	"errors"
	"fmt"
	"slices"

	"github.com/waybill-telematics/waybill/can/uds"
)

// The modes of J1979 that are asked for; ISO 15031-5 calls them services.
const (
	Current    = 0x01
	Freeze     = 0x02
	Stored     = 0x03
	PendingDTC = 0x07
	Vehicle    = 0x09
	Permanent  = 0x0A
)

// MaxPIDs is how many PIDs one request of mode 01 may name (ISO 15031-5 §7.1.2); of mode 02 it is half as many.
const MaxPIDs = 6

// Information types of mode 09.
const (
	InfoVIN          = 0x02
	InfoCalibration  = 0x04
	InfoVerification = 0x06
	InfoName         = 0x0A
)

// Errors of requests and answers, beside uds.NegativeError.
var (
	ErrRequest   = errors.New("no such request")                         // too many PIDs, none, or another mode
	ErrMalformed = errors.New("the answer is not what J1979 has for it") // too short, too long, or of other contents than asked
)

// Value is the data of one PID, or of one information type.
type Value struct {
	PID   uint8
	Frame uint8 // of a freeze frame; 0 otherwise
	Data  []byte
}

// AppendCurrent appends a request of mode 01 for up to MaxPIDs PIDs.
func AppendCurrent(dst []byte, pids ...uint8) ([]byte, error) {
	if len(pids) == 0 || len(pids) > MaxPIDs {
		return dst, fmt.Errorf("%d PIDs of 1–%d: %w", len(pids), MaxPIDs, ErrRequest)
	}
	return append(append(dst, Current), pids...), nil
}

// AppendFreeze appends a request of mode 02 for up to MaxPIDs/2 PIDs of a freeze frame.
func AppendFreeze(dst []byte, frame uint8, pids ...uint8) ([]byte, error) {
	if len(pids) == 0 || len(pids) > MaxPIDs/2 {
		return dst, fmt.Errorf("%d PIDs of 1–%d: %w", len(pids), MaxPIDs/2, ErrRequest)
	}
	dst = append(dst, Freeze)
	for _, pid := range pids {
		dst = append(dst, pid, frame)
	}
	return dst, nil
}

// AppendCodes appends a request for trouble codes: mode Stored, PendingDTC or Permanent.
func AppendCodes(dst []byte, mode uint8) ([]byte, error) {
	if mode != Stored && mode != PendingDTC && mode != Permanent {
		return dst, fmt.Errorf("mode %02X for trouble codes: %w", mode, ErrRequest)
	}
	return append(dst, mode), nil
}

// AppendVehicle appends a request of mode 09.
func AppendVehicle(dst []byte, info uint8) []byte { return append(dst, Vehicle, info) }

// check takes the mode off an answer.
func check(mode uint8, answer []byte) ([]byte, error) {
	data, err := uds.Check(mode, answer)
	if err != nil {
		return nil, fmt.Errorf("mode %02X: %w", mode, err)
	}
	return data, nil
}

// DecodeCurrent takes an answer to a request of mode 01 for PIDs apart. A unit answers those that it has, in any order. An
// answer does not say how long the data of a PID are: the table does, and where one PID alone was asked for, the answer's
// own end. Data of the values are part of answer.
func DecodeCurrent(answer []byte, asked ...uint8) ([]Value, error) {
	data, err := check(Current, answer)
	if err != nil {
		return nil, err
	}
	return split(data, 1, asked)
}

// DecodeFreeze takes an answer of mode 02 apart, as DecodeCurrent.
func DecodeFreeze(answer []byte, asked ...uint8) ([]Value, error) {
	data, err := check(Freeze, answer)
	if err != nil {
		return nil, err
	}
	return split(data, 2, asked)
}

// split parts the data of several PIDs, each behind a head of its number and, in mode 02, its frame.
func split(data []byte, head int, asked []uint8) (values []Value, err error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("no PID: %w", ErrMalformed)
	}
	for len(data) > 0 {
		if len(data) < head {
			return values, fmt.Errorf("%d bytes behind the last PID: %w", len(data), ErrMalformed)
		}
		v := Value{PID: data[0]}
		if head == 2 {
			v.Frame = data[1]
		}
		data = data[head:]
		if !slices.Contains(asked, v.PID) {
			return values, fmt.Errorf("PID %02X was not asked for: %w", v.PID, ErrMalformed)
		}
		pid, known := Lookup(v.PID)
		n := len(data)
		switch {
		case len(asked) == 1 && (!known || n >= int(pid.Len) || n > 0 && pid.Len > 4): // older editions have fewer sensors in some: 6D, 6E, 83
		case !known:
			return values, fmt.Errorf("PID %02X of unknown length: %w", v.PID, ErrMalformed)
		case n < int(pid.Len):
			return values, fmt.Errorf("%d bytes of PID %02X, which has %d: %w", n, v.PID, pid.Len, ErrMalformed)
		default:
			n = int(pid.Len)
		}
		v.Data = data[:n:n]
		values, data = append(values, v), data[n:]
	}
	return values, nil
}

// DTC is a trouble code of two bytes (ISO 15031-6).
type DTC uint16

// String is the code as workshops write it: P0123, C…, B…, U….
func (d DTC) String() string {
	return fmt.Sprintf("%c%d%03X", "PCBU"[d>>14], d>>12&3, uint16(d&0xFFF))
}

// DecodeCodes takes an answer of mode Stored, PendingDTC or Permanent apart.
func DecodeCodes(mode uint8, answer []byte) ([]DTC, error) {
	data, err := check(mode, answer)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 || len(data) != 1+2*int(data[0]) {
		return nil, fmt.Errorf("% X: %w", answer, ErrMalformed)
	}
	var codes []DTC
	for data = data[1:]; len(data) > 0; data = data[2:] {
		codes = append(codes, DTC(data[0])<<8|DTC(data[1]))
	}
	return codes, nil
}

// infoSize is how many bytes an item of an information type has; 0 when the answer is one item.
func infoSize(info uint8) int {
	switch info {
	case InfoCalibration:
		return 16
	case InfoVerification:
		return 4
	}
	return 0
}

// DecodeVehicle takes an answer of mode 09 apart into its items. For a bitmap that is one item of four bytes.
func DecodeVehicle(info uint8, answer []byte) (items [][]byte, err error) {
	data, err := check(Vehicle, answer)
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0 || data[0] != info:
		return nil, fmt.Errorf("information type %02X: % X: %w", info, answer, ErrMalformed)
	case IsBitmap(info):
		if len(data) != 5 {
			return nil, fmt.Errorf("bitmap %02X: % X: %w", info, answer, ErrMalformed)
		}
		return [][]byte{data[1:]}, nil
	case len(data) < 2:
		return nil, fmt.Errorf("information type %02X has no count: %w", info, ErrMalformed)
	}
	count, size := int(data[1]), infoSize(info)
	data = data[2:]
	if size == 0 {
		return [][]byte{data}, nil
	}
	if len(data) != count*size {
		return nil, fmt.Errorf("information type %02X: %d bytes are not %d × %d: %w", info, len(data), count, size, ErrMalformed)
	}
	for ; len(data) > 0; data = data[size:] {
		items = append(items, data[:size:size])
	}
	return items, nil
}

// Text reads an item of mode 09 that is text: without its filling, and without what cannot be printed.
func Text(item []byte) string {
	text := make([]byte, 0, len(item))
	for _, c := range item {
		if c >= 0x20 && c < 0x7F {
			text = append(text, c)
		}
	}
	for len(text) > 0 && text[len(text)-1] == ' ' {
		text = text[:len(text)-1]
	}
	return string(text)
}
