package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Reports as error frames give them.
var (
	saysWarning   = can.ErrorReport{Classes: can.ErrorController, Controller: 0x08}
	saysPassive   = can.ErrorReport{Classes: can.ErrorController | can.ErrorCounters, Controller: 0x20, TxErrors: 128}
	saysBusOff    = can.ErrorReport{Classes: can.ErrorBusOff}
	saysRestarted = can.ErrorReport{Classes: can.ErrorRestarted}
	saysNothing   = can.ErrorReport{Classes: can.ErrorBus | can.ErrorProtocol, Protocol: 4}
)

func controller(state can.BusState) can.LinkState {
	return can.LinkState{Kind: "can", Up: true, HasState: true, State: state}
}

func TestBusTracker(t *testing.T) {
	const s = int64(time.Second)
	type step func(*busTracker)
	hear := func(at int64, r can.ErrorReport) step { return func(b *busTracker) { b.heard(r, at) } }
	ask := func(at int64, l can.LinkState) step { return func(b *busTracker) { b.asked(l, false, at) } }
	gone := func(at int64) step { return func(b *busTracker) { b.asked(can.LinkState{}, true, at) } }
	virtual := can.LinkState{Kind: "vcan", Up: true}
	for _, test := range []struct {
		name  string
		steps []step
		want  []busChange
	}{
		{"the first answer counts", []step{ask(1*s, controller(can.BusErrorPassive))}, []busChange{{can.BusErrorPassive, 1 * s}}},
		{"so does a frame before it", []step{hear(1*s, saysPassive), ask(2*s, controller(can.BusErrorPassive))}, []busChange{{can.BusErrorPassive, 1 * s}}},
		{"frames tell each change", []step{ask(1*s, controller(can.BusErrorActive)), hear(2*s, saysWarning), hear(3*s, saysPassive), hear(4*s, saysNothing), hear(5*s, saysBusOff), hear(6*s, saysRestarted)},
			[]busChange{{can.BusErrorActive, 1 * s}, {can.BusErrorWarning, 2 * s}, {can.BusErrorPassive, 3 * s}, {can.BusOff, 5 * s}, {can.BusErrorActive, 6 * s}}},
		{"one contradiction is none: the frames are unread yet", []step{ask(1*s, controller(can.BusErrorActive)), ask(3*s, controller(can.BusOff)), hear(2*s, saysPassive), hear(2*s+1, saysBusOff), ask(4*s, controller(can.BusOff))},
			[]busChange{{can.BusErrorActive, 1 * s}, {can.BusErrorPassive, 2 * s}, {can.BusOff, 2*s + 1}}},
		{"two are: no frame came", []step{hear(1*s, saysBusOff), ask(2*s, controller(can.BusErrorActive)), ask(3*s, controller(can.BusErrorActive))},
			[]busChange{{can.BusOff, 1 * s}, {can.BusErrorActive, 2 * s}}},
		{"two with a frame in between are none", []step{ask(1*s, controller(can.BusErrorActive)), ask(2*s, controller(can.BusOff)), hear(3*s, saysWarning), ask(4*s, controller(can.BusOff))},
			[]busChange{{can.BusErrorActive, 1 * s}, {can.BusErrorWarning, 3 * s}}},
		{"two that differ are none", []step{hear(1*s, saysBusOff), ask(2*s, controller(can.BusErrorActive)), ask(3*s, controller(can.BusErrorWarning))}, []busChange{{can.BusOff, 1 * s}}},
		{"two with an agreement in between are none", []step{hear(1*s, saysBusOff), ask(2*s, controller(can.BusErrorActive)), ask(3*s, controller(can.BusOff)), ask(4*s, controller(can.BusErrorActive))},
			[]busChange{{can.BusOff, 1 * s}}},
		{"a frame older than what is known changes nothing", []step{ask(3*s, controller(can.BusErrorActive)), hear(2*s, saysBusOff)}, []busChange{{can.BusErrorActive, 3 * s}}},
		{"an interface that goes", []step{ask(1*s, controller(can.BusErrorActive)), ask(2*s, can.LinkState{State: can.BusStopped}), ask(3*s, can.LinkState{State: can.BusStopped}), gone(4 * s), gone(5 * s)},
			[]busChange{{can.BusErrorActive, 1 * s}, {can.BusStopped, 2 * s}, {can.BusGone, 4 * s}}},
		{"without a controller only frames tell", []step{ask(1*s, virtual), hear(2*s, saysBusOff), ask(3*s, virtual), ask(4*s, virtual), hear(5*s, saysRestarted)},
			[]busChange{{can.BusErrorActive, 1 * s}, {can.BusOff, 2 * s}, {can.BusErrorActive, 5 * s}}},
		{"but for down and up", []step{ask(1*s, virtual), hear(2*s, saysBusOff), gone(3 * s), gone(4 * s), ask(5*s, virtual), ask(6*s, virtual)},
			[]busChange{{can.BusErrorActive, 1 * s}, {can.BusOff, 2 * s}, {can.BusGone, 3 * s}, {can.BusErrorActive, 5 * s}}},
	} {
		var b busTracker
		for _, step := range test.steps {
			step(&b)
		}
		if got := b.take(nil); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// Of more changes than have room the first stay, and the newest.
func TestBusTrackerInAStorm(t *testing.T) {
	var b busTracker
	for i := range int64(1001) {
		b.heard([]can.ErrorReport{saysBusOff, saysRestarted}[i%2], i)
	}
	got := b.take(nil)
	if len(got) != busChangesKept || got[0] != (busChange{can.BusOff, 0}) || got[len(got)-1] != (busChange{can.BusOff, 1000}) || b.changed != 1001 {
		t.Errorf("%d changes seen, kept %v", b.changed, got)
	}
	if again := b.take(nil); len(again) != 0 {
		t.Errorf("taken twice: %v", again)
	}
}

func TestBusTrackerCounters(t *testing.T) {
	var b busTracker
	expect := func(tx, rx uint16) {
		t.Helper()
		if !b.counted || b.tx != tx || b.rx != rx {
			t.Errorf("%d transmit, %d receive (%t), want %d, %d", b.tx, b.rx, b.counted, tx, rx)
		}
	}
	b.heard(saysRestarted, 1)
	if b.counted {
		t.Error("counters that nobody gave")
	}
	b.heard(saysPassive, 10)
	expect(128, 0)
	b.heard(can.ErrorReport{Classes: can.ErrorCounters, TxErrors: 1, RxErrors: 2}, 9) // older
	expect(128, 0)
	b.heard(saysRestarted, 11)
	expect(0, 0)
	b.asked(can.LinkState{Up: true, HasCounters: true, TxErrors: 256, RxErrors: 3}, false, 12)
	expect(256, 3)
}

// handClock is a clock set by hand.
type handClock struct {
	mu  sync.Mutex
	now int64
}

func (c *handClock) Boot() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}
func (c *handClock) Wall() time.Time { return time.Unix(1e9, c.Boot()) }
func (c *handClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += int64(d)
}

// fakeLinks answers what it is told to.
type fakeLinks struct {
	state can.LinkState
	err   error
}

func (f *fakeLinks) Read(string) (can.LinkState, error) { return f.state, f.err }
func (f *fakeLinks) Close() error                       { return nil }

// monitorRig is a busMonitor whose task the test is, with a real pipeline behind it.
type monitorRig struct {
	*busMonitor
	clock  *handClock
	links  *fakeLinks
	alarms []string
	names  map[uint32]string
	queue  *pipelinetest.Queue
}

func newMonitorRig(t *testing.T, collect string) *monitorRig {
	t.Helper()
	feature := &busFeature{bus: "can0"}
	selection, err := pipeline.Choose(feature.signals(), []pipeline.Collect{{Match: collect}})
	if err != nil {
		t.Fatal(err)
	}
	feature.choose(selection.ID)
	r := &monitorRig{clock: &handClock{now: 100e9}, links: &fakeLinks{state: controller(can.BusErrorActive)}, queue: pipelinetest.NewQueue(1), names: map[uint32]string{}}
	for _, s := range selection.Catalogue().Signals {
		r.names[s.Id] = strings.TrimPrefix(s.Name, "can0.bus.")
	}
	log := slog.New(slog.DiscardHandler)
	pipe, err := pipeline.New(pipeline.Options{Tenant: "t", Device: "d", BootID: [16]byte{1}, BootCount: 1, Clock: r.clock, Log: log, CommitEvery: time.Hour, SealEvery: time.Hour}, selection, r.queue)
	if err != nil {
		t.Fatal(err)
	}
	board := alarm.NewBoard(r.clock.Boot, log)
	board.Watch(func(a alarm.Alarm) {
		text := "-" + a.Name
		if a.Raised {
			text = "+" + a.Name + ": " + a.Text
		}
		r.alarms = append(r.alarms, text)
	})
	a := &agent{clock: r.clock, log: log, pipe: pipe, alarms: board, metrics: prometheus.NewRegistry()}
	bus := &canSource{agent: a, canSettings: canSettings{Bus: "can0", Interface: "can0"}, plan: can.Compile(nil, can.PlanOptions{}), number: 0}
	seen, _ := feature.attach(bus)
	r.busMonitor = seen.(*busMonitor)
	r.busMonitor.links = r.links
	return r
}

// second is a second of the task: a poll, and a report if a frame woke it.
func (r *monitorRig) second() {
	r.clock.pass(time.Second)
	r.poll()
}

// hear is an error frame now.
func (r *monitorRig) hear(classes can.ErrorClass, details ...byte) {
	f := can.Frame{ID: uint32(classes), Len: 8, Flags: can.FlagError, Time: r.clock.Boot()}
	copy(f.Data[:], details)
	r.take(&f, nil)
	select {
	case <-r.wake:
		r.report(false)
	default:
	}
}

// samples runs the pipeline over what was offered and returns it as name@seconds=value.
func (r *monitorRig) samples(t *testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.pipe.Run(ctx); err != nil {
		t.Fatal(err)
	}
	samples, err := r.queue.Samples(telemetrypb.Lane_LANE_TELEMETRY)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, s := range samples {
		list = append(list, fmt.Sprintf("%s@%g=%d", r.names[s.Signal], float64(s.Time)/1e9, s.Bits))
	}
	slices.Sort(list)
	return list
}

func TestBusMonitorReportsChanges(t *testing.T) {
	r := newMonitorRig(t, "*")
	r.links.state.Bitrate = 500000
	r.second() // 101
	r.links.state.Traffic = can.LinkTraffic{RxFrames: 1000, RxBytes: 8000}
	r.second() // 102
	r.clock.pass(100 * time.Millisecond)
	r.hear(can.ErrorController|can.ErrorCounters, 0, 0x20, 0, 0, 0, 0, 129, 1)
	r.links.state.State = can.BusErrorPassive
	r.clock.pass(900 * time.Millisecond)
	r.poll()   // 103
	r.second() // 104: nothing new
	r.links.err = fmt.Errorf("can0: %w", can.ErrDown)
	r.second() // 105
	r.second() // 106
	want := []string{
		"drops@101=0", "error_frames@101=0", "frames@101=0",
		// 1000 frames of 8 bytes and 11-bit identifiers: 111 bits each, and 98 of them with 0.09 stuff bits.
		"load@102=240", "load@103=0",
		"rx_errors@102.1=1", "state@101=0", "state@102.1=2", "state@105=255", "tx_errors@102.1=129",
	}
	if got := r.samples(t); !slices.Equal(got, want) {
		t.Errorf("%v, want\n%v", got, want)
	}
}

// Nothing is collected, and the alarm is told all the same.
func TestBusAlarm(t *testing.T) {
	r := newMonitorRig(t, "*.load")
	said := func(want ...string) {
		t.Helper()
		ok := len(want) == len(r.alarms)
		for i := range want {
			ok = ok && strings.HasPrefix(r.alarms[i], want[i])
		}
		if !ok {
			t.Errorf("%q, want %q", r.alarms, want)
		}
		r.alarms = nil
	}
	r.second()
	r.hear(can.ErrorController, 0, 0x08)
	said()
	r.hear(can.ErrorNoAck)
	r.hear(can.ErrorController|can.ErrorCounters, 0, 0x20, 0, 0, 0, 0, 128, 3)
	if len(r.alarms) != 1 || !strings.Contains(r.alarms[0], "128 transmit, 3 receive") || !strings.Contains(r.alarms[0], "no acknowledgement") {
		t.Errorf("%q", r.alarms)
	}
	said("+can.can0.state: can0 is error passive")
	r.hear(can.ErrorController, 0, 0x08)
	r.hear(can.ErrorController, 0, 0x20)
	said() // it stands
	r.hear(can.ErrorBusOff)
	if !strings.Contains(r.alarms[1], "restart-ms 100") {
		t.Errorf("%q", r.alarms)
	}
	said("-can.can0.state", "+can.can0.state: can0 is bus-off")
	for range 20 { // it restarts by itself, again and again
		r.clock.pass(100 * time.Millisecond)
		r.hear(can.ErrorRestarted)
		r.hear(can.ErrorBusOff)
	}
	r.hear(can.ErrorRestarted)
	for range 4 {
		r.second()
	}
	said()
	r.second()
	said("-can.can0.state")
	r.second()
	r.hear(can.ErrorBusOff)
	r.links.state = can.LinkState{Kind: "can", HasState: true, State: can.BusStopped}
	r.second()
	r.second()
	said("+can.can0.state", "-can.can0.state") // the reader has an alarm of its own by then
}

// A storm of error frames makes few samples and allocates nothing.
func TestBusMonitorInAStorm(t *testing.T) {
	r := newMonitorRig(t, "*")
	r.second()
	off := can.Frame{ID: uint32(can.ErrorBusOff), Len: 8, Flags: can.FlagError}
	back := can.Frame{ID: uint32(can.ErrorRestarted | can.ErrorCounters), Len: 8, Flags: can.FlagError}
	plain := can.Frame{ID: 0x18FEF100, Len: 8, Flags: can.FlagExtended}
	if n := testing.AllocsPerRun(10000, func() {
		off.Time, back.Time = r.clock.Boot(), r.clock.Boot()
		r.take(&off, nil)
		r.take(&plain, nil)
		r.take(&back, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	r.report(false)
	states := 0
	for _, s := range r.samples(t) {
		if strings.HasPrefix(s, "state@") {
			states++
		}
	}
	if states != 1+busChangesKept {
		t.Errorf("%d samples of the state, want the first and %d", states, busChangesKept)
	}
	if know := r.knowledge(); know.now.state != can.BusErrorActive || know.changed < 20000 {
		t.Errorf("%+v", know.busTracker)
	}
	for range 2 * formatsFade {
		r.take(&plain, nil)
	}
	if formats := r.formats.Load(); uint32(formats) != uint32(formats>>32) || formats == 0 {
		t.Errorf("all frames have 29-bit identifiers: %#x", formats)
	}
}

// What did not get into the pipeline is counted there, and said again.
func TestBusMonitorSaysAgainWhatDidNotGetThrough(t *testing.T) {
	r := newMonitorRig(t, "*.state")
	for range sourceDepth {
		chunk := r.source.Chunk()
		chunk.Samples = append(chunk.Samples, telemetrypb.UintSample(1, r.clock.Boot(), 99))
		if !r.source.Offer(chunk) {
			t.Fatal("full already")
		}
	}
	r.second()
	got := r.samples(t)
	if slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "state@101") }) {
		t.Fatalf("there was room: %v", got)
	}
	if r.sent != [busSignals]uint64{} {
		t.Errorf("what was dropped counts as sent: %v", r.sent)
	}
}

func TestBusMonitorWithoutAnswers(t *testing.T) {
	r := newMonitorRig(t, "*.state")
	r.links.err = errors.New("no netlink here")
	r.second()
	r.hear(can.ErrorController, 0, 0x08)
	r.second()
	if got, want := r.samples(t), []string{"state@101=1"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestBusLoad(t *testing.T) {
	const s = int64(time.Second)
	traffic := can.LinkTraffic{RxFrames: 100, TxFrames: 50, RxBytes: 800, TxBytes: 400}
	for _, test := range []struct {
		name     string
		link     can.LinkState
		settings canSettings
		frames   float64
		extended float64
	}{
		{"a controller", can.LinkState{Kind: "can", Bitrate: 500000, Traffic: traffic}, canSettings{}, 150, 0},
		{"J1939, and nothing read yet", can.LinkState{Kind: "can", Bitrate: 500000, Traffic: traffic}, canSettings{J1939: true}, 150, 1},
		{"vcan, whose senders' frames are received", can.LinkState{Kind: "vcan", Traffic: traffic}, canSettings{Bitrate: 500000}, 100, 0},
		{"no bit rate", can.LinkState{Kind: "vcan", Traffic: traffic}, canSettings{}, -1, 0},
		{"FD", can.LinkState{Kind: "can", Bitrate: 500000, FD: true, Traffic: traffic}, canSettings{}, -1, 0},
	} {
		m := &busMonitor{canSource: &canSource{canSettings: test.settings}}
		got := m.load(can.LinkTraffic{}, &test.link, 2*s)
		if test.frames < 0 {
			if !math.IsNaN(got) {
				t.Errorf("%s: %v", test.name, got)
			}
			continue
		}
		if want := 100 * can.BusBits(uint64(test.frames), 8*uint64(test.frames), test.extended) / 1e6; got != want {
			t.Errorf("%s: %v, want %v", test.name, got, want)
		}
	}
	m := &busMonitor{canSource: &canSource{}}
	if got := m.load(traffic, &can.LinkState{Kind: "can", Bitrate: 500000}, s); !math.IsNaN(got) {
		t.Errorf("statistics that began anew: %v", got)
	}
}

// What the watch over the bus costs a data frame on its way.
func BenchmarkBusMonitorFrame(b *testing.B) {
	m := &busMonitor{canSource: &canSource{}}
	f := can.Frame{ID: 0x18FEF100, Len: 8, Flags: can.FlagExtended}
	b.ReportAllocs()
	for b.Loop() {
		m.take(&f, nil)
	}
}
