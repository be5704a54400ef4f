package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// tight are limits that a test reaches.
var tight = store.Limits{Devices: 6, Epochs: 8, Gaps: 10, Parked: 4000, Signals: 40, Boots: 10, Results: 10, Letters: 5}

func newTightCloud(t testing.TB, o Options) *cloud {
	t.Helper()
	c := &cloud{t: t, file: filepath.Join(t.TempDir(), "fleet.db")}
	s, err := openStore(c.file, tight, 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.s.Close() })
	o.Now = func() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }
	c.s, c.Ingester = s, New(o, s)
	return c
}

// flat is a batch whose samples all have one value at times in step: a million of them take some hundred bytes.
func (v *vehicle) flat(n int) []byte {
	samples := make([]telemetrypb.Sample, n)
	for i := range samples {
		samples[i] = telemetrypb.UintSample(4, int64(i)*1000, 7)
	}
	return v.telemetry(samples)
}

// longName is one of 8,000 bytes that no compression makes short.
func longName(n int) string {
	var b []byte
	for i := range 125 {
		b = fmt.Appendf(b, "%x", sha256.Sum256(fmt.Append(nil, n, i)))
	}
	return string(b)
}

// damaged is a batch with a byte of its own, and a checksum that does not hold.
func (v *vehicle) damaged(n uint64) []byte {
	b := v.telemetry(v.samples(1))
	return binary.BigEndian.AppendUint64(b[:len(b)-8], n)
}

// seen is what an attack leads to.
type seen struct {
	counts  Counts
	letters int64 // dead letters that are kept
	batches int64 // in the store, of the attacker
}

