package ingest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	control   = telemetrypb.Lane_LANE_CONTROL
	telemetry = telemetrypb.Lane_LANE_TELEMETRY
)

// want is what columnRows must have made of samples, worked out from the catalogue by hand.
func (v *vehicle) want(t *testing.T, c *cloud, seq uint64, samples []telemetrypb.Sample) {
	t.Helper()
	view := map[uint32]*telemetrypb.Signal{}
	for _, s := range v.catalogue.Signals {
		view[s.Id] = s
	}
	var got []store.Reading
	if err := c.s.Samples(context.Background(), store.Query{Device: v.device}, func(r *store.Reading) error {
		if r.Seq == seq && r.Lane == telemetry {
			got = append(got, *r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(samples) {
		t.Fatalf("seq %d: %d readings, want %d", seq, len(got), len(samples))
	}
	for _, s := range samples {
		i := slices.IndexFunc(got, func(r store.Reading) bool {
			return r.Signal == view[s.Signal].Name && r.BootNS == s.Time && r.Raw == (store.Scalar{Kind: s.Kind, Bits: s.Bits, Text: s.Str})
		})
		if i < 0 {
			t.Errorf("seq %d: no reading of %s at %d with raw %v/%x/%q in %+v", seq, view[s.Signal].Name, s.Time, s.Kind, s.Bits, s.Str, got)
		}
	}
}

func TestExactValuesOfEveryKind(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	samples := v.samples(3)
	replies, counts := c.take(v.message(control, nil, v.catalogueBatch()), v.message(telemetry, nil, v.telemetry(samples)))
	if got, want := verdicts(replies), "#1 control 1-1 STORED;#2 telemetry 1-1 STORED;"; got != want {
		t.Fatalf("receipts %q, want %q", got, want)
	}
	if counts.Batches != 2 || counts.Samples != uint64(len(samples)) {
		t.Fatalf("counts %+v", counts)
	}
	v.want(t, c, 1, samples)
	var big, label, scaled int
	c.s.Samples(context.Background(), store.Query{Signal: "can0.*"}, func(r *store.Reading) error {
		switch {
		case r.Signal == "can0.Count.Whole" && r.Raw.Bits == math.MaxUint64 && r.Value == r.Raw:
			big++
		case r.Signal == "can0.Body.Gear" && (int64(r.Raw.Bits) == -1 && r.Label == "R" || r.Raw.Bits == 1 && r.Label == "D"):
			label++
		case r.Signal == "can0.Motor.Torque" && math.Float64frombits(r.Value.Bits) == -101.5 && r.Unit == "Nm":
			scaled++
		}
		return nil
	})
	if big != 1 || label != 2 || scaled != 1 {
		t.Errorf("uint64 maximum %d, labels %d, scaled %d", big, label, scaled)
	}
	c.reopen()
	v.want(t, c, 1, samples)
}

func TestDuplicatesAndOrderMakeNoDifference(t *testing.T) {
	v := newVehicle(t, "car-1")
	messages := []Message{v.message(control, nil, v.catalogueBatch())}
	for n := int64(1); n <= 20; n++ {
		messages = append(messages, v.message(telemetry, nil, v.telemetry(v.samples(n)), v.telemetry(v.samples(n+100))))
	}
	inOrder := newCloud(t)
	inOrder.take(messages...)
	want := inOrder.readings()
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 0))
		c := newCloud(t)
		var stream []Message
		for range 3 {
			stream = append(stream, messages...)
		}
		rng.Shuffle(len(stream), func(i, j int) { stream[i], stream[j] = stream[j], stream[i] })
		var duplicates uint64
		for len(stream) > 0 {
			n := min(len(stream), 1+rng.IntN(7))
			_, counts := c.take(stream[:n]...)
			duplicates += counts.Duplicates
			stream = stream[n:]
		}
		if duplicates != 2*41 {
			t.Errorf("seed %d: %d duplicates, want 82", seed, duplicates)
		}
		if got := c.readings(); !slices.Equal(got, want) {
			t.Fatalf("seed %d: readings differ from those in order", seed)
		}
		if totals := c.s.Totals(); totals.Gaps != 0 || totals.Parked != 0 || totals.Batches != 41 {
			t.Errorf("seed %d: totals %+v", seed, totals)
		}
		c.reopen()
	}
}

func TestParkedUntilTheCatalogueComes(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	batch := v.telemetry(v.samples(1))
	crc := mustOpen(t, batch).Envelope.Crc32C
	replies, counts := c.take(v.message(telemetry, nil, batch, v.telemetry(v.samples(2))))
	if got := verdicts(replies); got != "#1 telemetry 1-2 PARKED;" || counts.Parked != 2 {
		t.Fatalf("receipts %q, counts %+v", got, counts)
	}
	if want := replies[0].Receipt.Ranges[0].WantCatalogue; string(want) != string(v.hash[:16]) {
		t.Errorf("want_catalogue %x, want %x", want, v.hash[:16])
	}
	if n := len(c.readings()); n != 0 {
		t.Fatalf("%d readings of parked batches", n)
	}
	c.reopen() // parked batches survive
	replies, counts = c.take(v.message(telemetry, nil, batch))
	if got := verdicts(replies); got != "#2 telemetry 1-1 PARKED;" || counts.Duplicates != 1 {
		t.Fatalf("a parked batch sent again: %q, %+v", got, counts)
	}
	replies, counts = c.take(v.message(control, nil, v.catalogueBatch()))
	if got := verdicts(replies); got != "#3 control 1-1 STORED telemetry 1-1 STORED telemetry 2-2 STORED;" || counts.Unparked != 2 {
		t.Fatalf("after the catalogue: %q, %+v", got, counts)
	}
	if r := replies[0].Receipt.Ranges[1]; r.CrcXor != crc || r.Count != 1 {
		t.Errorf("range %v, want crc %08x of one batch", r, crc)
	}
	v.want(t, c, 1, v.samples(1))
	v.want(t, c, 2, v.samples(2))
	replies, _ = c.take(v.message(telemetry, nil, batch))
	if got := verdicts(replies); got != "#4 telemetry 1-1 STORED;" {
		t.Errorf("sent once more: %q", got)
	}
	c.reopen()
}

func TestCatalogueInManyPartsOutOfOrderOverRestarts(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	for id := uint32(7); id < 1200; id++ {
		v.catalogue.Signals = append(v.catalogue.Signals, &telemetrypb.Signal{Id: id, Name: fmt.Sprintf("can0.Many.Signal%d", id), Comment: strings.Repeat("x", 40)})
	}
	v.data, v.hash = telemetrypb.EncodeCatalogue(v.catalogue)
	parts := telemetrypb.SplitCatalogue(v.data)
	if len(parts) < 4 {
		t.Fatalf("only %d parts", len(parts))
	}
	c.take(v.message(telemetry, nil, v.telemetry(v.samples(1))))
	for i := len(parts) - 1; i >= 0; i-- {
		if len(c.readings()) != 0 {
			t.Fatalf("decoded with %d parts missing", i+1)
		}
		c.take(v.message(control, nil, v.control(&telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: parts[i]}})))
		c.reopen()
	}
	v.want(t, c, 1, v.samples(1))
}

