//go:build system

package cloudbench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What a vehicle says: 40 signals in ten messages at 10 Hz, slow waves under noise of two quanta.
const (
	tenant     = "bench"
	signals    = 40
	perMessage = 4
)

// What is sealed every five seconds, and every half a second: ticks of 100 ms.
const (
	usual = 50
	small = 5
)

// message is a publish.
type message struct {
	topic   string
	payload []byte
}

// source makes the batches of some vehicles.
type source struct {
	t         testing.TB
	prefix    string // of the vehicles' names
	ticks     int    // of a batch
	spec      *telemetrypb.Catalogue
	catalogue [16]byte
	parts     []*telemetrypb.CataloguePart
	clock     *telemetrypb.ClockRecord
	random    *rand.Rand
}

func newSource(t testing.TB, prefix string, ticks int) *source {
	s := &source{t: t, prefix: prefix, ticks: ticks, spec: &telemetrypb.Catalogue{Format: 1}, random: rand.New(rand.NewPCG(1, 2))}
	for i := range signals {
		s.spec.Signals = append(s.spec.Signals, &telemetrypb.Signal{
			Id: uint32(i + 1), Name: fmt.Sprintf("can0.Message%d.Signal%d", i/perMessage, i%perMessage), Unit: "rpm", Scale: 0.25, Type: telemetrypb.ValueType_VALUE_TYPE_UINT,
			Message: fmt.Sprint("Message", i/perMessage), Group: uint32(i/perMessage + 1),
		})
	}
	data, hash := telemetrypb.EncodeCatalogue(s.spec)
	s.catalogue, s.parts = [16]byte(hash[:16]), telemetrypb.SplitCatalogue(data)
	s.clock = &telemetrypb.ClockRecord{BootId: make([]byte, 16), BootCount: 1, Revision: 1, Anchors: []*telemetrypb.Anchor{{
		BootNs: 0, UnixNs: 1_790_000_000_000_000_000, UncertaintyNs: 1_000_000, Source: telemetrypb.TimeSource_TIME_SOURCE_GPS,
	}}}
	return s
}

// samples are those of a batch.
func (s *source) samples() int { return signals * s.ticks }

func (s *source) head(car int, lane telemetrypb.Lane, seq uint64) *telemetrypb.Head {
	h := &telemetrypb.Head{Tenant: tenant, Device: fmt.Sprintf("%s-%03d", s.prefix, car), Epoch: 1, Lane: lane, Seq: seq, BootCount: 1}
	if lane != telemetrypb.Lane_LANE_CONTROL {
		h.Catalogue = s.catalogue
	}
	return h
}

// announcement is the catalogue and the clock of a vehicle.
func (s *source) announcement(car int) message {
	records := &telemetrypb.Records{Records: []*telemetrypb.Record{{Record: &telemetrypb.Record_Clock{Clock: s.clock}}}}
	for _, p := range s.parts {
		records.Records = append(records.Records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: p}})
	}
	h := s.head(car, telemetrypb.Lane_LANE_CONTROL, 1)
	b, err := telemetrypb.AppendControl(nil, h, records)
	if err != nil {
		s.t.Fatal(err)
	}
	return message{telemetrypb.Topic(tenant, h.Device, telemetrypb.TopicLane(h.Lane)), telemetrypb.AppendPayload(nil, false, nil, b)}
}

// batch is the nth of a vehicle, from 1 on, sealed, or rendered as JSON.
func (s *source) batch(car, n int, json bool) message {
	samples := make([]telemetrypb.Sample, 0, s.samples())
	for tick := range s.ticks {
		at := int64((n*s.ticks+tick)*100) * 1e6
		for i := range signals {
			wave := 2000 + 1500*math.Sin(float64(n*s.ticks+tick)/100+float64(i+car))
			samples = append(samples, telemetrypb.UintSample(uint32(i+1), at+int64(i/perMessage)*1e6, uint64(wave)+s.random.Uint64N(3)))
		}
	}
	h := s.head(car, telemetrypb.Lane_LANE_TELEMETRY, uint64(n))
	sealed, err := telemetrypb.AppendBatch(nil, h, samples)
	payload := telemetrypb.AppendPayload(nil, false, nil, sealed)
	if err == nil && json {
		var view telemetrypb.BatchView
		var plain *telemetrypb.PlainBatch
		if view, err = telemetrypb.OpenBatch(sealed); err == nil {
			plain, err = telemetrypb.RenderPlain(view, s.spec, s.clock)
		}
		if err == nil {
			payload, err = telemetrypb.AppendPlainPayload(nil, true, false, nil, plain)
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return message{telemetrypb.Topic(tenant, h.Device, telemetrypb.TopicLane(h.Lane)), payload}
}