// A hostile client costs only itself: each attack is repeated, then the honest vehicle beside it sends, and gets what it
// always gets; what the store keeps of the attack is bounded.
func TestHostileClients(t *testing.T) {
	for _, test := range []struct {
		name   string
		attack func(v *vehicle, round int) []Message
		rounds int
		want   seen // what is compared: the counts that are not zero here, letters, batches
	}{
		{"another device in the envelope", func(v *vehicle, round int) []Message {
			other := newVehicle(v.t, "honest")
			other.epoch, other.seq[telemetry] = 99, uint64(round)
			return []Message{{v.topic(telemetry), telemetrypb.AppendPayload(nil, false, nil, other.telemetry(other.samples(1)))}}
		}, 30, seen{counts: Counts{Rejected: 30}, letters: 5}},
		{"10^9 claimed samples", func(v *vehicle, round int) []Message {
			return []Message{v.message(telemetry, nil, reseal(v.t, v.telemetry(v.samples(1)), func(e *telemetrypb.Envelope) { e.Samples = 1_000_000_000 }))}
		}, 30, seen{counts: Counts{Rejected: 30}, letters: 5, batches: 30}},
		{"millions of distinct dead letters", func(v *vehicle, round int) []Message {
			var batches [][]byte
			for i := range 100 {
				batches = append(batches, v.damaged(uint64(100*round+i)))
			}
			return []Message{v.message(telemetry, nil, batches...)}
		}, 30, seen{counts: Counts{Malformed: 3000}, letters: 5}},
		{"payloads of nothing", func(v *vehicle, round int) []Message {
			return []Message{{v.topic(telemetry), []byte{255, byte(round)}}, {v.topic(telemetry), make([]byte, maxPayload+1)},
				{v.topic(telemetry), append([]byte{8, 1}, bytes.Repeat([]byte{18, 0}, maxBatches+1)...)}, {telemetrypb.Topic(v.tenant, v.device, fmt.Sprint("up/", round)), nil}}
		}, 30, seen{counts: Counts{Malformed: 120}, letters: 5}},
		{"catalogue whose short hash another one has", func(v *vehicle, round int) []Message {
			data, hash := telemetrypb.EncodeCatalogue(&telemetrypb.Catalogue{Signals: []*telemetrypb.Signal{{Id: 1, Name: fmt.Sprint("other", round)}}})
			copy(hash[:16], v.hash[:16]) // the other half is its own: such a one is not its own hash
			part := &telemetrypb.CataloguePart{Hash: hash[:], Count: 1, Data: data}
			return []Message{v.message(control, nil, v.control(&telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: part}}))}
		}, 30, seen{letters: 5, batches: 30}},
		{"epochs without end", func(v *vehicle, round int) []Message {
			v.epoch++
			return []Message{v.message(control, nil, v.control())}
		}, 30, seen{counts: Counts{Limited: 22}, batches: 8}},
		{"epoch records without end", func(v *vehicle, round int) []Message {
			return []Message{v.message(control, nil, v.control(&telemetrypb.Record{Record: &telemetrypb.Record_Epoch{Epoch: &telemetrypb.Epoch{
				Epoch: uint64(round + 1), Parent: uint64(round+1) << 32, ParentLast: []*telemetrypb.LaneSeq{{Lane: telemetry, Seq: 1 << 60}}}}}))}
		}, 30, seen{counts: Counts{Limited: 27}, letters: 5, batches: 30}},
		{"the same epoch again with other bytes", func(v *vehicle, round int) []Message {
			v.seq[telemetry] = 0
			return []Message{v.message(telemetry, nil, v.telemetry(v.samples(int64(round))))}
		}, 30, seen{counts: Counts{Rejected: 29, Parked: 1}, letters: 5, batches: 1}},
		{"the same bytes again", func(v *vehicle, round int) []Message {
			v.seq[control] = 0
			return []Message{v.message(control, nil, v.control())}
		}, 30, seen{counts: Counts{Duplicates: 29}, batches: 1}},
		{"a number of every second", func(v *vehicle, round int) []Message {
			v.seq[control]++
			return []Message{v.message(control, nil, v.control())}
		}, 30, seen{counts: Counts{Limited: 20}, batches: 10}},
		{"losses in every second number", func(v *vehicle, round int) []Message {
			l := &telemetrypb.Loss{Epoch: v.epoch, Lane: telemetry, Reason: telemetrypb.LossReason_LOSS_EVICTED}
			for i := range uint64(100) {
				l.Seqs = append(l.Seqs, &telemetrypb.SeqRange{First: 2*i + 1, Last: 2*i + 1})
			}
			return []Message{v.message(control, nil, v.control(&telemetrypb.Record{Record: &telemetrypb.Record_Loss{Loss: l}}))}
		}, 30, seen{counts: Counts{Limited: 30}, letters: 1, batches: 30}},
		{"batches whose catalogue never comes", func(v *vehicle, round int) []Message {
			v.hash[0] = byte(round)
			return []Message{v.message(telemetry, nil, v.telemetry(v.samples(1)))}
		}, 300, seen{}},
		{"catalogues without end", func(v *vehicle, round int) []Message {
			v.catalogue.Signals[0].Name = fmt.Sprint("signal", round)
			v.data, v.hash = telemetrypb.EncodeCatalogue(v.catalogue)
			return []Message{v.message(control, nil, v.catalogueBatch())}
		}, 30, seen{counts: Counts{Limited: 24}, letters: 5, batches: 30}},
		{"parts without end, of catalogues that never are whole", func(v *vehicle, round int) []Message {
			var records []*telemetrypb.Record
			for i := range 50 {
				hash := bytes.Repeat([]byte{byte(i), byte(round)}, 16)
				records = append(records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: &telemetrypb.CataloguePart{Hash: hash, Count: 500, Data: make([]byte, 1000)}}})
			}
			return []Message{v.message(control, nil, v.control(records...))}
		}, 30, seen{batches: 30}},
		{"signals by name without end", func(v *vehicle, round int) []Message {
			b := v.telemetry([]telemetrypb.Sample{telemetrypb.UintSample(1, 0, 1)})
			m := v.plain(false, b, nil)
			view, err := telemetrypb.OpenPayload(m.Payload)
			if err != nil {
				v.t.Fatal(err)
			}
			view.Plain[0].Catalogue, view.Plain[0].Samples[0].Name = nil, fmt.Sprint("name", round)
			m.Payload, _ = telemetrypb.AppendPlainPayload(nil, false, false, nil, view.Plain...)
			return []Message{m}
		}, 60, seen{counts: Counts{Limited: 20, Batches: 40, Samples: 40}, batches: 40}},
		{"boots without end", func(v *vehicle, round int) []Message {
			v.boot[5] = byte(round)
			return []Message{v.message(telemetry, []*telemetrypb.ClockRecord{v.clock(1)})}
		}, 30, seen{counts: Counts{Limited: 20}, letters: 5}},
		{"answers to commands without end", func(v *vehicle, round int) []Message {
			payload, _ := proto.Marshal(&telemetrypb.CommandResult{Id: fmt.Sprint(round), State: "done"})
			return []Message{{telemetrypb.Topic(v.tenant, v.device, telemetrypb.TopicResult), payload}}
		}, 30, seen{counts: Counts{Limited: 20}, letters: 5}},
		{"signals with names that no index takes", func(v *vehicle, round int) []Message {
			v.catalogue.Signals[0].Name = longName(round)
			v.data, v.hash = telemetrypb.EncodeCatalogue(v.catalogue)
			return []Message{v.message(control, nil, v.catalogueBatch())}
		}, 30, seen{counts: Counts{Limited: 30}, letters: 5, batches: 30}},
		{"likewise, by name", func(v *vehicle, round int) []Message {
			m := v.plain(false, v.telemetry([]telemetrypb.Sample{telemetrypb.UintSample(1, 0, 1)}), nil)
			view, err := telemetrypb.OpenPayload(m.Payload)
			if err != nil {
				v.t.Fatal(err)
			}
			view.Plain[0].Catalogue, view.Plain[0].Samples[0].Name = nil, longName(round)
			m.Payload, _ = telemetrypb.AppendPlainPayload(nil, false, false, nil, view.Plain...)
			return []Message{m}
		}, 30, seen{counts: Counts{Limited: 30}}},
		{"answers likewise", func(v *vehicle, round int) []Message {
			payload, _ := proto.Marshal(&telemetrypb.CommandResult{Id: longName(round), State: "done"})
			return []Message{{telemetrypb.Topic(v.tenant, v.device, telemetrypb.TopicResult), payload}}
		}, 30, seen{counts: Counts{Limited: 30}, letters: 5}},
		{"topics likewise", func(v *vehicle, round int) []Message {
			return []Message{{telemetrypb.Topic(v.tenant, v.device, "up/"+longName(round)), fmt.Append(nil, round)}}
		}, 30, seen{counts: Counts{Malformed: 30}, letters: 5}},
		{"a copy that stands for everything", func(v *vehicle, round int) []Message {
			return []Message{v.message(telemetry, nil, v.telemetry(v.samples(1), &telemetrypb.SeqRange{First: 1, Last: 1 << 62}))}
		}, 30, seen{counts: Counts{Rejected: 30}, letters: 5, batches: 30}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, v, honest := newTightCloud(t, Options{}), newVehicle(t, "hostile"), newVehicle(t, "honest")
			c.take(honest.message(control, nil, honest.catalogueBatch()))
			before := c.s.Totals()
			var all Counts
			var waiting []Message
			for round := range test.rounds {
				waiting = append(waiting, test.attack(v, round)...)
				if round%10 < 9 {
					continue
				}
				replies, counts, err := c.Apply(context.Background(), waiting)
				waiting = nil
				if err != nil {
					t.Fatalf("round %d: %v: the broker would send it again for ever", round, err)
				}
				all.Add(counts)
				for _, r := range replies {
					if r.Topic != "wb1/acme/hostile/down/receipt" {
						t.Errorf("round %d: a receipt to %s", round, r.Topic)
					}
				}
			}
			after := c.s.Totals()
			all.Payloads, all.Retimed = 0, 0
			if test.want.counts != (Counts{}) {
				if test.want.counts.Batches == 0 {
					all.Batches = 0
				}
				if all != test.want.counts {
					t.Errorf("counts %+v, want %+v", all, test.want.counts)
				}
				if list := c.Offenders(10); all.Rejected+all.Malformed+all.Limited > 0 && (len(list) != 1 || list[0].Device != "hostile" || list[0].sum() != all.Rejected+all.Malformed+all.Limited) {
					t.Errorf("offenders %+v", list)
				}
			}
			if got := after.Letters - before.Letters; got != test.want.letters {
				t.Errorf("%d dead letters are kept, want %d", got, test.want.letters)
			}
			if got := after.Batches - before.Batches; test.rounds == 30 && got != test.want.batches {
				t.Errorf("%d batches are stored, want %d", got, test.want.batches)
			}
			if test.name == "batches whose catalogue never comes" && (after.Parked == 0 || after.Parked*256 > tight.Parked) {
				t.Errorf("%d batches are parked", after.Parked)
			}
			// Meanwhile, beside it:
			replies, counts := c.take(honest.message(telemetry, nil, honest.telemetry(honest.samples(1)), honest.telemetry(honest.samples(2))))
			if got := verdicts(replies); counts.Batches != 2 || got != "#2 telemetry 1-2 STORED;" {
				t.Errorf("the honest vehicle: %+v, %s", counts, got)
			}
		})
	}
}