func TestPlainAndColumnsGiveTheSameRows(t *testing.T) {
	v := newVehicle(t, "car-1")
	// A physical value is raw × scale + offset, which makes +0 of −0: the sign of zero cannot be carried plainly.
	samples := slices.DeleteFunc(v.samples(5), func(s telemetrypb.Sample) bool { return s.Kind == telemetrypb.KindFloat && s.Bits == 1<<63 })
	catalogue, batch := v.catalogueBatch(), v.telemetry(samples)
	clock := v.clock(3, anchor(0, time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC), 1000))
	columns := newCloud(t)
	columns.take(v.message(control, nil, catalogue), v.message(telemetry, []*telemetrypb.ClockRecord{clock}, batch))
	want := columns.readings()
	if len(want) != len(samples) {
		t.Fatalf("%d readings", len(want))
	}
	for _, json := range []bool{false, true} {
		c := newCloud(t)
		replies, _ := c.take(v.plain(json, catalogue, nil), v.plain(json, batch, clock))
		if got := verdicts(replies); got != "#1 control 1-1 STORED;#2 telemetry 1-1 STORED;" {
			t.Fatalf("json %v: %q", json, got)
		}
		if r := replies[1].Receipt.Ranges[0]; r.CrcXor != mustOpen(t, batch).Envelope.Crc32C {
			t.Errorf("json %v: receipt of crc %08x", json, r.CrcXor)
		}
		got := c.readings()
		for i := range want {
			// protobuf's JSON and double keep a NaN, not its payload.
			w := strings.ReplaceAll(want[i], "7ff8000000000bad", "NAN")
			g := strings.ReplaceAll(strings.ReplaceAll(got[i], "7ff8000000000bad", "NAN"), "7ff8000000000001", "NAN")
			if g != w {
				t.Errorf("json %v:\n got %s\nwant %s", json, g, w)
			}
		}
		// The same batch in columns is the same batch.
		replies, counts := c.take(v.message(telemetry, nil, batch))
		if counts.Duplicates != 1 || verdicts(replies) != "#3 telemetry 1-1 STORED;" {
			t.Errorf("json %v: columns after plain: %+v %q", json, counts, verdicts(replies))
		}
	}
}

