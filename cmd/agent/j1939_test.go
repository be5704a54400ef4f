package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// dm1DBC has a DM1 as most files have it: eight bytes, one trouble code.
const dm1DBC = `BU_: X
BO_ 2566834942 DM1: 8 X
 SG_ SPN : 16|16@1+ (1,0) [0|0] "" X
BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";
BA_DEF_DEF_ "VFrameFormat" "J1939PG";
`

// longDBC has a DM1 that is put together for its own signals, too.
var longDBC = strings.Replace(dm1DBC, "DM1: 8", "DM1: 1785", 1)

// recorded is what a run left in its queue.
type recorded struct {
	samples map[string][]telemetrypb.Sample // by signal
	losses  []*telemetrypb.Loss
}

// replay runs the agent on a candump log to its end.
func replay(t *testing.T, dbc, log, extra string) recorded {
	t.Helper()
	dir := writeFiles(t, map[string]string{"a.dbc": dbc, "bus.log": log, "agent.yaml": "device: {id: car-1}\ndata_dir: data\n" +
		"can: [{bus: can0, replay: bus.log, speed: 0, dbc: [a.dbc]" + extra + "}]\ncollect: {signals: [{match: '*', sample: every}]}\n"})
	s, v, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := runAgent(ctx, s, v, slog.New(slog.DiscardHandler), newRenewal()); err != nil {
		t.Fatal(err)
	}
	q, err := buffer.Open(filepath.Join(dir, "data", "queue"), buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	each := func(lane buffer.Lane, visit func(telemetrypb.BatchView) error) {
		for from := uint64(1); ; {
			r, err := q.Next(lane, from)
			if err != nil {
				return
			}
			from = r.Seq + 1
			view, err := telemetrypb.OpenBatch(r.Bytes)
			if err == nil {
				err = visit(view)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	var anchor *telemetrypb.Anchor
	found := recorded{samples: map[string][]telemetrypb.Sample{}}
	each(buffer.Control, func(view telemetrypb.BatchView) error {
		records, err := view.Records()
		for _, record := range records.GetRecords() {
			if loss := record.GetLoss(); loss != nil {
				found.losses = append(found.losses, loss)
			}
			if record.GetClock() != nil {
				anchor = record.GetClock().Anchors[0] // a replay has one
			}
		}
		return err
	})
	catalogue := v.selection.Catalogue()
	each(buffer.Telemetry, func(view telemetrypb.BatchView) error {
		samples, err := view.Samples(nil)
		for _, s := range samples {
			name := catalogue.Signal(s.Signal).GetName()
			s.Time += anchor.UnixNs - anchor.BootNs
			found.samples[name] = append(found.samples[name], s)
		}
		return err
	})
	return found
}

// texts are "seconds text" of a signal's samples, times as in the log.
func (r recorded) texts(signal string) []string {
	var list []string
	for _, s := range r.samples[signal] {
		var value map[string]any
		if json.Unmarshal([]byte(s.Str), &value) != nil {
			list = append(list, "no JSON: "+s.Str)
		}
		list = append(list, fmt.Sprintf("%.2f %s", float64(s.Time)/1e9, s.Str))
	}
	return list
}

func wantTexts(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (r recorded) wantLosses(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, l := range r.losses {
		got = append(got, fmt.Sprintf("%d %s of %s: %s", l.Count, l.Unit, l.Source, l.Detail))
	}
	wantTexts(t, "losses", got, want)
}

// What python can-j1939 was told to say is what arrives, for two nodes whose broadcasts interleave: once a change, with
// every code, although the DBC file knows of one only.
func TestTroubleCodesOfAnotherImplementation(t *testing.T) {
	const (
		lampsA = `"stop":"off","warning":"flash_slow","protect":"off","codes":[`
		listB  = `{"sa":42,"mil":"off","stop":"flash_fast","warning":"off","protect":"n/a","codes":[`
		name   = `"manufacturer":666,"ecu_instance":5,"function_instance":4,`
		system = `"system":2,"system_instance":1,"industry_group":1,"arbitrary":false}`
	)
	var codes []string
	for i := range 20 {
		codes = append(codes, fmt.Sprintf(`{"spn":%d,"fmi":%d,"count":%d}`, 100+i, i, i+1))
	}
	log, err := os.ReadFile(filepath.Join("..", "..", "can", "j1939", "testdata", "dm1.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dbc := range []string{dm1DBC, longDBC} {
		found := replay(t, dbc, string(log), "")
		wantTexts(t, "active faults", found.texts("can0.J1939.ActiveFaults"), []string{
			`102.11 {"sa":0,"mil":"on",` + lampsA + `{"spn":1208,"fmi":3,"count":10},{"spn":1569,"fmi":31,"count":5},{"spn":524286,"fmi":30,"count":126}]}`,
			"102.62 " + listB + strings.Join(codes, ",") + "]}",
			`105.01 {"sa":0,"mil":"on","stop":"off","warning":"off","protect":"off","codes":[{"spn":1569,"fmi":31,"count":6}]}`,
			`108.00 {"sa":0,"mil":"off","stop":"off","warning":"off","protect":"off","codes":[]}`,
		})
		wantTexts(t, "addresses", found.texts("can0.J1939.Address"), []string{
			`100.00 {"sa":0,"claimed":true,"name":"110400255352D687","identity":1234567,` + name + `"function":0,` + system,
			`100.00 {"sa":42,"claimed":true,"name":"1104092553412AFF","identity":76543,` + name + `"function":9,` + system,
		})
		wantTexts(t, "previous faults", found.texts("can0.J1939.PreviousFaults"), nil)
		found.wantLosses(t)
	}
}

const (
	noFaults  = "00FF00000000FFFF"
	oneFault  = "04FFB804030AFFFF" // amber lamp, SPN 1208, FMI 3, 10 times
	oneText   = `{"sa":33,"mil":"off","stop":"off","warning":"on","protect":"off","codes":[{"spn":1208,"fmi":3,"count":10}]}`
	noText    = `{"sa":33,"mil":"off","stop":"off","warning":"off","protect":"off","codes":[]}`
	twoFaults = "(5.0) a 1CECFF21#200A0002FFCAFE00\n(5.1) a 1CEBFF21#0104FFB804030A11\n(5.2) a 1CEBFF21#02061F7FFFFFFFFF\n"
)

func TestTroubleCodes(t *testing.T) {
	dm1 := func(at float64, source uint8, data string) string {
		return fmt.Sprintf("(%.3f) a 18FECA%02X#%s\n", at, source, data)
	}
	for _, test := range []struct {
		name, log string
		active    []string
		previous  []string
		losses    []string
	}{
		{name: "what stays the same is told once, no fault too", log: dm1(1, 33, noFaults) + dm1(2, 33, noFaults) + dm1(3, 33, oneFault) +
			dm1(4, 33, oneFault) + dm1(5, 33, noFaults), active: []string{"1.00 " + noText, "3.00 " + oneText, "5.00 " + noText}},
		{name: "by address, whatever the priority", log: dm1(1, 33, noFaults) + dm1(1, 34, oneFault) + strings.Replace(dm1(2, 33, noFaults), "18", "0C", 1) + dm1(2, 34, oneFault),
			active: []string{"1.00 " + noText, "1.00 " + strings.Replace(oneText, "33", "34", 1)}},
		{name: "of many changes in a second the latest, at its time", log: dm1(1, 33, noFaults) + dm1(1.25, 33, oneFault) + dm1(1.5, 33, noFaults) + dm1(1.75, 33, oneFault) +
			"(2.0) a 123#00\n" + dm1(2.5, 33, noFaults) + dm1(4, 33, noFaults),
			active: []string{"1.00 " + noText, "1.75 " + oneText, "2.50 " + noText}},
		{name: "what is kept at the end is told", log: dm1(1, 33, noFaults) + dm1(1.25, 33, oneFault), active: []string{"1.00 " + noText, "1.25 " + oneText}},
		{name: "a log that is played again waits for nothing", log: dm1(9, 33, noFaults) + dm1(1, 33, oneFault) + dm1(1.5, 33, oneFault),
			active: []string{"9.00 " + noText, "1.00 " + oneText}},
		{name: "one code, then two by broadcast, then one", log: dm1(1, 33, oneFault) + twoFaults + dm1(7, 33, oneFault), active: []string{"1.00 " + oneText,
			`5.20 {"sa":33,"mil":"off","stop":"off","warning":"on","protect":"off","codes":[{"spn":1208,"fmi":3,"count":10},{"spn":1553,"fmi":31}]}`, "7.00 " + oneText}},
		{name: "sent to one node alone", log: "(1.0) a 18EC2221#100A0002FFCBFE00\n(1.1) a 1CEC2122#110201FFFFCBFE00\n(1.2) a 1CEB2221#0100FFB804038A11\n(1.3) a 1CEB2221#02060401FFFFFFFF\n(1.4) a 1CEC2122#130A0002FFCBFE00\n",
			previous: []string{`1.30 {"sa":33,"mil":"off","stop":"off","warning":"off","protect":"off","codes":[{"spn":1208,"fmi":3,"count":10,"cm":1},{"spn":1553,"fmi":4,"count":1}]}`}},
		{name: "a packet that is missing", log: strings.Replace(twoFaults, "(5.1) a 1CEBFF21#0104FFB804030A11\n", "", 1), losses: []string{"1 messages of can:can0: a frame is missing"}},
		{name: "a packet that does not come before the end", log: twoFaults[:strings.LastIndex(twoFaults, "(5.2)")], losses: []string{"1 messages of can:can0: the reading ended in it"}},
		{name: "other messages are of no interest", log: strings.Replace(twoFaults, "CAFE", "CCFE", 1) + strings.Replace(dm1(1, 33, oneFault), "CA", "CC", 1) + "(2.0) a 18FECA21#R8\n"},
		{name: "cut short", log: dm1(1, 33, "04FFB80403"), losses: []string{"1 messages of can:can0: ActiveFaults: the payload is too short"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, dbc := range []string{dm1DBC, longDBC} { // what both the plan and the tap miss counts once
				found := replay(t, dbc, test.log, "")
				wantTexts(t, "active", found.texts("can0.J1939.ActiveFaults"), test.active)
				wantTexts(t, "previous", found.texts("can0.J1939.PreviousFaults"), test.previous)
				found.wantLosses(t, test.losses...)
			}
		})
	}
}

// An address says who has it, and again when another node does. Who got none is told at the null address.
func TestNodeNames(t *testing.T) {
	const log = "(1.0) a 18EEFF21#87D6525325030451\n(2.0) a 18EEFF21#87D6525325030451\n(3.0) a 18EEFF21#ECC870E76A82F0C0\n(4.0) a 18EEFFFE#87D6525325030451\n"
	const first = `"name":"510403255352D687","identity":1234567,"manufacturer":666,"ecu_instance":5,"function_instance":4,` +
		`"function":3,"system":2,"system_instance":1,"industry_group":5,"arbitrary":false}`
	wantTexts(t, "addresses", replay(t, dm1DBC, log, "").texts("can0.J1939.Address"), []string{
		`1.00 {"sa":33,"claimed":true,` + first,
		`3.00 {"sa":33,"claimed":true,"name":"C0F0826AE770C8EC","identity":1100012,"manufacturer":1851,"ecu_instance":2,"function_instance":13,` +
			`"function":130,"system":120,"system_instance":0,"industry_group":4,"arbitrary":true}`,
		`4.00 {"sa":254,"claimed":false,` + first,
	})
}

// A bus offers the signals when its DBC files or its configuration say that it is J1939.
func TestWhoSpeaksJ1939(t *testing.T) {
	const log = "(1.0) a 18FECA21#" + oneFault + "\n"
	for _, test := range []struct {
		name, dbc, extra string
		want             int
	}{
		{"by the DBC file", dm1DBC, "", 1},
		{"by the configuration", smallDBC, ", j1939: true", 1},
		{"not at all", smallDBC, "", 0},
	} {
		if got := replay(t, test.dbc, log, test.extra).texts("can0.J1939.ActiveFaults"); len(got) != test.want {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

// newTap makes the tap of a live bus on which what the patterns match is collected, nil when there is none, and its
// pipeline.
func newTap(t *testing.T, patterns ...string) (*j1939Tap, *pipeline.Pipeline, *pipelinetest.Queue) {
	t.Helper()
	feature := &j1939Feature{bus: "can0"}
	other := &telemetrypb.Signal{Name: "other", Type: telemetrypb.ValueType_VALUE_TYPE_UINT}
	collect := []pipeline.Collect{{Match: "other", Lane: telemetrypb.Lane_LANE_TELEMETRY}}
	for _, pattern := range patterns {
		collect = append(collect, pipeline.Collect{Match: pattern, Lane: telemetrypb.Lane_LANE_TELEMETRY})
	}
	selection, err := pipeline.Choose(append(feature.signals(), other), collect)
	if err != nil {
		t.Fatal(err)
	}
	feature.choose(selection.ID)
	queue := pipelinetest.NewQueue(1)
	pipe, err := pipeline.New(pipeline.Options{Tenant: "t", Device: "d", BootID: [16]byte{1}}, selection, queue)
	if err != nil {
		t.Fatal(err)
	}
	bus := &canSource{agent: &agent{pipe: pipe, clock: clock.System{}}, canSettings: canSettings{Bus: "can0"}, plan: can.Compile(nil, can.PlanOptions{})}
	got, tasks := feature.attach(bus)
	if got == nil {
		return nil, pipe, queue
	}
	if len(tasks) != 1 {
		t.Errorf("%d tasks, want the one that tells what is due on a silent bus", len(tasks))
	}
	return got.(*j1939Tap), pipe, queue
}

// What no pattern collects is neither looked at nor asked of the kernel.
func TestJ1939TapTakesWhatIsCollected(t *testing.T) {
	if tap, _, _ := newTap(t); tap != nil {
		t.Error("a tap although nothing is collected")
	}
	claim := can.Frame{ID: 0x18EEFF21, Flags: can.FlagExtended, Len: 8}
	fault := can.Frame{ID: 0x18FECA21, Flags: can.FlagExtended, Len: 8}
	packet := can.Frame{ID: 0x18EBFF21, Flags: can.FlagExtended, Len: 8}
	for signal, want := range map[string][3]bool{"can0.J1939.Address": {true, false, false}, "can0.J1939.ActiveFaults": {false, true, true}} {
		tap, _, _ := newTap(t, signal)
		filters, all := tap.filters()
		for i, f := range []*can.Frame{&claim, &fault, &packet} {
			passes := slices.ContainsFunc(filters, func(filter can.Filter) bool { return filter.Pass(f) })
			if passes != want[i] || all {
				t.Errorf("%s: frame %X passes: %t", signal, f.ID, passes)
			}
			if samples := tap.take(f, nil); len(samples) > 0 != (want[i] && f != &packet) {
				t.Errorf("%s: frame %X makes %v", signal, f.ID, samples)
			}
		}
	}
}

// A payload that changes with every frame costs one sample a second, and the last one is there when the bus goes silent.
func TestJ1939TapBoundsAFlood(t *testing.T) {
	tap, _, _ := newTap(t, "can0.J1939.ActiveFaults")
	var got []telemetrypb.Sample
	f := can.Frame{ID: 0x18FECA21, Flags: can.FlagExtended, Len: 8, Data: [64]byte{0, 0xFF, 1, 0, 1}}
	for i := range 1000 {
		f.Time = int64(i) * 1e7
		f.Data[2], f.Data[3] = byte(i), byte(i>>8)|0x80
		got = tap.take(&f, got)
	}
	for i := range got[1:] {
		if got[i+1].Time-got[i].Time < 9e8 {
			t.Errorf("samples at %d and %d", got[i].Time, got[i+1].Time)
		}
	}
	if len(got) != 10 || tap.due.Load() != 10e9 {
		t.Fatalf("%d samples in 10 s; the next one is due at %d", len(got), tap.due.Load())
	}
	got = tap.flush(10e9-1, got)
	got = tap.flush(10e9, got)
	if len(got) != 11 || got[10].Time != f.Time || !strings.Contains(got[10].Str, fmt.Sprintf(`"spn":%d,`, 999|1<<15)) {
		t.Errorf("at the end %+v", got[10:])
	}
	if again := tap.end(nil); len(again) > 0 || tap.due.Load() != math.MaxInt64 {
		t.Errorf("told again: %v", again)
	}
}

// On a bus that goes silent within a second of a change, the change is told all the same.
func TestJ1939TapOnASilentBus(t *testing.T) {
	tap, pipe, queue := newTap(t, "*.J1939.*")
	late := pipe.Source("can:can0", 4)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- pipe.Run(ctx) }()
	f := can.Frame{ID: 0x18FECA21, Flags: can.FlagExtended, Len: 8, Data: [64]byte{4, 0xFF, 1, 0, 1, 1}, Time: 5e9}
	if first := tap.take(&f, nil); len(first) != 1 {
		t.Errorf("%d samples at the first payload", len(first))
	}
	f.Data[0], f.Time = 0, 5.25e9
	if kept := tap.take(&f, nil); len(kept) != 0 {
		t.Errorf("%d samples at the second", len(kept))
	}
	for _, now := range []int64{5.5e9, 6e9, 6.5e9} {
		tap.tell(now, late)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	got, err := queue.Samples(telemetrypb.Lane_LANE_TELEMETRY)
	if err != nil || len(got) != 1 || got[0].Time != 5.25e9 || !strings.Contains(got[0].Str, `"warning":"off"`) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A sample that was lost on its way is made again, though nobody says anything new.
func TestJ1939TapTellsAgainWhatWasLost(t *testing.T) {
	heard, pipe, _ := newTap(t, "*.J1939.*")
	c := &canSource{changes: can.Compile(nil, can.PlanOptions{}).NewChanges(), source: pipe.Source("can:can0", 1), taps: []tap{heard}}
	f := can.Frame{ID: 0x18FECA21, Flags: can.FlagExtended, Len: 8, Data: [64]byte{4, 0xFF, 1, 0, 1, 1}, Time: 5e9}
	first := heard.take(&f, nil)
	for range 2 { // the first fills the source
		chunk := c.source.Chunk()
		chunk.Samples = append(chunk.Samples, first...)
		c.offer(chunk)
	}
	f.Time = 5.9e9
	if early := heard.take(&f, nil); len(early) != 0 {
		t.Errorf("again after 0.9 s: %v", early)
	}
	f.Time = 6e9
	if again := heard.take(&f, nil); !slices.Equal(again, first) {
		t.Errorf("got %v, want %v", again, first)
	}
	f.Time = 9e9
	if more := heard.take(&f, nil); len(more) != 0 {
		t.Errorf("and again: %v", more)
	}
}

// Every address has its place, and what does not change costs nothing: frames, broadcasts and claims.
func TestJ1939TapAllocatesNothing(t *testing.T) {
	tap, _, _ := newTap(t, "can0.J1939.ActiveFaults", "can0.J1939.PreviousFaults", "can0.J1939.Address")
	var frames []can.Frame
	add := func(id uint32, data ...byte) {
		f := can.Frame{ID: id, Flags: can.FlagExtended, Len: 8, Time: 1e9}
		copy(f.Data[:], data)
		frames = append(frames, f)
	}
	for source := range uint32(256) {
		add(0x18FECA00|source, 4, 255, 1, 0, 1, byte(source))
		add(0x18EEFF00|source, byte(source))
		add(0x1CECFF00|source, 32, 10, 0, 2, 255, 0xCB, 0xFE, 0)
		add(0x1CEBFF00|source, 1, 0, 255, 1, 0, 1, 1, byte(source))
		add(0x1CEBFF00|source, 2, 0, 1, 1)
	}
	var samples []telemetrypb.Sample
	run := func() {
		samples = samples[:0]
		for i := range frames {
			samples = tap.take(&frames[i], samples)
		}
	}
	run()
	if len(samples) != 3*256 {
		t.Fatalf("%d samples", len(samples))
	}
	if n := testing.AllocsPerRun(10, run); n != 0 || len(samples) != 0 {
		t.Errorf("%v allocations and %d samples for what was heard before", n, len(samples))
	}
}

// A list of trouble codes as long as the transport protocol takes is cut to what can be sent, and says so.
func TestFaultsText(t *testing.T) {
	payload := make([]byte, 2+4*445)
	for i := range payload[2:] {
		payload[2+i] = 0xFE
	}
	text, err := faultsText(253, payload)
	if err != nil {
		t.Fatal(err)
	}
	var value struct {
		Codes []struct{ SPN, FMI, Count, CM int }
		More  int
	}
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	if len(text) > 8<<10 || len(value.Codes) < 150 || len(value.Codes)+value.More != 445 {
		t.Errorf("%d bytes, %d codes and %d more", len(text), len(value.Codes), value.More)
	}
	lamps := map[string]string{"00FF": "off", "40FF": "on", "403F": "flash_slow", "407F": "flash_fast", "40BF": "on", "80FF": "reserved", "C0FF": "n/a"}
	for head, want := range lamps {
		raw, _ := hex.DecodeString(head + "00000000")
		text, err := faultsText(1, raw)
		if err != nil || !strings.Contains(text, `"mil":"`+want+`"`) {
			t.Errorf("%s: %s, %v, want %s", head, text, err, want)
		}
	}
}

// Whatever comes, the texts are JSON that can be sent.
func FuzzJ1939Texts(f *testing.F) {
	f.Add([]byte("\x04\x00\xB8\x04\x03\x0A\xFF\xFF"))
	f.Add(bytes.Repeat([]byte{0xFE}, 1782))
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, g := range j1939Groups {
			text, err := g.text(7, payload[:min(len(payload), g.length)])
			if err == nil && (!json.Valid([]byte(text)) || len(text) > 8<<10) {
				t.Errorf("%s: %d bytes: %s", g.signal, len(text), text)
			}
		}
	})
}
