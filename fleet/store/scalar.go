package store

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// scalarOf is a sample's raw value.
func scalarOf(kind telemetrypb.Kind, bits uint64) Scalar { return Scalar{Kind: kind, Bits: bits} }

// RawOf is the exact raw value of a sample.
func RawOf(s telemetrypb.Sample) Scalar { return Scalar{Kind: s.Kind, Bits: s.Bits, Text: s.Str} }

// ValueOf is the physical value of a sample: exact for integers without scale and offset, and none for text.
func ValueOf(s telemetrypb.Sample, scale, offset float64) Scalar {
	switch {
	case s.Kind == telemetrypb.KindString || s.Kind == telemetrypb.KindNone:
		return Scalar{}
	case s.Kind != telemetrypb.KindFloat && (scale == 1 || scale == 0) && offset == 0:
		return scalarOf(s.Kind, s.Bits)
	}
	return scalarOf(telemetrypb.KindFloat, math.Float64bits(s.Physical(scale, offset)))
}

// column is how a value stands in an untyped column: SQLite has neither unsigned numbers above 2^63−1 nor NaN, so
// these stand as 8 bytes, big-endian.
func (s Scalar) column() any {
	switch s.Kind {
	case telemetrypb.KindInt:
		return int64(s.Bits)
	case telemetrypb.KindUint:
		if s.Bits <= math.MaxInt64 {
			return int64(s.Bits)
		}
		return binary.BigEndian.AppendUint64(nil, s.Bits)
	case telemetrypb.KindFloat:
		if f := math.Float64frombits(s.Bits); f == f {
			return f
		}
		return binary.BigEndian.AppendUint64(nil, s.Bits)
	case telemetrypb.KindString:
		return s.Text
	case KindBlob:
		return []byte(s.Text)
	}
	return nil
}

// scalarFrom reads what column wrote.
func scalarFrom(kind telemetrypb.Kind, column any) (Scalar, error) {
	s := Scalar{Kind: kind}
	switch v := column.(type) {
	case nil:
		return Scalar{}, nil
	case int64:
		s.Bits = uint64(v)
	case float64:
		s.Bits = math.Float64bits(v)
	case string:
		s.Text = v
	case []byte:
		if kind == KindBlob || kind == telemetrypb.KindString {
			s.Text = string(v)
		} else if len(v) == 8 {
			s.Bits = binary.BigEndian.Uint64(v)
		} else {
			return s, fmt.Errorf("a number of %d bytes", len(v))
		}
	default:
		return s, fmt.Errorf("a value of type %T", column)
	}
	return s, nil
}

// columns are wall_ns and uncertainty: NULL where nothing is known.
func (t Time) columns() (wall, uncertainty any) {
	if t.Source == telemetrypb.TimeSource_TIME_SOURCE_NONE {
		return nil, nil
	}
	return t.UnixNS, int64(min(t.UncertaintyNS, math.MaxInt64))
}

const insertHead = "INSERT INTO samples (batch, idx, signal, boot_ns, wall_ns, uncertainty, time_source, kind, raw, value, label) VALUES "

const insertTuple = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

const insertSample = insertHead + insertTuple

var insertSamples = insertHead + strings.Repeat(insertTuple+", ", sampleRows-1) + insertTuple
