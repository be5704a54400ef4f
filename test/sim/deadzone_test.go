package sim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// zone is a vehicle in a dead zone: its queue, and everything it was offered, by signal and time.
type zone struct {
	t       testing.TB
	dir     string
	quota   int64
	queue   *buffer.Queue
	evictor pipeline.Evictor
	head    telemetrypb.Head
	random  *mrand.Rand
	now     int64
	offered map[sampleName]bool // value: whether it may be lost
	counts  map[telemetrypb.Lane]uint64
	seqs    map[telemetrypb.Lane]uint64
}

type sampleName struct {
	signal string
	boot   int64
}

// zoneQuota is the queue's quota in bytes. WAYBILL_DEADZONE_MIB=1024 makes it a gigabyte, of which make torture has a step: 3 GiB
// are offered then, and files take 4 GiB for some minutes.
func zoneQuota(t *testing.T) int64 {
	t.Helper()
	text, ok := os.LookupEnv("WAYBILL_DEADZONE_MIB")
	if !ok {
		return 16 << 20
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 16 || n > 1<<16 {
		t.Fatalf("WAYBILL_DEADZONE_MIB=%s: must be between 16 and 65536", text)
	}
	return int64(n) << 20
}

func (z *zone) open() {
	z.t.Helper()
	var err error
	z.queue, err = buffer.Open(z.dir, buffer.Options{
		MaxBytes: z.quota, MinFree: -1, Rand: rand.Reader, Thin: true,
		OnEvict: func(of buffer.Eviction) (out buffer.Evicted, err error) {
			r := pipeline.Request{Lane: telemetrypb.Lane(of.Lane), Epoch: of.Epoch, Thin: of.Thin,
				Reserve: func(l telemetrypb.Lane) uint64 { return of.Reserve(buffer.Lane(l)) }}
			for _, b := range of.Batches {
				r.Old = append(r.Old, pipeline.Stored{Epoch: b.Epoch, Sealed: pipeline.Sealed{
					Lane: telemetrypb.Lane(b.Lane), Seq: b.Seq, Samples: b.Samples, First: b.First, Last: b.Last, Bytes: b.Bytes}})
			}
			losses, copies, err := z.evictor.Evict(r)
			for _, s := range losses {
				out.Losses = append(out.Losses, buffer.Record{Lane: buffer.Lane(s.Lane), Seq: s.Seq, Samples: s.Samples, Bytes: s.Bytes})
			}
			for _, s := range copies {
				out.Copies = append(out.Copies, buffer.Record{Lane: buffer.Lane(s.Lane), Seq: s.Seq, Samples: s.Samples, First: s.First, Last: s.Last, Bytes: s.Bytes})
			}
			return out, err
		},
	})
	if err != nil {
		z.t.Fatal(err)
	}
	z.t.Cleanup(func() { z.queue.Close() })
}

// batch seals samples that do not compress; every signal has n of them.
func (z *zone) batch(lane telemetrypb.Lane, signal uint32, name string, n, bytes int) buffer.Record {
	z.t.Helper()
	h := z.head
	h.Lane, h.Epoch, h.Seq = lane, z.queue.Epoch(), z.queue.Reserve(buffer.Lane(lane))
	first := z.now + 1
	var samples []telemetrypb.Sample
	for range n {
		z.now += 1_000_000
		text := make([]byte, bytes)
		for i := range text {
			text[i] = byte(' ' + z.random.IntN(95))
		}
		samples = append(samples, telemetrypb.StringSample(signal, z.now, string(text)))
		z.offered[sampleName{name, z.now}] = lane == telemetrypb.Lane_LANE_TELEMETRY
	}
	z.counts[lane] += uint64(n)
	b, err := telemetrypb.AppendBatch(nil, &h, samples)
	if err != nil {
		z.t.Fatal(err)
	}
	return buffer.Record{Lane: buffer.Lane(lane), Seq: h.Seq, Samples: uint32(n), First: first, Last: z.now, Bytes: b}
}

func (z *zone) commit(batches ...buffer.Record) {
	z.t.Helper()
	if err := z.queue.Commit(batches, nil); err != nil {
		z.t.Fatal(err)
	}
	if used := z.queue.Stats().DiskBytes; used > z.quota {
		z.t.Fatalf("%d bytes on disk, quota %d", used, z.quota)
	}
}

// A week in a dead zone, in small: three times the quota is offered. Events and control arrive whole, of telemetry each
// sample arrives once or stands in the ledger, and the ledger's count is exact. With receipts lost, what had arrived
// before it was thinned or dropped is there whole and once all the same.
func TestDeadZone(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprint("receipts lost ", lost), func(t *testing.T) { deadZone(t, lost) })
	}
}

