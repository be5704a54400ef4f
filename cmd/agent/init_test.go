package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/gps/gpstest"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/deps"
)

// initialise runs the command.
func initialise(t *testing.T, answers string, flags ...string) (code int, out, stderr string) {
	t.Helper()
	var stdout, errors bytes.Buffer
	root := rootCommand()
	root.SetOut(&stdout)
	root.SetErr(&errors)
	root.SetIn(strings.NewReader(answers))
	code = cli.Execute(root, append([]string{"init", "--gpsd", closedPort(t)}, flags...), &errors)
	t.Logf("exit code %d\n%s%s", code, stdout.String(), errors.String())
	return code, stdout.String(), errors.String()
}

// frames is a candump log of some ids, each with 8 bytes.
func frames(bus string, ids ...string) string {
	var text strings.Builder
	for i, id := range ids {
		fmt.Fprintf(&text, "(1700000000.%06d) %s %s#0011223344556677\n", i, bus, id)
	}
	return text.String()
}

func TestInitWritesWhatCheckAccepts(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "a.log": frames("can0", "100") + frames("can1", "200", "201")})
	file := filepath.Join(dir, "agent.yaml")
	flags := []string{"--yes", "-c", file, "--dbc", dir, "--log", filepath.Join(dir, "a.log"), "--data-dir", "data",
		"--broker", "mqtt://127.0.0.1:1883"}
	if code, out, _ := initialise(t, "", flags...); code != cli.OK || !strings.Contains(out, "check  -c "+file) {
		t.Fatal("it fails")
	}
	s, v, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.CAN) != 2 || !slices.Equal(s.CAN[0].DBC, []string{filepath.Join(dir, "a.dbc")}) || s.CAN[0].Record.on() ||
		len(s.CAN[1].DBC) != 0 || !s.CAN[1].Record.on() {
		t.Errorf("buses %+v", s.CAN)
	}
	if _, ok := v.selection.ID("can0.Motion.VehicleSpeed"); !ok {
		t.Error("the DBC file's signal is not collected")
	}
	if !strings.HasPrefix(s.Device, "car-") || s.Tenant != "default" || s.DataDir != filepath.Join(dir, "data") ||
		s.Uplink.Broker == nil || s.MetricsListen == "" {
		t.Errorf("settings %+v", s)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"dbc:\n      - \"a.dbc\"", "a.dbc: names 1 of 1 ids heard; has 1 messages; score 1.00",
		"insecure: true"} {
		if !strings.Contains(string(before), line) {
			t.Errorf("it does not say %q:\n%s", line, before)
		}
	}

	if code, _, stderr := initialise(t, "", append(flags, "--device", "other")...); code != cli.Failed ||
		!strings.Contains(stderr, "--force") {
		t.Error("it runs over a file that is there")
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, before) {
		t.Error("the file that was there is another one")
	}
	if code, _, _ := initialise(t, "", append(flags, "--device", "other", "--force")...); code != cli.OK {
		t.Error("--force does not help")
	}
	if s, _, err := load(file); err != nil || s.Device != "other" {
		t.Errorf("device %v, %v", s, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".init-*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

func TestInitAsks(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "a.log": frames("can0", "100")})
	file := filepath.Join(dir, "agent.yaml")
	flags := []string{"-c", file, "--log", filepath.Join(dir, "a.log"), "--device", "given"}
	code, _, stderr := initialise(t, "bad/name\ncar-7\nacme\nmqtts://b.example:8883\n"+filepath.Join(dir, "a.dbc")+"\n",
		flags...)
	if code != cli.OK || !strings.Contains(stderr, "[given]") || !strings.Contains(stderr, "are not allowed") {
		t.Fatal("it fails, or does not ask again")
	}
	s, _, err := load(file)
	if err != nil || s.Device != "car-7" || s.Tenant != "acme" || s.Uplink.Broker.Host != "b.example:8883" ||
		len(s.CAN[0].DBC) != 1 {
		t.Errorf("settings %+v, %v", s, err)
	}
	if code, _, stderr := initialise(t, "car-8\n", append(flags, "--force")...); code != cli.Failed ||
		!strings.Contains(stderr, "--yes") {
		t.Error("it does not say what to do without answers")
	}
}

// sunday is a fix of a parked vehicle.
func sunday(second int) gps.Fix {
	return gps.Fix{
		Time: time.Date(2026, 11, 22, 12, 0, second, 0, time.UTC).UnixNano(), Latitude: 48117300000, Longitude: 11516666600,
		Mode: gps.Mode3D, Quality: gps.QualityGNSS, Satellites: 8, Speed: 0,
		Fields: gps.HasTime | gps.HasPosition | gps.HasSpeed | gps.HasSatellites | gps.HasQuality,
	}
}

