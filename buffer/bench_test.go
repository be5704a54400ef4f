package buffer_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
)

// The shapes of DESIGN §10: 16 KiB batches, 4 a commit, full-size segments.
const (
	benchBatch  = 16 << 10
	benchCommit = 4
)

func benchQueue(b *testing.B, dir string) *buffer.Queue {
	b.Helper()
	return open(b, dir, buffer.Options{MaxBytes: 16 << 30, Rand: rand.Reader})
}

func noise(b *testing.B) []byte {
	b.Helper()
	bytes := make([]byte, benchBatch)
	if _, err := rand.Read(bytes); err != nil {
		b.Fatal(err)
	}
	return bytes
}

// written is how many bytes this process has handed to write calls so far; what the file system adds is not in it.
func written(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var n int64
		if _, err := fmt.Sscanf(line, "wchar: %d", &n); err == nil {
			return n
		}
	}
	return 0
}

func appendBatches(b *testing.B, q *buffer.Queue, body []byte, commits int) {
	b.Helper()
	batches := make([]buffer.Record, benchCommit)
	for range commits {
		for i := range batches {
			batches[i] = buffer.Record{Lane: tele, Seq: q.Reserve(tele), Samples: 9000, Bytes: body}
		}
		if err := q.Commit(batches, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppend is one durable commit.
func BenchmarkAppend(b *testing.B) {
	q, body := benchQueue(b, b.TempDir()), noise(b)
	b.SetBytes(benchBatch * benchCommit)
	b.ReportAllocs()
	before := written(b)
	b.ResetTimer()
	appendBatches(b, q, body, b.N)
	b.StopTimer()
	b.ReportMetric(float64(written(b)-before)/float64(b.N*benchBatch*benchCommit), "written-B/B")
	st := q.Stats()
	b.ReportMetric(float64(st.DiskBytes)/float64(st.Lanes[tele].Bytes), "disk-B/B")
}

// BenchmarkRawAppend is what the same disk does with the same bytes in a plain file.
func BenchmarkRawAppend(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	body := make([]byte, 0, benchBatch*benchCommit)
	for range benchCommit {
		body = append(body, noise(b)...)
	}
	b.SetBytes(benchBatch * benchCommit)
	before := written(b)
	b.ResetTimer()
	for range b.N {
		if _, err := f.Write(body); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(written(b)-before)/float64(b.N*benchBatch*benchCommit), "written-B/B")
}

// BenchmarkJournal is a commit of one second's unsealed samples and no batch.
func BenchmarkJournal(b *testing.B) {
	q := benchQueue(b, b.TempDir())
	seq := q.Reserve(tele)
	entry := buffer.JournalEntry{Lane: tele, Seq: seq, Bytes: make([]byte, 1000)}
	b.ReportAllocs()
	before := written(b)
	b.ResetTimer()
	for range b.N {
		if err := q.Commit(nil, []buffer.JournalEntry{entry}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(written(b)-before)/float64(b.N), "written-B/op")
}

// BenchmarkDrain reads and releases one batch; segments go on the way.
func BenchmarkDrain(b *testing.B) {
	q, body := benchQueue(b, b.TempDir()), noise(b)
	appendBatches(b, q, body, b.N/benchCommit+1)
	b.SetBytes(benchBatch)
	b.ReportAllocs()
	before := written(b)
	b.ResetTimer()
	for range b.N {
		r, err := q.Next(tele, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := q.Release(tele, buffer.Range{First: r.Seq, Last: r.Seq}); err != nil {
			b.Fatal(err)
		}
		if r.Seq%500 == 0 {
			if err := q.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(written(b)-before)/float64(b.N*benchBatch), "written-B/B")
}

// BenchmarkOpen opens a backlog of 256 MiB after a crash, its files not in the page cache.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	q := benchQueue(b, dir)
	appendBatches(b, q, noise(b), 256<<20/benchBatch/benchCommit)
	q.Abandon()
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		files, err := filepath.Glob(filepath.Join(dir, "*", "*.seg"))
		if err != nil {
			b.Fatal(err)
		}
		for _, name := range files {
			f, err := os.Open(name)
			if err != nil {
				b.Fatal(err)
			}
			f.Sync()
			if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
		b.StartTimer()
		q := benchQueue(b, dir)
		b.StopTimer()
		q.Abandon()
		b.StartTimer()
	}
}
