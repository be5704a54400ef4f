package buffer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/buffer/internal/boltfile"
	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// contents is what reading a segment from end to end tells.
type contents struct {
	head     segmentHead
	salvaged bool // found record by record; damage says why
	damage   string
	used     int64 // where the pages end that its state may refer to

	first, last uint64 // commits that count
	end         uint64 // the last one in the file
	batches     []placed
	journal     []journaled
	released    [laneCount + 1]ranges.Set
}

// journaled says that a commit holds journal entries of a seq.
type journaled struct {
	seq    uint64
	commit uint64
	at     int64 // offset of the one entry, 0 = look commit and seq up
}

// errMoved: the file was committed to while it was read.
var errMoved = errors.New("the segment changes while it is read")

// isDamage tells broken bytes from a disk that does not answer. EIO is the disk saying that the bytes are gone.
func isDamage(err error) bool {
	return errors.Is(err, boltfile.ErrDamaged) || errors.Is(err, errRecord) || errors.Is(err, syscall.EIO)
}

// wanted says which segment is to be read, and what of it counts.
type wanted struct {
	lane     Lane
	number   uint64
	last     uint64                  // commits above it do not count; 0 = all do
	salvaged bool                    // its structure is known to be damaged: record by record
	ours     func(epoch uint64) bool // nil = every epoch is
}

// isOurs says whether records of an epoch are this queue's.
func (w *wanted) isOurs(epoch uint64) bool { return w.ours == nil || w.ours(epoch) }

// loadSegment reads what a segment holds, from the names of its buckets; batches are looked at when they are needed.
// A damaged one is salvaged: then contents.salvaged is set and err is nil. One that is written to by another
// process, which commits about once a second, is read again until it holds still.
func loadSegment(path string, w wanted) (c *contents, err error) {
	for range 100 {
		if c, err = loadOnce(path, w); !errors.Is(err, errMoved) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return c, err
}

func loadOnce(path string, w wanted) (*contents, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if w.salvaged {
		return salvage(f, info.Size(), w, "")
	}
	c, err := walkSegment(f, info.Size(), w)
	if err == nil || !isDamage(err) {
		return c, err
	}
	return salvage(f, info.Size(), w, err.Error())
}

// walkSegment reads a segment by its structure. errMoved: again.
func walkSegment(f io.ReaderAt, size int64, w wanted) (*contents, error) {
	snap, err := boltfile.Open(f, size)
	if err != nil {
		return nil, err
	}
	if !snap.BothMetas { // the newest commit may be gone, or only the way to it
		return nil, fmt.Errorf("%w: one of the two meta pages", errRecord)
	}
	c := &contents{used: snap.Used()}
	err = c.walk(snap, w.last)
	if err != nil && !errors.Is(err, ErrNewerFormat) && snap.Moved() {
		return nil, errMoved
	}
	if err == nil && snap.Moved() {
		return nil, errMoved
	}
	if err != nil {
		return nil, err
	}
	if c.head.Lane != w.lane || c.head.Number != w.number {
		return nil, fmt.Errorf("%w: the file calls itself segment %d of lane %s", errRecord, c.head.Number, c.head.Lane)
	}
	if !w.isOurs(c.head.Epoch) {
		return nil, fmt.Errorf("%w: the file is of epoch %016x, which is none of this queue's", errRecord, c.head.Epoch)
	}
	// The head is transaction 2, and each commit is one more: a page that stands in for a newer one shows here.
	if commits := snap.Transaction() - 2; c.end-c.first+1 != commits {
		return nil, fmt.Errorf("%w: %d commits where there were %d", errRecord, c.end-c.first+1, commits)
	}
	return c, nil
}

func (c *contents) walk(snap *boltfile.Snapshot, last uint64) error {
	seenHead := false
	err := snap.Buckets(func(name []byte, b boltfile.Bucket) error {
		if !seenHead {
			seenHead = true
			if string(name) != string(segmentName) {
				return fmt.Errorf("%w: no segment head", errRecord)
			}
			return c.readHead(snap, b)
		}
		head, err := parseCommitHead(name)
		if err != nil {
			return err
		}
		commit := head.Commit
		if want := c.head.First; c.last == 0 && commit != want || c.last != 0 && commit != c.last+1 {
			return fmt.Errorf("%w: commit %d after %d", errRecord, commit, c.last)
		}
		if last != 0 && commit > last {
			c.last = commit // so that the chain still holds
			return nil
		}
		c.last = commit
		return c.take(&head)
	})
	if err == nil && !seenHead {
		return fmt.Errorf("%w: no segment head", errRecord)
	}
	c.first = c.head.First
	if c.last == 0 {
		c.last = c.first - 1 // none yet
	}
	c.end = c.last
	if last != 0 {
		c.last = min(c.last, last)
	}
	return err
}

// readSegmentHead reads only a segment's head.
func readSegmentHead(path string) (segmentHead, error) {
	f, err := os.Open(path)
	if err != nil {
		return segmentHead{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return segmentHead{}, err
	}
	snap, err := boltfile.Open(f, info.Size())
	if err != nil {
		return segmentHead{}, err
	}
	b, _, ok, err := snap.Bucket(segmentName)
	if err == nil && !ok {
		err = fmt.Errorf("%w: no segment head", errRecord)
	}
	if err != nil {
		return segmentHead{}, err
	}
	var c contents
	err = c.readHead(snap, b)
	return c.head, err
}

func (c *contents) readHead(snap *boltfile.Snapshot, b boltfile.Bucket) error {
	v, ok, err := b.Find(headKey)
	if err == nil && !ok {
		err = fmt.Errorf("%w: no segment head", errRecord)
	}
	if err != nil {
		return err
	}
	var buf [256]byte
	head, err := snap.ReadPrefix(v, buf[:])
	if err != nil {
		return err
	}
	c.head, err = parseSegmentHead(head)
	return err
}

// take takes in what a commit's name lists.
func (c *contents) take(head *commitHead) error {
	if head.Lane != c.head.Lane || head.Epoch != c.head.Epoch {
		return fmt.Errorf("%w: commit %d is of lane %s, epoch %x", errRecord, head.Commit, head.Lane, head.Epoch)
	}
	for _, b := range head.Batches {
		c.batches = append(c.batches, placed{listed: b, commit: head.Commit})
	}
	for _, r := range head.Journal {
		if r.Count() > maxCommitJournal {
			return fmt.Errorf("%w: commit %d journals %d seqs", errRecord, head.Commit, r.Count())
		}
		for i := range r.Count() {
			c.journal = append(c.journal, journaled{seq: r.First + i, commit: head.Commit})
		}
	}
	for lane := range head.Released {
		c.released[lane].AddSet(head.Released[lane])
	}
	return nil
}

// readBatch reads and checks one batch of a segment.
func readBatch(path string, e entry) (header, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return header{}, nil, err
	}
	defer f.Close()
	var value []byte
	if e.at != 0 {
		value = make([]byte, headerBytes+int(e.length))
		if n, err := f.ReadAt(value, e.at); n < len(value) {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: the file ends", errRecord)
			}
			return header{}, value[:n], err
		}
	} else {
		if value, err = lookUp(f, e); err != nil {
			return header{}, nil, err
		}
	}
	h, body, err := openRecord(value)
	if err == nil && (h.Kind != kindBatch || h.Seq != e.seq || h.Commit != e.commit) {
		return header{}, value, fmt.Errorf("%w: batch %d of commit %d stands where %d of %d should be",
			errRecord, h.Seq, h.Commit, e.seq, e.commit)
	}
	if err != nil {
		return h, value, err
	}
	return h, body, nil
}

