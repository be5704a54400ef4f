package obd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/uds"
)

// vehicle answers requests by a script: request → unit and answer, over ISO-TP frames.
type vehicle struct {
	*isotp.Tap
	t       *testing.T
	answers map[string][]string // "010C" → "7E8 410C1AF8"
	asked   []string
	rest    map[uint32][]can.Frame // consecutive frames that wait for flow control
}

// Send implements isotp.Sender.
func (v *vehicle) Send(_ context.Context, f *can.Frame) error {
	if f.Data[0]>>4 == 3 {
		for _, next := range v.rest[f.ID+8] {
			v.Offer(&next)
		}
		return nil
	}
	request := strings.ToUpper(hex.EncodeToString(f.Data[1 : 1+f.Data[0]]))
	v.asked = append(v.asked, request)
	for _, line := range v.answers[request] {
		var id uint32
		var text string
		if _, err := fmt.Sscanf(line, "%X %s", &id, &text); err != nil {
			v.t.Fatal(err)
		}
		data, err := hex.DecodeString(text)
		if err != nil {
			v.t.Fatal(err)
		}
		answer := can.Frame{ID: id, Len: 8}
		if len(data) <= 7 {
			answer.Data[0] = byte(len(data))
			copy(answer.Data[1:], data)
			v.Offer(&answer)
			continue
		}
		answer.Data[0], answer.Data[1] = 0x10|byte(len(data)>>8), byte(len(data))
		copy(answer.Data[2:8], data)
		v.rest[id] = nil
		for i, part := range slices.Collect(slices.Chunk(data[6:], 7)) {
			next := can.Frame{ID: id, Len: 8}
			next.Data[0] = 0x20 | byte(i+1)&15
			copy(next.Data[1:8], part)
			v.rest[id] = append(v.rest[id], next)
		}
		v.Offer(&answer)
	}
	return nil
}

type bubble struct{ began time.Time }

func (b bubble) Boot() int64     { return int64(time.Since(b.began)) }
func (b bubble) Wall() time.Time { return time.Now() }

func drive(t *testing.T, answers map[string][]string, test func(t *testing.T, v *vehicle, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := &vehicle{t: t, answers: answers, rest: map[uint32][]can.Frame{}}
		v.Tap = isotp.NewTap(nil, 0, nil)
		o := Functional()
		o.Clock = bubble{time.Now()}
		conn, err := isotp.NewConn(v, o)
		if err != nil {
			t.Fatal(err)
		}
		test(t, v, NewClient(conn, Options{}))
	})
}

func TestSupportedWalksTheBitmaps(t *testing.T) {
	// The bits are J1979's own example: BE 1F A8 13.
	drive(t, map[string][]string{"0100": {"7E8 4100BE1FA813", "7E9 410080000000"}, "0120": {"7E8 412080000001"}, "0140": {"7E8 414000000000"}},
		func(t *testing.T, v *vehicle, c *Client) {
			units, err := c.Supported(t.Context())
			if err != nil || len(units) != 2 {
				t.Fatal(units, err)
			}
			want := []uint8{1, 3, 4, 5, 6, 7, 0xC, 0xD, 0xE, 0xF, 0x10, 0x11, 0x13, 0x15, 0x1C, 0x1F, 0x21}
			if got := units[0].Value.Values(); !slices.Equal(got, want) || !slices.Equal(units[1].Value.Values(), []uint8{1}) {
				t.Errorf("% X", got)
			}
			if !slices.Equal(v.asked, []string{"0100", "0120", "0140"}) {
				t.Errorf("%v", v.asked)
			}
		})
}

