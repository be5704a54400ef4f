package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// The README's first steps, as they stand there, with the bench's example configuration and the fleet's own broker:
// the frame counter of the simulated car proves that every one of its frames is in the store, with the drive's time.
func TestFirstStepsOfTheReadme(t *testing.T) {
	dir := t.TempDir()
	var summary struct {
		First uint64    `json:"counter_first"`
		Last  uint64    `json:"counter_last"`
		Start time.Time `json:"start"`
		Fixes int       `json:"fixes"`
	}
	text := output(t, "simulate", "drive", "--speed", "0", "--start", "2024-02-29T08:00:00Z",
		"--can", filepath.Join(dir, "drive.log"), "--gps", filepath.Join(dir, "drive.nmea"), "--dbc-out", filepath.Join(dir, "demo.dbc"))
	if err := json.Unmarshal(text, &summary); err != nil || summary.Last < 5000 {
		t.Fatalf("the drive: %s: %v", text, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broker := listener.Addr().String()
	listener.Close()
	example, err := os.ReadFile(filepath.Join(deps.Root(t), "examples", "bench.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, filepath.Join(dir, "bench.yaml"), "%s", strings.ReplaceAll(string(example), "127.0.0.1:1883", broker))
	db := filepath.Join(dir, "fleet.db")
	fleet := startFleet(t, "tcp://"+broker, db, "--embedded-broker", broker)
	start(t, nil, "agent", "run", "-c", config).wait(time.Minute)
	fleet.stop()

	wantWhole(t, db, "bench-car")
	var counters []uint64
	for _, r := range samples(t, db, "can0.DriveCounter.FrameCounter") {
		var n uint64
		if err := json.Unmarshal(r.Raw, &n); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		counters = append(counters, n)
		// The counter's message is sent every 10 ms of the drive.
		if want := summary.Start.Add(time.Duration(n-summary.First) * 10 * time.Millisecond).UnixNano(); max(want-r.unixNS(t), r.unixNS(t)-want) > int64(10*time.Millisecond) {
			t.Fatalf("frame %d has the time %s", n, r.Time)
		}
	}
	slices.Sort(counters)
	if uint64(len(counters)) != summary.Last-summary.First+1 || counters[0] != summary.First || counters[len(counters)-1] != summary.Last {
		t.Errorf("%d numbered frames in the store, the car sent %d to %d", len(counters), summary.First, summary.Last)
	}
	if got := len(slices.Compact(counters)); uint64(got) != summary.Last-summary.First+1 {
		t.Errorf("%d different numbers only", got)
	}
	if n := len(samples(t, db, "gps0.fix.mode")); n == 0 {
		t.Error("no fix in the store")
	}
	events := samples(t, db, "event.overspeed")
	if len(events) == 0 {
		t.Error("no overspeed event in the store; the motorway is driven at more than 120 km/h")
	}
	for _, e := range events {
		var v float64
		if err := json.Unmarshal(e.Value, &v); err != nil || v <= 120 || e.Lane != "event" {
			t.Errorf("event %+v", e)
		}
	}
	if losses := output(t, "fleet", "losses", "--db", db, "--json"); strings.Contains(string(losses), "reason") {
		t.Errorf("losses: %s", losses)
	}
}
