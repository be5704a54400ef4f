package pipeline_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// journaled reads a journal entry.
func journaled(t testing.TB, b []byte) []telemetrypb.Sample {
	t.Helper()
	list, err := pipeline.ReadJournal([]pipeline.Journal{{Lane: telemetry, Seq: 1, Bytes: b}}, 1)
	if err != nil || list[0].Damaged > 0 {
		t.Fatalf("journal entry % x: %v %v", b, err, list)
	}
	return list[0].Parts[0]
}

// promise is what was durable when the power went: each sample by its value, which is unique.
func promise(t testing.TB, q *pipelinetest.Queue) map[uint64]bool {
	t.Helper()
	durable := map[uint64]bool{}
	for _, l := range []telemetrypb.Lane{event, telemetry, raw} {
		for _, s := range samples(t, q, l) {
			durable[s.Bits] = true
		}
	}
	for _, e := range q.Recovered() {
		for _, s := range journaled(t, e.Bytes) {
			durable[s.Bits] = true
		}
	}
	return durable
}

// TestCrashAtEachCommit cuts the power at the k-th commit, before or after it took place, and again two commits into
// the next run. Nothing that was durable may be missing, nothing may be there twice, no seq may be used twice.
func TestCrashAtEachCommit(t *testing.T) {
	for k := 1; k <= 16; k++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("commit %d after=%v", k, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { crashAt(t, k, after) })
			})
		}
	}
}

func crashAt(t *testing.T, k int, after bool) {
	q := pipelinetest.NewQueue(1)
	offered := int64(0)
	for run, at := range []int{k, 3, 2, 0} {
		count := 0
		q.OnCommit = func([]pipeline.Sealed, []pipeline.Journal) (error, bool) {
			if count++; count == at {
				return pipelinetest.ErrCrashed, after
			}
			if at > 0 && count > at {
				return pipelinetest.ErrCrashed, false
			}
			return nil, false
		}
		before := promise(t, q)
		v := start(t, q, func(o *pipeline.Options) { o.BootID[1] = byte(run) })
		v.n = offered
		for i := range 120 { // 12 s
			v.noise(speed, 12)
			if i%10 == 3 {
				v.noise(frame, 300) // seals by size now and then
			}
			if i%35 == 0 {
				v.noise(door, 1)
			}
			time.Sleep(100 * time.Millisecond)
		}
		offered = v.n
		err := v.end()
		if (err == nil) != (at == 0) {
			t.Errorf("run %d ended with %v", run, err)
		}
		after := promise(t, q)
		for bits := range before {
			if !after[bits] {
				t.Fatalf("run %d: a durable sample is gone", run)
			}
		}
		q = q.Crash()
	}
	if len(q.Recovered()) != 0 {
		t.Error("the journal of sealed batches is still there")
	}
	seen := map[uint64]bool{}
	for _, l := range []telemetrypb.Lane{event, telemetry, raw} {
		seqs := map[uint64]bool{}
		for _, b := range q.Batches(l) {
			if seqs[b.Seq] {
				t.Errorf("lane %d seq %d twice", l, b.Seq)
			}
			seqs[b.Seq] = true
		}
		for _, s := range samples(t, q, l) {
			if seen[s.Bits] {
				t.Fatalf("lane %d: a sample is there twice", l)
			}
			seen[s.Bits] = true
		}
	}
	for _, p := range q.Problems() {
		t.Error(p)
	}
}

func TestRecoverSealsUnderTheSeqAndBootOfTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		v := start(t, q, func(o *pipeline.Options) { o.BootID = [16]byte{0xAA}; o.BootCount = 1 })
		v.offer(speed, 10)
		time.Sleep(1100 * time.Millisecond)
		v.offer(speed, 10)
		time.Sleep(time.Second)
		q2 := q.Crash()
		_ = v.end()
		v = start(t, q2) // boot id 7, count 3
		v.offer(speed, 1)
		v.mustEnd()
		b := q2.Batches(telemetry)
		if len(b) != 2 {
			t.Fatalf("%d batches", len(b))
		}
		view, err := telemetrypb.OpenBatch(b[0].Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if e := view.Envelope; e.Seq != 1 || e.BootId[0] != 0xAA || e.BootCount != 1 || e.Samples != 20 {
			t.Errorf("recovered as %v", e)
		}
		if b[1].Seq != 2 {
			t.Errorf("the next batch has seq %d", b[1].Seq)
		}
	})
}

