package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// counterDBC has three messages, each with a counter for its eight bytes.
const counterDBC = `BU_: X
BO_ 256 A: 8 X
 SG_ Count : 0|64@1+ (1,0) [0|0] "" X
BO_ 257 B: 8 X
 SG_ Count : 0|64@1+ (1,0) [0|0] "" X
BO_ 258 C: 8 X
 SG_ Count : 0|64@1+ (1,0) [0|0] "" X
`

// counterGuest runs a script beside the agent, which reads both buses by counterDBC, and returns what is in its queue.
// The words AGENT, IP, CANGEN and so on stand for the programs; the shell has functions to wait with.
func counterGuest(t *testing.T, script string, files map[string]string) (c content, dir string) {
	t.Helper()
	agent := Build(t, "amd64", "build", "./cmd/agent")
	dir = t.TempDir()
	files["counter.dbc"] = counterDBC
	files["agent.yaml"] = `
device: {id: bench-1}
data_dir: data
can:
  - {bus: can0, interface: vcan0, dbc: [counter.dbc]}
  - {bus: can1, interface: vcan1, dbc: [counter.dbc]}
collect:
  signals: [{match: "*", sample: every}]
queue: {commit_every: 200ms, seal_every: 1s}
`
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ip := deps.Program(t, "iproute2", "ip")
	script = strings.NewReplacer("AGENT", agent, "IP", ip.Path, "CANGEN", deps.CanUtils(t, "cangen").Path,
		"CANPLAYER", deps.CanUtils(t, "canplayer").Path).Replace(`set -u
listened() { until grep -qE "^ +$1 " /proc/net/can/rcvlist_*; do sleep 0.05; done; }
said() { until [ $(grep -c "$2" agent.log) -ge $1 ]; do sleep 0.05; done; }
now() { cut -d" " -f1 /proc/uptime >>times; }
AGENT run -c agent.yaml 2>agent.log & agent=$!
listened vcan0; listened vcan1
` + script + `
sleep 0.5
kill -TERM $agent
wait $agent
`)
	job := Job{Command: []string{"/bin/sh", "-c", script}, Dir: dir, Timeout: 2 * time.Minute}
	for _, e := range ip.Env {
		if strings.HasPrefix(e, "LD_LIBRARY_PATH=") {
			job.Env = append(job.Env, e)
		}
	}
	r := Run(t, job)
	log, _ := os.ReadFile(filepath.Join(dir, "agent.log"))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the guest said:\n%s\nthe agent said:\n%s", r.Output, log)
		}
	})
	if r.Exit != 0 {
		t.Fatalf("exit code %d", r.Exit)
	}
	return readContent(t, filepath.Join(dir, "data", "queue")), dir
}

// counts is a candump log of count frames with the identifier 100, whose counters begin at first.
func counts(bus string, first, count int) string {
	var log strings.Builder
	for i := range count {
		n := first + i
		fmt.Fprintf(&log, "(%.6f) %s 100#%02X%02X000000000000\n", float64(i)/500, bus, n&255, n>>8)
	}
	return log.String()
}

