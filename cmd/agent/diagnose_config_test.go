package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const bodyDBC = `VERSION ""
BU_: ECU
BO_ 256 Motion: 8 ECU
 SG_ VehicleSpeed : 0|16@1+ (0.01,0) [0|655.35] "km/h" ECU
BO_ 257 Body: 8 ECU
 SG_ Ignition : 0|2@1+ (1,0) [0|3] "" ECU
 SG_ SupplyVoltage : 8|8@1+ (0.1,0) [0|25.5] "V" ECU
`

const goodDiagnose = `device: {id: car-1}
can:
  - bus: can0
    interface: vcan0
    dbc: [a.dbc]
    diagnose:
      ignition: {signal: can0.Body.Ignition, above: 1.5}
      voltage: {signal: can0.Body.SupplyVoltage}
      obd:
        pids:
          - {every: 1s, list: [engine_speed, VehicleSpeed, 0x05, MIL, DTCCount]}
        codes: 10m
        freeze_frame: true
        vin: true
      uds:
        - name: bms
          request: 0x7E4
          identifiers:
            - id: 0xF190
              values: [{name: vin, type: ascii}]
            - id: 0x0101
              every: 10s
              values:
                - {name: soc, start: 8, bits: 16, scale: 0.1, unit: "%"}
          dtcs: {status_mask: 0x08}
collect:
  signals:
    - match: '*'
`

func loadText(t *testing.T, text string) (string, *settings, *vehicle, error) {
	t.Helper()
	dir := writeFiles(t, map[string]string{"agent.yaml": text, "a.dbc": bodyDBC, "a.log": ""})
	file := filepath.Join(dir, "agent.yaml")
	s, v, err := load(file)
	return file, s, v, err
}

func TestDiagnoseErrorsNameFileLineAndRemedy(t *testing.T) {
	if _, _, _, err := loadText(t, goodDiagnose); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, old, new string
		line           int
		words          []string
	}{
		{"replay", "interface: vcan0", "replay: a.log", 6, []string{"can[0].diagnose", "interface: only"}},
		{"listens only", "interface: vcan0", "interface: vcan0\n    bitrate: 500000", 7, []string{"can[0].diagnose", "listen_only: false"}},
		{"unknown key", "ignition:", "ignitoin:", 7, []string{`did you mean "ignition"?`}},
		{"no ignition", "ignition: {signal: can0.Body.Ignition, above: 1.5}", "back_off: 5s", 6, []string{"ignition.signal", "can0.Body.Ignition"}},
		{"no such ignition", "can0.Body.Ignition", "can0.Body.Igniton", 7, []string{"can[0].diagnose.ignition.signal", `did you mean "can0.Body.Ignition"?`}},
		{"no voltage", "voltage: {signal: can0.Body.SupplyVoltage}", "voltage: {min: 12}", 8, []string{"voltage.signal", "none"}},
		{"no such voltage", "can0.Body.SupplyVoltage", "can0.Body.Voltage", 8, []string{"voltage.signal", "no DBC file has a signal"}},
		{"a minimum of none", "voltage: {signal: can0.Body.SupplyVoltage}", "voltage: {signal: none, min: 12}", 8, []string{"voltage.min", "needs a signal"}},
		{"minimum", "{signal: can0.Body.SupplyVoltage}", "{signal: can0.Body.SupplyVoltage, min: 3}", 8, []string{"between 6 and 60 V"}},
		{"rate", "      obd:", "      frames_per_second: 1\n      obd:", 9, []string{"frames_per_second", "between 2 and 200"}},
		{"burst", "      obd:", "      burst: 1000\n      obd:", 9, []string{"burst", "between 2 and 100"}},
		{"load", "      obd:", "      bus_load: 2\n      obd:", 9, []string{"bus_load", "0.1% and 20%"}},
		{"too little load", "      obd:", "      bus_load: 0.2%\n      obd:", 9, []string{"bus_load", "0.2% of 125000 bit/s", "at least 0.28%"}},
		{"bit rate", "      obd:", "      bitrate: 5\n      obd:", 9, []string{"diagnose.bitrate", "10000"}},
		{"back off", "      obd:", "      back_off: 1\n      obd:", 9, []string{"back_off", "unit"}},
		{"PID by a name that is wrong", "engine_speed", "engine_sped", 11, []string{"pids[0].list[0]", `did you mean "EngineSpeed"?`}},
		{"PID without a value", "0x05", "0x20", 11, []string{"of PID 0x20 no value is known"}},
		{"PID out of range", "0x05", "0x105", 11, []string{"0x01 to 0xFF"}},
		{"PID twice", "0x05", "0x0C", 11, []string{"can0.OBD.EngineSpeed is there twice"}},
		{"interval", "every: 1s", "every: 1ms", 11, []string{"pids[0].every", "between 100ms"}},
		{"addressing", "      obd:\n", "      obd:\n        addressing: 7E9\n", 10, []string{"obd.addressing", "7E0 to 7E7"}},
		{"freeze frame alone", "        codes: 10m\n", "", 12, []string{"obd.freeze_frame", "codes: 10m"}},
		{"name", "name: bms", "name: b.m", 16, []string{"uds[0].name"}},
		{"a name that is taken", "name: bms", "name: OBD", 16, []string{"choose another name"}},
		{"a name of the DBC file", "          dtcs:", "        - name: Body\n          request: 0x7E5\n          identifiers: [{id: 1, values: [{name: Ignition, bits: 8}]}]\n          dtcs:", 6,
			[]string{"can0.Body.Ignition", "rename the unit"}},
		{"request", "request: 0x7E4", "request: 0x7DF", 17, []string{"uds[0].request", "identifier of one"}},
		{"request without", "          request: 0x7E4\n", "", 16, []string{"uds[0].request", "0x7E4"}},
		{"no response", "request: 0x7E4", "request: 0x740", 16, []string{"uds[0].response", "answers with"}},
		{"the same response", "request: 0x7E4", "request: 0x740\n          response: 0x740", 18, []string{"uds[0].response", "must not be"}},
		{"identifier", "id: 0x0101", "id: 0x10101", 21, []string{"identifiers[1].id", "0xFFFF"}},
		{"no bits", "start: 8, bits: 16", "start: 8", 24, []string{"values[0].bits", "1 to 64"}},
		{"too many bits", "bits: 16", "bits: 65", 24, []string{"1 to 64"}},
		{"start", "start: 8", "start: -1", 24, []string{"values[0].start"}},
		{"scale", "scale: 0.1", "scale: 0", 24, []string{"values[0].scale", "other than 0"}},
		{"type", "type: ascii", "type: text", 20, []string{"values[0].type", "ascii"}},
		{"a text's start", "type: ascii", "type: ascii, start: 3", 20, []string{"multiple of 8"}},
		{"value twice", "name: soc", "name: vin", 24, []string{"values[0].name", "can0.bms.vin is there twice"}},
		{"mask", "status_mask: 0x08", "status_mask: 0x1FF", 25, []string{"dtcs.status_mask", "0xFF"}},
		{"nothing to ask", goodDiagnose[strings.Index(goodDiagnose, "      obd:"):strings.Index(goodDiagnose, "collect:")], "", 6, []string{"asks nothing"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if strings.Count(goodDiagnose, c.old) == 0 {
				t.Fatalf("%q is not there", c.old)
			}
			file, _, _, err := loadText(t, strings.Replace(goodDiagnose, c.old, c.new, 1))
			var p *problems
			if !errors.As(err, &p) {
				t.Fatalf("got %v", err)
			}
			if want := fmt.Sprintf("%s:%d: ", file, c.line); !strings.Contains(err.Error(), want) {
				t.Errorf("%v: does not name line %d", err, c.line)
			}
			for _, w := range c.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v: does not say %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "main.") {
				t.Errorf("%v: shows what a user cannot read", err)
			}
		})
	}
}

