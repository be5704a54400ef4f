package pipeline_test

import (
	"slices"
	"testing"

	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// old makes a stored batch of n samples each of two signals; the second is text, and comes half as often.
func old(t *testing.T, head telemetrypb.Head, n int) pipeline.Stored {
	t.Helper()
	var samples []telemetrypb.Sample
	for i := range n {
		at := int64(head.Seq)*1e9 + int64(i)*1e6
		samples = append(samples, telemetrypb.IntSample(1, at, int64(head.Seq)*1000+int64(i)*int64(i)*7919%65521))
		if i%2 == 0 {
			samples = append(samples, telemetrypb.StringSample(2, at, "text"))
		}
	}
	head.Tenant, head.Device = "acme", "car"
	b, err := telemetrypb.AppendBatch(nil, &head, samples)
	if err != nil {
		t.Fatal(err)
	}
	return pipeline.Stored{Epoch: head.Epoch, Sealed: pipeline.Sealed{Lane: head.Lane, Seq: head.Seq, Samples: uint32(len(samples)),
		First: samples[0].Time, Last: samples[len(samples)-1].Time, Bytes: b}}
}

// TestEvict: what is lost is counted to the sample, by boot and epoch; copies hold every n-th sample of each signal and
// name what they stand for; and what cannot be thinned is dropped.
func TestEvict(t *testing.T) {
	head := func(seq uint64, change func(*telemetrypb.Head)) telemetrypb.Head {
		h := telemetrypb.Head{Epoch: 9, Lane: telemetry, Seq: seq, BootID: [16]byte{1}, BootCount: 4, Catalogue: [16]byte{5}}
		if change != nil {
			change(&h)
		}
		return h
	}
	var list []pipeline.Stored
	for seq := uint64(1); seq <= 4; seq++ {
		list = append(list, old(t, head(seq, nil), 1000))
	}
	list = append(list,
		old(t, head(6, func(h *telemetrypb.Head) { h.BootID, h.BootCount = [16]byte{2}, 5 }), 1000),
		old(t, head(7, func(h *telemetrypb.Head) { h.Epoch = 8 }), 100),
		old(t, head(8, func(h *telemetrypb.Head) { h.Supersedes = []*telemetrypb.SeqRange{{First: 1, Last: 1}} }), 100),
		pipeline.Stored{Epoch: 9, Sealed: pipeline.Sealed{Lane: telemetry, Seq: 9, Samples: 77, First: 1, Last: 2, Bytes: []byte("no batch")}})
	next := map[telemetrypb.Lane]uint64{control: 50, telemetry: 100}
	e := pipeline.Evictor{Tenant: "acme", Device: "car", BootID: [16]byte{3}, BootCount: 6, Every: 10, BatchBytes: 16 << 10}
	evict := func(r pipeline.Request) (losses []*telemetrypb.Loss, copies []telemetrypb.BatchView) {
		t.Helper()
		r.Epoch = 9
		r.Reserve = func(l telemetrypb.Lane) uint64 { next[l]++; return next[l] - 1 }
		made, made2, err := e.Evict(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range made {
			view, err := telemetrypb.OpenBatch(s.Bytes)
			if err != nil || view.Envelope.GetSeq() != s.Seq {
				t.Fatal(err)
			}
			records, err := view.Records()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records.Records {
				losses = append(losses, r.GetLoss())
			}
		}
		for _, s := range made2 {
			view, err := telemetrypb.OpenBatch(s.Bytes)
			if err != nil || view.Envelope.GetSeq() != s.Seq || view.Envelope.GetSamples() != s.Samples || view.Envelope.GetFirstNs() != s.First || view.Envelope.LastNs() != s.Last {
				t.Fatalf("%v: %+v %+v", err, s, view.Envelope)
			}
			copies = append(copies, view)
		}
		return losses, copies
	}

	losses, copies := evict(pipeline.Request{Lane: telemetry, Old: list, Thin: true})
	if len(copies) != 2 || len(losses) != 5 {
		t.Fatalf("%d copies, losses %v", len(copies), losses)
	}
	for i, want := range []struct {
		seqs  []uint64
		boot  byte
		count int // of the first signal
	}{{[]uint64{1, 2, 3, 4}, 1, 400}, {[]uint64{6}, 2, 100}} {
		env := copies[i].Envelope
		samples, err := copies[i].Samples(nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, r := range env.GetSupersedes() {
			for seq := r.First; seq <= r.Last; seq++ {
				got = append(got, seq)
			}
		}
		numbers := 0
		for _, s := range samples {
			if s.Signal == 1 {
				at := s.Time % 1e9 / 1e6
				if at%10 != 0 || s.Bits != uint64(s.Time/1e9*1000+at*at*7919%65521) {
					t.Errorf("sample %+v", s)
				}
				numbers++
			}
		}
		if !slices.Equal(got, want.seqs) || env.GetBootId()[0] != want.boot || numbers != want.count || len(samples) != want.count*3/2 || env.GetCatalogue()[0] != 5 {
			t.Errorf("copy %d: %v, %d and %d samples", i, env, numbers, len(samples))
		}
	}
	for i, want := range []struct {
		reason telemetrypb.LossReason
		count  uint64
		first  uint64
		epoch  uint64
		boot   []byte
	}{
		{telemetrypb.LossReason_LOSS_THINNED, 6000 - 600, 1, 9, []byte{1}},
		{telemetrypb.LossReason_LOSS_THINNED, 1500 - 150, 6, 9, []byte{2}},
		{telemetrypb.LossReason_LOSS_EVICTED, 150, 7, 8, []byte{1}},
		{telemetrypb.LossReason_LOSS_EVICTED, 150, 8, 9, []byte{1}},
		{telemetrypb.LossReason_LOSS_EVICTED, 77, 9, 9, nil},
	} {
		l := losses[i]
		if l.Reason != want.reason || l.Count != want.count || l.Seqs[0].First != want.first || l.Epoch != want.epoch || l.Lane != telemetry ||
			len(want.boot) > 0 && l.BootId[0] != want.boot[0] || len(want.boot) == 0 && len(l.BootId) > 0 || l.FirstNs == 0 || l.LastNs < l.FirstNs {
			t.Errorf("loss %d: %v, want %+v", i, l, want)
		}
	}

	// Dropped: 1 to 4, 6, 7, 8 and 9 have each their own record, and the void numbers one.
	losses, copies = evict(pipeline.Request{Lane: telemetry, Old: list, Void: []*telemetrypb.SeqRange{{First: 100, Last: 101}}})
	if len(copies) != 0 || len(losses) != 6 || losses[0].Count != 6000 || losses[5].Seqs[0].Last != 101 || losses[5].Count != 0 {
		t.Errorf("dropped: %d copies, %v", len(copies), losses)
	}
	before := next[telemetry]
	if _, copies = evict(pipeline.Request{Lane: raw, Old: list[:4], Thin: true}); len(copies) != 0 || next[telemetry] != before {
		t.Errorf("raw frames were thinned, or a number was taken for nothing: %d", len(copies))
	}
	e.BatchBytes = 300
	if losses, copies = evict(pipeline.Request{Lane: telemetry, Old: list[:4], Thin: true}); len(copies) != 4 || len(losses) != 4 {
		t.Errorf("%d copies, want one for each batch: none fits with another", len(copies))
	}
	// Two samples each hardly shrink: nothing is gained by a copy.
	small := []pipeline.Stored{old(t, head(1, nil), 2)}
	if losses, copies = evict(pipeline.Request{Lane: telemetry, Old: small, Thin: true}); len(copies) != 0 || losses[0].Count != 3 || losses[0].Reason != telemetrypb.LossReason_LOSS_EVICTED {
		t.Errorf("a batch that does not shrink: %d copies, %v", len(copies), losses)
	}
}

// BenchmarkEvict thins what one step takes: 256 KiB of batches.
func BenchmarkEvict(b *testing.B) {
	var list []pipeline.Stored
	size, samples := 0, 0
	for seq := uint64(1); size < 256<<10; seq++ {
		var batch []telemetrypb.Sample
		x := seq
		for i := range 24_000 {
			x = x*6364136223846793005 + 1442695040888963407
			batch = append(batch, telemetrypb.IntSample(uint32(1+i%40), int64(seq)*5e9+int64(i/40)*1e7, int64(i)+int64(x>>61)))
		}
		bytes, err := telemetrypb.AppendBatch(nil, &telemetrypb.Head{Tenant: "acme", Device: "car", Epoch: 9, Lane: telemetry, Seq: seq, BootID: [16]byte{1}}, batch)
		if err != nil {
			b.Fatal(err)
		}
		list = append(list, pipeline.Stored{Epoch: 9, Sealed: pipeline.Sealed{Lane: telemetry, Seq: seq, Samples: 24_000, First: batch[0].Time, Last: batch[23_999].Time, Bytes: bytes}})
		size, samples = size+len(bytes), samples+len(batch)
	}
	e := pipeline.Evictor{Tenant: "acme", Device: "car", BootID: [16]byte{3}, Every: 10, BatchBytes: 16 << 10}
	copied := 0
	b.ReportAllocs()
	for b.Loop() {
		seq := uint64(1000)
		_, copies, err := e.Evict(pipeline.Request{Lane: telemetry, Epoch: 9, Old: list, Thin: true, Reserve: func(telemetrypb.Lane) uint64 { seq++; return seq }})
		if err != nil {
			b.Fatal(err)
		}
		copied = 0
		for _, c := range copies {
			copied += len(c.Bytes)
		}
	}
	b.ReportMetric(float64(copied)/float64(size), "bytes/byte")
	b.ReportMetric(float64(samples)*float64(b.N)/b.Elapsed().Seconds(), "samples/s")
}
