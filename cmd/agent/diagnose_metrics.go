package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/can/diagnose"
	"github.com/waybill-telematics/waybill/can/poll"
)

// diagnoseMetrics shows the counts of one bus.
type diagnoseMetrics struct {
	poller                                        *diagnose.Poller
	frames, requests, answered, dropped, silenced *prometheus.Desc
}

func newDiagnoseMetrics(bus string, p *diagnose.Poller) *diagnoseMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("waybill_diagnose_"+name, help, labels, prometheus.Labels{"bus": bus})
	}
	return &diagnoseMetrics{poller: p,
		frames:   desc("frames_total", "Frames that were to be sent, by what the governor said.", "verdict"),
		requests: desc("failed_requests_total", "Requests that gave nothing, by what went wrong.", "why"),
		answered: desc("answered_requests_total", "Requests that were answered."),
		dropped:  desc("dropped_frames_total", "Frames of answers for which there was no room."),
		silenced: desc("paused", "1 while nothing is asked, by the reason.", "why"),
	}
}

func (m *diagnoseMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.frames, m.requests, m.answered, m.dropped, m.silenced} {
		to <- d
	}
}

func (m *diagnoseMetrics) Collect(to chan<- prometheus.Metric) {
	s := m.poller.Stats()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for v := range s.Frames {
		count(m.frames, s.Frames[v], poll.Verdict(v).String())
	}
	for _, f := range diagnose.Failures() {
		count(m.requests, s.Failed[f], f.String())
	}
	count(m.answered, s.Answered)
	count(m.dropped, s.Dropped)
	for _, v := range []poll.Verdict{poll.IgnitionOff, poll.LowVoltage, poll.OtherTester} {
		standing := 0.0
		if s.Pause == v {
			standing = 1
		}
		to <- prometheus.MustNewConstMetric(m.silenced, prometheus.GaugeValue, standing, v.String())
	}
}
