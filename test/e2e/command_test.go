package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// commandAnswer is a line of `command send --json` and, as far as the names agree, of `command results --json`.
type commandAnswer struct{ ID, Command, State, Reason, Text string }

// Commands go to a running agent, are answered on the spot, and stand in the store; one that is sent while the vehicle is away is answered when it
// is back, and nothing is answered twice.
func TestCommands(t *testing.T) {
	dir := t.TempDir()
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	db := filepath.Join(dir, "fleet.db")
	startFleet(t, broker.URL(), db)
	f := startFeed(t, dir, 20*time.Millisecond)
	defer f.end()
	output(t, "fleet", "command", "keygen", filepath.Join(dir, "ops"))
	output(t, "fleet", "command", "keygen", filepath.Join(dir, "stranger"))
	config := liveConfig(t, dir, f, broker.URL())
	file, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString("commands: {keys: [ops.pub], allow: [ping, status]}\n")
	if err = errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	agent := start(t, nil, "agent", "run", "-c", config)
	eventually(t, 30*time.Second, "samples arrive", func() bool { return stored(t, db) > 10 })

	// send gives the exit code and the answers.
	send := func(key, device string, args ...string) (code int, list []commandAnswer) {
		t.Helper()
		cmd := exec.Command(filepath.Join(programs, "fleet"), append([]string{"command", "send", "--broker", broker.URL(), "--key", filepath.Join(dir, key+".key"),
			"--tenant", "test", "--device", device, "--json"}, args...)...)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
			t.Logf("%v: %s", args, exit.Stderr)
		} else if err != nil {
			t.Fatal(err)
		}
		return code, jsonLines[commandAnswer](t, out)
	}
	last := func(list []commandAnswer) commandAnswer {
		if len(list) == 0 {
			return commandAnswer{}
		}
		return list[len(list)-1]
	}
	code, list := send("ops", "car-1", "ping")
	var ping struct {
		Version, Boot_id string
		Boots            int
	}
	if err := json.Unmarshal([]byte(last(list).Text), &ping); err != nil || code != 0 || last(list).State != "done" || len(ping.Boot_id) != 36 || ping.Boots != 1 {
		t.Errorf("ping: exit code %d, %+v: %v", code, list, err)
	}
	pinged := last(list).ID
	if code, list := send("ops", "car-1", "status"); code != 0 || !strings.Contains(last(list).Text, `"tenant":"test"`) || !strings.Contains(last(list).Text, "online") {
		t.Errorf("status: exit code %d, %+v", code, list)
	}
	if code, list := send("ops", "car-1", "set_log_level", "level=debug"); code != 3 || last(list).State != "refused" || last(list).Reason != "not_allowed" && last(list).Reason != "clock" && last(list).Reason != "ledger" {
		t.Errorf("not allowed: exit code %d, %+v", code, list)
	}
	if code, list := send("stranger", "car-1", "ping"); code != 3 || last(list).Reason != "key" {
		t.Errorf("a stranger: exit code %d, %+v", code, list)
	}
	if code, list := send("ops", "car-2", "--wait", "1s", "ping"); code != 1 || len(list) != 0 {
		t.Errorf("nobody: exit code %d, %+v", code, list)
	}

	// Away, and back after a kill.
	agent.kill()
	code, list = send("ops", "car-1", "--wait", "0s", "ping")
	late := last(list)
	if code != 0 || late.State != "sent" {
		t.Fatalf("exit code %d, %+v", code, list)
	}
	start(t, nil, "agent", "run", "-c", config)
	state := func(id string) string {
		results := jsonLines[commandAnswer](t, output(t, "fleet", "command", "results", "--db", db, "--json", "--id", id))
		if len(results) != 1 {
			return ""
		}
		return results[0].State
	}
	eventually(t, time.Minute, "the command that waited is done", func() bool { return state(late.ID) == "done" })
	if got := state(pinged); got != "done" {
		t.Errorf("the first ping is %q in the store", got)
	}
	results := jsonLines[commandAnswer](t, output(t, "fleet", "command", "results", "--db", db, "--json"))
	if len(results) != 5 { // ping, status, not allowed, the stranger's, the late one
		t.Errorf("%d results in the store: %+v", len(results), results)
	}
}
