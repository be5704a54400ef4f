package telemetrypb_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// busIDs is how far apart the signal ids of two buses are.
const busIDs = 10000

// recorded is a recorded log, decoded by a DBC file, or its frames as they are (docs/RECORDING.md) without one.
func recorded(t testing.TB, dbc, log string) (samples []telemetrypb.Sample) {
	t.Helper()
	folder := deps.Testdata(t, "can")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var plan *can.Plan
	var parts *can.Reassembler
	if dbc != "" {
		var subscriptions []can.Subscription
		for _, m := range can.ParseDBC(read(dbc)).Messages {
			for _, s := range m.Signals {
				subscriptions = append(subscriptions, can.Subscription{ID: uint32(len(subscriptions) + 1), Message: m, Signal: s})
			}
		}
		plan = can.Compile(subscriptions, can.PlanOptions{J1939: true})
		parts = can.NewReassembler(plan, can.ReassemblerOptions{})
	}
	lines := can.NewScanner(bytes.NewReader(read(log)))
	for lines.Scan() {
		f := lines.Frame()
		f.Time, _ = lines.Time()
		have := len(samples)
		if plan == nil {
			word := make([]byte, 8)
			copy(word[8-len(f.Payload()):], f.Payload())
			samples = append(samples, telemetrypb.UintSample(1, f.Time, uint64(f.ID)), telemetrypb.UintSample(2, f.Time, uint64(f.Len)),
				telemetrypb.UintSample(3, f.Time, binary.BigEndian.Uint64(word)))
		} else if samples = plan.Decode(f, samples); len(samples) == have {
			if whole := parts.Take(f); whole != nil {
				samples = plan.DecodeAssembled(whole, samples)
			}
		}
		for i := range samples[have:] {
			samples[have+i].Signal += busIDs * uint32(f.Bus)
		}
	}
	if err := lines.Err(); err != nil || len(samples) == 0 {
		t.Fatalf("%s: %d samples, %v", log, len(samples), err)
	}
	return samples
}

// recordings are the logs and what describes them.
var recordings = []struct{ name, dbc, log string }{
	{"boat", "tp_nmea.dbc", "boat-nmea2000.log"},
	{"truck", "CSS-Electronics-SAE-J1939-DEMO.dbc", "truck-j1939.log"},
	{"car-raw", "", "car-raw-500k.log"},
}

// Real buses go into batches of 10 s and come back, by this decoder and, of their beginning, by the one in Python.
func TestRecordingsAreLossless(t *testing.T) {
	const python = 30000 // samples of each
	var sets [][]telemetrypb.Sample
	for _, r := range recordings {
		samples := recorded(t, r.dbc, r.log)
		size, taken := 0, 0
		for _, part := range sealedEvery(samples, 10) {
			body, err := telemetrypb.AppendSamples(nil, part)
			if err != nil {
				t.Fatal(err)
			}
			got, err := telemetrypb.DecodeSamples(nil, body)
			want := slices.Clone(part)
			slices.SortStableFunc(want, func(a, b telemetrypb.Sample) int { return cmp.Compare(a.Signal, b.Signal) })
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("%s: %d samples came back as %d, %v", r.name, len(want), len(got), err)
			}
			size += len(body)
			if taken < python {
				part = part[:min(len(part), python-taken)]
				sets = append(sets, part)
				taken += len(part)
			}
		}
		t.Logf("%s: %d samples, %.3f bytes each", r.name, len(samples), float64(size)/float64(len(samples)))
	}
	telemetrypb.CheckSecondDecoder(t, sets)
}

// sealedEvery cuts samples into what so many seconds seal.
func sealedEvery(samples []telemetrypb.Sample, seconds int64) (parts [][]telemetrypb.Sample) {
	for begin, end := 0, 0; begin < len(samples); begin = end {
		limit := (samples[begin].Time/(seconds*1e9) + 1) * seconds * 1e9
		for end = begin; end < len(samples) && samples[end].Time < limit; {
			end++
		}
		parts = append(parts, samples[begin:end])
	}
	return parts
}
