package buffer_test

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// occupied is what a file has of blocks, and how long it is.
func occupied(t *testing.T, path string) (blocks, size int64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512, st.Size
}

// fill commits so many batches of 16 KiB.
func fill(t *testing.T, q *buffer.Queue, n int) {
	t.Helper()
	for range n {
		if err := q.Commit([]buffer.Record{buffertest.Batch(tele, q.Reserve(tele), 16<<10)}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// A tail that fills gets the blocks of its whole segment at once, and gives back what it did not use: when it is closed, and
// at the next start after a kill. A queue that has little, or little room, has no blocks but those it uses.
func TestBlocksAheadOfUse(t *testing.T) {
	const segment = 1 << 20
	probe, err := os.CreateTemp(t.TempDir(), "probe")
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if err := unix.Fallocate(int(probe.Fd()), 0, 0, 1<<20); err != nil {
		t.Skipf("the file system allocates nothing ahead: %v", err)
	}
	o := buffer.Options{SegmentBytes: segment, Rand: rand.Reader}
	dir := filepath.Join(t.TempDir(), "queue")
	first := filepath.Join(dir, "telemetry", "000000000000.seg")
	q := open(t, dir, o)
	fill(t, q, 12)
	if blocks, size := occupied(t, first); blocks < segment || size < segment {
		t.Errorf("a tail that fills has %d bytes of blocks and is %d long, want %d", blocks, size, segment)
	}
	if got := q.Stats().DiskBytes; got < segment {
		t.Errorf("%d bytes count, %d are on the disk", got, segment)
	}
	fill(t, q, 56) // into the second segment
	second := filepath.Join(dir, "telemetry", "000000000001.seg")
	if blocks, _ := occupied(t, second); blocks < segment {
		t.Errorf("the tail behind a full one has %d bytes of blocks", blocks)
	}
	q.Abandon()
	q = open(t, dir, o)
	if blocks, size := occupied(t, second); blocks > segment/2 || size > segment/2 {
		t.Errorf("after a kill a segment that is hardly used has %d bytes of blocks and is %d long", blocks, size)
	}
	if n := q.Stats().Lanes[tele].Batches; n != 68 {
		t.Errorf("%d batches of 68", n)
	}
	fill(t, q, 12)
	third := filepath.Join(dir, "telemetry", "000000000002.seg")
	if blocks, _ := occupied(t, third); blocks < segment {
		t.Errorf("a tail that fills has %d bytes of blocks", blocks)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if blocks, _ := occupied(t, third); blocks > segment/2 {
		t.Errorf("after Close a segment that is hardly used has %d bytes of blocks", blocks)
	}
	q = open(t, dir, o)
	if n := q.Stats().Lanes[tele].Batches; n != 80 {
		t.Errorf("%d batches of 80", n)
	}

	little := filepath.Join(t.TempDir(), "queue")
	q = open(t, little, buffer.Options{Rand: rand.Reader})
	fill(t, q, 2)
	if blocks, _ := occupied(t, filepath.Join(little, "telemetry", "000000000000.seg")); blocks > 256<<10 {
		t.Errorf("%d bytes of blocks for two batches", blocks)
	}

	narrow := filepath.Join(t.TempDir(), "queue")
	q = open(t, narrow, buffer.Options{SegmentBytes: segment, MaxBytes: 2 << 20, Rand: rand.Reader})
	fill(t, q, 12)
	if blocks, _ := occupied(t, filepath.Join(narrow, "telemetry", "000000000000.seg")); blocks > segment/2 {
		t.Errorf("a queue with room for two segments has given %d bytes of blocks to one", blocks)
	}
}

// What is released rides on the next commit; SyncLate writes meta only for what none has taken since the call before.
func TestSyncLate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "queue")
	o := buffer.Options{Rand: rand.Reader}
	q := open(t, dir, o)
	fill(t, q, 8)
	meta := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "meta"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	release := func(seq uint64) {
		if err := q.Release(tele, buffer.Range{First: seq, Last: seq}); err != nil {
			t.Fatal(err)
		}
	}
	late := func() {
		if err := q.SyncLate(); err != nil {
			t.Fatal(err)
		}
	}
	before := meta()
	for seq := uint64(1); seq < 5; seq++ { // commits come faster
		release(seq)
		late()
		fill(t, q, 1)
	}
	release(5)
	late()
	if meta() != before {
		t.Error("meta was written for what a commit carries")
	}
	late()
	if meta() == before {
		t.Error("meta was not written for what no commit has carried")
	}
	q.Abandon()
	q = open(t, dir, o)
	if oldest := q.Stats().Lanes[tele].Oldest; oldest != 6 {
		t.Errorf("the oldest batch is %d, want 6", oldest)
	}
}
