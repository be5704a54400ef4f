package pipeline

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const rawLane = telemetrypb.Lane_LANE_RAW

// partPipeline has a signal with two parts, as a frame has its length and its data, and one signal beside it. Batches are
// as small as they may be.
func partPipeline(t *testing.T, q Queue) *Pipeline {
	t.Helper()
	var available []*telemetrypb.Signal
	for _, name := range []string{"frame", "len", "data", "other"} {
		available = append(available, &telemetrypb.Signal{Name: name, Message: "raw", Type: telemetrypb.ValueType_VALUE_TYPE_UINT})
	}
	sel, err := Choose(available, []Collect{
		{Match: "frame", Lane: rawLane}, {Match: "len", Lane: rawLane, Part: true}, {Match: "data", Lane: rawLane, Part: true}, {Match: "*"},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := testOptions()
	o.BatchBytes, o.MemoryBytes = 1<<10, 1<<20
	return mustNew(t, o, sel, q)
}

// partFrames are the samples of n frames: number i has one len and i%4 data, which end in i and do not compress. Several
// have one time, and the other signal stands between two of them.
func partFrames(n int, seed uint64) []telemetrypb.Sample {
	random := rand.New(rand.NewPCG(seed, 0))
	var list []telemetrypb.Sample
	for i := range uint64(n) {
		at := int64(1e9 + i/3)
		value := func() uint64 { return random.Uint64()<<16 | i }
		list = append(list, telemetrypb.UintSample(1, at, value()), telemetrypb.UintSample(2, at, value()))
		for range i % 4 {
			list = append(list, telemetrypb.UintSample(3, at, value()))
		}
		list = append(list, telemetrypb.UintSample(4, at, i))
	}
	return list
}

// checkWhole fails unless the batch has whole frames, and returns how many samples it has.
func checkWhole(t *testing.T, b []byte) int {
	t.Helper()
	view, err := telemetrypb.OpenBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	samples, err := view.Samples(nil)
	if err != nil {
		t.Fatal(err)
	}
	var got [4][]uint64
	for _, s := range samples {
		got[s.Signal] = append(got[s.Signal], s.Bits&0xFFFF)
	}
	var data []uint64
	for _, i := range got[1] {
		for range i % 4 {
			data = append(data, i)
		}
	}
	if fmt.Sprint(got[2]) != fmt.Sprint(got[1]) || fmt.Sprint(got[3]) != fmt.Sprint(data) {
		t.Fatalf("torn: frames %v, lengths %v, data %v, want %v", got[1], got[2], got[3], data)
	}
	return len(samples)
}

// rawBatches checks every sealed batch of the raw lane and returns how many samples and batches there are.
func rawBatches(t *testing.T, p *Pipeline) (samples, batches int) {
	t.Helper()
	for i := range p.uncommitted {
		if s := &p.uncommitted[i]; s.Lane == rawLane {
			n := checkWhole(t, s.Bytes)
			if n != int(s.Samples) {
				t.Fatalf("%d samples in a batch of %d", n, s.Samples)
			}
			samples, batches = samples+n, batches+1
		}
	}
	return samples, batches
}

func rawCount(list []telemetrypb.Sample) int {
	n := 0
	for _, s := range list {
		if s.Signal != 4 {
			n++
		}
	}
	return n
}

// Wherever a batch is full, by count, by time or by size, it ends between two frames.
func TestSealingPartsNothing(t *testing.T) {
	list := partFrames(300, 1)
	for limit := 1; limit <= 24; limit++ {
		p := partPipeline(t, sink{})
		for i := range list {
			p.lanes[rawLane].limit = limit
			p.sample(&list[i])
		}
		p.sealAll(&p.lanes[rawLane])
		if n, batches := rawBatches(t, p); n != rawCount(list) || batches < n/(limit+4) {
			t.Fatalf("limit %d: %d samples in %d batches, want %d", limit, n, batches, rawCount(list))
		}
	}
	for begin := range 12 {
		for _, sealNS := range []int64{1, 2, 1e9} { // each few frames, or by size alone
			p := partPipeline(t, sink{})
			p.sealNS = sealNS
			part := partFrames(300+begin, uint64(begin))
			for i := range part {
				p.lanes[rawLane].limit = 1e6
				p.sample(&part[i])
			}
			p.sealAll(&p.lanes[rawLane])
			if n, batches := rawBatches(t, p); n != rawCount(part) || batches < 10 {
				t.Fatalf("%d samples in %d batches, want %d", n, batches, rawCount(part))
			}
		}
	}
}

// Wherever memory ends, and wherever there is room again, a frame is taken whole or refused whole, and counted.
func TestRefusingPartsNothing(t *testing.T) {
	const full = 2 << 20
	list := partFrames(24, 2)
	for from := range list {
		for to := from + 1; to <= min(from+9, len(list)); to++ {
			p := partPipeline(t, sink{})
			for i := range list {
				switch i {
				case from:
					p.memory += full
				case to:
					p.memory -= full
				}
				p.sample(&list[i])
			}
			p.memory = 0
			p.sealAll(&p.lanes[rawLane])
			p.sealAll(&p.lanes[telemetrypb.Lane_LANE_TELEMETRY])
			n, _ := rawBatches(t, p)
			others := 0
			for i := range p.uncommitted {
				if s := &p.uncommitted[i]; s.Lane == telemetrypb.Lane_LANE_TELEMETRY {
					others += int(s.Samples)
				}
			}
			if n+others+int(p.refused.count) != len(list) {
				t.Fatalf("full from %d to %d: %d frames' samples, %d others, %d refused of %d", from, to, n, others, p.refused.count, len(list))
			}
		}
	}
}

// A crash's journal becomes batches of whole frames, however long it is.
func TestRecoveryPartsNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 0))
	for range 60 {
		p := partPipeline(t, sink{})
		var entries []Journal
		before, total := 0, 0
		for seed := range 1 + random.Uint64N(9) {
			var samples []telemetrypb.Sample
			for _, s := range partFrames(1+random.IntN(80), seed) {
				if s.Signal != 4 {
					samples = append(samples, s)
				}
			}
			entries = append(entries, Journal{Lane: rawLane, Seq: 7, BootID: [16]byte{1}, Bytes: AppendJournal(nil, before, samples)})
			before += len(samples)
			total += len(samples)
		}
		list, err := ReadJournal(entries, 1)
		if err != nil || len(list) != 1 || len(list[0].Parts) != len(entries) {
			t.Fatalf("%v %v", list, err)
		}
		r, err := gather(entries, 1)
		if err != nil {
			t.Fatal(err)
		}
		r[0].head.Tenant, r[0].head.Device = "acme", "d"
		p.sealRecovered(r[0])
		if n, batches := rawBatches(t, p); n != total || batches > len(entries) {
			t.Fatalf("%d samples in %d batches, want %d in at most %d", n, batches, total, len(entries))
		}
	}
}