// openCommit finds a commit's bucket.
func openCommit(f *os.File, commit uint64) (*boltfile.Snapshot, boltfile.Bucket, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, boltfile.Bucket{}, err
	}
	snap, err := boltfile.Open(f, info.Size())
	if err != nil {
		return nil, boltfile.Bucket{}, err
	}
	b, _, ok, err := snap.Bucket(commitPrefix(commit))
	if err == nil && !ok {
		err = fmt.Errorf("%w: commit %d is not there", errRecord, commit)
	}
	return snap, b, err
}

func lookUp(f *os.File, e entry) ([]byte, error) {
	snap, b, err := openCommit(f, e.commit)
	if err != nil {
		return nil, err
	}
	v, ok, err := b.Find(batchKey(e.seq))
	if err == nil && (!ok || v.Size != headerBytes+int64(e.length)) {
		err = fmt.Errorf("%w: batch %d is not in commit %d", errRecord, e.seq, e.commit)
	}
	if err != nil {
		return nil, err
	}
	return snap.Read(v)
}

// readJournal reads the journal entries of one seq in one commit.
func readJournal(path string, j journaled) (list []journalRead, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var values [][]byte
	if j.at != 0 {
		value := make([]byte, headerBytes)
		if _, err := f.ReadAt(value, j.at); err != nil {
			return nil, fmt.Errorf("%w: %w", errRecord, err)
		}
		h, err := parseHeader(value)
		if err != nil {
			return nil, err
		}
		value = append(value, make([]byte, h.Length)...)
		if _, err := f.ReadAt(value[headerBytes:], j.at+headerBytes); err != nil {
			return nil, fmt.Errorf("%w: %w", errRecord, err)
		}
		values = append(values, value)
	} else {
		snap, b, err := openCommit(f, j.commit)
		if err != nil {
			return nil, err
		}
		err = b.Each(func(key []byte, v boltfile.Value) error {
			if len(key) != journalKeyBytes || key[0] != kindJournal || be.Uint64(key[1:]) != j.seq {
				return nil
			}
			value, err := snap.Read(v)
			values = append(values, value)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, value := range values {
		h, body, err := openRecord(value)
		if err == nil && (h.Kind != kindJournal || h.Seq != j.seq || h.Commit != j.commit) {
			err = fmt.Errorf("%w: another record in its place", errRecord)
		}
		if err != nil {
			return list, err
		}
		var r journalRead
		r.entry, r.part = parseJournal(h, body)
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no journal entry of %d in commit %d", errRecord, j.seq, j.commit)
	}
	return list, nil
}

// blocks is what a file occupies on disk, in bytes.
func blocks(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
