package network

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// alarmBudget: a lane waits for another day or another link.
const alarmBudget = "uplink.budget"

// saveEvery is how often the day's bytes are kept: what a power cut makes uncounted.
const saveEvery = time.Minute

// Allowed says whether a lane may travel over the link at hand, for uplink.Options.Allowed.
func (l *Links) Allowed(lane telemetrypb.Lane) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current == nil || !slices.Contains(l.current.Without, lane) && !l.spentLocked(lane)
}

// spentLocked: one payload more than the budget may travel, since its size is known only when it has.
func (l *Links) spentLocked(lane telemetrypb.Lane) bool {
	budget, limited := l.current.Budget[lane]
	return limited && l.ledger.Used[l.current.Name][telemetrypb.LaneName(lane)] >= budget
}

// Traffic counts bytes, for uplink.Options.OnTraffic.
func (l *Links) Traffic(lane telemetrypb.Lane, sent, received int) {
	l.mu.Lock()
	name := "default"
	if l.current != nil {
		name = l.current.Name
	}
	what := "other"
	if lane != 0 {
		what = telemetrypb.LaneName(lane)
	}
	if l.budgets {
		l.ledger.add(name, what, int64(sent+received))
		l.changed = true
	}
	l.mu.Unlock()
	l.bytes.WithLabelValues(name, what, "sent").Add(float64(sent))
	if received > 0 {
		l.bytes.WithLabelValues(name, what, "received").Add(float64(received))
	}
}

// roll begins a new day when it is time to, and says which lanes wait.
func (l *Links) roll() {
	if !l.budgets {
		return
	}
	boot := l.o.Boot()
	date := ""
	if now, known := l.o.Now(); known {
		date = now.Format(time.DateOnly)
	}
	l.mu.Lock()
	if l.ledger.roll(date, time.Duration(boot-l.rolled)) {
		l.changed = true
	}
	l.changed = l.changed || date == "" // Elapsed
	l.rolled = boot
	var spent []string
	if l.current != nil {
		for lane := range l.current.Budget {
			if l.spentLocked(lane) {
				spent = append(spent, telemetrypb.LaneName(lane))
			}
		}
	}
	text := ""
	if len(spent) > 0 {
		slices.Sort(spent)
		when := "midnight"
		if date == "" {
			when = "24 h of operation, since nobody knows the date,"
		}
		text = fmt.Sprintf("the day's budget of lane %s on link %s is used up: it waits, on disk, for %s or another link; raise uplink.links budget if that is too long",
			strings.Join(spent, ", "), l.current.Name, when)
	}
	l.mu.Unlock()
	if text != "" {
		l.o.Alarms.Raise(alarmBudget, text)
	} else {
		l.o.Alarms.Clear(alarmBudget)
	}
}

// keep writes the ledger, now and then or at the end.
func (l *Links) keep(now bool) {
	if l.o.Keep == nil || !l.budgets {
		return
	}
	boot := l.o.Boot()
	l.mu.Lock()
	due := l.changed && (now || time.Duration(boot-l.kept) >= saveEvery)
	if !due {
		l.mu.Unlock()
		return
	}
	b, err := l.ledger.encode()
	l.changed, l.kept = false, boot
	l.mu.Unlock()
	if err == nil {
		err = l.o.Keep(b)
	}
	if err != nil {
		l.o.Log.Warn("the day's bytes could not be kept: after a restart the budgets of today begin anew", "error", err)
	}
}

// register makes the metrics.
func (l *Links) register() error {
	l.bytes = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "waybill", Subsystem: "uplink", Name: "link_bytes_total",
		Help: "Bytes below TLS, by link, lane (other: handshakes, status, acknowledgements, receipts) and direction."}, []string{"link", "lane", "direction"})
	if l.o.Metrics == nil {
		return nil
	}
	failed := l.o.Metrics.Register(l.bytes)
	for _, s := range l.links {
		failed = errors.Join(failed, l.o.Metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "waybill", Subsystem: "uplink",
			Name: "link_up", Help: "1 while the link is up.", ConstLabels: prometheus.Labels{"link": s.Name}}, func() float64 {
			l.mu.Lock()
			defer l.mu.Unlock()
			if s.seen && s.why == "" {
				return 1
			}
			return 0
		})))
		for lane, bytes := range s.Budget {
			name := telemetrypb.LaneName(lane)
			failed = errors.Join(failed, l.o.Metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "waybill", Subsystem: "uplink",
				Name: "budget_left_bytes", Help: "What is left of a day's budget.", ConstLabels: prometheus.Labels{"link": s.Name, "lane": name}}, func() float64 {
				l.mu.Lock()
				defer l.mu.Unlock()
				return float64(max(0, bytes-l.ledger.Used[s.Name][name]))
			})))
		}
	}
	if failed != nil {
		return fmt.Errorf("link metrics: %w", failed)
	}
	return nil
}
