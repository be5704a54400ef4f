package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// scrape reads metrics as Prometheus does: by name, and by name{label values}.
func scrape(t *testing.T, url string) map[string]float64 {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			key := name
			if labels != nil {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			values[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

// TestMetrics: lost, late and parked are told apart, and what was taken is counted once.
func TestMetrics(t *testing.T) {
	var out, errs lockedBuffer
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	broker := testBroker(t)
	go func() {
		done <- serve(ctx, serveFlags{db: filepath.Join(t.TempDir(), "fleet.db"), broker: "tcp://" + broker, clientID: "x", metrics: "127.0.0.1:0",
			json: true, every: 20 * time.Millisecond, retry: 20 * time.Millisecond}, &out, &errs)
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not within 30 s: %s\n%s", what, errs.String())
			}
		}
	}
	until("connected", func() bool { return strings.Contains(out.String(), `"connected":true`) })
	url := regexp.MustCompile(`http://127\.0\.0\.1:\d+/metrics`).FindString(errs.String())

	c := newCar(t, broker, "car-1", 5, 10)
	rng := rand.New(rand.NewPCG(1, 1))
	for c.resend(rng, 6) > 0 {
		time.Sleep(50 * time.Millisecond)
	}
	// Number 7 without 6; 9 in a catalogue that nobody has; 8 stands in the ledger.
	sample := []telemetrypb.Sample{telemetrypb.UintSample(1, 1, 1)}
	for seq, catalogue := range map[uint64][]byte{7: nil, 9: {9, 9, 9}} {
		h := c.head(telemetrypb.Lane_LANE_TELEMETRY, seq, catalogue)
		if catalogue == nil {
			h.Catalogue = c.catalogue
		}
		b, err := telemetrypb.AppendBatch(nil, h, sample)
		if err != nil {
			t.Fatal(err)
		}
		c.publish(telemetrypb.Lane_LANE_TELEMETRY, b)
	}
	loss := &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_EVICTED, Count: 3, Unit: "samples", Epoch: carEpoch,
		Lane: telemetrypb.Lane_LANE_TELEMETRY, Seqs: []*telemetrypb.SeqRange{{First: 8, Last: 8}}}
	b, err := telemetrypb.AppendControl(nil, c.head(telemetrypb.Lane_LANE_CONTROL, 2, nil), &telemetrypb.Records{Records: []*telemetrypb.Record{{Record: &telemetrypb.Record_Loss{Loss: loss}}}})
	if err != nil {
		t.Fatal(err)
	}
	c.publish(telemetrypb.Lane_LANE_CONTROL, b)
	status, err := proto.Marshal(&telemetrypb.Status{Online: true})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c.client.Publish(telemetrypb.Topic("acme", "car-1", telemetrypb.TopicStatus), 1, false, status))
	wait(t, c.client.Publish(telemetrypb.Topic("acme", "car-1", "up/telemetry"), 1, false, "garbage"))
	until("the garbage is set aside", func() bool { return scrape(t, url)["waybill_fleet_malformed_total"] == 1 })
	for name, want := range map[string]float64{
		"waybill_fleet_connected":             1,
		"waybill_fleet_batches_total":         9, // six of the car, and three
		"waybill_fleet_samples_total":         51,
		"waybill_fleet_store_devices":         1,
		"waybill_fleet_store_batches":         9,
		"waybill_fleet_store_samples":         51,
		"waybill_fleet_store_parked_batches":  1,
		"waybill_fleet_store_missing_batches": 1,
		"waybill_fleet_store_loss_records":    1,
		"waybill_fleet_store_dead_letters":    1,
	} {
		if got := scrape(t, url)[name]; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// TestMetricsSurvey: devices by state, losses by reason, read anew when half a minute old; names as Prometheus's own
// linter wants them.
func TestMetricsSurvey(t *testing.T) {
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{Rand: rng8{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Unix(1e9, 0)
	m := &fleetMetrics{store: s, counts: func() ingest.Counts { return ingest.Counts{} }, connected: func() bool { return true },
		now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler)}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(m); err != nil {
		t.Fatal(err)
	}
	read := func() map[string]float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		if err != nil || len(problems) > 0 {
			t.Fatalf("%v %v", problems, err)
		}
		values := map[string]float64{}
		for _, f := range families {
			for _, x := range f.GetMetric() {
				for _, l := range x.GetLabel() {
					values[fmt.Sprint(f.GetName(), " ", l.GetName(), " ", l.GetValue())] = x.GetGauge().GetValue()
				}
			}
		}
		return values
	}
	put := func(device string, seen time.Time, online *bool) {
		t.Helper()
		err := s.Update(context.Background(), func(tx store.Tx) error {
			id, err := tx.Device("acme", device, seen)
			if err != nil || online == nil {
				return err
			}
			return tx.PutStatus(id, &telemetrypb.Status{Online: *online}, seen)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	yes, no := true, false
	put("a", now, &yes)
	put("b", now.Add(-6*time.Minute), &yes)
	put("c", now.Add(-6*time.Minute), &no)
	put("d", now, nil)
	for _, state := range []string{"online", "silent", "offline", "unknown"} {
		if got := read()["waybill_fleet_devices state "+state]; got != 1 {
			t.Errorf("%v devices %s, want 1", got, state)
		}
	}
	put("e", now, &yes)
	if got := read()["waybill_fleet_devices state online"]; got != 1 {
		t.Errorf("the store was read again at once: %v", got)
	}
	now = now.Add(31 * time.Second)
	if got := read()["waybill_fleet_devices state online"]; got != 2 {
		t.Errorf("%v devices online half a minute later, want 2", got)
	}
}

// TestMetricsStayHere: no address that others can reach.
func TestMetricsStayHere(t *testing.T) {
	for _, address := range []string{":9464", "0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "nonsense"} {
		text, code := run("serve", "--db", filepath.Join(t.TempDir(), "x.db"), "--broker", "tcp://127.0.0.1:1", "--metrics", address)
		if code != cli.Usage || !strings.Contains(text, "--metrics") {
			t.Errorf("%s: exit code %d: %s", address, code, text)
		}
	}
}