// TestRecoverDamage names the damage and what survives it.
func TestRecoverDamage(t *testing.T) {
	entry := func(seq uint64, before byte, values ...int64) pipeline.Journal {
		b := []byte{3, before}
		at := int64(0)
		for i, v := range values { // byte by byte, as the format's comment has it
			if i == 0 {
				b = append(binary.AppendUvarint(b, 2*(speed-1)<<3|7), byte(telemetrypb.KindInt)) // another kind, another time
			} else {
				b = append(b, 1<<3|3) // the same signal, another time
			}
			b = binary.AppendVarint(binary.AppendVarint(b, v*1e6-at), v)
			at = v * 1e6
		}
		return pipeline.Journal{Lane: telemetry, Seq: seq, BootID: [16]byte{9}, BootCount: 2, Catalogue: [16]byte{5}, Bytes: b}
	}
	foreign := entry(1, 2, 3)
	foreign.BootID[0] = 8
	garbage := pipeline.Journal{Lane: telemetry, Seq: 1, BootID: [16]byte{9}, Catalogue: [16]byte{5}, Bytes: []byte("garbage")}
	empty, cut := garbage, entry(1, 0, 1, 2, 3, 4)
	empty.Bytes = nil
	cut.Bytes = cut.Bytes[:len(cut.Bytes)-1]
	for _, c := range []struct {
		name    string
		entries []pipeline.Journal
		want    string // seq:values
		damaged int
	}{
		{"sound", []pipeline.Journal{entry(1, 0, 1, 2), entry(1, 2, 3)}, "1:[1 2 3] ", 0},
		{"two batches, interleaved", []pipeline.Journal{entry(1, 0, 1), entry(2, 0, 5), entry(1, 1, 2)}, "1:[1 2] 2:[5] ", 0},
		{"written twice", []pipeline.Journal{entry(1, 0, 1, 2), entry(1, 0, 1, 2, 3), entry(1, 3, 4)}, "1:[1 2 3 4] ", 0},
		{"written twice further on", []pipeline.Journal{entry(1, 0, 1), entry(1, 1, 2), entry(1, 1, 2, 3)}, "1:[1 2 3] ", 0},
		{"the last is garbage", []pipeline.Journal{entry(1, 0, 1, 2), garbage}, "1:[1 2] ", 1},
		{"the first is garbage", []pipeline.Journal{garbage, entry(1, 2, 3)}, "1:[3] ", 1},
		{"all garbage", []pipeline.Journal{garbage, empty}, "1:[] ", 2},
		{"cut short", []pipeline.Journal{cut, entry(1, 4, 5)}, "1:[5] ", 1},
		{"another boot", []pipeline.Journal{entry(1, 0, 1, 2), foreign}, "1:[1 2] ", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := pipelinetest.NewQueue(1)
			for range 2 {
				q.Reserve(telemetry)
			}
			p, err := pipeline.New(pipeline.Options{Tenant: "acme", Device: "d", BootID: [16]byte{7}}, selection(t), q)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Recover(c.entries); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, b := range q.Batches(telemetry) {
				view, err := telemetrypb.OpenBatch(b.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				list, err := view.Samples(nil)
				if err != nil {
					t.Fatal(err)
				}
				var values []int64
				for _, s := range list {
					values = append(values, int64(s.Bits))
				}
				slices.Sort(values)
				got += fmt.Sprintf("%d:%v ", b.Seq, values)
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			_, list := losses(t, q)
			if (len(list) > 0) != (c.damaged > 0) {
				t.Errorf("losses %v", list)
			}
			for _, l := range list {
				if !l.CountUnknown || l.Seqs[0].First != 1 || l.Lane != telemetry || l.BootId[0] != 9 {
					t.Errorf("loss %v", l)
				}
			}
			for _, problem := range q.Problems() {
				t.Error(problem)
			}
		})
	}
}

// TestRecoverSplitsWhatIsTooLong: an open batch may turn out longer than a batch may be.
func TestRecoverSplitsWhatIsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		v := start(t, q)
		v.noise(speed, 4000) // of 9 bytes each
		time.Sleep(1100 * time.Millisecond)
		q2 := q.Crash()
		_ = v.end()
		v = start(t, q2)
		v.mustEnd()
		for _, b := range q2.Batches(telemetry) {
			if len(b.Bytes) > 16<<10 {
				t.Errorf("seq %d has %d bytes", b.Seq, len(b.Bytes))
			}
		}
		if n := len(samples(t, q2, telemetry)); n != 4000 || len(q2.Batches(telemetry)) < 2 {
			t.Errorf("%d samples of 4000 in %d batches", n, len(q2.Batches(telemetry)))
		}
	})
}

// FuzzRecover: whatever stands in the journal, recovery ends, commits sound batches and settles the seq.
func FuzzRecover(f *testing.F) {
	entry := []byte{3, 0, 7, byte(telemetrypb.KindInt), 10, 12, 5, byte(telemetrypb.KindString), 1, 'x'} // signal 1 at 5: 6; signal 2: x
	f.Add(entry, entry)
	f.Add(entry[:len(entry)-1], []byte{})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f}, []byte{3})
	sel := selection(f)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		q := pipelinetest.NewQueue(1)
		p, err := pipeline.New(pipeline.Options{Tenant: "acme", Device: "d", BootID: [16]byte{7}}, sel, q)
		if err != nil {
			t.Fatal(err)
		}
		q.Reserve(telemetry)
		entries := []pipeline.Journal{{Lane: telemetry, Seq: 1, Bytes: a}, {Lane: telemetry, Seq: 1, Bytes: b}}
		if err := p.Recover(entries); err != nil {
			t.Fatal(err)
		}
		if batches := q.Batches(telemetry); len(batches) == 0 || batches[0].Seq != 1 {
			t.Errorf("the seq is not settled: %v", batches)
		}
		for _, problem := range q.Problems() {
			t.Error(problem)
		}
	})
}
