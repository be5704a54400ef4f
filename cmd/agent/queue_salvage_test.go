package main

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// folderBytes is every file of a folder.
func folderBytes(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var b []byte
			b, err = os.ReadFile(path)
			files[path] = string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// salvaged runs the command and reads its files: the seqs of each lane, and the last line.
func salvaged(t *testing.T, dir string, code int) (seqs map[string][]uint64, sum map[string]any, stderr string) {
	t.Helper()
	before := folderBytes(t, dir)
	to := filepath.Join(t.TempDir(), "out")
	stdout, stderr, got := runQueue(t, "salvage", "--to", to, dir)
	if got != code {
		t.Fatalf("exit %d, want %d: %s%s", got, code, stdout, stderr)
	}
	if !maps.Equal(before, folderBytes(t, dir)) {
		t.Error("the queue was changed")
	}
	seqs = map[string][]uint64{}
	files := 0
	lines := jsonLines(t, stdout)
	for _, l := range lines {
		if l["topic"] == nil {
			continue
		}
		files++
		b, err := os.ReadFile(filepath.Join(to, l["file"].(string)))
		if err != nil {
			t.Fatal(err)
		}
		p, err := telemetrypb.OpenPayload(b)
		if err != nil || float64(len(p.Batches)) != l["batches"] {
			t.Fatalf("%v: %d batches, %v", l, len(p.Batches), err)
		}
		for _, raw := range p.Batches {
			v, err := telemetrypb.OpenBatch(raw)
			if err != nil {
				t.Fatal(err)
			}
			lane := telemetrypb.LaneName(v.Envelope.GetLane())
			if want := telemetrypb.Topic(v.Envelope.GetTenant(), v.Envelope.GetDevice(), "up/"+lane); l["topic"] != want {
				t.Errorf("topic %v, want %s", l["topic"], want)
			}
			if v.Envelope.GetLane() != telemetrypb.Lane_LANE_CONTROL {
				if s, err := v.Samples(nil); err != nil || len(s) == 0 {
					t.Errorf("%d samples, %v", len(s), err)
				}
			}
			seqs[lane] = append(seqs[lane], v.Envelope.GetSeq())
		}
	}
	sum = lines[len(lines)-1]
	if there, _ := os.ReadDir(to); len(there) != files || sum["files"] != float64(files) {
		t.Errorf("%d files, %d lines, the sum says %v", len(there), files, sum["files"])
	}
	return seqs, sum, stderr
}

// upTo is 1 to n without some.
func upTo(n uint64, without ...uint64) (list []uint64) {
	for seq := uint64(1); seq <= n; seq++ {
		if !slices.Contains(without, seq) {
			list = append(list, seq)
		}
	}
	return list
}

// journalEntry puts three samples under the next number of a lane into the journal.
func journalEntry(t *testing.T, q *buffer.Queue, l buffer.Lane) uint64 {
	t.Helper()
	body := pipeline.AppendJournal(nil, 0, []telemetrypb.Sample{
		telemetrypb.StringSample(3, 100, "a"), telemetrypb.StringSample(3, 200, "b"), telemetrypb.StringSample(3, 300, "c"),
	})
	seq := q.Reserve(l)
	if err := q.Commit(nil, []buffer.JournalEntry{{Lane: l, Seq: seq, Bytes: body}}); err != nil {
		t.Fatal(err)
	}
	return seq
}

// TestQueueSalvage saves a live queue, a closed one, and a damaged one whose newest numbers are only journaled.
func TestQueueSalvage(t *testing.T) {
	dir, q := filledQueue(t)
	journaled := journalEntry(t, q, buffer.Telemetry)
	first := upTo(5)
	seqs, sum, stderr := salvaged(t, dir, cli.OK)
	if !slices.Equal(seqs["telemetry"], upTo(100, first...)) || !slices.Equal(seqs["event"], upTo(2)) || sum["unsealed"] != 0.0 || !strings.Contains(stderr, "open") {
		t.Errorf("live: %v, %v, %q", seqs, sum, stderr)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	seqs, sum, stderr = salvaged(t, dir, cli.OK)
	if !slices.Equal(seqs["telemetry"], upTo(journaled, first...)) || sum["unsealed"] != 1.0 || sum["saved"] != 98.0 || stderr != "" {
		t.Errorf("closed: %v, %v, %q", seqs, sum, stderr)
	}
	segments, err := filepath.Glob(filepath.Join(dir, "telemetry", "*.seg"))
	if err != nil || len(segments) < 2 {
		t.Fatal(segments, err)
	}
	damage := func(do func(b []byte) []byte) {
		b, err := os.ReadFile(segments[0])
		if err == nil {
			err = os.WriteFile(segments[0], do(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	damage(func(b []byte) []byte { clear(b[:8192]); return b }) // no way in but record by record
	seqs, sum, _ = salvaged(t, dir, cli.OK)
	if !slices.Equal(seqs["telemetry"], upTo(journaled, first...)) || sum["findings"] != 0.0 {
		t.Errorf("both meta pages of a closed segment: %v, %v", seqs, sum)
	}
	var lost uint64
	damage(func(b []byte) []byte {
		i := bytes.LastIndex(b, []byte("car-000000000000a")) // inside of the last batch
		b[i] ^= 4
		return b
	})
	seqs, sum, _ = salvaged(t, dir, cli.Findings)
	for _, seq := range upTo(journaled, first...) {
		if !slices.Contains(seqs["telemetry"], seq) {
			lost = seq
		}
	}
	if len(seqs["telemetry"]) != int(journaled)-6 || lost == 0 || sum["lost"] != 1.0 || sum["findings"] != 1.0 {
		t.Errorf("one batch damaged: %v, %v", seqs, sum)
	}
}

// TestQueueSalvageRefuses: what is no queue, a newer one, and targets that would mix or change something.
func TestQueueSalvageRefuses(t *testing.T) {
	dir, q := filledQueue(t)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	full, foreign := t.TempDir(), t.TempDir()
	for _, file := range []string{filepath.Join(full, "x"), filepath.Join(foreign, "holiday.jpg")} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := func() string { return filepath.Join(t.TempDir(), "out") }
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{dir}, cli.Usage, "--to"},
		{[]string{"--to", full, dir}, cli.Failed, "not empty"},
		{[]string{"--to", filepath.Join(dir, "out"), dir}, cli.Usage, "inside"},
		{[]string{"--to", out(), foreign}, cli.Failed, "holiday.jpg"},
		{[]string{"--to", out(), filepath.Dir(dir)}, cli.Failed, "give " + dir},
		{[]string{"--to", out(), filepath.Join(dir, "meta")}, cli.Failed, ""},
		{[]string{"--to", out(), filepath.Join(dir, "none")}, cli.Failed, ""},
		{[]string{"--to", out(), t.TempDir()}, cli.OK, ""}, // an empty folder is an empty queue
	} {
		_, stderr, code := runQueue(t, append([]string{"salvage"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("salvage %q: exit %d, %q; want %d and %q", c.args, code, stderr, c.code, c.says)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "out")); err == nil {
		t.Error("a folder was made inside of the queue")
	}
	meta := filepath.Join(dir, "meta")
	b, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(meta, newerMeta(b), 0o600); err != nil {
		t.Fatal(err)
	}
	before := folderBytes(t, dir)
	for _, command := range [][]string{{"ls", dir}, {"verify", dir}, {"export", "--to", out(), dir}, {"salvage", "--to", out(), dir}} {
		if _, stderr, code := runQueue(t, command...); code != cli.Failed || !strings.Contains(stderr, "newer") {
			t.Errorf("%q of a newer format: exit %d, %q", command, code, stderr)
		}
	}
	if !maps.Equal(before, folderBytes(t, dir)) {
		t.Error("a queue of a newer format was changed")
	}
}

// TestToolsOnDamagedFolders runs every command over a queue with one page of one file destroyed, each page in turn.
func TestToolsOnDamagedFolders(t *testing.T) {
	dir, q := filledQueue(t)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for n, file := range append(files, filepath.Join(dir, "meta")) {
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pages := len(bytes.TrimRight(whole, "\x00"))/4096 + 1
		for page := n % 9; page < pages; page += 9 {
			broken := bytes.Clone(whole)
			for i := page * 4096; i < min(len(broken), page*4096+4096); i++ {
				broken[i] = byte(i * 7)
			}
			if err := os.WriteFile(file, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			stdout, stderr, verified := runQueue(t, "verify", dir)
			_, _, listed := runQueue(t, "ls", dir)
			_, _, exported := runQueue(t, "export", "--to", filepath.Join(out, "export"), dir)
			saved, _, salvaged := runQueue(t, "salvage", "--to", filepath.Join(out, "salvage"), dir)
			if verified != cli.OK && verified != cli.Findings || listed != cli.OK || exported != cli.OK || salvaged != cli.OK && salvaged != cli.Findings {
				t.Fatalf("page %d of %s: verify %d, ls %d, export %d, salvage %d: %s", page, file, verified, listed, exported, salvaged, stderr)
			}
			sound, sum := jsonLines(t, stdout), jsonLines(t, saved)
			if a, b := sound[len(sound)-1], sum[len(sum)-1]; a["verified"] != b["saved"] {
				t.Errorf("page %d of %s: verify finds %v batches, salvage %v", page, file, a, b)
			}
		}
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// newerMeta makes a meta file ask for a newer reader: FORMAT.md says where, and how it is summed.
func newerMeta(b []byte) []byte {
	b = bytes.Clone(b)
	b[7] = 2
	sum := crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(b[len(b)-4:], sum)
	return b
}