func TestInitFindsAReceiver(t *testing.T) {
	dir := t.TempDir()
	receiverAt(unix.B38400, func(second int) []byte { return gpstest.Epoch(nil, sunday(second)) })(t, dir)
	file := filepath.Join(dir, "agent.yaml")
	code, out, _ := initialise(t, "", "--yes", "--json", "-c", file, "--serial", filepath.Join(dir, "gps"), "--listen", "2s")
	var found struct {
		Receivers []foundReceiver `json:"receivers"`
	}
	if err := json.Unmarshal([]byte(out), &found); code != cli.OK || err != nil || len(found.Receivers) != 1 {
		t.Fatalf("%d, %v: %+v", code, err, found)
	}
	if r := found.Receivers[0]; r.Baud != 38400 || !r.Fix {
		t.Errorf("receiver %+v", r)
	}
	if s, _, err := load(file); err != nil || len(s.GPS) != 1 || s.GPS[0].Baud != 38400 ||
		s.GPS[0].Serial != filepath.Join(dir, "gps") {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestInitWithoutAnySource(t *testing.T) {
	if canGone() == problemCANMissing {
		t.Skip("this machine may have buses")
	}
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if code, _, stderr := initialise(t, "", "--yes", "-c", file, "--listen", "100ms"); code != cli.Failed ||
		!strings.Contains(stderr, "--log FILE") {
		t.Error("it does not say what to do")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("there is a file")
	}
}

func TestRanking(t *testing.T) {
	message := func(id uint32, length int) string {
		return fmt.Sprintf("BO_ %d M%d: %d ECU\n SG_ S : 0|8@1+ (1,0) [0|0] \"\" ECU\n", id, id, length)
	}
	dbc := func(name string, messages ...string) *dbcFile {
		return newDBCFile(name, can.ParseDBC([]byte("BU_: ECU\n"+strings.Join(messages, ""))))
	}
	h := newHeard()
	for id := range uint32(12) {
		h.take(&can.Frame{ID: 0x100 + id, Len: 8})
	}
	h.take(&can.Frame{ID: 0x100, Len: 4}) // a shorter one of the same
	h.take(&can.Frame{ID: 0x700, Flags: can.FlagRemote})
	h.take(&can.Frame{ID: 4, Flags: can.FlagError})
	right := dbc("right", message(0x100, 8), message(0x101, 8), message(0x102, 8), message(0x103, 8), message(0x104, 8))
	longer := dbc("longer", message(0x100, 8), message(0x101, 8), message(0x102, 6), message(0x103, 6), message(0x104, 6),
		message(0x105, 8), message(0x106, 8))
	rest := dbc("rest", message(0x109, 8), message(0x10A, 8), message(0x10B, 8))
	chance := dbc("chance", message(0x108, 8), message(0x1, 8), message(0x2, 8))
	taken, all := choose(h, []*dbcFile{chance, longer, rest, right})
	var names []string
	for _, f := range all {
		names = append(names, f.File)
	}
	if !slices.Equal(names, []string{"right", "rest", "chance", "longer"}) {
		t.Errorf("ranked %v", names)
	}
	if len(taken) != 2 || taken[0].File != "right" || taken[1].File != "rest" {
		t.Errorf("taken %+v", taken)
	}
	if f := all[3]; f.Right != 4 || f.Wrong != 3 || f.Heard != 12 || f.Score != 1.0/7 {
		t.Errorf("longer: %+v", f)
	}
}

// TestInitFindsTheFileOfARealBus takes others' recordings, their DBC files, and the many of other makers.
func TestInitFindsTheFileOfARealBus(t *testing.T) {
	folder, many := deps.Testdata(t, "can"), deps.Testdata(t, "dbc")
	for log, want := range map[string]string{
		"truck-j1939.log": "can1: CSS-Electronics-SAE-J1939-DEMO.dbc", "boat-nmea2000.log": "can1: tp_nmea.dbc",
	} {
		file := filepath.Join(t.TempDir(), "agent.yaml")
		code, _, _ := initialise(t, "", "--yes", "-c", file, "--dbc", folder, "--dbc", many, "--log", filepath.Join(folder, log))
		s, _, err := load(file)
		if code != cli.OK || err != nil {
			t.Fatalf("%s: %d, %v", log, code, err)
		}
		var got []string
		for _, bus := range s.CAN {
			for _, path := range bus.DBC {
				got = append(got, bus.Bus+": "+filepath.Base(path))
			}
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: took %v, want %s", log, got, want)
		}
	}
}