func TestPlainWithoutCatalogueStandsUnderItsNames(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	at := time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC)
	c.take(v.plain(true, v.telemetry(v.samples(1)), v.clock(1, anchor(1_000_000_000, at, 5))))
	var gear, torque, dated int
	c.s.Samples(context.Background(), store.Query{}, func(r *store.Reading) error {
		if r.Signal == "can0.Body.Gear" && r.Label != "" {
			gear++
		}
		if r.Signal == "can0.Motor.Torque" && math.Float64frombits(r.Value.Bits) == -100.5 && r.Unit == "Nm" && r.Raw.Kind == telemetrypb.KindNone {
			torque++
		}
		if r.Time.UnixNS >= at.UnixNano() && r.Time.UnixNS < at.Add(time.Second).UnixNano() {
			dated++
		}
		return nil
	})
	if gear != 2 || torque != 1 || dated != len(v.samples(1)) {
		t.Errorf("labels %d, torque %d, dated %d", gear, torque, dated)
	}
}

func TestConflictIsKeptAsideAndRejected(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	c.take(v.message(control, nil, v.catalogueBatch()), v.message(telemetry, nil, v.telemetry(v.samples(1))))
	want := c.readings()
	v.seq[telemetry] = 0
	other := v.telemetry(v.samples(2))
	for range 2 {
		replies, counts := c.take(v.message(telemetry, nil, other))
		r := replies[0].Receipt.Ranges[0]
		if r.Verdict != telemetrypb.Verdict_VERDICT_REJECTED || !strings.HasPrefix(r.Reason, "conflict") || counts.Rejected != 1 {
			t.Fatalf("receipt %v, counts %+v", r, counts)
		}
		if r.CrcXor != mustOpen(t, other).Envelope.Crc32C {
			t.Errorf("the receipt must speak of the rejected batch, crc %08x", r.CrcXor)
		}
	}
	if !slices.Equal(c.readings(), want) {
		t.Error("the first batch must stand")
	}
	letters, err := c.s.DeadLetters(context.Background())
	if err != nil || len(letters) != 1 || letters[0].Reason != "conflict" || letters[0].Times != 2 || string(letters[0].Bytes) != string(other) {
		t.Errorf("dead letters %+v, %v", letters, err)
	}
}

