package pipeline_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func result(id string) *telemetrypb.Record {
	return &telemetrypb.Record{Record: &telemetrypb.Record_Result{Result: &telemetrypb.CommandResult{Id: id}}}
}

func TestCommitWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		// Nothing is committed by itself in this hour.
		v := start(t, q, func(o *pipeline.Options) { o.CommitEvery, o.SealEvery = time.Hour, 10*time.Hour })
		time.Sleep(time.Second)
		began := time.Now()

		v.p.Emit(result("a"))
		if err := v.p.Commit(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		records, err := q.Records()
		if err != nil || records[len(records)-1].GetResult().GetId() != "a" {
			t.Fatalf("Commit returned, and the record is not on disk: %v %v", records, err)
		}
		// What is offered is taken up to the last chunk, and sealed when that is asked for.
		for range 60 {
			v.offer(speed, 10)
		}
		if err := v.p.Commit(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		samples, err := q.Samples(telemetry)
		if err != nil || len(samples) != 600 {
			t.Fatalf("%d samples are sealed and on disk, want 600: %v", len(samples), err)
		}
		before := q.Commits()
		if err := v.p.Commit(t.Context(), true); err != nil || q.Commits() != before {
			t.Errorf("nothing was left, yet there were %d commits: %v", q.Commits()-before, err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("a tick was waited for: %v", waited)
		}
		v.stop()
		if err := <-v.done; err != nil {
			t.Fatal(err)
		}
		if err := v.p.Commit(t.Context(), true); err == nil {
			t.Error("Commit after the end promises what nobody does")
		}
	})
}

func TestCommitTellsThatTheDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		var full atomic.Bool
		q.OnCommit = func([]pipeline.Sealed, []pipeline.Journal) (error, bool) {
			if full.Load() {
				return errors.New("no space left"), false
			}
			return nil, false
		}
		v := start(t, q)
		time.Sleep(time.Second)
		full.Store(true)
		v.p.Emit(result("a"))
		if err := v.p.Commit(t.Context(), false); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("the disk fails: %v", err)
		}
		v.p.Emit(result("b")) // while it is known to fail
		if err := v.p.Commit(t.Context(), true); err == nil {
			t.Error("the disk fails, and nobody is told")
		}
		full.Store(false)
		time.Sleep(2 * time.Second)
		if err := v.p.Commit(t.Context(), false); err != nil {
			t.Error(err)
		}
		records, err := q.Records()
		n := 0
		for _, r := range records {
			if r.GetResult() != nil {
				n++
			}
		}
		if n != 2 || err != nil {
			t.Errorf("%d results on disk, want 2: %v", n, err)
		}
		v.stop()
		<-v.done
	})
}

// What can be told again is not lost where there is no room; the rest is.
func TestTryEmitTellsThatThereIsNoRoom(t *testing.T) {
	o := pipeline.Options{Tenant: "acme", Device: "WB-0000000000001", BootID: [16]byte{7}, BootCount: 1, Clock: bubble{time.Now()}}
	p, err := pipeline.New(o, selection(t), pipelinetest.NewQueue(1))
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for taken <= 1<<20 && p.TryEmit(result("a")) { // nobody takes them
		taken++
	}
	if taken != 1024 || p.TryEmit(result("b")) || len(p.Ledger().Totals()) != 0 {
		t.Errorf("%d were taken, and lost are %v", taken, p.Ledger().Totals())
	}
	p.Emit(result("c"))
	if lost := p.Ledger().Totals(); len(lost) != 1 || lost[0].Reason != telemetrypb.LossReason_LOSS_OVERLOAD || lost[0].Count != 1 {
		t.Errorf("lost are %v", lost)
	}
}
