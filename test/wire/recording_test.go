package wire

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// recording is what the agent had in its queue after it had read logs to their end.
type recording struct {
	payload   []byte   // of one lane, as queue export writes it
	batches   [][]byte // in it
	catalogue *telemetrypb.Catalogue
	control   string // file with the control lane's payload
	anchor    *telemetrypb.Anchor
}

// record runs the agent on logs, without an uplink, and takes a lane out of its queue. config is what stands below device
// and data_dir.
func record(t testing.TB, lane, config string, args ...any) recording {
	t.Helper()
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "agent.yaml"), "device: {id: %s, tenant: bench}\ndata_dir: data\n%s",
		device, fmt.Sprintf(config, args...))
	agentOutput(t, nil, "run", "-c", file)
	queue := filepath.Join(dir, "data", "queue")
	r := recording{
		payload: agentOutput(t, nil, "queue", "export", "--lane", lane, queue),
		control: filepath.Join(dir, "control"),
	}
	control := agentOutput(t, nil, "queue", "export", "--lane", "control", queue)
	writeFile(t, r.control, "%s", control)
	r.batches = openPayload(t, r.payload)
	r.readControl(t, control)
	return r
}

// readControl finds the catalogue and what a time of CLOCK_BOOTTIME is in Unix time.
func (r *recording) readControl(t testing.TB, control []byte) {
	t.Helper()
	var assembler telemetrypb.CatalogueAssembler
	for _, b := range openPayload(t, control) {
		view, err := telemetrypb.OpenBatch(b)
		if err != nil {
			t.Fatal(err)
		}
		records, err := view.Records()
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range records.GetRecords() {
			if part := record.GetCatalogue(); part != nil {
				c, _, err := assembler.Add(part)
				if err != nil {
					t.Fatal(err)
				}
				if c != nil {
					r.catalogue = c
				}
			}
			if anchors := record.GetClock().GetAnchors(); len(anchors) > 0 {
				r.anchor = anchors[0]
			}
		}
	}
	if r.catalogue == nil || r.anchor == nil {
		t.Fatalf("the control lane has catalogue %v, anchor %v", r.catalogue, r.anchor)
	}
}

// unixNS is the time that the log had for a sample.
func (r *recording) unixNS(bootNS int64) int64 {
	return bootNS - r.anchor.GetBootNs() + r.anchor.GetUnixNs()
}

// samples gives all samples in order of time, those of one time in order of their signals: as they came from the bus.
func (r *recording) samples(t testing.TB) (list []telemetrypb.Sample) {
	t.Helper()
	for _, b := range r.batches {
		list = openBatch(t, b, list)
	}
	if len(list) == 0 {
		t.Fatal("the agent recorded nothing")
	}
	slices.SortStableFunc(list, func(a, b telemetrypb.Sample) int {
		return cmpInt(a.Time, b.Time)
	})
	return list
}

func cmpInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func openPayload(t testing.TB, payload []byte) [][]byte {
	t.Helper()
	view, err := telemetrypb.OpenPayload(payload)
	if err != nil {
		t.Fatal(err)
	}
	return view.Batches
}

// openBatch appends a batch's samples to dst.
func openBatch(t testing.TB, batch []byte, dst []telemetrypb.Sample) []telemetrypb.Sample {
	t.Helper()
	view, err := telemetrypb.OpenBatch(batch)
	if err != nil {
		t.Fatal(err)
	}
	dst, err = view.Samples(dst)
	if err != nil {
		t.Fatal(err)
	}
	return dst
}

// nonEmptyLines of a text.
func nonEmptyLines(text []byte) (lines [][]byte) {
	for line := range bytes.Lines(text) {
		if len(bytes.TrimSpace(line)) > 0 {
			lines = append(lines, line)
		}
	}
	return lines
}
