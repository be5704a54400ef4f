package main

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/can"
)

// busCounts adds up what the Readers of a bus counted: there is a new one whenever the interface was down.
type busCounts struct {
	mu     sync.Mutex // guards what follows
	past   can.ReaderStats
	reader *can.Reader // nil: none is open

	replayed atomic.Uint64 // frames of a log
	filtered atomic.Bool   // the kernel lets only some through

	short atomic.Uint64 // frames shorter than the DBC file says; Plan.Counters.Short is emptied into it and the ledger
}

func (b *busCounts) open(r *can.Reader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reader = r
}

func (b *busCounts) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.past, b.reader = b.sumLocked(), nil
}

// isOpen: the interface is read.
func (b *busCounts) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reader != nil
}

func (b *busCounts) stats() can.ReaderStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sumLocked()
}

func (b *busCounts) sumLocked() can.ReaderStats {
	sum := b.past
	if b.reader != nil {
		s := b.reader.Stats()
		sum.Frames += s.Frames
		sum.Drops += s.Drops
		sum.Errors += s.Errors
		sum.Unstamped += s.Unstamped
		sum.Clamped += s.Clamped
		sum.Malformed += s.Malformed
	}
	return sum
}

// canMetrics shows the counts of the buses when somebody asks: the way of a frame pays nothing for it.
type canMetrics struct {
	buses []*canSource

	frames, errorFrames, drops, unstamped, clamped, malformed *prometheus.Desc // by bus; of the Reader
	undecoded                                                 *prometheus.Desc // by bus and reason; of the Plan
	warnings                                                  *prometheus.Desc // by bus
	state, changes, load, restart                             *prometheus.Desc // by bus
	counter, events                                           *prometheus.Desc // by bus and which
}

func newCANMetrics(buses []*canSource) *canMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("waybill_can_"+name, help, append([]string{"bus"}, labels...), nil)
	}
	return &canMetrics{
		buses:       buses,
		frames:      desc("frames_total", "Frames read, error frames among them."),
		errorFrames: desc("error_frames_total", "Error frames read."),
		drops:       desc("dropped_frames_total", "Frames that the kernel dropped because they were not read in time."),
		unstamped:   desc("unstamped_frames_total", "Frames without a kernel timestamp; they have the time of reading."),
		clamped:     desc("clamped_frames_total", "Frames whose timestamp was not possible and was bounded."),
		malformed:   desc("malformed_frames_total", "Messages of the kernel that were no frame."),
		undecoded:   desc("undecoded_frames_total", "Frames not decoded, or not in full: short (a subscribed signal lies beyond the end), unknown (not subscribed), remote (no data).", "reason"),
		warnings:    desc("plan_warnings", "Warnings of the decode plan."),
		state:       desc("bus_state", "State of the controller: 0 error active, 1 error warning, 2 error passive, 3 bus-off, 4 stopped, 5 sleeping, 255 gone."),
		changes:     desc("bus_state_changes_total", "Changes of the controller's state seen."),
		load:        desc("bus_load_ratio", "Estimated share of the bit rate in use over the last second."),
		restart:     desc("restart_seconds", "Time from bus-off to the automatic restart; 0: none."),
		counter:     desc("error_counter", "Error counter of the controller, rx or tx.", "direction"),
		events:      desc("controller_events_total", "What the driver counted since the interface was made.", "event"),
	}
}

// Describe is part of prometheus.Collector.
func (m *canMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.frames, m.errorFrames, m.drops, m.unstamped, m.clamped, m.malformed, m.undecoded,
		m.warnings, m.state, m.changes, m.load, m.restart, m.counter, m.events} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (m *canMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, bus := range m.buses {
		m.collect(bus, ch)
	}
}

func (m *canMetrics) collect(bus *canSource, ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{bus.Bus}, labels...)...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{bus.Bus}, labels...)...)
	}
	decoding := &bus.plan.Counters
	count(m.undecoded, bus.counts.short.Load(), "short")
	count(m.undecoded, decoding.Unknown.Load(), "unknown")
	count(m.undecoded, decoding.Remote.Load(), "remote")
	gauge(m.warnings, float64(len(bus.plan.Warnings())))
	if bus.monitor == nil {
		return
	}
	stats := bus.counts.stats()
	count(m.frames, stats.Frames)
	count(m.errorFrames, stats.Errors)
	count(m.drops, stats.Drops)
	count(m.unstamped, stats.Unstamped)
	count(m.clamped, stats.Clamped)
	count(m.malformed, stats.Malformed)

	know := bus.monitor.knowledge()
	count(m.changes, know.changed)
	if know.known {
		gauge(m.state, float64(know.now.state))
	}
	if know.counted {
		gauge(m.counter, float64(know.tx), "tx")
		gauge(m.counter, float64(know.rx), "rx")
	}
	if !math.IsNaN(know.percent) {
		gauge(m.load, know.percent/100)
	}
	if !know.link.HasState {
		return
	}
	gauge(m.restart, float64(know.link.RestartMs)/1000)
	events := know.link.Events
	count(m.events, uint64(events.BusErrors), "bus_error")
	count(m.events, uint64(events.Warnings), "error_warning")
	count(m.events, uint64(events.Passives), "error_passive")
	count(m.events, uint64(events.BusOffs), "bus_off")
	count(m.events, uint64(events.LostArbitration), "arbitration_lost")
	count(m.events, uint64(events.Restarts), "restart")
}
