package diagnose

import (
	"encoding/hex"
	"fmt"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func TestValues(t *testing.T) {
	for _, c := range []struct {
		value Value
		data  string
		want  any // nil: too short
	}{
		{Value{Bits: 8}, "FF", uint64(255)},
		{Value{Start: 4, Bits: 8}, "12345678", uint64(0x23)},
		{Value{Bits: 64}, "FFFFFFFFFFFFFFFE", uint64(1<<64 - 2)},
		{Value{Bits: 64}, "FFFFFFFFFFFFFF", nil},
		{Value{Start: 1, Bits: 8}, "FF", nil},
		{Value{Type: Int, Bits: 64}, "FFFFFFFFFFFFFFFE", int64(-2)},
		{Value{Type: Int, Start: 4, Bits: 4}, "08", int64(-8)},
		{Value{Type: Int, Bits: 1}, "80", int64(-1)},
		{Value{Type: Float, Bits: 32}, "C2C80000", -100.0},
		{Value{Type: Float, Start: 8, Bits: 64}, "00400921FB54442D18", 3.141592653589793},
		{Value{Type: ASCII}, "00004142FFFF", "AB"},
		{Value{Type: ASCII}, "41C34220", "A.B"},
		{Value{Type: ASCII, Start: 8, Bits: 16}, "41424344", "BC"},
		{Value{Type: ASCII, Start: 8, Bits: 16}, "4142", nil},
		{Value{Type: ASCII}, "", ""},
		{Value{Type: Hex, Start: 8}, "41c34220", "C34220"},
		{Value{Type: Hex, Start: 64}, "41", nil},
	} {
		data, err := hex.DecodeString(c.data)
		if err != nil {
			t.Fatal(err)
		}
		c.value.ID = 7
		s, ok := c.value.Sample(data, 3)
		var got any
		switch {
		case !ok:
		case s.Kind == telemetrypb.KindUint:
			got = s.Bits
		case s.Kind == telemetrypb.KindInt:
			got = int64(s.Bits)
		case s.Kind == telemetrypb.KindFloat:
			got = s.Float()
		default:
			got = s.Str
		}
		if fmt.Sprintf("%T %v", got, got) != fmt.Sprintf("%T %v", c.want, c.want) || ok && (s.Signal != 7 || s.Time != 3) {
			t.Errorf("%+v of %s: %v, want %v", c.value, c.data, got, c.want)
		}
	}
}
