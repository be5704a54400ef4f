package uds

import (
	"encoding/binary"
	"fmt"
)

// VINIdentifier is the data identifier of the vehicle identification number (annex C.1).
const VINIdentifier = 0xF190

// Value is the data of one identifier.
type Value struct {
	ID   uint16
	Data []byte
}

// AppendReadData appends a request for data identifiers (§11.2.2).
func AppendReadData(dst []byte, ids ...uint16) []byte {
	dst = append(dst, ReadDataByIdentifier)
	for _, id := range ids {
		dst = binary.BigEndian.AppendUint16(dst, id)
	}
	return dst
}

// DecodeReadData takes the response to AppendReadData(ids) apart. A response does not say how long the data of each
// identifier are: length does, in bytes, and may be nil for a single one. The order is the request's.
func DecodeReadData(response []byte, length func(id uint16) (int, bool), ids ...uint16) ([]Value, error) {
	data, err := Check(ReadDataByIdentifier, response)
	if err != nil {
		return nil, err
	}
	values := make([]Value, 0, len(ids))
	for i, id := range ids {
		if len(data) < 2 {
			return nil, fmt.Errorf("no data of %04X: %w", id, ErrMalformed)
		}
		if got := binary.BigEndian.Uint16(data); got != id {
			return nil, fmt.Errorf("%w: data of %04X where %04X were due", ErrOther, got, id)
		}
		data = data[2:]
		n := len(data)
		if length != nil {
			if known, ok := length(id); ok {
				n = known
			} else if i < len(ids)-1 {
				return nil, fmt.Errorf("%04X of unknown length before others: %w", id, ErrMalformed)
			}
		} else if len(ids) > 1 {
			return nil, fmt.Errorf("%d identifiers of unknown length: %w", len(ids), ErrMalformed)
		}
		if n < 0 || n > len(data) {
			return nil, fmt.Errorf("%d bytes of %04X, %d expected: %w", len(data), id, n, ErrMalformed)
		}
		values = append(values, Value{ID: id, Data: data[:n:n]})
		data = data[n:]
	}
	if len(data) != 0 {
		return nil, fmt.Errorf("%d bytes too many: %w", len(data), ErrMalformed)
	}
	return values, nil
}

// VIN reads a vehicle identification number: 17 characters of ISO 3779, after any filling.
func VIN(data []byte) (string, error) {
	for len(data) > 17 && (data[0] == 0 || data[0] == 0xFF) {
		data = data[1:]
	}
	for len(data) > 17 && (data[len(data)-1] == 0 || data[len(data)-1] == 0xFF || data[len(data)-1] == ' ') {
		data = data[:len(data)-1]
	}
	if len(data) != 17 {
		return "", fmt.Errorf("VIN of %d characters: %w", len(data), ErrMalformed)
	}
	for _, c := range data {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' && c != 'I' && c != 'O' && c != 'Q') {
			return "", fmt.Errorf("VIN %q: %w", data, ErrMalformed)
		}
	}
	return string(data), nil
}
