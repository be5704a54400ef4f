package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/deps"
)

// runCAN runs `waybill-agent can …`.
func runCAN(stdin string, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	code = cli.Execute(root, append([]string{"can"}, args...), &errs)
	return out.String(), errs.String(), code
}

func writeDBC(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "test.dbc")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const toolDBC = `BO_ 291 Mixed: 64 X
 SG_ Gear : 0|8@1+ (1,0) [0|0] "" X
 SG_ Temp : 8|8@1- (0.5,-40) [0|0] "degC" X
 SG_ Big : 16|64@1+ (10,5) [0|0] "" X
 SG_ Wide : 80|64@1- (1,0) [0|0] "" X
 SG_ Ratio : 160|32@1- (1,0) [0|0] "" X
BO_ 2566844926 Slow: 8 X
 SG_ Speed : 8|16@1+ (0.00390625,0) [0|0] "km/h" X
BO_ 4660 Unflagged: 0 X
VAL_ 291 Gear 2 "Drive \"D\"" 0 "Park" ;
SIG_VALTYPE_ 291 Ratio : 1;
`

func TestCANDecode(t *testing.T) {
	dbc := writeDBC(t, toolDBC)
	const log = `(1620692699.796900) can0 123#0200
  can1  123   [1]  07
nonsense
(1.000000001) can0 123##002D8FFFFFFFFFFFFFFFF0000000000000080000000C07F
(2.0) can0 00001234#
(3.0) can0 12345678#00
(4.0) can0 18FEF142#0000010000000000
(5.0) can0 123#R2
`
	stdout, stderr, code := runCAN(log, "decode", "--raw", "--labels", "--dbc", dbc)
	want := `{"t":1620692699.796900,"bus":"can0","id":291,"ext":false,"msg":"Mixed","signals":{"Gear":2,"Temp":-40},"raw":{"Gear":2,"Temp":0},"labels":{"Gear":"Drive \"D\""}}
{"t":null,"bus":"can1","id":291,"ext":false,"msg":"Mixed","signals":{"Gear":7},"raw":{"Gear":7},"labels":{}}
{"t":1.000000001,"bus":"can0","id":291,"ext":false,"msg":"Mixed","signals":{"Gear":2,"Temp":-60,"Big":184467440737095516155,"Wide":-9223372036854775808},"raw":{"Gear":2,"Temp":-40,"Big":18446744073709551615,"Wide":-9223372036854775808},"labels":{"Gear":"Drive \"D\""}}
{"t":2.000000,"bus":"can0","id":4660,"ext":true,"msg":"Unflagged","signals":{},"raw":{},"labels":{}}
`
	if code != 0 || stdout != want {
		t.Errorf("exit %d, got\n%swant\n%s", code, stdout, want)
	}
	if !strings.Contains(stderr, "standard input:3: warning: ") {
		t.Errorf("the rejected line is not reported: %q", stderr)
	}
	stdout, _, _ = runCAN(log, "decode", "--dbc", dbc, "--j1939", "-")
	if !strings.Contains(stdout, `{"t":4.000000,"bus":"can0","id":419361090,"ext":true,"msg":"Slow","signals":{"Speed":1}}`) {
		t.Errorf("with --j1939: %s", stdout)
	}
}

func TestCANDecodeNotNumbers(t *testing.T) {
	dbc := writeDBC(t, "BO_ 1 F: 8 X\n SG_ A : 0|32@1- (1,0) [0|0] \"\" X\n SG_ B : 32|32@1- (1,0) [0|0] \"\" X\nSIG_VALTYPE_ 1 A : 1;\nSIG_VALTYPE_ 1 B : 1;\n")
	stdout, _, _ := runCAN("(1.0) c 001#0000C07F000080FF\n(2.0) c 001#0000807F0000C03F\n", "decode", "--dbc", dbc)
	if want := `"signals":{"A":"NaN","B":"-Infinity"}`; !strings.Contains(stdout, want) {
		t.Errorf("%s lacks %s", stdout, want)
	}
	if want := `"signals":{"A":"Infinity","B":1.5}`; !strings.Contains(stdout, want) {
		t.Errorf("%s lacks %s", stdout, want)
	}
}

func TestCANExitCodes(t *testing.T) {
	good, odd := writeDBC(t, toolDBC), writeDBC(t, "BO_ x\nCM_ \"no end")
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"decode", "--dbc", good}, cli.OK, ""},
		{[]string{"decode", "--dbc", odd, "--dbc", good}, cli.OK, "test.dbc:1: error: "},
		{[]string{"decode", "--dbc", missing}, cli.Failed, missing},
		{[]string{"decode", "--dbc", good, missing}, cli.Failed, missing},
		{[]string{"decode"}, cli.Usage, "--dbc"},
		{[]string{"decode", "--dbc", good, "a", "b"}, cli.Usage, "one log"},
		{[]string{"decode", "--nonsense"}, cli.Usage, "nonsense"},
		{[]string{"nonsense"}, cli.Usage, "nonsense"},
		{[]string{"lint", odd}, cli.Findings, ""},
		{[]string{"lint", missing}, cli.Failed, missing},
		{[]string{"lint", good, good}, cli.Usage, "one DBC file"},
		{[]string{"--help"}, cli.OK, ""},
	} {
		_, stderr, code := runCAN("", test.args...)
		if code != test.code || !strings.Contains(stderr, test.stderr) {
			t.Errorf("%v: exit %d, want %d; standard error %q, want %q in it", test.args, code, test.code, stderr, test.stderr)
		}
	}
}

