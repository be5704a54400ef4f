package main

import (
	"sync"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// pipelineQueue is the buffer as the pipeline sees it. Lanes have the same numbers on both sides.
type pipelineQueue struct{ q *buffer.Queue }

func (p pipelineQueue) Epoch() uint64 { return p.q.Epoch() }

func (p pipelineQueue) Reserve(l telemetrypb.Lane) uint64 { return p.q.Reserve(buffer.Lane(l)) }

func (p pipelineQueue) Commit(sealed []pipeline.Sealed, journal []pipeline.Journal) error {
	batches := make([]buffer.Record, len(sealed))
	for i, s := range sealed {
		batches[i] = buffer.Record{Lane: buffer.Lane(s.Lane), Seq: s.Seq, Samples: s.Samples, First: s.First, Last: s.Last, Bytes: s.Bytes}
		for _, lost := range s.Lost {
			batches[i].Lost = append(batches[i].Lost, buffer.Numbers{Lane: buffer.Lane(lost.Lane), Range: buffer.Range{First: lost.First, Last: lost.Last}})
		}
	}
	entries := make([]buffer.JournalEntry, len(journal))
	for i, j := range journal {
		entries[i] = buffer.JournalEntry{Lane: buffer.Lane(j.Lane), Seq: j.Seq, Boot: j.BootID, BootCount: j.BootCount, Catalogue: j.Catalogue, Bytes: j.Bytes}
	}
	return p.q.Commit(batches, entries)
}

func (p pipelineQueue) Stored(l telemetrypb.Lane, seq uint64) bool {
	return p.q.Stored(buffer.Lane(l), seq)
}

// recovered is what the queue's journal held of batches that were never sealed.
func recovered(q *buffer.Queue) []pipeline.Journal {
	var list []pipeline.Journal
	for _, e := range q.Recovered() {
		list = append(list, pipeline.Journal{
			Lane: telemetrypb.Lane(e.Lane), Seq: e.Seq, Epoch: e.Epoch,
			BootID: e.Boot, BootCount: e.BootCount, Catalogue: e.Catalogue, Bytes: e.Bytes,
		})
	}
	return list
}

// epochRecord begins an epoch that has a history. Its numbers go on where the parent's ended, so that within one queue
// a lane's seq names one batch. It is made before any number is given.
func epochRecord(device string, q *buffer.Queue, parent buffer.Parent) *telemetrypb.Record {
	e := &telemetrypb.Epoch{Epoch: q.Epoch(), Parent: parent.Epoch, Reason: parent.Reason, Device: device}
	lanes := q.Stats().Lanes
	for _, lane := range buffer.Lanes() {
		if seq, ok := parent.Last[lane]; ok {
			e.ParentLast = append(e.ParentLast, &telemetrypb.LaneSeq{Lane: telemetrypb.Lane(lane), Seq: seq})
		}
		if next := lanes[lane].Next; next > 1 {
			e.First = append(e.First, &telemetrypb.LaneSeq{Lane: telemetrypb.Lane(lane), Seq: next})
		}
	}
	return &telemetrypb.Record{Record: &telemetrypb.Record_Epoch{Epoch: e}}
}

// damageLedger enters what the queue found damaged into the loss ledger, also what it found before there was one.
type damageLedger struct {
	mu     sync.Mutex // guards what follows
	ledger *pipeline.Ledger
	early  []*telemetrypb.Loss
}

func (d *damageLedger) add(damage buffer.Damage) {
	if damage.Saved {
		return // nothing is lost; the queue has logged it
	}
	loss := damageLoss(damage)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ledger == nil {
		d.early = append(d.early, loss)
		return
	}
	d.ledger.AddLoss(loss)
}

func (d *damageLedger) attach(l *pipeline.Ledger) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ledger = l
	for _, loss := range d.early {
		l.AddLoss(loss)
	}
	d.early = nil
}

func damageLoss(d buffer.Damage) *telemetrypb.Loss {
	loss := &telemetrypb.Loss{
		Reason: telemetrypb.LossReason_LOSS_QUARANTINED, Source: "queue",
		Epoch: d.Epoch, Lane: telemetrypb.Lane(d.Lane), FirstNs: d.First, LastNs: d.Last,
		Detail: d.String(),
	}
	for _, r := range d.Seqs {
		loss.Seqs = append(loss.Seqs, &telemetrypb.SeqRange{First: r.First, Last: r.Last})
	}
	switch {
	case d.Samples > 0:
		loss.Count, loss.Unit = d.Samples, "samples"
	case d.Batches > 0:
		loss.Count, loss.Unit = d.Batches, "batches"
	default:
		loss.CountUnknown, loss.Unit = true, "batches"
	}
	return loss
}
