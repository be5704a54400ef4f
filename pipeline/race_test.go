package pipeline_test

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// TestReadersInRealTime is the account of TestAccount with goroutines that really run side by side, for the race
// detector: four readers, alarms, records and counts, over a disk that fails every third time.
func TestReadersInRealTime(t *testing.T) {
	q := pipelinetest.NewQueue(1)
	commits := 0
	q.OnCommit = func([]pipeline.Sealed, []pipeline.Journal) (error, bool) {
		if commits++; commits%3 == 0 {
			return errDisk, false
		}
		return nil, false
	}
	p, err := pipeline.New(pipeline.Options{
		Tenant: "acme", Device: "d", BootID: [16]byte{7}, Clock: clock.System{}, MemoryBytes: 64 << 10, ErrFull: io.ErrNoProgress,
		CommitEvery: time.Millisecond, SealEvery: 5 * time.Millisecond, LossEvery: 2 * time.Millisecond, EventEvery: time.Millisecond,
	}, selection(t), q)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const readers, chunks, each = 4, 400, 50
	var wg sync.WaitGroup
	for r := range uint64(readers) {
		s := p.Source("can:can0", 4)
		wg.Go(func() {
			for k := range uint64(chunks) {
				c := s.Chunk()
				for i := range uint64(each) {
					v := -int64(mix((r*chunks+k)*each+i+1) >> 1)
					c.Samples = append(c.Samples, telemetrypb.IntSample(speed, clock.System{}.Boot(), v))
				}
				s.Offer(c)
				if k%4 == 0 {
					p.Raise("agent.alarm", telemetrypb.StringSample(0, 0, "x"))
					p.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Clock{Clock: &telemetrypb.ClockRecord{Revision: 1}}})
					p.Ledger().Add(telemetrypb.LossReason_LOSS_KERNEL_DROP, "can:can0", "frames", 1, "")
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	wg.Wait()
	cancel()
	for err := <-done; err != nil; err = nil { // the last commit may be a third one
		t.Log(err)
	}
	committed := len(samples(t, q, telemetry)) + len(samples(t, q, event))
	lost := 0
	for _, l := range p.Ledger().Totals() {
		if l.Unit == "samples" {
			lost += int(l.Count)
		}
	}
	pending := 0
	for _, e := range q.Recovered() {
		pending += len(journaled(t, e.Bytes))
	}
	if want := readers*chunks*each + readers*chunks/4; committed+lost+pending != want {
		t.Errorf("%d committed, %d lost, %d in the journal, %d offered", committed, lost, pending, want)
	}
	for _, problem := range q.Problems() {
		t.Error(problem)
	}
}
