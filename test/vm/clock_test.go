package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

const clockConfig = `
device: {id: bench-1}
data_dir: data
can:
  - {bus: can0, interface: vcan0, dbc: [bench.dbc]}
collect:
  signals: [{match: "*", sample: every}]
queue: {commit_every: 200ms, seal_every: 1s}
`

// clockScript sets the clock, back by an hour and ahead by ten years, while frames come, and says when (in uptime's
// seconds).
const clockScript = `set -u
AGENT run -c agent.yaml 2>agent.log & agent=$!
until grep -qE "^ +vcan0 " /proc/net/can/rcvlist_*; do sleep 0.1; done
frames() { for i in 1 2 3 4 5 6; do CANSEND vcan0 100#0${1}0${i}0000FF9C0000; sleep 0.05; done; }
frames 1
sleep 1
date -s "-1 hour" >/dev/null
frames 2
sleep 1
date -s "+87600 hours" >/dev/null
frames 3
sleep 1
kill -TERM $agent
wait $agent
`

// A step of the system's clock on a real kernel is noticed at once, begins a new piece of the clock record, and moves no
// sample out of its order.
func TestAgentNoticesStepsOfTheClock(t *testing.T) {
	agent := Build(t, "amd64", "build", "./cmd/agent")
	dir := t.TempDir()
	for name, text := range map[string]string{"bench.dbc": benchDBC, "agent.yaml": clockConfig} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := strings.NewReplacer("AGENT", agent, "CANSEND", deps.CanUtils(t, "cansend").Path).Replace(clockScript)
	r := Run(t, Job{Command: []string{"/bin/sh", "-c", script}, Dir: dir, Timeout: time.Minute})
	log, _ := os.ReadFile(filepath.Join(dir, "agent.log"))
	if r.Exit != 0 {
		t.Fatalf("exit code %d; the guest said:\n%s\nthe agent said:\n%s", r.Exit, r.Output, log)
	}
	defer func() {
		if t.Failed() {
			t.Logf("the agent said:\n%s", log)
		}
	}()

	speeds := readQueue(t, filepath.Join(dir, "data", "queue"))["can0.Motion.Speed"]
	if len(speeds) != 18 {
		t.Fatalf("%d samples, 18 were sent", len(speeds))
	}
	for i, s := range speeds {
		// The first byte of a frame is its group, the second its number within it.
		if group, number := s.raw&0xFF, s.raw>>8; group != int64(i/6+1) || number != int64(i%6+1) {
			t.Errorf("sample %d is frame %d of group %d", i, number, group)
		}
		if i > 0 && (s.time <= speeds[i-1].time || s.time-speeds[i-1].time > int64(10*time.Second)) {
			t.Errorf("sample %d is %v after the one before", i, time.Duration(s.time-speeds[i-1].time))
		}
	}

	record := lastClock(t, filepath.Join(dir, "data", "queue"))
	t.Logf("clock record: %v", record)
	var steps []time.Duration
	for i, a := range record.GetAnchors() {
		if i > 0 && a.GetNewPiece() {
			before := record.GetAnchors()[i-1]
			steps = append(steps, time.Duration((a.GetUnixNs()-a.GetBootNs())-(before.GetUnixNs()-before.GetBootNs())).Round(10*time.Second))
			if group := i; a.GetBeginsNs() > speeds[min(6*group, 17)].time+int64(3*time.Second) {
				t.Errorf("piece %d begins at %v, too late to have been noticed by itself", i, time.Duration(a.GetBeginsNs()))
			}
		}
		if a.GetUncertaintyNs() < telemetrypb.Unbounded {
			t.Errorf("somebody vouches for a clock that was set by hand: %v", a)
		}
	}
	if len(steps) != 2 || steps[0] != -time.Hour || steps[1] != 87600*time.Hour {
		t.Errorf("steps %v, want -1h and 87600h", steps)
	}
}

// lastClock is the clock record with the highest revision in a queue.
func lastClock(t *testing.T, dir string) (last *telemetrypb.ClockRecord) {
	t.Helper()
	queue, err := buffer.Open(dir, buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	eachBatch(t, queue, telemetrypb.Lane_LANE_CONTROL, func(v telemetrypb.BatchView) {
		records, err := v.Records()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records.GetRecords() {
			if c := r.GetClock(); c.GetRevision() > last.GetRevision() {
				last = c
			}
		}
	})
	return last
}
