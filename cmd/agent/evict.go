package main

import (
	"log/slog"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// alarmQuota says that old samples give way to new ones.
const alarmQuota = "queue.quota"

// evictions is the pipeline's Evictor as the queue calls it. The queue calls it from Commit only, so not before the
// pipeline is there.
type evictions struct {
	pipeline.Evictor
	alarms *alarm.Board
	log    *slog.Logger
}

func (e *evictions) evict(of buffer.Eviction) (out buffer.Evicted, err error) {
	r := pipeline.Request{Lane: telemetrypb.Lane(of.Lane), Epoch: of.Epoch, Thin: of.Thin,
		Reserve: func(l telemetrypb.Lane) uint64 { return of.Reserve(buffer.Lane(l)) }}
	for _, b := range of.Batches {
		r.Old = append(r.Old, pipeline.Stored{Epoch: b.Epoch, Sealed: pipeline.Sealed{
			Lane: telemetrypb.Lane(b.Lane), Seq: b.Seq, Samples: b.Samples, First: b.First, Last: b.Last, Bytes: b.Bytes}})
	}
	for _, v := range of.Void {
		r.Void = append(r.Void, &telemetrypb.SeqRange{First: v.First, Last: v.Last})
	}
	losses, copies, err := e.Evict(r)
	if err != nil {
		return out, err
	}
	e.log.Info("queue: no room; the oldest batches go", "lane", of.Lane.String(), "batches", len(of.Batches), "thinned copies", len(copies),
		"first seq", of.Batches[0].Seq, "last seq", of.Batches[len(of.Batches)-1].Seq)
	e.alarms.Raise(alarmQuota, "the queue has reached its quota, or the disk its floor: old samples are thinned, then dropped, and stand in the loss ledger")
	out.Losses, out.Copies = records(losses), records(copies)
	return out, nil
}

// records are sealed batches as the queue takes them.
func records(sealed []pipeline.Sealed) []buffer.Record {
	batches := make([]buffer.Record, len(sealed))
	for i, s := range sealed {
		batches[i] = buffer.Record{Lane: buffer.Lane(s.Lane), Seq: s.Seq, Samples: s.Samples, First: s.First, Last: s.Last, Bytes: s.Bytes}
	}
	return batches
}

// watchQuota takes the alarm down when the queue has fallen to three quarters of its quota.
func (a *agent) watchQuota() {
	if a.queue.Stats().DiskBytes < a.settings.Queue.MaxBytes/4*3 {
		a.alarms.Clear(alarmQuota)
	}
}
