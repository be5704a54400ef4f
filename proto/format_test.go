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

	w, m := new(rangeWriter), newModels()
	w.reset()
	for line := range strings.Lines(fenced(t, "numbers")) {
		words := strings.Fields(line)
		v, err := strconv.ParseInt(words[1], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		exampleNumber(t, w, m, words[0], uint64(v))
	}
	if body := w.finish([]byte{columnsVersion}); !bytes.Equal(body, view.Body) {
		t.Errorf("the document's numbers are\n%x\nits body is\n%x", body, view.Body)
	}
}

// exampleNumber writes a number by the model of this name.
func exampleNumber(t *testing.T, w *rangeWriter, m *bodyModels, name string, v uint64) {
	t.Helper()
	if n, plain := strings.CutPrefix(name, "P("); plain {
		bits, err := strconv.Atoi(strings.TrimSuffix(n, ")"))
		if err != nil {
			t.Fatal(err)
		}
		w.plain(v, uint(bits))
		return
	}
	numbers := map[string]*number{"id": &m.id, "times": &m.times, "base": &m.base, "unit": &m.unit, "kind": &m.kind, "decimals": &m.decimals}
	wide := map[string]*length{"columns": &m.columns, "count": &m.count, "part": &m.part, "texts": &m.texts, "text": &m.text}
	starts := map[string]*length{"at": &m.at.start, "values": &m.values.start}
	scales := map[string]*scaleModels{"gaps": &m.gaps, "at": &m.at.scales, "values": &m.values.scales}
	for of, models := range map[string]*integerModels{"at": &m.at, "values": &m.values} {
		numbers[of+".order"], numbers[of+".memory"] = &models.order, &models.memory
		wide[of+".slope"] = &models.slope
		numbers[of+".same"], numbers[of+".drift"] = &models.same, &models.drift
		wide[of+".first"] = &models.first
	}
	of, part, _ := strings.Cut(name, ".")
	switch {
	case part == "drift":
		w.putSigned(numbers[name], v)
	case numbers[name] != nil:
		w.put(numbers[name], v)
	case part == "first" || part == "slope":
		w.putWide(wide[name], zigzag(v))
	case wide[name] != nil:
		w.putWide(wide[name], v)
	case part == "start":
		w.putLength(starts[of], uint(v))
	default:
		scale, err := strconv.Atoi(strings.TrimPrefix(part, "scale"))
		if err != nil || scales[of] == nil {
			t.Fatalf("no model is called %s", name)
		}
		w.put(&scales[of][scale], v)
	}
}

// Every machine writes the same bytes: the sum was taken on amd64 and holds on arm and arm64 (make test-arm). A better
// choice of predictors may change it; a machine may not.
func TestSameBytesEverywhere(t *testing.T) {
	random := rand.New(rand.NewPCG(11, 12))
	samples := slices.Concat(
		interleaved(random, 40, 5000),
		onChange(random, 6, 900),
		oddSamples(),
		column(50, 500, func(i int) Sample { return FloatSample(0, 0, 48.1234567+float64(i%91)/1e7) }),
		column(51, 500, func(i int) Sample { return FloatSample(0, 0, math.Sqrt(float64(i))) }),
		column(52, 500, func(i int) Sample { return IntSample(0, 0, int64(i)*int64(i)/7) }),
		framesOf(random, 60, 40, 700),
		column(53, 900, func(i int) Sample { return IntSample(0, 0, int64(i*i%1013-i*7%401)*90+random.Int64N(9)) }),
	)
	sum := sha256.Sum256(roundTrip(t, samples))
	if got, want := hex.EncodeToString(sum[:]), "472c86a9013ae4ce23982c17518ac714f4a3fce1a0a68f2f04929ad2d19e4b24"; got != want {
		t.Errorf("sum %s, want %s", got, want)
	}
}
