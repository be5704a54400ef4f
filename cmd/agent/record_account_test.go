package main

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// madeFrame is frame number i of a bus: its number and its bus stand in its data, all else follows from them.
func madeFrame(bus uint8, i uint32) can.Frame {
	f := can.Frame{Bus: bus, ID: i % 0x700, Len: uint8(8 + i%57), Flags: can.FlagFD, Time: int64(1e9 + i/7*1e6)}
	if i%3 == 0 {
		f.Flags, f.Len = 0, 8
	}
	random := rand.New(rand.NewPCG(uint64(i), uint64(bus)))
	for k := range f.Len {
		f.Data[k] = byte(random.Uint32()) // does not compress
	}
	binary.BigEndian.PutUint32(f.Data[:], i)
	return f
}

// Two buses deliver faster than a disk that fails half of the time takes, with little memory: batches are sealed and
// samples are refused all the time, and the process dies at times. What an export prints was on the bus, once, in order;
// every sample that is not there stands in the ledger, or was not committed when the process died.
func TestNoFrameIsTornAndEachIsAccountedFor(t *testing.T) {
	for _, crash := range []int{0, 7, 20} {
		accountFor(t, crash, false)
	}
	accountFor(t, 0, true)
}

func accountFor(t *testing.T, crashAt int, rule bool) {
	t.Helper()
	buses := []canSettings{{Bus: "can0", Record: recordSettings{all: true}}, {Bus: "can1", Record: recordSettings{all: true}}}
	var available []*telemetrypb.Signal
	recorders := []*recorder{{bus: "can0", wanted: buses[0].Record}, {bus: "can1", wanted: buses[1].Record}}
	for _, r := range recorders {
		available = append(available, r.signals()...)
	}
	// A rule on what is recorded makes events, for which raw batches make room in the midst of a frame: few, or there
	// would be room for nothing else.
	var rules []pipeline.Threshold
	if high := 0x1p64 - 0x1p58; rule {
		rules = append(rules, pipeline.Threshold{Name: "wide", Signal: "can0.raw.data1", Above: &high})
	}
	sel, err := pipeline.Choose(available, recordCollect(buses), rules...)
	if err != nil {
		t.Fatal(err)
	}
	q := pipelinetest.NewQueue(1)
	// Of the commits that carry frames every second one fails, and of the others: were they counted together, the ledger's
	// could be those that succeed.
	var carried atomic.Int64
	others := 0
	q.OnCommit = func(batches []pipeline.Sealed, journal []pipeline.Journal) (error, bool) {
		time.Sleep(time.Millisecond)
		n := 0
		if len(journal) > 0 || batches[len(batches)-1].Lane == telemetrypb.Lane_LANE_RAW {
			n = int(carried.Add(1))
		} else {
			others++
			n = others
		}
		if crashAt > 0 && int(carried.Load()) >= crashAt || n%2 == 0 {
			return errors.New("the disk says no"), false
		}
		return nil, false
	}
	options := pipeline.Options{
		Tenant: "acme", Device: "d", BootID: [16]byte{7}, Clock: clock.System{}, BatchBytes: 1 << 10, MemoryBytes: 64 << 10,
		CommitEvery: 2 * time.Millisecond, SealEvery: 5 * time.Millisecond, EventEvery: time.Millisecond,
	}
	p, err := pipeline.New(options, sel, q)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	offered, frames := make([]int, 2), make([]uint32, 2)
	var wg sync.WaitGroup
	var sources []*pipeline.Source
	for i, r := range recorders {
		r.choose(sel.ID)
		sources = append(sources, p.Source("can:"+buses[i].Bus, 8))
	}
	go func() { done <- p.Run(ctx) }()
	for i, r := range recorders {
		wg.Go(func() {
			// On a busy machine the first frames can all be over before a commit of them succeeds.
			for n := 0; n < 120 || n < 1_200 && carried.Load() < 8; n++ {
				chunk := sources[i].Chunk()
				for range 64 {
					f := madeFrame(uint8(i), frames[i])
					chunk.Samples = r.take(&f, chunk.Samples)
					frames[i]++
				}
				offered[i] += len(chunk.Samples)
				sources[i].Offer(chunk)
				time.Sleep(100 * time.Microsecond)
				if n >= 120 {
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	endErr := <-done // its last commit may be one that fails

	lost := 0
	for _, l := range p.Ledger().Totals() {
		if l.Unit == "samples" {
			lost += int(l.Count)
		}
	}
	if endErr != nil || crashAt > 0 { // what the journal has becomes batches
		q = q.Crash()
		q.OnCommit = nil
		again, err := pipeline.New(options, sel, q)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Recover(q.Recovered()); err != nil {
			t.Fatal(err)
		}
	}
	kept, batches := 0, 0
	last := [2]int64{-1, -1}
	for _, b := range q.Batches(telemetrypb.Lane_LANE_RAW) {
		view, err := telemetrypb.OpenBatch(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		samples, err := view.Samples(nil)
		if err != nil {
			t.Fatal(err)
		}
		kept, batches = kept+len(samples), batches+1
		for i, r := range recorders {
			list, err := r.ids.frames(nil, samples, uint8(i))
			if err != nil {
				t.Fatalf("batch %d: %v", b.Seq, err)
			}
			for _, f := range list {
				n := binary.BigEndian.Uint32(f.Data[:])
				if f != madeFrame(uint8(i), n) {
					t.Fatalf("batch %d: a frame that was not on the bus: %+v", b.Seq, f)
				}
				if int64(n) <= last[i] {
					t.Fatalf("batch %d: frame %d after %d", b.Seq, n, last[i])
				}
				last[i] = int64(n)
			}
		}
	}
	total := offered[0] + offered[1]
	t.Logf("crash at %d: %d samples offered, %d in %d batches, %d lost", crashAt, total, kept, batches, lost)
	if kept == 0 || lost == 0 {
		t.Error("nothing was kept or nothing refused: that tests nothing")
	}
	if kept+lost != total && !rule { // refused events are in the ledger as well
		t.Errorf("%d samples are neither there nor in the ledger", total-kept-lost)
	}
	for _, problem := range q.Problems() {
		t.Error(problem)
	}
}
