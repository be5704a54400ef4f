package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// A real boat's NMEA 2000 traffic, through the agent and into the store: positions that came in seven frames each are
// there as an independent reassembly and cantools have them, and the one of which a frame was taken out of the log stands
// in the loss ledger.
func TestBoatReachesTheStore(t *testing.T) {
	dir := t.TempDir()
	dbc := deps.Testdata(t, "can", "tp_nmea.dbc")
	recorded, err := os.ReadFile(deps.Testdata(t, "can", "boat-nmea2000.log"))
	if err != nil {
		t.Fatal(err)
	}
	const group = " 0DF80596#" // PGN 129029, seven frames a message
	taken, frames := false, 0
	var lines [][]byte
	for line := range bytes.Lines(recorded) {
		if bytes.Contains(line, []byte(group)) {
			if frames++; frames == 12 { // the fifth of the second message
				taken = true
				continue
			}
		}
		lines = append(lines, line)
	}
	if !taken {
		t.Fatal("the log has no such frame")
	}
	log := writeFile(t, filepath.Join(dir, "boat.log"), "%s", bytes.Join(lines, nil))
	out, err := deps.Python(t, filepath.Join(deps.Root(t), "can", "testdata", "multiframe.py"), dbc, log).Output()
	if err != nil {
		t.Fatalf("the oracle: %v", err)
	}
	type message struct {
		T   int64                  `json:"t"`
		Raw map[string]json.Number `json:"raw"`
	}
	var want []decoded
	values := 0
	for _, m := range jsonLines[message](t, out) {
		if values += len(m.Raw); len(m.Raw) > 0 {
			n, err := m.Raw["numberOfSvs"].Float64()
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, decoded{m.T, "can1.gnssPositionData.numberOfSvs", n})
		}
	}
	if len(want) != 299 {
		t.Fatalf("the oracle has %d messages", len(want))
	}

	broker := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true})
	db := filepath.Join(dir, "fleet.db")
	fleet := startFleet(t, broker.URL(), db)
	config := writeFile(t, filepath.Join(dir, "agent.yaml"), `
device: {id: boat-1, tenant: test}
data_dir: data
can:
  - {bus: can1, replay: %s, log_bus: can1, speed: 0, dbc: [%s]}
collect:
  signals:
    - {match: "*", sample: every}
uplink:
  broker: %s
  insecure: true
`, log, dbc, broker.URL())
	start(t, nil, "agent", "run", "-c", config).wait(2 * time.Minute)
	fleet.stop()

	var got []decoded
	rows := samples(t, db, "can1.gnssPositionData.*")
	for _, r := range rows {
		if r.Signal == "can1.gnssPositionData.numberOfSvs" {
			var value float64
			if err := json.Unmarshal(r.Value, &value); err != nil {
				t.Fatalf("%+v: %v", r, err)
			}
			got = append(got, decoded{r.unixNS(t), r.Signal, value})
		}
	}
	slices.SortFunc(got, decoded.compare)
	if !slices.Equal(got, want) || len(rows) != values {
		t.Errorf("%d messages and %d values in the store, the oracle has %d and %d", len(got), len(rows), len(want), values)
	}
	// The nodes behind two addresses, as canboatjs reads their claims, each of which came five times.
	names := map[string]bool{
		`{"sa":2,"claimed":true,"name":"C0F0826AE770C8EC","identity":1100012,"manufacturer":1851,"ecu_instance":2,"function_instance":13,` +
			`"function":130,"system":120,"system_instance":0,"industry_group":4,"arbitrary":true}`: true,
		`{"sa":4,"claimed":true,"name":"C0F08277E76631CF","identity":405967,"manufacturer":1851,"ecu_instance":7,"function_instance":14,` +
			`"function":130,"system":120,"system_instance":0,"industry_group":4,"arbitrary":true}`: true,
	}
	for _, r := range samples(t, db, "can1.J1939.*") {
		var text string
		if err := json.Unmarshal(r.Raw, &text); err != nil || r.Signal != "can1.J1939.Address" || !names[text] {
			t.Errorf("%+v: %v", r, err)
		}
		delete(names, text)
	}
	for name := range names {
		t.Errorf("not in the store: %s", name)
	}
	wantWhole(t, db, "boat-1")
	losses := jsonLines[loss](t, output(t, "fleet", "losses", "--db", db, "--json"))
	if len(losses) != 1 || losses[0].Source != "can:can1" || losses[0].Unit != "messages" || losses[0].Count != 1 {
		t.Errorf("losses: %+v", losses)
	}
}
