package sim

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
)

// TestRestoredStore: the store is copied, confirms for a minute more, and is gone for an hour while the broker acknowledges
// everything. Then the copy takes its place. What it confirmed in that minute, the vehicle has released; it asks for it,
// and in the end every sample is there once and the ledger is empty. Without a word between the two (the control) the
// minute is lost. With less kept than the copy is old, what is gone stands in the ledger, with its numbers.
func TestRestoredStore(t *testing.T) {
	for name, r := range map[string]restored{
		"the broker keeps it":    {keep: 2 * time.Hour, outage: time.Hour, recall: true},
		"the broker forgets":     {keep: 2 * time.Hour, outage: time.Hour, recall: true, forgets: true},
		"killed while it sends":  {keep: 2 * time.Hour, outage: time.Hour, recall: true, forgets: true, kill: true},
		"never asked":            {keep: 2 * time.Hour, outage: 10 * time.Minute},
		"kept for a moment only": {keep: time.Second, outage: 5 * time.Minute, recall: true, text: 6000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r.dir, r.fleetDB = t.TempDir(), filepath.Join(t.TempDir(), "fleet.db")
			synctest.Test(t, func(t *testing.T) { r.live(t) })
		})
	}
}

// restored is a vehicle, a broker and a store that is restored, in a bubble of time.
type restored struct {
	keep, outage          time.Duration
	recall, forgets, kill bool
	text                  int // bytes of a telemetry sample; 0: 40

	t       *testing.T
	dir     string // the queue's
	fleetDB string
	zone    *zone
	signal  uint32
	event   uint32
	broker  *mqttBroker
	store   *store.SQLite
	ingest  *ingest.Ingester
	alarms  *alarm.Board
	uplink  *uplink.Uplink
	stop    func()
}

func (r *restored) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *restored) live(t *testing.T) {
	r.t = t
	random := mrand.New(mrand.NewPCG(9, 9))
	r.zone = &zone{t: t, dir: r.dir, random: random, offered: map[sampleName]bool{}, counts: map[telemetrypb.Lane]uint64{}}
	r.broker = newMQTTBroker(50 * time.Millisecond)
	r.broker.statuses = true
	r.openStore()
	r.openQueue()
	r.catalogue()
	r.begin()
	r.drive(10*time.Minute, true, true)

	// The copy. The store itself is not touched by it.
	r.check(r.store.Close())
	image, err := os.ReadFile(r.fleetDB)
	r.check(err)
	r.openStore()
	first := r.store.Generation()
	r.drive(time.Minute, true, true) // confirmed, released, and not in the copy
	if n := r.left(); n > 2 {
		t.Fatalf("%d batches wait for a receipt before the store stops", n)
	}
	r.check(r.store.Close())
	r.store = nil
	r.drive(r.outage, true, false) // acknowledged by the broker, no more
	if n := r.left(); n < uint64(r.outage/(7*time.Second)) {
		t.Fatalf("%d batches are held after the hour, without any receipt", n)
	}
	if r.forgets {
		r.broker.set(func() { r.broker.waiting = nil })
	}
	for _, tail := range []string{"-wal", "-shm"} {
		_ = os.Remove(r.fleetDB + tail)
	}
	r.check(os.WriteFile(r.fleetDB, image, 0o600))
	r.openStore()
	if r.store.Generation() == first {
		t.Fatal("the restored store has its old generation")
	}
	if r.kill {
		for r.uplink.State().Recalled == 0 {
			time.Sleep(10 * time.Millisecond)
			r.work()
		}
		r.killAgent() // before any of it is at the broker
	}
	r.drive(3*time.Minute, true, true)
	for range 60 { // what was asked for last, and the status that ends it
		r.drive(time.Minute, false, false)
		if r.left() == 0 {
			break
		}
	}
	r.stop()
	r.verdict()
	r.broker.each((*end).reset)
	r.broker.serving.Wait()
	r.check(errors.Join(r.zone.queue.Close(), r.store.Close()))
}

func (r *restored) openStore() {
	var err error
	r.store, err = store.Open(context.Background(), r.fleetDB, store.Options{Rand: rand.Reader})
	r.check(err)
	r.ingest = ingest.New(ingest.Options{Now: func() time.Time { return built }}, r.store)
}

