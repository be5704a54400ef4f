package uplink

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// A store that was restored from a copy lacks what it had confirmed since, and what it confirmed was released here. It
// begins another generation, sees from our status that we have not heard of it, and answers with what it lacks:
//
//	status: store_generation 0 or an old one, nonce ─▶ store
//	                                                   wanted: nonce, numbers that neither came nor are accounted for
//	Recall ◀────────────────────────────────────────── as far as the store knows; most are on their way
//	what was kept is sent, receipted, released; then the next status, the next answer: records that came back may tell of more
//	an answer that recalls nothing, and nothing of earlier ones still out: what is gone is recorded as lost,
//	status: store_generation is the store's ─▶ it does not answer any more
//
// All of it is in memory, as Recall is: after a restart the store is asked again, and answers again.
//
// A nonce serves once, so that an answer which a broker delivers twice is no second one. Receipts of a generation that was
// heard before another one was followed release nothing: what they confirm may be what was just recalled.

const alarmNotKept = "uplink.not_kept" // a store asks for what was released and is not kept

const (
	// maxWantedRanges is how many ranges of one answer are looked at; the rest counts as more.
	maxWantedRanges = 1024
	// maxHeard is how many generations are remembered.
	maxHeard = 16
	// recallBurst is how many generations may be followed within Options.RecallGap: it bounds what a store that lies can
	// have sent again.
	recallBurst = 3
	// notKeptRanges is how many ranges one loss record names.
	notKeptRanges = 64
)

// recall is what is known of the stores' generations. It is guarded by Uplink.mu.
type recall struct {
	nonce    uint64                  // of the status to come
	heard    []uint64                // generations that receipts came from since one was followed
	over     []uint64                // those heard or followed before that
	hastened time.Time               // when a generation that was new hastened a status
	followed uint64                  // the generation whose answer was followed last; 0: none
	begun    [recallBurst]time.Time  // when the last ones were followed first, oldest first
	settled  bool                    // it lacks nothing that could be sent again
	mark     uint64                  // newest control batch when something was first found to be gone; 0: nothing was
	left     [lastLane + 1]intervals // recalled and not released since
}

// recalls says whether a store may ask for what was released.
func (u *Uplink) recalls() bool { return u.o.Recall != nil && u.o.Ack == AckReceipt }