func TestForeignNewerAndBroken(t *testing.T) {
	c, v, w := newCloud(t), newVehicle(t, "car-1"), newVehicle(t, "car-2")
	foreign := v.message(telemetry, nil, w.telemetry(w.samples(1)))
	replies, counts := c.take(foreign)
	if r := replies[0].Receipt.Ranges[0]; counts.Rejected != 1 || !strings.HasPrefix(r.Reason, "foreign") || replies[0].Topic != "wb1/acme/car-1/down/receipt" {
		t.Errorf("foreign: %v on %s, %+v", r, replies[0].Topic, counts)
	}
	newer := reseal(t, v.telemetry(v.samples(1)), func(e *telemetrypb.Envelope) { e.Format, e.MinReader = 9, 9 })
	replies, counts = c.take(v.message(telemetry, nil, newer))
	if r := replies[0].Receipt.Ranges[0]; counts.Parked != 1 || r.Verdict != telemetrypb.Verdict_VERDICT_PARKED || len(r.WantCatalogue) != 0 || replies[0].Receipt.MaxFormat != telemetrypb.Format {
		t.Errorf("newer: %v, %+v", r, counts)
	}
	sound, broken := v.telemetry(v.samples(2)), v.telemetry(v.samples(3))
	broken[len(broken)-1] ^= 1
	replies, counts = c.take(v.message(telemetry, nil, broken, sound))
	if got := verdicts(replies); got != "#3 telemetry 2-2 PARKED;" || counts.Malformed != 1 {
		t.Errorf("broken beside sound: %q, %+v", got, counts)
	}
	c.take(v.message(control, nil, v.catalogueBatch()))
	stray := append(v.samples(4), telemetrypb.UintSample(99, 4_000_000_000, 1))
	batch := v.telemetry(stray)
	for range 2 { // rejected stays rejected
		replies, _ = c.take(v.message(telemetry, nil, batch))
		if r := replies[0].Receipt.Ranges[0]; r.Verdict != telemetrypb.Verdict_VERDICT_REJECTED || !strings.Contains(r.Reason, "signal 99") {
			t.Errorf("a signal that is not in the catalogue: %v", r)
		}
	}
	c.take(Message{"wb1/acme/car-1/up/telemetry", []byte("garbage")}, Message{"wb1/acme", nil}, Message{"wb1/acme/car-1/up/nolane", nil})
	var reasons []string
	letters, err := c.s.DeadLetters(context.Background())
	for _, l := range letters {
		reasons = append(reasons, l.Reason)
	}
	if got := strings.Join(reasons, " "); err != nil || got != "foreign malformed malformed malformed malformed malformed" {
		t.Errorf("dead letters %q, %v", got, err)
	}
	c.reopen()
}

func TestGapsLossesAndEpochs(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	var batches [][]byte
	for n := int64(1); n <= 12; n++ {
		batches = append(batches, v.telemetry(v.samples(n)))
	}
	gaps := func() string {
		list, err := c.s.Gaps(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, g := range list {
			text += fmt.Sprintf("%s %s %d-%d;", g.Epoch, g.Lane, g.First, g.Last)
		}
		return text
	}
	c.take(v.message(control, nil, v.catalogueBatch()), v.message(telemetry, nil, batches[2], batches[6], batches[9]))
	if got, want := gaps(), "8000000000000001 telemetry 1-2;8000000000000001 telemetry 4-6;8000000000000001 telemetry 8-9;"; got != want {
		t.Fatalf("gaps %q, want %q", got, want)
	}
	loss := &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_EVICTED, Count: 4, Unit: "batches", Epoch: v.epoch, Lane: telemetry,
		Seqs: []*telemetrypb.SeqRange{{First: 4, Last: 6}, {First: 8, Last: 8}}}
	c.take(v.message(control, nil, v.control(&telemetrypb.Record{Record: &telemetrypb.Record_Loss{Loss: loss}})))
	if got, want := gaps(), "8000000000000001 telemetry 1-2;8000000000000001 telemetry 9-9;"; got != want {
		t.Fatalf("gaps %q, want %q", got, want)
	}
	c.take(v.message(telemetry, nil, batches[4], batches[8])) // arrival beats the loss record
	losses, err := c.s.Losses(context.Background(), "")
	if err != nil || len(losses) != 1 || losses[0].Arrived != 1 || losses[0].Reason != "LOSS_EVICTED" {
		t.Errorf("losses %+v, %v", losses, err)
	}
	// A new epoch says how far the old one went: what is missing at its end is a gap too.
	parent := v.epoch
	v.epoch, v.seq = 5, map[telemetrypb.Lane]uint64{}
	c.take(v.message(control, nil, v.control(&telemetrypb.Record{Record: &telemetrypb.Record_Epoch{Epoch: &telemetrypb.Epoch{
		Epoch: 5, Parent: parent, ParentLast: []*telemetrypb.LaneSeq{{Lane: telemetry, Seq: 12}}, Reason: "meta damaged",
		First: []*telemetrypb.LaneSeq{{Lane: telemetry, Seq: 13}}}}})))
	if got, want := gaps(), "8000000000000001 telemetry 1-2;8000000000000001 telemetry 11-12;"; got != want {
		t.Fatalf("gaps %q, want %q", got, want)
	}
	// Its own numbers go on from there: 1 to 12 were never given in it, 13 is missing.
	v.seq[telemetry] = 13
	c.take(v.message(telemetry, nil, v.telemetry(v.samples(1))))
	if got, want := gaps(), "0000000000000005 telemetry 13-13;8000000000000001 telemetry 1-2;8000000000000001 telemetry 11-12;"; got != want {
		t.Fatalf("gaps %q, want %q", got, want)
	}
	if n := c.s.Totals(); n.Gaps != 5 || n.Losses != 1 {
		t.Errorf("totals %+v", n)
	}
	c.reopen()
	if got, want := gaps(), "0000000000000005 telemetry 13-13;8000000000000001 telemetry 1-2;8000000000000001 telemetry 11-12;"; got != want {
		t.Fatalf("gaps after a restart %q, want %q", got, want)
	}
}

