package ingest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// vehicle seals batches as an agent does.
type vehicle struct {
	t         testing.TB
	tenant    string
	device    string
	epoch     uint64
	boot      [16]byte
	catalogue *telemetrypb.Catalogue
	data      []byte
	hash      [32]byte
	seq       map[telemetrypb.Lane]uint64
}

func newVehicle(t testing.TB, name string) *vehicle {
	v := &vehicle{t: t, tenant: "acme", device: name, epoch: 0x8000_0000_0000_0001, boot: [16]byte{1, 2, 3}, seq: map[telemetrypb.Lane]uint64{}}
	v.catalogue = &telemetrypb.Catalogue{Format: 1, Signals: []*telemetrypb.Signal{
		{Id: 1, Name: "can0.Motor.Speed", Unit: "rpm", Scale: 0.25, Type: telemetrypb.ValueType_VALUE_TYPE_UINT},
		{Id: 2, Name: "can0.Motor.Torque", Unit: "Nm", Scale: 0.5, Offset: -100, Type: telemetrypb.ValueType_VALUE_TYPE_INT},
		{Id: 3, Name: "can0.Body.Gear", Type: telemetrypb.ValueType_VALUE_TYPE_INT, Labels: []*telemetrypb.Label{{Value: -1, Text: "R"}, {Value: 1, Text: "D"}}},
		{Id: 4, Name: "can0.Count.Whole", Type: telemetrypb.ValueType_VALUE_TYPE_UINT},
		{Id: 5, Name: "gps0.fix.latitude", Unit: "deg", Type: telemetrypb.ValueType_VALUE_TYPE_FLOAT},
		{Id: 6, Name: "agent.note", Type: telemetrypb.ValueType_VALUE_TYPE_STRING},
	}}
	v.data, v.hash = telemetrypb.EncodeCatalogue(v.catalogue)
	return v
}

func (v *vehicle) head(lane telemetrypb.Lane) *telemetrypb.Head {
	v.seq[lane]++
	return &telemetrypb.Head{Tenant: v.tenant, Device: v.device, Epoch: v.epoch, Lane: lane, Seq: v.seq[lane], BootID: v.boot, BootCount: 7}
}

// samples are of all kinds, at the extremes too. n makes batches differ.
func (v *vehicle) samples(n int64) []telemetrypb.Sample {
	at := n * 1_000_000_000
	return []telemetrypb.Sample{
		telemetrypb.UintSample(1, at, uint64(4000+n)),
		telemetrypb.UintSample(1, at+10_000_000, 65535),
		telemetrypb.IntSample(2, at, -n),
		telemetrypb.IntSample(3, at+1, -1),
		telemetrypb.IntSample(3, at+2, 1),
		telemetrypb.UintSample(4, at, math.MaxUint64),
		telemetrypb.UintSample(4, at+1, 1<<63),
		telemetrypb.UintSample(4, at+2, math.MaxInt64),
		telemetrypb.FloatSample(5, at, 48.123456789+float64(n)),
		telemetrypb.FloatSample(5, at+1, math.Inf(-1)),
		telemetrypb.FloatSample(5, at+2, math.Copysign(0, -1)),
		{Signal: 5, Kind: telemetrypb.KindFloat, Time: at + 3, Bits: 0x7FF8_0000_0000_0BAD}, // a NaN with a payload
		telemetrypb.StringSample(6, at, "türe \"auf\"\x00"),
	}
}

func (v *vehicle) telemetry(samples []telemetrypb.Sample, supersedes ...*telemetrypb.SeqRange) []byte {
	v.t.Helper()
	h := v.head(telemetrypb.Lane_LANE_TELEMETRY)
	h.Supersedes = supersedes
	copy(h.Catalogue[:], v.hash[:])
	b, err := telemetrypb.AppendBatch(nil, h, samples)
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

func (v *vehicle) control(records ...*telemetrypb.Record) []byte {
	v.t.Helper()
	b, err := telemetrypb.AppendControl(nil, v.head(telemetrypb.Lane_LANE_CONTROL), &telemetrypb.Records{Records: records})
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

func (v *vehicle) catalogueBatch() []byte {
	v.t.Helper()
	var records []*telemetrypb.Record
	for _, p := range telemetrypb.SplitCatalogue(v.data) {
		records = append(records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: p}})
	}
	return v.control(records...)
}

func (v *vehicle) topic(lane telemetrypb.Lane) string {
	return telemetrypb.Topic(v.tenant, v.device, telemetrypb.TopicLane(lane))
}