func TestDiagnoseSignalsAndWhatCheckSays(t *testing.T) {
	_, s, v, err := loadText(t, goodDiagnose)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"can0.OBD.EngineSpeed": "rpm 0.25 0", "can0.OBD.EngineCoolantTemperature": "°C 1 -40", "can0.OBD.MIL": " 1 0", "can0.OBD.DTCCount": " 1 0",
		"can0.OBD.StoredCodes": " 0 0", "can0.OBD.PendingCodes": " 0 0", "can0.OBD.PermanentCodes": " 0 0", "can0.OBD.FreezeFrame": " 0 0",
		"can0.bms.vin": " 0 0", "can0.bms.soc": "% 0.1 0", "can0.bms.DTCs": " 0 0", "can0.OBD.VehicleSpeed": "km/h 1 0"}
	for _, signal := range v.selection.Catalogue().Signals {
		if text, ok := want[signal.Name]; ok && text == fmt.Sprint(signal.Unit, " ", signal.Scale, " ", signal.Offset) {
			delete(want, signal.Name)
		}
	}
	if len(want) != 0 {
		t.Errorf("the catalogue has not %v", want)
	}
	if g := s.CAN[0].Diagnose.Options.Governor; g.FrameRate != 20 || g.Burst != 10 || g.Share != 0.02 || g.BackOff.String() != "10s" || g.BitRate != 125_000 || g.NoVoltage {
		t.Errorf("defaults %+v", g)
	}
	said := strings.Join(v.polls(), "\n")
	for _, text := range []string{
		"can0: asks 7DF, mode 01, every 1s: 0C EngineSpeed, 0D VehicleSpeed, 05 EngineCoolantTemperature, 01 MIL, 01 DTCCount",
		"mode 03, every 10m0s", "mode 0A", "mode 02, when a stored code appears", "mode 09, when the ignition goes on: VIN",
		"can0: asks 7E4, service 22 F190, every 1m0s: bms.vin", "service 22 0101, every 10s: bms.soc", "19 02, status mask 08",
		"1.12 requests a second, with at most 20 frames a second, 10 at once, and 2% of 125000 bit/s; while can0.Body.Ignition is above 1.5 and can0.Body.SupplyVoltage is not below 12; not for 10s after another tester",
	} {
		if !strings.Contains(said, text) {
			t.Errorf("check does not say %q:\n%s", text, said)
		}
	}
	_, _, v, err = loadText(t, strings.Replace(goodDiagnose, "'*'", "can0.bms.soc", 1))
	if err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(v.polls(), "\n"); strings.Contains(said, "mode 01") || strings.Contains(said, "DTC") || !strings.Contains(said, "22 0101") || !strings.Contains(said, "mode 09") {
		t.Errorf("what nobody collects is asked for:\n%s", said)
	}
}

// The section that the example shows is one that can be used.
func TestTheExampleOfDiagnoseIsRead(t *testing.T) {
	text, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	var section strings.Builder
	section.WriteString("device: {id: car-1}\ncan:\n  - bus: can0\n    interface: vcan0\n    dbc: [a.dbc]\n")
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "    # "); ok && (strings.HasPrefix(rest, "diagnose:") || strings.HasPrefix(rest, "  ")) {
			section.WriteString("    " + rest)
		}
	}
	section.WriteString("collect: {signals: [{match: '*'}]}\n")
	_, s, v, err := loadText(t, section.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, section.String())
	}
	if d := s.CAN[0].Diagnose; d == nil || d.Options.OBD == nil || len(d.Options.Units) != 1 || len(v.polls()) < 8 {
		t.Errorf("%+v", d)
	}
}
