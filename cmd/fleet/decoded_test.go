package main

import (
	"context"
	"log/slog"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/fleet/decoded"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/stream"
)

// waiting is an outbox with notes in it.
type waiting struct {
	store.Outbox
	notes  int64
	oldest time.Time
}

func (w waiting) Backlog(context.Context) (int64, time.Time, error) { return w.notes, w.oldest, nil }

// TestRelayMetrics: what the alerts ask of the outbox is served, and is what the store says.
func TestRelayMetrics(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	outbox := waiting{notes: 7, oldest: now.Add(-90 * time.Second)}
	relay, err := decoded.New(decoded.Options{Options: stream.Options{Brokers: []string{"127.0.0.1:1"}}}, outbox)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&relayMetrics{relay: relay, outbox: outbox, now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler)})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	value := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			value[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if value["waybill_fleet_outbox_notes"] != 7 || value["waybill_fleet_outbox_age_seconds"] != 90 {
		t.Errorf("%v: want 7 notes, the oldest 90 s old", value)
	}
	alerts, err := os.ReadFile("../../deploy/prometheus/waybill.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`waybill_fleet_(?:outbox|decoded)_\w+`).FindAllString(string(alerts), -1)
	for _, name := range names {
		if _, ok := value[name]; !ok {
			t.Errorf("%s is asked for by an alert and not served", name)
		}
	}
	if len(names) == 0 {
		t.Error("no alert asks for the outbox")
	}
}
