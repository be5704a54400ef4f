package telemetrypb

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// exampleHead and exampleSamples are the example of FORMAT.md as its words say it.
func exampleHead() *Head {
	return &Head{Tenant: "acme", Device: "car-7", Epoch: 0x0123456789abcdef, Lane: Lane_LANE_TELEMETRY, Seq: 42,
		BootID: [16]byte([]byte("0123456789abcdef")), BootCount: 3}
}

func exampleSamples() []Sample {
	return []Sample{
		IntSample(1, 1_000_000_000, 20), IntSample(1, 1_100_000_000, 22), IntSample(1, 1_200_000_000, 21),
		FloatSample(2, 1_000_000_000, 0.5), FloatSample(2, 1_100_000_000, 0.5), FloatSample(2, 1_200_000_000, 0.5),
		StringSample(5, 1_200_000_000, "R"),
	}
}

// fenced is the text of a fenced block of FORMAT.md.
func fenced(t *testing.T, name string) string {
	t.Helper()
	document, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(document), "\n```"+name+"\n")
	text, _, closed := strings.Cut(after, "\n```\n")
	if !found || !closed {
		t.Fatalf("FORMAT.md has no block of %s", name)
	}
	return text
}

// TestFormatExample holds code and document together: the batch of the example, byte for byte, and its body, number
// for number. The bytes were checked once against a decoder written from the document alone.
func TestFormatExample(t *testing.T) {
	want, err := hex.DecodeString(strings.Join(strings.Fields(fenced(t, "hex")), ""))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := AppendBatch(nil, exampleHead(), exampleSamples())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(batch, want) {
		t.Errorf("the example is sealed as\n%x\nFORMAT.md says\n%x", batch, want)
	}
	view, err := OpenBatch(want)
	if err != nil {
		t.Fatalf("the document's batch does not open: %v", err)
	}
	samples, err := view.Samples(nil)
	if err != nil || !slices.Equal(samples, exampleSamples()) {
		t.Errorf("the document's batch holds %v (%v)", samples, err)
	}

	w, m := newRangeWriter([]byte{columnsVersion}), new(bodyModels)
	for line := range strings.Lines(fenced(t, "numbers")) {
		words := strings.Fields(line)
		v, err := strconv.ParseInt(words[1], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		exampleNumber(t, &w, m, words[0], uint64(v))
	}
	if body := w.finish(); !bytes.Equal(body, view.Body) {
		t.Errorf("the document's numbers are\n%x\nits body is\n%x", body, view.Body)
	}
}

// exampleNumber writes a number by the model of this name.
func exampleNumber(t *testing.T, w *rangeWriter, m *bodyModels, name string, v uint64) {
	t.Helper()
	if n, plain := map[string]uint{"P(1)": 1, "P(8)": 8}[name]; plain {
		w.plain(v, n)
		return
	}
	if model := map[string]*number{"columns": &m.columns, "id": &m.id, "times": &m.times, "count": &m.count, "unit": &m.unit,
		"kind": &m.kind, "decimals": &m.decimals, "texts": &m.texts, "text": &m.text}[name]; model != nil {
		w.put(model, v)
		return
	}
	of, part, _ := strings.Cut(name, ".")
	integers := map[string]*integerModels{"at": &m.at, "values": &m.values}[of]
	if integers == nil {
		t.Fatalf("no model is called %s", name)
	}
	if model := map[string]*number{"first": &integers.first, "drift": &integers.drift, "slope": &integers.slope}[part]; model != nil {
		w.putSigned(model, v)
		return
	}
	if model := map[string]*number{"order": &integers.order, "memory": &integers.memory, "start": &integers.residuals.start}[part]; model != nil {
		w.put(model, v)
		return
	}
	scale, err := strconv.Atoi(strings.TrimPrefix(part, "scale"))
	if err != nil {
		t.Fatalf("no model is called %s", name)
	}
	w.put(&integers.residuals.scales[scale], v)
}

// Every machine writes the same bytes: the sum was taken on amd64 and holds on 386, arm and arm64. A better choice of
// predictors may change it; a machine may not.
func TestSameBytesEverywhere(t *testing.T) {
	samples := slices.Concat(
		interleaved(rand.New(rand.NewPCG(11, 12)), 40, 5000),
		column(50, 500, func(i int) Sample { return FloatSample(0, 0, 48.1234567+float64(i%91)/1e7) }),
		column(51, 500, func(i int) Sample { return FloatSample(0, 0, math.Sqrt(float64(i))) }),
		column(52, 500, func(i int) Sample { return IntSample(0, 0, int64(i)*int64(i)/7) }),
	)
	sum := sha256.Sum256(roundTrip(t, samples))
	if got, want := hex.EncodeToString(sum[:8]), "62b51171d9929d83"; got != want {
		t.Errorf("sum %s, want %s", got, want)
	}
}
