package buffer_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/test/deps"
)

// pythonReader runs tools/read_queue.py, which was written from FORMAT.md and shares nothing with this package.
func pythonReader(t *testing.T, args ...string) (lines []map[string]any, code int) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		deps.Missing(t, "python3: %v", err)
	}
	cmd := exec.Command(python, append([]string{filepath.Join("..", "tools", "read_queue.py")}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		lines = append(lines, m)
	}
	if stderr.Len() > 0 {
		t.Log(stderr.String())
	}
	return lines, cmd.ProcessState.ExitCode()
}

// compare holds what the Python reader prints of a folder to what this package finds in it.
func comparePython(t *testing.T, dir string, wantCode int) {
	t.Helper()
	o := options(t)
	o.Log, o.ReadOnly = nil, true
	q := open(t, dir, o)
	var want, got []string
	for _, l := range buffer.Lanes() {
		for from := uint64(0); ; {
			r, err := q.Next(l, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintf("batch %s %d %016x %d %d %d %x", l, r.Seq, r.Epoch, r.Samples, r.First, r.Last, sha256.Sum256(r.Bytes)))
			from = r.Seq + 1
		}
	}
	for _, e := range q.Recovered() {
		want = append(want, fmt.Sprintf("journal %s %d %016x %x %d %x %x", e.Lane, e.Seq, e.Epoch, e.Boot, e.BootCount, e.Catalogue, sha256.Sum256(e.Bytes)))
	}
	lines, code := pythonReader(t, dir)
	meta := false
	n := func(m map[string]any, key string) int64 { v, _ := m[key].(float64); return int64(v) }
	for _, m := range lines {
		switch {
		case m["batch"] != nil:
			got = append(got, fmt.Sprintf("batch %s %d %s %d %d %d %s", m["lane"], n(m, "batch"), m["epoch"], n(m, "samples"), n(m, "first_ns"), n(m, "last_ns"), m["sha256"]))
		case m["journal"] != nil:
			got = append(got, fmt.Sprintf("journal %s %d %s %s %d %s %s", m["lane"], n(m, "journal"), m["epoch"], m["boot"], n(m, "boot_count"), m["catalogue"], m["sha256"]))
		case m["meta"] != nil:
			meta = true
			epochs := m["epochs"].([]any)
			if last := epochs[len(epochs)-1]; last != fmt.Sprintf("%016x", q.Epoch()) {
				t.Errorf("the current epoch is %v, want %016x", last, q.Epoch())
			}
			if p, ok := q.Parent(); ok && (m["parent"] != fmt.Sprintf("%016x", p.Epoch) || m["reason"] != p.Reason) {
				t.Errorf("parent %v, %v; want %+v", m["parent"], m["reason"], p)
			}
		}
	}
	if !slices.Equal(got, want) || len(want) == 0 || code != wantCode {
		t.Errorf("exit %d, want %d; %d lines, want %d", code, wantCode, len(got), len(want))
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("the first difference:\n%s, want\n%s", got[i], want[i])
			}
		}
	}
	if !meta && wantCode == 0 {
		t.Error("nothing is said of meta")
	}
}

// TestFormatDocument: a reader written from FORMAT.md finds what this package finds: in a queue of two epochs as a power cut
// leaves it, in a closed one, without its newest meta, with a segment that has no way in, and with a batch damaged.
func TestFormatDocument(t *testing.T) {
	if testing.Short() {
		t.Skip("not in -short: nothing in it depends on the processor")
	}
	deps.Watch(t)
	c := newCorpus(t, 21)
	comparePython(t, plant(t, c.files), 0)

	dir := plant(t, c.files)
	q := open(t, dir, options(t))
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	comparePython(t, dir, 0)

	out := filepath.Join(t.TempDir(), "out")
	if _, code := pythonReader(t, dir, "--extract", out); code != 0 {
		t.Errorf("--extract: exit %d", code)
	}
	for id := range c.live {
		r := c.batches[id].record
		b, err := os.ReadFile(filepath.Join(out, fmt.Sprintf("%s-%016x-%012d.batch", id.lane, r.Epoch, id.seq)))
		if err != nil || !bytes.Equal(b, r.Bytes) {
			t.Errorf("batch %v: %v", id, err)
		}
	}

	damaged := tree(t, dir)
	name := segments(damaged, tele)[1]
	clear(damaged[name][:2*4096])
	comparePython(t, plant(t, damaged), 3)
	for id := range c.live {
		if k := c.batches[id]; k.file == name {
			damaged[name][bytes.Index(damaged[name], k.record.Bytes)+11] ^= 1
			break
		}
	}
	comparePython(t, plant(t, damaged), 3)

	newer := tree(t, dir)
	buffer.SetReaderVersion(newer["meta"], 0)
	if _, code := pythonReader(t, plant(t, newer)); code != 1 {
		t.Errorf("a newer format: exit %d, want 1", code)
	}
}
