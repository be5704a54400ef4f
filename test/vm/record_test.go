package vm

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

const recordConfig = `
device: {id: bench-1}
data_dir: DATA
can:
  - {bus: vcan0, interface: vcan0, record: all}
  - {bus: vcan1, interface: vcan1, record: [100-1FF, 18FEF1xx]}
queue: {commit_every: 200ms, seal_every: 1s}
`

// recordScript records a session of frames of every kind, then one in whose midst the agent is killed, once frames have
// reached its queue. What the killed one left is copied as it is, and once more taken up by an agent that is ended properly.
const recordScript = `set -u
listeners() { cat /proc/net/can/rcvlist_* | grep -cE "^ +$1 "; }
await() { until [ $(listeners vcan0) -gt $1 ] && [ $(listeners vcan1) -gt $2 ]; do sleep 0.1; done; }
start() { # log of candump, configuration
  CANDUMP -r 4000000 -L vcan0,0:0,#FFFFFFFF vcan1,0:0,#FFFFFFFF >$1 & dump=$!
  until grep -q vcan1 /proc/net/can/rcvlist_err && grep -q vcan0 /proc/net/can/rcvlist_err; do sleep 0.1; done
  sleep 0.2
  n0=$(listeners vcan0) n1=$(listeners vcan1)
  AGENT run -c $2 2>>agent.log & agent=$!
  await $n0 $n1
}
start dump.log agent.yaml
for i in 1 2 3 4 5 6; do
  for bus in vcan0 vcan1; do
    CANSEND $bus 123#11223344556677$i$i
    CANSEND $bus 1FF#
    CANSEND $bus 200#0$i
    CANSEND $bus 18FEF10$i#FFFFFFFFFFFFFFFF
    CANSEND $bus 18FEF20$i#00
    CANSEND $bus 123#R
    CANSEND $bus 18FEF100#R$i
    CANSEND $bus 100##0
    CANSEND $bus 100##1112233445566778899AABBCC
    CANSEND $bus 18FEF1FE##3ZEROES0$i
    CANSEND $bus 20000040#000000000000000$i
  done
done
for i in 1 2 3 4 5 6 7 8 9; do # until both have what is on its way
  sleep 0.5
  [ $(wc -l <dump.log) -lt 132 ] || break
done
sleep 0.5
kill -TERM $agent
wait $agent; code=$?
kill $dump
wait $dump
start killed.log killed.yaml
CANGEN vcan0 -g 4 -m & gen=$!
committed() { # a copy of what is being written may be torn: then it is looked at again
  rm -rf peek
  cp -r killed peek
  [ "$(AGENT can export peek/queue 2>/dev/null | wc -l)" -ge 50 ]
}
until committed; do sleep 0.2; done
kill -9 $agent
sleep 1
kill $gen
wait $gen
sleep 1
kill $dump
wait $dump
cp -r killed copied
AGENT run -c killed.yaml 2>>agent.log & agent=$!
sleep 1
kill -TERM $agent
wait $agent || code=$?
exit $code
`

// candumpLine is a line of candump -L: time, bus, and the frame, of FD frames without the bit that says FD.
var candumpLine = regexp.MustCompile(`^\((\d+)\.(\d{6})(\d{3})?\) (vcan\d) ([0-9A-F]+#)(#[0-9A-F])?([0-9A-FR]*)$`)

// dumped is one frame of a log, read by hand, not by the code under test.
type dumped struct {
	time       int64 // ns
	bus, frame string
}

func readDump(t *testing.T, text string) []dumped {
	t.Helper()
	var list []dumped
	for line := range strings.Lines(text) {
		m := candumpLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			t.Fatalf("not a line of candump: %q", line)
		}
		seconds, _ := strconv.ParseInt(m[1], 10, 64)
		micros, _ := strconv.ParseInt(m[2], 10, 64)
		nanos, _ := strconv.ParseInt("0"+m[3], 10, 64)
		flags := m[6]
		if flags != "" {
			bits, _ := strconv.ParseUint(flags[1:], 16, 8)
			flags = fmt.Sprintf("#%X", bits&3)
		}
		list = append(list, dumped{seconds*1e9 + micros*1e3 + nanos, m[4], m[5] + flags + m[7]})
	}
	return list
}

