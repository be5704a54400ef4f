package e2e

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// decoded is one signal value as cantools sees it.
type decoded struct {
	T     int64   `json:"t"` // Unix ns
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

func (a decoded) compare(b decoded) int {
	switch {
	case a.T != b.T:
		return int(max(-1, min(1, a.T-b.T)))
	case a.Name != b.Name:
		return slices.Compare([]byte(a.Name), []byte(b.Name))
	case a.Value < b.Value:
		return -1
	case a.Value > b.Value:
		return 1
	}
	return 0
}

// A real truck's traffic, through the agent, a real Mosquitto and the store: every value equals what cantools decodes of
// the same log, none is missing, none is there twice, and 2021 stays 2021.
func TestTruckReachesTheStore(t *testing.T) {
	log := deps.Testdata(t, "can", "truck-j1939.log")
	dbc := deps.Testdata(t, "can", "CSS-Electronics-SAE-J1939-DEMO.dbc")
	oracle, err := deps.Python(t, filepath.Join("testdata", "oracle.py"), dbc, log).Output()
	if err != nil {
		t.Fatalf("cantools: %v", err)
	}
	want := jsonLines[decoded](t, oracle)
	if len(want) < 700 {
		t.Fatalf("cantools decoded %d values only: the oracle is broken", len(want))
	}
	for _, format := range []string{"columns", "plain", "json"} {
		t.Run(format, func(t *testing.T) {
			dir := t.TempDir()
			broker := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true})
			db := filepath.Join(dir, "fleet.db")
			fleet := startFleet(t, broker.URL(), db)
			config := writeFile(t, filepath.Join(dir, "agent.yaml"), `
device: {id: truck-1, tenant: test}
data_dir: data
can:
  - {bus: can1, replay: %[1]s, log_bus: can1, speed: 0, dbc: [%[2]s]}
  - {bus: can2, replay: %[1]s, log_bus: can2, speed: 0, dbc: [%[2]s]}
collect:
  signals:
    - {match: "*", sample: every}
uplink:
  broker: %[3]s
  insecure: true
  format: {telemetry: %[4]s, control: %[4]s, event: %[4]s}
`, log, dbc, broker.URL(), format)
			start(t, nil, "agent", "run", "-c", config).wait(2 * time.Minute)
			fleet.stop()

			var got []decoded
			for _, r := range samples(t, db, "can*") {
				var value float64
				if err := json.Unmarshal(r.Value, &value); err != nil {
					t.Fatalf("%+v: %v", r, err)
				}
				if r.Source != "log" {
					t.Fatalf("%+v: the log is the clock, and should say so", r)
				}
				got = append(got, decoded{r.unixNS(t), r.Signal, value})
			}
			want := slices.Clone(want)
			slices.SortFunc(want, decoded.compare)
			slices.SortFunc(got, decoded.compare)
			if !slices.Equal(got, want) {
				t.Errorf("%d values in the store, cantools has %d", len(got), len(want))
				for i := range min(len(got), len(want)) {
					if got[i] != want[i] {
						t.Fatalf("first difference at %d: stored %+v, cantools %+v", i, got[i], want[i])
					}
				}
			}
			wantWhole(t, db, "truck-1")
		})
	}
}
