package obd

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// The table and the codes as another implementation has them.
func TestTableAgreesWithAnotherImplementation(t *testing.T) {
	out, err := deps.Python(t, "testdata/oracle.py").Output()
	if err != nil {
		t.Fatalf("oracle.py: %v", err)
	}
	// Where the other one is known to differ from J1979: it has 68 with two of its six sensors, 7C without its first byte
	// in the formula, 7F and 85 with one value of several.
	others := map[uint8]bool{0x68: true, 0x7C: true, 0x7F: true, 0x85: true, 0x9B: true}
	lengths, values, codes := 0, 0, 0
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var v struct {
			PID    uint8
			Len    uint8
			Data   string
			Values []float64
			Code   uint16
			Text   string
		}
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if v.Text != "" {
			codes++
			if got := DTC(v.Code).String(); got != v.Text {
				t.Errorf("%04X is %s, want %s", v.Code, got, v.Text)
			}
			continue
		}
		pid, ok := Lookup(v.PID)
		if !ok || others[v.PID] {
			continue
		}
		if v.Len != pid.Len {
			t.Errorf("PID %02X has %d bytes, the other one says %d", v.PID, pid.Len, v.Len)
		}
		if lengths++; v.Data == "" {
			continue
		}
		data, err := hex.DecodeString(v.Data)
		if err != nil {
			t.Fatal(err)
		}
		readings := pid.Decode(data, nil)
		if v.PID == 0x50 { // the same
			v.Values = v.Values[:1]
		}
		if len(readings) != len(v.Values) {
			t.Errorf("PID %02X: %d values, the other one has %d", v.PID, len(readings), len(v.Values))
			continue
		}
		for i, r := range readings {
			values++
			if math.Abs(r.Physical()-v.Values[i]) > 1e-9*max(1, math.Abs(v.Values[i])) {
				t.Errorf("PID %02X %s: % X is %v, the other one says %v", v.PID, r.Field.Name, data, r.Physical(), v.Values[i])
			}
		}
	}
	if lengths < 150 || values < 2000 || codes != 1772 {
		t.Errorf("only %d lengths, %d values and %d codes compared", lengths, values, codes)
	}
}

// Every field lies within its PID (but for the third and fourth bank's), and has a name of its own.
func TestTableIsSound(t *testing.T) {
	names := map[string]uint8{}
	fields := 0
	for id := range 256 {
		pid, ok := Lookup(uint8(id))
		if !ok {
			continue
		}
		if pid.ID != uint8(id) || IsBitmap(uint8(id)) && (pid.Len != 4 || pid.Fields != nil) {
			t.Errorf("%02X: %+v", id, pid)
		}
		for _, f := range pid.Fields {
			fields++
			if other, twice := names[f.Name]; twice {
				t.Errorf("%s is of %02X and %02X", f.Name, other, id)
			}
			names[f.Name] = uint8(id)
			end := int(f.Start) + int(f.Bits)
			if id >= 0x06 && id <= 0x09 {
				end -= 8
			}
			if f.Bits == 0 || f.Bits > 32 || f.Scale == 0 || end > 8*int(pid.Len) || f.If > 7 {
				t.Errorf("%02X: %+v", id, f)
			}
		}
	}
	for id := range uint8(0x5F) {
		if _, ok := Lookup(id); !ok {
			t.Errorf("no PID %02X", id)
		}
	}
	t.Logf("%d fields", fields)
	if fields < 250 {
		t.Errorf("%d fields", fields)
	}
}

// Worked by hand from J1979: signed values, flags, values that the vehicle says it has not.
func TestDecodeByHand(t *testing.T) {
	for _, c := range []struct {
		pid  uint8
		data string
		want map[string]float64
	}{
		{0x32, "FFFC", map[string]float64{"EvaporativePressure": -1}},
		{0x54, "8000", map[string]float64{"EvaporativePressureWide": -32768}},
		{0x66, "01012C0000", map[string]float64{"MassAirFlowA": 9.375}},
		{0x67, "027B7B", map[string]float64{"EngineCoolantTemperature2": 83}},
		{0x9A, "0600640BFFF6", map[string]float64{"HybridBatteryVoltage": 0x640B / 64.0, "HybridBatteryCurrent": -1}},
		{0xA4, "034003E8", map[string]float64{"TransmissionGear": 4, "TransmissionGearRatio": 1}},
		{0xA6, "FFFFFFFF", map[string]float64{"Odometer": 429496729.5}},
		{0x06, "80", map[string]float64{"ShortTermFuelTrimBank1": 0}},
		{0x06, "8000", map[string]float64{"ShortTermFuelTrimBank1": 0, "ShortTermFuelTrimBank3": -100}},
		{0x64, "7D", map[string]float64{"TorqueAtIdle": 0}},
		{0x6B, "1264640000", map[string]float64{"EGRTemperature12": 60, "EGRTemperature11Wide": 360}},
		{0x6F, "066464", map[string]float64{"TurboInletPressureB": 100, "TurboInletPressureAWide": 800}},
		{0x74, "0127100000", map[string]float64{"TurboSpeedA": 100000}},
		{0x7A, "07FF9C00640064", map[string]float64{"ParticulateFilter1DeltaPressure": -1, "ParticulateFilter1InletPressure": 1, "ParticulateFilter1OutletPressure": 1}},
		{0x83, "0300640065", map[string]float64{"NOx11": 100, "NOx12": 101}}, // as older vehicles have it
	} {
		data, err := hex.DecodeString(c.data)
		if err != nil {
			t.Fatal(err)
		}
		pid, _ := Lookup(c.pid)
		got := pid.Decode(data, nil)
		if len(got) != len(c.want) {
			t.Errorf("%02X %s: %d values", c.pid, c.data, len(got))
		}
		for _, r := range got {
			if want, ok := c.want[r.Field.Name]; !ok || math.Abs(r.Physical()-want) > 1e-6 {
				t.Errorf("%02X %s: %s is %v, want %v", c.pid, c.data, r.Field.Name, r.Physical(), want)
			}
		}
	}
	status, _ := Lookup(1)
	for _, r := range status.Decode([]byte{0x83, 0x0F, 0x01, 0x01}, nil) {
		want := map[string]int64{"MIL": 1, "DTCCount": 3, "MonitorCompressionIgnition": 1, "MonitorMisfireAvailable": 1, "MonitorFuelSystemAvailable": 1,
			"MonitorComponentsAvailable": 1, "MonitorTest0Available": 1, "MonitorTest0Incomplete": 1}[r.Field.Name]
		if r.Raw != want {
			t.Errorf("%s is %d, want %d", r.Field.Name, r.Raw, want)
		}
	}
}
