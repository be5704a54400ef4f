package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const (
	allocBytes  = 1 << 20 // growth of a segment file; sparse until written
	growthRoom  = 2 << 20 // MaxSize above SegmentBytes: bbolt asks for a growth step more than it uses
	commitRoom  = 64 << 10
	recordRoom  = 4096 + 256 // page rounding, keys, elements and the name's part of one record at the worst
	bboltWait   = time.Second
	tailMinimum = 2 << 20 // a released tail below this is kept for the next commits
	busyPart    = 128     // a tail that has filled one part in so many of its segment will fill the rest
	blankPart   = 32      // one part in so many of a segment is blanked at once
	smallCommit = 32 << 10
)

// errPanicked: bbolt gave up in the middle of its work; its locks may be held and its state is not to be used.
var errPanicked = errors.New("bbolt panicked")

// tail is the segment of a lane that takes the commits. It is used under Queue.commitMu only.
type tail struct {
	seg  *segment
	db   *bolt.DB
	file *os.File // bbolt's own, kept so that it can be taken from a bbolt that panicked
	used int64    // bytes up to the highest page in use
	slab []byte   // values of the commit under way

	allocated bool  // has its blocks, or cannot have them ahead of their use
	blank     int64 // up to here the file was written; 0 = that is of no use here
}

// guard runs a call into bbolt. Its panics and faults in its mapping (a file cut off by others, a disk that cannot
// read) become errPanicked.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	return f()
}

// newTail makes a segment: temporary file, head, rename, folder. After a power cut it is there whole or not at all. With
// allocate it gets all its blocks first.
func newTail(dir string, head segmentHead, segmentBytes int64, allocate bool) (*tail, error) {
	folder := filepath.Join(dir, head.Lane.String())
	if !exists(folder) {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return nil, err
		}
		if err := syncDir(dir); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(folder, segmentFile(head.Number))
	tmp := path + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	t := &tail{seg: &segment{
		lane: head.Lane, number: head.Number, epoch: head.Epoch, path: path, first: head.First, last: head.First - 1,
		index: []entry{},
	}}
	err := guard(func() (err error) {
		t.db, err = bolt.Open(tmp, 0o600, &bolt.Options{
			Timeout: bboltWait, FreelistType: bolt.FreelistMapType, PageSize: 4096, NoStatistics: true,
			InitialMmapSize: int(segmentBytes), MaxSize: int(segmentBytes + growthRoom),
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(name, flag, mode)
				t.file = f
				return f, err
			},
		})
		return err
	})
	if err == nil {
		t.db.AllocSize = allocBytes
		if allocate {
			t.allocate(segmentBytes)
		}
		err = t.update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucket(segmentName)
			if err != nil {
				return err
			}
			return b.Put(headKey, appendSegmentHead(nil, &head))
		})
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		if err = syncDir(folder); err != nil {
			tmp = path
		}
	}
	if err != nil {
		t.close(err)
		os.Remove(tmp) // what cannot be removed now is empty, and goes at the next Open
		return nil, err
	}
	return t, nil
}

// update runs one transaction; durable when it returns nil.
func (t *tail) update(f func(tx *bolt.Tx) error) error {
	return guard(func() error {
		if err := t.db.Update(f); err != nil {
			return err
		}
		return t.db.View(func(tx *bolt.Tx) error {
			t.used = tx.Size()
			return nil
		})
	})
}

// allocate gives the file the blocks of a whole segment, durably with the next commit. A commit into blocks that the file
// has already changes less of the file system's own records, each of which is a page in its journal: on ext4 three
// pages a commit in place of five, and all at once, since a file in more than four pieces costs them again. Where it does not
// work the file grows as it is written.
func (t *tail) allocate(segmentBytes int64) {
	t.allocated = true
	var err error
	for {
		if err = unix.Fallocate(int(t.file.Fd()), 0, 0, segmentBytes); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil && hasJournal(t.file) {
		t.blank = max(t.used, 1)
	}
}

// hasJournal says whether a file is on an ext4 with a journal.
func hasJournal(f *os.File) bool {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
	if err != nil {
		return false
	}
	journals, err := filepath.Glob("/proc/fs/jbd2/" + filepath.Base(device) + "-*")
	return err == nil && len(journals) > 0
}

// blankAhead writes zeros where small commits will go. The first write to a block is what ext4 has to note; a commit into
// blocks that were written costs its journal nothing, where the few pages of a second cost three more. For large commits, and
// where there is no such journal, it would be the dearer way.
func (t *tail) blankAhead(size, segmentBytes int64) {
	if t.blank == 0 || size > smallCommit || t.blank >= t.used+smallCommit {
		return
	}
	from := max(t.blank, t.used)
	n := min(max(segmentBytes/blankPart, smallCommit), segmentBytes-from)
	if n <= 0 {
		return
	}
	if _, err := t.file.WriteAt(make([]byte, n), from); err != nil {
		t.blank = 0 // the commit will tell what is wrong
		return
	}
	t.blank = from + n
}

// trim gives back what a segment has behind its last page, which nothing refers to.
func trim(path string, used int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(used), f.Close())
}

// write stores one commit: batches, then journal entries, both in the order of their keys.
func (t *tail) write(head *commitHead, epochOf func(seq uint64) uint64, batches []*Record, journal []journalPart) error {
	t.slab = t.slab[:0]
	need := 0
	for _, r := range batches {
		need += headerBytes + len(r.Bytes)
	}
	for _, j := range journal {
		need += headerBytes + journalBytes + len(j.entry.Bytes)
	}
	if cap(t.slab) < need { // in one piece: values must not move before the commit
		t.slab = make([]byte, 0, need+need/4)
	}
	return t.update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket(appendCommitHead(nil, head))
		if err != nil {
			return err
		}
		b.FillPercent = 1
		tx.Cursor().Bucket().FillPercent = 1 // of the root, which is in key order too
		for _, r := range batches {
			start := len(t.slab)
			t.slab = appendBatch(t.slab, r, epochOf(r.Seq), head.Commit)
			if err := b.Put(batchKey(r.Seq), t.slab[start:]); err != nil {
				return err
			}
		}
		for _, j := range journal {
			start := len(t.slab)
			t.slab = appendJournal(t.slab, j.entry, j.part, epochOf(j.entry.Seq), head.Commit)
			if err := b.Put(journalKey(j.entry.Seq, j.part), t.slab[start:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// close gives the file back. After a panic bbolt may hold its own locks for ever: then only the lock and the descriptor
// are taken from it, and its mapping stays until the process ends.
func (t *tail) close(why error) error {
	if !errors.Is(why, errPanicked) {
		if t.db == nil {
			return nil // bbolt.Open has cleaned up
		}
		return guard(t.db.Close)
	}
	if t.file == nil {
		return nil
	}
	_ = unix.Flock(int(t.file.Fd()), unix.LOCK_UN)
	return t.file.Close()
}

// cost is the room that a record of n bytes may take in a segment.
func cost(n int) int64 { return int64(n) + headerBytes + journalBytes + recordRoom }
