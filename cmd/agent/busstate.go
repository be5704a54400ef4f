package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Times of the watch over a bus.
const (
	busPollEvery   = time.Second            // the kernel is asked, and counters are reported, this often
	busReportEvery = 250 * time.Millisecond // changes of state are reported at most this often
	busFramesEvery = 10                     // polls between two reports of how many frames came
	busCalm        = 5 * time.Second        // error active for so long: the alarm is over
)

// The signals that tell how a bus is.
const (
	busState = iota
	busTxErrors
	busRxErrors
	busErrorFrames
	busFrames
	busDrops
	busLoad
	busSignals
)

var busSignalTable = [busSignals]struct {
	name, unit, comment string
	scale               float64
}{
	busState:       {name: "state", comment: "state of the controller: fault confinement (ISO 11898-1), or stopped, or gone"},
	busTxErrors:    {name: "tx_errors", comment: "transmit error counter (TEC) of the controller"},
	busRxErrors:    {name: "rx_errors", comment: "receive error counter (REC) of the controller"},
	busErrorFrames: {name: "error_frames", comment: "error frames since the agent started"},
	busFrames:      {name: "frames", comment: "frames read since the agent started, error frames among them; every 10 s"},
	busDrops:       {name: "drops", comment: "frames that the kernel dropped since the agent started; the loss ledger has them too"},
	busLoad:        {name: "load", unit: "%", scale: 0.1, comment: "estimated share of the bit rate in use over the last second, all nodes together"},
}

func busSignalName(bus string, i int) string { return bus + ".bus." + busSignalTable[i].name }

// busFeature offers the signals of how a bus is. They are there for every interface; a replay has none.
type busFeature struct {
	bus string
	ids [busSignals]uint32 // 0: not collected
}

func (f *busFeature) signals() []*telemetrypb.Signal {
	list := make([]*telemetrypb.Signal, 0, busSignals)
	for i, t := range busSignalTable {
		s := &telemetrypb.Signal{
			Name: busSignalName(f.bus, i), Unit: t.unit, Scale: t.scale, Comment: t.comment,
			Type: telemetrypb.ValueType_VALUE_TYPE_UINT, Source: "can:" + f.bus,
		}
		if i == busState {
			for _, state := range can.BusStates() {
				s.Labels = append(s.Labels, &telemetrypb.Label{Value: int64(state), Text: state.String()})
			}
		}
		list = append(list, s)
	}
	return list
}

func (f *busFeature) choose(id func(name string) (uint32, bool)) {
	for i := range f.ids {
		if n, ok := id(busSignalName(f.bus, i)); ok {
			f.ids[i] = n
		}
	}
}

func (f *busFeature) attach(bus *canSource) (tap, []reader) {
	m := &busMonitor{
		canSource: bus, ids: f.ids, links: &can.LinkReader{}, wake: make(chan struct{}, 1),
		source: bus.pipe.Source(bus.lossName(), sourceDepth), know: busKnowledge{percent: math.NaN()},
	}
	bus.monitor = m
	return m, []reader{{"state of can " + bus.Bus, m.run}}
}

// linkReader is a can.LinkReader, or a test's.
type linkReader interface {
	Read(name string) (can.LinkState, error)
	Close() error
}

// busMonitor watches over one bus. As a tap it hears error frames on the goroutine that reads the bus; its task asks the
// kernel, and alone reports: samples of a signal come from one goroutine, in the order of their times.
type busMonitor struct {
	*canSource
	ids    [busSignals]uint32
	source *pipeline.Source // the task's
	links  linkReader       // the task's
	wake   chan struct{}    // the state changed

	// Of the reading goroutine; the task sees them every formatsEvery frames.
	frames, extended uint32
	formats          atomic.Uint64 // frames in the high half, those with 29-bit identifiers in the low one

	mu   sync.Mutex // guards what follows
	know busKnowledge

	// The task's.
	polls   uint64
	changes []busChange
	sent    [busSignals]uint64 // value last reported, plus 1; 0: none
	asked   int64              // when link was last answered; 0: not at the last poll
	worst   can.BusState       // that the alarm stands for; BusErrorActive: none stands
	failing bool               // the kernel does not answer, and the log says so
}

