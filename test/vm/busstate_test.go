package vm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

const stateConfig = `
device: {id: bench-1}
data_dir: data
can:
  - {bus: can0, interface: can0, dbc: [bench.dbc]}
  - {bus: bench, interface: vcan0, dbc: [bench.dbc]}
collect:
  signals: [{match: "*"}]
queue: {commit_every: 200ms, seal_every: 1s}
`

// stateScript is a serial line adapter that tells of its controller's states: s, then the state, receive and transmit
// error counter of three digits each. The agent is stopped while two of them come. Every wait is bounded by the job's time.
const stateScript = `set -eu
ip() { LD_LIBRARY_PATH=LIBRARIES IPROUTE "$@"; }
mkfifo line
SLCAN <line >name 2>line.log &
exec 3>line
until [ -s name ]; do sleep 0.1; done
can=$(cat name)
test $can = can0
ip link set can0 type can bitrate 500000
ip link set can0 up
AGENT run -c agent.yaml 2>agent.log 3>&- & agent=$!
await() { until grep -qE "^ +$1 " /proc/net/can/rcvlist_err; do sleep 0.1; done; }
await can0
await vcan0
sleep 1.5
echo sw000096 >&3
for i in $(seq 100); do echo t10080000000000000000 >&3; done
sleep 1.5
kill -STOP $agent
echo sp129000 >&3
sleep 0.5
echo sb000255 >&3
sleep 1.5
kill -CONT $agent
sleep 1.5
ip -details -statistics -json link show can0 >ip.json
AGENT can status --json can0 >status.json
AGENT can status
echo sa000000 >&3
CANSEND vcan0 20000040#0000000000000000
sleep 0.5
CANSEND vcan0 20000100#0000000000000000
sleep 7
ip link set can0 down
sleep 3
exec 3>&-
sleep 3
kill -TERM $agent
wait $agent
`

// The state of a real bus of the kernel's is in the queue when the agent has ended: every change in its order and with
// its time, the counters, and the alarm.
func TestAgentTellsTheStateOfABus(t *testing.T) {
	agent, slcan := Build(t, "amd64", "build", "./cmd/agent"), Build(t, "amd64", "build", "./test/vm/slcan")
	dir := t.TempDir()
	for name, text := range map[string]string{"bench.dbc": benchDBC, "agent.yaml": stateConfig} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ip := deps.Program(t, "iproute2", "ip")
	libraries := ""
	for _, variable := range ip.Env {
		if value, ok := strings.CutPrefix(variable, "LD_LIBRARY_PATH="); ok {
			libraries = value
		}
	}
	script := strings.NewReplacer("IPROUTE", ip.Path, "LIBRARIES", libraries, "AGENT", agent, "SLCAN", slcan, "CANSEND", deps.CanUtils(t, "cansend").Path).Replace(stateScript)
	r := Run(t, Job{
		Command: []string{"/bin/sh", "-c", script}, Dir: dir, Timeout: 3 * time.Minute,
		Modules: []string{"drivers/net/can/slcan/slcan"}, Interfaces: []string{"vcan0"},
	})
	log, _ := os.ReadFile(filepath.Join(dir, "agent.log"))
	if r.Exit != 0 {
		t.Fatalf("exit code %d; the guest said:\n%s\nthe agent said:\n%s", r.Exit, r.Output, log)
	}
	if !strings.Contains(r.Output, "can0: can, up, bus_off, 500000 bit/s") || !strings.Contains(r.Output, "vcan0: vcan, up, received 0 frames") {
		t.Errorf("can status says %q", r.Output)
	}
	compareStatus(t, dir)
	signals, alarms, losses := stateQueue(t, filepath.Join(dir, "data", "queue"))
	expect := func(signal string, want ...int64) {
		t.Helper()
		var got []int64
		for _, s := range signals[signal] {
			got = append(got, s.raw)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", signal, got, want)
		}
	}
	// The numbers of enum can_state, and 255 for an interface that is not there.
	expect("can0.bus.state", 0, 1, 2, 3, 0, 4, 255)
	expect("can0.bus.tx_errors", 96, 0)
	expect("can0.bus.rx_errors", 0, 129, 0)
	expect("can0.bus.error_frames", 0, 1, 3, 4)
	expect("can0.bus.drops", 0)
	expect("bench.bus.state", 0, 3, 0)
	expect("bench.bus.tx_errors")
	expect("bench.bus.load")
	if s := signals["can0.bus.state"]; len(s) > 3 {
		// The agent was stopped while both came: only the kernel's stamps can tell them apart.
		if apart := time.Duration(s[3].time - s[2].time); apart < 400*time.Millisecond {
			t.Errorf("passive and bus-off are %v apart, they came 500ms apart", apart)
		}
	}
	if !slices.ContainsFunc(signals["can0.bus.load"], func(s stamped) bool { return s.raw > 0 }) {
		t.Errorf("100 frames were no load: %v", signals["can0.bus.load"])
	}
	var told []string
	for _, text := range alarms {
		name, why, raised := strings.Cut(text, ": ")
		if raised {
			name += " " + strings.Join(strings.Fields(why)[1:3], " ")
		}
		told = append(told, name)
	}
	slices.Sort(told) // the two buses' may come in either order
	if want := []string{"can.bench.state", "can.bench.state is bus-off:", "can.can0 can0 cannot", "can.can0.state", "can.can0.state is bus-off:"}; !slices.Equal(told, want) {
		t.Errorf("alarms %q, want %q", told, want)
	}
	if len(losses) != 1 || losses[0].Reason != telemetrypb.LossReason_LOSS_BUS_DOWN || losses[0].Source != "can:can0" {
		t.Errorf("losses %v, want the time that can0 was down", losses)
	}
	if t.Failed() {
		t.Logf("the guest said:\n%s\nthe agent said:\n%s", r.Output, log)
	}
}

