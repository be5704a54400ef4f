package buffer

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the queue's figures; a nil *metrics counts nothing.
type metrics struct {
	q          *Queue
	registerer prometheus.Registerer

	batches *prometheus.CounterVec // by lane
	bytes   *prometheus.CounterVec
	failed  prometheus.Counter
	seconds prometheus.Histogram

	waiting      *prometheus.Desc // by lane
	waitingBytes *prometheus.Desc
	disk         *prometheus.Desc
	evicted      *prometheus.Desc // by lane
	thinned      *prometheus.Desc
	damaged      *prometheus.Desc
}

func newMetrics(r prometheus.Registerer, q *Queue) (*metrics, error) {
	if r == nil {
		return nil, nil
	}
	lane := []string{"lane"}
	desc := func(name, help string, labels []string) *prometheus.Desc {
		return prometheus.NewDesc("waybill_queue_"+name, help, labels, nil)
	}
	m := &metrics{
		q: q, registerer: r,
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waybill_queue_committed_batches_total", Help: "Batches committed."}, lane),
		bytes:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waybill_queue_committed_bytes_total", Help: "Bytes of batches and journal entries committed."}, lane),
		failed:  prometheus.NewCounter(prometheus.CounterOpts{Name: "waybill_queue_commit_errors_total", Help: "Commits that failed."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "waybill_queue_commit_seconds", Help: "Duration of commits, in seconds.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		waiting:      desc("batches", "Batches stored and not released.", lane),
		waitingBytes: desc("bytes", "Bytes of the batches stored and not released.", lane),
		disk:         desc("disk_bytes", "Bytes of blocks that the segments occupy.", nil),
		evicted:      desc("evicted_batches_total", "Batches dropped for want of room since the queue was opened.", lane),
		thinned:      desc("thinned_batches_total", "Batches replaced by every n-th of their samples for want of room since the queue was opened.", lane),
		damaged:      desc("damaged_batches_total", "Batches lost to damage since the queue was opened.", nil),
	}
	if err := r.Register(m); err != nil {
		return nil, fmt.Errorf("queue: metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m != nil {
		m.registerer.Unregister(m)
	}
}

// committed counts one call of Commit.
func (m *metrics) committed(work [laneCount + 1]laneWork, took time.Duration, err error) {
	if m == nil {
		return
	}
	m.seconds.Observe(took.Seconds())
	if err != nil {
		m.failed.Inc()
		return
	}
	for l, w := range work {
		n := 0
		for _, r := range w.batches {
			n += len(r.Bytes)
		}
		for _, j := range w.journal {
			n += len(j.entry.Bytes)
		}
		if n > 0 {
			m.batches.WithLabelValues(Lane(l).String()).Add(float64(len(w.batches)))
			m.bytes.WithLabelValues(Lane(l).String()).Add(float64(n))
		}
	}
}

// Describe is part of prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range []prometheus.Collector{m.batches, m.bytes, m.failed, m.seconds} {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{m.waiting, m.waitingBytes, m.disk, m.evicted, m.thinned, m.damaged} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.batches, m.bytes, m.failed, m.seconds} {
		c.Collect(ch)
	}
	st := m.q.Stats()
	for l, s := range st.Lanes {
		ch <- prometheus.MustNewConstMetric(m.waiting, prometheus.GaugeValue, float64(s.Batches), l.String())
		ch <- prometheus.MustNewConstMetric(m.waitingBytes, prometheus.GaugeValue, float64(s.Bytes), l.String())
		ch <- prometheus.MustNewConstMetric(m.evicted, prometheus.CounterValue, float64(s.Evicted), l.String())
		ch <- prometheus.MustNewConstMetric(m.thinned, prometheus.CounterValue, float64(s.Thinned), l.String())
	}
	ch <- prometheus.MustNewConstMetric(m.disk, prometheus.GaugeValue, float64(st.DiskBytes))
	ch <- prometheus.MustNewConstMetric(m.damaged, prometheus.CounterValue, float64(st.Damaged))
}
