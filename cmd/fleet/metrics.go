package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
)

// surveyEvery is how old what is counted by reading the store may be; a scrape must not cost a scan each time.
const surveyEvery = 30 * time.Second

// silentAfter is how long a device that says to be online may send nothing: its status comes every minute.
const silentAfter = 5 * time.Minute

// checkMetrics refuses an address that others can reach, unless insecure: figures tell how large a fleet is, and nobody is asked who he is.
func checkMetrics(address string, insecure bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--metrics %q: want an address such as 127.0.0.1:9464", address)
	}
	if !isLoopback(host) && !insecure {
		return fmt.Errorf("--metrics %q: others could reach it; listen on 127.0.0.1 and let a proxy that knows its callers stand before it, or add --insecure-metrics where the network keeps others out", address)
	}
	return nil
}

// serveMetrics serves /metrics of all until ctx ends, and /ready: 200 while ready, which is to be subscribed at the broker, 503 otherwise.
func serveMetrics(ctx context.Context, address string, ready func() bool, all []prometheus.Collector, log *slog.Logger) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--metrics %s: %w", address, err)
	}
	registry := prometheus.NewRegistry()
	// Beside the fleet's figures what the process takes: CPU, memory, files, goroutines.
	for _, one := range append(all, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})) {
		if err := registry.Register(one); err != nil {
			l.Close()
			return err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET "+readyPath, func(w http.ResponseWriter, _ *http.Request) {
		if !ready() {
			http.Error(w, "not subscribed at the broker", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "subscribed at the broker")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	log.Info("metrics", "url", fmt.Sprintf("http://%s/metrics", l.Addr()))
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("--metrics %s: %w", address, err)
	}
	return nil
}

// fleetMetrics reads receiver and store when it is asked. It is safe for use from several goroutines.
type fleetMetrics struct {
	store     store.Store
	counts    func() ingest.Counts
	connected func() bool
	share     func() []figure // of this process, where several share; nil: none do
	now       func() time.Time
	log       *slog.Logger

	mu     sync.Mutex // guards what follows
	at     time.Time  // of the survey
	survey survey
}

// survey is what takes a scan of the store.
type survey struct {
	devices map[string]int // by state
	lost    map[[2]string]float64
}

// surveyed is a store that counts by itself: devices by state, of those that are online silent where nothing came since, and what is lost by
// reason and unit.
type surveyed interface {
	Survey(ctx context.Context, since time.Time) (devices map[string]int, lost map[[2]string]float64, err error)
}

// figure is one number of a process or a store.
type figure struct {
	name, help string
	kind       prometheus.ValueType
	value      float64
}

// figures are the numbers that cost nothing to read.
func (m *fleetMetrics) figures() []figure {
	c, t := m.counts(), m.store.Totals()
	connected := 0.0
	if m.connected() {
		connected = 1
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return []figure{
		{"connected", "1 while subscribed at the broker.", gauge, connected},
		{"payloads_total", "Publishes taken, since the start.", counter, float64(c.Payloads)},
		{"batches_total", "Batches that came for the first time, since the start.", counter, float64(c.Batches)},
		{"samples_total", "Samples that came for the first time, since the start.", counter, float64(c.Samples)},
		{"duplicates_total", "Batches that were there already, since the start.", counter, float64(c.Duplicates)},
		{"rejected_total", "Batches rejected, since the start: malformed inside, in conflict, or foreign.", counter, float64(c.Rejected)},
		{"malformed_total", "Payloads and batches of which nothing can be said, since the start.", counter, float64(c.Malformed)},
		{"limited_total", "What a device may not have more of, since the start: not stored, not confirmed.", counter, float64(c.Limited)},
		{"deferred_total", "Batches of devices that send samples too fast, since the start: not stored, not confirmed.", counter, float64(c.Deferred)},
		{"unparked_total", "Batches that had waited for their catalogue and were decoded, since the start.", counter, float64(c.Unparked)},
		{"retimed_total", "Samples dated again by a better clock record, since the start.", counter, float64(c.Retimed)},
		{"wanted_total", "Batches that vehicles were asked for after a restore, since the start.", counter, float64(c.Wanted)},
		{"store_devices", "Devices that the store knows.", gauge, float64(t.Devices)},
		{"store_batches", "Batches in the store, whatever their state.", gauge, float64(t.Batches)},
		{"store_samples", "Samples in the store.", gauge, float64(t.Samples)},
		{"store_parked_batches", "Batches that wait for a catalogue or a newer reader: late, not lost.", gauge, float64(t.Parked)},
		{"store_missing_batches", "Numbers below the highest known one that neither came nor stand in the loss ledger: late, or a fault.", gauge, float64(t.Gaps)},
		{"store_loss_records", "Records of the loss ledger: lost, with reason and count.", gauge, float64(t.Losses)},
		{"store_dead_letters", "What could not be taken and is kept for a person.", gauge, float64(t.Letters)},
	}
}

// Describe describes nothing: labels come and go.
func (m *fleetMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads everything.
func (m *fleetMetrics) Collect(out chan<- prometheus.Metric) {
	name := func(s string) string { return "waybill_fleet_" + s }
	figures := m.figures()
	if m.share != nil {
		figures = append(figures, m.share()...)
	}
	for _, f := range figures {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name(f.name), f.help, nil, nil), f.kind, f.value)
	}
	s, ok := m.look()
	if !ok {
		return
	}
	states := prometheus.NewDesc(name("devices"), "Devices by what their last status said: online, silent (online, and nothing for five minutes), offline, unknown.", []string{"state"}, nil)
	for _, state := range []string{"online", "silent", "offline", "unknown"} {
		out <- prometheus.MustNewConstMetric(states, prometheus.GaugeValue, float64(s.devices[state]), state)
	}
	lost := prometheus.NewDesc(name("lost"), "What the loss ledger accounts for, by reason and unit; bounds count as they stand.", []string{"reason", "unit"}, nil)
	for k, n := range s.lost {
		out <- prometheus.MustNewConstMetric(lost, prometheus.GaugeValue, n, k[0], k[1])
	}
}

// look reads the store where the last time is long ago.
func (m *fleetMetrics) look() (survey, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if !m.at.IsZero() && now.Sub(m.at) < surveyEvery {
		return m.survey, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // within a scrape's patience
	defer cancel()
	s := survey{devices: map[string]int{}, lost: map[[2]string]float64{}}
	if counted, ok := m.store.(surveyed); ok {
		var err error
		if s.devices, s.lost, err = counted.Survey(ctx, now.Add(-silentAfter)); err != nil {
			m.log.Warn("devices and losses could not be counted for the metrics", "err", err)
			return survey{}, false
		}
		m.at, m.survey = now, s
		return s, true
	}
	devices, err := m.store.Devices(ctx)
	if err == nil {
		for _, d := range devices {
			s.devices[stateOf(&d, now)]++
		}
		var losses []store.LossEntry
		losses, err = m.store.Losses(ctx, "")
		for _, l := range losses {
			s.lost[[2]string{l.Reason, l.Unit}] += float64(l.Count)
		}
	}
	if err != nil {
		m.log.Warn("devices and losses could not be counted for the metrics", "err", err)
		return survey{}, false
	}
	m.at, m.survey = now, s
	return s, true
}

// stateOf is a device's state in a word.
func stateOf(d *store.Device, now time.Time) string {
	switch {
	case d.Online == nil:
		return "unknown"
	case !*d.Online:
		return "offline"
	case now.Sub(d.LastSeen) > silentAfter:
		return "silent"
	}
	return "online"
}