func (r *restored) openQueue() {
	var err error
	r.zone.queue, err = buffer.Open(r.dir, buffer.Options{SegmentBytes: 256 << 10, MaxBytes: 64 << 20, MinFree: -1, Rand: rand.Reader, KeepReleased: r.keep, Now: time.Now})
	r.check(err)
}

// catalogue commits the record that everything else needs; it is in the copy.
func (r *restored) catalogue() {
	sel, err := pipeline.Choose([]*telemetrypb.Signal{
		{Name: "can0.A.Text", Source: "can:can0", Type: telemetrypb.ValueType_VALUE_TYPE_STRING},
		{Name: "agent.event", Source: "agent", Type: telemetrypb.ValueType_VALUE_TYPE_STRING},
	}, []pipeline.Collect{{Match: "*"}})
	r.check(err)
	r.signal, _ = sel.ID("can0.A.Text")
	r.event, _ = sel.ID("agent.event")
	r.zone.head = telemetrypb.Head{Tenant: "acme", Device: "car-1", BootID: [16]byte{7}, BootCount: 3, Catalogue: sel.ShortHash()}
	var records []*telemetrypb.Record
	data, _ := telemetrypb.EncodeCatalogue(sel.Catalogue())
	for _, part := range telemetrypb.SplitCatalogue(data) {
		records = append(records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: part}})
	}
	r.control(records...)
}

func (r *restored) control(records ...*telemetrypb.Record) {
	h := r.zone.head
	h.Lane, h.Epoch, h.Seq, h.Catalogue = telemetrypb.Lane_LANE_CONTROL, r.zone.queue.Epoch(), r.zone.queue.Reserve(buffer.Control), [16]byte{}
	b, err := telemetrypb.AppendControl(nil, &h, &telemetrypb.Records{Records: records})
	r.check(err)
	r.check(r.zone.queue.Commit([]buffer.Record{{Lane: buffer.Control, Seq: h.Seq, Samples: uint32(len(records)), Bytes: b}}, nil))
}

// begin starts the agent's uplink.
func (r *restored) begin() {
	queue := r.zone.queue
	r.alarms = alarm.NewBoard(func() int64 { return 1 }, slog.New(slog.DiscardHandler))
	o := uplink.Options{
		URL: "tcp://broker.example:1883", Insecure: true, Tenant: "acme", Device: "car-1", Dial: r.broker.dial, StopTimeout: 200 * time.Millisecond,
		Status: func() *telemetrypb.Status {
			st := &telemetrypb.Status{}
			for l, s := range queue.Stats().Lanes {
				st.Queue = append(st.Queue, &telemetrypb.LaneDepth{Lane: telemetrypb.Lane(l), Batches: s.Batches, NextSeq: s.Next})
			}
			return st
		},
		OnNotKept: func(l *telemetrypb.Loss) { r.control(&telemetrypb.Record{Record: &telemetrypb.Record_Loss{Loss: l}}) },
		Alarms:    r.alarms, Log: slog.New(slog.DiscardHandler),
	}
	if r.recall {
		o.Recall = queue.Recall
	}
	var err error
	r.uplink, err = uplink.New(o, queue)
	r.check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.uplink.Run(ctx) }()
	r.stop = func() {
		cancel()
		r.check(<-done)
	}
}

// killAgent ends the process as it stands: its folder is what it is at this moment, and a new one opens it.
func (r *restored) killAgent() {
	r.broker.set(func() { r.broker.covered = false })
	copied := r.dir + "-after"
	r.check(os.CopyFS(copied, os.DirFS(r.dir)))
	waiting := r.left()
	r.broker.each((*end).reset)
	r.stop()
	r.check(r.zone.queue.Close())
	r.dir = copied
	r.openQueue()
	r.broker.set(func() { r.broker.covered = true })
	r.t.Logf("killed with %d batches unreleased, %d of them recalled; %d after the start", waiting, r.uplink.State().Recalled, r.left())
	r.begin()
}

// left is how many batches the queue has not released.
func (r *restored) left() (n uint64) {
	for _, s := range r.zone.queue.Stats().Lanes {
		n += s.Batches
	}
	return n
}

