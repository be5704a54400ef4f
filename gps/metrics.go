package gps

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are a Parser's counters as Prometheus sees them; they follow Counters after each Feed.
type metrics struct {
	sentences  prometheus.Counter
	rejected   [reasons]prometheus.Counter
	noise      prometheus.Counter
	fixes      prometheus.Counter
	unfinished prometheus.Counter
	published  Counters
}

func newMetrics(r prometheus.Registerer, source string) (*metrics, error) {
	labels := prometheus.Labels{"source": source}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "waybill", Subsystem: "gps", Name: name, Help: help, ConstLabels: labels,
		})
	}
	m := &metrics{
		sentences:  counter("sentences_total", "NMEA sentences used."),
		noise:      counter("noise_bytes_total", "Bytes outside any sentence."),
		fixes:      counter("fixes_total", "Epochs reported, with or without a fix."),
		unfinished: counter("unfinished_epochs_total", "Epochs whose last sentence never came."),
	}
	rejected := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "waybill", Subsystem: "gps", Name: "rejected_sentences_total",
		Help: "NMEA sentences not used, by reason.", ConstLabels: labels,
	}, []string{"reason"})
	for i := range m.rejected {
		m.rejected[i] = rejected.WithLabelValues(Reason(i).String())
	}
	for _, c := range []prometheus.Collector{m.sentences, m.noise, m.fixes, m.unfinished, rejected} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of %s: %w", source, err)
		}
	}
	return m, nil
}

func (m *metrics) publish(now Counters) {
	was := &m.published
	m.sentences.Add(float64(now.Sentences - was.Sentences))
	for i, c := range m.rejected {
		c.Add(float64(now.Rejected[i] - was.Rejected[i]))
	}
	m.noise.Add(float64(now.NoiseBytes - was.NoiseBytes))
	m.fixes.Add(float64(now.Fixes - was.Fixes))
	m.unfinished.Add(float64(now.Unfinished - was.Unfinished))
	m.published = now
}