func TestCANLint(t *testing.T) {
	clean := writeDBC(t, "BO_ 1 M: 8 X\n SG_ A : 0|8@1+ (1,0) [0|0] \"\" X\n")
	if stdout, _, code := runCAN("", "lint", clean); stdout != "" || code != cli.OK {
		t.Errorf("a clean file: exit %d, %q", code, stdout)
	}
	notes := writeDBC(t, "BO_ 4660 M: 8 X\n")
	if stdout, _, code := runCAN("", "lint", notes); !strings.HasPrefix(stdout, notes+":1: note: ") || code != cli.OK {
		t.Errorf("a file with a note: exit %d, %q", code, stdout)
	}
	odd := writeDBC(t, "VERSION \"\"\nBO_ x M: 8 X\n")
	if stdout, _, code := runCAN("", "lint", odd); !strings.HasPrefix(stdout, odd+":2: error: ") || code != cli.Findings {
		t.Errorf("a file with an error: exit %d, %q", code, stdout)
	}
	stdout, _, code := runCAN("", "lint", "--json", odd)
	var finding map[string]any
	if err := json.Unmarshal([]byte(stdout), &finding); err != nil || code != cli.Findings ||
		finding["file"] != odd || finding["line"] != 2.0 || finding["severity"] != "error" || finding["text"] == "" {
		t.Errorf("--json: %v %v", err, finding)
	}
}

// A recorded log of a truck at rest. Its frames of PGN 61444 and 65265, counted by grep, are all decoded, from whatever
// source address they come, and engine speed and road speed stand at 0.
func TestCANDecodeTruck(t *testing.T) {
	stdout, stderr, code := runCAN("", "decode", "--dbc", deps.Testdata(t, "can", "CSS-Electronics-SAE-J1939-DEMO.dbc"), deps.Testdata(t, "can", "truck-j1939.log"))
	if code != cli.OK || stderr != "" {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	frames := map[string]int{}
	for line := range strings.Lines(stdout) {
		var o struct {
			T       float64            `json:"t"`
			Bus     string             `json:"bus"`
			ID      uint32             `json:"id"`
			Ext     bool               `json:"ext"`
			Msg     string             `json:"msg"`
			Signals map[string]float64 `json:"signals"`
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		name, pgn := "EngineSpeed", uint32(61444)
		if o.Msg == "CCVS1" {
			name, pgn = "WheelBasedVehicleSpeed", 65265
		}
		v, ok := o.Signals[name]
		if !ok || v != 0 || len(o.Signals) != 1 || o.ID>>8&0xFFFF != pgn || !o.Ext || o.T < 1622547830 || o.T > 1622547830+200 {
			t.Fatalf("%s", line)
		}
		frames[o.Msg]++
	}
	if len(frames) != 2 || frames["EEC1"] != 577 || frames["CCVS1"] != 184 {
		t.Errorf("%v", frames)
	}
}

// Positions of a recorded boat that come in seven frames each: one line a position, at its last frame, and none for the
// frames. A log that is cut in the middle of one says so.
func TestCANDecodeBoat(t *testing.T) {
	dbc, log := deps.Testdata(t, "can", "tp_nmea.dbc"), deps.Testdata(t, "can", "boat-nmea2000.log")
	stdout, stderr, code := runCAN("", "decode", "--dbc", dbc, log)
	if code != cli.OK || stderr != "" || strings.Count(stdout, "\n") != 300 {
		t.Fatalf("exit %d, %d lines, %s", code, strings.Count(stdout, "\n"), stderr)
	}
	const first = `{"t":1620692700.468300,"bus":"can1","id":234358166,"ext":true,"msg":"gnssPositionData","signals":{"sid":255,"date":18758,`
	if !strings.HasPrefix(stdout, first) {
		t.Errorf("got %.200s, want %s", stdout, first)
	}
	recorded, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	middle := bytes.Index(recorded, []byte("0DF80596#C4"))
	stdout, stderr, code = runCAN(string(recorded[:middle+27]), "decode", "--dbc", dbc)
	if code != cli.OK || stdout != "" || !strings.Contains(stderr, "several frames left out: 1: the reading ended in it") {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
}

// A broadcast of a recorded truck has the identifier that one frame would have, with the priority of its packets.
func TestCANDecodeBroadcast(t *testing.T) {
	stdout, stderr, code := runCAN("", "decode", "--dbc", deps.Testdata(t, "can", "tp_j1939.dbc"), deps.Testdata(t, "can", "truck-j1939.log"))
	const first = `{"t":1622547831.935650,"bus":"can1","id":486466304,"ext":true,"msg":"EC1","signals":{"EngineSpeedAtPoint5":1566.5}}`
	if code != cli.OK || stderr != "" || strings.Count(stdout, "\n") != 13 || !strings.HasPrefix(stdout, first+"\n") {
		t.Errorf("exit %d, %q, %s", code, stderr, stdout)
	}
}
