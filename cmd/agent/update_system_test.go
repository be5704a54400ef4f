package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

// Without a launcher the whole system is updated all the same, and the agent's own slots are not. What became of a system in
// another boot is told once, however often the agent starts.
func TestSystemWithoutALauncher(t *testing.T) {
	t.Setenv(slots.EnvSlot, "")
	file := updating(t, "")
	dir := filepath.Dir(file)
	hook := filepath.Join(dir, "hook")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	state := fmt.Sprintf(`{"serial":4,"trial":{"image":{"sha256":%q,"version":"2","campaign":"spring"},"phase":"armed",`+
		`"boot":"another","from":"rootfs.0"}}`, sha256Hex("2"))
	for name, text := range map[string]string{
		"hook":                    "#!/bin/sh\necho $2 >>$1/calls\n[ $2 != status ] || echo booted rootfs.0\n",
		"agent.yaml":              string(text) + fmt.Sprintf("update:\n  ecu: agent\n  installer: {ecu: system, hook: [%s, %s]}\n", hook, dir) + updateRoots,
		"data/update/system.json": state,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		log := live(t, file, "the update repositories are not followed")
		if !strings.Contains(log, "updates are refused: waybill-launcher did not start this agent") {
			t.Error(log)
		}
	}
	n := 0
	for _, list := range results(t, file) {
		for _, r := range list {
			if n++; r.State != "failed" || !strings.Contains(r.Text+r.Reason, "rootfs.0") {
				t.Errorf("%v", r)
			}
		}
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil || n != 1 || strings.Count(string(calls), "mark-good") != 1 || strings.Contains(string(calls), "install") {
		t.Errorf("%d results, %v, calls:\n%s", n, err, calls)
	}
}

// A machine that does not start anew leaves an agent that goes on, and does not ask for it again at once.
func TestRebootThatDoesNotCome(t *testing.T) {
	err := restartMachine(t.Context(), []string{"/bin/sh", "-c", "echo nobody may; exit 3"})
	if err == nil || !strings.Contains(err.Error(), "nobody may") || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
	now := time.Now()
	again := newRenewal()
	if err := again.noReboot(now); err != nil {
		t.Error(err)
	}
	again.rebootErr, again.rebootAt = err, now
	if err := again.noReboot(now.Add(rebootPause - 1)); err == nil || !strings.Contains(err.Error(), "nobody may") {
		t.Error(err)
	}
	if err := again.noReboot(now.Add(rebootPause)); err != nil {
		t.Error(err)
	}
	// Told to stop before, it asks for nothing; told while it waits, it is over.
	mark := filepath.Join(t.TempDir(), "mark")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- restartMachine(ctx, []string{"/bin/sh", "-c", "echo >" + mark}) }()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(mark); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the command was not run")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	if err := restartMachine(ctx, []string{"/bin/sh", "-c", "echo >" + mark}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("told to stop, it has the machine start anew")
	}
}

// Two units see the same frame each by its own count.
func TestHealthsOfTwoUnits(t *testing.T) {
	bus := &canSource{canSettings: canSettings{Bus: "can0", Replay: &replaySettings{}}}
	a := &agent{settings: &settings{}, healths: []func() healthSource{func() healthSource { return &busHealth{bus: bus} }}}
	one, two := newHealth(a), newHealth(a)
	bus.counts.replayed.Add(1)
	for _, h := range []*health{&one, &two} {
		if s := h.sources[0].look(nil); !s.Reads {
			t.Errorf("%+v", s)
		}
		if s := h.sources[0].look(nil); s.Reads {
			t.Errorf("%+v", s)
		}
	}
}
