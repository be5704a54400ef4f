package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// TestCSV sends recorded and made-up columns through `batch encode` and `batch decode` on each processor that the agent is
// built for: what comes out is the CSV as it is read here, value by value, and what travels is the same to the byte.
func TestCSV(t *testing.T) {
	t.Parallel()
	inputs := madeUp()
	for _, file := range wireFiles(t) {
		inputs[filepath.Base(file)] = readFile(t, file)
	}
	dir := t.TempDir()
	var trips []roundTrip
	var payload, text []byte
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		r := roundTrip{file: writeFile(t, filepath.Join(dir, name), "%s", inputs[name]), want: expected(t, inputs[name])}
		r.payload = agentOutput(t, nil, "batch", "encode", r.file)
		decoded := agentOutput(t, r.payload, "batch", "decode")
		if different := r.difference(decodedCSV(t, decoded)); different != "" {
			t.Errorf("%s: %s", name, different)
		}
		trips = append(trips, r)
		payload, text = append(payload, r.payload...), append(text, decoded...) // payloads one behind the other are one again
	}
	t.Run("comparison", comparisonSees)
	for _, arch := range []string{"arm", "arm64"} {
		if arch == runtime.GOARCH {
			continue
		}
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			if testing.Short() {
				t.Skip("skipped: -short, and emulators take their time")
			}
			agent := []string{deps.QEMU(t, arch), crossBuilt(t, arch)}
			for _, r := range trips {
				if got := output(t, nil, append(agent, "batch", "encode", r.file)...); !bytes.Equal(got, r.payload) {
					t.Errorf("%s: %d bytes, on %s %d others", filepath.Base(r.file), len(got), runtime.GOARCH, len(r.payload))
				}
			}
			if !bytes.Equal(output(t, payload, append(agent, "batch", "decode")...), text) {
				t.Errorf("%d bytes are decoded otherwise than on %s", len(payload), runtime.GOARCH)
			}
		})
	}
}

// roundTrip is a CSV file, what it travels as, and what has to come back.
type roundTrip struct {
	file    string
	payload []byte
	want    []printed
}

// crossBuilt builds the agent for another processor, as .ci/test-arm builds the tests.
func crossBuilt(t *testing.T, arch string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	build := deps.Go(t, "build", "-ldflags", "-s -w", "-o", path, "./cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch, "GOARM=7")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, text)
	}
	return path
}

// printed is a line of `batch decode`, with its raw value as canonical writes it.
type printed struct {
	ns     int64
	signal uint32
	raw    string
}

// canonical is a whole number's digits, or the bits of any other. JSON does not tell a float that is whole from an integer;
// TestColumns does.
func canonical(t *testing.T, raw string) string {
	t.Helper()
	if v, err := strconv.ParseInt(raw, 10, 64); err == nil {
		return strconv.FormatInt(v, 10)
	}
	if v, err := strconv.ParseUint(raw, 10, 64); err == nil {
		return strconv.FormatUint(v, 10)
	}
	v, err := strconv.ParseFloat(strings.Trim(raw, `"`), 64)
	if err != nil {
		t.Fatal(err)
	}
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 && !(v == 0 && math.Signbit(v)) {
		return strconv.FormatInt(int64(v), 10)
	}
	return fmt.Sprintf("float %016x", math.Float64bits(v))
}

// expected is what a CSV has to come back as: signals ascending, each in the order of the file.
func expected(t *testing.T, text []byte) (list []printed) {
	t.Helper()
	for _, r := range readRows(t, text) {
		list = append(list, printed{r.ms * 1e6, r.signal, canonical(t, r.raw)})
	}
	slices.SortStableFunc(list, func(a, b printed) int { return cmpInt(int64(a.signal), int64(b.signal)) })
	return list
}

func decodedCSV(t *testing.T, text []byte) (list []printed) {
	t.Helper()
	for d := json.NewDecoder(bytes.NewReader(text)); d.More(); {
		var line struct {
			T      int64           `json:"t_ns"`
			Signal uint32          `json:"signal"`
			Raw    json.RawMessage `json:"raw"`
		}
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		raw := string(line.Raw)
		if !strings.ContainsAny(raw, `.eE"`) && raw == "-0" {
			raw = "-0.0" // a float's; the whole number is 0
		}
		list = append(list, printed{line.T, line.Signal, canonical(t, raw)})
	}
	return list
}

// difference tells where what came back differs from what went out; "" when it does not.
func (r *roundTrip) difference(got []printed) string {
	for i := range min(len(got), len(r.want)) {
		if got[i] != r.want[i] {
			return fmt.Sprintf("line %d: got %+v, want %+v", i+1, got[i], r.want[i])
		}
	}
	if len(got) != len(r.want) {
		return fmt.Sprintf("%d samples, want %d", len(got), len(r.want))
	}
	return ""
}