func TestThinnedCopyOfWhatArrived(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	c.take(v.message(control, nil, v.catalogueBatch()))
	one, two := v.telemetry(v.samples(1)), v.telemetry(v.samples(2))
	copyOf := v.telemetry(v.samples(1)[:1], &telemetrypb.SeqRange{First: 1, Last: 2})
	c.take(v.message(telemetry, nil, one, two))
	n := len(c.readings())
	replies, _ := c.take(v.message(telemetry, nil, copyOf))
	if got := verdicts(replies); got != "#3 telemetry 3-3 STORED;" || len(c.readings()) != n {
		t.Errorf("a copy of what is there: %q, %d readings, want %d", got, len(c.readings()), n)
	}
	d := newCloud(t)
	d.take(v.message(control, nil, func() []byte { v.seq[control] = 0; return v.catalogueBatch() }()), v.message(telemetry, nil, copyOf))
	if got := d.s.Totals(); got.Gaps != 0 || len(d.readings()) != 1 {
		t.Errorf("a copy in place of what was lost: totals %+v, %d readings", got, len(d.readings()))
	}
	c.reopen()
	d.reopen()
}

func TestReceiptNumbersAscendOverRestarts(t *testing.T) {
	c, v, w := newCloud(t), newVehicle(t, "car-1"), newVehicle(t, "car-2")
	c.take(v.message(control, nil, v.catalogueBatch()), w.message(control, nil, w.catalogueBatch()))
	generation := c.s.Generation()
	c.reopen()
	replies, _ := c.take(v.message(telemetry, nil, v.telemetry(v.samples(1))), w.message(telemetry, nil, w.telemetry(w.samples(1))))
	for _, r := range replies {
		if r.Receipt.Number != 2 || r.Receipt.Generation != generation || generation == 0 || r.Receipt.Store == "" {
			t.Errorf("receipt %v on %s", r.Receipt, r.Topic)
		}
	}
}

// A range must never join what came in two payloads, nor over a missing seq.
func TestReceiptRangesAreRunsWithinOnePayload(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	c.take(v.message(control, nil, v.catalogueBatch()))
	var b [][]byte
	var crc []uint32
	for n := int64(1); n <= 6; n++ {
		b = append(b, v.telemetry(v.samples(n)))
		crc = append(crc, mustOpen(t, b[n-1]).Envelope.Crc32C)
	}
	replies, _ := c.take(v.message(telemetry, nil, b[0], b[1], b[3], b[4], b[4]), v.message(telemetry, nil, b[2], b[5]))
	if got := verdicts(replies); got != "#2 telemetry 1-2 STORED telemetry 4-5 STORED telemetry 5-5 STORED;#3 telemetry 3-3 STORED telemetry 6-6 STORED;" {
		t.Fatalf("receipts %q", got)
	}
	if r := replies[0].Receipt.Ranges[0]; r.Count != 2 || r.CrcXor != crc[0]^crc[1] {
		t.Errorf("range %v", r)
	}
}

// A question is answered on the vehicle's own topic and leaves nothing behind; beside batches it is answered with their
// receipt.
func TestProbeIsAnsweredAndLeavesNothing(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	topic := telemetrypb.Topic("acme", "car-9", telemetrypb.TopicLane(control))
	replies, counts := c.take(Message{topic, telemetrypb.AppendProbe(nil, []byte("who is there?"), 3000)})
	if len(replies) != 1 || replies[0].Topic != "wb1/acme/car-9/down/receipt" {
		t.Fatalf("replies %+v", replies)
	}
	r := replies[0].Receipt
	if string(r.Probe) != "who is there?" || r.Number != 0 || len(r.Ranges) != 0 || r.Store != c.s.Name() || r.Generation != c.s.Generation() {
		t.Errorf("answer %v", r)
	}
	if totals := c.s.Totals(); totals.Devices != 0 || totals.Letters != 0 || counts.Malformed != 0 {
		t.Errorf("a question left %+v, %+v", totals, counts)
	}
	m := v.message(control, nil, v.catalogueBatch())
	m.Payload = append(m.Payload, telemetrypb.AppendProbe(nil, []byte("and this?"), 0)...)
	replies, _ = c.take(m)
	if got, want := verdicts(replies), "#1 control 1-1 STORED;"; got != want || string(replies[0].Receipt.Probe) != "and this?" {
		t.Errorf("receipts %q, want %q; %v", got, want, replies)
	}
}