// A batch is sealed in several while its journal is on its way to the disk. If the disk then says no, none of it is
// durable; if it says yes, all of it is, and giving up loses nothing.
func TestJournalUnderWayOfABatchThatWasCut(t *testing.T) {
	for _, err := range []error{nil, errors.New("the disk says no")} {
		p := partPipeline(t, sink{})
		list := partFrames(120, 4)
		l := &p.lanes[rawLane]
		for i := range list {
			l.limit = 1e6
			p.sample(&list[i])
		}
		p.sealAll(&p.lanes[telemetrypb.Lane_LANE_TELEMETRY])
		p.uncommitted = nil
		if !p.prepare(false) {
			t.Fatal("nothing to commit")
		}
		p.sealAll(l)
		if len(p.uncommitted) < 3 {
			t.Fatal("not cut")
		}
		p.commit.err = err
		p.settle(&p.commit)
		p.lastErr = errors.New("the disk says no")
		_ = p.giveUp()
		lost, want := 0, 0
		for _, loss := range p.Ledger().Totals() {
			lost += int(loss.Count)
		}
		if err != nil {
			want = rawCount(list)
		}
		if lost != want {
			t.Errorf("commit says %v: %d samples in the ledger, want %d", err, lost, want)
		}
	}
}

func TestPartIsForTheRawLane(t *testing.T) {
	for _, how := range []Collect{{Match: "*", Part: true}, {Match: "*", Part: true, Lane: rawLane, OnChange: true}, {Match: "*", Part: true, Lane: rawLane, MinInterval: 1}} {
		if _, err := Choose([]*telemetrypb.Signal{{Name: "a"}}, []Collect{how}); err == nil {
			t.Errorf("%+v is taken", how)
		}
	}
}
