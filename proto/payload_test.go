package telemetrypb

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// A payload is the protobuf message of telemetry.proto, and hands back each batch as the very bytes that were put in,
// sound or not.
func TestPayload(t *testing.T) {
	one, err := AppendBatch(nil, exampleHead(), exampleSamples())
	if err != nil {
		t.Fatal(err)
	}
	two := append(slices.Clone(one[:len(one)-1]), one[len(one)-1]^1) // damaged: still handed on
	clocks := []*ClockRecord{{BootId: []byte("0123456789abcdef"), Revision: 3, Anchors: []*Anchor{{UnixNs: 5}}}, {Revision: 1}}
	for _, backlog := range []bool{false, true} {
		payload := AppendPayload([]byte("head"), backlog, clocks, one, two, one)
		if string(payload[:4]) != "head" {
			t.Fatal("dst was not kept")
		}
		payload = payload[4:]
		view, err := OpenPayload(payload)
		if err != nil {
			t.Fatal(err)
		}
		if view.Backlog != backlog || !slices.EqualFunc(view.Clocks, clocks, func(a, b *ClockRecord) bool { return proto.Equal(a, b) }) {
			t.Errorf("backlog %v, clocks %v", view.Backlog, view.Clocks)
		}
		if !slices.EqualFunc(view.Batches, [][]byte{one, two, one}, bytes.Equal) {
			t.Errorf("batches came back otherwise")
		}
		var message Payload
		if err := proto.Unmarshal(payload, &message); err != nil {
			t.Fatal(err)
		}
		if message.Format != 1 || message.Backlog != backlog || len(message.Batches) != 3 || len(message.Clocks) != 2 ||
			message.Batches[0].Envelope.Seq != 42 {
			t.Errorf("protobuf reads %v", &message)
		}
	}
	if view, err := OpenPayload(AppendPayload(nil, false, nil)); err != nil || len(view.Batches) != 0 {
		t.Errorf("a payload of nothing: %v", err)
	}
}

// Fields of later versions are skipped; what cannot be read is refused with its kind.
// A question is the message of telemetry.proto, of the size that was asked for, and is none beyond its bound.
func TestProbe(t *testing.T) {
	question := bytes.Repeat([]byte{7}, MaxProbe)
	small, large := AppendProbe(nil, question, 0), AppendProbe(nil, question, 5000)
	for _, payload := range [][]byte{small, large} {
		view, err := OpenPayload(payload)
		if err != nil || !bytes.Equal(view.Probe, question) || len(view.Batches)+len(view.Clocks)+len(view.Plain) != 0 {
			t.Errorf("%+v, %v", view, err)
		}
		var message Payload
		if err := proto.Unmarshal(payload, &message); err != nil || !bytes.Equal(message.Probe, question) || message.Format != 1 {
			t.Errorf("protobuf reads %v, %v", &message, err)
		}
		text, err := protojson.Marshal(&message)
		if err != nil {
			t.Fatal(err)
		}
		if view, err := OpenPayload(text); err != nil || !bytes.Equal(view.Probe, question) {
			t.Errorf("in JSON: %+v, %v", view, err)
		}
	}
	if more := len(large) - len(small); more < 5000 || more > 5010 {
		t.Errorf("padding of 5000 bytes makes %d", more)
	}
	for _, n := range []int{0, MaxProbe + 1} {
		if view, err := OpenPayload(AppendProbe(nil, make([]byte, n), 0)); err != nil || view.Probe != nil {
			t.Errorf("%d bytes: %+v, %v", n, view, err)
		}
	}
}

