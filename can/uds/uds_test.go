package uds

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/test/deps"
)

// length is what the oracle's identifiers have.
func length(id uint16) (int, bool) {
	n, ok := map[uint16]int{VINIdentifier: 17, 0x1001: 2, 0x1002: 5}[id]
	return n, ok
}

// Requests and responses as another implementation has them.
func TestAgreesWithAnotherImplementation(t *testing.T) {
	out, err := deps.Python(t, "testdata/oracle.py").Output()
	if err != nil {
		t.Fatalf("oracle.py: %v", err)
	}
	requests := map[string][]byte{"data": AppendReadData(nil, VINIdentifier, 0x1001), "count": AppendCountDTCs(nil, 0x0D), "list": AppendListDTCs(nil, 0x0D),
		"snapshot": AppendSnapshot(nil, 0x123456, AllRecords), "extended": AppendExtendedData(nil, 0x123456, 1)}
	compared := map[string]int{}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var v struct {
			Request, Want, Kind, Raw, Name string
			Values                         []string
			DTCs                           []DTC
			Bytes, Bits                    []int
			Confirmed, Warning, Pending    []bool
			Count                          uint16
			Code                           Code
		}
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		raw, err := hex.DecodeString(v.Raw)
		if err != nil {
			t.Fatal(err)
		}
		compared[v.Kind]++
		switch v.Kind {
		case "":
			if got := hex.EncodeToString(requests[v.Request]); got != v.Want {
				t.Errorf("%s: %s, want %s", v.Request, got, v.Want)
			}
		case "data":
			values, err := DecodeReadData(raw, length, 0x1001, 0x1002)
			if err != nil || hex.EncodeToString(values[0].Data) != v.Values[0] || hex.EncodeToString(values[1].Data) != v.Values[1] {
				t.Errorf("%s: %v %v", v.Raw, values, err)
			}
		case "count":
			if c, err := DecodeCountDTCs(raw); err != nil || c.Count != v.Count {
				t.Errorf("%s: %v %v", v.Raw, c, err)
			}
		case "list":
			_, list, err := DecodeListDTCs(raw)
			if err != nil || len(list) != len(v.DTCs) {
				t.Fatalf("%s: %v %v", v.Raw, list, err)
			}
			for i, d := range list {
				if d.DTC != v.DTCs[i] || int(d.Status) != v.Bytes[i] || bits.OnesCount8(uint8(d.Status)) != v.Bits[i] ||
					(d.Status&ConfirmedDTC != 0) != v.Confirmed[i] || (d.Status&WarningIndicatorRequested != 0) != v.Warning[i] || (d.Status&PendingDTC != 0) != v.Pending[i] {
					t.Errorf("%s: %v", v.Raw, d)
				}
			}
		case "snapshot":
			records, err := DecodeSnapshot(raw, length)
			var got []string
			for _, r := range records {
				for _, value := range r.Values {
					got = append(got, fmt.Sprintf("%02x%04x%x", r.Number, value.ID, value.Data))
				}
			}
			if err != nil || !slices.Equal(got, v.Values) || records[0].DTC != v.DTCs[0] {
				t.Errorf("%s: %v, want %v; %v", v.Raw, got, v.Values, err)
			}
		case "extended":
			r, ok, err := DecodeExtendedData(raw)
			if got := fmt.Sprintf("%02x%x", r.Number, r.Data); err != nil || !ok || got != v.Values[0] || r.DTC != v.DTCs[0] {
				t.Errorf("%s: %s %v", v.Raw, got, err)
			}
		case "negative":
			plain := func(s string) string {
				return strings.ToLower(strings.NewReplacer("-", "", "/", "", "_", "", "(es)", "", "(", "", ")", "").Replace(s))
			}
			if ours, known := codeNames[v.Code]; known && v.Name != "" && plain(ours) != plain(v.Name) {
				t.Errorf("code %02X is %s, the other one says %s", uint8(v.Code), ours, v.Name)
			}
		}
	}
	for _, kind := range []string{"data", "count", "list", "snapshot", "extended"} {
		if compared[kind] != 50 {
			t.Errorf("%d of %s", compared[kind], kind)
		}
	}
	if compared[""] != len(requests) {
		t.Errorf("%d requests", compared[""])
	}
}

func TestTexts(t *testing.T) {
	if got := DTC(0x01231C).String(); got != "P0123-1C" {
		t.Error(got)
	}
	if got := DTC(0xC15800).String(); got != "U0158-00" {
		t.Error(got)
	}
	if got := (TestFailed | ConfirmedDTC | WarningIndicatorRequested).String(); got != "testFailed|confirmedDTC|warningIndicatorRequested" {
		t.Error(got)
	}
	for text, ok := range map[string]bool{"1D4GP00R55B123456": true, "\x00\x00\x001D4GP00R55B123456": true, "1D4GP00R55B123456\x00 ": true,
		"1D4GP00R55B12345": false, "1D4GP00R55B12345O": false, "": false, strings.Repeat("\x00", 17): false} {
		if vin, err := VIN([]byte(text)); (err == nil) != ok || ok && vin != "1D4GP00R55B123456" {
			t.Errorf("%q: %q %v", text, vin, err)
		}
	}
}

