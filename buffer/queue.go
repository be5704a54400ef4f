package buffer

import (
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// Queue is an open queue. It is safe for use from several goroutines; make it with Open. It runs no goroutine.
//
// commitMu stands around everything that writes to the folder and is held during disk writes; mu guards what is in
// memory and is never held during disk input or output. commitMu is taken first.
type Queue struct {
	dir      string
	o        Options
	log      *slog.Logger
	lockFile *os.File
	notify   chan struct{}
	metrics  *metrics

	commitMu   sync.Mutex
	tails      [laneCount + 1]*tail
	generation uint64 // of the meta file on disk
	metaDue    bool   // meta must be written before anything is committed
	untaken    bool   // there was no folder, and the disk would not have one made: nothing is on disk, nothing is locked
	reserveErr error  // why there is no reserve; then nothing but meta may take room
	evicting   *pendingEviction
	needed     int64 // room that the commit under way may take

	mu         sync.Mutex
	closed     bool
	clean      bool
	lanes      [laneCount + 1]lane
	epochs     []epochStart // the last one is the current
	sure       bool         // meta was whole at Open: there are no epochs but these
	hasParent  bool
	parent     Parent
	recovered  []JournalEntry
	unsaved    [laneCount + 1]ranges.Set // released and not on disk yet
	waited     bool                      // some of that since before the last SyncLate
	loaded     []*segment                // closed segments whose index is in memory, least recently loaded first
	damaged    uint64
	lastCommit time.Time
}

// lane is guarded by Queue.mu.
type lane struct {
	next        uint64 // seq
	nextCommit  uint64
	nextSegment uint64
	newest      uint64 // highest seq stored
	segments    []*segment
	released    ranges.Set        // every seq below next that nobody waits for
	parts       map[uint64]uint32 // confirmed journal entries of each seq that is not sealed

	evicted, thinned uint64 // batches, since Open
}

// journalPart is a journal entry and its place among those of its seq.
type journalPart struct {
	entry *JournalEntry
	part  uint32
}

// Epoch is the current epoch.
func (q *Queue) Epoch() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.epochs[len(q.epochs)-1].Epoch
}

// Parent tells the epoch before; ok while the current epoch has no control batch yet, so that the record of its
// beginning can be made again after a crash.
func (q *Queue) Parent() (p Parent, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.parent, q.hasParent
}

// CleanStop says whether the last process closed the queue properly; true for a new queue.
func (q *Queue) CleanStop() bool { return q.clean }

// Recovered lists the journal entries that Open found and that are not void: their seq is neither stored nor released.
// They come in the order of lane, seq and writing. The caller seals them under their own epoch and seq and commits them.
func (q *Queue) Recovered() []JournalEntry { return q.recovered }

// Notify gets a value when batches were committed; its capacity is 1.
func (q *Queue) Notify() <-chan struct{} { return q.notify }

// Reserve gives the next sequence number of a lane. A number that never reached the disk may be given again after a
// crash; one that did, in a batch or in a journal entry, is not.
func (q *Queue) Reserve(l Lane) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !l.Valid() {
		return 0 // Commit refuses it
	}
	seq := q.lanes[l].next
	q.lanes[l].next++
	return seq
}

// epochOfLocked is the epoch that a seq belongs to.
func (q *Queue) epochOfLocked(l Lane, seq uint64) uint64 {
	for i := len(q.epochs) - 1; i > 0; i-- {
		if q.epochs[i].Start[l] <= seq {
			return q.epochs[i].Epoch
		}
	}
	return q.epochs[0].Epoch
}

// durableNextLocked is the first number that nothing on the disk bears, and so the one to go on with after a crash. A
// number that was only given out must not count: skipped at the next start, it would be missing at the receiver, and
// nothing would say why.
func (l *lane) durableNextLocked() uint64 {
	next := max(l.newest, l.released.Max()) + 1
	for seq := range l.parts {
		next = max(next, seq+1)
	}
	return next
}

// Stored says whether a batch is stored, or was and is released: also by a Commit that failed behind it.
func (q *Queue) Stored(l Lane, seq uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return l.Valid() && q.lanes[l].storedLocked(seq)
}

// storedLocked says whether a seq needs no storing: it is stored, or was.
func (l *lane) storedLocked(seq uint64) bool {
	if l.released.Contains(seq) {
		return true
	}
	for i := len(l.segments) - 1; i >= 0; i-- {
		if l.segments[i].stored.Contains(seq) {
			return true
		}
	}
	return false
}

// Stats tells what the queue holds.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	st := Stats{Lanes: map[Lane]LaneStats{}, Damaged: q.damaged, LastCommit: q.lastCommit}
	for _, l := range Lanes() {
		ln := &q.lanes[l]
		s := LaneStats{Newest: ln.newest, Next: ln.next, Segments: len(ln.segments), Evicted: ln.evicted, Thinned: ln.thinned}
		for _, seg := range ln.segments {
			s.Batches += seg.live
			s.Bytes += seg.liveBytes
			st.DiskBytes += seg.disk
			if seg.live == 0 {
				continue
			}
			if seq, ok := seg.stored.NextOutside(0, ln.released); ok && (s.Oldest == 0 || seq < s.Oldest) {
				s.Oldest = seq
			}
		}
		st.Lanes[l] = s
	}
	return st
}