func TestOpenPayloadRefuses(t *testing.T) {
	good := AppendPayload(nil, true, nil)
	if view, err := OpenPayload(append([]byte{0x7a, 2, 1, 2, 0x78, 5}, good...)); err != nil || !view.Backlog {
		t.Errorf("unknown field 15: %v", err)
	}
	tooMany := append(slices.Clone(good), bytes.Repeat([]byte{0x22, 0}, MaxClocks+1)...)
	for name, c := range map[string]struct {
		payload []byte
		want    error
	}{
		"nothing":             {nil, ErrMalformed},
		"no format":           {[]byte{0x18, 1}, ErrMalformed},
		"a newer format":      {[]byte{0x08, 2}, ErrNewerFormat},
		"batches as a number": {[]byte{0x08, 1, 0x10, 1}, ErrMalformed},
		"format as bytes":     {[]byte{0x0a, 0}, ErrMalformed},
		"cut off":             {[]byte{0x08, 1, 0x12, 9, 1}, ErrMalformed},
		"a broken clock":      {[]byte{0x08, 1, 0x22, 1, 0xff}, ErrMalformed},
		"a broken plain":      {[]byte{0x08, 1, 0x2a, 1, 0xff}, ErrMalformed},
		"too many clocks":     {tooMany, ErrTooLarge},
		"too long":            {make([]byte, MaxPayload+1), ErrTooLarge},
		"JSON of nothing":     {[]byte("{}"), ErrMalformed},
		"broken JSON":         {[]byte("  {\"format\":"), ErrMalformed},
		"newer JSON":          {[]byte(`{"format":2}`), ErrNewerFormat},
		"batches in JSON":     {[]byte(`{"format":1,"batches":[{}]}`), ErrMalformed},
	} {
		if _, err := OpenPayload(c.payload); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if view, err := OpenPayload([]byte("\n {\"format\":1,\"backlog\":true,\"new\":[1]}")); err != nil || !view.Backlog {
		t.Errorf("JSON with a later field: %v", err)
	}
}

// A clock record that protobuf cannot write does not hold back the samples.
func TestPayloadWithoutUnwritableClock(t *testing.T) {
	view, err := OpenPayload(AppendPayload(nil, false, []*ClockRecord{nil, {Revision: 1}}, []byte("b")))
	if err != nil || len(view.Batches) != 1 {
		t.Errorf("%d batches, %v", len(view.Batches), err)
	}
}

// plainCatalogue has a signal of every sort.
func plainCatalogue() *Catalogue {
	return &Catalogue{Format: 1, Signals: []*Signal{
		{Id: 1, Name: "can0.EEC1.EngineSpeed", Unit: "rpm", Scale: 0.1, Offset: -40, Labels: []*Label{{Value: 3, Text: "three"}}},
		{Id: 2, Name: "count", Scale: 1},
		{Id: 3, Name: "gps0.fix.latitude", Unit: "deg"},
		{Id: 4, Name: "text"},
		{Id: 9, Name: "gear", Labels: []*Label{{Value: -1, Text: "R"}, {Value: 0, Text: "N"}}},
	}}
}

func TestRenderPlain(t *testing.T) {
	head := exampleHead()
	head.Catalogue = [16]byte{9}
	head.Supersedes = []*SeqRange{{First: 3, Last: 4}}
	batch, err := AppendBatch(nil, head, []Sample{
		IntSample(9, 10, -1), IntSample(9, 11, 5), UintSample(9, 12, 0),
		StringSample(4, 10, "P\xff"), FloatSample(3, 10, 48.25), FloatSample(3, 11, math.NaN()),
		UintSample(2, 10, math.MaxUint64), UintSample(2, 11, math.MaxInt64), IntSample(2, 12, math.MinInt64),
		IntSample(1, 10, 3), UintSample(1, 20, 1),
	})
	if err != nil {
		t.Fatal(err)
	}
	view, err := OpenBatch(batch)
	if err != nil {
		t.Fatal(err)
	}
	clock := &ClockRecord{Anchors: []*Anchor{{BootNs: 10, UnixNs: 1000, UncertaintyNs: 7, Source: TimeSource_TIME_SOURCE_NTP}}}
	got, err := RenderPlain(view, plainCatalogue(), clock)
	if err != nil {
		t.Fatal(err)
	}
	number := func(v float64) *PlainSample { return &PlainSample{Value: &PlainSample_Number{Number: v}} }
	integer := func(v int64) *PlainSample { return &PlainSample{Value: &PlainSample_Integer{Integer: v}} }
	with := func(s *PlainSample, name, unit, label string, boot int64) *PlainSample {
		s.Name, s.Unit, s.Label, s.BootNs = name, unit, label, boot
		s.TimeUnixNs, s.TimeUncertaintyNs, s.TimeSource = 990+boot, 7, TimeSource_TIME_SOURCE_NTP
		return s
	}
	tenth := 0.1 // not a constant: a constant product would be exact
	want := &PlainBatch{Tenant: "acme", Device: "car-7", Epoch: head.Epoch, Lane: head.Lane, Seq: 42, BootId: head.BootID[:],
		BootCount: 3, Crc32C: view.Envelope.Crc32C, Supersedes: head.Supersedes, Catalogue: head.Catalogue[:],
		Samples: []*PlainSample{
			with(number(float64(3*tenth)-40), "can0.EEC1.EngineSpeed", "rpm", "three", 10),
			with(number(float64(1*tenth)-40), "can0.EEC1.EngineSpeed", "rpm", "", 20),
			with(&PlainSample{Value: &PlainSample_Natural{Natural: math.MaxUint64}}, "count", "", "", 10),
			with(integer(math.MaxInt64), "count", "", "", 11),
			with(integer(math.MinInt64), "count", "", "", 12),
			with(number(48.25), "gps0.fix.latitude", "deg", "", 10),
			with(number(math.NaN()), "gps0.fix.latitude", "deg", "", 11),
			with(&PlainSample{Value: &PlainSample_Text{Text: "P\uFFFD"}}, "text", "", "", 10),
			with(integer(-1), "gear", "", "R", 10),
			with(integer(5), "gear", "", "", 11),
			with(integer(0), "gear", "", "N", 12),
		}}
	for i, s := range want.Samples {
		s.Index = uint32(i)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", protojson.Format(got), protojson.Format(want))
	}

	for _, json := range []bool{false, true} {
		payload, err := AppendPlainPayload(nil, json, true, []*ClockRecord{clock}, got)
		if err != nil {
			t.Fatal(err)
		}
		if json != (payload[0] == '{') {
			t.Errorf("json %v begins with %q", json, payload[0])
		}
		back, err := OpenPayload(payload)
		if err != nil || !back.Backlog || len(back.Plain) != 1 || !proto.Equal(back.Plain[0], want) ||
			len(back.Clocks) != 1 || !proto.Equal(back.Clocks[0], clock) {
			t.Errorf("json %v: came back as %v (%v)", json, back, err)
		}
	}
	if out, err := AppendPlainPayload([]byte("kept"), true, false, nil, &PlainBatch{Tenant: "\xff"}); err == nil || string(out) != "kept" {
		t.Errorf("text that is not UTF-8: %q, %v", out, err)
	}

	if _, err := RenderPlain(view, &Catalogue{}, nil); err == nil {
		t.Error("rendered by a catalogue that lacks its signals")
	}
	without, err := RenderPlain(view, plainCatalogue(), nil)
	if err != nil || without.Samples[0].TimeSource != TimeSource_TIME_SOURCE_NONE || without.Samples[0].TimeUnixNs != 0 {
		t.Errorf("without a clock: %v, %v", without.GetSamples()[0], err)
	}
}

func TestRenderPlainControl(t *testing.T) {
	records := &Records{Records: []*Record{{Record: &Record_Loss{Loss: &Loss{Count: 4, Unit: "frames"}}}}}
	batch, err := AppendControl(nil, controlHead(), records)
	if err != nil {
		t.Fatal(err)
	}
	view, err := OpenBatch(batch)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := RenderPlain(view, nil, nil)
	if err != nil || !proto.Equal(plain.Records, records) || len(plain.Samples) != 0 || plain.Lane != Lane_LANE_CONTROL {
		t.Errorf("%v, %v", plain, err)
	}
}

func FuzzOpenPayload(f *testing.F) {
	batch, err := AppendBatch(nil, exampleHead(), exampleSamples())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(AppendPayload(nil, true, []*ClockRecord{{Revision: 1}}, batch, batch))
	for _, json := range []bool{false, true} {
		plain, err := AppendPlainPayload(nil, json, false, nil, &PlainBatch{Device: "d", Samples: []*PlainSample{{Name: "n"}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		view, err := OpenPayload(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrNewerFormat) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		for _, batch := range view.Batches {
			OpenBatch(batch)
		}
		if again, err := OpenPayload(AppendPayload(nil, view.Backlog, view.Clocks, view.Batches...)); err != nil ||
			!slices.EqualFunc(again.Batches, view.Batches, bytes.Equal) || again.Backlog != view.Backlog || len(again.Clocks) != len(view.Clocks) {
			t.Fatalf("not the same again: %v", err)
		}
	})
}