// An interface that is removed while the agent runs, and made again, and one that is set down and up: each outage is an
// alarm that is raised and cleared, and a loss of unknown count with its bounds in the ledger. What came before it, also
// what the agent had not read yet, and after it, arrives; the other bus is not disturbed.
func TestAgentOutlivesItsInterface(t *testing.T) {
	files := map[string]string{}
	for i := range 5 {
		files[fmt.Sprintf("a%d", i)] = counts("can0", 100*i, 100)
		files[fmt.Sprintf("b%d", i)] = counts("can1", 100*i, 100)
	}
	c, dir := counterGuest(t, `
play() { CANPLAYER -I a$1 vcan0=can0; CANPLAYER -I b$1 vcan1=can1; }
play 0
kill -STOP $agent
play 1
now
IP link del vcan0
kill -CONT $agent
said 1 "alarm raised.*can.can0"
CANPLAYER -I b2 vcan1=can1
now
IP link add vcan0 type vcan
IP link set vcan0 mtu 72 up
listened vcan0; said 1 "alarm cleared.*can.can0"
play 3
now
IP link set vcan0 down
said 2 "alarm raised.*can.can0"
sleep 3
now
IP link set vcan0 up
said 2 "alarm cleared.*can.can0"
play 4
`, files)
	for signal, rounds := range map[string][]int{"can0.A.Count": {0, 1, 3, 4}, "can1.A.Count": {0, 1, 2, 3, 4}} {
		var got, want []int64
		for _, s := range c.signals[signal] {
			got = append(got, s.raw)
		}
		for _, round := range rounds {
			for i := range int64(100) {
				want = append(want, int64(100*round)+i)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v", signal, got)
		}
	}
	alarms := c.events["agent.alarm"]
	if len(alarms) != 4 || alarms[1] != "can.can0" || alarms[3] != "can.can0" ||
		!strings.HasPrefix(alarms[0], "can.can0: ") || !strings.HasPrefix(alarms[2], "can.can0: ") {
		t.Errorf("alarms %q", alarms)
	}
	times := readTimes(t, dir, 4)
	if len(c.losses) != 2 {
		t.Fatalf("losses %v", c.losses)
	}
	for i, l := range c.losses {
		if l.Reason != telemetrypb.LossReason_LOSS_BUS_DOWN || l.Source != "can:can0" || !l.CountUnknown || l.Detail == "" {
			t.Errorf("loss %v", l)
		}
		if down, up := times[2*i], times[2*i+1]; l.FirstNs < down || l.FirstNs > up || l.LastNs < up {
			t.Errorf("loss from %d to %d ns, the interface was away from %d to %d", l.FirstNs, l.LastNs, down, up)
		}
	}
}

// readTimes reads what the guest noted of its boot time, ns.
func readTimes(t *testing.T, dir string, want int) []int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "times"))
	if err != nil {
		t.Fatal(err)
	}
	var times []int64
	for _, word := range strings.Fields(string(text)) {
		seconds, err := strconv.ParseFloat(word, 64)
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, int64(seconds*1e9))
	}
	if len(times) != want {
		t.Fatalf("times %v", times)
	}
	return times
}

// Overload: what the kernel counts as sent is in the queue, each frame once, or counted in the ledger. The agent is stopped
// while more frames come than its socket holds; it is flooded while it runs.
func TestAgentCountsWhatOverloadCosts(t *testing.T) {
	const flood = 20000 // some four times what the socket's buffer holds
	c, dir := counterGuest(t, fmt.Sprintf(`
before=$(cat /sys/class/net/vcan0/statistics/tx_packets)
kill -STOP $agent
CANGEN vcan0 -g 0 -n %[1]d -I 100 -L 8 -D i
kill -CONT $agent
sleep 1
CANGEN vcan0 -g 0 -n %[1]d -I 101 -L 8 -D i
sleep 1
CANGEN vcan0 -g 5 -n 20 -I 102 -L 8 -D i # behind a frame the kernel tells what it dropped before
echo $(($(cat /sys/class/net/vcan0/statistics/tx_packets) - before)) >sent
`, flood), map[string]string{})
	text, err := os.ReadFile(filepath.Join(dir, "sent"))
	if err != nil {
		t.Fatal(err)
	}
	sent, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || sent != 2*flood+20 {
		t.Fatalf("the kernel sent %d frames, want %d: %v", sent, 2*flood+20, err)
	}
	queued := uint64(0)
	for _, message := range []string{"A", "B", "C"} {
		list := c.signals["can0."+message+".Count"]
		queued += uint64(len(list))
		for i := range list {
			if list[i].raw < 0 || list[i].raw >= flood || i > 0 && list[i].raw <= list[i-1].raw {
				t.Fatalf("%s: count %d is %d, behind %d: a frame twice or out of order", message, i, list[i].raw, list[max(i, 1)-1].raw)
			}
		}
	}
	if n := len(c.signals["can0.C.Count"]); n != 20 {
		t.Errorf("%d of 20 frames after the overload", n)
	}
	var dropped, overload uint64
	for _, l := range c.losses {
		switch {
		case l.Source != "can:can0" || l.CountUnknown:
			t.Errorf("loss %v", l)
		case l.Reason == telemetrypb.LossReason_LOSS_KERNEL_DROP && l.Unit == "frames":
			dropped += l.Count
		case l.Reason == telemetrypb.LossReason_LOSS_OVERLOAD && l.Unit == "samples": // one a frame
			overload += l.Count
		default:
			t.Errorf("loss %v", l)
		}
	}
	t.Logf("%d sent: %d in the queue, %d dropped by the kernel, %d by the agent", sent, queued, dropped, overload)
	if dropped == 0 || sent != queued+dropped+overload {
		t.Errorf("%d frames are unaccounted for", int64(sent-queued-dropped-overload))
	}
}
