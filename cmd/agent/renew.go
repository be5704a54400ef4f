package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
)

// errNewEpoch ends a run of the agent that is to begin again at once, in the same process, with a new epoch.
var errNewEpoch = errors.New("a new epoch is to begin")

// renewEvery bounds how often: whoever sends receipts must not keep the agent from its work.
const renewEvery = time.Hour

// sealedFile names, of the batches of the latest starts, those that were made of journal entries: "EPOCH LANE SEQ" a line.
const sealedFile = "sealed"

// maxSealed bounds it; a start makes one for each lane at most.
const maxSealed = 256

// renewal is what one run of the agent leaves to the next in the same process. A queue folder that was put back to an earlier
// state looks intact from inside, and gives numbers a second time. The store keeps what came first and rejects the
// rest: then a new epoch begins, and what was rejected goes there under new numbers, once.
type renewal struct {
	reason string                  // why an epoch is to begin at the next opening; empty: none is
	last   time.Time               // when the latest began
	sealed []batchName             // made of journal entries at this start or an earlier one, the latest last
	names  map[batchName]batchName // numbers that were given to what is not replaced yet
	reloading

	rebootErr error     // why the machine still runs although it was to start anew
	rebootAt  time.Time // when that was
}

type batchName struct {
	epoch uint64
	lane  buffer.Lane
	seq   uint64
}

func newRenewal() *renewal {
	return &renewal{names: map[batchName]batchName{}, reloading: reloading{unread: map[string]int64{}}}
}

// opened notes that the queue is open, and durably what its journal held, before batches are made of that. An error
// costs only that a later start does not know.
func (r *renewal) opened(dir string, q *buffer.Queue) error {
	if r.reason != "" {
		r.reason, r.last = "", time.Now()
	}
	path := filepath.Join(dir, sealedFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	r.sealed = r.sealed[:0]
	for line := range strings.Lines(string(text)) {
		var n batchName
		if _, scanErr := fmt.Sscanf(line, "%x %d %d\n", &n.epoch, &n.lane, &n.seq); scanErr == nil {
			r.sealed = append(r.sealed, n)
		}
	}
	known := len(r.sealed)
	for _, e := range q.Recovered() {
		if n := (batchName{e.Epoch, e.Lane, e.Seq}); !slices.Contains(r.sealed, n) {
			r.sealed = append(r.sealed, n)
		}
	}
	if len(r.sealed) == known {
		return err
	}
	r.sealed = r.sealed[max(0, len(r.sealed)-maxSealed):]
	var lines []byte
	for _, n := range r.sealed {
		lines = fmt.Appendf(lines, "%016x %d %d\n", n.epoch, n.lane, n.seq)
	}
	return errors.Join(err, writeDurably(path, lines))
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
	view, err := telemetrypb.OpenBatch(r.Bytes)
	if err != nil {
		return err
	}
	why := ""
	switch {
	case slices.Contains(a.again.sealed, old): // if the journal was the image's, its samples are in what the store has under this number
		why = "made of a journal; of one that was put back, the store has the batch that came of it before"
	case len(view.Envelope.GetSupersedes()) > 0: // under another name the store could not tell which of its samples have arrived already
		why = "a thinned copy, whose originals may have arrived"
	}
	if why != "" {
		a.pipe.Ledger().AddLoss(&telemetrypb.Loss{
			Reason: telemetrypb.LossReason_LOSS_REJECTED, Source: "queue", Unit: "samples", Count: uint64(r.Samples), CountIsBound: true,
			Epoch: old.epoch, Lane: telemetrypb.Lane(old.lane), Seqs: []*telemetrypb.SeqRange{{First: old.seq, Last: old.seq}},
			FirstNs: r.First, LastNs: r.Last, Detail: why,
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