func deadZone(t *testing.T, receiptsLost bool) {
	random := mrand.New(mrand.NewPCG(8, 8))
	z := &zone{t: t, dir: filepath.Join(t.TempDir(), "queue"), quota: zoneQuota(t), random: random, offered: map[sampleName]bool{}, counts: map[telemetrypb.Lane]uint64{}}
	sel, err := pipeline.Choose([]*telemetrypb.Signal{
		{Name: "can0.A.Text", Source: "can:can0", Type: telemetrypb.ValueType_VALUE_TYPE_STRING},
		{Name: "agent.event", Source: "agent", Type: telemetrypb.ValueType_VALUE_TYPE_STRING},
	}, []pipeline.Collect{{Match: "*"}})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := sel.ID("can0.A.Text")
	event, _ := sel.ID("agent.event")
	z.head = telemetrypb.Head{Tenant: "acme", Device: "car-1", BootID: [16]byte{7}, BootCount: 3, Catalogue: sel.ShortHash()}
	z.evictor = pipeline.Evictor{Tenant: "acme", Device: "car-1", BootID: [16]byte{7}, BootCount: 3, Every: 10, BatchBytes: 16 << 10}
	z.open()
	var records []*telemetrypb.Record
	data, _ := telemetrypb.EncodeCatalogue(sel.Catalogue())
	for _, part := range telemetrypb.SplitCatalogue(data) {
		records = append(records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: part}})
	}
	h := z.head
	h.Lane, h.Epoch, h.Seq, h.Catalogue = telemetrypb.Lane_LANE_CONTROL, z.queue.Epoch(), z.queue.Reserve(buffer.Control), [16]byte{}
	b, err := telemetrypb.AppendControl(nil, &h, &telemetrypb.Records{Records: records})
	if err != nil {
		t.Fatal(err)
	}
	z.commit(buffer.Record{Lane: buffer.Control, Seq: h.Seq, Samples: uint32(len(records)), Bytes: b})

	c := newCloud(t, random)
	delivered, start := uint64(0), time.Now()
	bytes, commits := int64(0), 0
	perCommit := 2
	if z.quota > 256<<20 { // else it takes hours
		perCommit = 8
	}
	for n := 0; bytes < 3*z.quota; n++ {
		var batches []buffer.Record
		for range perCommit {
			batches = append(batches, z.batch(telemetrypb.Lane_LANE_TELEMETRY, text, "can0.A.Text", 16, 900))
		}
		if n%8 == 0 {
			batches = append(batches, z.batch(telemetrypb.Lane_LANE_EVENT, event, "agent.event", 1, 200))
		}
		for _, b := range batches {
			bytes += int64(len(b.Bytes))
		}
		z.commit(batches...)
		commits++
		if receiptsLost && n%9 == 0 { // a payload comes through, its receipt does not
			r, err := z.queue.Next(buffer.Telemetry, uint64(1+random.IntN(int(z.queue.Stats().Lanes[buffer.Telemetry].Newest))))
			if errors.Is(err, buffer.ErrEmpty) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			delivered++
			m := ingest.Message{Topic: telemetrypb.Topic("acme", "car-1", telemetrypb.TopicLane(telemetrypb.Lane_LANE_TELEMETRY)), Payload: telemetrypb.AppendPayload(nil, false, nil, r.Bytes)}
			if _, _, err := c.ingest.Apply(context.Background(), []ingest.Message{m}); err != nil {
				t.Fatal(err)
			}
		}
		if n%500 == 499 {
			if err := z.queue.Close(); err != nil {
				t.Fatal(err)
			}
			z.open()
		}
	}
	st := z.queue.Stats().Lanes
	if st[buffer.Telemetry].Thinned+st[buffer.Telemetry].Evicted == 0 || st[buffer.Event].Evicted > 0 {
		t.Fatalf("%+v", st)
	}
	t.Logf("%d bytes in %d commits in %v, %d on disk; %+v", bytes, commits, time.Since(start).Round(time.Second), z.queue.Stats().DiskBytes, st)
	z.inOrder()
	start = time.Now()
	c.window = 2048
	c.take(t, z.queue, func([16]byte) *telemetrypb.ClockRecord { return nil })
	t.Logf("drained in %v", time.Since(start).Round(time.Second))
	if err := z.queue.Sync(); err != nil {
		t.Fatal(err)
	}
	if used := z.queue.Stats().DiskBytes; used > z.quota/16 {
		t.Errorf("%d bytes on disk after everything is drained", used)
	}
	for l, s := range z.queue.Stats().Lanes {
		if s.Batches > 0 {
			t.Errorf("%d batches of lane %s are left", s.Batches, l)
		}
	}
	z.check(c.store, delivered)
}

