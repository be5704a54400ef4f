package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// value is one sample as a command printed it.
type value struct {
	unixNS int64
	signal string // BUS.MESSAGE.SIGNAL
	raw    string
}

func (v value) compare(w value) int {
	if c := cmpInt(v.unixNS, w.unixNS); c != 0 {
		return c
	}
	return strings.Compare(v.signal+" "+v.raw, w.signal+" "+w.raw)
}

// firstDifference tells where two lists differ, which may be in any order; "" when they do not.
func firstDifference(got, want []value) string {
	got, want = slices.Clone(got), slices.Clone(want)
	slices.SortFunc(got, value.compare)
	slices.SortFunc(want, value.compare)
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("%d of %d: got %+v, want %+v", i, len(want), got[i], want[i])
		}
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d samples, want %d", len(got), len(want))
	}
	return ""
}

// Real logs, decoded: what `can decode` prints of them is what comes out of the agent's queue, sample by sample.
func TestDecodedLogs(t *testing.T) {
	for _, l := range canLogs(t) {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			want := decodedByTool(t, &l)
			r := record(t, "telemetry", "%s", l.config())
			got := decodedFromQueue(t, &r)
			if different := firstDifference(got, want); different != "" {
				t.Fatal(different)
			}
			t.Logf("%d samples, %d bytes", len(got), len(r.payload))
			for i := range got { // a comparison that sees nothing would have passed, too
				changed := slices.Clone(got)
				changed[i].raw += "0"
				if firstDifference(changed, want) == "" {
					t.Fatalf("%+v is taken for %+v", changed[i], got[i])
				}
				if i == 2 {
					break
				}
			}
		})
	}
}

// decodedByTool is what `can decode --raw` says of a log.
func decodedByTool(t *testing.T, l *canLog) (list []value) {
	t.Helper()
	out := agentOutput(t, nil, "can", "decode", "--raw", "--dbc", l.dbc, l.log)
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var line struct {
			T   json.Number                `json:"t"`
			Bus string                     `json:"bus"`
			Msg string                     `json:"msg"`
			Raw map[string]json.RawMessage `json:"raw"`
		}
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line.Bus != l.bus {
			t.Fatalf("%s of bus %s, want %s alone", line.Msg, line.Bus, l.bus)
		}
		for signal, raw := range line.Raw {
			list = append(list, value{nanoseconds(t, line.T.String()), line.Bus + "." + line.Msg + "." + signal, string(raw)})
		}
	}
	if len(list) != l.samples {
		t.Fatalf("%d samples, want %d", len(list), l.samples)
	}
	return list
}

// nanoseconds reads seconds with up to nine decimals, exactly.
func nanoseconds(t *testing.T, text string) int64 {
	t.Helper()
	whole, broken, _ := strings.Cut(text, ".")
	ns, err := strconv.ParseInt(whole+(broken + "000000000")[:9], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// decodedFromQueue is what `batch decode` says of an exported queue, with the times of the log.
func decodedFromQueue(t *testing.T, r *recording) (list []value) {
	t.Helper()
	out := agentOutput(t, r.payload, "batch", "decode", "--catalogue", r.control)
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var line struct {
			T    int64           `json:"t_ns"`
			Name string          `json:"name"`
			Raw  json.RawMessage `json:"raw"`
		}
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		list = append(list, value{r.unixNS(line.T), line.Name, string(line.Raw)})
	}
	return list
}

// Real frames, recorded as they are: put together from the queue's samples by docs/RECORDING.md, they are the log's lines.
func TestRecordedFrames(t *testing.T) {
	t.Parallel()
	log := deps.Testdata(t, "can", "car-raw-500k.log")
	r := record(t, "raw", rawConfig, log)
	columns := map[string][]value{}
	for _, v := range decodedFromQueue(t, &r) {
		columns[v.signal] = append(columns[v.signal], v)
	}
	frames, lengths, data := columns["vcan0.raw.frame"], columns["vcan0.raw.len"], columns["vcan0.raw.data0"]
	lines := nonEmptyLines(readFile(t, log))
	if len(frames) != len(lines) || len(lengths) != len(lines) || len(data) != len(lines) || len(columns) != 3 {
		t.Fatalf("%d frames, %d lengths, %d payloads in %d columns; the log has %d lines", len(frames), len(lengths), len(data), len(columns), len(lines))
	}
	number := func(v value) uint64 {
		n, err := strconv.ParseUint(v.raw, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, line := range lines {
		if lengths[i].unixNS != frames[i].unixNS || data[i].unixNS != frames[i].unixNS {
			t.Fatalf("frame %d: its parts have different times", i)
		}
		var payload [8]byte
		n := number(lengths[i])
		binary.BigEndian.PutUint64(payload[:], number(data[i])<<(64-8*n))
		us := frames[i].unixNS / 1e3
		got := fmt.Sprintf("(%d.%06d) vcan0 %03X#%X\n", us/1e6, us%1e6, number(frames[i]), payload[:n])
		if got != string(line) {
			t.Fatalf("frame %d: got %q, want %q", i, got, line)
		}
	}
}

// rawConfig records a log's frames as they are.
const rawConfig = "can: [{bus: vcan0, replay: %s, speed: 0, record: all}]\n"
