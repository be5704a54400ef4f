package buffer_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
)

const inAndOut = 1 << 30

// benchDir is a folder on the disk to measure: WAYBILL_BENCH_DIR, else where temporary files are.
func benchDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp(os.Getenv("WAYBILL_BENCH_DIR"), "waybill-bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// device counts what the block device below a folder was given to write, by whomever.
type device struct {
	folder *os.File
	stat   string // "" = there is none (overlay, tmpfs): bytes of write calls count instead
}

func deviceOf(b *testing.B, dir string) *device {
	b.Helper()
	folder, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { folder.Close() })
	var st unix.Stat_t
	if err := unix.Fstat(int(folder.Fd()), &st); err != nil {
		b.Fatal(err)
	}
	d := &device{folder: folder, stat: fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev))}
	if _, err := os.Stat(d.stat); err != nil {
		d.stat = ""
	}
	return d
}

// written is the count after everything dirty on the file system has gone out, its metadata too.
func (d *device) written(b *testing.B) int64 {
	b.Helper()
	if d.stat == "" {
		return written(b)
	}
	if err := unix.Syncfs(int(d.folder.Fd())); err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(d.stat)
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text))
	var sectors int64
	if _, err := fmt.Sscan(fields[6], &sectors); err != nil { // Documentation/block/stat: write sectors, of 512 bytes
		b.Fatal(err)
	}
	return 512 * sectors
}

// rssAnon watches the memory of the process that is no file's, in KiB.
type rssAnon struct{ least, most atomic.Int64 }

func (r *rssAnon) look() {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return
	}
	for line := range bytes.Lines(text) {
		var n int64
		if _, err := fmt.Sscanf(string(line), "RssAnon: %d kB", &n); err == nil {
			if least := r.least.Load(); least == 0 || n < least {
				r.least.Store(n)
			}
			r.most.Store(max(r.most.Load(), n))
		}
	}
}

// diskUsed is what the files below a folder occupy.
func diskUsed(b *testing.B, dir string) (total int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return err
		}
		total += st.Blocks * 512
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return total
}

// forget takes a folder's files out of the page cache, with WAYBILL_DROP_CACHES=1 everything (it needs root, and slows the
// whole machine for a while).
func forget(b *testing.B, dir string) string {
	b.Helper()
	unix.Sync()
	if os.Getenv("WAYBILL_DROP_CACHES") == "1" {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			b.Fatal(err)
		}
		return "all caches dropped"
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	if err != nil {
		b.Fatal(err)
	}
	return "its files not in the page cache"
}

// BenchmarkInAndOut takes 1 GiB into a queue and out of it, at the default segment size, and writes the same bytes to a
// plain file with fdatasync, by turns: DESIGN §10. Files need 2.5 GiB while it runs. Other programs' writes to the same
// device are in its count: the figure of the device is for a disk of its own, WAYBILL_BENCH_DIR.
func BenchmarkInAndOut(b *testing.B) {
	for b.Loop() {
		benchInAndOut(b)
	}
	b.ReportMetric(0, "ns/op")
}