// comparisonSees makes sure that one value or time that is otherwise is seen, and a sample too few or too many.
func comparisonSees(t *testing.T) {
	const text = "t_ms,signal,raw\n1,1,10\n2,1,11\n3,1,-0.0\n"
	got := decodedCSV(t, agentOutput(t, agentOutput(t, []byte(text), "batch", "encode"), "batch", "decode"))
	for other, same := range map[string]bool{
		text: true,
		"t_ms,signal,raw\n1,1,10\n2,1,21\n3,1,-0.0\n": false,
		"t_ms,signal,raw\n1,1,10\n2,1,11\n3,1,0\n":    false,
		"t_ms,signal,raw\n1,1,10\n2,2,11\n3,1,-0.0\n": false,
		"t_ms,signal,raw\n1,1,10\n3,1,11\n3,1,-0.0\n": false,
		"t_ms,signal,raw\n1,1,10\n2,1,11\n":           false,
		text + "4,1,1\n":                              false,
	} {
		r := roundTrip{want: expected(t, []byte(other))}
		if different := r.difference(got); (different == "") != same {
			t.Errorf("%q came back as %+v: %q", other, got, different)
		}
	}
}

// largestMS is the last time in ms that a CSV can say.
const largestMS = math.MaxInt64 / 1_000_000

// madeUp are columns that a codec may trip over. They are the same each time.
func madeUp() map[string][]byte {
	random := rand.New(rand.NewPCG(5, 1))
	files := map[string]*bytes.Buffer{}
	put := func(name string, ms int64, signal uint32, raw any) {
		if files[name] == nil {
			files[name] = bytes.NewBufferString("t_ms,signal,raw\n")
		}
		fmt.Fprintf(files[name], "%d,%d,%v\n", ms, signal, raw)
	}
	put("single", -1, math.MaxUint32, int64(math.MinInt64))

	for i, v := range []any{int64(math.MinInt64), int64(math.MaxInt64), uint64(math.MaxUint64), 0, -1, 1, int64(math.MinInt64) + 1, uint64(math.MaxInt64) + 1} {
		at := []int64{-largestMS, largestMS, 0, largestMS, -largestMS, -1, 1, 0}[i]
		put("limits", at, 1, v)
		put("limits", at, 2, int64(math.MinInt64))
		put("limits", at, 3, []int64{math.MinInt64, math.MaxInt64}[i%2])
		put("limits", at, 4, []any{v, float64(i) + 0.5}[i%2])
		put("limits", at, 5, random.Uint64())
		put("limits", at, 6, int64(random.Uint64()))
		put("limits", int64(i)*10, 7, v)
	}

	walk := make([]int64, 16)
	for i := range 1 << 16 {
		signal := i % len(walk)
		walk[signal] += int64(random.NormFloat64() * 20)
		put("64k samples", int64(i/len(walk))*10+int64(random.IntN(3)), uint32(signal+1), walk[signal])
	}

	at := int64(0)
	for i := range 3000 {
		at += int64(math.Exp(random.Float64() * 14)) // 1 ms to 20 min
		put("times", at, uint32(1+i%5), random.IntN(100))
		put("times", 4711, uint32(11+i%3), i%7)
		put("times", int64(3000-i)*100, uint32(21+i%4), i)
		put("times", random.Int64N(1e6), uint32(31+i%4), random.Int64N(1<<uint(1+i%60)))
		if i%3 == 0 {
			put("times", at, 100+random.Uint32N(math.MaxUint32-100), random.Int64()-math.MaxInt64/2) // mostly alone
		}
		put("thousands of signals", int64(i/1500), uint32(1+i), i)
	}

	for i := range 2000 {
		at := int64(i) * 20
		for signal, v := range []float64{
			float64(random.IntN(100000)) / 1000, random.NormFloat64(), math.Float64frombits(random.Uint64() &^ (1 << 62)),
			[]float64{math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), math.SmallestNonzeroFloat64, math.MaxFloat64}[i%6],
			float64(random.IntN(1000)) * 0.1, 48.1 + float64(i)*1e-7,
		} {
			raw := strconv.FormatFloat(v, 'g', -1, 64)
			if !strings.ContainsAny(raw, ".eIN") {
				raw += ".0" // else it would be a whole number
			}
			put("floats", at, uint32(signal+1), raw)
		}
	}

	texts := map[string][]byte{}
	for name, text := range files {
		texts[name] = text.Bytes()
	}
	return texts
}
