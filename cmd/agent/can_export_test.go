package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/csv"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// runExport runs `waybill-agent can export …`.
func runExport(t testing.TB, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	code = cli.Execute(root, append([]string{"can", "export"}, args...), &errs)
	return out.String(), errs.String(), code
}

// recordLog runs the agent over a log and returns its queue's folder. can is the list of buses.
func recordLog(t testing.TB, log, buses string) string {
	t.Helper()
	dir := t.TempDir()
	text := "device: {id: car-1}\ndata_dir: data\ncan: " + strings.ReplaceAll(buses, "LOG", log) + "\n"
	file := filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, v, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := runAgent(context.Background(), s, v, slog.New(slog.DiscardHandler), newRenewal()); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "data", "queue")
}

// differ says where two texts begin to differ.
func differ(t testing.TB, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("line %d of %d is %q, want %q of %d", i+1, len(g), g[i], w[i], len(w))
		}
	}
	t.Fatalf("%d lines, want %d", len(g), len(w))
}

// measure logs what a recording takes on the wire and on disk.
func measure(t *testing.T, queue string, frames int) {
	t.Helper()
	q, err := buffer.Open(queue, buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	raw := q.Stats().Lanes[buffer.Raw]
	t.Logf("%d frames in %d batches of %d bytes: %.2f bytes a frame", frames, raw.Batches, raw.Bytes, float64(raw.Bytes)/float64(frames))
}

// A real car's log goes through the agent and comes back line for line.
func TestExportOfACarIsItsLog(t *testing.T) {
	log := deps.Testdata(t, "can", "car-raw-500k.log")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	queue := recordLog(t, log, "[{bus: vcan0, replay: LOG, speed: 0, record: all}]")
	stdout, stderr, code := runExport(t, "", queue)
	if code != cli.OK || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	differ(t, stdout, string(text))
	measure(t, queue, strings.Count(stdout, "\n"))
}

// A real boat's log of two buses: each bus comes back line for line; between buses frames of one time have no order.
func TestExportOfABoatIsItsLog(t *testing.T) {
	log := deps.Testdata(t, "can", "boat-nmea2000.log")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	queue := recordLog(t, log, "[{bus: can1, log_bus: can1, replay: LOG, speed: 0, record: all}, {bus: can2, log_bus: can2, replay: LOG, speed: 0, record: [000-7FF]}]")
	stdout, stderr, code := runExport(t, "", queue)
	if code != cli.OK || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	lines := slices.Collect(strings.Lines(string(text)))
	slices.SortStableFunc(lines, func(a, b string) int { // (time) bus
		at, rest, _ := strings.Cut(a, ") ")
		bt, brest, _ := strings.Cut(b, ") ")
		return cmp.Or(strings.Compare(at, bt), strings.Compare(rest[:4], brest[:4]))
	})
	differ(t, stdout, strings.Join(lines, ""))
	measure(t, queue, len(lines))
	stdout, _, _ = runExport(t, "", "--bus", "can2", queue)
	want := slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, ") can2 ") })
	differ(t, stdout, strings.Join(want, ""))
}

