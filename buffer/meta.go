package buffer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

const (
	metaName    = "meta"
	reserveName = "reserve" // gives meta room when the disk is full
	minReserve  = 64 << 10

	metaMagic = "WBQM"

	metaFlagClean  = 1 // the queue was closed properly after this was written
	metaFlagParent = 2 // the parent is still to be told

	segFlagClosed   = 1 // nothing was appended after this was written: what is said of the segment is all there is
	segFlagSalvaged = 2 // its structure is damaged; it is read record by record
	segFlagSpent    = 4 // batches of it were evicted: what of it is released is not given out again

	maxMeta = 64 << 20 // far above what a full queue needs
)

// errMeta: there is a meta file and it is not what was written.
var errMeta = errors.New("damaged meta file")

// epochStart is where an epoch begins in each lane. Numbers go on across epochs within one folder, so that one seq
// names one batch here.
type epochStart struct {
	Epoch uint64
	Start [laneCount + 1]uint64
}

// meta is the small file beside the segments: what they cannot say themselves because they are gone, and what would
// cost too much to find out by reading them all. It is replaced as a whole.
type meta struct {
	Generation uint64 // one more at every write
	Clean      bool
	LastCommit int64 // wall time, Unix ns; 0 = unknown
	Epochs     []epochStart
	HasParent  bool // Parent is returned by Open until the new epoch has its first control batch
	Parent     Parent
	Lanes      [laneCount + 1]metaLane
}

type metaLane struct {
	Next        uint64 // seq
	NextCommit  uint64
	NextSegment uint64
	Released    ranges.Set
	Segments    []metaSegment
}

// metaSegment is what is known of a segment at the time of writing.
type metaSegment struct {
	Number    uint64
	Epoch     uint64
	Closed    bool
	Salvaged  bool
	Spent     bool
	First     uint64 // commits
	Last      uint64
	FileBytes uint64
	Batches   uint64 // stored, released or not
	Bytes     uint64
	Samples   uint64
	FirstTime int64 // CLOCK_BOOTTIME ns
	LastTime  int64
	Stored    ranges.Set
	Journal   ranges.Set // seqs with journal entries that are not void
}

func appendSet(dst []byte, s ranges.Set) []byte {
	dst = be.AppendUint32(dst, uint32(len(s)))
	for _, r := range s {
		dst = be.AppendUint64(dst, r.First)
		dst = be.AppendUint64(dst, r.Last)
	}
	return dst
}

func flag(on bool, f uint32) uint32 {
	if on {
		return f
	}
	return 0
}

// appendMeta appends the file's bytes.
func appendMeta(dst []byte, m *meta) []byte {
	start := len(dst)
	dst = append(dst, metaMagic...)
	dst = be.AppendUint16(dst, formatVersion)
	dst = be.AppendUint16(dst, readerVersion)
	dst = be.AppendUint64(dst, m.Generation)
	dst = be.AppendUint32(dst, flag(m.Clean, metaFlagClean)|flag(m.HasParent, metaFlagParent))
	dst = be.AppendUint64(dst, uint64(m.LastCommit))
	dst = be.AppendUint64(dst, m.Parent.Epoch)
	for _, lane := range Lanes() {
		dst = be.AppendUint64(dst, m.Parent.Last[lane])
	}
	dst = be.AppendUint32(dst, uint32(len(m.Parent.Reason)))
	dst = append(dst, m.Parent.Reason...)
	dst = be.AppendUint32(dst, uint32(len(m.Epochs)))
	for _, e := range m.Epochs {
		dst = be.AppendUint64(dst, e.Epoch)
		for _, lane := range Lanes() {
			dst = be.AppendUint64(dst, e.Start[lane])
		}
	}
	for _, lane := range Lanes() {
		l := &m.Lanes[lane]
		dst = be.AppendUint64(dst, l.Next)
		dst = be.AppendUint64(dst, l.NextCommit)
		dst = be.AppendUint64(dst, l.NextSegment)
		dst = appendSet(dst, l.Released)
		dst = be.AppendUint32(dst, uint32(len(l.Segments)))
		for i := range l.Segments {
			dst = appendMetaSegment(dst, &l.Segments[i])
		}
	}
	return be.AppendUint32(dst, checksum(dst[start:]))
}