// inOrder looks at what is left before it is drained: of each lane the batches that were not thinned come in the order in
// which they were taken, and none overlaps the one before.
func (z *zone) inOrder() {
	z.t.Helper()
	for _, lane := range []buffer.Lane{buffer.Event, buffer.Telemetry} {
		last, from := int64(0), uint64(0)
		for {
			r, err := z.queue.Next(lane, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				z.t.Fatal(err)
			}
			from = r.Seq + 1
			view, err := telemetrypb.OpenBatch(r.Bytes)
			if err != nil {
				z.t.Fatal(err)
			}
			if len(view.Envelope.GetSupersedes()) > 0 {
				continue
			}
			if r.First <= last {
				z.t.Errorf("batch %d of lane %s begins at %d, the one before ended at %d", r.Seq, lane, r.First, last)
			}
			last = r.Last
		}
	}
}

// check holds the store to what was offered.
func (z *zone) check(s *store.SQLite, delivered uint64) {
	t := z.t
	t.Helper()
	got := map[sampleName]bool{}
	arrived := map[telemetrypb.Lane]uint64{}
	err := s.Samples(context.Background(), store.Query{}, func(r *store.Reading) error {
		name := sampleName{r.Signal, r.BootNS}
		if got[name] {
			t.Errorf("%v is there twice", name)
		}
		if _, ok := z.offered[name]; !ok {
			t.Errorf("%v was never offered", name)
		}
		got[name] = true
		arrived[r.Lane]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, mayBeLost := range z.offered {
		if !mayBeLost && !got[name] {
			t.Errorf("%v is not there", name)
		}
	}
	losses, err := s.Losses(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	lost, reasons := uint64(0), map[string]uint64{}
	for _, l := range losses {
		if l.Lane != "telemetry" || l.Unit != "samples" || len(l.Seqs) == 0 || l.BootID == "" || l.FirstNS <= 0 || l.LastNS < l.FirstNS {
			t.Errorf("loss %+v", l)
		}
		lost += l.Count
		reasons[l.Reason] += l.Count
	}
	if s.Totals().Gaps > 0 {
		t.Errorf("totals %+v", s.Totals())
	}
	offered, there := z.counts[telemetrypb.Lane_LANE_TELEMETRY], arrived[telemetrypb.Lane_LANE_TELEMETRY]
	t.Logf("%d samples of telemetry offered, %d there, lost %v, %d batches came without a receipt, %d losses", offered, there, reasons, delivered, len(losses))
	switch {
	case delivered == 0 && there+lost != offered:
		t.Errorf("%d there and %d lost of %d offered", there, lost, offered)
	case there+lost < offered: // arrival beats a loss record, so the sum may be more
		t.Errorf("%d there and %d lost of %d offered", there, lost, offered)
	}
	if reasons["LOSS_THINNED"] == 0 || reasons["LOSS_EVICTED"] == 0 {
		t.Errorf("reasons %v", reasons)
	}
}