// compareStatus compares what iproute2 and we say about the interface when it was bus-off.
func compareStatus(t *testing.T, dir string) {
	t.Helper()
	var theirs []struct {
		Name      string `json:"ifname"`
		Operstate string
		LinkInfo  struct {
			Kind string `json:"info_kind"`
			Data struct {
				State     string
				RestartMs uint32 `json:"restart_ms"`
			} `json:"info_data"`
			Events struct {
				BusErrors       uint32 `json:"bus_error"`
				Warnings        uint32 `json:"error_warning"`
				Passives        uint32 `json:"error_passive"`
				BusOffs         uint32 `json:"bus_off"`
				LostArbitration uint32 `json:"arbitration_lost"`
				Restarts        uint32 `json:"restarts"`
			} `json:"info_xstats"`
		}
		Stats64 struct {
			Rx, Tx struct{ Bytes, Packets uint64 }
		}
	}
	var ours struct {
		can.LinkState
		State string `json:"state"`
	}
	for name, into := range map[string]any{"ip.json": &theirs, "status.json": &ours} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
	}
	if len(theirs) != 1 {
		t.Fatalf("ip says %+v", theirs)
	}
	ip := theirs[0]
	want := can.LinkState{
		Name: ip.Name, Kind: ip.LinkInfo.Kind, Up: true, Operational: strings.ToLower(ip.Operstate), HasState: true,
		Bitrate: 500000, RestartMs: ip.LinkInfo.Data.RestartMs, Events: can.LinkEvents(ip.LinkInfo.Events),
		Traffic: can.LinkTraffic{RxFrames: ip.Stats64.Rx.Packets, TxFrames: ip.Stats64.Tx.Packets, RxBytes: ip.Stats64.Rx.Bytes, TxBytes: ip.Stats64.Tx.Bytes},
	}
	if ours.LinkState != want || ours.State != "bus_off" || ip.LinkInfo.Data.State != "BUS-OFF" || want.Events.BusOffs != 1 || want.Traffic.RxBytes != 800 {
		t.Errorf("can status: %s %+v, ip: %s %+v", ours.State, ours.LinkState, ip.LinkInfo.Data.State, want)
	}
}

// stateQueue reads the queue in dir: samples by signal, the texts of the alarms, and what stands in the ledger.
func stateQueue(t *testing.T, dir string) (signals map[string][]stamped, alarms []string, losses []*telemetrypb.Loss) {
	t.Helper()
	queue, err := buffer.Open(dir, buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	var assembler telemetrypb.CatalogueAssembler
	catalogues := map[string]*telemetrypb.Catalogue{}
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
			if loss := record.GetLoss(); loss != nil {
				losses = append(losses, loss)
			}
		}
	})
	signals = map[string][]stamped{}
	for _, lane := range []telemetrypb.Lane{telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Lane_LANE_EVENT} {
		eachBatch(t, queue, lane, func(v telemetrypb.BatchView) {
			samples, err := v.Samples(nil)
			if err != nil {
				t.Fatal(err)
			}
			catalogue := only(t, catalogues)
			for _, s := range samples {
				name := catalogue.Signal(s.Signal).GetName()
				if name == "agent.alarm" {
					alarms = append(alarms, s.Str)
					continue
				}
				signals[name] = append(signals[name], stamped{s.Time, int64(s.Bits)})
			}
		})
	}
	return signals, alarms, losses
}
