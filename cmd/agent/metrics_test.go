package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// everythingConfig is a vehicle with all that has metrics; most of it is not there.
const everythingConfig = `
device: {id: car-1}
data_dir: data
can:
  - bus: can0
    interface: nosuchcan0
    dbc: [a.dbc]
    j1939: true
    record: all
    diagnose:
      voltage: {signal: none}
      obd: {pids: [{list: [EngineSpeed]}], codes: 10m}
gps:
  - {name: gps0, tcp: '127.0.0.1:1'}
imu:
  - {device: nosuchchip}
collect:
  signals: [{match: '*'}]
queue: {lanes: {raw: 16MiB}}
uplink:
  broker: mqtt://127.0.0.1:1
  insecure: true
  drain: 0s
  links: [{name: lte, metered: true, budget: {raw: 1MB}}]
commands: {keys: ['ed25519:KEY'], allow: [ping]}
power:
  ignition: {signal: can0.Body.Ignition}
  floor: {signal: can0.Body.SupplyVoltage}
`

var (
	descName   = regexp.MustCompile(`^Desc\{fqName: "([^"]+)"`)
	metricsRow = regexp.MustCompile("^\\| `(waybill_[a-z0-9_]+)` \\|")
)

// documentedMetrics are the names in the tables of docs/METRICS.md, but for those of the fleet, or only those.
func documentedMetrics(t *testing.T, fleet bool) (names []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "METRICS.md"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if m := metricsRow.FindStringSubmatch(line); m != nil && strings.HasPrefix(m[1], "waybill_fleet_") == fleet {
			names = append(names, m[1])
		}
	}
	return names
}

// The table has the names of a running agent, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	want := told(t)
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, s, v, err := loadText(t, strings.Replace(everythingConfig, "KEY", base64.StdEncoding.EncodeToString(public), 1))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a := newAgent(s, v, slog.New(slog.DiscardHandler), newRenewal())
	ended := make(chan error, 1)
	go func() { ended <- a.runAll(ctx) }()
	want("READY=1")
	documented := documentedMetrics(t, false)
	if len(documented) < 50 {
		t.Errorf("only %d names are documented", len(documented))
	}
	var running []string
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // some come with their tasks
		running = registered(a.metrics)
		missing := slices.DeleteFunc(slices.Clone(documented), func(name string) bool { return slices.Contains(running, name) })
		if len(missing) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("docs/METRICS.md has names that a running agent has not: %v", missing)
			break
		}
	}
	for _, name := range running {
		if !slices.Contains(documented, name) && strings.HasPrefix(name, "waybill_") {
			t.Errorf("docs/METRICS.md says nothing of %s", name)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// registered are the names of what is registered, also of what has no value yet.
func registered(r *prometheus.Registry) (names []string) {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		r.Describe(descs)
	}()
	for d := range descs {
		if m := descName.FindStringSubmatch(d.String()); m != nil && !slices.Contains(names, m[1]) {
			names = append(names, m[1])
		}
	}
	return names
}