// drive lets time pass, while samples are taken and the store works. Where others are true, events and control records
// come as well: what was last of a lane in the minute that the copy lacks is the last for an hour.
func (r *restored) drive(d time.Duration, samples, others bool) {
	for second := range int(d / time.Second) {
		if samples && second%6 == 0 {
			r.check(r.zone.queue.Commit([]buffer.Record{r.zone.batch(telemetrypb.Lane_LANE_TELEMETRY, r.signal, "can0.A.Text", 4, max(r.text, 40))}, nil))
		}
		if others && second%25 == 0 {
			r.check(r.zone.queue.Commit([]buffer.Record{r.zone.batch(telemetrypb.Lane_LANE_EVENT, r.event, "agent.event", 1, 40)}, nil))
		}
		if others && second%20 == 0 {
			r.control(&telemetrypb.Record{Record: &telemetrypb.Record_Device{Device: &telemetrypb.DeviceInfo{BootNs: int64(second), Mode: "normal"}}})
		}
		if second%20 == 0 {
			r.check(r.zone.queue.SyncLate())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r.work()
	}
}

// work has the store take what waits.
func (r *restored) work() {
	for r.store != nil {
		taken := r.broker.take(8)
		if len(taken) == 0 {
			return
		}
		var messages []ingest.Message
		for _, m := range taken {
			messages = append(messages, ingest.Message{Topic: m.topic, Payload: m.payload})
		}
		replies, _, err := r.ingest.Apply(context.Background(), messages)
		r.check(err)
		r.broker.settle(taken)
		for _, reply := range replies {
			data, err := proto.Marshal(reply.Receipt)
			r.check(err)
			r.broker.publish(reply.Topic, data)
		}
	}
}

// verdict holds the store to what was taken.
func (r *restored) verdict() {
	t := r.t
	got := map[sampleName]int{}
	r.check(r.store.Samples(context.Background(), store.Query{}, func(row *store.Reading) error {
		got[sampleName{row.Signal, row.BootNS}]++
		return nil
	}))
	missing := 0
	for name := range r.zone.offered {
		switch got[name] {
		case 0:
			missing++
		case 1:
		default:
			t.Errorf("%v is there %d times", name, got[name])
		}
	}
	losses, err := r.store.Losses(context.Background(), "")
	r.check(err)
	totals, state := r.store.Totals(), r.uplink.State()
	t.Logf("%d samples, %d missing; store %+v; %d batches recalled, %d not kept, %d sent, %d resent", len(r.zone.offered), missing, totals,
		state.Recalled, state.NotKept, state.BatchesSent, state.BatchesResent)
	if n := r.left(); n > 0 {
		t.Errorf("%d batches are not released in the end", n)
	}
	switch {
	case !r.recall:
		if missing == 0 || totals.Gaps == 0 {
			t.Error("nothing is missing, so that the test shows nothing")
		}
	case r.keep < time.Minute:
		var lost uint64
		for _, l := range losses {
			if l.Reason != "LOSS_NOT_KEPT" || l.Unit != "batches" || len(l.Seqs) == 0 || l.Arrived > 0 {
				t.Errorf("loss %+v", l)
			}
			lost += l.Count
		}
		if lost == 0 || lost != state.NotKept || missing != 4*int(lost) || totals.Gaps > 0 { // 4 samples a batch
			t.Errorf("%d samples are missing, %d batches stand in the ledger, %d gaps", missing, lost, totals.Gaps)
		}
		if !standing(r.alarms, "uplink.not_kept") {
			t.Error("there is no alarm")
		}
	default:
		if missing > 0 || totals.Gaps > 0 || len(losses) > 0 || totals.Letters > 0 || totals.Parked > 0 {
			t.Errorf("%d of %d samples are missing; %+v; losses %+v", missing, len(r.zone.offered), totals, losses)
		}
		if state.Recalled < 10 || state.Recalled > 30 {
			t.Errorf("%d batches were recalled, want about a minute's", state.Recalled)
		}
	}
}

func standing(b *alarm.Board, name string) bool {
	for _, a := range b.Standing() {
		if a.Name == name {
			return true
		}
	}
	return false
}