// busKnowledge is what is known of a bus.
type busKnowledge struct {
	busTracker
	link    can.LinkState // the last answer
	percent float64       // load; NaN: not known
}

// knowledge is a copy of what is known now.
func (m *busMonitor) knowledge() busKnowledge {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.know
}

// formatsEvery is how many frames come between two looks at how many of them have 29-bit identifiers, and formatsFade
// when the older ones begin to count less; powers of two.
const (
	formatsEvery = 64
	formatsFade  = 1 << 16
)

func (m *busMonitor) filters() ([]can.Filter, bool) { return nil, false }

func (m *busMonitor) take(f *can.Frame, dst []telemetrypb.Sample) []telemetrypb.Sample {
	if f.Flags&can.FlagError == 0 {
		m.countFormat(f)
		return dst
	}
	report, _ := can.ParseErrorFrame(f)
	m.mu.Lock()
	changed := m.know.heard(report, f.Time)
	m.mu.Unlock()
	if changed {
		select {
		case m.wake <- struct{}{}:
		default: // it is awake already
		}
	}
	return dst
}

func (m *busMonitor) countFormat(f *can.Frame) {
	m.frames++
	if f.Extended() {
		m.extended++
	}
	if m.frames%formatsEvery == 0 {
		m.formats.Store(uint64(m.frames)<<32 | uint64(m.extended))
		if m.frames >= formatsFade {
			m.frames, m.extended = m.frames/2, m.extended/2
		}
	}
}

// run is the task. It rests after each report, so that a storm of error frames cannot make more than a few samples a
// second.
func (m *busMonitor) run(ctx context.Context) error {
	defer func() { _ = m.links.Close() }()
	tick := time.NewTicker(busPollEvery)
	defer tick.Stop()
	for {
		m.poll()
		for polled := false; !polled; {
			select {
			case <-ctx.Done():
				m.report(false)
				return nil
			case <-tick.C:
				polled = true
			case <-m.wake:
				m.report(false)
				sleep(ctx, busReportEvery)
			}
		}
	}
}

// poll asks the kernel, and reports.
func (m *busMonitor) poll() {
	at := m.clock.Boot()
	link, err := m.links.Read(m.Interface)
	gone := errors.Is(err, can.ErrDown)
	if failing := err != nil && !gone; failing != m.failing {
		if m.failing = failing; failing {
			m.log.Warn("the state of the bus is known from error frames only", "bus", m.Bus, "error", err)
		}
	}
	m.mu.Lock()
	before := m.know.link.Traffic
	m.know.percent = math.NaN()
	if err == nil || gone {
		m.know.asked(link, gone, at)
		m.know.link = link
	}
	if err == nil && m.asked != 0 {
		m.know.percent = m.load(before, &link, at-m.asked)
	}
	m.mu.Unlock()
	if m.asked = at; err != nil {
		m.asked = 0
	}
	m.report(true)
	m.polls++
}

// load is the share of the bit rate in use since the poll before, in percent, by the interface's own statistics, which
// see every frame whatever is filtered. NaN when there is no bit rate to compare with, and on CAN FD, whose frames have
// two.
func (m *busMonitor) load(before can.LinkTraffic, link *can.LinkState, elapsed int64) float64 {
	rate := link.Bitrate
	if rate == 0 {
		rate = m.Bitrate
	}
	frames, bytes := link.Traffic.RxFrames-before.RxFrames, link.Traffic.RxBytes-before.RxBytes
	if link.Kind != "vcan" { // where what is sent counts as received too
		frames += link.Traffic.TxFrames - before.TxFrames
		bytes += link.Traffic.TxBytes - before.TxBytes
	}
	const impossible = 1 << 32 // the statistics began anew
	if rate == 0 || link.FD || elapsed <= 0 || frames > impossible || bytes > impossible {
		return math.NaN()
	}
	extended := 0.0
	if formats := m.formats.Load(); formats != 0 {
		extended = float64(uint32(formats)) / float64(formats>>32)
	} else if m.J1939 {
		extended = 1
	}
	return 100 * can.BusBits(frames, bytes, extended) / (float64(rate) * float64(elapsed) / 1e9)
}

