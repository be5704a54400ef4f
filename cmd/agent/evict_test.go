package main

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// The queue evicts through the agent's own wiring: thinned, recorded in the control lane, alarmed, exact to the sample.
func TestFullQueueThinsAndTells(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	board := alarm.NewBoard(func() int64 { return 1 }, log)
	e := &evictions{alarms: board, log: log, Evictor: pipeline.Evictor{
		Tenant: "acme", Device: "car-1", BootID: [16]byte{1}, BootCount: 1, Every: 10, BatchBytes: 16 << 10}}
	q, err := buffer.Open(filepath.Join(t.TempDir(), "queue"), buffer.Options{
		MaxBytes: 4 << 20, SegmentBytes: 256 << 10, MinFree: -1, Rand: rand.Reader, OnEvict: e.evict, Thin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	adapted := pipelineQueue{q}
	offered := uint64(0)
	for n := range 400 {
		seq := adapted.Reserve(telemetrypb.Lane_LANE_TELEMETRY)
		samples := make([]telemetrypb.Sample, 4000)
		x := uint64(n + 1)
		for i := range samples {
			x = x*6364136223846793005 + 1442695040888963407
			samples[i] = telemetrypb.UintSample(uint32(1+i%4), int64(n)*1e9+int64(i/4)*1e6, x>>32)
		}
		offered += uint64(len(samples))
		b, err := telemetrypb.AppendBatch(nil, &telemetrypb.Head{Tenant: "acme", Device: "car-1", Epoch: q.Epoch(), BootID: [16]byte{1},
			Lane: telemetrypb.Lane_LANE_TELEMETRY, Seq: seq}, samples)
		if err != nil {
			t.Fatal(err)
		}
		err = adapted.Commit([]pipeline.Sealed{{Lane: telemetrypb.Lane_LANE_TELEMETRY, Seq: seq, Samples: uint32(len(samples)),
			First: samples[0].Time, Last: samples[len(samples)-1].Time, Bytes: b}}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	var there, lost uint64
	reasons := map[telemetrypb.LossReason]int{}
	for _, lane := range []buffer.Lane{buffer.Telemetry, buffer.Control} {
		for from := uint64(1); ; {
			r, err := q.Next(lane, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			from = r.Seq + 1
			view, err := telemetrypb.OpenBatch(r.Bytes)
			if err != nil || view.Envelope.GetSeq() != r.Seq || view.Envelope.GetEpoch() != r.Epoch {
				t.Fatalf("batch %d: %v", r.Seq, err)
			}
			if lane == buffer.Telemetry {
				there += uint64(r.Samples)
				continue
			}
			records, err := view.Records()
			if err != nil {
				t.Fatal(err)
			}
			for _, record := range records.Records {
				lost += record.GetLoss().GetCount()
				reasons[record.GetLoss().GetReason()]++
			}
		}
	}
	if there+lost != offered || reasons[telemetrypb.LossReason_LOSS_THINNED] == 0 {
		t.Errorf("%d samples there, %d lost, %d offered; %v", there, lost, offered, reasons)
	}
	if alarms := board.Standing(); len(alarms) != 1 || alarms[0].Name != alarmQuota {
		t.Errorf("alarms %+v", alarms)
	}
	a := &agent{queue: q, alarms: board, settings: &settings{Queue: queueSettings{MaxBytes: 4 << 20}}}
	a.watchQuota()
	if len(board.Standing()) == 0 {
		t.Error("the alarm is down in a full queue")
	}
	if err := q.Release(buffer.Telemetry, buffer.Range{First: 1, Last: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	a.watchQuota()
	if len(board.Standing()) > 0 {
		t.Error("the alarm stands in a drained queue")
	}
}
