package uds

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Sub-functions of ReadDTCInformation that are asked for (§11.3.2).
const (
	numberByStatus = 0x01
	listByStatus   = 0x02
	snapshot       = 0x04
	extendedData   = 0x06
)

// AllRecords asks for every snapshot or extended data record of a DTC.
const AllRecords = 0xFF

// Status is the status byte of a DTC (annex D.2).
type Status uint8

// The bits of a Status.
const (
	TestFailed Status = 1 << iota
	TestFailedThisOperationCycle
	PendingDTC
	ConfirmedDTC
	TestNotCompletedSinceLastClear
	TestFailedSinceLastClear
	TestNotCompletedThisOperationCycle
	WarningIndicatorRequested
)

// statusNames are the standard's, from bit 0.
var statusNames = [8]string{
	"testFailed", "testFailedThisOperationCycle", "pendingDTC", "confirmedDTC", "testNotCompletedSinceLastClear",
	"testFailedSinceLastClear", "testNotCompletedThisOperationCycle", "warningIndicatorRequested",
}

// String names the bits that are set, joined by |; "0" for none.
func (s Status) String() string {
	var names []string
	for bit, name := range statusNames {
		if s>>bit&1 != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "0"
	}
	return strings.Join(names, "|")
}

// DTC is a diagnostic trouble code of three bytes: in ISO 15031-6's form two of code and one of failure type.
type DTC uint32

// String is the code in the form of workshops with its failure type: P0123-1C.
func (d DTC) String() string {
	return fmt.Sprintf("%c%d%03X-%02X", "PCBU"[d>>22&3], d>>20&3, uint32(d>>8&0xFFF), uint8(d))
}

// DTCStatus is a DTC with its status.
type DTCStatus struct {
	DTC    DTC
	Status Status
}

// Count is the response to AppendCountDTCs.
type Count struct {
	Available Status // the bits that the unit supports
	Format    uint8  // what a DTC's bytes are (annex D.4): 0 ISO 15031-6, 1 ISO 14229-1, 2 SAE J1939-73, 3 ISO 11992-4, 4 as 0 with failure type
	Count     uint16
}

// Record is one snapshot or extended data record of a DTC.
type Record struct {
	DTCStatus
	Number uint8
	Values []Value // of a snapshot
	// Data is what the response does not say how to take apart: an extended data record, or from the first identifier of
	// unknown length on.
	Data []byte
}

// AppendCountDTCs appends a request for the number of DTCs that have one of the bits (§11.3.2.2, sub-function 01).
func AppendCountDTCs(dst []byte, mask Status) []byte {
	return append(dst, ReadDTCInformation, numberByStatus, uint8(mask))
}

// AppendListDTCs appends a request for the DTCs that have one of the bits (sub-function 02).
func AppendListDTCs(dst []byte, mask Status) []byte {
	return append(dst, ReadDTCInformation, listByStatus, uint8(mask))
}

// AppendSnapshot appends a request for a snapshot record of a DTC (sub-function 04); AllRecords asks for all.
func AppendSnapshot(dst []byte, d DTC, record uint8) []byte {
	return append(dst, ReadDTCInformation, snapshot, byte(d>>16), byte(d>>8), byte(d), record)
}

// AppendExtendedData appends a request for an extended data record of a DTC (sub-function 06).
func AppendExtendedData(dst []byte, d DTC, record uint8) []byte {
	return append(dst, ReadDTCInformation, extendedData, byte(d>>16), byte(d>>8), byte(d), record)
}

// checkDTC is Check for a sub-function.
func checkDTC(sub uint8, response []byte, least int) ([]byte, error) {
	data, err := Check(ReadDTCInformation, response)
	switch {
	case err != nil:
		return nil, err
	case len(data) < 1+least:
		return nil, fmt.Errorf("% X: %w", response, ErrMalformed)
	case data[0] != sub:
		return nil, fmt.Errorf("%w: sub-function %02X", ErrOther, data[0])
	}
	return data[1:], nil
}

// DecodeCountDTCs takes the response to AppendCountDTCs apart.
func DecodeCountDTCs(response []byte) (c Count, err error) {
	data, err := checkDTC(numberByStatus, response, 4)
	if err != nil {
		return c, err
	}
	return Count{Available: Status(data[0]), Format: data[1], Count: binary.BigEndian.Uint16(data[2:])}, nil
}

// DecodeListDTCs takes the response to AppendListDTCs apart.
func DecodeListDTCs(response []byte) (available Status, list []DTCStatus, err error) {
	data, err := checkDTC(listByStatus, response, 1)
	if err != nil {
		return 0, nil, err
	}
	available, data = Status(data[0]), data[1:]
	if len(data)%4 != 0 {
		return 0, nil, fmt.Errorf("%d bytes of DTCs: %w", len(data), ErrMalformed)
	}
	for ; len(data) > 0; data = data[4:] {
		list = append(list, dtcStatus(data))
	}
	return available, list, nil
}

func dtcStatus(b []byte) DTCStatus {
	return DTCStatus{DTC: DTC(b[0])<<16 | DTC(b[1])<<8 | DTC(b[2]), Status: Status(b[3])}
}

// DecodeSnapshot takes the response to AppendSnapshot apart. The response does not say how long the data of an
// identifier are; length does. From the first one that it does not know, the bytes stay together in Data: where the next
// record begins is unknown from there on.
func DecodeSnapshot(response []byte, length func(id uint16) (int, bool)) (records []Record, err error) {
	data, err := checkDTC(snapshot, response, 4)
	if err != nil {
		return nil, err
	}
	status := dtcStatus(data)
	data = data[4:]
	for len(data) > 0 {
		if len(data) < 2 {
			return nil, fmt.Errorf("a snapshot record of %d bytes: %w", len(data), ErrMalformed)
		}
		r := Record{DTCStatus: status, Number: data[0]}
		count := data[1]
		data = data[2:]
		for range count {
			if len(data) < 2 {
				return nil, fmt.Errorf("record %02X ends within an identifier: %w", r.Number, ErrMalformed)
			}
			id := binary.BigEndian.Uint16(data)
			n, known := 0, false
			if length != nil {
				n, known = length(id)
			}
			if !known {
				r.Data = data
				return append(records, r), nil
			}
			if n < 0 || n > len(data)-2 {
				return nil, fmt.Errorf("record %02X ends within %04X: %w", r.Number, id, ErrMalformed)
			}
			r.Values = append(r.Values, Value{ID: id, Data: data[2 : 2+n : 2+n]})
			data = data[2+n:]
		}
		records = append(records, r)
	}
	return records, nil
}

// DecodeExtendedData takes the response to AppendExtendedData for one record apart. ok is false when the DTC has none.
func DecodeExtendedData(response []byte) (r Record, ok bool, err error) {
	data, err := checkDTC(extendedData, response, 4)
	if err != nil {
		return r, false, err
	}
	r.DTCStatus = dtcStatus(data)
	if data = data[4:]; len(data) == 0 {
		return r, false, nil
	}
	r.Number, r.Data = data[0], data[1:]
	return r, true, nil
}