// Devices without end, as a stolen token could name: the tenant's own limit ends them, another tenant's are not touched.
func TestDevicesWithoutEnd(t *testing.T) {
	c := newTightCloud(t, Options{})
	var limited uint64
	for i := range 30 {
		v := newVehicle(t, fmt.Sprint("car-", i))
		_, counts := c.take(v.message(control, nil, v.control()))
		limited += counts.Limited
	}
	if totals := c.s.Totals(); limited != 24 || totals.Devices != 6 || totals.Batches != 6 {
		t.Errorf("%d limited, totals %+v", limited, totals)
	}
	v := newVehicle(t, "car-0")
	v.tenant = "other"
	if replies, _ := c.take(v.message(control, nil, v.control())); verdicts(replies) != "#1 control 1-1 STORED;" {
		t.Errorf("another tenant: %s", verdicts(replies))
	}
	v = newVehicle(t, "car-1") // known since long
	v.seq[control] = 1
	if replies, _ := c.take(v.message(control, nil, v.control())); verdicts(replies) != "#2 control 2-2 STORED;" {
		t.Errorf("a device that is known: %s", verdicts(replies))
	}
}

// What the store had no room for is parked at the vehicle, and taken when there is room again.
func TestParkedAtTheVehicleAndTakenLater(t *testing.T) {
	c, v := newTightCloud(t, Options{}), newVehicle(t, "car-1")
	var batches [][]byte
	for n := range int64(40) {
		batches = append(batches, v.telemetry(v.samples(n)))
	}
	replies, counts := c.take(v.message(telemetry, nil, batches...))
	last := replies[0].Receipt.Ranges[len(replies[0].Receipt.Ranges)-1]
	if counts.Parked == 0 || counts.Limited == 0 || counts.Parked+counts.Limited != 40 || last.Verdict != telemetrypb.Verdict_VERDICT_PARKED ||
		!bytes.Equal(last.WantCatalogue, v.hash[:16]) || last.Reason == "" {
		t.Fatalf("%+v, %+v", counts, last)
	}
	_, counts = c.take(v.message(control, nil, v.catalogueBatch()))
	if counts.Unparked == 0 {
		t.Fatalf("%+v", counts)
	}
	replies, _ = c.take(v.message(telemetry, nil, batches...))
	if got := verdicts(replies); got != "#3 telemetry 1-40 STORED;" || c.s.Totals().Gaps != 0 || c.s.Totals().Parked != 0 {
		t.Errorf("%s, totals %+v", got, c.s.Totals())
	}
}