func TestCurrent(t *testing.T) {
	drive(t, map[string][]string{"010C0D0504": {"7E8 410C1AF80D2A057B0480", "7E9 410D2B"}}, func(t *testing.T, v *vehicle, c *Client) {
		answers, err := c.Current(t.Context(), 0x0C, 0x0D, 0x05, 0x04)
		if err != nil || len(answers) != 2 {
			t.Fatal(answers, err)
		}
		got := map[string]float64{}
		for _, a := range answers {
			for _, value := range a.Value {
				pid, _ := Lookup(value.PID)
				for _, r := range pid.Decode(value.Data, nil) {
					got[a.From.String()+" "+r.Field.Name] = r.Physical()
				}
			}
		}
		want := map[string]float64{"7E8 EngineSpeed": 1726, "7E8 VehicleSpeed": 42, "7E8 EngineCoolantTemperature": 83,
			"7E8 CalculatedEngineLoad": 128 * 100.0 / 255, "7E9 VehicleSpeed": 43}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v", got)
		}
	})
}

// Units that have a PID by their bitmaps are waited for, and no longer; one that answers another request is not taken for
// having answered.
func TestWaitsForTheUnitsThatHaveThePID(t *testing.T) {
	drive(t, map[string][]string{"0100": {"7E8 410000180000", "7E9 410000080000"}, "010C": {"7E8 410C1AF8"}, "010D": {"7E8 410D2A", "7E9 410D2B"}},
		func(t *testing.T, v *vehicle, c *Client) {
			if _, err := c.Supported(t.Context()); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			one, err := c.Current(t.Context(), 0x0C)
			two, err2 := c.Current(t.Context(), 0x0D)
			if err != nil || err2 != nil || len(one) != 1 || len(two) != 2 || time.Since(began) != 0 {
				t.Errorf("%v %v, %v %v in %v", one, err, two, err2, time.Since(began))
			}
			v.answers["010C"] = []string{"7E8 410D2A", "7E8 410C1AF8"}
			if one, err = c.Current(t.Context(), 0x0C); err != nil || len(one) != 1 {
				t.Errorf("%v %v", one, err)
			}
			v.answers["010D"] = []string{"7E9 410D2B"}
			if one, err = c.Current(t.Context(), 0x0D); err != nil || len(one) != 1 || time.Since(began) != DefaultP2 {
				t.Errorf("%v %v after %v", one, err, time.Since(began))
			}
		})
}

// A vehicle that answers one PID a request is asked so, and so from then on.
func TestOnePIDFallback(t *testing.T) {
	drive(t, map[string][]string{"010C": {"7E8 410C1AF8"}, "010D": {"7E8 410D2A"}, "010C0D": {"7E8 7F0112"}}, func(t *testing.T, v *vehicle, c *Client) {
		for range 2 {
			if answers, err := c.Current(t.Context(), 0x0C, 0x0D); err != nil || len(answers) != 2 {
				t.Fatal(answers, err)
			}
		}
		if !slices.Equal(v.asked, []string{"010C0D", "010C", "010D", "010C", "010D"}) {
			t.Errorf("%v", v.asked)
		}
	})
}

func TestCodesAndVehicleInformation(t *testing.T) {
	drive(t, map[string][]string{
		"03":     {"7E8 4304010380C1580123A0", "7E9 4300"},
		"07":     {"7E8 7F0778", "7E8 47010420"},
		"0902":   {"7E8 49020131443447", "7E9 4902013144344750303052353542313233343536"},
		"0904":   {"7E8 4904023132333435363738393000000000000041424300000000000000000000000000"},
		"020200": {"7E8 4202000143"},
	}, func(t *testing.T, v *vehicle, c *Client) {
		codes, err := c.Codes(t.Context(), Stored)
		if err != nil || len(codes) != 2 || codes[0].From.ID != 0x7E9 || fmt.Sprint(codes[1].Value) != "[P0103 B00C1 C1801 P23A0]" { // the single frame is first
			t.Errorf("%v %v", codes, err)
		}
		pending, err := c.Codes(t.Context(), PendingDTC)
		if err != nil || len(pending) != 1 || pending[0].Value[0].String() != "P0420" {
			t.Errorf("%v %v", pending, err)
		}
		vin, err := c.VIN(t.Context())
		if err != nil || vin != "1D4GP00R55B123456" {
			t.Errorf("%q %v", vin, err)
		}
		ids, err := c.CalibrationIDs(t.Context())
		if err != nil || fmt.Sprint(ids[0].Value) != "[1234567890 ABC]" {
			t.Errorf("%v %v", ids, err)
		}
		frames, err := c.FreezeFrame(t.Context(), 0, 2)
		if err != nil || hex.EncodeToString(frames[0].Value[0].Data) != "0143" {
			t.Errorf("%v %v", frames, err)
		}
		if _, err := c.Codes(t.Context(), Permanent); !errors.Is(err, ErrSilent) {
			t.Errorf("%v", err)
		}
		if _, err := c.Codes(t.Context(), 4); !errors.Is(err, ErrRequest) { // clearing is not ours to ask for
			t.Errorf("%v", err)
		}
		if slices.Contains(v.asked, "04") {
			t.Error("codes were cleared")
		}
	})
}

