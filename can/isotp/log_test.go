package isotp

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/test/deps"
)

// logged is a message as the oracle prints it.
type logged struct {
	ID      string             `json:"id"`
	NS      int64              `json:"ns"`
	Data    string             `json:"data"`
	Signals map[string]float64 `json:"signals"`
}

// The recorded conversations, as another stack puts them together and cantools decodes them.
func TestLogsAgreeWithAnotherStack(t *testing.T) {
	for _, c := range []struct {
		log, dbc string
		options  ReassemblerOptions
		oracle   []string       // identifiers
		counts   map[string]int // messages, counted with grep
		lost     [reasons]uint64
	}{
		{"car-uds-isotp.log", "tp_uds.dbc", ReassemblerOptions{Streams: append(StandardStreams(0), Stream{Data: Address{ID: 0x7BB}})},
			[]string{"7BB", "7EC"}, map[string]int{"7BB": 150, "7EC": 120},
			[reasons]uint64{Timeout: 30}}, // 150 first frames of 7EC, 120 of each consecutive one
		{"nissan-uds-isotp.log", "tp_uds_nissan.dbc", ReassemblerOptions{Streams: []Stream{{Data: Address{ID: 0x7BB}, Flow: Address{ID: 0x79B}},
			{Data: Address{ID: 0x79B}, Flow: Address{ID: 0x7BB}}}}, []string{"7BB", "79B"}, map[string]int{"7BB": 26, "79B": 26},
			[reasons]uint64{}},
		{"nissan-uds-isotp.log", "tp_uds_nissan.dbc", ReassemblerOptions{Learn: true}, []string{"7BB", "79B"}, nil, [reasons]uint64{}},
	} {
		t.Run(fmt.Sprintf("%s learn %t", c.log, c.options.Learn), func(t *testing.T) {
			ours, stats := reassembleLog(t, deps.Testdata(t, "can", c.log), c.options)
			theirs := oracle(t, deps.Testdata(t, "can", c.dbc), deps.Testdata(t, "can", c.log), c.oracle)
			if c.options.Learn {
				theirs = theirs[1:] // the request before the first answer: its identifier was not known yet
				if stats.Learned != 2 {
					t.Errorf("%d streams learned", stats.Learned)
				}
			}
			if stats.Lost != c.lost || len(ours) != len(theirs) {
				t.Fatalf("%d messages, the other stack has %d; lost %v", len(ours), len(theirs), stats.Lost)
			}
			counts := map[string]int{}
			decode := pduDecoder(t, deps.Testdata(t, "can", c.dbc))
			for i, m := range ours {
				counts[m.ID]++
				if want := theirs[i]; m.ID != want.ID || m.NS != want.NS || m.Data != want.Data {
					t.Fatalf("message %d: got %+v, want %+v", i, m, want)
				}
				if got := decode(m); !sameSignals(got, theirs[i].Signals) {
					t.Fatalf("message %d: decoded %v, cantools %v", i, got, theirs[i].Signals)
				}
			}
			for id, n := range c.counts {
				if counts[id] != n {
					t.Errorf("%d messages of %s, want %d", counts[id], id, n)
				}
			}
		})
	}
}

// reassembleLog runs a log through a Reassembler, all buses as bus 0, and with the log's own time.
func reassembleLog(t *testing.T, path string, o ReassemblerOptions) (messages []logged, _ ReassemblerStats) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := NewReassembler(o)
	log := can.NewScanner(bytes.NewReader(text))
	for log.Scan() {
		f := log.Frame()
		f.Time, _ = log.Time()
		f.Bus = 0
		if m, ok := r.Frame(f); ok {
			messages = append(messages, logged{ID: m.From.String(), NS: m.Last, Data: hex.EncodeToString(m.Data)})
		}
	}
	if log.Err() != nil || log.Rejected() != 0 {
		t.Fatalf("%v, %d lines rejected", log.Err(), log.Rejected())
	}
	r.Finish()
	return messages, r.Stats()
}

func oracle(t *testing.T, dbc, log string, ids []string) (messages []logged) {
	t.Helper()
	out, err := deps.Python(t, append([]string{"testdata/oracle.py", dbc, log}, ids...)...).Output()
	if err != nil {
		t.Fatalf("oracle.py: %v", err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var m logged
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	if len(messages) == 0 {
		t.Fatal("oracle.py printed nothing")
	}
	return messages
}

// pduDecoder decodes messages by a DBC that describes them as one long frame with the length in front.
func pduDecoder(t *testing.T, path string) func(logged) map[string]float64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var subscriptions []can.Subscription
	var names []*can.Signal
	for _, m := range can.ParseDBC(text).Messages {
		for _, s := range m.Signals {
			names = append(names, s)
			subscriptions = append(subscriptions, can.Subscription{Message: m, Signal: s, ID: uint32(len(names))})
		}
	}
	plan := can.Compile(subscriptions, can.PlanOptions{})
	return func(m logged) map[string]float64 {
		data, _ := hex.DecodeString(m.Data)
		f := can.Frame{Flags: can.FlagFD, Len: uint8(len(data) + 1)}
		f.Data[0] = uint8(len(data))
		copy(f.Data[1:], data)
		if _, err := fmt.Sscanf(m.ID, "%X", &f.ID); err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, s := range plan.Decode(&f, nil) {
			signal := names[s.Signal-1]
			values[signal.Name] = s.Physical(signal.Scale, signal.Offset)
		}
		return values
	}
}

func sameSignals(a, b map[string]float64) bool {
	if len(a) != len(b) {
		return false
	}
	for name, v := range a {
		if w, ok := b[name]; !ok || v != w {
			return false
		}
	}
	return true
}
