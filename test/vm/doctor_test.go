package vm

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

	"github.com/waybill-telematics/waybill/test/deps"
)

// brokenVehicles are what only a machine with CAN, and with file systems of its own, can break: a name, the lines that
// break it, and the configuration's part. In the lines, CONSULT runs the doctor, as NOBODY when told.
var brokenVehicles = []struct {
	problem, lines, config string
	nobody                 bool
}{
	{problem: "can-interface-missing", config: "can: [{interface: can7, dbc: [small.dbc]}]"},
	{problem: "can-down", lines: "ip link set vcan1 down", config: "can: [{interface: vcan1, dbc: [small.dbc]}]"},
	{problem: "can-silent", config: "can: [{interface: vcan0, dbc: [small.dbc]}]"},
	{problem: "can-no-known-frame", lines: "traffic 321#11", config: "can: [{interface: vcan0, dbc: [small.dbc]}]"},
	{problem: "can-no-fd", lines: "ip link set vcan1 down; ip link set vcan1 mtu 16; ip link set vcan1 up",
		config: "can: [{interface: vcan1, dbc: [bench.dbc]}]"},
	{problem: "can-short-send-queue", lines: "ip link set vcan0 txqueuelen 5",
		config: "can: [{interface: vcan0, dbc: [small.dbc], diagnose: {ignition: {signal: vcan0.Motion.Speed}, voltage: " +
			"{signal: none}, obd: {pids: [{list: [EngineSpeed]}]}}}]"},
	{problem: "can-small-receive-buffer", lines: "echo 212992 >/proc/sys/net/core/rmem_max", nobody: true,
		config: "can: [{interface: vcan0, dbc: [small.dbc]}]"},

	{problem: "can-no-bitrate", config: "can: [{interface: can0, dbc: [small.dbc]}]"},
	{problem: "can-no-net-admin", nobody: true, config: "can: [{interface: can0, bitrate: 500000, dbc: [small.dbc]}]"},
	{problem: "can-acknowledges", lines: "ip link set can0 type can bitrate 500000; ip link set can0 up",
		config: "can: [{interface: can0, dbc: [small.dbc]}]"},
	{problem: "can-bitrate-differs", config: "can: [{interface: can0, bitrate: 250000, dbc: [small.dbc]}]"},
	{problem: "can-error-warning", lines: "echo sw000096 >&3; state ERROR-WARNING",
		config: "can: [{interface: can0, dbc: [small.dbc]}]"},
	{problem: "can-error-passive", lines: "echo sp129000 >&3; state ERROR-PASSIVE",
		config: "can: [{interface: can0, dbc: [small.dbc]}]"},
	{problem: "can-bus-off", lines: "echo sb000255 >&3; state BUS-OFF", config: "can: [{interface: can0, dbc: [small.dbc]}]"},
	{problem: "can-listen-only", lines: "ip link set can0 down; ip link set can0 type can bitrate 500000 listen-only on; " +
		"ip link set can0 up",
		config: "can: [{interface: can0, dbc: [small.dbc], diagnose: {ignition: {signal: can0.Motion.Speed}, voltage: " +
			"{signal: none}, obd: {pids: [{list: [EngineSpeed]}]}}}]"},

	{problem: "disk-not-durable", lines: "mkdir disk; mount -t tmpfs -o size=32M tmpfs disk", config: "data_dir: disk"},
	{problem: "quota-above-partition", config: "data_dir: disk"},
	{problem: "disk-full", lines: "head -c 30M /dev/zero >disk/fill", config: "data_dir: disk"},
	{problem: "disk-read-only", lines: "rm disk/fill; mount -o remount,ro disk", config: "data_dir: disk"},
	{problem: "disk-no-inodes", lines: "mkdir few; mount -t tmpfs -o size=32M,nr_inodes=3 tmpfs few; touch few/1 few/2 " +
		"few/3 || :", config: "data_dir: few"},

	{problem: "clock-not-set", lines: "date -s @86400 >/dev/null", config: ""},
}

const doctorHead = `set -eu
ip() { LD_LIBRARY_PATH=LIBRARIES IPROUTE "$@"; }
traffic() { (for i in $(seq 100); do CANSEND vcan0 $1; sleep 0.1; done) & }
state() { until ip -details link show can0 | grep -q "state $1"; do sleep 0.1; done; }
mkfifo line
SLCAN <line >name 2>line.log &
exec 3>line
until [ -s name ]; do sleep 0.1; done
test $(cat name) = can0
`