func TestDecodeRefusesWhatIsWrong(t *testing.T) {
	for _, s := range []string{"", "62", "6210", "621001FF", "62100212345678", "621001FFFF00", "7F22", "59"} {
		raw, _ := hex.DecodeString(s)
		if v, err := DecodeReadData(raw, length, 0x1001); err == nil {
			t.Errorf("%s: %v", s, v)
		}
	}
	if _, err := DecodeReadData([]byte{0x62, 0x99, 0x99, 1, 0x10, 1, 2, 2}, length, 0x9999, 0x1001); !errors.Is(err, ErrMalformed) {
		t.Errorf("%v", err)
	}
	for _, s := range []string{"5902", "5902FF112233", "5904FF", "5904112233440101", "59041122334401011001AA", "590611", "5901FF", "590311223344"} {
		raw, _ := hex.DecodeString(s)
		_, errCount := DecodeCountDTCs(raw)
		_, _, errList := DecodeListDTCs(raw)
		_, errSnapshot := DecodeSnapshot(raw, length)
		_, _, errExtended := DecodeExtendedData(raw)
		for _, err := range []error{errCount, errList, errSnapshot, errExtended} {
			if err == nil {
				t.Errorf("%s was taken", s)
			}
		}
	}
}

// unit answers each request with the next messages of a script; "" stands for silence.
type unit struct {
	script []string
	asked  []string
	waits  []time.Duration
}

func (u *unit) Discard() error { return nil }

func (u *unit) Send(_ context.Context, request []byte) error {
	u.asked = append(u.asked, hex.EncodeToString(request))
	return nil
}

func (u *unit) ReceiveWithin(_ context.Context, p2 time.Duration) (isotp.Message, error) {
	u.waits = append(u.waits, p2)
	if len(u.script) == 0 {
		return isotp.Message{}, &isotp.TimeoutError{Timer: "P2", After: p2}
	}
	data, err := hex.DecodeString(u.script[0])
	u.script = u.script[1:]
	return isotp.Message{Data: data}, err
}

func TestClient(t *testing.T) {
	ctx := t.Context()
	u := &unit{script: []string{"7F2278", "7F2278", "6299990102", "62F1903144344750303052353542313233343536"}}
	c := NewClient(u, Options{Length: length})
	if vin, err := c.VIN(ctx); err != nil || vin != "1D4GP00R55B123456" {
		t.Errorf("%q %v", vin, err)
	}
	if !slices.Equal(u.waits, []time.Duration{DefaultP2, DefaultP2Star, DefaultP2Star, DefaultP2Star}) {
		t.Errorf("waited %v", u.waits)
	}
	var refusal *NegativeError
	u.script = []string{"7F1911", "7F2231"}
	if _, err := c.ReadData(ctx, 0x1001); !errors.As(err, &refusal) || refusal.Code != 0x31 || !strings.Contains(err.Error(), "requestOutOfRange") {
		t.Errorf("%v", err)
	}
	u.script = slices.Repeat([]string{"7F2278"}, 11)
	if _, err := c.ReadData(ctx, 0x1001); !errors.Is(err, ErrPending) {
		t.Errorf("%v", err)
	}
	u.script = slices.Repeat([]string{"410C"}, 11)
	if _, err := c.ReadData(ctx, 0x1001); !errors.Is(err, ErrOther) {
		t.Errorf("%v", err)
	}
	u.script = nil
	var late *isotp.TimeoutError
	if err := c.TesterPresent(ctx); !errors.As(err, &late) {
		t.Errorf("%v", err)
	}
	u.script = []string{"7E00"}
	if err := c.TesterPresent(ctx); err != nil {
		t.Errorf("%v", err)
	}
	u.script = []string{"5902FF01231C08"}
	if available, list, err := c.ListDTCs(ctx, 0xFF); err != nil || available != 0xFF || len(list) != 1 || list[0].Status != ConfirmedDTC {
		t.Errorf("%v %v", list, err)
	}
	u.script = []string{"590401231C0801011001AABB"}
	if records, err := c.Snapshots(ctx, 0x01231C, AllRecords); err != nil || len(records) != 1 || records[0].Values[0].ID != 0x1001 {
		t.Errorf("%v %v", records, err)
	}
	u.script = []string{"590601231C08"}
	if _, ok, err := c.ExtendedData(ctx, 0x01231C, 1); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	u.script = []string{"5901FF000002"}
	if n, err := c.CountDTCs(ctx, 0xFF); err != nil || n.Count != 2 {
		t.Errorf("%v %v", n, err)
	}
}

// A record whose identifier has no known length keeps its bytes, and those behind it.
func TestSnapshotOfUnknownLength(t *testing.T) {
	raw, err := hex.DecodeString("590401231C0802021001AABB9999010203")
	if err != nil {
		t.Fatal(err)
	}
	records, err := DecodeSnapshot(raw, length)
	if err != nil || len(records) != 1 || len(records[0].Values) != 1 || hex.EncodeToString(records[0].Data) != "9999010203" {
		t.Errorf("%+v %v", records, err)
	}
}

// FuzzDecode decodes arbitrary responses; no data comes out that did not go in.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"62F19031443447", "5901FF000002", "5902FF01231C08", "590401231C0801011001AABB", "590601231C0801FF", "7F2278"} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(0x1001))
	}
	f.Fuzz(func(t *testing.T, response []byte, id uint16) {
		total := 0
		values, _ := DecodeReadData(response, length, id, 0x1002)
		records, _ := DecodeSnapshot(response, length)
		for _, r := range records {
			values = append(values, r.Values...)
			total += len(r.Data)
		}
		for _, v := range values {
			total += len(v.Data) + 2
			_, _ = VIN(v.Data)
		}
		if total > len(response) {
			t.Fatalf("%d bytes out of %d", total, len(response))
		}
		if _, list, err := DecodeListDTCs(response); err == nil && len(response) != 3+4*len(list) {
			t.Fatalf("%v", list)
		}
		_, _ = DecodeCountDTCs(response)
		_, _, _ = DecodeExtendedData(response)
	})
}
