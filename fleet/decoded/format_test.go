package decoded

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/decoded/decodedpb"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func exampleBatch() *store.DecodedBatch {
	b := &store.DecodedBatch{Tenant: "acme", Device: "car-1", Key: store.Key{Epoch: 0xAB, Lane: telemetrypb.Lane_LANE_EVENT, Seq: math.MaxInt64}, BootID: [16]byte{0xFF},
		Received: time.Date(2026, 11, 22, 12, 0, 0, 1999, time.UTC)}
	add := func(name string, boot int64, value float64) {
		b.Samples = append(b.Samples, store.DecodedSample{Index: uint32(len(b.Samples)), Name: name, Unit: "m", BootNS: boot, Dated: true, WallNS: -1, UncertaintyNS: math.MaxInt64, HasValue: true, Value: value})
	}
	add("gps0.fix.latitude", 1, 48.5)
	add("gps0.fix.longitude", 1, -11.25)
	add("gps0.fix.suspect", 1, 4)
	add("gps0.fix.track", 1, math.NaN())
	add("gps0.fix.latitude", 2, 91)
	add("gps0.fix.longitude", 2, 1)
	add("gps0.fix.latitude", 3, 1) // without a longitude
	add("Vehicle.CurrentLocation.Latitude", 1, -90)
	add("Vehicle.CurrentLocation.Longitude", 1, 180)
	add("Vehicle.CurrentLocation.Altitude", 1, 1e-9)
	add("gps0.prefix.latitude", 9, 1)
	b.Samples = append(b.Samples, store.DecodedSample{Index: math.MaxUint32, Name: "a\x00\"\\\xFF\u2028</x>", HasText: true, Text: strings.Repeat("ü\n", 3), Label: "an", BootNS: -5})
	return b
}

// validate holds a row against the schema that a registry is told.
func validate(t *testing.T, kind string, row []byte) map[string]any {
	t.Helper()
	text, _ := JSON.Schema(kind)
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(row)))
	if err != nil {
		t.Fatalf("%v: %q", err, row)
	}
	if err := s.Validate(v); err != nil {
		t.Errorf("%s: %v", row, err)
	}
	var m map[string]any
	if err := json.Unmarshal(row, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestFormats: rows of both formats say the same, whatever stands in them, and the JSON ones fit the schemas.
func TestFormats(t *testing.T) {
	b := exampleBatch()
	j, p := JSON.writer(), Proto.writer()
	for i := range b.Samples {
		s := &b.Samples[i]
		m := validate(t, Samples, j.sample(nil, b, s))
		var got decodedpb.Sample
		if err := proto.Unmarshal(p.sample(nil, b, s), &got); err != nil {
			t.Fatal(err)
		}
		if m["name"] != got.Name || got.Name != strings.ToValidUTF8(s.Name, "\uFFFD") || m["epoch"] != got.Epoch || got.Epoch != "00000000000000ab" || m["index"] != float64(got.Index) || got.Index != s.Index ||
			(m["time"] == nil) != (got.TimeNs == nil) || (m["text"] == nil) != (got.Text == nil) || (m["label"] == nil) != (got.Label == nil) || m["boot_id"] != got.BootId || got.Seq != math.MaxInt64 {
			t.Errorf("JSON %v, protobuf %v", m, &got)
		}
		if s.Dated && (m["time"] != "1969-12-31T23:59:59.999999Z" || got.GetTimeNs() != -1) || m["received"] != "2026-11-22T12:00:00.000001Z" || got.ReceivedNs != b.Received.UnixNano() {
			t.Errorf("times %v, %v, %v", m["time"], got.TimeNs, m["received"])
		}
		if s.HasText && (m["text"] != s.Text || got.GetText() != s.Text) {
			t.Errorf("text %q, %q", m["text"], got.GetText())
		}
	}
	list := positions(b)
	if len(list) != 2 {
		t.Fatalf("%d positions: %+v", len(list), list)
	}
	m := validate(t, Positions, j.position(nil, &list[0]))
	if m["source"] != "gps0" || m["latitude"] != 48.5 || m["longitude"] != -11.25 || m["suspect"] != true || m["course"] != nil || m["speed"] != nil || m["index"] != 0. {
		t.Errorf("position %v", m)
	}
	var fix decodedpb.Position
	if err := proto.Unmarshal(p.position(nil, &list[1]), &fix); err != nil {
		t.Fatal(err)
	}
	if fix.Source != "Vehicle.CurrentLocation" || fix.Latitude != -90 || fix.Longitude != 180 || fix.GetAltitude() != 1e-9 || fix.Suspect || fix.Speed != nil || fix.Index != 7 {
		t.Errorf("position %v", &fix)
	}
	for lane := range telemetrypb.Lane(5) {
		l := store.DecodedLoss{Tenant: "acme", Device: "car-1", Index: 3, Of: lane, Reason: telemetrypb.LossReason_LOSS_OVERLOAD, Count: math.MaxInt64, Detail: "\x01"}
		m := validate(t, Losses, j.loss(nil, &l))
		var got decodedpb.Loss
		if err := proto.Unmarshal(p.loss(nil, &l), &got); err != nil {
			t.Fatal(err)
		}
		if (m["lane"] == nil) != (lane == 0) || (got.Lane == nil) != (lane == 0) || m["reason"] != "LOSS_OVERLOAD" || got.Count != math.MaxInt64 || m["detail"] != "\x01" {
			t.Errorf("loss %v, %v", m, &got)
		}
	}
}

// FuzzStrings: whatever a vehicle calls a signal is read back by Go's own decoder as it was, but for what is no UTF-8.
func FuzzStrings(f *testing.F) {
	for _, s := range []string{"", "a", "\x00\x1f\"\\", "ü\u2028\uFFFD\U0010FFFF", "\xff\xc0\x80", "a\xffb\"c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendString(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		want := string([]rune(s)) // each byte that is no UTF-8 becomes U+FFFD
		if got != want || utf8.ValidString(s) && got != s {
			t.Errorf("%q came back as %q", s, got)
		}
	})
}

// TestNumbers: numbers come back as they were.
func TestNumbers(t *testing.T) {
	for _, v := range []float64{0, math.Copysign(0, -1), 1, -0.1, 1e21, 1e-7, math.MaxFloat64, math.SmallestNonzeroFloat64, 1 << 53} {
		var got float64
		if err := json.Unmarshal(appendNumber(nil, v), &got); err != nil || math.Float64bits(got) != math.Float64bits(v) {
			t.Errorf("%v came back as %v; %v", v, got, err)
		}
	}
}

// TestRegistryCheck: no secrets in the URL, no plain way beyond this machine.
func TestRegistryCheck(t *testing.T) {
	for url, ok := range map[string]bool{"http://127.0.0.1:8081": true, "https://r.example/x": true, "http://r.example": false, "https://u:p@r.example": false, "r.example:8081": false, "": false} {
		if err := (&Registry{URL: url}).check(); (err == nil) != ok || err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func BenchmarkJSON(b *testing.B)  { benchmark(b, JSON) }
func BenchmarkProto(b *testing.B) { benchmark(b, Proto) }

func benchmark(b *testing.B, f Format) {
	batch := exampleBatch()
	w := f.writer()
	var row []byte
	for i := 0; b.Loop(); i++ {
		row = w.sample(row[:0], batch, &batch.Samples[i%8])
	}
	b.ReportMetric(float64(len(row)), "B/row")
}
