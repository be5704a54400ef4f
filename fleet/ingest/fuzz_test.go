package ingest

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// FuzzApply feeds one payload after another into one store: whatever comes, Apply answers without an error (an error is
// a store that would have the broker send the same message for ever), and what stood before stands after.
func FuzzApply(f *testing.F) {
	v := newVehicle(f, "car-1")
	catalogue, one := v.catalogueBatch(), v.telemetry(v.samples(1))
	seeds := [][]byte{
		v.message(control, nil, catalogue).Payload,
		v.message(telemetry, []*telemetrypb.ClockRecord{v.clock(1)}, one, v.telemetry(v.samples(2), &telemetrypb.SeqRange{First: 5, Last: 1})).Payload,
		v.plain(false, one, nil).Payload, v.plain(true, one, v.clock(2)).Payload, v.plain(true, catalogue, nil).Payload,
		{}, []byte("{"), []byte(`{"format":1}`), []byte(`{"format":1,"plain":[{"tenant":"acme","device":"car-1","lane":3,"seq":"9","bootId":"AQIDAAAAAAAAAAAAAAAAAA==","samples":[{"name":"a","number":"NaN"}]}]}`),
	}
	hostile := &telemetrypb.Records{Records: []*telemetrypb.Record{
		{}, {Record: &telemetrypb.Record_Catalogue{Catalogue: &telemetrypb.CataloguePart{Hash: make([]byte, 32), Index: 1 << 31, Count: 1 << 31}}},
		{Record: &telemetrypb.Record_Catalogue{Catalogue: &telemetrypb.CataloguePart{Hash: make([]byte, 32), Count: 1, Data: []byte{8, 1}}}},
		{Record: &telemetrypb.Record_Clock{Clock: &telemetrypb.ClockRecord{}}},
		{Record: &telemetrypb.Record_Loss{Loss: &telemetrypb.Loss{Count: 1<<64 - 1, Seqs: []*telemetrypb.SeqRange{{First: 1, Last: 1<<64 - 1}, {First: 9, Last: 2}}}}},
		{Record: &telemetrypb.Record_Epoch{Epoch: &telemetrypb.Epoch{Parent: 1<<64 - 1, ParentLast: []*telemetrypb.LaneSeq{{Seq: 1<<64 - 1}}}}},
		{Record: &telemetrypb.Record_Device{Device: &telemetrypb.DeviceInfo{Versions: map[string]string{"": "\x00"}}}},
		{Record: &telemetrypb.Record_Result{Result: &telemetrypb.CommandResult{}}},
	}}
	seeds = append(seeds, v.message(control, nil, v.control(hostile.Records...)).Payload)
	for _, s := range seeds {
		f.Add(s)
	}
	if len(seeds) < 10 {
		f.Fatal("the seeds are gone")
	}
	c := newCloud(f)
	c.take(v.message(control, nil, catalogue), v.message(telemetry, nil, one))
	before := len(c.readings())
	f.Fuzz(func(t *testing.T, payload []byte) {
		topics := []string{v.topic(telemetry), v.topic(control), telemetrypb.Topic(v.tenant, v.device, telemetrypb.TopicStatus), string(payload)}
		for _, topic := range topics {
			replies, _, err := c.Apply(context.Background(), []Message{{topic, payload}})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range replies {
				if b, err := proto.Marshal(r.Receipt); err != nil || len(b) == 0 {
					t.Fatalf("a receipt that cannot be written: %v", err)
				}
			}
		}
		if c.s.Totals().Samples < int64(before) {
			t.Fatal("samples are gone")
		}
	})
}