// TestDoctorNamesBrokenBuses: each problem by its name, on a kernel's own interfaces and file systems, in one boot; then
// init
// writes what check accepts, of a bus that it listens to.
func TestDoctorNamesBrokenBuses(t *testing.T) {
	agent, slcan := Build(t, "amd64", "build", "./cmd/agent"), Build(t, "amd64", "build", "./test/vm/slcan")
	dir := t.TempDir()
	for _, open := range []string{dir, filepath.Dir(dir), filepath.Dir(agent), filepath.Dir(filepath.Dir(agent))} {
		if err := os.Chmod(open, 0o755); err != nil { // for nobody
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	small := benchDBC[:strings.Index(benchDBC, "BO_ 512")]
	write("small.dbc", small)
	write("bench.dbc", benchDBC)
	write("a.log", "")
	for _, folder := range []string{"data", "dbc"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	write("dbc/right.dbc", small)
	write("dbc/wrong.dbc", strings.NewReplacer("256 Motion: 8", "257 Motion: 6", "2566844926", "2566844927").Replace(small))

	var script strings.Builder
	script.WriteString(doctorHead)
	for i, b := range brokenVehicles {
		config := "device: {id: car-1}\ncollect: {signals: [{match: '*'}]}\nuplink: {broker: 'mqtts://127.0.0.1:1'}\n" +
			b.config + "\n"
		if !strings.Contains(b.config, "data_dir:") {
			config += "data_dir: data\n"
		}
		if !strings.Contains(b.config, "can:") {
			config += "can: [{bus: can0, replay: a.log, time: receipt, dbc: [small.dbc]}]\n"
		}
		name := fmt.Sprintf("%02d", i)
		write(name+".yaml", config)
		user := ""
		if b.nobody {
			user = "setpriv --reuid 65534 --regid 65534 --clear-groups "
		}
		fmt.Fprintf(&script, "%s\n%sAGENT doctor -c %s.yaml --local --json --listen 1s >%[3]s.json || test $? = 1\n", b.lines,
			user, name)
	}
	script.WriteString(`traffic 100#1122334455667788; traffic 18FEF1FE#1122334455667788
AGENT init --yes -c made.yaml --dbc dbc --listen 3s --data-dir data 2>init.log
AGENT check -c made.yaml
`)
	ip := deps.Program(t, "iproute2", "ip")
	libraries := ""
	for _, variable := range ip.Env {
		if value, ok := strings.CutPrefix(variable, "LD_LIBRARY_PATH="); ok {
			libraries = value
		}
	}
	text := strings.NewReplacer("IPROUTE", ip.Path, "LIBRARIES", libraries, "AGENT", agent, "SLCAN", slcan, "CANSEND",
		deps.CanUtils(t, "cansend").Path).Replace(script.String())
	r := Run(t, Job{Command: []string{"/bin/sh", "-c", text}, Dir: dir, Timeout: 4 * time.Minute,
		Modules: []string{"drivers/net/can/slcan/slcan"}})
	if r.Exit != 0 {
		log, _ := os.ReadFile(filepath.Join(dir, "init.log"))
		t.Fatalf("exit code %d; the guest said:\n%s\n%s", r.Exit, r.Output, log)
	}
	t.Logf("the guest said:\n%s", r.Output)
	for i, b := range brokenVehicles {
		var found []string
		steps, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%02d.json", i)))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(steps) {
			var s struct{ Problem, Wrong, Remedy string }
			if err := json.Unmarshal(line, &s); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if s.Problem != "" {
				found = append(found, s.Problem)
			}
		}
		t.Logf("%-26s %v", b.problem, found)
		if !slices.Contains(found, b.problem) {
			t.Errorf("%s is not named:\n%s", b.problem, steps)
		}
	}
	made, err := os.ReadFile(filepath.Join(dir, "made.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(made), `interface: "vcan0"`) || !strings.Contains(string(made),
		"\n      - \"dbc/right.dbc\"") || strings.Contains(string(made), "\n      - \"dbc/wrong.dbc\"") {
		t.Errorf("init wrote\n%s", made)
	}
}
