package vm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

const benchDBC = `VERSION ""
BU_: Bench
BO_ 256 Motion: 8 Bench
 SG_ Speed : 0|16@1+ (0.01,0) [0|655.35] "km/h" Vector__XXX
 SG_ Torque : 39|16@0- (0.5,0) [-16384|16383.5] "Nm" Vector__XXX
BO_ 2566844926 Engine: 8 Bench
 SG_ Starts : 24|16@1+ (1,0) [0|65535] "" Vector__XXX
BO_ 512 Cells: 64 Bench
 SG_ First : 0|16@1+ (0.001,0) [0|65.535] "V" Vector__XXX
 SG_ Last : 496|16@1+ (0.001,0) [0|65.535] "V" Vector__XXX
BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","StandardCAN_FD","ExtendedCAN_FD";
BA_DEF_DEF_ "VFrameFormat" "StandardCAN";
BA_ "VFrameFormat" BO_ 512 2;
`

const benchConfig = `
device: {id: bench-1}
data_dir: data
can:
  - {bus: can0, interface: vcan0, dbc: [bench.dbc]}
  - {bus: can1, interface: vcan1, dbc: [bench.dbc]}
collect:
  signals: [{match: "*", sample: every}]
queue: {commit_every: 200ms, seal_every: 1s}
`

// guestScript starts candump, then the agent, and goes on when the kernel says that each listens on both buses; sends
// frames; sends more while the agent is stopped, so that it reads them long after they came; ends the agent. Every wait
// is bounded by the job's time.
const guestScript = `set -u
listeners() { cat /proc/net/can/rcvlist_* | grep -cE "^ +$1 "; }
await() { until [ $(listeners vcan0) -gt $1 ] && [ $(listeners vcan1) -gt $2 ]; do sleep 0.1; done; }
CANDUMP -L vcan0 vcan1 >dump.log & dump=$!
await 0 0
n0=$(listeners vcan0) n1=$(listeners vcan1)
AGENT run -c agent.yaml 2>agent.log & agent=$!
await $n0 $n1
CANPLAYER -I play.log vcan0=can0 vcan1=can1
sleep 0.5
kill -STOP $agent
for i in 1 2 3 4 5; do
  CANSEND vcan0 100#0${i}000000FF9C0000
  CANSEND vcan1 200##100${i}0ZEROES0${i}07
  sleep 0.2
done
kill -CONT $agent
sleep 1
kill -TERM $agent
wait $agent; code=$?
kill $dump
exit $code
`

// What came on real vcan interfaces, classic and FD, 11-bit and 29-bit, is in the queue when the agent has ended: every
// frame's signals, once, exact, in order, with the time that the kernel put on the frame.
func TestAgentTakesVcanIntoItsQueue(t *testing.T) {
	agent := Build(t, "amd64", "build", "./cmd/agent")
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("bench.dbc", benchDBC)
	write("agent.yaml", benchConfig)
	var play strings.Builder
	for i := range 20 {
		at := float64(i) / 50
		fmt.Fprintf(&play, "(%.6f) can0 100#%02X000000FF%02X0000\n", at, i, 2*i)
		fmt.Fprintf(&play, "(%.6f) can1 18FEF1FE#000000%02X01FFFFFF\n", at+0.005, i)
		fmt.Fprintf(&play, "(%.6f) can0 200##1%02X00%s%02X01\n", at+0.010, i, strings.Repeat("00", 60), i)
	}
	write("play.log", play.String())
	script := strings.NewReplacer("AGENT", agent, "CANDUMP", deps.CanUtils(t, "candump").Path, "CANSEND", deps.CanUtils(t, "cansend").Path,
		"CANPLAYER", deps.CanUtils(t, "canplayer").Path, "ZEROES", strings.Repeat("0", 120)).Replace(guestScript)

	r := Run(t, Job{Command: []string{"/bin/sh", "-c", script}, Dir: dir, Timeout: time.Minute})
	log, _ := os.ReadFile(filepath.Join(dir, "agent.log"))
	dump, err := os.ReadFile(filepath.Join(dir, "dump.log"))
	if r.Exit != 0 || err != nil {
		t.Fatalf("exit code %d; the guest said:\n%s\nthe agent said:\n%s", r.Exit, r.Output, log)
	}
	sent := expected(t, string(dump))
	if got := len(sent["can0.Motion.Speed"]) + len(sent["can0.Cells.Last"]) + len(sent["can1.Cells.Last"]) + len(sent["can1.Engine.Starts"]); got != 3*20+2*5 {
		t.Fatalf("candump saw %d frames, 70 were sent:\n%s", got, dump)
	}
	checkQueue(t, filepath.Join(dir, "data", "queue"), sent)
	if t.Failed() {
		t.Logf("candump:\n%s\nthe agent said:\n%s", dump, log)
	}
}

// stamped is one raw value of a signal and its time in ns: wall time in candump's log, CLOCK_BOOTTIME in the queue.
type stamped struct{ time, raw int64 }

