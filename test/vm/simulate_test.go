package vm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// What the simulator puts on a bus is, frame for frame, what it writes into a log for the same seed, as candump sees it.
func TestSimulatedDriveOnVcan(t *testing.T) {
	simulate := Build(t, "amd64", "build", "./cmd/simulate")
	dir := t.TempDir()
	script := strings.NewReplacer("CANDUMP", deps.CanUtils(t, "candump").Path, "DRIVE", simulate+
		" drive --seed 9 --start 2026-01-02T03:04:05Z --duration 10s").Replace(`set -eu
CANDUMP -L -r 4194304 vcan0 >dump.log & dump=$!
until grep -qE "^ +vcan0 " /proc/net/can/rcvlist_all; do sleep 0.1; done
DRIVE --can vcan0 --speed 2 >bus.json
sleep 0.5
kill $dump
DRIVE --can drive.log --bus vcan0 --speed 0 >log.json
`)
	r := Run(t, Job{Command: []string{"/bin/sh", "-c", script}, Dir: dir, Timeout: time.Minute})
	if r.Exit != 0 {
		t.Fatalf("exit code %d; the guest said:\n%s", r.Exit, r.Output)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	stamp := regexp.MustCompile(`(?m)^\(\d+\.\d+\) `)
	onBus, inLog := stamp.ReplaceAllString(read("dump.log"), ""), stamp.ReplaceAllString(read("drive.log"), "")
	frames := strings.Count(inLog, "\n")
	if onBus != inLog {
		t.Errorf("candump saw %d frames, the log has %d, or they differ", strings.Count(onBus, "\n"), frames)
	}
	for _, name := range []string{"bus.json", "log.json"} {
		var sum struct{ Frames int }
		if err := json.Unmarshal([]byte(read(name)), &sum); err != nil || sum.Frames != frames || frames < 1000 {
			t.Errorf("%s says %d frames, the log has %d: %v", name, sum.Frames, frames, err)
		}
	}
	t.Logf("%d frames; %v in all", frames, r.Total.Round(time.Millisecond))
}
