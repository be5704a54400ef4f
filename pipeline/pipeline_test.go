package pipeline_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	control   = telemetrypb.Lane_LANE_CONTROL
	event     = telemetrypb.Lane_LANE_EVENT
	telemetry = telemetrypb.Lane_LANE_TELEMETRY
	raw       = telemetrypb.Lane_LANE_RAW
)

// Signal ids of the selection that the tests use.
const (
	speed = 1 + iota
	frame
	door
	alarmed
	fast // event.fast, above 1000
)

func selection(t testing.TB) *pipeline.Selection {
	t.Helper()
	above := 1000.0
	sel, err := pipeline.Choose([]*telemetrypb.Signal{
		{Name: "can0.EEC1.Speed", Message: "EEC1", Source: "can:can0", Type: telemetrypb.ValueType_VALUE_TYPE_INT},
		{Name: "can0.raw", Source: "can:can0", Type: telemetrypb.ValueType_VALUE_TYPE_UINT},
		{Name: "can0.Body.Door", Source: "can:can0", Type: telemetrypb.ValueType_VALUE_TYPE_INT},
		{Name: "agent.alarm", Source: "agent", Type: telemetrypb.ValueType_VALUE_TYPE_STRING},
	}, []pipeline.Collect{
		{Match: "*.Door", Lane: event},
		{Match: "*.raw", Lane: raw},
		{Match: "agent.*", Lane: event},
		{Match: "*"},
	}, pipeline.Threshold{Name: "fast", Signal: "can0.EEC1.Speed", Above: &above})
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

// bubble is a clock on the time of synctest.
type bubble struct{ start time.Time }

func (b bubble) Boot() int64     { return int64(time.Since(b.start)) + int64(time.Hour) }
func (b bubble) Wall() time.Time { return time.Now() }

// vehicle is a pipeline that runs.
type vehicle struct {
	t     testing.TB
	clock bubble
	q     *pipelinetest.Queue
	p     *pipeline.Pipeline
	bus   *pipeline.Source
	stop  context.CancelFunc
	done  chan error
	n     int64 // samples offered
}

func start(t testing.TB, q *pipelinetest.Queue, change ...func(*pipeline.Options)) *vehicle {
	t.Helper()
	v := &vehicle{t: t, clock: bubble{time.Now()}, q: q, done: make(chan error, 1)}
	o := pipeline.Options{Tenant: "acme", Device: "WB-0000000000001", BootID: [16]byte{7}, BootCount: 3, Clock: v.clock}
	for _, f := range change {
		f(&o)
	}
	var err error
	if v.p, err = pipeline.New(o, selection(t), q); err != nil {
		t.Fatal(err)
	}
	v.bus = v.p.Source("can:can0", 64)
	if err := v.p.Recover(q.Recovered()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.stop = cancel
	go func() { v.done <- v.p.Run(ctx) }()
	return v
}

// offer hands over n samples of one signal, taken now; their values count up.
func (v *vehicle) offer(signal uint32, n int) bool {
	c := v.bus.Chunk()
	for range n {
		v.n++
		c.Samples = append(c.Samples, telemetrypb.IntSample(signal, v.clock.Boot(), v.n))
	}
	return v.bus.Offer(c)
}

// noise is like offer, with values that do not compress and stay below every rule.
func (v *vehicle) noise(signal uint32, n int) bool {
	c := v.bus.Chunk()
	for range n {
		v.n++
		c.Samples = append(c.Samples, telemetrypb.IntSample(signal, v.clock.Boot(), -int64(mix(uint64(v.n))>>1)))
	}
	return v.bus.Offer(c)
}

// mix scatters its argument over 64 bits, one to one.
func mix(x uint64) uint64 {
	x = (x ^ x>>31) * 0x9E3779B97F4A7C15
	x = (x ^ x>>29) * 0xD6E8FEB86659FD93
	return x ^ x>>32
}

func (v *vehicle) end() error {
	v.stop()
	err := <-v.done
	for _, p := range v.q.Problems() {
		v.t.Error("the queue was misused: ", p)
	}
	return err
}

func (v *vehicle) mustEnd() {
	v.t.Helper()
	if err := v.end(); err != nil {
		v.t.Error(err)
	}
}

func samples(t testing.TB, q *pipelinetest.Queue, l telemetrypb.Lane) []telemetrypb.Sample {
	t.Helper()
	list, err := q.Samples(l)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// losses sums the Loss records of the control lane by reason.
func losses(t testing.TB, q *pipelinetest.Queue) (sum map[telemetrypb.LossReason]uint64, list []*telemetrypb.Loss) {
	t.Helper()
	records, err := q.Records()
	if err != nil {
		t.Fatal(err)
	}
	sum = map[telemetrypb.LossReason]uint64{}
	for _, r := range records {
		if l := r.GetLoss(); l != nil {
			sum[l.Reason] += l.Count
			list = append(list, l)
		}
	}
	return sum, list
}

func TestStartCommitsTheCatalogueFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(42)
		v := start(t, q, func(o *pipeline.Options) { o.Info = &telemetrypb.DeviceInfo{Vin: "WDB"} })
		v.p.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Epoch{Epoch: &telemetrypb.Epoch{Epoch: 42}}})
		synctest.Wait() // no time passes
		records, err := q.Records()
		if err != nil {
			t.Fatal(err)
		}
		var a telemetrypb.CatalogueAssembler
		var whole *telemetrypb.Catalogue
		var hash [32]byte
		info := false
		for _, r := range records {
			if part := r.GetCatalogue(); part != nil {
				if whole, hash, err = a.Add(part); err != nil {
					t.Fatal(err)
				}
			}
			info = info || r.GetDevice().GetVin() == "WDB"
		}
		if whole == nil || len(whole.Signals) != 5 || hash != selection(t).Hash() || !info {
			t.Errorf("the first commit held %v", records)
		}
		v.offer(speed, 1)
		v.mustEnd()
		view, err := telemetrypb.OpenBatch(q.Batches(telemetry)[0].Bytes)
		if err != nil {
			t.Fatal(err)
		}
		e := view.Envelope
		if e.Tenant != "acme" || e.Device != "WB-0000000000001" || e.Epoch != 42 || e.Seq != 1 || e.BootCount != 3 ||
			!bytes.Equal(e.BootId, append([]byte{7}, make([]byte, 15)...)) || !bytes.Equal(e.Catalogue, hash[:16]) {
			t.Errorf("the envelope is %v", e)
		}
	})
}

func TestJournalThenSeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		v := start(t, q)
		for range 45 { // 4.5 s
			v.offer(speed, 10)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		journal := q.Recovered()
		if len(q.Batches(telemetry)) != 0 || len(journal) != 4 {
			t.Fatalf("after 4.5 s: %d batches, %d journal entries; want none and one a second", len(q.Batches(telemetry)), len(journal))
		}
		for _, e := range journal {
			if e.Seq != 1 || e.Lane != telemetry || e.BootID[0] != 7 || e.BootCount != 3 || e.Catalogue != selection(t).ShortHash() {
				t.Errorf("a journal entry of %+v", e)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		b := q.Batches(telemetry)
		if len(b) != 1 || b[0].Seq != 1 || b[0].Samples != 450 || len(q.Recovered()) != 0 {
			t.Errorf("after 5.5 s: %d batches, %d entries left", len(b), len(q.Recovered()))
		}
		commits := q.Commits()
		time.Sleep(time.Minute)
		synctest.Wait()
		if q.Commits() != commits {
			t.Error("commits while nothing happened: they wear the flash out")
		}
		v.mustEnd()
	})
}

func TestSealBySpanOfSampleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		v := start(t, q)
		c := v.bus.Chunk() // a replay: an hour's samples in no time
		for i := range int64(3600) {
			c.Samples = append(c.Samples, telemetrypb.IntSample(speed, i*int64(time.Second), i%7))
		}
		if err := v.bus.Send(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		v.mustEnd()
		for _, b := range q.Batches(telemetry) {
			if b.Last-b.First >= int64(5*time.Second) {
				t.Errorf("seq %d spans %s", b.Seq, time.Duration(b.Last-b.First))
			}
		}
		if n := len(samples(t, q, telemetry)); n != 3600 || len(q.Batches(telemetry)) != 720 {
			t.Errorf("%d samples in %d batches", n, len(q.Batches(telemetry)))
		}
	})
}

func TestSealBySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		v := start(t, q)
		for range 500 {
			v.noise(speed, 200)
			v.noise(frame, 50)
			synctest.Wait()
		}
		// Texts code differently from numbers: an estimate must not hold for them.
		for i := range 60 {
			v.p.Raise("agent.alarm", telemetrypb.StringSample(0, 0, strings.Repeat(fmt.Sprint(i), 1000)))
		}
		v.mustEnd()
		for _, l := range []telemetrypb.Lane{control, event, telemetry, raw} {
			for _, b := range q.Batches(l) {
				if len(b.Bytes) > 16<<10 {
					t.Errorf("lane %d seq %d has %d bytes", l, b.Seq, len(b.Bytes))
				}
			}
		}
		if n := len(samples(t, q, telemetry)); n != 100_000 {
			t.Errorf("%d samples of 100000", n)
		}
		if n := len(samples(t, q, raw)); n != 25_000 {
			t.Errorf("%d raw samples of 25000", n)
		}
		full := 0
		for _, b := range q.Batches(telemetry) {
			if len(b.Bytes) > 12<<10 {
				full++
			}
		}
		if n := len(q.Batches(telemetry)); full < n*9/10-1 {
			t.Errorf("%d of %d batches are well filled", full, n)
		}
	})
}

func TestEventIsCommittedAtOnceAndRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		v := start(t, q)
		time.Sleep(50 * time.Millisecond)
		c := v.bus.Chunk()
		at := v.clock.Boot() - int64(3*time.Millisecond)
		c.Samples = append(c.Samples, telemetrypb.IntSample(speed, at, 1001))
		v.bus.Offer(c)
		synctest.Wait() // no time passes
		got := samples(t, q, event)
		if len(got) != 1 || got[0] != telemetrypb.FloatSample(fast, at, 1001) {
			t.Fatalf("at once: %v", got)
		}
		for range 1000 { // one a millisecond
			v.offer(door, 1)
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := len(q.Batches(event)); n < 9 || n > 13 { // and those of the ticks
			t.Errorf("1000 events in a second made %d batches; at most 10 a second for their sake", n)
		}
		v.p.Raise("agent.alarm", telemetrypb.StringSample(0, 0, "queue.disk"))
		v.mustEnd()
		if n := len(samples(t, q, event)); n != 1002 {
			t.Errorf("%d events, want 1002", n)
		}
	})
}

func TestRaiseOfAnUnknownSignalIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		v := start(t, q)
		v.p.Raise("agent.nothing", telemetrypb.StringSample(0, 0, "x"))
		c := v.bus.Chunk()
		c.Samples = append(c.Samples, telemetrypb.IntSample(0, 1, 1), telemetrypb.IntSample(6, 1, 1), telemetrypb.IntSample(1<<31, 1, 1),
			telemetrypb.StringSample(alarmed, 1, strings.Repeat("x", 1<<20)))
		v.bus.Offer(c)
		synctest.Wait()
		v.mustEnd()
		if sum, list := losses(t, q); sum[telemetrypb.LossReason_LOSS_UNDECODABLE] != 5 {
			t.Errorf("losses %v", list)
		}
	})
}

func TestClockRecordIsCommittedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		v := start(t, q)
		synctest.Wait()
		v.p.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Device{Device: &telemetrypb.DeviceInfo{Mode: "workshop"}}})
		synctest.Wait()
		if n := len(q.Batches(control)); n != 1 {
			t.Errorf("%d control batches; only the clock and the catalogue are urgent", n)
		}
		v.p.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Clock{Clock: &telemetrypb.ClockRecord{Revision: 1}}})
		synctest.Wait()
		if n := len(q.Batches(control)); n != 2 {
			t.Errorf("%d control batches", n)
		}
		// One that protobuf refuses harms no other.
		v.p.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Device{Device: &telemetrypb.DeviceInfo{Vin: "\xff"}}})
		v.p.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Device{Device: &telemetrypb.DeviceInfo{Mode: "normal"}}})
		v.mustEnd()
		records, err := q.Records()
		if err != nil {
			t.Fatal(err)
		}
		var modes []string
		for _, r := range records {
			if d := r.GetDevice(); d != nil {
				modes = append(modes, d.Mode)
			}
		}
		sum, _ := losses(t, q)
		if fmt.Sprint(modes) != "[workshop normal]" || v.p.Ledger().Totals()[0].Count != 1 || sum[telemetrypb.LossReason_LOSS_UNDECODABLE] > 1 {
			t.Errorf("modes %v, losses %v", modes, v.p.Ledger().Totals())
		}
	})
}

func TestOfferNeverBlocksAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		release := make(chan struct{})
		var slow atomic.Bool
		q.OnCommit = func([]pipeline.Sealed, []pipeline.Journal) (error, bool) {
			if slow.Load() {
				<-release
			}
			return nil, false
		}
		v := start(t, q, func(o *pipeline.Options) { o.MemoryBytes = 64 << 10 })
		synctest.Wait()
		slow.Store(true)
		dropped := 0
		for range 3000 {
			if !v.noise(speed, 20) {
				dropped += 20
			}
			synctest.Wait()
		}
		if dropped == 0 {
			t.Fatal("a disk that hangs for ever dropped nothing: the bound is not there")
		}
		slow.Store(false)
		close(release)
		v.mustEnd()
		sum, list := losses(t, q)
		got := len(samples(t, q, telemetry))
		lost := sum[telemetrypb.LossReason_LOSS_OVERLOAD]
		if uint64(got)+lost != 60_000 || lost < uint64(dropped) {
			t.Errorf("%d committed and %d lost of 60000: %v", got, lost, list)
		}
		for _, l := range list {
			if l.Source != "can:can0" || l.FirstNs == 0 || l.LastNs < l.FirstNs {
				t.Errorf("a loss of %v", l)
			}
		}
	})
}

func TestSendWaitsForASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		q.OnCommit = func([]pipeline.Sealed, []pipeline.Journal) (error, bool) {
			time.Sleep(3 * time.Second)
			return nil, false
		}
		v := start(t, q, func(o *pipeline.Options) { o.MemoryBytes = 64 << 10 })
		for i := range int64(400) {
			c := v.bus.Chunk()
			for range 100 {
				c.Samples = append(c.Samples, telemetrypb.IntSample(speed, i*ms(10), i))
			}
			if err := v.bus.Send(context.Background(), c); err != nil {
				t.Fatal(err)
			}
		}
		v.mustEnd()
		if n := len(samples(t, q, telemetry)); n != 40_000 || len(v.p.Ledger().Totals()) != 0 {
			t.Errorf("%d samples of 40000, losses %v", n, v.p.Ledger().Totals())
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		for range 65 { // nobody takes any more
			c := v.bus.Chunk()
			c.Samples = append(c.Samples, telemetrypb.IntSample(speed, 1, 1))
			_ = v.bus.Send(ended, c)
		}
		if v.offer(speed, 1) {
			t.Error("Offer after the end of Run says that it was taken")
		}
	})
}

func ms(n int64) int64 { return n * int64(time.Millisecond) }

func TestMetricsAndDebugLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		var out bytes.Buffer
		registry := prometheus.NewRegistry()
		v := start(t, q, func(o *pipeline.Options) {
			o.Metrics = registry
			o.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		last := v.clock.Boot()
		v.offer(speed, 10)
		time.Sleep(1500 * time.Millisecond)
		v.offer(speed, 5)
		later := v.clock.Boot()
		time.Sleep(time.Second)
		v.p.Ledger().Add(telemetrypb.LossReason_LOSS_KERNEL_DROP, "can:can0", "frames", 3, "")
		v.mustEnd()
		for _, want := range []string{
			fmt.Sprintf("msg=committed kind=journal lane=telemetry seq=1 samples=10 total=10 last=%d\n", last),
			fmt.Sprintf("msg=committed kind=journal lane=telemetry seq=1 samples=5 total=15 last=%d\n", later),
			fmt.Sprintf("msg=committed kind=batch lane=telemetry seq=1 samples=15 total=15 last=%d\n", later),
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no line %sin\n%s", want, out.String())
			}
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += "/" + l.GetValue()
				}
				seen[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		if seen["waybill_samples_total/telemetry"] != 15 || seen["waybill_batches_sealed_total/telemetry"] != 1 ||
			seen["waybill_losses_total/kernel_drop"] != 3 || seen["waybill_commit_seconds"] != float64(q.Commits()) ||
			seen["waybill_batch_bytes_sealed_total/telemetry"] != float64(len(q.Batches(telemetry)[0].Bytes)) {
			t.Errorf("metrics %v", seen)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		change func(*pipeline.Options)
		want   string
	}{
		{func(o *pipeline.Options) { o.Tenant = "" }, "tenant"},
		{func(o *pipeline.Options) { o.Device = "a/b" }, "device"},
		{func(o *pipeline.Options) { o.BootID = [16]byte{} }, "boot id"},
		{func(o *pipeline.Options) { o.CommitEvery = -1 }, "commit interval"},
		{func(o *pipeline.Options) { o.BatchBytes = 5 }, "batch size"},
		{func(o *pipeline.Options) { o.MemoryBytes = 5 }, "memory bound"},
	} {
		o := pipeline.Options{Tenant: "acme", Device: "d", BootID: [16]byte{7}}
		c.change(&o)
		if _, err := pipeline.New(o, selection(t), pipelinetest.NewQueue(1)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v does not say %q", err, c.want)
		}
	}
}
