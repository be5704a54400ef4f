package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// runQueue runs `waybill-agent queue …`.
func runQueue(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&errs)
	code = cli.Execute(root, append([]string{"queue"}, args...), &errs)
	return out.String(), errs.String(), code
}

// jsonLines decodes one object a line.
func jsonLines(t *testing.T, text string) []map[string]any {
	t.Helper()
	var list []map[string]any
	for line := range strings.Lines(text) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, m)
	}
	return list
}

// filledQueue makes a queue with 40 telemetry batches, the first 5 released, and 2 events.
func filledQueue(t *testing.T) (dir string, q *buffer.Queue) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "queue")
	q, err := buffer.Open(dir, buffer.Options{Rand: rand.Reader, SegmentBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	add := func(l buffer.Lane) {
		seq := q.Reserve(l)
		samples := make([]telemetrypb.Sample, 2000)
		for i := range samples {
			samples[i] = telemetrypb.Sample{Signal: 1, Kind: telemetrypb.KindInt, Time: int64(i) * 1e6, Bits: uint64(i*i*7919) % 65521}
		}
		b, err := telemetrypb.AppendBatch(nil, &telemetrypb.Head{
			Tenant: "acme", Device: "car-000000000000a", Epoch: q.Epoch(), Lane: telemetrypb.Lane(l), Seq: seq,
		}, samples)
		if err != nil {
			t.Fatal(err)
		}
		r := buffer.Record{Lane: l, Seq: seq, Samples: 2000, First: 0, Last: 1999e6, Bytes: b}
		if err := q.Commit([]buffer.Record{r}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		add(buffer.Telemetry)
	}
	add(buffer.Event)
	add(buffer.Event)
	if err := q.Release(buffer.Telemetry, buffer.Range{First: 1, Last: 5}); err != nil {
		t.Fatal(err)
	}
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	return dir, q
}

// TestQueueList looks at a queue that is open in this process, then at the same after Close.
func TestQueueList(t *testing.T) {
	dir, q := filledQueue(t)
	for _, state := range []string{"live", "closed"} {
		stdout, stderr, code := runQueue(t, "ls", dir)
		if code != cli.OK || stderr != "" {
			t.Fatalf("%s: exit %d, %s", state, code, stderr)
		}
		lanes, segments, stored := 0, 0, 0.0
		for _, m := range jsonLines(t, stdout) {
			if m["lane"] == "telemetry" && m["segment"] != nil {
				segments++
				stored += m["stored"].(float64)
			}
			if m["segment"] != nil {
				continue
			}
			lanes++
			want := map[string]float64{"telemetry": 95, "event": 2}[m["lane"].(string)]
			if m["batches"] != want {
				t.Errorf("%s: lane %s has %v batches, want %v", state, m["lane"], m["batches"], want)
			}
		}
		if lanes != 4 || segments < 2 || stored != 100 {
			t.Errorf("%s: %d lanes, %d segments of telemetry with %v batches", state, lanes, segments, stored)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestQueueVerify(t *testing.T) {
	dir, q := filledQueue(t)
	stdout, stderr, code := runQueue(t, "verify", dir)
	lines := jsonLines(t, stdout)
	if code != cli.OK || lines[len(lines)-1]["verified"] != 97.0 {
		t.Fatalf("a sound live queue: exit %d, %s%s", code, stdout, stderr)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "telemetry", "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	contents, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.LastIndex(contents, []byte("car-000000000000a")) // inside a batch
	contents[i] ^= 4
	if err := os.WriteFile(files[len(files)-1], contents, 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, _, code = runQueue(t, "verify", dir)
	lines = jsonLines(t, stdout)
	if code != cli.Findings || len(lines) != 2 || lines[1]["verified"] != 96.0 || lines[0]["lane"] != "telemetry" {
		t.Errorf("one flipped bit: exit %d, %s", code, stdout)
	}
	if again, _, _ := runQueue(t, "verify", dir); again != stdout {
		t.Errorf("a second look differs: it has written\n%s", again)
	}
}

func TestQueueExport(t *testing.T) {
	dir, _ := filledQueue(t)
	stdout, stderr, code := runQueue(t, "export", "--lane", "event", dir)
	if code != cli.OK {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	p, err := telemetrypb.OpenPayload([]byte(stdout))
	if err != nil || len(p.Batches) != 2 {
		t.Fatalf("%d batches, %v, want 2", len(p.Batches), err)
	}
	to := filepath.Join(t.TempDir(), "out")
	if _, stderr, code := runQueue(t, "export", "--to", to, dir); code != cli.OK {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	files, err := filepath.Glob(filepath.Join(to, "*.payload"))
	if err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		p, err := telemetrypb.OpenPayload(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, raw := range p.Batches {
			v, err := telemetrypb.OpenBatch(raw)
			if err != nil {
				t.Fatal(err)
			}
			if v.Envelope.GetLane() == telemetrypb.Lane_LANE_TELEMETRY {
				seqs = append(seqs, v.Envelope.GetSeq())
			}
		}
	}
	if len(seqs) != 95 || seqs[0] != 6 || seqs[94] != 100 {
		t.Errorf("exported seqs %v, want 6 to 100", seqs)
	}
}

func TestQueueUsage(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"ls"}, cli.Usage},
		{[]string{"ls", "a", "b"}, cli.Usage},
		{[]string{"fly"}, cli.Usage},
		{[]string{"export", "--lane", "fast", t.TempDir()}, cli.Usage},
		{[]string{"ls", missing}, cli.Failed},
		{[]string{"verify", missing}, cli.Failed},
		{[]string{"ls", t.TempDir()}, cli.OK}, // an empty folder is an empty queue
	} {
		if _, stderr, code := runQueue(t, c.args...); code != c.code || code != cli.OK && stderr == "" {
			t.Errorf("queue %q: exit %d (%s), want %d", c.args, code, stderr, c.code)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("looking at a folder has made it")
	}
}
