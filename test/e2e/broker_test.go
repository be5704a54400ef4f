package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// liveConfig is an agent that reads the feed as a live bus.
func liveConfig(t testing.TB, dir string, f *feed, broker string) string {
	t.Helper()
	writeFile(t, filepath.Join(dir, "counter.dbc"), "%s", counterDBC)
	return writeFile(t, filepath.Join(dir, "agent.yaml"), `
device: {id: car-1, tenant: test}
data_dir: data
log: {level: debug}
can:
  - {bus: can0, replay: %s, speed: 0, time: receipt, dbc: [counter.dbc]}
collect:
  signals:
    - {match: "*", sample: every}
queue: {commit_every: 200ms, seal_every: 1s}
uplink:
  broker: %s
  insecure: true
  keep_alive: 2s
  receipt_timeout: 3s
  retry_base: 200ms
  retry_cap: 1s
  drain: 1m
`, f.path, broker)
}

// counters reads back what the store has of the feed, in the order of the counter, and wants each value once.
func counters(t testing.TB, db string) []int {
	t.Helper()
	var got []int
	inverse := map[int]int{}
	for _, r := range samples(t, db, "can0.Counter.*") {
		var n int
		if err := json.Unmarshal(r.Raw, &n); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if r.Signal == "can0.Counter.Inverse" {
			inverse[int(^uint32(n))]++
			continue
		}
		got = append(got, n)
	}
	slices.Sort(got)
	for i, n := range got {
		if i > 0 && got[i-1] == n {
			t.Fatalf("frame %d is in the store twice", n)
		}
		if inverse[n] != 1 {
			t.Fatalf("frame %d: the inverse signal of the same frame is there %d times", n, inverse[n])
		}
	}
	if len(inverse) != len(got) {
		t.Errorf("%d counters but %d inverses", len(got), len(inverse))
	}
	return got
}

// The broker dies in the middle, stays away for 30 s and comes back knowing nothing of its sessions: nothing is lost and
// nothing is there twice.
func TestBrokerKilledFor30Seconds(t *testing.T) {
	dir := t.TempDir()
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	db := filepath.Join(dir, "fleet.db")
	fleet := startFleet(t, broker.URL(), db)
	f := startFeed(t, dir, 5*time.Millisecond)
	agent := start(t, nil, "agent", "run", "-c", liveConfig(t, dir, f, broker.URL()))
	eventually(t, 30*time.Second, "samples arrive", func() bool { return stored(t, db) > 500 })

	broker.Kill()
	before := stored(t, db)
	time.Sleep(30 * time.Second)
	during := stored(t, db)
	broker.Start()
	eventually(t, 30*time.Second, "the backlog arrives", func() bool { return stored(t, db) > during+8000 })
	if during > before+1000 {
		t.Errorf("%d samples arrived while there was no broker", during-before)
	}
	f.end()
	agent.stop()
	fleet.stop()

	got := counters(t, db)
	first := got[0]
	for i, n := range got {
		if n != first+i {
			t.Fatalf("frame %d is missing; the store has %d frames up to %d", first+i, len(got), got[len(got)-1])
		}
	}
	if last := f.count() - 1; got[len(got)-1] != last || first > 1 {
		t.Errorf("the store has frames %d to %d, the bus had 0 to %d", first, got[len(got)-1], last)
	}
	wantWhole(t, db, "car-1")
}

// stored counts the samples in a store that somebody else is writing to; 0 while there is none.
func stored(t testing.TB, db string) int64 {
	t.Helper()
	if _, err := os.Stat(db); err != nil {
		return 0
	}
	var n int64
	for _, d := range jsonLines[listing](t, output(t, "fleet", "ls", "--db", db, "--json"))[0].Devices {
		for _, lane := range d.Lanes {
			if lane.Lane == "telemetry" {
				n += lane.Samples
			}
		}
	}
	return n
}