// What candump logs of two vcan interfaces, can export prints of what the agent recorded: every frame of the one, those of
// its list of the other, of every kind, in order, at the kernel's time. What a killed agent had committed is a beginning of
// candump's log.
func TestRecordedFramesAreCandumpsLog(t *testing.T) {
	agent := Build(t, "amd64", "build", "./cmd/agent")
	dir := t.TempDir()
	for name, data := range map[string]string{"agent.yaml": "data", "killed.yaml": "killed"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Replace(recordConfig, "DATA", data, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := strings.NewReplacer("AGENT", agent, "CANDUMP", deps.CanUtils(t, "candump").Path, "CANSEND", deps.CanUtils(t, "cansend").Path,
		"CANGEN", deps.CanUtils(t, "cangen").Path, "ZEROES", strings.Repeat("0", 126)).Replace(recordScript)
	r := Run(t, Job{Command: []string{"/bin/sh", "-c", script}, Dir: dir, Timeout: 2 * time.Minute})
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%v; the guest said:\n%s", err, r.Output)
		}
		return string(text)
	}
	if r.Exit != 0 {
		t.Fatalf("exit code %d; the guest said:\n%s\nthe agent said:\n%s", r.Exit, r.Output, read("agent.log"))
	}
	export := func(data string) []dumped {
		cmd := exec.Command(agent, "can", "export", filepath.Join(dir, data, "queue"))
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		t.Logf("export of %s: %s", data, said.String())
		if err != nil {
			t.Fatal(err)
		}
		return readDump(t, string(out))
	}
	on := func(list []dumped, bus string) []dumped {
		return slices.DeleteFunc(slices.Clone(list), func(d dumped) bool { return d.bus != bus })
	}

	sent, got := readDump(t, read("dump.log")), export("data")
	if len(sent) != 2*6*11 {
		t.Fatalf("candump saw %d frames, %d were sent", len(sent), 2*6*11)
	}
	wanted := regexp.MustCompile(`^(1..#|18FEF1..#)`)
	want := slices.DeleteFunc(slices.Clone(sent), func(d dumped) bool { return d.bus == "vcan1" && !wanted.MatchString(d.frame) })
	for _, bus := range []string{"vcan0", "vcan1"} {
		same(t, on(got, bus), on(want, bus))
	}
	if n := len(on(got, "vcan1")); n != 6*8 {
		t.Errorf("%d frames of vcan1, want %d", n, 6*8)
	}

	sent, got = readDump(t, read("killed.log")), export("copied")
	if len(got) == 0 || len(got) >= len(sent) {
		t.Fatalf("%d frames of a killed agent, candump saw %d", len(got), len(sent))
	}
	t.Logf("of %d frames %d were committed when the agent was killed", len(sent), len(got))
	same(t, got, sent[:len(got)])
	if again := export("killed"); !slices.Equal(again, got) {
		t.Errorf("%d frames after the next start, %d before", len(again), len(got))
	}
}

// same compares two logs: frames exactly, times as in checkQueue.
func same(t *testing.T, got, want []dumped) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d frames, want %d", len(got), len(want))
		return
	}
	low, high := int64(math.MaxInt64), int64(math.MinInt64)
	for i := range want {
		if got[i].frame != want[i].frame || got[i].bus != want[i].bus {
			t.Errorf("frame %d is %s %s, candump saw %s %s", i, got[i].bus, got[i].frame, want[i].bus, want[i].frame)
			return
		}
		low, high = min(low, want[i].time-got[i].time), max(high, want[i].time-got[i].time)
	}
	t.Logf("times agree within %v", time.Duration(high-low))
	if time.Duration(high-low) > 250*time.Millisecond {
		t.Error("that is not the time that the kernel put on the frames")
	}
}
