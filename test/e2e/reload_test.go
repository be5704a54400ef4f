package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// TestReload: a vehicle on a live bus is told to read its configuration anew: a bad one, a good one, one that cannot be
// started. It delivers as before each time, and every value that it took is in the store once.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	db := filepath.Join(dir, "fleet.db")
	fleet := startFleet(t, broker.URL(), db)
	f := startFeed(t, dir, 2*time.Millisecond)
	config := liveConfig(t, dir, f, broker.URL())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()

	var refused, began, unstarted atomic.Int32
	agent := start(t, func(line string) {
		switch {
		case strings.Contains(line, "msg=running "):
			began.Add(1)
		case strings.Contains(line, "nothing has changed"):
			refused.Add(1)
		case strings.Contains(line, "cannot be started; the one before goes on"):
			unstarted.Add(1)
		}
	}, "agent", "run", "-c", config)
	more := func(what string) {
		t.Helper()
		n := len(samples(t, db, "can0.Counter.Count"))
		eventually(t, time.Minute, what, func() bool { return len(samples(t, db, "can0.Counter.Count")) > n+300 })
	}
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	reload := func(fragment string) {
		t.Helper()
		writeFile(t, filepath.Join(dir, "conf.d", "50.yaml"), "%s", fragment)
		if err := agent.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	more("delivers")
	reload("queue: {seal_every: 1h}\n")
	eventually(t, time.Minute, "a bad one is refused", func() bool { return refused.Load() == 1 })
	more("goes on after a bad one")
	reload("queue: {seal_every: 500ms}\n")
	eventually(t, time.Minute, "a good one is taken", func() bool { return began.Load() == 2 })
	more("goes on with a good one")
	reload("metrics: {listen: '" + taken.Addr().String() + "'}\n")
	eventually(t, time.Minute, "the one before is started again", func() bool { return unstarted.Load() == 1 && began.Load() == 3 })
	more("goes on with the one before")
	f.end()
	agent.stop()
	fleet.stop()

	got := counters(t, db) // each once
	gaps := 0
	for i := 1; i < len(got); i++ {
		for n := got[i-1] + 1; n < got[i]; n++ {
			if _, written := f.at(n); written { // it waited in a reader that was stopped
				gaps++
				break
			}
		}
	}
	if gaps > 2 {
		t.Errorf("%d gaps, want at most one for each stop", gaps)
	}
	wantWhole(t, db, "car-1")
}
