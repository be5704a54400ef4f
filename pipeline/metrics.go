package pipeline

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// metrics of one pipeline; nil stands for none.
type metrics struct {
	samples *prometheus.CounterVec
	batches *prometheus.CounterVec
	bytes   *prometheus.CounterVec
	losses  *prometheus.CounterVec
	errors  prometheus.Counter
	seconds prometheus.Histogram
}

func newMetrics(to prometheus.Registerer) (*metrics, error) {
	if to == nil {
		return nil, nil
	}
	byLane := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"lane"})
	}
	m := &metrics{
		samples: byLane("waybill_samples_total", "Samples put into batches."),
		batches: byLane("waybill_batches_sealed_total", "Batches sealed."),
		bytes:   byLane("waybill_batch_bytes_sealed_total", "Bytes of the batches sealed, envelopes included."),
		losses: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waybill_losses_total",
			Help: "Losses entered in the ledger, in whatever unit they are counted."}, []string{"reason"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "waybill_commit_errors_total",
			Help: "Commits that the queue refused."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "waybill_commit_seconds",
			Help: "Time of one commit.", Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 12)}),
	}
	for _, c := range []prometheus.Collector{m.samples, m.batches, m.bytes, m.losses, m.errors, m.seconds} {
		if err := to.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

// watch shows what is in memory only.
func (m *metrics) watch(p *Pipeline) error {
	if m == nil {
		return nil
	}
	for lane := telemetrypb.Lane_LANE_CONTROL; lane <= telemetrypb.Lane_LANE_RAW; lane++ {
		label := prometheus.Labels{"lane": telemetrypb.LaneName(lane)}
		for _, c := range []prometheus.Collector{
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "waybill_uncommitted_batches", ConstLabels: label,
				Help: "Sealed batches that are in memory only."}, func() float64 { return float64(p.Uncommitted(lane).Batches) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "waybill_uncommitted_bytes", ConstLabels: label,
				Help: "Bytes of the sealed batches that are in memory only."}, func() float64 { return float64(p.Uncommitted(lane).Bytes) }),
		} {
			if err := p.o.Metrics.Register(c); err != nil {
				return fmt.Errorf("metrics: %w", err)
			}
		}
	}
	return nil
}

func (m *metrics) sealed(s *Sealed) {
	if m == nil {
		return
	}
	lane := telemetrypb.LaneName(s.Lane)
	m.batches.WithLabelValues(lane).Inc()
	m.bytes.WithLabelValues(lane).Add(float64(len(s.Bytes)))
}

func (m *metrics) taken(lane telemetrypb.Lane, samples int) {
	if m != nil && samples > 0 {
		m.samples.WithLabelValues(telemetrypb.LaneName(lane)).Add(float64(samples))
	}
}

func (m *metrics) committed(seconds float64, err error) {
	if m == nil {
		return
	}
	m.seconds.Observe(seconds)
	if err != nil {
		m.errors.Inc()
	}
}
