package pipeline

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"sync/atomic"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What is sealed waits in memory until the queue has it: for the length of a commit while the disk is well, and as a
// ring while it is not.
//
//	                     CommitBytes, then twice as much each time it goes well
//	           ┌─────────────────────────────▶ Queue.Commit
//	oldest ┌───┴───┬─────────────────────────────────┐ newest
//	       │ probe │             waits               │◀── sealed
//	       └───────┴─────┬───────────────────────────┘
//	                     ▼ when MemoryBytes are reached: raw frames, then telemetry, then events, each oldest first,
//	                       with a loss record that names the numbers
//
// The newest stay, as they do in the queue: what the car does now, and what led to the trouble, is worth more than what
// it did when the disk failed. Three kinds never go: control batches; what the journal or the commit under way has samples
// of, since a crash would bring those back; and the newest batch of a lane.
//
// What is let go of leaves numbers that nothing bears. The record that names them reaches the disk ahead of all that is above
// them, and they are done with by its very commit: whenever the power goes, a number is there, or in the ledger, or given again.
//
// A commit while the disk fails carries little: a disk that is worn out or full is not made to write the whole ring
// each second, and what is not in a commit can be let go of.

// batchOverhead is what a waiting batch takes beside its bytes.
const batchOverhead = 192

// weight is what a batch counts for in memory.
func (s *sealed) weight() int { return len(s.Bytes) + batchOverhead }

// ringDepth is what waits in memory by lane, for those who look.
type ringDepth struct {
	batches, bytes [telemetrypb.Lane_LANE_RAW + 1]atomic.Int64
}

// Depth is a number of batches and their bytes.
type Depth struct{ Batches, Bytes int64 }

// Uncommitted is what is sealed and not in the queue: in memory only, lost with the power.
func (p *Pipeline) Uncommitted(l telemetrypb.Lane) Depth {
	if l < 0 || int(l) >= len(p.depth.batches) {
		return Depth{}
	}
	return Depth{Batches: p.depth.batches[l].Load(), Bytes: p.depth.bytes[l].Load()}
}

// count keeps the sums when a batch comes (+1) or goes (-1).
func (p *Pipeline) count(s *sealed, sign int) {
	p.memory += sign * s.weight()
	p.depth.batches[s.Lane].Add(int64(sign))
	p.depth.bytes[s.Lane].Add(int64(sign * len(s.Bytes)))
}

// hold keeps a sealed batch until it is committed.
func (p *Pipeline) hold(s sealed) {
	if p.failing { // for long, perhaps: not with the room to grow that a buffer has
		kept := bytes.Clone(s.Bytes)
		p.release(s.Bytes)
		s.Bytes = kept
	}
	p.uncommitted = append(p.uncommitted, s)
	p.count(&s, 1)
	p.metrics.sealed(&s.Sealed)
}

// makeRoom lets go of batches for a sample of a lane and says whether there is room now: of what is worth no more than
// the sample, the least first, the oldest first. What the commit under way holds cannot be let go of: meanwhile events
// have the last eighth of the memory.
func (p *Pipeline) makeRoom(id telemetrypb.Lane) bool {
	for victim := telemetrypb.Lane_LANE_RAW; victim >= max(id, telemetrypb.Lane_LANE_EVENT); victim-- {
		for p.memory >= p.room[id] {
			i := p.oldest(victim)
			if i < 0 {
				break
			}
			p.drop(i)
		}
	}
	return p.memory < p.room[id] || id == telemetrypb.Lane_LANE_EVENT && p.underWay && p.memory < p.o.MemoryBytes-p.o.BatchBytes
}

// oldest is the place of the first batch of a lane that may go, -1 when there is none.
func (p *Pipeline) oldest(l telemetrypb.Lane) int {
	if p.depth.batches[l].Load() < 2 {
		return -1
	}
	found := -1
	for i := p.flight; i < len(p.uncommitted); i++ {
		s := &p.uncommitted[i]
		switch {
		case s.Lane != l:
		case found >= 0:
			return found // there is a newer one
		case !s.keep && !s.flying:
			found = i
		}
	}
	return -1
}

