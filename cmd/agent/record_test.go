package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// benchIDs are those of a recorded bus that comes first in its catalogue.
func benchIDs() rawIDs {
	var ids rawIDs
	for i, id := range ids.all() {
		*id = uint32(i + 1)
	}
	return ids
}

// kinds are log lines of every kind of frame.
var kinds = []string{
	"123#1122334455667788", "123#", "000#00", "7FF#FFFFFFFFFFFFFFFF", "123#8000000000000001", "18FEF100#00", "1FFFFFFF#112233",
	"00000000#", "123#R", "123#R8", "18FEF100#R3", "20000040#0000000000000000", "20000004#0008000000000000", "200##0", "200##1112233445566778899AABBCC",
	"18FEF100##2" + strings.Repeat("AB", 64), "200##3" + strings.Repeat("00", 63) + "01", "7FF##0" + strings.Repeat("FF", 8),
}

func kindLog() string {
	var text strings.Builder
	for i, k := range kinds {
		fmt.Fprintf(&text, "(1700000000.%06d) can0 %s\n", i/2, k) // two at a time
	}
	return text.String()
}

// together encodes the samples of frames as a batch does and puts them together again.
func together(t *testing.T, ids *rawIDs, frames []can.Frame) []can.Frame {
	t.Helper()
	var samples []telemetrypb.Sample
	for i := range frames {
		samples = ids.appendFrame(samples, &frames[i])
	}
	body, err := telemetrypb.AppendSamples(nil, samples)
	if err != nil {
		t.Fatal(err)
	}
	if samples, err = telemetrypb.DecodeSamples(nil, body); err != nil {
		t.Fatal(err)
	}
	back, err := ids.frames(nil, samples, frames[0].Bus)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// Every line of a log comes back as it was from the samples of its frame.
func TestFramesOfEveryKindAreExact(t *testing.T) {
	ids := benchIDs()
	log := kindLog()
	scanner := can.NewScanner(strings.NewReader(log))
	var frames []can.Frame
	for scanner.Scan() {
		f := *scanner.Frame()
		f.Time, _ = scanner.Time()
		frames = append(frames, f)
	}
	if scanner.Rejected() > 0 {
		t.Fatal("the test's log is not one")
	}
	var got []byte
	for _, f := range together(t, &ids, frames) {
		got = can.AppendLog(got, f.Time, "can0", &f)
	}
	if string(got) != log {
		t.Errorf("got\n%swant\n%s", got, log)
	}
}

// The bits of a frame sample are those of linux/can.h, spelt out here once more.
func TestFrameSampleIsWhatTheDocumentSays(t *testing.T) {
	ids := benchIDs()
	for _, c := range []struct {
		line string
		want []uint64
	}{
		{"123#112233", []uint64{0x123, 3, 0x112233}},
		{"123#", []uint64{0x123, 0, 0}},
		{"18FEF100#R8", []uint64{0xD8FEF100, 8, 0}},
		{"20000040#0000000000000001", []uint64{0x20000040, 8, 1}},
		{"200##3000000000000000102", []uint64{0x7_0000_0200, 9, 1, 2}},
	} {
		scanner := can.NewScanner(strings.NewReader("can0 " + c.line))
		if !scanner.Scan() {
			t.Fatal(c.line)
		}
		var got []uint64
		for i, s := range ids.appendFrame(nil, scanner.Frame()) {
			if s.Signal != uint32(i+1) || s.Kind != telemetrypb.KindUint {
				t.Errorf("%s: sample %+v", c.line, s)
			}
			got = append(got, s.Bits)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %#x, want %#x", c.line, got, c.want)
		}
	}
}

// Whatever two samples say is refused, or is a frame that gives those two again.
func FuzzRecordedFrame(f *testing.F) {
	f.Add(uint64(0x123), uint64(3), uint64(0x112233), uint64(0))
	f.Add(uint64(0x7_98FE_F100), uint64(64), uint64(1)<<63, uint64(7))
	f.Add(uint64(0xE000_0000), uint64(8), uint64(0), uint64(0))
	f.Add(uint64(0x800), uint64(0), uint64(0), uint64(0))
	f.Add(uint64(0x123), uint64(1), uint64(256), uint64(0))
	f.Fuzz(func(t *testing.T, head, length, first, second uint64) {
		ids := benchIDs()
		samples := []telemetrypb.Sample{telemetrypb.UintSample(1, 5, head), telemetrypb.UintSample(2, 5, length), telemetrypb.UintSample(3, 5, first)}
		for i := uint64(1); i < 8 && 8*i < length && head&rawRTR == 0; i++ {
			value := second
			if i%2 == 1 {
				value = first
			}
			if n := length - 8*i; n < 8 {
				value &= 1<<(8*n) - 1
			}
			samples = append(samples, telemetrypb.UintSample(uint32(3+i), 5, value))
		}
		frames, err := ids.frames(nil, samples, 0)
		if err != nil {
			return
		}
		if again := ids.appendFrame(nil, &frames[0]); fmt.Sprint(again) != fmt.Sprint(samples) {
			t.Errorf("%v\nread as %+v, which is\n%v", samples, frames[0], again)
		}
		line := can.AppendLog(nil, 0, "can0", &frames[0])
		scanner := can.NewScanner(bytes.NewReader(line))
		if !scanner.Scan() {
			t.Errorf("%q is no line of candump", line)
		}
	})
}

// A recorded frame costs no memory.
func TestRecordingAllocatesNothing(t *testing.T) {
	var long can.Frame
	long.Flags, long.Len = can.FlagFD, 64
	for _, wanted := range []recordSettings{{all: true}, {base: []idPattern{{first: 0, last: 0x7FF}}}} {
		r := &recorder{bus: "can0", wanted: wanted, ids: benchIDs()}
		var tapped tap = r
		dst := make([]telemetrypb.Sample, 0, 64)
		if n := testing.AllocsPerRun(1000, func() {
			dst = tapped.take(&long, dst[:0])
			dst = tapped.take(&can.Frame{ID: 1, Len: 8}, dst)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
		if len(dst) != 13 {
			t.Errorf("%d samples of two frames", len(dst))
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	r := &recorder{bus: "can0", wanted: recordSettings{all: true}, ids: benchIDs()}
	frame := can.Frame{ID: 0x123, Len: 8}
	dst := make([]telemetrypb.Sample, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		dst = r.take(&frame, dst[:0])
	}
}

// recordOf reads what stands behind record.
func recordOf(t *testing.T, text string) (recordSettings, error) {
	t.Helper()
	dir := writeFiles(t, map[string]string{"a.log": "", "agent.yaml": "device:\n  id: car-1\ncan:\n  - bus: can0\n    replay: a.log\n    record: " + text + "\n"})
	s, _, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		return recordSettings{}, err
	}
	return s.CAN[0].Record, nil
}

// What a list lets through is what its items say, and the kernel's filters let through at least that, and only that.
func TestRecordChoosesFrames(t *testing.T) {
	base := func(id uint32) *can.Frame { return &can.Frame{ID: id} }
	long := func(id uint32) *can.Frame { return &can.Frame{ID: id, Flags: can.FlagExtended} }
	fault := &can.Frame{ID: 0x123, Flags: can.FlagError}
	for _, c := range []struct {
		text    string
		yes, no []*can.Frame
	}{
		{"all", []*can.Frame{base(0), long(0), fault, base(0x7FF), long(0x1FFFFFFF)}, nil},
		{"[123]", []*can.Frame{base(0x123), {ID: 0x123, Flags: can.FlagRemote, Len: 3}, {ID: 0x123, Flags: can.FlagFD}}, []*can.Frame{base(0x122), long(0x123), fault, base(123)}},
		{"0x123", []*can.Frame{base(0x123)}, []*can.Frame{base(0x124)}},
		{"[1e3, 010, 0C9]", []*can.Frame{base(0x1E3), base(0x10), base(0xC9)}, []*can.Frame{base(1000), base(8), base(10)}},
		{"[18FEF1xx, 00000123]", []*can.Frame{long(0x18FEF100), long(0x18FEF1FF), long(0x123)}, []*can.Frame{long(0x18FEF200), base(0x123), base(0x100)}},
		{"[1x3]", []*can.Frame{base(0x103), base(0x1F3)}, []*can.Frame{base(0x104), base(0x203)}},
		{"[0xx]", []*can.Frame{base(0), base(0xFF)}, []*can.Frame{base(0x100)}},
		{"[7xx, xxx]", []*can.Frame{base(0x7FF), base(0)}, []*can.Frame{long(0x7FF)}},
		{"[xxxxxxxx]", []*can.Frame{long(0), long(0x1FFFFFFF)}, []*can.Frame{base(0), fault}},
		{"[100-1FE, 00000001-1FFFFFFE, error]", []*can.Frame{base(0x100), base(0x1FE), long(1), long(0x1FFFFFFE), fault}, []*can.Frame{base(0xFF), base(0x1FF), long(0), long(0x1FFFFFFF)}},
	} {
		r, err := recordOf(t, c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		for _, f := range c.yes {
			if !r.has(f) {
				t.Errorf("%s leaves out %+v", c.text, f.ID)
			}
		}
		for _, f := range c.no {
			if r.has(f) {
				t.Errorf("%s takes %+v", c.text, f.ID)
			}
		}
		filters, all := r.filters()
		pass := func(f *can.Frame) bool {
			for _, filter := range filters {
				if filter.Pass(f) {
					return true
				}
			}
			return all
		}
		check := func(f *can.Frame) {
			if pass(f) != r.has(f) {
				t.Fatalf("%s: identifier %X, flags %v: filters %v, list %v", c.text, f.ID, f.Flags, pass(f), r.has(f))
			}
		}
		for id := range uint32(can.MaxStandardID + 1) {
			check(base(id))
			check(&can.Frame{ID: id, Flags: can.FlagRemote})
			check(long(id))
			check(long(id | 0x18FEF000))
			check(long(can.MaxExtendedID - id))
			check(long(rand.Uint32() & can.MaxExtendedID))
		}
	}
}

func TestRecordErrorsSayWhatToWrite(t *testing.T) {
	for text, words := range map[string][]string{
		"[]":               {"6: can[0].record: ", "got 0"},
		"[all, 123]":       {"can[0].record[0]", "leave the others out"},
		"[12]":             {`"12"`, "2 digits", "three digits"},
		"[123, 1234]":      {"record[1]", `"1234"`},
		"[800]":            {"at most 7FF"},
		"[20000000]":       {"at most 1FFFFFFF"},
		"[12G]":            {"not hexadecimal"},
		"[1FF-100]":        {"the lower one first"},
		"[1xx-1FF]":        {"two identifiers"},
		"[123-18FEF100]":   {"of one length"},
		"[100-800]":        {"at most 7FF"},
		"{ids: [123]}":     {":6: ", "record wants all, or a list"},
		"[[123]]":          {"record wants all, or a list"},
		"everything":       {`"everything"`},
		"[-123]":           {"digits"},
		"[\"12\\n\", 0x1]": {"digits"},
	} {
		_, err := recordOf(t, text)
		if err == nil {
			t.Errorf("%s is taken", text)
			continue
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v: does not say %q", text, err, w)
			}
		}
	}
}

// Patterns of collect choose among signals, not among recorded frames, which are not the wildcard's to thin.
func TestPatternsDoNotReachRecordedFrames(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "a.log": "", "agent.yaml": "device: {id: car-1}\n" +
		"can: [{bus: can0, replay: a.log, dbc: [a.dbc], record: all}, {bus: can1, replay: a.log, record: [123]}]\n" +
		"collect: {signals: [{match: 'can0.raw.frame', lane: event, min_interval: 1s}, {match: '*', lane: event}]}\n"})
	s, v, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	collect := recordCollect(s.CAN)
	if len(collect) != 2*rawAll {
		t.Fatalf("%d signals", len(collect))
	}
	for _, c := range collect {
		if c.Lane != telemetrypb.Lane_LANE_RAW || c.OnChange || c.MinInterval != 0 || c.Part == strings.HasSuffix(c.Match, ".frame") {
			t.Errorf("%+v", c)
		}
	}
	layout := layoutOf(v.selection.Catalogue())
	if len(layout) != 2 || layout[0].bus != "can0" || layout[1].bus != "can1" {
		t.Fatalf("layout %+v", layout)
	}
	groups := map[uint32]int{}
	for _, signal := range v.selection.Catalogue().Signals {
		if strings.Contains(signal.Name, ".raw.") {
			groups[signal.Group]++
		}
	}
	if len(groups) != 2 || groups[0] != 0 {
		t.Errorf("time columns: %v", groups)
	}
	for i, f := range v.features {
		r := f[0].(*recorder)
		if r.ids != layout[i].ids {
			t.Errorf("ids %+v, in the catalogue %+v", r.ids, layout[i].ids)
		}
	}
}

func TestMessageWithTheNameOfRecordedFrames(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.dbc": strings.ReplaceAll(smallDBC, "Motion", "raw"), "a.log": "", "agent.yaml": "device: {id: car-1}\n" +
		"can: [{bus: can0, replay: a.log, dbc: [a.dbc], record: all}]\n"})
	if _, _, err := load(filepath.Join(dir, "agent.yaml")); err == nil || !strings.Contains(err.Error(), "rename it") {
		t.Error(err)
	}
}