func (v *vehicle) message(lane telemetrypb.Lane, clocks []*telemetrypb.ClockRecord, batches ...[]byte) Message {
	return Message{v.topic(lane), telemetrypb.AppendPayload(nil, false, clocks, batches...)}
}

func (v *vehicle) clock(revision uint32, anchors ...*telemetrypb.Anchor) *telemetrypb.ClockRecord {
	return &telemetrypb.ClockRecord{BootId: v.boot[:], BootCount: 7, Revision: revision, Anchors: anchors}
}

func anchor(boot int64, unix time.Time, doubt uint64) *telemetrypb.Anchor {
	return &telemetrypb.Anchor{BootNs: boot, UnixNs: unix.UnixNano(), UncertaintyNs: doubt, Source: telemetrypb.TimeSource_TIME_SOURCE_GPS}
}

// plain renders a batch as the uplink does.
func (v *vehicle) plain(json bool, batch []byte, clock *telemetrypb.ClockRecord) Message {
	v.t.Helper()
	view, err := telemetrypb.OpenBatch(batch)
	if err != nil {
		v.t.Fatal(err)
	}
	p, err := telemetrypb.RenderPlain(view, v.catalogue, clock)
	if err != nil {
		v.t.Fatal(err)
	}
	var clocks []*telemetrypb.ClockRecord
	if clock != nil {
		clocks = append(clocks, clock)
	}
	payload, err := telemetrypb.AppendPlainPayload(nil, json, false, clocks, p)
	if err != nil {
		v.t.Fatal(err)
	}
	return Message{v.topic(view.Envelope.Lane), payload}
}

// cloud is an Ingester over a store in a folder of the test.
type cloud struct {
	*Ingester
	t    testing.TB
	s    store.Store
	file string
}

func newCloud(t testing.TB) *cloud {
	t.Helper()
	c := &cloud{t: t, file: filepath.Join(t.TempDir(), "fleet.db")}
	c.open()
	t.Cleanup(func() { c.s.Close() })
	return c
}

// elsewhere, if not nil, opens the store of a name in another database than SQLite (postgres_test.go).
var elsewhere func(name string, limits store.Limits, letters int) (store.Store, error)

// openStore opens the store of a name; limits that are zero are the default ones.
func openStore(name string, limits store.Limits, letters int) (store.Store, error) {
	if elsewhere != nil {
		return elsewhere(name, limits, letters)
	}
	return store.Open(context.Background(), name, store.Options{Rand: bytes.NewReader(bytes.Repeat([]byte{0xAB}, 16)), Limits: limits, Letters: letters})
}

func (c *cloud) open() {
	c.t.Helper()
	s, err := openStore(c.file, store.Limits{}, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.s = s
	c.Ingester = New(Options{Now: func() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }}, s)
}

// reopen proves that what is counted in memory is what the file holds.
func (c *cloud) reopen() {
	c.t.Helper()
	before := c.s.Totals()
	if err := c.s.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.open()
	if after := c.s.Totals(); after != before {
		c.t.Fatalf("totals after a restart %+v, before %+v", after, before)
	}
}

func (c *cloud) take(messages ...Message) ([]Reply, Counts) {
	c.t.Helper()
	replies, counts, err := c.Apply(context.Background(), messages)
	if err != nil {
		c.t.Fatal(err)
	}
	return replies, counts
}

// verdicts writes replies as short words: number:first-last verdict.
func verdicts(replies []Reply) string {
	text := ""
	for _, r := range replies {
		text += fmt.Sprintf("#%d", r.Receipt.Number)
		for _, g := range r.Receipt.Ranges {
			text += fmt.Sprintf(" %s %d-%d %s", telemetrypb.LaneName(g.Lane), g.First, g.Last, g.Verdict.String()[len("VERDICT_"):])
		}
		text += ";"
	}
	return text
}

// readings are all samples as text, without what may rightly differ between forms.
func (c *cloud) readings() []string {
	c.t.Helper()
	var list []string
	if err := c.s.Samples(context.Background(), store.Query{}, func(r *store.Reading) error {
		list = append(list, fmt.Sprintf("%d/%d/%d %s %d %d±%d/%v %v/%x/%q %v/%x %s %q", r.Lane, r.Seq, r.Index, r.Signal, r.BootNS,
			r.Time.UnixNS, r.Time.UncertaintyNS, r.Time.Source, r.Raw.Kind, r.Raw.Bits, r.Raw.Text, r.Value.Kind, r.Value.Bits, r.Unit, r.Label))
		return nil
	}); err != nil {
		c.t.Fatal(err)
	}
	return list
}