func TestStatusAndResult(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	status, _ := proto.Marshal(&telemetrypb.Status{Online: true, Version: "1.2"})
	result, _ := proto.Marshal(&telemetrypb.CommandResult{Id: "a", State: "done"})
	replies, _ := c.take(Message{telemetrypb.Topic(v.tenant, v.device, telemetrypb.TopicStatus), status},
		Message{telemetrypb.Topic(v.tenant, v.device, telemetrypb.TopicResult), result})
	devices, err := c.s.Devices(context.Background())
	if err != nil || len(replies) != 0 || len(devices) != 1 || devices[0].Online == nil || !*devices[0].Online || devices[0].Version != "1.2" {
		t.Errorf("devices %+v, replies %v, %v", devices, replies, err)
	}
}

func mustOpen(t testing.TB, batch []byte) telemetrypb.BatchView {
	t.Helper()
	view, err := telemetrypb.OpenBatch(batch)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

// TestOriginalBeatsItsCopy: in whichever order originals, a copy of them and the record of the loss arrive, each
// sample is there once, and what only the copy has comes from the copy.
func TestOriginalBeatsItsCopy(t *testing.T) {
	v := newVehicle(t, "car-1")
	catalogue := v.catalogueBatch()
	one, two, three := v.telemetry(v.samples(1)), v.telemetry(v.samples(2)), v.telemetry(v.samples(3))
	every := func(samples []telemetrypb.Sample) (kept []telemetrypb.Sample) {
		for i := 0; i < len(samples); i += 3 {
			kept = append(kept, samples[i])
		}
		return kept
	}
	var kept []telemetrypb.Sample
	for n := int64(1); n <= 3; n++ {
		kept = append(kept, every(v.samples(n))...)
	}
	copyOf := v.telemetry(kept, &telemetrypb.SeqRange{First: 1, Last: 3})
	again := v.telemetry(kept, &telemetrypb.SeqRange{First: 1, Last: 3}) // of originals that were thinned twice
	whole := len(v.samples(1))
	thinned := len(every(v.samples(1)))
	for name, c := range map[string]struct {
		order [][]byte
		want  int
	}{
		"copy alone":                    {[][]byte{copyOf}, 3 * thinned},
		"copy twice":                    {[][]byte{copyOf, again}, 3 * thinned},
		"copy behind an original":       {[][]byte{two, copyOf}, whole + 2*thinned},
		"original behind the copy":      {[][]byte{copyOf, two}, whole + 2*thinned},
		"original behind two copies":    {[][]byte{copyOf, again, three}, whole + 2*thinned},
		"all behind the copy":           {[][]byte{copyOf, three, one, two}, 3 * whole},
		"all ahead of it":               {[][]byte{one, two, three, copyOf}, 3 * whole},
		"the copy in the midst":         {[][]byte{three, copyOf, one, again, two, copyOf}, 3 * whole},
		"originals that come once more": {[][]byte{copyOf, one, one, copyOf, one}, whole + 2*thinned},
	} {
		t.Run(name, func(t *testing.T) {
			for _, parked := range []bool{false, true} {
				cloud := newCloud(t)
				if !parked {
					cloud.take(v.message(control, nil, catalogue))
				}
				for _, b := range c.order {
					cloud.take(v.message(telemetry, nil, b))
				}
				if parked {
					cloud.take(v.message(control, nil, catalogue))
				}
				if got := len(cloud.readings()); got != c.want {
					t.Errorf("parked %v: %d readings, want %d", parked, got, c.want)
				}
				if got := cloud.s.Totals(); got.Gaps != 0 || got.Samples != int64(c.want) {
					t.Errorf("parked %v: totals %+v, want %d samples", parked, got, c.want)
				}
				cloud.reopen()
			}
		})
	}
}
