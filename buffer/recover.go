package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// settle decides on the epoch.
func (op *opening) settle() error {
	q := op.q
	for _, h := range op.heads {
		q.generation = max(q.generation, h.Generation) // a new meta is newer than every segment
	}
	if op.meta != nil {
		q.epochs, q.sure = op.meta.Epochs, true
		q.hasParent, q.parent = op.meta.HasParent, op.meta.Parent
	} else {
		op.epochsFromSegments()
	}
	if len(op.reasons) > 0 || op.empty {
		q.clean = op.empty
	}
	if q.o.NewEpoch != "" && !op.empty {
		op.suspect("%s", q.o.NewEpoch)
	}
	if q.o.ReadOnly {
		if len(q.epochs) == 0 {
			q.epochs = []epochStart{{}}
		}
		for _, why := range op.reasons {
			op.damage = append(op.damage, Damage{File: metaName, Reason: why + ": a new epoch begins at the next start"})
		}
		return nil
	}
	if len(op.reasons) == 0 && len(q.epochs) > 0 {
		return nil
	}
	q.parent = Parent{Last: map[Lane]uint64{}, Reason: strings.Join(op.reasons, "; ")}
	if op.empty {
		q.parent.Reason = "new queue"
	}
	begin := epochStart{}
	for _, l := range Lanes() {
		q.parent.Last[l] = q.lanes[l].next - 1
		begin.Start[l] = q.lanes[l].next
	}
	if n := len(q.epochs); n > 0 {
		q.parent.Epoch = q.epochs[n-1].Epoch
	}
	for tries := 0; begin.Epoch == 0 || begin.Epoch == q.parent.Epoch; tries++ {
		if tries == 8 {
			return errors.New("queue: making an epoch: the source of randomness gives the same number again and again")
		}
		var b [8]byte
		if _, err := io.ReadFull(q.o.Rand, b[:]); err != nil {
			return fmt.Errorf("queue: making an epoch: %w", err)
		}
		begin.Epoch = be.Uint64(b[:])
	}
	q.hasParent = true
	q.epochs = append(q.epochs, begin)
	if !op.empty {
		q.log.Error("queue: a new epoch begins", "reason", q.parent.Reason, "parent", q.parent.Epoch)
	}
	return nil
}

// epochsFromSegments puts the epochs together when meta is gone.
func (op *opening) epochsFromSegments() {
	slices.SortStableFunc(op.heads, func(a, b segmentHead) int { return cmp.Compare(a.Generation, b.Generation) })
	q := op.q
	for _, h := range op.heads {
		i := slices.IndexFunc(q.epochs, func(e epochStart) bool { return e.Epoch == h.Epoch })
		if i < 0 {
			i = len(q.epochs)
			q.epochs = append(q.epochs, epochStart{Epoch: h.Epoch})
		}
		for _, s := range q.lanes[h.Lane].segments {
			if s.number != h.Number {
				continue
			}
			for _, first := range [...]uint64{s.firstOf(h.Epoch), op.firstJournaled(s, h.Epoch)} {
				if start := &q.epochs[i].Start[h.Lane]; first != 0 && (*start == 0 || first < *start) {
					*start = first
				}
			}
		}
	}
	// A lane of which an epoch has no segment gets none of the seqs: the next epoch begins at once.
	for i := len(q.epochs) - 1; i >= 0; i-- {
		for _, l := range Lanes() {
			if q.epochs[i].Start[l] != 0 {
				continue
			}
			q.epochs[i].Start[l] = q.lanes[l].next
			if i+1 < len(q.epochs) {
				q.epochs[i].Start[l] = q.epochs[i+1].Start[l]
			}
		}
	}
}

// among says whether an epoch is one of a list.
func among(list []epochStart) func(epoch uint64) bool {
	list = slices.Clone(list)
	return func(epoch uint64) bool {
		return slices.ContainsFunc(list, func(e epochStart) bool { return e.Epoch == epoch })
	}
}

// ours is what a segment's epoch may be: meta, when it is whole, names them all.
func (op *opening) ours() func(epoch uint64) bool {
	if op.meta == nil {
		return nil
	}
	return among(op.meta.Epochs)
}

// firstOf is the lowest seq of an epoch among the segment's batches, 0 = none. Those below it were sealed from the
// journal of an older epoch and keep theirs. What cannot be read counts as of the epoch.
func (s *segment) firstOf(epoch uint64) uint64 {
	for _, e := range s.index {
		if h, _, err := readBatch(s.path, e); err != nil || h.Epoch == epoch {
			return e.seq
		}
	}
	return 0
}

// firstJournaled is firstOf for the segment's journal entries.
func (op *opening) firstJournaled(s *segment, epoch uint64) (first uint64) {
	for _, j := range op.journal[s.lane] {
		if j.seg != s || first != 0 && j.seq >= first {
			continue
		}
		if read, err := readJournal(s.path, j.journaled); err != nil || read[0].entry.Epoch == epoch {
			first = j.seq
		}
	}
	return first
}

