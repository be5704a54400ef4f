package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// exampleFile is the configuration that documents every key.
const exampleFile = "../../examples/agent.yaml"

// writeFiles makes a folder with a configuration and what it names.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const smallDBC = `VERSION ""
BU_: ECU
BO_ 256 Motion: 8 ECU
 SG_ VehicleSpeed : 0|16@1+ (0.01,0) [0|655.35] "km/h" ECU
 SG_ Gear : 16|4@1+ (1,0) [0|15] "" ECU
`

func TestExampleIsReadAndNamesEveryKey(t *testing.T) {
	text, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := writeFiles(t, map[string]string{"agent.yaml": string(text), "demo.dbc": smallDBC, "can1.log": "", "drive.nmea": ""})
	file := filepath.Join(dir, "agent.yaml")
	s, v, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	if s.Device != "car-0001" || len(s.CAN) != 2 || len(s.GPS) != 4 || v.selection.Len() == 0 {
		t.Errorf("settings %+v", s)
	}
	var missing []string
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			if key := typ.Field(i).Tag.Get("yaml"); !strings.Contains(string(text), key+":") {
				missing = append(missing, key)
			}
			walk(typ.Field(i).Type)
		}
	}
	walk(reflect.TypeOf(config{}))
	if len(missing) > 0 {
		t.Errorf("the example does not show %v", missing)
	}
}

func TestConfigurationErrorsNameFileLineAndRemedy(t *testing.T) {
	good := "device:\n  id: car-1\ncan:\n  - bus: can0\n    replay: a.log\n    dbc: [a.dbc]\ncollect:\n  signals:\n    - match: '*'\n"
	cases := []struct {
		name, text string
		line       int
		words      []string
	}{
		{"empty", "", 1, []string{"empty", "config example"}},
		{"not YAML", "device: [\n", 1, nil},
		{"wrong type", strings.Replace(good, "id: car-1", "id: [1, 2]", 1), 2, []string{"want text, got a list"}},
		{"number for a list", strings.Replace(good, "dbc: [a.dbc]", "dbc: 7", 1), 6, []string{"want a list", "7"}},
		{"text for a number", good + "    - match: x\n      dead_band: wide\n", 11, []string{"want a number, got text (wide)"}},
		{"unknown key", strings.Replace(good, "replay:", "replya:", 1), 5, []string{`unknown key "replya"`, `did you mean "replay"?`}},
		{"device with a slash", strings.Replace(good, "car-1", "fleet/car", 1), 2, []string{"device.id", "'/'"}},
		{"no source", "device:\n  id: car-1\ncollect:\n  signals:\n    - match: '*'\n", 1, []string{"no source", "can:"}},
		{"missing file", strings.Replace(good, "a.dbc", "b.dbc", 1), 6, []string{"can[0].dbc[0]", "b.dbc", "no such file"}},
		{"duration without unit", good + "queue:\n  commit_every: 5\n", 11, []string{"queue.commit_every", "unit", `"5"`}},
		{"duration out of bounds", good + "queue:\n  commit_every: 0s\n", 11, []string{"between 100ms and 1m0s", "got 0s"}},
		{"size", good + "queue:\n  max_bytes: lots\n", 11, []string{"queue.max_bytes", "16MiB", "lots"}},
		{"quota of the control lane", good + "queue:\n  lanes: {control: 8MiB}\n", 11, []string{"queue.lanes.control", "event, telemetry or raw"}},
		{"quota above the whole", good + "queue:\n  max_bytes: 16MiB\n  lanes:\n    raw: 1GiB\n", 13, []string{"queue.lanes.raw", "between 4194304 and 16777216"}},
		{"thinned to nothing", good + "queue:\n  thin_every: 0\n", 11, []string{"queue.thin_every", "between 1", "1000"}},
		{"both sources", strings.Replace(good, "replay: a.log", "replay: a.log\n    interface: vcan0", 1), 6, []string{"either interface: (SocketCAN) or replay:"}},
		{"two clocks", good + "gps:\n  - serial: /dev/ttyX\n", 4, []string{"one clock", "time: receipt"}},
		{"no receiver", good + "gps:\n  - name: g\n", 11, []string{"gps[0].serial", "tcp:", "gpsd:"}},
		{"two receivers in one", good + "gps:\n  - tcp: a:1\n    gpsd: {}\n", 11, []string{"want one of serial:"}},
		{"receiver without a port", good + "gps:\n  - tcp: router\n", 11, []string{"gps[0].tcp", "host:port", `"router"`}},
		{"odd rate", good + "gps:\n  - serial: /dev/ttyX\n    baud: 1234\n", 12, []string{"gps[0].baud", "auto", "1234"}},
		{"rate of a socket", good + "gps:\n  - tcp: a:1\n    baud: auto\n", 12, []string{"serial: only"}},
		{"grid without a size", good + "gps:\n  - tcp: a:1\n    position: grid\n", 12, []string{"grid:", "1000"}},
		{"size without a grid", good + "gps:\n  - tcp: a:1\n    grid: 1000\n", 12, []string{"position: grid"}},
		{"small grid", good + "gps:\n  - tcp: a:1\n    position: grid\n    grid: 1\n", 13, []string{"between 10 and 100000 m"}},
		{"no such rule", good + "  rules:\n    - {name: crash, signal: can0.Motion.Gear, above: 1}\ngps:\n  - tcp: a:1\n    position: on_event\n    when: crush\n", 15, []string{"gps[0].when", `did you mean "crash"?`}},
		{"a hold for nothing", good + "gps:\n  - tcp: a:1\n    hold: 5s\n", 12, []string{"gps[0].hold", "on_event"}},
		{"a turn of nothing", good + "gps:\n  - tcp: a:1\n    motion: {turn: 0}\n", 12, []string{"gps[0].motion.turn", "between 1 and 180 degrees"}},
		{"unknown motion", good + "gps:\n  - tcp: a:1\n    motion: {distanse: 0}\n", 12, []string{`did you mean "distance"?`}},
		{"no sensor", good + "imu:\n  - rate: 5\n", 11, []string{"imu[0].device", "/sys/bus/iio"}},
		{"a fast sensor", good + "imu:\n  - device: a\n    rate: 20000\n", 12, []string{"between 0", "10000 Hz"}},
		{"pattern without a match", strings.Replace(good, "'*'", "'can0.*.VehicleSpede'", 1), 7, []string{"can0.*.VehicleSpede", "VehicleSpeed"}},
		{"plain broker", good + "uplink:\n  broker: mqtt://127.0.0.1\n", 11, []string{"not encrypted", "insecure: true"}},
		{"password in the URL", good + "uplink:\n  broker: mqtts://u:secret@h\n", 11, []string{"password_file"}},
		{"open metrics", good + "metrics:\n  listen: 0.0.0.0:80\n", 11, []string{"loopback"}},
		{"rule on nothing", good + "  rules:\n    - name: r\n      signal: can0.Motion.Speed\n      above: 1\n", 7, []string{"can0.Motion.Speed"}},
		{"not a DBC file", good, 7, []string{"no message", "can lint"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dbc := smallDBC
			if c.name == "not a DBC file" {
				dbc = "%PDF-1.4\n"
			}
			dir := writeFiles(t, map[string]string{"agent.yaml": c.text, "a.dbc": dbc, "a.log": ""})
			file := filepath.Join(dir, "agent.yaml")
			_, _, err := load(file)
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
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "main.") {
				t.Errorf("%v: shows what a user must not or cannot read", err)
			}
		})
	}
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "a.log": "",
		"agent.yaml": "device: {id: car-1}\ncan: [{bus: can0, replay: a.log, dbc: [a.dbc]}]\ncollect: {signals: [{match: '*'}]}\n"})
	s, _, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(s.Tenant, " ", s.CommitEvery, " ", s.SealEvery, " ", s.Queue, " ", s.Uplink.Drain, " ", s.LogTime, " ",
		s.CAN[0].ListenOnly, " ", s.CAN[0].Replay.Speed, " ", s.Collect[0].OnChange)
	if want := "default 1s 5s {1073741824 map[] 4194304 10 0s 16777216 4194304} 10s true true 1 true"; got != want {
		t.Errorf("defaults %s, documented %s", got, want)
	}
}

// Whatever the bytes, reading a configuration ends in settings or in an error that names the file.
func FuzzConfig(f *testing.F) {
	text, err := os.ReadFile(exampleFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("device: {id: a}\ncan: [{}]\n"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parseConfig("f.yaml", text)
		if err == nil {
			_, err = check(d)
		}
		if err != nil && !strings.Contains(err.Error(), "f.yaml:") {
			t.Errorf("%v does not name the file", err)
		}
	})
}