// kindQueue is a queue with a recording of every kind of frame.
func kindQueue(t testing.TB) (queue, log string) {
	t.Helper()
	log = kindLog()
	file := filepath.Join(t.TempDir(), "kinds.log")
	if err := os.WriteFile(file, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	return recordLog(t, file, "[{bus: can0, replay: LOG, speed: 0, record: all}]"), log
}

func TestExportKeepsEveryKindOfFrame(t *testing.T) {
	queue, log := kindQueue(t)
	stdout, stderr, code := runExport(t, "", queue)
	if code != cli.OK || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	differ(t, stdout, log)

	// The same in CSV, told from the log's text alone.
	stdout, _, _ = runExport(t, "", "--format", "csv", queue)
	rows, err := csv.NewReader(strings.NewReader(stdout)).ReadAll()
	if err != nil || len(rows) != strings.Count(log, "\n")+1 || strings.Join(rows[0], ",") != "time,bus,id,ext,fd,flags,len,data" {
		t.Fatalf("%v: %v", err, rows)
	}
	for i, line := range strings.Split(strings.TrimSpace(log), "\n") {
		fields := strings.Fields(line)
		id, data, _ := strings.Cut(fields[2], "#")
		row, flags, length := rows[i+1], "", len(data)/2
		ext, fd := len(id) == 8 && id[0] < '2', strings.HasPrefix(data, "#")
		switch {
		case fd:
			flags = map[byte]string{'0': "", '1': "brs", '2': "esi", '3': "brs esi"}[data[1]]
			data = data[2:]
			length = len(data) / 2
		case strings.HasPrefix(data, "R"):
			flags, length = "remote", 0
			if len(data) > 1 {
				length = int(data[1] - '0')
			}
			data = ""
		case !ext && len(id) == 8:
			flags, id = "error", "0"+strings.TrimPrefix(id, "2")
		}
		want := []string{strings.Trim(fields[0], "()"), "can0", id, fmt.Sprint(ext), fmt.Sprint(fd), flags, fmt.Sprint(length), data}
		if !slices.Equal(row, want) {
			t.Errorf("%s is %v, want %v", line, row, want)
		}
	}
}

// Error frames alone, and identifiers alone, are what a list asks for.
func TestRecordByList(t *testing.T) {
	log := kindLog()
	file := filepath.Join(t.TempDir(), "kinds.log")
	if err := os.WriteFile(file, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	queue := recordLog(t, file, "[{bus: can0, replay: LOG, speed: 0, record: [error, 18FEF1xx]}]")
	stdout, _, _ := runExport(t, "", queue)
	var want strings.Builder
	for line := range strings.Lines(log) {
		if strings.Contains(line, " 200000") || strings.Contains(line, " 18FEF1") {
			want.WriteString(line)
		}
	}
	differ(t, stdout, want.String())
}

func TestExportOfPayloads(t *testing.T) {
	queue, log := kindQueue(t)
	payloads := t.TempDir()
	if _, stderr, code := runQueue(t, "export", "--to", payloads, queue); code != cli.OK {
		t.Fatal(stderr)
	}
	files, err := filepath.Glob(filepath.Join(payloads, "*"))
	if err != nil || len(files) < 2 {
		t.Fatal(err, files)
	}
	slices.Reverse(files) // raw ahead of control
	raw, control := files[0], files[len(files)-1]
	for name, args := range map[string][]string{
		"all": files, "twice": append(files, files...), "beside the queue": append([]string{queue}, files...), "catalogue": {"--catalogue", control, raw, control},
	} {
		stdout, stderr, code := runExport(t, "", args...)
		if code != cli.OK || stderr != "" {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
		differ(t, stdout, log)
	}
	// Without the clock record there is no wall time, and it is said so.
	stdout, stderr, code := runExport(t, "", "--catalogue", control, raw)
	boottime, _, _ := runExport(t, "", "--boottime", queue)
	if code != cli.OK || !strings.Contains(stderr, "wall time is not known") || stdout != boottime || stdout == log || strings.Count(stdout, "\n") != strings.Count(log, "\n") {
		t.Errorf("exit %d, %s, %s", code, stderr, stdout)
	}
	// Without a catalogue nothing can be read: the batch is named, with a remedy.
	stdout, stderr, code = runExport(t, "", raw)
	if code != cli.Failed || stdout != "" || !strings.Contains(stderr, "default/car-1, epoch ") || !strings.Contains(stderr, "lane raw, seq 1") || !strings.Contains(stderr, "--catalogue") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	stdout, _, code = runExport(t, "", "--config", filepath.Join(queue, "..", "..", "agent.yaml"), raw)
	if code != cli.OK || stdout != boottime {
		t.Errorf("with the configuration: exit %d, %s", code, stdout)
	}
	data, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if stdout, _, code = runExport(t, string(data), "--catalogue", control, "-", control); code != cli.OK || stdout != log {
		t.Errorf("standard input: exit %d, %s", code, stdout)
	}
}

func TestExportTimes(t *testing.T) {
	queue, log := kindQueue(t)
	lines := slices.Collect(strings.Lines(log))
	stdout, stderr, code := runExport(t, "", "--from", "1700000000.000002", "--to", "2023-11-14T22:13:20.000003Z", queue)
	if code != cli.OK {
		t.Fatal(stderr)
	}
	differ(t, stdout, strings.Join(lines[4:8], ""))
}

func TestExportUsage(t *testing.T) {
	empty := t.TempDir()
	for _, c := range []struct {
		stdin string
		args  []string
		code  int
		says  string
	}{
		{"", nil, cli.OK, ""},
		{"garbage", nil, cli.Failed, "malformed"},
		{"", []string{"--format", "mf4"}, cli.Usage, "candump or csv"},
		{"", []string{"--from", "yesterday"}, cli.Usage, "RFC 3339"},
		{"", []string{filepath.Join(empty, "none")}, cli.Failed, "no such file"},
		{"", []string{empty}, cli.OK, "no recorded frames"},
		{"", []string{"--wrong"}, cli.Usage, "unknown flag"},
		{"", []string{"--catalogue", filepath.Join(empty, "none")}, cli.Failed, "no such file"},
	} {
		if stdout, stderr, code := runExport(t, c.stdin, c.args...); code != c.code || stdout != "" || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit %d, %q, %s", c.args, code, stdout, stderr)
		}
	}
}

// rawBatch makes a payload of the catalogue that a bus has and of batches of the given samples.
func rawBatch(t testing.TB, batches ...[]telemetrypb.Sample) []byte {
	t.Helper()
	r := recorder{bus: "can0"}
	catalogue := &telemetrypb.Catalogue{Format: 1, Signals: r.signals()}
	for i, s := range catalogue.Signals {
		s.Id = uint32(i + 1)
	}
	data, hash := telemetrypb.EncodeCatalogue(catalogue)
	head := telemetrypb.Head{Tenant: "acme", Device: "car-1", Epoch: 5, Lane: telemetrypb.Lane_LANE_CONTROL, Seq: 1, BootID: [16]byte{1}}
	var records telemetrypb.Records
	for _, part := range telemetrypb.SplitCatalogue(data) {
		records.Records = append(records.Records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: part}})
	}
	b, err := telemetrypb.AppendControl(nil, &head, &records)
	if err != nil {
		t.Fatal(err)
	}
	list := [][]byte{b}
	head.Lane, head.Catalogue = telemetrypb.Lane_LANE_RAW, [16]byte(hash[:16])
	for i, samples := range batches {
		head.Seq = uint64(i + 1)
		if b, err = telemetrypb.AppendBatch(nil, &head, samples); err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	clock := &telemetrypb.ClockRecord{BootId: head.BootID[:], Revision: 1, Anchors: []*telemetrypb.Anchor{{UnixNs: 1e18, Source: telemetrypb.TimeSource_TIME_SOURCE_GPS}}}
	return telemetrypb.AppendPayload(nil, false, []*telemetrypb.ClockRecord{clock}, list...)
}

// Batches of frames that are not whole give nothing, and a warning that names them; the sound one beside them is exported.
func TestExportOfWhatIsNotWhole(t *testing.T) {
	ids := benchIDs()
	frames := []can.Frame{
		{Time: 1000, ID: 1, Len: 2, Data: [64]byte{1, 2}}, {Time: 1000, ID: 2, Len: 0}, {Time: 2000, ID: 3, Len: 12, Flags: can.FlagFD, Data: [64]byte{9}},
	}
	var whole []telemetrypb.Sample
	for i := range frames {
		whole = ids.appendFrame(whole, &frames[i])
	}
	const want = "(1000000000.000001) can0 001#0102\n(1000000000.000001) can0 002#\n(1000000000.000002) can0 003##0090000000000000000000000\n"
	if stdout, stderr, code := runExport(t, string(rawBatch(t, whole))); stdout != want || stderr != "" || code != 0 {
		t.Fatalf("exit %d, %s%s", code, stdout, stderr)
	}
	change := func(i int, f func(*telemetrypb.Sample)) []telemetrypb.Sample {
		list := slices.Clone(whole)
		f(&list[i])
		return list
	}
	cases := map[string][]telemetrypb.Sample{
		"twice the same":           append(slices.Clone(whole), whole[2]),
		"a length of another time": change(1, func(s *telemetrypb.Sample) { s.Time++ }),
		"data of another time":     change(2, func(s *telemetrypb.Sample) { s.Time++ }),
		"too long":                 change(1, func(s *telemetrypb.Sample) { s.Bits = 9 }),
		"data too long":            change(2, func(s *telemetrypb.Sample) { s.Bits = 1 << 16 }),
		"bits without a meaning":   change(0, func(s *telemetrypb.Sample) { s.Bits |= 1 << 40 }),
		"a float":                  change(0, func(s *telemetrypb.Sample) { s.Kind = telemetrypb.KindFloat }),
		"a text":                   change(2, func(s *telemetrypb.Sample) { s.Kind, s.Str = telemetrypb.KindString, "x" }),
	}
	for i := range whole {
		cases[fmt.Sprintf("without sample %d", i)] = slices.Delete(slices.Clone(whole), i, i+1)
	}
	for name, bad := range cases {
		stdout, stderr, code := runExport(t, string(rawBatch(t, bad)))
		if stdout != "" || code != cli.Failed || !strings.Contains(stderr, "acme/car-1, epoch 0000000000000005, lane raw, seq 1: bus can0: ") {
			t.Errorf("%s: exit %d, %s%s", name, code, stdout, stderr)
		}
		stdout, stderr, code = runExport(t, string(rawBatch(t, bad, whole, bad)))
		if stdout != want || code != cli.OK || strings.Count(stderr, "warning: ") != 2 {
			t.Errorf("%s beside a sound one: exit %d, %s%s", name, code, stdout, stderr)
		}
	}
}

// Times are cut to what candump prints, unless all of them is asked for.
func TestExportToTheNanosecond(t *testing.T) {
	ids := benchIDs()
	payload := string(rawBatch(t, ids.appendFrame(nil, &can.Frame{Time: 1999, ID: 1})))
	if stdout, _, _ := runExport(t, payload); stdout != "(1000000000.000001) can0 001#\n" {
		t.Error(stdout)
	}
	if stdout, _, _ := runExport(t, payload, "--nanoseconds", "-"); stdout != "(1000000000.000001999) can0 001#\n" {
		t.Error(stdout)
	}
}

// A batch that was damaged on disk is left out, with a warning that names it, and the others are there.
func TestExportOfADamagedQueue(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "queue")
	q, err := buffer.Open(dir, buffer.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	ids := benchIDs()
	var batches [][]telemetrypb.Sample
	for i := range 20 {
		var list []telemetrypb.Sample
		for k := range 50 {
			list = ids.appendFrame(list, &can.Frame{Time: int64(i*50+k) * 1e6, ID: uint32(i), Len: 8, Data: [64]byte{byte(k), 0xA5, byte(i)}})
		}
		batches = append(batches, list)
	}
	payload, err := telemetrypb.OpenPayload(rawBatch(t, batches...))
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range payload.Batches {
		lane, seq := buffer.Raw, uint64(i)
		if i == 0 {
			lane, seq = buffer.Control, 1
		}
		if q.Reserve(lane) != seq {
			t.Fatal("not the seq of the batch")
		}
		if err := q.Commit([]buffer.Record{{Lane: lane, Seq: seq, Samples: 150, First: 0, Last: 1, Bytes: b}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := runExport(t, "", dir)
	if code != cli.OK || strings.Count(stdout, "\n") != 1000 || !strings.Contains(stderr, "wall time is not known") {
		t.Fatalf("exit %d, %d lines, %s", code, strings.Count(stdout, "\n"), stderr)
	}
	whole := stdout
	files, err := filepath.Glob(filepath.Join(dir, "raw", "*.seg"))
	if err != nil || len(files) != 1 {
		t.Fatal(err, files)
	}
	contents, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(contents, payload.Batches[7])
	contents[at+len(payload.Batches[7])/2] ^= 1
	if err := os.WriteFile(files[0], contents, 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code = runExport(t, "", dir)
	if code != cli.OK || !strings.Contains(stderr, "warning") || !strings.Contains(stderr, "7") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	lines := slices.Collect(strings.Lines(whole))
	differ(t, stdout, strings.Join(slices.Delete(lines, 300, 350), ""))
}

// FuzzExport feeds the exporter batches of any samples: it ends, and every line is one of candump's.
func FuzzExport(f *testing.F) {
	ids := benchIDs()
	var whole []telemetrypb.Sample
	for i := range 3 {
		whole = ids.appendFrame(whole, &can.Frame{Time: int64(i), ID: uint32(i), Len: 20, Flags: can.FlagFD})
	}
	body, err := telemetrypb.AppendSamples(nil, whole)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body, rawBatch(f, whole))
	f.Add([]byte{}, []byte{})
	f.Add([]byte{1}, []byte("{}"))
	f.Fuzz(func(t *testing.T, body, payload []byte) {
		if samples, err := telemetrypb.DecodeSamples(nil, body); err == nil && len(samples) > 0 && len(samples) < 1<<12 {
			payload = rawBatch(t, samples, whole)
		}
		stdout, _, _ := runExport(t, string(payload))
		lines := can.NewScanner(strings.NewReader(stdout))
		n := 0
		for lines.Scan() {
			n++
		}
		if n != strings.Count(stdout, "\n") && !strings.Contains(stdout, "(-") { // no candump was before 1970
			t.Errorf("%d lines rejected of %q", lines.Rejected(), stdout)
		}
	})
}