// A payload of some kilobytes that holds millions of samples is held in memory one batch at a time.
func TestBombOfSamples(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	const each = 100_000
	var batches [][]byte
	size := 0
	for range 12 {
		batches = append(batches, v.flat(each))
		size += len(batches[0])
	}
	if size > 64<<10 {
		t.Fatalf("%d bytes: no bomb", size)
	}
	ahead := decodeAhead
	o := open(v.message(telemetry, nil, batches...), &ahead)
	held, late := 0, 0
	for _, b := range o.batches {
		held += len(b.samples)
		late += btoi(b.late)
	}
	if o.err != nil || held > decodeAhead || late != 12-decodeAhead/each {
		t.Fatalf("%v: %d samples are held, %d batches are not decoded yet", o.err, held, late)
	}
	if testing.Short() {
		return
	}
	// And what is late is stored all the same: here without a catalogue, parked, so that it is quick.
	if _, counts := c.take(v.message(telemetry, nil, batches...)); counts.Parked != 12 && counts.Parked+counts.Limited != 12 {
		t.Errorf("%+v", counts)
	}
	runtime.KeepAlive(o)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Late batches give the same rows as early ones.
func TestLateBatchesAreStoredAlike(t *testing.T) {
	v := newVehicle(t, "car-1")
	messages := []Message{v.message(control, nil, v.catalogueBatch())}
	for n := range int64(5) {
		messages = append(messages, v.message(telemetry, nil, v.telemetry(v.samples(n))))
	}
	early, late := newCloud(t), newCloud(t)
	early.take(messages...)
	for _, m := range messages {
		ahead := 0
		o := open(m, &ahead)
		if o.tenant == "" || len(o.batches) != 1 || o.batches[0].row.Lane == telemetry && !o.batches[0].late {
			t.Fatalf("%+v", o)
		}
		if err := late.s.Update(context.Background(), func(tx store.Tx) error {
			left := 0
			a := &application{Ingester: late.Ingester, tx: tx, now: late.now(), message: m, counts: &Counts{}, asked: &questions{}, offenders: map[[2]string]*Offender{}, retimeLeft: &left}
			return a.run(&o)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(early.readings(), late.readings()) || len(early.readings()) == 0 {
		t.Error("the readings differ")
	}
}

// A device above its rate gets no receipt, and others theirs; later it gets its own.
func TestRateOfSamples(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	c := newCloud(t)
	c.Ingester = New(Options{Now: func() time.Time { return now }, DeviceSamples: 1}, c.s) // 60 at once
	v, other := newVehicle(t, "car-1"), newVehicle(t, "car-2")
	c.take(v.message(control, nil, v.catalogueBatch()), other.message(control, nil, other.catalogueBatch()))
	var batches [][]byte
	for n := range int64(10) {
		batches = append(batches, v.telemetry(v.samples(n))) // 13 each
	}
	replies, counts := c.take(v.message(telemetry, nil, batches...), other.message(telemetry, nil, other.telemetry(other.samples(1))))
	if got := verdicts(replies); got != "#2 telemetry 1-5 STORED;#2 telemetry 1-1 STORED;" || counts.Deferred != 5 {
		t.Fatalf("%s, %+v", got, counts)
	}
	now = now.Add(time.Minute)
	if replies, _ = c.take(v.message(telemetry, nil, batches[5:]...)); verdicts(replies) != "#3 telemetry 6-10 STORED;" {
		t.Errorf("a minute later: %s", verdicts(replies))
	}
}

// Receipts are cut: one that no broker takes would end the session, and its message come again, for ever.
func TestReceiptsAreBounded(t *testing.T) {
	c, v := newCloud(t), newVehicle(t, "car-1")
	c.take(v.message(control, nil, v.catalogueBatch()))
	var batches [][]byte
	for n := range int64(600) {
		v.seq[telemetry] = uint64(2 * n) // no two in a row
		batches = append(batches, v.telemetry([]telemetrypb.Sample{telemetrypb.UintSample(1, n, 1)}))
	}
	replies, _ := c.take(v.message(telemetry, nil, batches...))
	ranges := 0
	for i, r := range replies {
		ranges += len(r.Receipt.Ranges)
		if b, err := proto.Marshal(r.Receipt); err != nil || len(b) > 64<<10 || r.Receipt.Number != uint64(i+2) {
			t.Errorf("receipt %d: number %d, %d bytes, %v", i, r.Receipt.Number, len(b), err)
		}
	}
	if ranges != 600 || len(replies) != 3 {
		t.Errorf("%d ranges in %d receipts", ranges, len(replies))
	}
}

// A device that renews its clock again and again does not keep the samples of others undated.
func TestClocksOfOneDeviceDoNotStarveOthers(t *testing.T) {
	c := newCloud(t)
	c.Ingester = New(Options{Now: c.now, RetimeSamples: 20}, c.s)
	hostile, honest := newVehicle(t, "a-hostile"), newVehicle(t, "b-honest")
	at := time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC)
	for _, v := range []*vehicle{hostile, honest} {
		messages := []Message{v.message(control, nil, v.catalogueBatch())}
		for n := range int64(8) {
			messages = append(messages, v.message(telemetry, nil, v.telemetry(v.samples(n))))
		}
		c.take(messages...)
	}
	c.take(hostile.message(telemetry, []*telemetrypb.ClockRecord{hostile.clock(1, anchor(0, at, 1))}), honest.message(telemetry, []*telemetrypb.ClockRecord{honest.clock(1, anchor(0, at, 1))}))
	for revision := uint32(2); revision < 40; revision++ {
		c.take(hostile.message(telemetry, []*telemetrypb.ClockRecord{hostile.clock(revision, anchor(0, at.Add(time.Duration(revision)*time.Second), 1))}))
		if _, _, err := c.Retime(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	undated := 0
	if err := c.s.Samples(context.Background(), store.Query{Device: "b-honest"}, func(r *store.Reading) error {
		undated += btoi(r.Time.Source == telemetrypb.TimeSource_TIME_SOURCE_NONE)
		return nil
	}); err != nil || undated > 0 {
		t.Errorf("%d samples of the honest vehicle have no time, %v", undated, err)
	}
}

// A payload of some kilobytes whose samples all name one text is not written out a million times.
func TestBombOfTexts(t *testing.T) {
	c, v := newTightCloud(t, Options{}), newVehicle(t, "car-1")
	bomb := func(text, n int) []byte {
		samples := make([]telemetrypb.Sample, n)
		for i := range samples {
			samples[i] = telemetrypb.StringSample(6, int64(i)*1000, string(bytes.Repeat([]byte{'a'}, text)))
			if i > 0 {
				samples[i].Str = samples[0].Str
			}
		}
		return v.telemetry(samples)
	}
	big := bomb(8<<10, maxTexts/(8<<10)+1)
	if len(big) > 16<<10 {
		t.Fatalf("%d bytes: no bomb", len(big))
	}
	// Parked first: what waits for its catalogue is no way around.
	replies, counts := c.take(v.message(telemetry, nil, big))
	if got := verdicts(replies); got != "#1 telemetry 1-1 REJECTED;" || counts.Rejected != 1 {
		t.Errorf("without its catalogue: %s, %+v", got, counts)
	}
	c.take(v.message(control, nil, v.catalogueBatch()))
	replies, counts = c.take(v.message(telemetry, nil, bomb(8<<10, 1000), bomb(8<<10, maxTexts/(8<<10)+1)))
	if got := verdicts(replies); got != "#3 telemetry 2-2 STORED telemetry 3-3 REJECTED;" || counts.Samples != 1000 {
		t.Errorf("%s, %+v", got, counts)
	}
}

// Texts count against a device's rate by their size.
func TestRateOfTexts(t *testing.T) {
	c, v := newTightCloud(t, Options{DeviceSamples: 100}), newVehicle(t, "car-1") // 6,000 at once
	c.take(v.message(control, nil, v.catalogueBatch()))
	text := string(bytes.Repeat([]byte{'a'}, 8<<10))
	var batches [][]byte
	for i := range 40 {
		batches = append(batches, v.telemetry([]telemetrypb.Sample{telemetrypb.StringSample(6, int64(i), text)}))
	}
	_, counts := c.take(v.message(telemetry, nil, batches...))
	if want := uint64(6000/(1+len(text)/textPerSample) + 1); counts.Samples != want || counts.Deferred != 40-want {
		t.Errorf("%d samples, %d batches deferred, want %d samples", counts.Samples, counts.Deferred, want)
	}
}
