package j1939

import (
	"bytes"
	"encoding/hex"
	"os"
	"slices"
	"testing"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/test/deps"
)

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseFaults(t *testing.T) {
	off := Lamp{LampOff, FlashSlow}
	na := Lamp{LampNotAvailable, FlashNone}
	for _, test := range []struct {
		name, payload string
		want          Faults
	}{
		// The example of SAE J1939-73 §5.7.1: pre-filter oil pressure, voltage above normal, ten times.
		{"one code in a single frame", "0400B804030AFFFF", Faults{Lamps{off, off, Lamp{LampOn, FlashSlow}, off}, []DTC{{1208, 3, 10, false}}}},
		{"no fault", "00FF00000000FFFF", Faults{Lamps{Lamp{0, 3}, Lamp{0, 3}, Lamp{0, 3}, Lamp{0, 3}}, nil}},
		{"no fault, the old way", "FFFFFFFFFFFFFFFF", Faults{Lamps{na, na, na, na}, nil}},
		// Made by Dm1 of python can-j1939 2.0.12: steady red, flashing amber, fast flashing malfunction lamp.
		{"three codes", "5473B804030AFEFFFE7E64000101", Faults{
			Lamps{Lamp{LampOn, FlashFast}, Lamp{LampOn, FlashNone}, Lamp{LampOn, FlashSlow}, Lamp{LampOff, FlashNone}},
			[]DTC{{1208, 3, 10, false}, {524286, 30, 126, false}, {100, 1, 1, false}},
		}},
		{"the conversion method bit", "0000B804038A", Faults{Lamps{off, off, off, off}, []DTC{{1208, 3, 10, true}}}},
	} {
		got, err := ParseFaults(unhex(t, test.payload))
		if err != nil || got.Lamps != test.want.Lamps || !slices.Equal(got.Codes, test.want.Codes) {
			t.Errorf("%s: got %+v, %v, want %+v", test.name, got, err, test.want)
		}
	}
	if _, err := ParseFaults(make([]byte, 5)); err != ErrShort {
		t.Errorf("%v", err)
	}
}

// Names as canboatjs 3.20 reads them, and one as python can-j1939 was told to make it.
func TestParseName(t *testing.T) {
	for payload, want := range map[string]Name{
		"CF3166E77782F0C0": {405967, 1851, 7, 14, 130, 120, 0, 4, true},
		"ECC870E76A82F0C0": {1100012, 1851, 2, 13, 130, 120, 0, 4, true},
		"87D6525325030451": {1234567, 666, 5, 4, 3, 2, 1, 5, false},
	} {
		if got, err := ParseName(unhex(t, payload)); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", payload, got, err, want)
		}
	}
	if _, err := ParseName(make([]byte, 7)); err != ErrShort {
		t.Errorf("%v", err)
	}
}

// The boat's address claims are of two nodes of one maker in the marine group.
func TestParseNameOfTheBoat(t *testing.T) {
	text, err := os.ReadFile(deps.Testdata(t, "can", "boat-nmea2000.log"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[Name]int{}
	lines := can.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if f := lines.Frame(); f.Extended() && can.PGN(f.ID) == GroupAddressClaimed {
			name, err := ParseName(f.Payload())
			if err != nil {
				t.Fatal(err)
			}
			names[name]++
		}
	}
	for name, n := range names {
		if n != 5 || name.Manufacturer != 1851 || name.IndustryGroup != 4 {
			t.Errorf("%d times %+v", n, name)
		}
	}
	if len(names) != 2 {
		t.Errorf("%d names", len(names))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x04\x00\xB8\x04\x03\x0A\xFF\xFF"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		_, _ = ParseName(payload)
		faults, err := ParseFaults(payload)
		if err == nil && len(faults.Codes) > (len(payload)-2)/4 {
			t.Errorf("%d codes of %d bytes", len(faults.Codes), len(payload))
		}
		for _, c := range faults.Codes {
			if c.SPN >= 1<<19 || c.FMI > 31 || c.Occurrences > 127 {
				t.Errorf("%+v", c)
			}
		}
	})
}
