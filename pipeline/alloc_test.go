package pipeline

import (
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// loadedPipeline has 400 signals of 50 messages, as a reader of a busy bus would fill its chunks.
func loadedPipeline(t testing.TB, how Collect) (*Pipeline, *Source) {
	var available []*telemetrypb.Signal
	for m := range 50 {
		for s := range 8 {
			available = append(available, &telemetrypb.Signal{
				Name: string(rune('A'+m)) + "." + string(rune('a'+s)), Message: string(rune('A' + m)), Scale: 0.5,
			})
		}
	}
	how.Match = "*"
	sel, err := Choose(available, []Collect{how}, Threshold{Name: "r", Signal: "A.a", Above: bound(1e9)})
	if err != nil {
		t.Fatal(err)
	}
	p := mustNew(t, testOptions(), sel, sink{})
	return p, p.Source("can:can0", 8)
}

// turn is what happens to one chunk of 64 frames from Offer to sealed batches, which are then as good as committed.
func turn(p *Pipeline, s *Source, at *int64) {
	c := s.Chunk()
	for range 64 {
		*at += ms / 4
		message := *at / (ms / 4) % 50
		for k := range int64(8) {
			c.Samples = append(c.Samples, telemetrypb.IntSample(uint32(message*8+k+1), *at, *at/ms%7*k))
		}
	}
	if !s.Offer(c) {
		panic("full")
	}
	p.take()
	for i := range p.uncommitted {
		p.memory -= len(p.uncommitted[i].Bytes)
		p.release(p.uncommitted[i].Bytes)
	}
	p.uncommitted = p.uncommitted[:0]
}

func TestNoAllocationFromOfferToBatch(t *testing.T) {
	for name, how := range map[string]Collect{"every sample": {}, "on change": {OnChange: true}, "at most": {MinInterval: 3e6}} {
		p, s := loadedPipeline(t, how)
		at := int64(0)
		for range 600 {
			turn(p, s, &at)
		}
		if n := testing.AllocsPerRun(600, func() { turn(p, s, &at) }); n != 0 {
			t.Errorf("%s: %v allocations per chunk of 512 samples", name, n)
		}
	}
}

func TestLedgerCountsWithoutAllocation(t *testing.T) {
	p, _ := loadedPipeline(t, Collect{})
	l := p.Ledger()
	add := func() { l.Add(telemetrypb.LossReason_LOSS_KERNEL_DROP, "can:can0", "frames", 3, "rx queue") }
	add()
	if n := testing.AllocsPerRun(1000, add); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkOfferToBatch(b *testing.B) {
	for name, how := range map[string]Collect{"every": {}, "onchange": {OnChange: true}} {
		b.Run(name, func(b *testing.B) {
			p, s := loadedPipeline(b, how)
			at := int64(0)
			for range 200 {
				turn(p, s, &at)
			}
			b.ReportAllocs()
			for b.Loop() {
				turn(p, s, &at)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/sample")
		})
	}
}

func TestOfferToAFullChannelAllocatesNothing(t *testing.T) {
	p, s := loadedPipeline(t, Collect{})
	offer := func() bool {
		c := s.Chunk()
		c.Samples = append(c.Samples, telemetrypb.IntSample(1, 1, 1))
		return s.Offer(c)
	}
	for offer() {
	}
	if n := testing.AllocsPerRun(1000, func() { offer() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := p.Ledger().Totals()[0].Count; got != 1002 { // AllocsPerRun runs once more
		t.Errorf("%d counted of 1002", got)
	}
}