func appendMetaSegment(dst []byte, s *metaSegment) []byte {
	for _, v := range [...]uint64{s.Number, s.Epoch, uint64(flag(s.Closed, segFlagClosed) | flag(s.Salvaged, segFlagSalvaged) | flag(s.Spent, segFlagSpent)),
		s.First, s.Last, s.FileBytes, s.Batches, s.Bytes, s.Samples, uint64(s.FirstTime), uint64(s.LastTime)} {
		dst = be.AppendUint64(dst, v)
	}
	dst = appendSet(dst, s.Stored)
	return appendSet(dst, s.Journal)
}

// metaReader takes integers off a slice; after the first one that is missing it gives zeros and remembers.
type metaReader struct {
	b   []byte
	bad bool
}

func (r *metaReader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *metaReader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return be.Uint32(b)
	}
	return 0
}

func (r *metaReader) u64() uint64 {
	if b := r.bytes(8); b != nil {
		return be.Uint64(b)
	}
	return 0
}

// count reads the length of a list whose entries take at least size bytes.
func (r *metaReader) count(size int) int {
	n := uint64(r.u32())
	if n*uint64(size) > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *metaReader) set() ranges.Set {
	var s ranges.Set
	for range r.count(16) {
		first, last := r.u64(), r.u64()
		if first > last || len(s) > 0 && first <= s[len(s)-1].Last {
			r.bad = true
			return nil
		}
		s = append(s, Range{First: first, Last: last})
	}
	return s
}

// parseMeta reads a meta file's bytes.
func parseMeta(b []byte) (*meta, error) {
	if len(b) < 12 || string(b[:4]) != metaMagic || !summed(b) {
		return nil, fmt.Errorf("%w: checksum", errMeta)
	}
	if reader := be.Uint16(b[6:]); reader > formatVersion {
		return nil, fmt.Errorf("%w: needs format %d, this version reads %d", ErrNewerFormat, reader, formatVersion)
	}
	r := &metaReader{b: b[8 : len(b)-4]}
	m := &meta{Generation: r.u64()}
	flags := r.u32()
	m.Clean, m.HasParent = flags&metaFlagClean != 0, flags&metaFlagParent != 0
	m.LastCommit = int64(r.u64())
	m.Parent = Parent{Epoch: r.u64(), Last: map[Lane]uint64{}}
	for _, lane := range Lanes() {
		m.Parent.Last[lane] = r.u64()
	}
	m.Parent.Reason = string(r.bytes(r.count(1)))
	for range r.count(8 * (laneCount + 1)) {
		e := epochStart{Epoch: r.u64()}
		for _, lane := range Lanes() {
			e.Start[lane] = r.u64()
		}
		m.Epochs = append(m.Epochs, e)
	}
	for _, lane := range Lanes() {
		l := &m.Lanes[lane]
		l.Next, l.NextCommit, l.NextSegment, l.Released = r.u64(), r.u64(), r.u64(), r.set()
		for range r.count(11 * 8) {
			l.Segments = append(l.Segments, r.segment())
		}
	}
	if r.bad || len(r.b) != 0 || len(m.Epochs) == 0 {
		return nil, fmt.Errorf("%w: contents", errMeta)
	}
	return m, nil
}

func (r *metaReader) segment() metaSegment {
	s := metaSegment{Number: r.u64(), Epoch: r.u64()}
	flags := uint32(r.u64())
	s.Closed, s.Salvaged, s.Spent = flags&segFlagClosed != 0, flags&segFlagSalvaged != 0, flags&segFlagSpent != 0
	s.First, s.Last, s.FileBytes = r.u64(), r.u64(), r.u64()
	s.Batches, s.Bytes, s.Samples = r.u64(), r.u64(), r.u64()
	s.FirstTime, s.LastTime = int64(r.u64()), int64(r.u64())
	s.Stored, s.Journal = r.set(), r.set()
	return s
}

// readMeta reads the folder's meta file: fs.ErrNotExist, errMeta, ErrNewerFormat, or the disk's error.
func readMeta(dir string) (*meta, error) {
	path := filepath.Join(dir, metaName)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxMeta {
		return nil, fmt.Errorf("%w: %d bytes", errMeta, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := parseMeta(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// replaceFile puts contents at dir/name so that after a power cut there is the old file or the new one, whole.
func replaceFile(dir, name string, contents []byte) error {
	tmp := filepath.Join(dir, name+tmpSuffix)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(contents)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err == nil {
		return syncDir(dir)
	}
	os.Remove(tmp) // what cannot be removed now goes at the next Open
	return err
}

// syncDir makes a folder's entries durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// exists says whether a path is there; when in doubt it is.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