// expected reads candump's log by hand, not by the code under test.
func expected(t *testing.T, dump string) map[string][]stamped {
	t.Helper()
	signals := map[string][]stamped{}
	line := regexp.MustCompile(`^\((\d+)\.(\d{6})\) vcan(\d) ([0-9A-F]+)(?:##\d|#)([0-9A-F]+)$`)
	for text := range strings.Lines(dump) {
		m := line.FindStringSubmatch(strings.TrimSpace(text))
		if m == nil {
			t.Fatalf("candump wrote %q", text)
		}
		seconds, _ := strconv.ParseInt(m[1], 10, 64)
		micros, _ := strconv.ParseInt(m[2], 10, 64)
		add := func(signal string, low, high int) { // byte numbers of the value's two bytes
			l, _ := strconv.ParseInt(m[5][2*low:2*low+2], 16, 64)
			h, _ := strconv.ParseInt(m[5][2*high:2*high+2], 16, 64)
			value := h<<8 | l
			if signal == "Motion.Torque" {
				value = int64(int16(value))
			}
			name := "can" + m[3] + "." + signal
			signals[name] = append(signals[name], stamped{seconds*1e9 + micros*1e3, value})
		}
		switch m[4] {
		case "100":
			add("Motion.Speed", 0, 1)
			add("Motion.Torque", 5, 4)
		case "18FEF1FE":
			add("Engine.Starts", 3, 4)
		case "200":
			add("Cells.First", 0, 1)
			add("Cells.Last", 62, 63)
		}
	}
	return signals
}

// checkQueue compares what the queue in dir holds with what was sent.
func checkQueue(t *testing.T, dir string, sent map[string][]stamped) {
	t.Helper()
	got := readQueue(t, dir)
	low, high := int64(math.MaxInt64), int64(math.MinInt64)
	for name, want := range sent {
		have := got[name]
		if len(have) != len(want) {
			t.Errorf("%s: %d samples in the queue, %d were sent", name, len(have), len(want))
			continue
		}
		for i := range want {
			if have[i].raw != want[i].raw {
				t.Errorf("%s: sample %d is %d, %d was sent", name, i, have[i].raw, want[i].raw)
			}
			low, high = min(low, want[i].time-have[i].time), max(high, want[i].time-have[i].time)
		}
	}
	// Both looked at the kernel's stamp of the same frame, so wall time and boot time are one distance apart for all, but
	// for how exactly the agent could read its two clocks together: on a busy machine the guest is held up by the host.
	// Times taken when the agent read would be apart by as long as it was stopped: a second and more.
	spread := time.Duration(high - low)
	t.Logf("candump's and the queue's times agree within %v", spread)
	if spread > 250*time.Millisecond {
		t.Error("that is not the time that the kernel put on the frames")
	}
}

// readQueue returns all samples of a queue by signal name, in the queue's order. There is to be no loss in it.
func readQueue(t *testing.T, dir string) map[string][]stamped {
	t.Helper()
	c := readContent(t, dir)
	for _, loss := range c.losses {
		t.Errorf("a loss in the ledger: %v", loss)
	}
	return c.signals
}

// content is what a queue holds, in its order.
type content struct {
	signals map[string][]stamped // of the telemetry lane, by name
	events  map[string][]string  // texts of the event lane, by name
	losses  []*telemetrypb.Loss
}

func readContent(t *testing.T, dir string) content {
	t.Helper()
	queue, err := buffer.Open(dir, buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	if !queue.CleanStop() {
		t.Error("the queue was not closed properly")
	}
	c := content{signals: map[string][]stamped{}, events: map[string][]string{}}
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
				c.losses = append(c.losses, loss)
			}
		}
	})
	each := func(lane telemetrypb.Lane, visit func(name string, s telemetrypb.Sample)) {
		eachBatch(t, queue, lane, func(v telemetrypb.BatchView) {
			samples, err := v.Samples(nil)
			if err != nil {
				t.Fatal(err)
			}
			catalogue := only(t, catalogues)
			for _, s := range samples {
				visit(catalogue.Signal(s.Signal).GetName(), s)
			}
		})
	}
	each(telemetrypb.Lane_LANE_TELEMETRY, func(name string, s telemetrypb.Sample) {
		c.signals[name] = append(c.signals[name], stamped{s.Time, int64(s.Bits)})
	})
	each(telemetrypb.Lane_LANE_EVENT, func(name string, s telemetrypb.Sample) {
		c.events[name] = append(c.events[name], s.Str)
	})
	return c
}

func eachBatch(t *testing.T, queue *buffer.Queue, lane telemetrypb.Lane, visit func(telemetrypb.BatchView)) {
	t.Helper()
	for from := uint64(1); ; {
		record, err := queue.Next(buffer.Lane(lane), from)
		if err != nil {
			if !errors.Is(err, buffer.ErrEmpty) {
				t.Fatal(err)
			}
			return
		}
		view, err := telemetrypb.OpenBatch(record.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		visit(view)
		from = record.Seq + 1
	}
}

func only(t *testing.T, catalogues map[string]*telemetrypb.Catalogue) *telemetrypb.Catalogue {
	t.Helper()
	if len(catalogues) != 1 {
		t.Fatalf("%d catalogues in the control lane, want one", len(catalogues))
	}
	for _, c := range catalogues {
		return c
	}
	return nil
}
