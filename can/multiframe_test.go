package can

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// assembledRow is a message of several frames: what testdata/multiframe.py prints, and what we say in the same form.
type assembledRow struct {
	T   int64                  `json:"t"` // Unix ns
	Bus string                 `json:"bus"`
	ID  uint32                 `json:"id"`
	Msg string                 `json:"msg"`
	Raw map[string]json.Number `json:"raw"`

	Incomplete *uint64 `json:"incomplete"` // in the last row only
}

// Every message of several frames in a recorded log equals what an independent reassembly and cantools make of it: its
// identifier, the time of its last frame and every raw value.
func TestAssembledLogs(t *testing.T) {
	for _, test := range []struct {
		name, log, dbc string
		want           map[string]int // by message
	}{
		{"boat", "boat-nmea2000.log", deps.Testdata(t, "can", "tp_nmea.dbc"), map[string]int{"gnssPositionData": 300}},
		{"truck", "truck-j1939.log", deps.Testdata(t, "can", "tp_j1939.dbc"), map[string]int{"EC1": 13}},
		// Every group of the boat that NMEA 2000 sends in fast packets, in words across their borders; 126208, 126464 and 126720 are addressed.
		{"boat, every fast packet", "boat-nmea2000.log", bytesDBC(t, 126208, 126464, 126720, 126996, 128275, 129029, 129038,
			129039, 129044, 129540, 129542, 129547, 129794, 129809, 129810, 130916, 130934, 130935), nil},
		{"truck, every broadcast", "truck-j1939.log", bytesDBC(t, 65251, 65260), map[string]int{"G65251": 13, "G65260": 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := deps.Testdata(t, "can", test.log)
			oracle := deps.Python(t, filepath.Join("testdata", "multiframe.py"), test.dbc, log)
			var stderr bytes.Buffer
			oracle.Stderr = &stderr
			out, err := oracle.Output()
			if err != nil {
				t.Fatalf("the oracle: %v: %s", err, stderr.Bytes())
			}
			var want []assembledRow
			for line := range bytes.Lines(out) {
				var row assembledRow
				if err := json.Unmarshal(line, &row); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				want = append(want, row)
			}
			incomplete := want[len(want)-1].Incomplete
			want = want[:len(want)-1]
			got, parts := assembleLog(t, test.dbc, log)
			counts := map[string]int{}
			for i := range min(len(got), len(want)) {
				g, w := got[i], want[i]
				counts[g.Msg]++
				if g.T != w.T || g.Bus != w.Bus || g.ID != w.ID || g.Msg != w.Msg || !maps.Equal(g.Raw, w.Raw) {
					t.Fatalf("message %d: got %+v, want %+v", i, g, w)
				}
			}
			if len(got) != len(want) || test.want != nil && !maps.Equal(counts, test.want) {
				t.Errorf("%d messages, the oracle has %d: %v", len(got), len(want), counts)
			}
			begun := uint64(0) // of which the first frame came
			parts.Incomplete.Drain(func(why Reason, messages uint64) {
				if why != ReasonNoBeginning {
					begun += messages
				}
				t.Logf("incomplete: %d: %s", messages, why)
			})
			if incomplete == nil || begun != *incomplete {
				t.Errorf("%d messages did not end, the oracle has %d", begun, *incomplete)
			}
			t.Logf("%d messages: %v", len(got), counts)
		})
	}
}

// bytesDBC writes a DBC file with a message of 223 bytes for each PGN: bytes, and words of both orders that begin within
// a byte.
func bytesDBC(t *testing.T, groups ...uint32) string {
	t.Helper()
	var text strings.Builder
	text.WriteString("BU_: X\n")
	for _, group := range groups {
		fmt.Fprintf(&text, "BO_ %d G%d: 223 X\n", 1<<31|6<<26|group<<8|0xFE, group)
		signal := func(name string, at, size int, order string) {
			fmt.Fprintf(&text, " SG_ %s%d : %d|%d@%s (1,0) [0|0] \"\" X\n", name, at, at, size, order)
		}
		for at := 0; at+8*17 <= 8*223; at += 8 * 17 { // cantools takes no overlaps
			signal("Byte", at, 8, "1+")
			signal("Low", at+8, 3, "1+")
			signal("Little", at+11, 61, "1-")
			signal("High", at+79, 5, "0+")
			signal("Big", at+74, 59, "0-")
		}
	}
	text.WriteString("BA_DEF_ \"ProtocolType\" STRING ;\nBA_DEF_DEF_ \"ProtocolType\" \"\";\nBA_ \"ProtocolType\" \"J1939\";\n")
	file := filepath.Join(t.TempDir(), "bytes.dbc")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// assembleLog is our side of it.
func assembleLog(t *testing.T, dbc, log string) ([]assembledRow, *Reassembler) {
	t.Helper()
	db := ParseDBC(readFile(t, dbc))
	var subscriptions []Subscription
	var signals []*Signal
	for _, m := range db.Messages {
		for _, s := range m.Signals {
			signals = append(signals, s)
			subscriptions = append(subscriptions, Subscription{ID: uint32(len(signals)), Message: m, Signal: s})
		}
	}
	plan := Compile(subscriptions, PlanOptions{})
	parts := NewReassembler(plan, ReassemblerOptions{})
	var rows []assembledRow
	var samples []telemetrypb.Sample
	lines := NewScanner(bytes.NewReader(readFile(t, log)))
	for lines.Scan() {
		f := lines.Frame()
		f.Time, _ = lines.Time()
		whole := parts.Take(f)
		if whole == nil {
			continue
		}
		row := assembledRow{T: whole.Time, Bus: lines.Bus(), ID: whole.ID, Msg: plan.MatchAssembled(whole).Name, Raw: map[string]json.Number{}}
		samples = plan.DecodeAssembled(whole, samples[:0])
		for _, s := range samples {
			if s.Time != whole.Time {
				t.Fatalf("a sample of %d in a message of %d", s.Time, whole.Time)
			}
			row.Raw[signals[s.Signal-1].Name] = json.Number(rawText(s))
		}
		rows = append(rows, row)
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	parts.End()
	if n := plan.Counters.Short.Load(); n != 0 {
		t.Errorf("%d messages count as too short", n)
	}
	return slices.Clip(rows), parts
}
