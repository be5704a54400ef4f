package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// TestDoctorBesideARunningAgent: it finds nothing wrong, the agent keeps its one connection and stays online, and the
// store has what the agent sent and nothing else.
func TestDoctorBesideARunningAgent(t *testing.T) {
	dir := t.TempDir()
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	db := filepath.Join(dir, "fleet.db")
	startFleet(t, broker.URL(), db)
	f := startFeed(t, dir, 5*time.Millisecond)
	lost := make(chan string, 16)
	config := liveConfig(t, dir, f, broker.URL())
	agent := start(t, func(line string) {
		if strings.Contains(line, "uplink is offline") {
			lost <- line
		}
	}, "agent", "run", "-c", config)
	eventually(t, 30*time.Second, "samples arrive", func() bool { return stored(t, db) > 100 })

	out := string(output(t, "agent", "doctor", "-c", config))
	t.Log("\n" + out)
	for _, want := range []string{"ok       connect", "ok       publish", "ok       receipt", "ok       size", "the way is open, and the store answers"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	before := stored(t, db)
	eventually(t, 30*time.Second, "the agent goes on", func() bool { return stored(t, db) > before+100 })
	for _, d := range jsonLines[listing](t, output(t, "fleet", "ls", "--db", db, "--json"))[0].Devices {
		if d.Device != "car-1" || !d.Online {
			t.Errorf("device %s, online %t", d.Device, d.Online)
		}
	}

	if len(lost) > 0 {
		t.Errorf("the agent lost its connection: %s", <-lost)
	}

	// As the vehicle it ends the agent's connection, which the agent takes back, perhaps before the doctor is done.
	said, _ := exec.Command(filepath.Join(programs, "agent"), "doctor", "-c", config, "--as-vehicle", "--json", "--timeout", "12s").Output()
	if !strings.Contains(string(said), `accepted as \"car-1\"`) {
		t.Errorf("not as the vehicle: %s", said)
	}
	select {
	case <-lost:
	case <-time.After(30 * time.Second):
		t.Error("the agent did not notice")
	}
	before = stored(t, db)
	eventually(t, 30*time.Second, "the agent is back", func() bool { return stored(t, db) > before+100 })
	f.end()
	agent.stop()
	wantWhole(t, db, "car-1")

	broker.Kill()
	cmd := exec.Command(filepath.Join(programs, "agent"), "doctor", "-c", config, "--timeout", "12s")
	said, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(said), "FAIL     tcp") {
		t.Errorf("without a broker: exit code %d, %v\n%s", code, err, said)
	}
}
