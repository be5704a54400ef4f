package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// A vehicle is parked: what it has goes to disk and to the store at once, however long batches collect otherwise, then it says goodbye and not a byte
// passes, although the bus goes on; and when the ignition comes back everything is there.
func TestParked(t *testing.T) {
	dir := t.TempDir()
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	proxy, err := uplinktest.NewProxy(broker.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	db := filepath.Join(dir, "fleet.db")
	startFleet(t, broker.URL(), db)
	f := startFeed(t, dir, 20*time.Millisecond)
	config := liveConfig(t, dir, f, "tcp://"+proxy.Addr())
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	ignition := filepath.Join(dir, "ignition")
	turn := func(to string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(ignition+".new", []byte(to+"\n"), 0o600), os.Rename(ignition+".new", ignition)); err != nil {
			t.Fatal(err)
		}
	}
	turn("1")
	writeFile(t, config, "%s\npower: {ignition: {file: ignition, off_after: 1s}, drain: {time: 30s}}\n",
		strings.Replace(string(text), "seal_every: 1s", "seal_every: 5m", 1))
	agent := start(t, nil, "agent", "run", "-c", config)
	online := func() bool {
		var l listing
		if err := json.Unmarshal(output(t, "fleet", "ls", "--db", db, "--json"), &l); err != nil {
			t.Fatal(err)
		}
		return len(l.Devices) == 1 && l.Devices[0].Online
	}
	eventually(t, 30*time.Second, "the vehicle is online", online)
	time.Sleep(2 * time.Second)
	if n := len(counters(t, db)); n != 0 {
		t.Fatalf("%d frames came before any batch was sealed: the test does not test", n)
	}

	turn("0")
	eventually(t, 30*time.Second, "the connection is closed", func() bool { return proxy.Accepted() > 0 && proxy.Open() == 0 })
	if online() {
		t.Error("the store takes a parked vehicle for one that is online")
	}
	parked := len(counters(t, db))
	if parked < 50 {
		t.Errorf("%d frames were flushed and drained", parked)
	}
	states := func() (list []string) {
		for _, r := range samples(t, db, "agent.power.state") {
			list = append(list, string(r.Raw))
		}
		return list
	}
	if got := strings.Join(states(), " "); got != "2" && got != "2 3" { // the goodbye may overtake the last one
		t.Errorf("before the silence the store was told %q", got)
	}
	accepted, passed := proxy.Accepted(), proxy.Passed()
	time.Sleep(6 * time.Second) // three keep-alives, six retries
	if a, p := proxy.Accepted(), proxy.Passed(); a != accepted || p != passed {
		t.Errorf("while it was quiet %d connections were made and %d bytes passed", a-accepted, p-passed)
	}

	turn("1")
	eventually(t, 30*time.Second, "the vehicle is back", online)
	f.end()
	time.Sleep(500 * time.Millisecond)
	agent.stop() // seals and drains
	got := counters(t, db)
	for i := range got {
		if i > 0 && got[i] != got[i-1]+1 {
			t.Errorf("after frame %d comes %d", got[i-1], got[i])
		}
	}
	if len(got) < parked+250 {
		t.Errorf("%d frames, %d of them before the silence: what came in it is missing", len(got), parked)
	}
	if got := states(); strings.Join(got, " ") != "2 3 1" {
		t.Errorf("the store was told of the states %v", got)
	}
	wantWhole(t, db, "car-1")
}