// drop lets go of an uncommitted batch and enters it in the ledger by its seq.
func (p *Pipeline) drop(i int) {
	s := p.uncommitted[i]
	p.uncommitted = append(p.uncommitted[:i], p.uncommitted[i+1:]...)
	p.count(&s, -1)
	p.ledger.AddLoss(&telemetrypb.Loss{
		Reason: p.lossReason(), Source: sourceQueue, Unit: unitSamples, Count: uint64(s.Samples),
		FirstNs: s.First, LastNs: s.Last,
		Epoch: p.epoch, Lane: s.Lane, Seqs: []*telemetrypb.SeqRange{{First: s.Seq, Last: s.Seq}},
		Detail: p.lossDetail(),
	})
	p.release(s.Bytes)
	for i := range p.dropped {
		if d := &p.dropped[i]; d.Lane == s.Lane && d.Last+1 == s.Seq {
			d.Last = s.Seq
			return
		}
	}
	p.dropped = append(p.dropped, Numbers{Lane: s.Lane, First: s.Seq, Last: s.Seq})
}

// untold says whether numbers of a lane are missing of which no control batch holds the record yet. Nothing that is above
// them may be durable before.
func (p *Pipeline) untold(l telemetrypb.Lane) bool {
	return slices.ContainsFunc(p.dropped, func(d Numbers) bool { return d.Lane == l })
}

// carry says how many of the waiting batches go with the next commit, and has put them in front: all, or of a failing
// disk what is in the journal, then by worth, each lane from its oldest on, as much as p.probe, without the lanes of which numbers
// are missing that the control batch ahead does not name.
func (p *Pipeline) carry(final bool) int {
	if !p.failing || final {
		return len(p.uncommitted)
	}
	const stays = int(telemetrypb.Lane_LANE_RAW) + 1
	rank := func(s *sealed) int {
		switch {
		case s.keep:
			return 0
		case p.untold(s.Lane):
			return stays
		}
		return int(s.Lane)
	}
	slices.SortStableFunc(p.uncommitted, func(a, b sealed) int { return cmp.Compare(rank(&a), rank(&b)) })
	n, size := 0, 0
	for ; n < len(p.uncommitted); n++ {
		s := &p.uncommitted[n]
		if size += len(s.Bytes); rank(s) == stays || n > 0 && !s.keep && size > p.probe {
			break
		}
	}
	return n
}

// fail notes a commit that failed.
func (p *Pipeline) fail(err error) {
	full := p.o.ErrFull != nil && errors.Is(err, p.o.ErrFull)
	if !p.failing || full != p.full { // what later tries say differs in words, and would part one loss into many
		p.trouble = err.Error()
	}
	p.failing, p.full, p.lastErr, p.probe = true, full, err, p.o.CommitBytes
	p.o.OnCommitError(err)
}

// keepUnstored lets go of those of the first n waiting batches that the queue has although the commit failed: it writes
// lane by lane, and the disk may have failed behind the first.
func (p *Pipeline) keepUnstored(n int) {
	kept := p.uncommitted[:0]
	for i := range p.uncommitted {
		s := p.uncommitted[i]
		if i < n && p.queue.Stored(s.Lane, s.Seq) {
			p.count(&s, -1)
			p.release(s.Bytes)
			continue
		}
		kept = append(kept, s)
	}
	clear(p.uncommitted[len(kept):])
	p.uncommitted = kept
}

// lossReason is why there is no room in memory.
func (p *Pipeline) lossReason() telemetrypb.LossReason {
	switch {
	case !p.failing:
		return telemetrypb.LossReason_LOSS_OVERLOAD
	case p.full:
		return telemetrypb.LossReason_LOSS_QUEUE_FULL
	}
	return telemetrypb.LossReason_LOSS_DISK_ERROR
}

func (p *Pipeline) lossDetail() string {
	if p.failing {
		return p.trouble
	}
	return "more came than the disk takes"
}
