package buffer

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

const (
	segmentSuffix = ".seg"
	tmpSuffix     = ".tmp"

	// maxBatches closes a segment of many small batches, so that its index stays below 200 KB.
	maxBatches = 6000
)

// segment is one file of a lane. Its fields are guarded by Queue.mu.
type segment struct {
	lane   Lane
	number uint64
	epoch  uint64 // in which it was made
	path   string

	closed   bool // nothing is appended any more
	salvaged bool // its structure is damaged; entries hold offsets
	first    uint64
	last     uint64 // confirmed commit; what the file holds beyond it does not count

	stored  ranges.Set // seqs of the batches in it
	lost    ranges.Set // of those, what could not be read; not known any more after a restart
	journal ranges.Set // seqs with journal entries in it that are not void

	batches, bytes, samples uint64
	firstTime, lastTime     int64
	live, liveBytes         uint64 // not released

	freed   time.Time // when nothing of it was needed any more, as far as known
	expired bool      // it is not kept any longer
	spent   bool      // batches of it were evicted: what of it is released is not kept, nor given out again

	fileBytes int64
	disk      int64   // bytes of blocks
	index     []entry // by seq; nil = not in memory
}

// entry says where a batch is.
type entry struct {
	seq    uint64
	commit uint64
	at     int64 // offset in the file, 0 = look commit and seq up
	length uint32
}

func segmentFile(number uint64) string { return fmt.Sprintf("%012d%s", number, segmentSuffix) }

// segmentNumber reads a file's name; ok is false for anything else.
func segmentNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 12 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

// file is the segment's name relative to the queue's folder.
func (s *segment) file() string { return filepath.Join(s.lane.String(), filepath.Base(s.path)) }

// find gives the entry of a seq.
func (s *segment) find(seq uint64) (entry, bool) {
	i, ok := slices.BinarySearchFunc(s.index, seq, func(e entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	if !ok {
		return entry{}, false
	}
	return s.index[i], true
}

// free says whether nothing in the segment is needed any more.
func (s *segment) free() bool { return s.live == 0 && len(s.journal) == 0 }

// release takes the batches of r that this segment holds off its live ones. released is the lane's set before r.
func (s *segment) release(r Range, released ranges.Set) ranges.Set {
	fresh := s.stored.Within(r)
	fresh.RemoveSet(released)
	n := fresh.Count()
	if n == 0 {
		return nil
	}
	gone := s.liveBytes
	if n < s.live {
		gone = s.sizeOf(fresh, n)
	}
	s.live -= min(n, s.live)
	s.liveBytes -= min(gone, s.liveBytes)
	return fresh
}

// sizeOf is the bytes of some live batches: exact with the index in memory, else in proportion.
func (s *segment) sizeOf(set ranges.Set, n uint64) uint64 {
	if s.index == nil {
		return s.liveBytes / s.live * n
	}
	var sum uint64
	for _, r := range set {
		i, _ := slices.BinarySearchFunc(s.index, r.First, func(e entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
		for ; i < len(s.index) && s.index[i].seq <= r.Last; i++ {
			sum += uint64(s.index[i].length)
		}
	}
	return sum
}

// measure reads the file's size and blocks; mu is Queue.mu, not held.
func (s *segment) measure(mu *sync.Mutex) error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	mu.Lock()
	s.fileBytes, s.disk = info.Size(), blocks(info)
	mu.Unlock()
	return nil
}

// summary is what meta keeps of a segment.
func (s *segment) summary() metaSegment {
	return metaSegment{
		Number: s.number, Epoch: s.epoch, Closed: s.closed, Salvaged: s.salvaged, Spent: s.spent, First: s.first, Last: s.last,
		FileBytes: uint64(s.fileBytes), Batches: s.batches, Bytes: s.bytes, Samples: s.samples,
		FirstTime: s.firstTime, LastTime: s.lastTime, Stored: s.stored.Clone(), Journal: s.journal.Clone(),
	}
}

// fromSummary is the reverse; live is worked out by the caller, who knows what is released.
func fromSummary(dir string, lane Lane, m metaSegment) *segment {
	return &segment{
		lane: lane, number: m.Number, epoch: m.Epoch, path: filepath.Join(dir, lane.String(), segmentFile(m.Number)),
		closed: true, salvaged: m.Salvaged, spent: m.Spent, first: m.First, last: m.Last,
		stored: m.Stored, journal: m.Journal, batches: m.Batches, bytes: m.Bytes, samples: m.Samples,
		firstTime: m.FirstTime, lastTime: m.LastTime, fileBytes: int64(m.FileBytes),
	}
}

// placed is a batch and where it is.
type placed struct {
	listed
	commit uint64
	at     int64 // offset in the file, 0 = look commit and seq up
}

// add counts a batch in.
func (s *segment) add(p placed) {
	if s.batches == 0 || p.First < s.firstTime {
		s.firstTime = p.First
	}
	if s.batches == 0 || p.Last > s.lastTime {
		s.lastTime = p.Last
	}
	s.stored.Add(Range{First: p.Seq, Last: p.Seq})
	s.batches++
	s.bytes += uint64(p.Length)
	s.samples += uint64(p.Samples)
	e := entry{seq: p.Seq, commit: p.commit, at: p.at, length: p.Length}
	if n := len(s.index); n == 0 || s.index[n-1].seq < e.seq {
		s.index = append(s.index, e)
		return
	}
	i, there := slices.BinarySearchFunc(s.index, e.seq, func(e entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	if there {
		s.index[i] = e
		return
	}
	s.index = slices.Insert(s.index, i, e)
}
