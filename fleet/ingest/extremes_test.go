//go:build system

package ingest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/postgres"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// extremes are messages whose numbers and texts are at their ends, each sound in itself.
func extremes(v *vehicle) map[string]Message {
	record := func(r *telemetrypb.Record) Message { return v.message(control, nil, v.control(r)) }
	seqs := []*telemetrypb.SeqRange{{First: 0, Last: math.MaxUint64}, {First: math.MaxUint64, Last: math.MaxUint64}, {First: 1 << 63, Last: 1 << 63}, {First: 3, Last: 1}}
	lanes := []telemetrypb.Lane{math.MinInt32, -1, 0, 1, 2, 3, 4, 5, math.MaxInt32}
	list := map[string]Message{}
	for _, lane := range lanes {
		list[fmt.Sprint("loss of lane ", lane)] = record(&telemetrypb.Record{Record: &telemetrypb.Record_Loss{Loss: &telemetrypb.Loss{
			Reason: math.MaxInt32, Source: "\x00ü\uFFFF", Count: math.MaxUint64, Unit: "\x00", BootId: make([]byte, 100), FirstNs: math.MaxInt64, LastNs: math.MinInt64,
			Epoch: math.MaxUint64, Lane: lane, Seqs: seqs, Detail: "\x00"}}})
		list[fmt.Sprint("epoch with lane ", lane)] = record(&telemetrypb.Record{Record: &telemetrypb.Record_Epoch{Epoch: &telemetrypb.Epoch{
			Epoch: math.MaxUint64, Parent: 1<<63 + uint64(uint32(lane)), ParentLast: []*telemetrypb.LaneSeq{{Lane: lane, Seq: math.MaxUint64}, {Lane: lane, Seq: 1 << 63}, {Lane: lane}},
			First: []*telemetrypb.LaneSeq{{Lane: lane, Seq: math.MaxUint64}, {Lane: lane, Seq: 1 << 63}}, Reason: "\x00"}}})
		status, _ := proto.Marshal(&telemetrypb.Status{Online: true, Version: "\x00", Epoch: math.MaxUint64, BootCount: math.MaxUint32, TimeUnixNs: math.MinInt64, Nonce: math.MaxUint64,
			Queue: []*telemetrypb.LaneDepth{{Lane: lane, Batches: math.MaxUint64, Bytes: math.MaxUint64, NextSeq: math.MaxUint64}, {Lane: lane}}})
		list[fmt.Sprint("status of lane ", lane)] = Message{telemetrypb.Topic(v.tenant, v.device, telemetrypb.TopicStatus), status}
	}
	result, _ := proto.Marshal(&telemetrypb.CommandResult{Id: "\x00", Name: "\x00", State: "\x00", Percent: math.MaxUint32, Text: "\x00", BootNs: math.MinInt64, Reason: "\x00",
		BootId: []byte{1}, BootCount: math.MaxUint32, KeyId: make([]byte, 1000), Counter: math.MaxUint64})
	list["result"] = Message{telemetrypb.Topic(v.tenant, v.device, telemetrypb.TopicResult), result}
	list["info"] = record(&telemetrypb.Record{Record: &telemetrypb.Record_Device{Device: &telemetrypb.DeviceInfo{BootNs: math.MinInt64, Vin: "\x00", Mode: strings.Repeat("m", 10000),
		Versions: map[string]string{"\x00": "\x00", "": "\u2028"}}}})
	for i, unix := range []int64{math.MinInt64, math.MinInt64 + 1e9, -1, 0, math.MaxInt64 - 1e9, math.MaxInt64} {
		v.boot[9] = byte(i + 1)
		clock := v.clock(math.MaxUint32, &telemetrypb.Anchor{BootNs: 0, UnixNs: unix, UncertaintyNs: math.MaxUint64, Source: telemetrypb.TimeSource_TIME_SOURCE_GPS, GapNs: math.MaxUint64, BeginsNs: math.MinInt64})
		samples := []telemetrypb.Sample{}
		for _, at := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
			samples = append(samples, telemetrypb.FloatSample(5, at, math.NaN()), telemetrypb.FloatSample(7, at, math.Inf(1)), telemetrypb.UintSample(4, at, math.MaxUint64), telemetrypb.UintSample(8, at, 1))
		}
		list[fmt.Sprint("times from ", unix)] = v.message(telemetry, []*telemetrypb.ClockRecord{clock}, v.telemetry(samples))
		sure := proto.Clone(clock).(*telemetrypb.ClockRecord)
		sure.BootId[8], sure.Anchors[0].UncertaintyNs = 7, 0
		v.boot = [16]byte(sure.BootId)
		list[fmt.Sprint("sure times from ", unix)] = v.message(telemetry, []*telemetrypb.ClockRecord{sure}, v.telemetry(samples))
		m := v.plain(false, v.telemetry(samples), nil)
		view, err := telemetrypb.OpenPayload(m.Payload)
		if err != nil {
			v.t.Fatal(err)
		}
		v.boot[8] = 9
		view.Plain[0].BootId = v.boot[:]
		for _, s := range view.Plain[0].Samples {
			s.TimeUnixNs, s.TimeUncertaintyNs, s.TimeSource, s.Label, s.Unit = unix, uint64(i%2)*math.MaxUint64, 1, "\x00", "\x00"
			s.Index = math.MaxUint32 - s.Index
		}
		m.Payload, _ = telemetrypb.AppendPlainPayload(nil, false, false, nil, view.Plain...)
		list[fmt.Sprint("plain times at ", unix)] = m
	}
	return list
}

// Numbers and texts at their ends hold up nobody: they are taken, or refused, and what is made of them can be made and asked.
func TestExtremesOnPostgres(t *testing.T) {
	ctx := context.Background()
	p := deps.Postgres(t, "fsync = off")
	s, err := postgres.Open(ctx, p.URL("postgres"), postgres.Options{Rand: bytes.NewReader(bytes.Repeat([]byte{0xAB}, 1600)), Connections: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	g := New(Options{Now: func() time.Time { return now }}, s)
	v := newVehicle(t, "car-1")
	v.catalogue.Signals = append(v.catalogue.Signals, &telemetrypb.Signal{Id: 7, Name: "gps0.fix.longitude", Type: telemetrypb.ValueType_VALUE_TYPE_FLOAT},
		&telemetrypb.Signal{Id: 8, Name: "can0.Body.Ignition", Type: telemetrypb.ValueType_VALUE_TYPE_UINT})
	v.data, v.hash = telemetrypb.EncodeCatalogue(v.catalogue)
	if _, _, err := g.Apply(ctx, []Message{v.message(control, nil, v.catalogueBatch())}); err != nil {
		t.Fatal(err)
	}
	for name, m := range extremes(v) {
		if _, counts, err := g.Apply(ctx, []Message{m}); err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %+v", name, counts)
		}
	}
	for more := true; more; {
		if more, _, err = g.Retime(ctx); err != nil {
			t.Fatalf("retime: %v", err)
		}
	}
	for n := 1; n > 0; {
		if n, err = s.Derive(ctx, now.Add(time.Hour)); err != nil {
			t.Errorf("derive: %v", err)
			break
		}
	}
	c, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	for _, view := range []string{"readings", "dated", "minutes", "hours", "positions", "latest_positions", "events", "trips", "gaps", "ledger"} {
		rows, err := c.Query(ctx, "SELECT * FROM "+view)
		if err == nil {
			for rows.Next() {
			}
			err = rows.Err()
		}
		if err != nil {
			t.Errorf("%s: %v", view, err)
		}
	}
}
