package buffer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/waybill-telematics/waybill/buffer/internal/boltfile"
	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// contents is what reading a segment from end to end tells.
type contents struct {
	head     segmentHead
	salvaged bool // found record by record; damage says why
	damage   string
	provable bool // the newest commit that was confirmed is surely there

	first, last uint64 // commits
	batches     []placed
	journal     []placed
	released    [laneCount + 1]ranges.Set
}

// placed is a record and where it lies.
type placed struct {
	header
	at int64
}

// errMoved: the file was committed to while it was read.
var errMoved = errors.New("the segment changes while it is read")

// isDamage tells broken bytes from a disk that does not answer. EIO is the disk saying that the bytes are gone.
func isDamage(err error) bool {
	return errors.Is(err, boltfile.ErrDamaged) || errors.Is(err, errRecord) || errors.Is(err, syscall.EIO)
}

// loadSegment reads a whole segment: every header, not the bytes behind them. Commits above last do not count (0 = all
// do). A damaged one is salvaged: then contents.salvaged is set and err is nil.
func loadSegment(path string, lane Lane, number, last uint64) (*contents, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	c, err := walkSegment(f, info.Size(), lane, number, last)
	if err == nil || !isDamage(err) {
		return c, err
	}
	return salvage(f, info.Size(), lane, number, last, err.Error())
}

// walkSegment reads a segment by its structure. errMoved: again.
func walkSegment(f io.ReaderAt, size int64, lane Lane, number, last uint64) (*contents, error) {
	snap, err := boltfile.Open(f, size)
	if err != nil {
		return nil, err
	}
	c := &contents{provable: snap.BothMetas}
	err = c.walk(snap, last)
	if err != nil && !errors.Is(err, ErrNewerFormat) && snap.Moved() {
		return nil, errMoved
	}
	if err == nil && snap.Moved() {
		return nil, errMoved
	}
	if err != nil {
		return nil, err
	}
	if c.head.Lane != lane || c.head.Number != number {
		return nil, fmt.Errorf("%w: the file calls itself segment %d of lane %s", errRecord, c.head.Number, c.head.Lane)
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
		if len(name) != 8 {
			return fmt.Errorf("%w: a bucket of name %x", errRecord, name)
		}
		commit := be.Uint64(name)
		if want := c.head.First; c.last == 0 && commit != want || c.last != 0 && commit != c.last+1 {
			return fmt.Errorf("%w: commit %d after %d", errRecord, commit, c.last)
		}
		if last != 0 && commit > last {
			c.last = commit // so that the chain still holds
			return nil
		}
		c.last = commit
		return c.readCommit(snap, b, commit)
	})
	if err == nil && !seenHead {
		return fmt.Errorf("%w: no segment head", errRecord)
	}
	c.first = c.head.First
	if last != 0 {
		c.last = min(c.last, last)
	}
	if c.last == 0 {
		c.last = c.first - 1 // none yet
	}
	return err
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

// readCommit takes in one commit's bucket and holds it to its head.
func (c *contents) readCommit(snap *boltfile.Snapshot, b boltfile.Bucket, commit uint64) error {
	var head commitHead
	first := true
	var batches, journal uint32
	err := b.Each(func(key []byte, v boltfile.Value) error {
		if first {
			first = false
			if string(key) != string(headKey) || v.Size > 1<<20 {
				return fmt.Errorf("%w: commit %d has no head", errRecord, commit)
			}
			value, err := snap.Read(v)
			if err == nil {
				head, err = parseCommitHead(value)
			}
			return err
		}
		var buf [headerBytes]byte
		value, err := snap.ReadPrefix(v, buf[:])
		if err != nil {
			return err
		}
		h, err := parseHeader(value)
		if err != nil {
			return fmt.Errorf("commit %d: %w", commit, err)
		}
		if h.Commit != commit || h.Lane != c.head.Lane || int64(h.Length)+headerBytes != v.Size {
			return fmt.Errorf("%w: commit %d holds a record of commit %d", errRecord, commit, h.Commit)
		}
		p := placed{header: h, at: v.Offset}
		switch {
		case h.Kind == kindBatch && string(key) == string(batchKey(h.Seq)):
			batches++
			c.batches = append(c.batches, p)
		case h.Kind == kindJournal && len(key) == journalKeyBytes && be.Uint64(key[1:]) == h.Seq:
			journal++
			c.journal = append(c.journal, p)
		default:
			return fmt.Errorf("%w: commit %d: key %x", errRecord, commit, key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if first || head.Commit != commit || head.Lane != c.head.Lane || head.Batches != batches || head.Journal != journal {
		return fmt.Errorf("%w: commit %d: %d batches and %d journal entries, its head says %d and %d",
			errRecord, commit, batches, journal, head.Batches, head.Journal)
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
			if err == io.EOF {
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

func lookUp(f *os.File, e entry) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	snap, err := boltfile.Open(f, info.Size())
	if err != nil {
		return nil, err
	}
	b, ok, err := snap.Bucket(commitName(e.commit))
	if err == nil && !ok {
		err = fmt.Errorf("%w: commit %d is not there", errRecord, e.commit)
	}
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

// blocks is what a file occupies on disk, in bytes.
func blocks(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512
	}
	return info.Size()
}
