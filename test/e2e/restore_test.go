package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// TestRestoredImage: the power goes, somebody makes an image of the disk, the vehicle drives on and delivers everything; then
// the image is put back, and the vehicle gives the same numbers a second time. The store says so, a new epoch begins,
// and every frame that was committed in any of the three lives is in the store once. When the vehicle is started once more before
// the store can say so, what was made of journals meanwhile may be the image's: it stands as lost, and nothing is there twice.
func TestRestoredImage(t *testing.T) {
	for name, between := range map[string]bool{"at once": false, "after a start without a network": true} {
		t.Run(name, func(t *testing.T) { restoreImage(t, between) })
	}
}

func restoreImage(t *testing.T, between bool) {
	dir := t.TempDir()
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	db := filepath.Join(dir, "fleet.db")
	fleet := startFleet(t, broker.URL(), db)
	f := startFeed(t, dir, 2*time.Millisecond)
	config := liveConfig(t, dir, f, broker.URL())
	queue, image := filepath.Join(dir, "data", "queue"), filepath.Join(dir, "image")

	inStore := func(n int) func() bool {
		return func() bool { return len(samples(t, db, "can0.Counter.Count")) > n }
	}
	agent := start(t, nil, "agent", "run", "-c", config)
	eventually(t, time.Minute, "the first life delivers", inStore(300))
	killed := time.Now()
	agent.kill()
	if err := os.CopyFS(image, os.DirFS(queue)); err != nil {
		t.Fatal(err)
	}
	before := len(samples(t, db, "can0.Counter.Count"))
	agent = start(t, nil, "agent", "run", "-c", config)
	eventually(t, time.Minute, "the second life delivers", inStore(before+1500))
	agent.stop()
	before = len(samples(t, db, "can0.Counter.Count"))
	if err := os.RemoveAll(queue); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(queue, os.DirFS(image)); err != nil {
		t.Fatal(err)
	}
	if between { // what the image's journal held is sealed in this life, and sent in the next
		broker.Stop()
		agent = start(t, nil, "agent", "run", "-c", config)
		time.Sleep(2 * time.Second)
		agent.kill()
		killed = time.Now()
		broker.Start()
	}
	begun := make(chan struct{}, 1)
	agent = start(t, func(line string) {
		if strings.Contains(line, "a new epoch begins") {
			select {
			case begun <- struct{}{}:
			default:
			}
		}
	}, "agent", "run", "-c", config)
	select {
	case <-begun:
	case <-time.After(time.Minute):
		t.Fatal("no new epoch began within a minute")
	}
	eventually(t, time.Minute, "the third life delivers", inStore(before+1500))
	f.end()
	time.Sleep(time.Second)
	agent.stop()
	fleet.stop()

	counters(t, db) // each value once
	var epochs []string
	list := jsonLines[listing](t, output(t, "fleet", "ls", "--db", db, "--json"))[0]
	for _, lane := range list.Devices[0].Lanes {
		if lane.Missing != 0 || lane.Parked != 0 {
			t.Errorf("lane is not whole: %+v", lane)
		}
		if lane.Lane == "telemetry" {
			epochs = append(epochs, lane.Epoch)
		}
	}
	if len(epochs) != 2 {
		t.Errorf("epochs %v of telemetry, want two", epochs)
	}
	for _, l := range jsonLines[loss](t, output(t, "fleet", "losses", "--db", db, "--json")) {
		if l.Reason == "LOSS_REJECTED" && l.Count > 0 && !between {
			t.Errorf("what was named anew stands as lost: %+v", l)
		}
	}
	// What is missing had not been committed when the power went.
	got := map[int]bool{}
	for _, n := range samples(t, db, "can0.Counter.Count") {
		var v int
		if err := json.Unmarshal(n.Raw, &v); err != nil {
			t.Fatal(err)
		}
		got[v] = true
	}
	missing := 0
	for n := range f.count() {
		at, written := f.at(n)
		if !written || got[n] {
			continue
		}
		// One interval of 200 ms and the commit under way; the rest is a loaded test machine's.
		if missing++; !between && (at.After(killed) || killed.Sub(at) > 2*time.Second) {
			t.Fatalf("frame %d is missing, %v before the kill", n, killed.Sub(at))
		}
	}
	t.Logf("%d frames, %d missing before the kill; epochs %v", f.count(), missing, epochs)
}
