package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
)

// errNewEpoch ends a run of the agent that is to begin again at once, in the same process, with a new epoch.
var errNewEpoch = errors.New("a new epoch is to begin")

// renewEvery bounds how often: whoever sends receipts must not keep the agent from its work.
const renewEvery = time.Hour

// renewal is what one run of the agent leaves to the next in the same process. A queue folder that was put back to an earlier
// state looks intact from inside, and gives numbers a second time. The store keeps what came first and rejects the
// rest: then a new epoch begins, and what was rejected goes there under new numbers, once.
type renewal struct {
	reason string                  // why an epoch is to begin at the next opening; empty: none is
	last   time.Time               // when the latest began
	sealed map[batchName]bool      // made of journal entries by a run of this process
	names  map[batchName]batchName // numbers that were given to what is not replaced yet
}

type batchName struct {
	epoch uint64
	lane  buffer.Lane
	seq   uint64
}

func newRenewal() *renewal {
	return &renewal{sealed: map[batchName]bool{}, names: map[batchName]batchName{}}
}

// opened notes that the queue is open, and what its journal held.
func (r *renewal) opened(q *buffer.Queue) {
	if r.reason != "" {
		r.reason, r.last = "", time.Now()
	}
	for _, e := range q.Recovered() {
		r.sealed[batchName{e.Epoch, e.Lane, e.Seq}] = true
	}
}

// conflict answers a store that has other bytes under numbers of ours. It is called by the uplink, on one goroutine.
func (a *agent) conflict(c uplink.Conflict) (settled bool) {
	if c.Epoch == a.queue.Epoch() {
		a.beginEpoch(fmt.Sprintf("the store has other batches under numbers %d to %d of lane %s: %s", c.First, c.Last, c.Lane, c.Why))
		return false // then, under the name of an epoch that is over, they come again
	}
	if !c.Rejected {
		return false
	}
	for seq := c.First; ; seq++ {
		if err := a.rename(batchName{c.Epoch, c.Lane, seq}); err != nil {
			a.log.Error("a batch that the store rejects by its number keeps it", "lane", c.Lane.String(), "seq", seq, "error", err)
			return false
		}
		if seq == c.Last {
			return true
		}
	}
}

// replaysRecordings: begun again, the agent would read them again from their start. What a store then rejects stays rejected.
func (a *agent) replaysRecordings() bool {
	recording := func(r *replaySettings) bool {
		if r == nil {
			return false
		}
		info, err := os.Stat(r.File)
		return err != nil || info.Mode().IsRegular()
	}
	for _, c := range a.settings.CAN {
		if recording(c.Replay) {
			return true
		}
	}
	for _, g := range a.settings.GPS {
		if recording(g.Replay) {
			return true
		}
	}
	return false
}

// beginEpoch ends this run so that the next one begins an epoch.
func (a *agent) beginEpoch(why string) {
	if !a.again.last.IsZero() && time.Since(a.again.last) < renewEvery {
		a.alarms.Raise("queue.epoch", why+"; the latest epoch began less than an hour ago, so none begins now. Does another vehicle have this one's device id?")
		return
	}
	select {
	case a.renewed <- why:
	default: // it is known
	}
}

// rename stores a batch under a number of the current epoch, in the place of the one that the store does not take.
func (a *agent) rename(old batchName) error {
	r, err := a.queue.Next(old.lane, old.seq)
	if errors.Is(err, buffer.ErrEmpty) || err == nil && (r.Seq != old.seq || r.Epoch != old.epoch) {
		return nil // it is gone
	}
	if err != nil {
		return err
	}
	if a.again.sealed[old] {
		// Its samples were in the journal when the folder was copied, so they are in what the store has under this number.
		a.pipe.Ledger().AddLoss(&telemetrypb.Loss{
			Reason: telemetrypb.LossReason_LOSS_REJECTED, Source: "queue", Unit: "samples", Count: uint64(r.Samples), CountIsBound: true,
			Epoch: old.epoch, Lane: telemetrypb.Lane(old.lane), Seqs: []*telemetrypb.SeqRange{{First: old.seq, Last: old.seq}},
			FirstNs: r.First, LastNs: r.Last, Detail: "made of a journal that was put back; the store has the batch that came of it before",
		})
		return nil
	}
	now := batchName{a.queue.Epoch(), old.lane, 0}
	if given, ok := a.again.names[old]; ok && given.epoch == now.epoch {
		now = given
	} else {
		if _, err := telemetrypb.Rename(nil, r.Bytes, now.epoch, 1); err != nil { // before a number is spent on it
			return err
		}
		now.seq = a.queue.Reserve(old.lane)
		a.again.names[old] = now
	}
	b, err := telemetrypb.Rename(nil, r.Bytes, now.epoch, now.seq)
	if err != nil {
		return err
	}
	if err := a.queue.Replace(old.seq, buffer.Record{Lane: old.lane, Seq: now.seq, Samples: r.Samples, First: r.First, Last: r.Last, Bytes: b}); err != nil {
		return err
	}
	delete(a.again.names, old)
	return nil
}
