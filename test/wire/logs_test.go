package wire

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/drive"
)

// canLog is a log and the DBC file that describes it.
type canLog struct {
	name     string
	log, dbc string   // files
	original string   // what was recorded, if log is the messages that were put together from it
	bus      string   // in the log
	messages []string // of the DBC file that are on it
	samples  int      // in all
}

// config is the part of a configuration that reads the log, and takes every sample of the DBC file's messages.
func (l *canLog) config() string {
	var collect strings.Builder
	for _, m := range l.messages {
		fmt.Fprintf(&collect, "    - {match: %q, sample: every}\n", l.bus+"."+m+".*")
	}
	return fmt.Sprintf("can: [{bus: %[1]s, replay: %[2]s, log_bus: %[1]s, speed: 0, dbc: [%[3]s]}]\ncollect:\n  signals:\n%[4]s", l.bus, l.log, l.dbc, collect.String())
}

// canLogs are the recorded logs that a DBC file decodes. How many samples they have follows from the messages counted with
// grep: 577 EEC1 and 184 CCVS1 of one signal, 300 positions of which 15 signals fit, 270 and 26 of three and four signals.
func canLogs(t testing.TB) []canLog {
	t.Helper()
	logs := []canLog{
		{name: "truck-j1939", dbc: "CSS-Electronics-SAE-J1939-DEMO.dbc", bus: "can1", messages: []string{"EEC1", "CCVS1"}, samples: 761},
		{name: "boat-nmea2000", dbc: "tp_nmea.dbc", bus: "can1", messages: []string{"gnssPositionData"}, samples: 4500},
		{name: "car-uds-isotp", dbc: "tp_uds.dbc", bus: "can1", messages: []string{"Battery", "Temperature"}, samples: 810},
		{name: "nissan-uds-isotp", dbc: "tp_uds_nissan.dbc", bus: "can1", messages: []string{"SoC_Temp"}, samples: 104},
	}
	streams := map[string][]isotp.Stream{
		"car-uds-isotp":    append(isotp.StandardStreams(0), isotp.Stream{Data: isotp.Address{ID: 0x7BB}}),
		"nissan-uds-isotp": {{Data: isotp.Address{ID: 0x7BB}, Flow: isotp.Address{ID: 0x79B}}},
	}
	for i := range logs {
		l := &logs[i]
		l.log, l.dbc = deps.Testdata(t, "can", l.name+".log"), deps.Testdata(t, "can", l.dbc)
		l.original = l.log
		if s := streams[l.name]; s != nil {
			l.log = assembled(t, l, s)
		}
	}
	return logs
}

// assembled writes the ISO-TP messages of a log as a log of FD frames, each at the time of its last frame, with the message's
// length in front, as these DBC files describe them.
func assembled(t testing.TB, l *canLog, streams []isotp.Stream) string {
	t.Helper()
	r := isotp.NewReassembler(isotp.ReassemblerOptions{Streams: streams})
	lines := can.NewScanner(bytes.NewReader(readFile(t, l.original)))
	var text []byte
	for lines.Scan() {
		f := lines.Frame()
		f.Time, _ = lines.Time()
		f.Bus = 0
		m, whole := r.Frame(f)
		if !whole || len(m.Data) >= can.MaxLen {
			continue
		}
		message := can.Frame{ID: m.From.ID, Flags: can.FlagFD, Len: uint8(len(m.Data) + 1)}
		message.Data[0] = uint8(len(m.Data))
		copy(message.Data[1:], m.Data)
		text = can.AppendLog(text, m.Last, lines.Bus(), &message)
	}
	if err := lines.Err(); err != nil || len(text) == 0 {
		t.Fatalf("%s: %d bytes of messages, %v", l.name, len(text), err)
	}
	return writeFile(t, filepath.Join(t.TempDir(), l.name+".log"), "%s", text)
}

// logLine is a line of a log, with its time.
type logLine struct {
	unixNS int64
	text   []byte
}

// readLog gives the lines of a log on one bus with the identifiers of a DBC file's messages, J1939 ones from any address;
// all lines if no DBC file is named.
func readLog(t testing.TB, file, dbc, bus string) (lines []logLine) {
	t.Helper()
	var plan *can.Plan
	if dbc != "" {
		var subscriptions []can.Subscription
		for _, m := range can.ParseDBC(readFile(t, dbc)).Messages {
			subscriptions = append(subscriptions, can.Subscription{Message: m})
		}
		plan = can.Compile(subscriptions, can.PlanOptions{})
	}
	for _, text := range nonEmptyLines(readFile(t, file)) {
		s := can.NewScanner(bytes.NewReader(text))
		if !s.Scan() {
			t.Fatalf("%s: %q is no line of candump", file, text)
		}
		at, _ := s.Time()
		if plan == nil || s.Bus() == bus && described(plan, s.Frame()) {
			lines = append(lines, logLine{at, text})
		}
	}
	if len(lines) == 0 {
		t.Fatalf("%s: no line of %s has a message of %s", file, bus, dbc)
	}
	return lines
}

// described tells whether a frame is a message of the DBC file, or a part of one that has its identifier.
func described(plan *can.Plan, f *can.Frame) bool {
	return plan.Match(f) != nil || f.Extended() && plan.Assembles(f.ID)
}

// driveLength of the simulated drive: ten minutes would weigh the same, and take longer.
const driveLength = 5 * time.Minute

// simulated writes the simulated drive as files.
func simulated(t testing.TB) (log, nmea, dbc string) {
	t.Helper()
	start := time.Date(2026, 6, 1, 8, 0, 0, 0, time.UTC)
	d, err := drive.New(drive.Options{Seed: 1, Start: start, Duration: driveLength})
	if err != nil {
		t.Fatal(err)
	}
	var frames []byte
	sentences := fmt.Appendf(nil, "# Date: %s\n", start.Format(time.DateOnly))
	for {
		e, ok := d.Next()
		if !ok {
			break
		}
		switch {
		case e.Frame != nil:
			frames = can.AppendLog(frames, start.Add(e.At).UnixNano(), "can0", e.Frame)
		case e.Sentences != nil:
			sentences = append(sentences, e.Sentences...)
		}
	}
	dir := t.TempDir()
	return writeFile(t, filepath.Join(dir, "drive.log"), "%s", frames),
		writeFile(t, filepath.Join(dir, "drive.nmea"), "%s", sentences),
		writeFile(t, filepath.Join(dir, "drive.dbc"), "%s", drive.DBC())
}
