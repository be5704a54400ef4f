package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/drive"
)

// busLog is a bus to try the change detection on.
type busLog struct {
	name    string
	dbc     string
	frames  []can.Frame
	repeats bool // there are frames that repeat what one before them said
}

// busLogs are the logs of real vehicles, with their DBC files and with one that reads every frame of them, a simulated
// drive, and noise that no vehicle makes.
func busLogs(t *testing.T) []busLog {
	t.Helper()
	var list []busLog
	for _, r := range [][2]string{{"truck-j1939.log", "CSS-Electronics-SAE-J1939-DEMO.dbc"}, {"boat-nmea2000.log", "tp_nmea.dbc"},
		{"car-uds-isotp.log", "tp_uds.dbc"}, {"nissan-uds-isotp.log", "tp_uds_nissan.dbc"}, {"car-raw-500k.log", ""}} {
		frames := readLog(t, filepath.Join(deps.Testdata(t, "can"), r[0]))
		list = append(list, busLog{r[0] + ", every frame", everyFrameDBC(frames), frames, true})
		if r[1] != "" {
			text, err := os.ReadFile(filepath.Join(deps.Testdata(t, "can"), r[1]))
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, busLog{r[0], string(text), frames, r[0] == "truck-j1939.log"})
		}
	}
	d, err := drive.New(drive.Options{Seed: 5, Start: time.Unix(1e9, 0), Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var driven []can.Frame
	for {
		e, ok := d.Next()
		if !ok {
			break
		}
		if e.Frame != nil {
			f := *e.Frame
			f.Time = 1e9 + int64(e.At)
			driven = append(driven, f)
		}
	}
	noise := noise()
	return append(list, busLog{"drive", string(drive.DBC()), driven, true}, busLog{"noise", everyFrameDBC(noise), noise, true})
}

func readLog(t *testing.T, file string) []can.Frame {
	t.Helper()
	log, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var frames []can.Frame
	for lines := can.NewScanner(log); len(frames) < 10_000 && lines.Scan(); {
		f := *lines.Frame()
		f.Time, _ = lines.Time()
		f.Bus = 0
		frames = append(frames, f)
	}
	return frames
}

// noise has short frames, long ones, few values, and a time that jumps.
func noise() []can.Frame {
	random := rand.New(rand.NewPCG(3, 4))
	frames := make([]can.Frame, 15_000)
	at := int64(1e12)
	for i := range frames {
		f := &frames[i]
		f.ID, f.Len = uint32(0x100+random.IntN(6)), 8
		switch random.IntN(50) {
		case 0:
			f.Len = uint8(random.IntN(8))
		case 1:
			f.Flags = can.FlagRemote
		case 2:
			f.Flags, f.Len = can.FlagFD, 12
		}
		for j := range f.Data {
			if random.IntN(12) == 0 {
				f.Data[j] = byte(random.IntN(256))
			} else if i > 0 {
				f.Data[j] = byte(j) & byte(random.IntN(2)*3)
			}
		}
		copy(f.Data[4:8], [][]byte{{0, 0, 0xC0, 0x7F}, {1, 0, 0xC0, 0x7F}, {0, 0, 0, 0x80}, {0, 0, 0, 0}}[random.IntN(4)]) // NaN, another NaN, −0, 0
		at += random.Int64N(4_000_000)
		switch random.IntN(2000) {
		case 0:
			at -= random.Int64N(5_000_000_000)
		case 1, 2, 3:
			at -= random.Int64N(20_000_000)
		}
		f.Time = at
	}
	return frames
}

// everyFrameDBC has a message of eight bytes for each identifier: shorter frames are short. Every other one is
// multiplexed.
func everyFrameDBC(frames []can.Frame) string {
	var text strings.Builder
	seen := map[uint32]bool{}
	for i := range frames {
		id := frames[i].ID
		if frames[i].Extended() {
			id |= 1 << 31
		}
		if seen[id] || frames[i].Flags&can.FlagError != 0 {
			continue
		}
		seen[id] = true
		fmt.Fprintf(&text, "BO_ %d M%X: 8 X\n", id, id)
		if len(seen)%2 == 0 {
			text.WriteString(" SG_ A M : 0|2@1+ (1,0) [0|0] \"\" X\n SG_ B m0 : 8|8@1+ (1,0) [0|0] \"\" X\n SG_ C m1 : 8|8@1- (1,0) [0|0] \"\" X\n SG_ D m2 : 16|8@1+ (1,0) [0|0] \"\" X\n")
		} else {
			text.WriteString(" SG_ A : 0|2@1+ (1,0) [0|0] \"\" X\n SG_ B : 8|8@1- (0.5,3) [0|0] \"\" X\n")
		}
		fmt.Fprintf(&text, " SG_ E : 31|12@0- (1,0) [0|0] \"\" X\n SG_ F : 32|32@1- (1,0) [0|0] \"\" X\nSIG_VALTYPE_ %d F : 1;\n", id)
	}
	return text.String()
}

// outcome is what a pipeline made of a recording: by signal the values sent, and the events, in order.
type outcome struct {
	sent      map[uint32][]telemetrypb.Sample
	events    []telemetrypb.Sample
	short     uint64
	unchanged uint64
}

// collect runs a recording through the agent's own way from frame to pipeline, with change detection or without.
func collect(t *testing.T, r *busLog, how []pipeline.Collect, rules []pipeline.Threshold, detect bool) (*vehicle, outcome) {
	t.Helper()
	dir := writeFiles(t, map[string]string{"a.dbc": r.dbc})
	s := &settings{CAN: []canSettings{{Bus: "can0", DBC: []string{filepath.Join(dir, "a.dbc")}}}, Collect: how, Rules: rules}
	v, err := newVehicle(s)
	if err != nil {
		t.Fatal(err)
	}
	q := pipelinetest.NewQueue(1)
	// No clock makes a held sample due here: only the recording's own time does, and the end.
	p, err := pipeline.New(pipeline.Options{Tenant: "t", Device: "d", BootID: [16]byte{1}, Now: func() int64 { return 0 }, CommitEvery: 20 * time.Millisecond}, v.selection, q)
	if err != nil {
		t.Fatal(err)
	}
	c := &canSource{plan: v.plans[0], changes: v.plans[0].NewChanges(), source: p.Source("can:can0", 4)}
	c.parts = can.NewReassembler(c.plan, can.ReassemblerOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	chunk := c.source.Chunk()
	for i := range r.frames {
		f := r.frames[i]
		if !detect {
			c.changes.Forget()
		}
		chunk.Samples = c.decode(&f, chunk.Samples)
		if len(chunk.Samples) >= chunkSamples || i == len(r.frames)-1 {
			if err := c.source.Send(ctx, chunk); err != nil {
				t.Fatal(err)
			}
			chunk = c.source.Chunk()
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	telemetry, err := q.Samples(telemetrypb.Lane_LANE_TELEMETRY)
	if err != nil {
		t.Fatal(err)
	}
	o := outcome{sent: map[uint32][]telemetrypb.Sample{}, short: c.plan.Counters.Short.Load(), unchanged: c.changes.Unchanged()}
	for _, sample := range telemetry {
		o.sent[sample.Signal] = append(o.sent[sample.Signal], sample)
	}
	if o.events, err = q.Samples(telemetrypb.Lane_LANE_EVENT); err != nil {
		t.Fatal(err)
	}
	if len(q.Problems()) > 0 {
		t.Fatal(q.Problems())
	}
	return v, o
}

// compare says where they differ, but for the order between signals.
func (o *outcome) compare(t *testing.T, v *vehicle, other *outcome) {
	t.Helper()
	for _, signal := range v.selection.Catalogue().Signals {
		a, b := o.sent[signal.Id], other.sent[signal.Id]
		if !slices.Equal(a, b) {
			for i := range max(len(a), len(b)) {
				if i >= len(a) || i >= len(b) || a[i] != b[i] {
					t.Errorf("%s: %d and %d samples, sample %d differs: %v and %v", signal.Name, len(a), len(b), i, a[i:min(i+2, len(a))], b[i:min(i+2, len(b))])
					break
				}
			}
		}
	}
	if !slices.Equal(o.events, other.events) {
		t.Errorf("%d and %d events", len(o.events), len(other.events))
	}
	if o.short != other.short {
		t.Errorf("%d and %d short frames", o.short, other.short)
	}
}

// Whatever is collected, but for max_interval, is sent to the bit and to the ns as if every frame had been decoded.
func TestChangeDetectionChangesNothing(t *testing.T) {
	band := 2.5
	for _, r := range busLogs(t) {
		for name, how := range map[string]pipeline.Collect{
			"every":                      {},
			"on change":                  {OnChange: true},
			"dead band":                  {OnChange: true, DeadBand: band},
			"min interval":               {MinInterval: 100 * time.Millisecond},
			"on change and min interval": {OnChange: true, MinInterval: 100 * time.Millisecond},
			"dead band and min interval": {DeadBand: band, MinInterval: 30 * time.Millisecond},
		} {
			t.Run(r.name+", "+name, func(t *testing.T) {
				how.Match = "*"
				v, want := collect(t, &r, []pipeline.Collect{how}, ruleOf(t, &r), false)
				_, got := collect(t, &r, []pipeline.Collect{how}, ruleOf(t, &r), true)
				want.compare(t, v, &got)
				t.Logf("%d of %d frames were left out, %d events, %d short", got.unchanged, len(r.frames), len(got.events), got.short)
				if left := r.repeats && (how.OnChange || how.DeadBand > 0); want.unchanged != 0 || (got.unchanged > 0) != left {
					t.Errorf("%d frames were left out, %d without change detection", got.unchanged, want.unchanged)
				}
			})
		}
	}
}

// ruleOf watches the recording's first numeric signal, which is also collected.
func ruleOf(t *testing.T, r *busLog) []pipeline.Threshold {
	t.Helper()
	above, below := 1.0, 0.5
	for _, m := range can.ParseDBC([]byte(r.dbc)).Messages {
		for _, s := range m.Signals {
			return []pipeline.Threshold{{Name: "r", Signal: "can0." + m.Name + "." + s.Name, Above: &above, Below: &below, Hysteresis: 0.25}}
		}
	}
	t.Fatal("no signal")
	return nil
}

// With max_interval a value that repeats itself is told at other times, no later than a sixteenth of it and one frame
// more. Everything else holds as it is promised: a value goes out as soon as it leaves the band around the last one.
func TestChangeDetectionAndMaxInterval(t *testing.T) {
	const longest = 800 * time.Millisecond
	for _, r := range busLogs(t) {
		if r.name == "noise" || strings.HasPrefix(r.name, "boat") && !strings.Contains(r.name, ",") {
			continue // its time runs back; none of it can be left out
		}
		for _, band := range []float64{0, 2.5} {
			t.Run(fmt.Sprintf("%s, band %v", r.name, band), func(t *testing.T) {
				_, all := collect(t, &r, []pipeline.Collect{{Match: "*"}}, nil, false)
				v, got := collect(t, &r, []pipeline.Collect{{Match: "*", OnChange: true, DeadBand: band, MaxInterval: longest}}, nil, true)
				for _, signal := range v.selection.Catalogue().Signals {
					follows(t, signal, all.sent[signal.Id], got.sent[signal.Id], band, longest+longest/refreshPart)
				}
				t.Logf("%d of %d frames were left out", got.unchanged, len(r.frames))
			})
		}
	}
}

// follows holds what was sent of a signal against all there was.
func follows(t *testing.T, signal *telemetrypb.Signal, all, sent []telemetrypb.Sample, band float64, longest time.Duration) {
	t.Helper()
	next := 0
	var last telemetrypb.Sample
	var before int64 // time of the sample before
	for i, s := range all {
		if next < len(sent) && sent[next] == s {
			last, before = s, s.Time
			next++
			continue
		}
		switch {
		case i == 0:
			t.Errorf("%s: the first sample was not sent", signal.Name)
			return
		case !(math.Abs(s.Physical(signal.Scale, signal.Offset)-last.Physical(signal.Scale, signal.Offset)) <= band+1e-9) && !(math.IsNaN(s.Float()) && math.IsNaN(last.Float())):
			t.Errorf("%s: %v was not sent after %v", signal.Name, s, last)
			return
		case before > 0 && before-last.Time >= int64(longest) && s.Time > before:
			t.Errorf("%s: nothing was sent at %v, %v after %v", signal.Name, s, time.Duration(s.Time-last.Time), last)
			return
		}
		before = s.Time
	}
	if next != len(sent) {
		t.Errorf("%s: %d of %d samples sent are none of those on the bus, from %v", signal.Name, len(sent)-next, len(sent), sent[next])
	}
}

// What could not be handed over is told again, even if the bus only repeats it.
func TestALostChunkIsToldAgain(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC})
	v, err := newVehicle(&settings{CAN: []canSettings{{Bus: "can0", DBC: []string{filepath.Join(dir, "a.dbc")}}}, Collect: []pipeline.Collect{{Match: "*", OnChange: true}}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.New(pipeline.Options{Tenant: "t", Device: "d", BootID: [16]byte{1}}, v.selection, pipelinetest.NewQueue(1))
	if err != nil {
		t.Fatal(err)
	}
	c := &canSource{plan: v.plans[0], changes: v.plans[0].NewChanges(), source: p.Source("can:can0", 1)}
	c.parts = can.NewReassembler(c.plan, can.ReassemblerOptions{})
	// Nobody takes anything: the first chunk waits, the second finds no room.
	for i, f := range []can.Frame{{ID: 256, Len: 8}, {ID: 256, Len: 8, Data: [64]byte{1}}, {ID: 256, Len: 8, Data: [64]byte{1}}} {
		chunk := c.source.Chunk()
		if chunk.Samples = c.decode(&f, chunk.Samples); len(chunk.Samples) == 0 {
			t.Fatalf("frame %d was left out", i)
		}
		c.offer(chunk)
	}
}
