package main

import (
	"crypto/rand"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/fleet/decoded"
	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/stream"
)

// TestMetricsAreDocumented: the table of docs/METRICS.md has what a fleet serves, in whatever company, and nothing else.
func TestMetricsAreDocumented(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	outbox := waiting{}
	relay, err := decoded.New(decoded.Options{Options: stream.Options{Brokers: []string{"127.0.0.1:1"}}}, outbox)
	if err != nil {
		t.Fatal(err)
	}
	figures := &fleetMetrics{store: db, counts: func() ingest.Counts { return ingest.Counts{} }, connected: func() bool { return true }, now: time.Now, log: log,
		share: func() []figure { return shareFigures(&ingest.Slots{}, &stream.Consumer{}) }}
	figures.at, figures.survey = time.Now(), survey{lost: map[[2]string]float64{{"kernel_drop", "frames"}: 1}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(figures, &relayMetrics{relay: relay, outbox: outbox, now: time.Now, log: log})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "METRICS.md"))
	if err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(waybill_fleet_[a-z0-9_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1])
	}
	for _, f := range families {
		served = append(served, f.GetName())
		if !slices.Contains(documented, f.GetName()) {
			t.Errorf("docs/METRICS.md says nothing of | `%s` | | %s |", f.GetName(), strings.TrimSuffix(f.GetHelp(), "."))
		}
	}
	for _, name := range documented {
		if !slices.Contains(served, name) {
			t.Errorf("docs/METRICS.md has %s, which no fleet serves", name)
		}
	}
	if len(served) < 20 {
		t.Errorf("only %d names are served", len(served))
	}
}