// recover reads the journal entries that are not void.
func (op *opening) recover() {
	q := op.q
	for _, l := range Lanes() {
		ln := &q.lanes[l]
		list := op.journal[l]
		slices.SortStableFunc(list, func(a, b placedJournal) int {
			return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.commit, b.commit))
		})
		// Entry number p of a seq replaces what an earlier commit wrote from p on: that was a call that failed and was
		// made again.
		var entries []journalRead
		for _, j := range list {
			if ln.storedLocked(j.seq) {
				continue
			}
			read, err := readJournal(j.seg.path, j.journaled)
			if err != nil && j.at == 0 {
				read, err = salvageJournal(j, op.ours(), err)
			}
			if err != nil {
				q.mu.Lock()
				epoch := q.epochOfLocked(l, j.seq)
				q.mu.Unlock()
				op.damage = append(op.damage, Damage{
					Lane: l, Epoch: epoch, Seqs: []Range{{First: j.seq, Last: j.seq}}, Journal: true, File: j.seg.file(),
					Reason: "journal entry: " + err.Error(),
				})
			}
			for _, r := range read {
				op.noHole(j, entries, r)
				n := len(entries)
				for n > 0 && entries[n-1].entry.Seq == j.seq && entries[n-1].part >= r.part {
					n--
				}
				entries = append(entries[:n], r)
			}
		}
		for _, d := range op.journalGone[l] {
			seqs := ranges.Set(d.Seqs)
			for _, s := range ln.segments {
				seqs.RemoveSet(s.stored)
			}
			seqs.RemoveSet(ln.released)
			if d.Seqs = seqs; len(seqs) > 0 {
				op.damage = append(op.damage, d)
			}
		}
		for _, e := range entries {
			q.recovered = append(q.recovered, e.entry)
			ln.parts[e.entry.Seq] = e.part + 1
		}
		for _, s := range ln.segments {
			for _, r := range s.journal.Clone() {
				for seq := r.First; ; seq++ {
					if _, needed := ln.parts[seq]; !needed {
						s.journal.Remove(Range{First: seq, Last: seq})
					}
					if seq == r.Last {
						break
					}
				}
			}
		}
	}
}

// noHole reports that the entries between those that were read of a seq so far and one more are not there. A part that
// was there comes again after a commit that failed, so only what is above all of them tells.
func (op *opening) noHole(j placedJournal, entries []journalRead, next journalRead) {
	want := uint32(0)
	if n := len(entries); n > 0 && entries[n-1].entry.Seq == j.seq {
		want = entries[n-1].part + 1
	}
	if next.part <= want {
		return
	}
	op.damage = append(op.damage, Damage{
		Lane: j.seg.lane, Epoch: next.entry.Epoch, Seqs: []Range{{First: j.seq, Last: j.seq}}, Journal: true, File: j.seg.file(),
		Reason: fmt.Sprintf("journal entries %d to %d are not there", want, next.part-1),
	})
}

// salvageJournal looks for the journal entries of a seq in a commit that cannot be read by its structure.
func salvageJournal(j placedJournal, ours func(uint64) bool, why error) (list []journalRead, err error) {
	j.seg.salvaged = true
	c, err := salvageFile(j.seg.path, wanted{lane: j.seg.lane, number: j.seg.number, ours: ours}, "")
	if err != nil {
		return nil, errors.Join(why, err)
	}
	for _, found := range c.journal {
		if found.seq != j.seq || found.commit != j.commit {
			continue
		}
		if read, err := readJournal(j.seg.path, found); err == nil {
			list = append(list, read...)
		}
	}
	slices.SortFunc(list, func(a, b journalRead) int { return cmp.Compare(a.part, b.part) })
	return list, why
}

// journalRead is a journal entry off the disk, and its place among those of its seq.
type journalRead struct {
	entry JournalEntry
	part  uint32
}

// forget counts what is live, and takes every number below next that is neither stored nor journaled as done with: it
// was released, lost, or given out and never written. So the set of released numbers stays as small as what is pending.
func (op *opening) forget() {
	q := op.q
	for _, l := range Lanes() {
		ln := &q.lanes[l]
		var pending ranges.Set
		for _, s := range ln.segments {
			pending.AddSet(s.stored)
		}
		pending.RemoveSet(ln.released)
		for seq := range ln.parts {
			pending.Add(Range{First: seq, Last: seq})
		}
		lost := ranges.Set{{First: 0, Last: ln.next - 1}}
		lost.RemoveSet(pending)
		was := ln.released
		ln.released = lost
		for _, s := range ln.segments {
			live := s.stored.Clone()
			live.RemoveSet(ln.released)
			s.live, s.liveBytes = live.Count(), 0
			if s.live > 0 && s.index != nil {
				s.liveBytes = s.sizeOf(live, s.live)
			} else if s.live > 0 {
				s.liveBytes = s.bytes / s.batches * s.live
			}
			if s.index != nil && s.closed {
				q.loaded = append(q.loaded, s)
			}
		}
		q.trimLoadedLocked()
		// What is reported lost: not what was released before, nor what is there after all, in another segment or in
		// the journal.
		for i := range op.damage {
			d := &op.damage[i]
			if d.Lane != l || d.Journal || len(d.Seqs) == 0 {
				continue
			}
			seqs := ranges.Set(d.Seqs)
			seqs.RemoveSet(was)
			seqs.RemoveSet(pending)
			d.Seqs, d.Batches = seqs, seqs.Count()
		}
	}
	// A segment that is missing or shorter, and of which nothing was needed, is no loss.
	op.damage = slices.DeleteFunc(op.damage, func(d Damage) bool { return d.Seqs != nil && len(d.Seqs) == 0 })
}
