package telemetrypb

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// TestSecondDecoder holds the encoder and FORMAT.md together: a decoder in Python, which was written from the document
// alone, reads every sample to the last bit.
func TestSecondDecoder(t *testing.T) {
	random := rand.New(rand.NewPCG(21, 22))
	sets := [][]Sample{
		exampleSamples(),
		oddSamples(),
		onChange(random, 30, 400),
		interleaved(random, 12, 1500),
		column(7, 600, func(i int) Sample { return FloatSample(0, 0, 48.1234567+float64(i)/1e7) }),
		column(7, 600, func(int) Sample { return UintSample(0, 0, random.Uint64()) }),
		column(7, 600, func(i int) Sample {
			return IntSample(0, 0, int64(1e6*math.Sin(float64(i)/7))+random.Int64N(9))
		}),
		column(7, 300, func(i int) Sample { return StringSample(0, 0, strings.Repeat("é\xff", i%3)) }),
	}
	for _, samples := range keyedSets() {
		sets = append(sets, samples)
	}
	for range 30 {
		data := make([]byte, random.IntN(400))
		for i := range data {
			data[i] = byte(random.Uint32()) >> (random.IntN(3) * 3)
		}
		sets = append(sets, samplesOf(data))
	}
	for _, file := range wireFiles(t) {
		samples := readWire(t, file)
		sets = append(sets, samples, samples[:400])
	}
	CheckSecondDecoder(t, sets)
}

// CheckSecondDecoder seals each set, has the decoder in Python read all of them and compares every bit.
func CheckSecondDecoder(t *testing.T, sets [][]Sample) {
	t.Helper()
	var batches [][]byte
	var want strings.Builder
	for i, samples := range sets {
		head := exampleHead()
		head.Seq = uint64(i + 1)
		batch, err := AppendBatch(nil, head, samples)
		if err != nil {
			t.Fatal(err)
		}
		batches = append(batches, batch)
		for _, s := range bySignal(samples) {
			value := fmt.Sprintf("%016x", s.Bits)
			if s.Kind == KindString {
				value = hex.EncodeToString([]byte(s.Str))
			}
			fmt.Fprintf(&want, "%s,%d,%d,%d,%d,%s,%s\n", head.Device, head.Lane, head.Seq, s.Signal, s.Time,
				[...]string{KindInt: "int", KindUint: "uint", KindFloat: "float", KindString: "string"}[s.Kind], value)
		}
	}
	decode := deps.Python(t, filepath.Join(deps.Root(t), "tools", "decode_batch.py"), "--bits")
	var stdout, stderr bytes.Buffer
	decode.Stdin, decode.Stdout, decode.Stderr = bytes.NewReader(AppendPayload(nil, false, nil, batches...)), &stdout, &stderr
	if err := decode.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	got, expected := strings.Split(stdout.String(), "\n"), strings.Split(want.String(), "\n")
	if slices.Equal(got, expected) {
		return
	}
	for i := range min(len(got), len(expected)) {
		if got[i] != expected[i] {
			t.Fatalf("line %d: %s, want %s", i+1, got[i], expected[i])
		}
	}
	t.Fatalf("%d samples, want %d", len(got)-1, len(expected)-1)
}

// oddSamples is what has no neighbours that predict it.
func oddSamples() (out []Sample) {
	for i, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), 0, math.MaxFloat64,
		math.SmallestNonzeroFloat64, math.Float64frombits(0xfff8dead0000beef), 1e-12, 1 << 53} {
		out = append(out, FloatSample(1, int64(i), v))
	}
	for i, v := range []int64{math.MinInt64, math.MaxInt64, 0, -1, math.MinInt64, math.MinInt64, math.MaxInt64, 1} {
		out = append(out, IntSample(2, v, v), UintSample(3, 5, uint64(v)), IntSample(4, int64(i)*1e9, v))
	}
	return append(out, UintSample(math.MaxUint32, 1, math.MaxUint64), StringSample(2, 9, ""))
}

// onChange is what a bus gives of messages of six signals each where a signal that did not change is no sample.
func onChange(random *rand.Rand, messages, frames int) (out []Sample) {
	for i := range frames * messages {
		message, at := i%messages, int64(i)*1e6+random.Int64N(2e5)
		for k := range 6 {
			if random.IntN(k+1) == 0 {
				out = append(out, IntSample(uint32(message*6+k+1), at, random.Int64N(50)))
			}
		}
	}
	return out
}
