package vm

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

const bodyDBC = `VERSION ""
BU_: Body
BO_ 257 Body: 2 Body
 SG_ Ignition : 0|2@1+ (1,0) [0|3] "" Vector__XXX
 SG_ SupplyVoltage : 8|8@1+ (0.1,0) [0|25.5] "V" Vector__XXX
BO_ 258 Other: 2 Body
 SG_ Value : 0|8@1+ (1,0) [0|255] "" Vector__XXX
`

// The ignition comes by another bus than the one that is asked, and is not collected.
const diagnoseConfig = `
device: {id: bench-1}
data_dir: data
log: {level: debug}
can:
  - bus: can0
    interface: vcan0
    diagnose:
      ignition: {signal: can1.Body.Ignition}
      voltage: {signal: can1.Body.SupplyVoltage}
      bitrate: 500000
      frames_per_second: 12
      burst: 6
      back_off: 3s
      answer_within: 400ms
      obd:
        pids:
          - {every: 500ms, list: [EngineSpeed, VehicleSpeed, 0x05, EngineOilTemperature]}
          - {every: 2s, list: [FuelLevel, AmbientAirTemperature]}
        codes: 5s
        freeze_frame: true
        vin: true
      uds:
        - name: bms
          request: 0x7E4
          identifiers:
            - {id: 0xF190, every: 1h, values: [{name: vin, type: ascii}]}
            - id: 0x0101
              every: 1s
              values:
                - {name: soc, start: 8, bits: 16, scale: 0.1, unit: "%"}
                - {name: current, type: int, start: 24, bits: 8, unit: A}
            - {id: 0x0102, every: 1s, values: [{name: unknown, bits: 8}]}
            - {id: 0x0103, every: 1s, values: [{name: unwanted, bits: 8}]}
          dtcs: {status_mask: 0x08, every: 5s, snapshots: true}
  - {bus: can1, interface: vcan1, dbc: [body.dbc]}
collect:
  signals:
    - {match: "can1.Other.*"}
    - {match: "can0.OBD.*", sample: every}
    - {match: "can0.bms.vin"}
    - {match: "can0.bms.soc", sample: every}
    - {match: "can0.bms.current", sample: every}
    - {match: "can0.bms.unknown"}
    - {match: "can0.bms.DTCs", sample: every}
queue: {commit_every: 200ms, seal_every: 1s}
`

// diagnoseScript: nothing is asked before the ignition goes on; then it is, until another tester speaks, and again after
// his silence, until the ignition goes off.
const diagnoseScript = `set -u
listeners() { cat /proc/net/can/rcvlist_* | grep -cE "^ +$1 "; }
CANDUMP -L vcan0 vcan1 >dump.log & dump=$!
until [ $(listeners vcan0) -gt 0 ]; do sleep 0.1; done
PYTHON ECU vcan0 ready served.log 2>ecu.log & ecu=$!
until [ -e ready ]; do sleep 0.1; kill -0 $ecu || exit 90; done
n0=$(listeners vcan0)
AGENT run -c agent.yaml 2>agent.log & agent=$!
until [ $(listeners vcan0) -gt $n0 ]; do sleep 0.1; done
CANSEND vcan1 101#008A
sleep 2
CANPLAYER -l i -I body.log vcan1=can1 & player=$!
sleep 11
CANSEND vcan0 7E0#023E800000000000
sleep 8
kill $player; wait $player
CANSEND vcan1 101#008A
sleep 3
kill -TERM $agent
wait $agent; code=$?
kill $ecu $dump
exit $code
`

// busFrame is one frame of candump's log.
type busFrame struct {
	at   float64 // s
	bus  string
	id   uint64
	data string
}

func readBusLog(t *testing.T, text string) (list []busFrame) {
	t.Helper()
	line := regexp.MustCompile(`^\((\d+\.\d{6})\) (vcan\d) ([0-9A-F]+)#([0-9A-F]*)$`)
	for one := range strings.Lines(text) {
		m := line.FindStringSubmatch(strings.TrimSpace(one))
		if m == nil {
			t.Fatalf("candump wrote %q", one)
		}
		at, _ := strconv.ParseFloat(m[1], 64)
		id, _ := strconv.ParseUint(m[3], 16, 32)
		list = append(list, busFrame{at, m[2], id, m[4]})
	}
	return list
}

