package sim

import (
	"context"
	"crypto/rand"
	"errors"
	mrand "math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// cloud is the store behind a network that delivers late, twice, and in another order.
type cloud struct {
	store  *store.SQLite
	ingest *ingest.Ingester
	random *mrand.Rand
	old    []ingest.Message // some that came before, to come again
	window int              // payloads of a lane that are taken at a time; 0 = all
}

func newCloud(t testing.TB, random *mrand.Rand) *cloud {
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &cloud{store: s, ingest: ingest.New(ingest.Options{Now: func() time.Time { return built }, RetimeSamples: 2000}, s), random: random}
}

// perPayload is how many batches a payload carries at most.
const perPayload = 8

// take packs everything in the queue into payloads with the clock records of their boots, as the uplink does, shuffles
// them, and releases what the receipts call stored. What is parked is sent again, as the uplink would.
func (c *cloud) take(t testing.TB, queue *buffer.Queue, clocks func([16]byte) *telemetrypb.ClockRecord) {
	t.Helper()
	for round := 0; ; round++ {
		var messages []ingest.Message
		for _, lane := range buffer.Lanes() {
			messages = append(messages, payloads(t, queue, lane, clocks, c.window)...)
		}
		if len(messages) == 0 || round > 2 && c.window == 0 {
			return
		}
		if round > 10_000 {
			t.Fatal("the queue does not empty")
		}
		fresh := messages
		for range min(3, len(c.old)) {
			messages = append(messages, c.old[c.random.IntN(len(c.old))])
		}
		c.random.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
		c.apply(t, queue, messages)
		for _, m := range fresh {
			if c.random.IntN(4) == 0 && (c.window == 0 || len(c.old) < c.window) {
				c.old = append(c.old, m)
			}
		}
	}
}

// apply hands messages over a few at a time and obeys the receipts.
func (c *cloud) apply(t testing.TB, queue *buffer.Queue, messages []ingest.Message) {
	t.Helper()
	for len(messages) > 0 {
		n := min(len(messages), 1+c.random.IntN(5))
		replies, _, err := c.ingest.Apply(context.Background(), messages[:n])
		if err != nil {
			t.Fatal(err)
		}
		messages = messages[n:]
		for more := c.random.IntN(2) == 0; more; {
			if more, _, err = c.ingest.Retime(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		for _, reply := range replies {
			for _, r := range reply.Receipt.GetRanges() {
				switch r.GetVerdict() {
				case telemetrypb.Verdict_VERDICT_STORED:
					if err := queue.Release(buffer.Lane(r.GetLane()), buffer.Range{First: r.GetFirst(), Last: r.GetLast()}); err != nil {
						t.Fatal(err)
					}
				case telemetrypb.Verdict_VERDICT_REJECTED:
					t.Fatalf("rejected: %v", r)
				}
			}
		}
	}
}

func payloads(t testing.TB, queue *buffer.Queue, lane buffer.Lane, clocks func([16]byte) *telemetrypb.ClockRecord, most int) (messages []ingest.Message) {
	t.Helper()
	var batches [][]byte
	var records []*telemetrypb.ClockRecord
	seen := map[[16]byte]bool{}
	flush := func() {
		if len(batches) > 0 {
			topic := telemetrypb.Topic("acme", "car-1", telemetrypb.TopicLane(telemetrypb.Lane(lane)))
			messages = append(messages, ingest.Message{Topic: topic, Payload: telemetrypb.AppendPayload(nil, false, records, batches...)})
		}
		batches, records = nil, nil
		clear(seen)
	}
	for from := uint64(1); ; {
		record, err := queue.Next(lane, from)
		if errors.Is(err, buffer.ErrEmpty) {
			flush()
			return messages
		}
		if most > 0 && len(messages) == most {
			return messages
		}
		if err != nil {
			t.Fatal(err)
		}
		from = record.Seq + 1
		view, err := telemetrypb.OpenBatch(record.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		boot := [16]byte(view.Envelope.GetBootId())
		if r := clocks(boot); r != nil && !seen[boot] {
			records = append(records, r)
		}
		seen[boot] = true
		if batches = append(batches, record.Bytes); len(batches) == perPayload {
			flush()
		}
	}
}

// pipelineQueue is the queue as the pipeline sees it.
type pipelineQueue struct{ q buffertest.Queue }

func (p pipelineQueue) Epoch() uint64                        { return p.q.Epoch() }
func (p pipelineQueue) Reserve(lane telemetrypb.Lane) uint64 { return p.q.Reserve(buffer.Lane(lane)) }

func (p pipelineQueue) Stored(lane telemetrypb.Lane, seq uint64) bool {
	return p.q.Stored(buffer.Lane(lane), seq)
}

func (p pipelineQueue) Commit(sealed []pipeline.Sealed, journal []pipeline.Journal) error {
	var batches []buffer.Record
	for _, s := range sealed {
		r := buffer.Record{Lane: buffer.Lane(s.Lane), Seq: s.Seq, Samples: s.Samples, First: s.First, Last: s.Last, Bytes: s.Bytes}
		for _, lost := range s.Lost {
			r.Lost = append(r.Lost, buffer.Numbers{Lane: buffer.Lane(lost.Lane), Range: buffer.Range{First: lost.First, Last: lost.Last}})
		}
		batches = append(batches, r)
	}
	var entries []buffer.JournalEntry
	for _, j := range journal {
		entries = append(entries, buffer.JournalEntry{Lane: buffer.Lane(j.Lane), Seq: j.Seq, Boot: j.BootID, BootCount: j.BootCount, Catalogue: j.Catalogue, Bytes: j.Bytes})
	}
	return p.q.Commit(batches, entries)
}

// recoveredJournal is what a crash left in the queue's journal, as the pipeline takes it.
func recoveredJournal(q buffertest.Queue) (journal []pipeline.Journal) {
	for _, e := range q.Recovered() {
		journal = append(journal, pipeline.Journal{Lane: telemetrypb.Lane(e.Lane), Seq: e.Seq, Epoch: e.Epoch, BootID: e.Boot, BootCount: e.BootCount, Catalogue: e.Catalogue, Bytes: e.Bytes})
	}
	return journal
}
