package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// runBatch runs `waybill-agent batch …`.
func runBatch(t *testing.T, stdin []byte, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetIn(bytes.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	code = cli.Execute(root, append([]string{"batch"}, args...), &errs)
	return out.String(), errs.String(), code
}

// mustBatch is runBatch of what must succeed without a word.
func mustBatch(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	stdout, stderr, code := runBatch(t, stdin, args...)
	if code != cli.OK || stderr != "" {
		t.Fatalf("batch %q: exit %d, %s", args, code, stderr)
	}
	return stdout
}

// TestBatchWire sends the recorded samples there and back, and compares with the CSV as encoding/csv reads it.
func TestBatchWire(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(deps.Testdata(t, "wire"), "*.csv"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files of wire data: %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		reader := csv.NewReader(bytes.NewReader(text))
		reader.Comment = '#'
		rows, err := reader.ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		rows = rows[1:]
		sort.SliceStable(rows, func(i, j int) bool {
			a, _ := strconv.Atoi(rows[i][1])
			b, _ := strconv.Atoi(rows[j][1])
			return a < b
		})
		var want strings.Builder
		for _, row := range rows {
			fmt.Fprintf(&want, "{\"t_ns\":%s000000,\"signal\":%s,\"raw\":%s}\n", row[0], row[1], row[2])
		}
		payload := mustBatch(t, nil, "encode", file)
		if got := mustBatch(t, []byte(payload), "decode", "-"); got != want.String() {
			t.Errorf("%s came back otherwise", file)
		}
		t.Logf("%s: %d samples, %d bytes, %.4f bytes a sample", filepath.Base(file), len(rows), len(payload), float64(len(payload))/float64(len(rows)))
		if len(payload)*10 > len(rows)*9 {
			t.Errorf("%s: more than 0.9 bytes a sample", file)
		}
	}
}

func TestBatchEncodeRejectsLines(t *testing.T) {
	in := "# a comment\r\nt_ms,signal,raw\r\n100,1,837\r\n200,1,8x\r\n3,4\r\n5,0,1\r\n99999999999999999,1,1\r\n\r\n" +
		"300,1,18446744073709551615\r\n400,1,-0.5\r\n500,1,NaN\r\n-7,2,-9223372036854775808"
	payload, stderr, code := runBatch(t, []byte(in), "encode")
	if code != cli.OK {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	for _, want := range []string{"standard input:4: warning: raw \"8x\"", ":5: warning: 2 fields", ":6: warning: signal \"0\"", ":7: warning: t_ms \"99999999999999999\""} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in\n%s", want, stderr)
		}
	}
	if n := strings.Count(stderr, "\n"); n != 4 {
		t.Errorf("%d warnings, want 4:\n%s", n, stderr)
	}
	want := `{"t_ns":100000000,"signal":1,"raw":837}
{"t_ns":300000000,"signal":1,"raw":18446744073709551615}
{"t_ns":400000000,"signal":1,"raw":-0.5}
{"t_ns":500000000,"signal":1,"raw":"NaN"}
{"t_ns":-7000000,"signal":2,"raw":-9223372036854775808}
`
	if got := mustBatch(t, []byte(payload), "decode"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestBatchExitCodes(t *testing.T) {
	payload := mustBatch(t, []byte("1,1,1\n2,1,2\n"), "encode")
	broken := []byte(payload)
	broken[len(broken)-1] ^= 1
	catalogue := filepath.Join(t.TempDir(), "other.json")
	if err := os.WriteFile(catalogue, []byte(`{"signals":[{"id":1,"name":"other"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		stdin  []byte
		args   []string
		code   int
		stderr string // part of it; empty: silence
	}{
		{"nothing to encode", nil, []string{"encode"}, cli.OK, ""},
		{"only a header", []byte("# x\nt_ms,signal,raw\n"), []string{"encode"}, cli.OK, ""},
		{"nothing to decode", nil, []string{"decode"}, cli.OK, ""},
		{"not CSV", []byte("\x00\x01\x02\nxyz"), []string{"encode"}, cli.Failed, "none of 2 lines"},
		{"not a payload", []byte("hello"), []string{"decode"}, cli.Failed, "malformed"},
		{"damaged", broken, []string{"decode"}, cli.Failed, "checksum mismatch"},
		{"cut off", []byte(payload[:len(payload)-3]), []string{"decode"}, cli.Failed, "malformed"},
		{"no such file", nil, []string{"decode", filepath.Join(t.TempDir(), "none")}, cli.Failed, "no such file"},
		{"another catalogue", []byte(payload), []string{"decode", "--catalogue", catalogue}, cli.Failed, "names catalogue"},
		{"two files", nil, []string{"encode", "a", "b"}, cli.Usage, "takes one"},
		{"unknown flag", nil, []string{"decode", "--foo"}, cli.Usage, "unknown flag"},
		{"unknown command", nil, []string{"recode"}, cli.Usage, "unknown command"},
	} {
		stdout, stderr, code := runBatch(t, c.stdin, c.args...)
		if code != c.code || !strings.Contains(stderr, c.stderr) || c.stderr == "" && stderr != "" {
			t.Errorf("%s: exit %d, want %d; stderr %q, want %q in it", c.name, code, c.code, stderr, c.stderr)
		}
		if stdout != "" {
			t.Errorf("%s: output %q", c.name, stdout)
		}
	}
}

// A damaged batch does not take its neighbour along.
func TestBatchDecodeOneOfTwo(t *testing.T) {
	head := &telemetrypb.Head{Tenant: "t", Device: "d", Lane: telemetrypb.Lane_LANE_EVENT, Seq: 1}
	one, err := telemetrypb.AppendBatch(nil, head, []telemetrypb.Sample{telemetrypb.IntSample(1, 5, 6)})
	if err != nil {
		t.Fatal(err)
	}
	two := bytes.Clone(one)
	two[len(two)-1] ^= 0x80
	stdout, stderr, code := runBatch(t, telemetrypb.AppendPayload(nil, true, nil, two, one), "decode")
	if code != cli.OK || stdout != "{\"t_ns\":5,\"signal\":1,\"raw\":6}\n" || !strings.Contains(stderr, "batch 1 of 2") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestBatchDecodeCatalogue(t *testing.T) {
	boot := bytes.Repeat([]byte{7}, 16)
	c := &telemetrypb.Catalogue{Format: 1, Signals: []*telemetrypb.Signal{
		{Id: 1, Name: "can0.EEC1.EngineSpeed", Unit: "rpm", Scale: 0.125, Labels: []*telemetrypb.Label{{Value: 837, Text: "odd"}}},
		{Id: 2, Name: "count", Scale: 1},
	}}
	data, hash := telemetrypb.EncodeCatalogue(c)
	head := &telemetrypb.Head{Tenant: "t", Device: "d", Lane: telemetrypb.Lane_LANE_TELEMETRY, Seq: 1,
		BootID: [16]byte(boot), Catalogue: [16]byte(hash[:16])}
	batch, err := telemetrypb.AppendBatch(nil, head, []telemetrypb.Sample{
		telemetrypb.IntSample(1, 66e6, 837), telemetrypb.UintSample(2, 70e6, 1<<64-1)})
	if err != nil {
		t.Fatal(err)
	}
	clock := &telemetrypb.ClockRecord{BootId: boot, Revision: 1, Anchors: []*telemetrypb.Anchor{
		{BootNs: 0, UnixNs: 1000, UncertaintyNs: 50, Source: telemetrypb.TimeSource_TIME_SOURCE_GPS}}}
	payload := telemetrypb.AppendPayload(nil, false, []*telemetrypb.ClockRecord{clock}, batch)

	const want = `{"t_ns":66000000,"signal":1,"raw":837,"name":"can0.EEC1.EngineSpeed","value":104.625,"unit":"rpm","unix_ns":66001000,"uncertainty_ns":3350}
{"t_ns":70000000,"signal":2,"raw":18446744073709551615,"name":"count","value":18446744073709551615,"unix_ns":70001000,"uncertainty_ns":3550}
`
	var parts telemetrypb.Records
	for _, p := range telemetrypb.SplitCatalogue(data) {
		parts.Records = append(parts.Records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: p}})
	}
	control, err := telemetrypb.AppendControl(nil, &telemetrypb.Head{Tenant: "t", Device: "d", Seq: 1}, &parts)
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := protojson.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"bytes": data, "json": mapped, "payload": telemetrypb.AppendPayload(nil, false, nil, control),
	} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := mustBatch(t, payload, "decode", "--catalogue", file); got != want {
			t.Errorf("catalogue as %s: got\n%swant\n%s", name, got, want)
		}
	}

	if got := mustBatch(t, telemetrypb.AppendPayload(nil, false, nil, control), "decode"); !strings.HasPrefix(got, `{"record":{"catalogue":{"hash":"`) {
		t.Errorf("control lane: %s", got)
	}
	view, err := telemetrypb.OpenBatch(batch)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := telemetrypb.RenderPlain(view, c, clock)
	if err != nil {
		t.Fatal(err)
	}
	const wantPlain = `{"t_ns":66000000,"name":"can0.EEC1.EngineSpeed","value":104.625,"unit":"rpm","label":"odd","unix_ns":66001000,"uncertainty_ns":3350}
{"t_ns":70000000,"name":"count","value":18446744073709551615,"unix_ns":70001000,"uncertainty_ns":3550}
`
	for _, json := range []bool{false, true} {
		p, err := telemetrypb.AppendPlainPayload(nil, json, false, nil, plain)
		if err != nil {
			t.Fatal(err)
		}
		if got := mustBatch(t, p, "decode"); got != wantPlain {
			t.Errorf("plain, json %v: got\n%swant\n%s", json, got, wantPlain)
		}
	}
}

func TestBatchEncodeWritesItsCatalogue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "names")
	payload := mustBatch(t, []byte("1,5,70\n1,4,7\n"), "encode", "--write-catalogue", file)
	want := `{"t_ns":1000000,"signal":4,"raw":7,"name":"csv.M1.S4","value":7}
{"t_ns":1000000,"signal":5,"raw":70,"name":"csv.M2.S5","value":70}
`
	if got := mustBatch(t, []byte(payload), "decode", "--catalogue", file); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