// The agent asks control units that are another implementation's, on a real bus, and what they answered is in the queue.
// candump saw what was asked: only what is listed, no more often than allowed, and nothing while it must not be.
func TestAgentAsksUnitsOnVcan(t *testing.T) {
	agent := Build(t, "amd64", "build", "./cmd/agent")
	dir := t.TempDir()
	ecu, err := filepath.Abs("testdata/ecu.py")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"body.dbc": bodyDBC, "agent.yaml": diagnoseConfig,
		"body.log": "(0.000000) can1 101#018A\n(0.200000) can1 102#0700\n(0.300000) can1 101#018A\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := strings.NewReplacer("AGENT", agent, "CANDUMP", deps.CanUtils(t, "candump").Path, "CANSEND", deps.CanUtils(t, "cansend").Path,
		"CANPLAYER", deps.CanUtils(t, "canplayer").Path, "PYTHON", deps.Python(t).Path, "ECU", ecu).Replace(diagnoseScript)
	r := Run(t, Job{Command: []string{"/bin/sh", "-c", script}, Dir: dir, Timeout: 2 * time.Minute})
	read := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		return string(text)
	}
	if r.Exit != 0 {
		t.Fatalf("exit code %d; the guest said:\n%s\nthe agent said:\n%s\nthe units said:\n%s", r.Exit, r.Output, read("agent.log"), read("ecu.log"))
	}
	checkAsked(t, readBusLog(t, read("dump.log")))
	checkAnswers(t, filepath.Join(dir, "data", "queue"), read("served.log"))
	log := read("agent.log")
	for _, text := range []string{`msg="diagnostics pause" bus=can0 why="the ignition is off`, `msg="diagnostics go on" bus=can0`} {
		if !strings.Contains(log, text) {
			t.Errorf("the agent did not log %s", text)
		}
	}
	if n := strings.Count(log, "another tester is on the bus"); n != 1 {
		t.Errorf("another tester was heard %d times: our own frames come back by loopback and are none", n)
	}
	for _, vin := range []string{"WVWZZZ", "3W386752"} {
		if strings.Contains(log, vin) {
			t.Error("the VIN is in the log")
		}
	}
	if t.Failed() {
		t.Logf("candump:\n%s\nthe agent said:\n%s\nthe units said:\n%s", read("dump.log"), log, read("ecu.log"))
	}
}

// checkAsked looks at what was on the bus.
func checkAsked(t *testing.T, dump []busFrame) {
	t.Helper()
	const tester = "023E800000000000"
	const rate, burst, backOff, reaction = 12.0, 6.0, 3.0, 1.0
	var asked []float64
	var on, off, other float64
	requests := map[uint64]*regexp.Regexp{ // and flow control: continue, all frames, as fast as you can
		0x7DF: regexp.MustCompile(`^(0201[02468AC]0|0[2-5]01(0C|0D|05|2F|46)+|0302[0-9A-F]{2}00|010[37A]|020902)0*$`),
		0x7E0: regexp.MustCompile(`^3000000000000000$`),
		0x7E1: regexp.MustCompile(`^3000000000000000$`),
		0x7E4: regexp.MustCompile(`^(0322(F190|010[12])|03190208|061904(01231C|9A0102)FF|300000)0*$`),
	}
	kinds := map[string]int{}
	for _, f := range dump {
		switch {
		case f.bus == "vcan1":
			if f.id != 0x101 && f.id != 0x102 {
				t.Errorf("%X on a bus where nothing may be asked", f.id)
			}
			if f.data == "018A" && on == 0 {
				on = f.at
			}
			if f.data == "008A" {
				off = f.at
			}
		case f.data == tester:
			other = f.at
		case f.id >= 0x7E8 && f.id <= 0x7EF:
		default:
			if re := requests[f.id]; re == nil || !re.MatchString(f.data) {
				t.Errorf("%X#%s is not one of the requests that are listed", f.id, f.data)
			}
			kinds[fmt.Sprintf("%X#%s", f.id, f.data)]++
			asked = append(asked, f.at)
			switch {
			case on == 0:
				t.Errorf("%X#%s before the ignition went on", f.id, f.data)
			case off > on && f.at > off+reaction:
				t.Errorf("%X#%s %.3f s after the ignition went off", f.id, f.data, f.at-off)
			case other > 0 && f.at > other+reaction && f.at < other+backOff:
				t.Errorf("%X#%s %.3f s after another tester", f.id, f.data, f.at-other)
			}
		}
	}
	if on == 0 || other == 0 || off < on {
		t.Fatalf("the script did not do what it should: %v, %v, %v", on, other, off)
	}
	after := func(from, to float64) (n int) {
		for _, at := range asked {
			if at > from && at <= to {
				n++
			}
		}
		return n
	}
	if a, b := after(on, other), after(other+backOff, off); a < 15 || b == 0 {
		t.Errorf("%d frames were sent before the other tester, %d after his silence", a, b)
	}
	for i, first := range asked {
		for j, last := range asked[i:] {
			if allowed := burst + rate*(last-first) + 2; float64(j+1) > allowed {
				t.Fatalf("%d frames in %.3f s, %.0f are allowed", j+1, last-first, allowed)
			}
		}
	}
	for _, once := range []string{"7DF#0209020000000000", "7E4#0322F19000000000", "7E4#0322010200000000"} {
		if n := kinds[once]; n < 1 || n > 2 { // on a busy machine an answer may come too late
			t.Errorf("%s was asked %d times", once, kinds[once])
		}
	}
	t.Logf("%d frames were sent; %v", len(asked), kinds)
}