// sayGeneration puts into a status what a store needs to know whether to answer.
func (u *Uplink) sayGeneration(s *telemetrypb.Status) {
	if !u.recalls() {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if s.Nonce = u.rec.nonce; u.rec.settled {
		s.StoreGeneration = u.rec.followed
	}
}

// over says whether a receipt is of a generation that another one has followed. The first receipt of an unknown one
// hastens the next status, which the store answers.
func (u *Uplink) over(generation uint64) bool {
	if !u.recalls() {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.rec
	if slices.Contains(r.over, generation) {
		return true
	}
	if generation == r.followed || slices.Contains(r.heard, generation) {
		return false
	}
	r.heard = remember(r.heard, generation)
	if now := time.Now(); now.Sub(r.hastened) >= u.o.StatusEvery {
		r.hastened = now
		u.statusWanted.Store(true)
	}
	return false
}

// remember appends to a bounded list.
func remember(list []uint64, more ...uint64) []uint64 {
	list = append(list, more...)
	return list[max(0, len(list)-maxHeard):]
}

// accept takes an answer's nonce, and its generation as the current one; false: it is not to be followed.
func (u *Uplink) accept(generation uint64, w *telemetrypb.Wanted) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.rec
	now := time.Now()
	switch {
	case w.GetNonce() != r.nonce || generation == 0:
		return false
	case generation == r.followed:
		if r.settled {
			return false
		}
	case !r.begun[0].IsZero() && now.Sub(r.begun[0]) < u.o.RecallGap:
		return false // it answers again, and its receipts count
	default:
		r.over = remember(r.over, append(r.heard, r.followed)...)
		r.over = slices.DeleteFunc(r.over, func(g uint64) bool { return g == generation || g == 0 })
		copy(r.begun[:], r.begun[1:])
		r.begun[recallBurst-1] = now
		r.heard, r.followed, r.settled, r.mark = nil, generation, false, 0
	}
	r.nonce = newNonce()
	return true
}

// follow obeys a store's answer.
func (u *Uplink) follow(store string, generation uint64, w *telemetrypb.Wanted) {
	if w == nil || !u.recalls() || !u.accept(generation, w) {
		return
	}
	var live, back [lastLane + 1]intervals
	var gone []*telemetrypb.Loss
	var recalled uint64
	more, looked := w.GetMore(), 0
	for _, g := range w.GetRanges() {
		l := buffer.Lane(g.GetLane())
		if g.GetLane() < 1 || g.GetLane() > telemetrypb.Lane(lastLane) {
			continue
		}
		var asked []buffer.Range
		for _, s := range g.GetSeqs() {
			if looked++; looked > maxWantedRanges {
				more = true
				break
			}
			if s.GetFirst() != 0 && s.GetFirst() <= s.GetLast() {
				asked = append(asked, buffer.Range{First: s.GetFirst(), Last: s.GetLast()})
			}
		}
		if len(asked) == 0 {
			continue
		}
		got, err := u.o.Recall(g.GetEpoch(), l, asked...)
		if err != nil { // the store answers the next status as well
			u.setTrouble(fmt.Sprintf("batches of lane %s that the store asks for cannot be given out again: %v", laneName(l), err))
			return
		}
		for _, r := range got.Live {
			live[l].add(r.First, r.Last)
		}
		for _, r := range got.Back {
			back[l].add(r.First, r.Last)
			recalled += r.Last - r.First + 1
		}
		gone = append(gone, notKept(store, generation, g, got.Gone)...)
	}
	u.unsendRecalled(&back, &live, recalled)
	if recalled > 0 {
		u.o.Log.Warn("the store lacks what it had confirmed; it is sent again", "store", store, "generation", fmt.Sprintf("%016x", generation), "batches", recalled)
		return
	}
	u.settleGeneration(store, generation, gone, more)
}

// unsendRecalled makes what was recalled unsent, and backlog, and forgets of what was recalled before that which is not
// asked for any more or not there.
func (u *Uplink) unsendRecalled(back, live *[lastLane + 1]intervals, recalled uint64) {
	var newest [lastLane + 1]uint64
	for l := buffer.Lane(1); l <= lastLane; l++ {
		newest[l] = u.newestCommitted(l)
	}
	u.count.recalled.Add(recalled)
	u.mu.Lock()
	for l := range back {
		at, left := &u.win.lanes[l], &u.rec.left[l]
		left.keep(&live[l])
		for _, r := range back[l].ranges {
			at.taken.remove(r.First, r.Last)
			left.add(r.First, r.Last)
			at.liveFrom = newest[l] + 1
		}
	}
	u.mu.Unlock()
	u.poke()
}

// settleGeneration ends the exchange when nothing that was recalled is still out. What is gone is recorded then and not
// before, and when the store has what the control lane held: the records there may tell of it, of an eviction say.
func (u *Uplink) settleGeneration(store string, generation uint64, gone []*telemetrypb.Loss, more bool) {
	newest, oldest := u.newestCommitted(buffer.Control), uint64(0)
	if rec, err := u.queue.Next(buffer.Control, 0); err == nil {
		oldest = rec.Seq
	} else if !errors.Is(err, buffer.ErrEmpty) {
		return // it is asked again
	}
	u.mu.Lock()
	ready := u.rec.empty()
	if ready && len(gone) > 0 {
		if u.rec.mark == 0 {
			u.rec.mark = max(newest, 1)
		}
		ready = oldest == 0 || oldest > u.rec.mark
	}
	u.rec.settled = ready && !more
	u.mu.Unlock()
	if !ready {
		return
	}
	var batches uint64
	for _, l := range gone {
		batches += l.Count
		if u.o.OnNotKept != nil {
			u.o.OnNotKept(l)
		}
	}
	u.count.notKept.Add(batches)
	if batches == 0 {
		u.o.Alarms.Clear(alarmNotKept)
		return
	}
	u.o.Log.Error("the store asks for what it had confirmed and this vehicle keeps no more", "store", store,
		"generation", fmt.Sprintf("%016x", generation), "batches", batches)
	u.o.Alarms.Raise(alarmNotKept, fmt.Sprintf("store %q was restored from a copy and lacks %d batches which it had confirmed and which this vehicle keeps no more: they stand in the ledger. Let queue.keep_after_receipt be longer than such a copy is old", store, batches))
}

// arrivedAgain notes that recalled batches were released; when they were the last ones the store is asked what it still
// lacks. The caller holds mu.
func (u *Uplink) arrivedAgain(l buffer.Lane, first, last uint64) {
	if u.rec.settled || u.rec.left[l].empty() {
		return
	}
	if u.rec.left[l].remove(first, last); u.rec.empty() {
		u.statusWanted.Store(true)
	}
}

func (r *recall) empty() bool {
	for l := range r.left {
		if !r.left[l].empty() {
			return false
		}
	}
	return true
}

// notKept is the ledger's entry of batches that the store had confirmed, lacks, and cannot have again.
func notKept(store string, generation uint64, g *telemetrypb.WantedRange, gone []buffer.Range) (list []*telemetrypb.Loss) {
	for part := range slices.Chunk(gone, notKeptRanges) {
		l := &telemetrypb.Loss{
			Reason: telemetrypb.LossReason_LOSS_NOT_KEPT, Source: "queue", Unit: "batches", Epoch: g.GetEpoch(), Lane: g.GetLane(),
			Detail: fmt.Sprintf("store %s, generation %016x, had confirmed them before it was restored", store, generation),
		}
		for _, r := range part {
			l.Count += r.Last - r.First + 1
			l.Seqs = append(l.Seqs, &telemetrypb.SeqRange{First: r.First, Last: r.Last})
		}
		list = append(list, l)
	}
	return list
}

// newNonce is not 0.
func newNonce() uint64 { return rand.Uint64() | 1 }
