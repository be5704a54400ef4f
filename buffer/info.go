package buffer

// SegmentInfo describes one segment, for people and tools.
type SegmentInfo struct {
	Lane      Lane
	Number    uint64
	File      string // relative to the queue's folder
	Epoch     uint64
	Stored    uint64 // batches, released or not
	Batches   uint64 // not released
	Bytes     uint64 // of the stored batches
	Samples   uint64
	Seqs      []Range // stored
	Journal   []Range // seqs with journal entries that are still needed
	First     uint64  // commits
	Last      uint64
	FirstTime int64 // CLOCK_BOOTTIME ns of the first and the last sample, of whichever boot
	LastTime  int64
	FileBytes int64
	DiskBytes int64 // blocks
	Damaged   bool  // read record by record
}

// Segments lists the segments of all lanes, oldest first within each.
func (q *Queue) Segments() []SegmentInfo {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []SegmentInfo
	for _, l := range Lanes() {
		for _, s := range q.lanes[l].segments {
			list = append(list, SegmentInfo{
				Lane: l, Number: s.number, File: s.file(), Epoch: s.epoch, Stored: s.batches, Batches: s.live, Bytes: s.bytes,
				Samples: s.samples, Seqs: s.stored.Clone(), Journal: s.journal.Clone(), First: s.first, Last: s.last,
				FirstTime: s.firstTime, LastTime: s.lastTime, FileBytes: s.fileBytes, DiskBytes: s.disk, Damaged: s.salvaged,
			})
		}
	}
	return list
}
