package ingest

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// status is a vehicle's message with the numbers it has given in control and telemetry.
func (v *vehicle) status(change func(*telemetrypb.Status)) Message {
	v.t.Helper()
	s := &telemetrypb.Status{Online: true, Tenant: v.tenant, Device: v.device, Epoch: v.epoch, Nonce: 5, Queue: []*telemetrypb.LaneDepth{
		{Lane: control, NextSeq: v.seq[control] + 1}, {Lane: telemetry, NextSeq: v.seq[telemetry] + 1}, {Lane: 99, NextSeq: 77}}}
	if change != nil {
		change(s)
	}
	payload, err := proto.Marshal(s)
	if err != nil {
		v.t.Fatal(err)
	}
	return Message{telemetrypb.Topic(v.tenant, v.device, telemetrypb.TopicStatus), payload}
}

// wants writes what a receipt asks for as short words.
func wants(r Reply) string {
	w := r.Receipt.GetWanted()
	text := fmt.Sprintf("%s nonce %d more %v", r.Topic, w.GetNonce(), w.GetMore())
	for _, g := range w.GetRanges() {
		text += fmt.Sprintf(" %x/%s", g.GetEpoch(), telemetrypb.LaneName(g.GetLane()))
		for _, s := range g.GetSeqs() {
			text += fmt.Sprintf(" %d-%d", s.GetFirst(), s.GetLast())
		}
	}
	return text
}

// TestWanted: a status that does not know this store's generation is answered, behind all receipts of its transaction, with
// what the store lacks once all of that is in.
func TestWanted(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	batches := make([][]byte, 10)
	first := v.catalogueBatch()
	for i := range batches {
		batches[i] = v.telemetry(v.samples(int64(i)))
	}
	c.take(v.message(control, nil, first), v.message(telemetry, nil, batches[0], batches[1]))
	replies, counts := c.take(v.status(nil), v.status(func(s *telemetrypb.Status) { s.Nonce = 6 }), v.message(telemetry, nil, batches[5]))
	if len(replies) != 2 || replies[0].Receipt.GetWanted() != nil {
		t.Fatalf("%d replies: %v", len(replies), replies)
	}
	if got, want := wants(replies[1]), "wb1/acme/car-1/down/receipt nonce 6 more false 8000000000000001/telemetry 3-5 7-10"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if r := replies[1].Receipt; counts.Wanted != 7 || r.GetGeneration() != c.s.Generation() || r.GetStore() != c.s.Name() || len(r.GetRanges()) > 0 || r.GetNumber() == 0 {
		t.Errorf("%+v, %v", counts, r)
	}
	for name, m := range map[string]Message{
		"it knows the generation": v.status(func(s *telemetrypb.Status) { s.StoreGeneration = c.s.Generation() }),
		"no nonce":                v.status(func(s *telemetrypb.Status) { s.Nonce = 0 }),
		"a will":                  v.status(func(s *telemetrypb.Status) { s.Online = false }),
	} {
		if replies, _ := c.take(m); len(replies) > 0 {
			t.Errorf("%s: %v", name, replies)
		}
	}
	// A vehicle that this store has never heard of, or forgot.
	other := newVehicle(t, "car-2")
	other.seq[telemetry] = 3
	replies, _ = c.take(other.status(nil))
	if got, want := wants(replies[0]), "wb1/acme/car-2/down/receipt nonce 5 more false 8000000000000001/telemetry 1-3"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	// Bounded: every second number of many.
	h := newVehicle(t, "car-3")
	var odd [][]byte
	for i := range 2*maxWanted + 10 {
		if b := h.telemetry(h.samples(int64(i))[:1]); i%2 == 1 {
			odd = append(odd, b)
		}
	}
	c.take(h.message(telemetry, nil, odd...))
	replies, _ = c.take(h.status(nil))
	w := replies[0].Receipt.GetWanted()
	if n := len(w.GetRanges()[0].GetSeqs()); n != maxWanted || !w.GetMore() {
		t.Errorf("%d ranges, more %v", n, w.GetMore())
	}
}