func TestDecodeRefusesWhatIsWrong(t *testing.T) {
	for _, answer := range []string{"", "41", "410C", "410C1A", "410D2A0C1A", "410D2A0C1AF80E", "410E00", "420D2A", "7F01"} {
		b, _ := hex.DecodeString(answer)
		if values, err := DecodeCurrent(b, 0x0C, 0x0D); err == nil {
			t.Errorf("%s: %v", answer, values)
		}
	}
	if values, err := DecodeCurrent([]byte{0x41, 0x83, 1, 0, 100, 0, 0}, 0x83); err != nil || len(values[0].Data) != 5 {
		t.Errorf("%v %v", values, err) // of an older edition
	}
	if values, err := DecodeCurrent([]byte{0x41, 0x0C, 0x1A}, 0x0C); err == nil {
		t.Errorf("half an engine speed: %v", values)
	}
	var refusal *uds.NegativeError
	if _, err := DecodeCurrent([]byte{0x7F, 1, 0x31}, 0x0C); !errors.As(err, &refusal) || refusal.Code != 0x31 {
		t.Errorf("%v", err)
	}
	for _, answer := range []string{"43", "4301", "430104", "43010420FF"} {
		b, _ := hex.DecodeString(answer)
		if codes, err := DecodeCodes(Stored, b); err == nil {
			t.Errorf("%s: %v", answer, codes)
		}
	}
	if _, err := AppendCurrent(nil, 1, 2, 3, 4, 5, 6, 7); !errors.Is(err, ErrRequest) {
		t.Errorf("%v", err)
	}
}

// FuzzDecode decodes arbitrary answers; every value that comes out lies in the answer, and decodes without harm.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"410C1AF80D2A", "4202000143", "430104200000", "4902013144344750", "4904013132333435363738393031323334353637", "7F0178"} {
		b, _ := hex.DecodeString(s)
		f.Add(b, uint8(0x0C), uint8(0x0D))
	}
	f.Fuzz(func(t *testing.T, answer []byte, a, b uint8) {
		for _, asked := range [][]uint8{{a}, {a, b}} {
			values, _ := DecodeCurrent(answer, asked...)
			frozen, _ := DecodeFreeze(answer, asked...)
			total := 0
			for _, v := range append(values, frozen...) {
				total += len(v.Data) + 1
				pid, _ := Lookup(v.PID)
				for _, r := range pid.Decode(v.Data, nil) {
					if r.Field.Bits < 32 && r.Raw >= 1<<r.Field.Bits {
						t.Fatalf("%+v", r)
					}
				}
			}
			if total > len(answer) {
				t.Fatalf("%d bytes out of %d", total, len(answer))
			}
		}
		if codes, err := DecodeCodes(Stored, answer); err == nil && len(answer) != 2+2*len(codes) {
			t.Fatalf("%v", codes)
		}
		if items, err := DecodeVehicle(a, answer); err == nil {
			for _, item := range items {
				_, _ = uds.VIN(item)
				_ = Text(item)
			}
		}
	})
}