// report hands over samples of the changes of state, after a poll of all values that changed, and sees to the alarm.
func (m *busMonitor) report(polled bool) {
	at := m.clock.Boot()
	m.mu.Lock()
	m.changes = m.know.take(m.changes[:0])
	know := m.know
	m.mu.Unlock()

	chunk := m.source.Chunk()
	emit := func(i int, at int64, value uint64) {
		if m.sent[i] == value+1 {
			return
		}
		m.sent[i] = value + 1
		if m.ids[i] != 0 {
			chunk.Samples = append(chunk.Samples, telemetrypb.UintSample(m.ids[i], at, value))
		}
	}
	for _, c := range m.changes {
		m.log.Debug("state of the bus", "bus", m.Bus, "interface", m.Interface, "state", c.state)
		emit(busState, c.at, uint64(c.state))
	}
	if polled {
		if know.known {
			emit(busState, know.now.at, uint64(know.now.state)) // again, if it did not get through
		}
		if know.counted {
			emit(busTxErrors, know.countedAt, uint64(know.tx))
			emit(busRxErrors, know.countedAt, uint64(know.rx))
		}
		stats := m.counts.stats()
		emit(busErrorFrames, at, stats.Errors)
		emit(busDrops, at, stats.Drops)
		if m.polls%busFramesEvery == 0 {
			emit(busFrames, at, stats.Frames)
		}
		if !math.IsNaN(know.percent) {
			emit(busLoad, at, uint64(math.Round(know.percent/busSignalTable[busLoad].scale)))
		}
	}
	if !m.source.Offer(chunk) {
		m.sent = [busSignals]uint64{} // counted as lost; the next poll reports all values anew
	}
	m.judge(&know, at)
}

// judge raises the alarm of a bus that is error passive or bus-off. It stands for the worst of both until the bus has
// been error active for a while: a controller that restarts by itself would raise and clear it many times a second. An
// interface that is down or gone is the reader's alarm.
func (m *busMonitor) judge(know *busKnowledge, at int64) {
	name := "can." + m.Bus + ".state"
	worst := m.worst
	for _, c := range m.changes {
		if c.state == can.BusErrorPassive || c.state == can.BusOff {
			worst = max(worst, c.state)
		}
	}
	now := know.now
	switch {
	case now.state == can.BusStopped, now.state == can.BusGone, now.state == can.BusErrorActive && at-now.at >= int64(busCalm):
		m.alarms.Clear(name)
		worst = can.BusErrorActive
	case worst > m.worst:
		m.alarms.Clear(name) // so that what watches sees it getting worse
		m.alarms.Raise(name, troubleText(m.Interface, worst, know))
	}
	m.worst = worst
}

// troubleText tells what a state means and what to do.
func troubleText(name string, state can.BusState, know *busKnowledge) string {
	var text strings.Builder
	if state == can.BusOff {
		fmt.Fprintf(&text, "%s is bus-off: its controller failed to send too often and has left the bus; nothing is read until it restarts", name)
	} else {
		fmt.Fprintf(&text, "%s is error passive: too many frames on its bus are broken", name)
	}
	if know.counted && (state == can.BusErrorPassive || know.link.HasCounters) { // no frame of bus-off tells them
		fmt.Fprintf(&text, " (error counters: %d transmit, %d receive)", know.tx, know.rx)
	}
	if know.fault.Classes != 0 {
		fmt.Fprintf(&text, "; the last error was: %v", know.fault)
	}
	text.WriteString("; check the termination (120 Ω at both ends), the wiring, the bit rate")
	if know.link.Bitrate != 0 {
		fmt.Fprintf(&text, " (here %d bit/s)", know.link.Bitrate)
	}
	text.WriteString(" and whether another node disturbs the bus or nobody else is on it")
	switch {
	case state != can.BusOff || !know.link.HasState:
	case know.link.RestartMs != 0:
		fmt.Fprintf(&text, "; it restarts by itself after %d ms", know.link.RestartMs)
	default:
		fmt.Fprintf(&text, "; let it restart by itself: `ip link set %[1]s down; ip link set %[1]s up type can restart-ms 100`", name)
	}
	return text.String()
}