func benchInAndOut(b *testing.B) {
	dir := benchDir(b)
	dev := deviceOf(b, dir)
	queueDir := filepath.Join(dir, "queue")
	q := benchQueue(b, queueDir)
	raw, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	empty := diskUsed(b, queueDir)
	body, group := noise(b), make([]byte, 0, benchBatch*benchCommit)
	for range benchCommit {
		group = append(group, body...)
	}
	const commits = benchCommit * benchBatch // bytes of one
	memory := &rssAnon{}
	inQueue := func(commits int) { appendBatches(b, q, body, commits) }
	inFile := func(commits int) {
		for range commits {
			if _, err := raw.Write(group); err != nil {
				b.Fatal(err)
			}
			if err := unix.Fdatasync(int(raw.Fd())); err != nil {
				b.Fatal(err)
			}
		}
	}
	before, callsBefore := dev.written(b), written(b)
	for i := range 64 {
		if inQueue(inAndOut / commits / 64); i > 0 { // from here on everything has its size
			memory.look()
		}
	}
	queueBytes, calls := dev.written(b)-before, written(b)-callsBefore
	full := q.Stats().DiskBytes
	before = dev.written(b)
	inFile(inAndOut / commits)
	rawBytes := dev.written(b) - before

	// Beside each other: rounds by turns, the first of two now the one, now the other.
	const rounds, roundCommits = 64, 32
	var ratios []float64
	var queueTime, rawTime time.Duration
	for round := range rounds {
		taken := func(f func(int)) time.Duration {
			start := time.Now()
			f(roundCommits)
			return time.Since(start)
		}
		var tq, tr time.Duration
		if round%2 == 0 {
			tq, tr = taken(inQueue), taken(inFile)
		} else {
			tr, tq = taken(inFile), taken(inQueue)
		}
		queueTime, rawTime, ratios = queueTime+tq, rawTime+tr, append(ratios, float64(tr)/float64(tq))
	}
	slices.Sort(ratios)
	const timed = rounds * roundCommits * commits

	q.Abandon()
	how := forget(b, queueDir)
	start := time.Now()
	q = benchQueue(b, queueDir)
	opened := time.Since(start)
	q.Abandon()
	start = time.Now()
	q = benchQueue(b, queueDir)
	warm := time.Since(start)

	before = dev.written(b)
	outStart, released := time.Now(), 0
	for ; ; released++ {
		r, err := q.Next(tele, 0)
		if errors.Is(err, buffer.ErrEmpty) {
			break
		}
		if err != nil {
			b.Fatal(err)
		}
		if err := q.Release(tele, buffer.Range{First: r.Seq, Last: r.Seq}); err != nil {
			b.Fatal(err)
		}
		if released%64 == 63 { // receipts of a MiB
			if err := q.Sync(); err != nil {
				b.Fatal(err)
			}
			memory.look()
		}
	}
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
	outTime := time.Since(outStart)
	outBytes := float64(dev.written(b)-before) / float64(released*benchBatch)
	left := diskUsed(b, queueDir) - empty

	what := "of the device " + dev.stat
	if dev.stat == "" {
		what = "of write calls, there being no block device below the folder"
	}
	per := func(n int64) float64 { return float64(n) / inAndOut }
	b.Logf("1 GiB in batches of 16 KiB, 4 a commit, in %s; bytes %s", dir, what)
	b.Logf("in:  %.3f B/B (bar 1.5; raw file %.3f; write calls of the queue %.3f; %.3f on disk)", per(queueBytes), per(rawBytes), per(calls), per(full))
	b.Logf("out: %.3f B/B (bar 0.1), %.0f MB/s, left on disk %d B (bar 0)", outBytes, float64(released*benchBatch)/1e6/outTime.Seconds(), left)
	b.Logf("append: median of %d ratios %.2f of the raw file (bar 0.60), from %.2f to %.2f; %.1f and %.1f MB/s", rounds,
		ratios[rounds/2], ratios[0], ratios[rounds-1], timed/1e6/queueTime.Seconds(), timed/1e6/rawTime.Seconds())
	b.Logf("open with that backlog: %v, %s; %v again at once (bar 50ms)", opened.Round(100*time.Microsecond), how, warm.Round(100*time.Microsecond))
	b.Logf("RssAnon: %d to %d KiB (bar: flat)", memory.least.Load(), memory.most.Load())
	b.ReportMetric(per(queueBytes), "in-B/B")
	b.ReportMetric(per(rawBytes), "raw-B/B")
	b.ReportMetric(outBytes, "out-B/B")
	b.ReportMetric(ratios[rounds/2], "x-raw")
	b.ReportMetric(opened.Seconds()*1e3, "open-ms")
	b.ReportMetric(float64(left), "left-B")
	b.ReportMetric(float64(memory.most.Load()), "RssAnon-KiB")
}
