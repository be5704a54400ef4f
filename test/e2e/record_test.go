package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// A real car's frames, through the agent, a real Mosquitto and the store: put together there by docs/RECORDING.md alone they
// are the log again, line for line.
func TestRecordedFramesReachTheStore(t *testing.T) {
	log := deps.Testdata(t, "can", "car-raw-500k.log")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	broker := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true})
	db := filepath.Join(dir, "fleet.db")
	fleet := startFleet(t, broker.URL(), db)
	config := writeFile(t, filepath.Join(dir, "agent.yaml"), `
device: {id: car-1, tenant: test}
data_dir: data
can:
  - {bus: vcan0, replay: %s, speed: 0, record: all}
uplink: {broker: %s, insecure: true}
`, log, broker.URL())
	start(t, nil, "agent", "run", "-c", config).wait(2 * time.Minute)
	fleet.stop()
	wantWhole(t, db, "car-1")

	column := func(name string) (list []row) {
		for _, r := range samples(t, db, "vcan0.raw."+name) {
			if r.Lane != "raw" {
				t.Fatalf("%+v: not of the raw lane", r)
			}
			list = append(list, r)
		}
		return list
	}
	number := func(raw json.RawMessage) uint64 {
		n, err := strconv.ParseUint(strings.Trim(string(raw), `"`), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	frames, lengths, data := column("frame"), column("len"), column("data0")
	if len(lengths) != len(frames) || len(data) != len(frames) {
		t.Fatalf("%d frames, %d lengths, %d payloads", len(frames), len(lengths), len(data))
	}
	var got strings.Builder
	for i := range frames {
		at, payload := frames[i].unixNS(t), ""
		if n := number(lengths[i].Raw); n > 0 {
			payload = fmt.Sprintf("%0*X", 2*n, number(data[i].Raw))
		}
		fmt.Fprintf(&got, "(%d.%06d) vcan0 %03X#%s\n", at/1e9, at%1e9/1e3, number(frames[i].Raw), payload)
	}
	g, w := strings.Split(got.String(), "\n"), strings.Split(string(text), "\n")
	if len(g) != len(w) {
		t.Fatalf("%d lines, want %d", len(g), len(w))
	}
	for i := range w {
		if g[i] != w[i] {
			t.Fatalf("line %d is %q, want %q", i+1, g[i], w[i])
		}
	}
}
