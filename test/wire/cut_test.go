package wire

import (
	"math"
	"slices"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What a batch is sealed as: a device id of the 17 characters of a usual provisioned one.
const device = "BENCH-DEVICE-0001"

// batchBytes is where the agent seals whatever the interval says.
const batchBytes = 16 << 10

// head of the batch number seq.
func head(seq int) *telemetrypb.Head {
	return &telemetrypb.Head{
		Tenant: "bench", Device: device, Epoch: 0x5742_0000_0000_0001, Lane: telemetrypb.Lane_LANE_TELEMETRY, Seq: uint64(seq),
		BootID: [16]byte([]byte("bench boot id 01")), BootCount: 1, Catalogue: [16]byte([]byte("bench catalogue ")),
	}
}

// batch is a part of a set.
type batch struct {
	samples []telemetrypb.Sample
	bytes   int // of the payload that it is published as, alone
}

// cut divides samples into batches as the agent's pipeline does: where a sample is an interval later than the latest
// one was when the batch began, and where it would have more than 16 KiB, but not between samples of one time.
func cut(t testing.TB, samples []telemetrypb.Sample, sealEvery time.Duration) (batches []batch) {
	t.Helper()
	var e telemetrypb.Encoder
	var sealed []byte
	high := int64(math.MinInt64)
	for begin := 0; begin < len(samples); {
		high = max(high, samples[begin].Time)
		opened, end := high, begin+1
		for end < len(samples) && samples[end].Time-opened < int64(sealEvery) {
			high = max(high, samples[end].Time)
			end++
		}
		for {
			var err error
			if sealed, err = e.AppendBatch(sealed[:0], head(len(batches)+1), samples[begin:end]); err != nil {
				t.Fatal(err)
			}
			less := begin + (end-begin)*batchBytes/len(sealed)*15/16
			for less > begin && less < end && samples[less].Time == samples[less-1].Time {
				less--
			}
			if len(sealed) <= batchBytes || less <= begin || less >= end {
				break
			}
			end = less
		}
		batches = append(batches, batch{samples[begin:end], len(telemetrypb.AppendPayload(nil, false, nil, sealed))})
		begin = end
	}
	return batches
}

func weight(batches []batch) (bytes int) {
	for _, b := range batches {
		bytes += b.bytes
	}
	return bytes
}

// The figures are those of the agent's own batches: cut here, a log makes the same ones.
func TestCutAsTheAgentDoes(t *testing.T) {
	t.Parallel()
	for _, l := range canLogs(t)[:1] {
		const every = 30 * time.Second // the log's; the replay takes less by far
		r := record(t, "telemetry", "%squeue: {seal_every: %s}\n", l.config(), every)
		batches := cut(t, r.samples(t), every)
		if len(r.batches) < 3 {
			t.Fatalf("%s: %d batches", l.name, len(r.batches))
		}
		if len(batches) != len(r.batches) {
			t.Fatalf("%s: %d batches, the agent made %d", l.name, len(batches), len(r.batches))
		}
		for i, sealed := range r.batches {
			theirs := openBatch(t, sealed, nil)
			ours, err := telemetrypb.AppendBatch(nil, head(i+1), batches[i].samples)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(openBatch(t, ours, nil), theirs) {
				t.Fatalf("%s: batch %d has other samples than the agent's", l.name, i+1)
			}
			if len(ours) != len(sealed) {
				t.Errorf("%s: batch %d has %d bytes, the agent's %d", l.name, i+1, len(ours), len(sealed))
			}
		}
	}
}

// The figures are those of `batch encode`, too.
func TestWeightIsThatOfBatchEncode(t *testing.T) {
	t.Parallel()
	file := wireFiles(t)[0]
	batches := cut(t, wireSet(t, file).samples, 10*time.Second)
	if payload := agentOutput(t, nil, "batch", "encode", file); len(batches) != 1 || len(payload) != weight(batches) {
		t.Errorf("%d bytes in %d batches, batch encode makes %d", weight(batches), len(batches), len(payload))
	}
}
