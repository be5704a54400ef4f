package can

import (
	"math"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// CatalogueSignal describes a signal for a catalogue. Its name is MESSAGE.SIGNAL; the caller puts the bus in front, and
// fills in what a DBC file cannot know: the id, the source and the group.
func (db *Database) CatalogueSignal(m *Message, s *Signal) *telemetrypb.Signal {
	out := &telemetrypb.Signal{
		Name:    m.Name + "." + s.Name,
		Unit:    s.Unit,
		Scale:   s.Scale,
		Offset:  s.Offset,
		Type:    s.valueType(),
		Message: m.Name,
		Comment: s.Comment,
		DbcHash: db.Hash[:],
	}
	if s.Min != 0 || s.Max != 0 {
		low, high := s.Min, s.Max
		out.Min, out.Max = &low, &high
	}
	for _, l := range s.Labels {
		out.Labels = append(out.Labels, &telemetrypb.Label{Value: l.Value, Text: l.Text})
	}
	return out
}

func (s *Signal) valueType() telemetrypb.ValueType {
	switch {
	case s.Encoding != EncodingInteger:
		return telemetrypb.ValueType_VALUE_TYPE_FLOAT
	case s.Signed:
		return telemetrypb.ValueType_VALUE_TYPE_INT
	}
	return telemetrypb.ValueType_VALUE_TYPE_UINT
}

// WholeScale reports whether physical values are whole numbers: an integer encoding with a whole scale and offset. They
// are then exact as integers, where a float64 keeps 53 bits.
func (s *Signal) WholeScale() (scale, offset int64, ok bool) {
	whole := func(v float64) bool { return v == math.Trunc(v) && v >= -1<<63 && v < 1<<63 }
	if s.Encoding != EncodingInteger || !whole(s.Scale) || !whole(s.Offset) {
		return 0, 0, false
	}
	return int64(s.Scale), int64(s.Offset), true
}
