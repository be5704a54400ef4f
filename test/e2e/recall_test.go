package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// TestRestoredStore: the store is stopped while the broker acknowledges everything, and comes back as a copy that is older than
// what it had confirmed. It notices by itself and asks; the vehicle has kept it and sends it again; in the end every
// frame is there once, and the ledger is empty. The other time the agent is killed when it has begun to send it again: then
// what is missing had not been committed.
func TestRestoredStore(t *testing.T) {
	for name, kill := range map[string]bool{"running": false, "killed": true} {
		t.Run(name, func(t *testing.T) { restoreStore(t, kill) })
	}
}

func restoreStore(t *testing.T, kill bool) {
	dir := t.TempDir()
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	db := filepath.Join(dir, "fleet.db")
	fleet := startFleet(t, broker.URL(), db)
	f := startFeed(t, dir, 2*time.Millisecond)
	config := liveConfig(t, dir, f, broker.URL())
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, config, "%s", strings.Replace(string(text), "queue: {", "queue: {keep_after_receipt: 1h, ", 1))
	inStore := func(n int) func() bool {
		return func() bool { return len(samples(t, db, "can0.Counter.Count")) > n }
	}

	var recalled atomic.Bool
	watch := func(line string) {
		if strings.Contains(line, "it is sent again") {
			recalled.Store(true)
		}
	}
	agent := start(t, watch, "agent", "run", "-c", config)
	eventually(t, time.Minute, "it delivers", inStore(300))
	fleet.stop()
	image, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	recalled.Store(false) // a new store's first answer may cross with what it asks for
	fleet = startFleet(t, broker.URL(), db)
	eventually(t, time.Minute, "it delivers after the copy", inStore(len(samples(t, db, "can0.Counter.Count"))+2000))
	fleet.stop()
	if recalled.Load() {
		t.Error("a store that was only restarted asks again")
	}
	time.Sleep(5 * time.Second) // the hour: the broker acknowledges
	if err := os.WriteFile(db, image, 0o600); err != nil {
		t.Fatal(err)
	}
	restored := make(chan struct{}, 1)
	fleet = start(t, func(line string) {
		if strings.Contains(line, "may have been restored") {
			restored <- struct{}{}
		}
	}, "fleet", "serve", "--broker", broker.URL(), "--insecure", "--db", db, "--json", "--retry", "200ms")
	select {
	case <-restored:
	case <-time.After(time.Minute):
		t.Fatal("the store did not notice that it is a copy")
	}
	eventually(t, 2*time.Minute, "the vehicle is asked", recalled.Load)
	killed := time.Now()
	if kill {
		agent.kill()
		recalled.Store(false)
		agent = start(t, watch, "agent", "run", "-c", config)
	}
	time.Sleep(2 * time.Second)
	f.end()
	whole := func() bool {
		for _, lane := range jsonLines[listing](t, output(t, "fleet", "ls", "--db", db, "--json"))[0].Devices[0].Lanes {
			if lane.Missing > 0 {
				return false
			}
		}
		return kill || len(samples(t, db, "can0.Counter.Count")) == f.count()
	}
	eventually(t, 2*time.Minute, "the store is whole", whole)
	agent.stop()
	fleet.stop()

	wantWhole(t, db, "car-1")
	got := map[int]bool{}
	for _, n := range counters(t, db) { // each once
		got[n] = true
	}
	missing := 0
	for n := range f.count() {
		at, written := f.at(n)
		if !written || got[n] {
			continue
		}
		if missing++; !kill || at.After(killed) || killed.Sub(at) > 2*time.Second {
			t.Fatalf("frame %d is missing", n)
		}
	}
	for _, l := range jsonLines[loss](t, output(t, "fleet", "losses", "--db", db, "--json")) {
		if !kill || l.Reason != "LOSS_UNCLEAN_STOP" {
			t.Errorf("in the ledger: %+v", l)
		}
	}
	t.Logf("%d frames, %d missing before the kill", f.count(), missing)
}