// checkAnswers compares the queue with what the units say that they served.
func checkAnswers(t *testing.T, dir, served string) {
	t.Helper()
	samples, devices := readDiagnoses(t, dir)
	var speeds []uint64
	for line := range strings.Lines(served) {
		var words [3]string
		if err := json.Unmarshal([]byte(line), &words); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if words[0] == "7E8" && strings.HasPrefix(words[2], "410C") {
			raw, _ := strconv.ParseUint(words[2][4:8], 16, 16)
			speeds = append(speeds, raw)
		}
	}
	got := func(name string) (list []string) {
		last := int64(math.MinInt64)
		for _, s := range samples[name] {
			if s.Time < last {
				t.Errorf("%s goes back in time", name)
			}
			last = s.Time
			text := s.Str
			if s.Kind != telemetrypb.KindString {
				text = fmt.Sprint(int64(s.Bits))
			}
			list = append(list, text)
		}
		return list
	}
	want := make([]string, len(speeds))
	for i, raw := range speeds {
		want[i] = fmt.Sprint(raw)
	}
	have := got("can0.OBD.EngineSpeed")
	for i := range want {
		// The other tester may have spoken in the midst of one answer, whose flow control was then held back.
		if len(want) == len(have)+1 && (i == len(have) || have[i] != want[i]) {
			want = slices.Delete(want, i, i+1)
			break
		}
	}
	if len(want) < 3 || !slices.Equal(have, want) {
		t.Errorf("engine speeds %v, served were %v", have, want)
	}
	for name, value := range map[string]string{
		"can0.OBD.VehicleSpeed":             "42",
		"can0.OBD.EngineCoolantTemperature": "123",
		"can0.OBD.FuelLevel":                "153",
		"can0.OBD.AmbientAirTemperature":    "60",
		"can0.OBD.StoredCodes":              `[{"unit":"7E8","codes":["P0123","U0158"]},{"unit":"7E9","codes":[]}]`,
		"can0.OBD.PendingCodes":             `[{"unit":"7E8","codes":["P0420"]}]`,
		"can0.OBD.PermanentCodes":           `[{"unit":"7E8","codes":[]}]`,
		"can0.OBD.FreezeFrame":              `[{"unit":"7E8","code":"P0123","values":{"EngineCoolantTemperature":50,"EngineSpeed":1726,"VehicleSpeed":20}}]`,
		"can0.bms.vin":                      "WVWZZZ1JZ3W386752",
		"can0.bms.soc":                      "750",
		"can0.bms.current":                  "-5",
		"can0.bms.DTCs": `[{"code":"P0123-1C","dtc":"01231C","status":"2F","bits":["testFailed","testFailedThisOperationCycle","pendingDTC","confirmedDTC","testFailedSinceLastClear"],` +
			`"snapshots":"01020101AABBCC020211223344"},{"code":"B1A01-02","dtc":"9A0102","status":"08","bits":["confirmedDTC"]}]`,
	} {
		list := slices.Compact(got(name))
		if !slices.Equal(list, []string{value}) {
			t.Errorf("%s: %q, want %q", name, list, value)
		}
	}
	for name := range samples {
		if strings.Contains(name, "EngineOil") || strings.Contains(name, "unknown") || strings.HasPrefix(name, "can1.Body") {
			t.Errorf("%s is there, which nobody has", name)
		}
	}
	var vins []string
	for _, d := range devices {
		if d.GetVin() != "" {
			vins = append(vins, d.GetVin())
		}
	}
	if !slices.Equal(vins, []string{"WVWZZZ1JZ3W386752"}) {
		t.Errorf("VIN records %q", vins)
	}
}

// readDiagnoses reads a queue: samples by signal name, and the records of the device.
func readDiagnoses(t *testing.T, dir string) (map[string][]telemetrypb.Sample, []*telemetrypb.DeviceInfo) {
	t.Helper()
	queue, err := buffer.Open(dir, buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	var assembler telemetrypb.CatalogueAssembler
	catalogues := map[string]*telemetrypb.Catalogue{}
	var devices []*telemetrypb.DeviceInfo
	eachBatch(t, queue, telemetrypb.Lane_LANE_CONTROL, func(v telemetrypb.BatchView) {
		records, err := v.Records()
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range records.GetRecords() {
			if part := record.GetCatalogue(); part != nil {
				catalogue, hash, err := assembler.Add(part)
				if err != nil {
					t.Fatal(err)
				}
				catalogues[string(hash[:])] = catalogue
			}
			if d := record.GetDevice(); d != nil {
				devices = append(devices, d)
			}
			if loss := record.GetLoss(); loss != nil {
				t.Errorf("a loss in the ledger: %v", loss)
			}
		}
	})
	samples := map[string][]telemetrypb.Sample{}
	eachBatch(t, queue, telemetrypb.Lane_LANE_TELEMETRY, func(v telemetrypb.BatchView) {
		list, err := v.Samples(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			name := only(t, catalogues).Signal(s.Signal).GetName()
			samples[name] = append(samples[name], s)
		}
	})
	return samples, devices
}
