package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/firmware/slots"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const updateDBC = powerDBC + `BO_ 258 Climate: 2 ECU
 SG_ Outside : 0|16@1+ (0.1,-40) [-40|150] "degF" ECU
`

const updateRoots = "  director: ['https://ota.example.com/director/sedan/{cohort}/']\n  images: [https://ota.example.com/image]\n  roots: {director: d.json, images: i.json}\n"

// updating writes a vehicle's files, its configuration with these lines at the end, and gives that one's path.
func updating(t *testing.T, text string) string {
	t.Helper()
	root := `{"signed":{"_type":"root"},"signatures":[]}`
	dir := writeFiles(t, map[string]string{"a.dbc": updateDBC, "d.json": root, "i.json": root, "agent.yaml": `device: {id: car-1, tenant: acme}
data_dir: data
can: [{bus: can0, replay: bus, time: receipt, dbc: [a.dbc]}]
collect: {signals: [{match: '*.VehicleSpeed'}]}
` + text})
	if err := syscall.Mkfifo(filepath.Join(dir, "bus"), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "agent.yaml")
}

func TestUpdateConfiguration(t *testing.T) {
	t.Setenv("WAYBILL_FIRMWARE_DIR", "")
	s, _, err := load(updating(t, "update:\n  ecu: agent\n"+updateRoots))
	if err != nil {
		t.Fatal(err)
	}
	u := s.Update
	base := fmt.Sprintf("https://ota.example.com/director/sedan/%d/", telemetrypb.Cohort("acme", "car-1"))
	if u.Director[0] != base || u.Images[0] != "https://ota.example.com/image/" || u.Targets[0] != "https://ota.example.com/image/targets/" ||
		u.Slots != slots.DefaultDir || u.Poll != time.Hour || u.Look != 5*time.Second || !strings.HasPrefix(u.Hardware, "linux/") {
		t.Errorf("%+v", u)
	}
	for name, c := range map[string]struct {
		text  string
		line  int
		words []string
	}{
		"no unit":              {"update:\n" + updateRoots, 5, []string{"update.ecu", "director knows"}},
		"no director":          {"update: {ecu: agent, images: [https://h/], roots: {director: d.json, images: i.json}}\n", 5, []string{"update.director", "https://"}},
		"plain http":           {"update:\n  ecu: agent\n" + strings.Replace(updateRoots, "https://ota.example.com/image", "http://ota.example.com/image", 1), 8, []string{"update.images[0]", "https"}},
		"a password":           {"update:\n  ecu: agent\n" + strings.Replace(updateRoots, "https://ota.example.com/image", "https://u:secret@h/image", 1), 8, []string{"update.images[0]", "no user or password"}},
		"another placeholder":  {"update:\n  ecu: agent\n" + strings.Replace(updateRoots, "{cohort}", "{vin}", 1), 7, []string{"update.director[0]", "{device}"}},
		"a cohort too many":    {"update:\n  ecu: agent\n  cohort: '100'\n" + updateRoots, 7, []string{"update.cohort", "0 to 99"}},
		"no root":              {"update:\n  ecu: agent\n" + strings.Replace(updateRoots, "d.json", "e.json", 1), 9, []string{"update.roots.director", "e.json", "no such file"}},
		"something else":       {"update:\n  ecu: agent\n" + strings.Replace(updateRoots, "i.json", "a.dbc", 1), 9, []string{"update.roots.images", "a.dbc"}},
		"images by no broker":  {"update:\n  ecu: agent\n  mqtt: true\n" + updateRoots, 7, []string{"update.mqtt", "uplink.broker"}},
		"a signal nobody has":  {"update:\n  ecu: agent\n  signals: {speed: can0.Motion.VehicleSpede}\n" + updateRoots, 7, []string{"update.signals.speed", `did you mean "can0.Motion.VehicleSpeed"?`}},
		"a gear without P":     {"update:\n  ecu: agent\n  signals: {gear: can0.Motion.VehicleSpeed}\n" + updateRoots, 7, []string{"update.signals.gear", "parked.gear"}},
		"two ways to ask":      {"update:\n  ecu: agent\n  consent: {socket: a, file: b}\n" + updateRoots, 7, []string{"update.consent", "either socket"}},
		"a system without id":  {"update:\n  ecu: agent\n  installer: {rauc: {}}\n" + updateRoots, 7, []string{"update.installer.ecu", "director knows"}},
		"two units of an id":   {"update:\n  ecu: agent\n  installer: {ecu: agent, rauc: {}}\n" + updateRoots, 7, []string{"update.installer.ecu", "another id"}},
		"two installers":       {"update:\n  ecu: agent\n  installer: {ecu: b, rauc: {}, swupdate: {}}\n" + updateRoots, 7, []string{"update.installer", "want one of rauc: {}"}},
		"no installer":         {"update:\n  ecu: agent\n  installer: {ecu: b}\n" + updateRoots, 7, []string{"update.installer", "want one of rauc: {}"}},
		"a program by PATH":    {"update:\n  ecu: agent\n  installer: {ecu: b, hook: [install]}\n" + updateRoots, 7, []string{"update.installer.hook", "absolute path"}},
		"half a selection":     {"update:\n  ecu: agent\n  installer: {ecu: b, swupdate: {set: stable}}\n" + updateRoots, 7, []string{"update.installer.swupdate", "running mode"}},
		"no way to restart":    {"update:\n  ecu: agent\n  installer: {ecu: b, rauc: {}, reboot: []}\n" + updateRoots, 7, []string{"update.installer.reboot", "systemctl"}},
		"an unknown key":       {"update:\n  ecu: agent\n  pol: 1h\n" + updateRoots, 7, []string{`did you mean "poll"?`}},
		"a time without bound": {"update:\n  ecu: agent\n  probation: {healthy: 0s}\n" + updateRoots, 7, []string{"update.probation.healthy", "between 1s"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := updating(t, c.text)
			_, _, err := load(file)
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%s:%d: ", file, c.line)) {
				t.Fatalf("%v: does not name line %d", err, c.line)
			}
			for _, w := range c.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v: does not say %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%v: shows a password", err)
			}
		})
	}
}

// live runs the agent of a configuration until its updates are at the word, and tells it to stop.
func live(t *testing.T, file, word string) (log string) {
	t.Helper()
	s, v, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	bus, err := os.OpenFile(filepath.Join(filepath.Dir(file), "bus"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var text bytes.Buffer
	logger := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
		if text.Write(line); bytes.Contains(line, []byte(word)) {
			cancel()
		}
		return len(line), nil
	}), nil))
	err = runAgent(ctx, s, v, logger, newRenewal())
	if err != nil || !strings.Contains(text.String(), word) {
		t.Fatalf("%v, and never %q:\n%s", err, word, text.String())
	}
	return text.String()
}

// results are the results in an agent's queue, by their ids.
func results(t *testing.T, file string) map[string][]*telemetrypb.CommandResult {
	t.Helper()
	q, err := buffer.Open(filepath.Join(filepath.Dir(file), "data", "queue"), buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	list := map[string][]*telemetrypb.CommandResult{}
	for from := uint64(1); ; {
		r, err := q.Next(buffer.Lane(telemetrypb.Lane_LANE_CONTROL), from)
		if err != nil {
			return list
		}
		from = r.Seq + 1
		view, err := telemetrypb.OpenBatch(r.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		records, err := view.Records()
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range records.GetRecords() {
			if result := record.GetResult(); result != nil {
				list[result.Id] = append(list[result.Id], result)
			}
		}
	}
}

// tried makes slots of which b holds an image that the launcher was told to try.
func tried(t *testing.T, image string) (dir string, m slots.Meta) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "firmware")
	s := openSlots(t, dir, "")
	if _, err := s.Seed(t.Context(), strings.NewReader("#!/bin/true\n"), slots.Meta{Version: "1"}); err != nil {
		t.Fatal(err)
	}
	m = slots.Meta{SHA256: sha256Hex(image), Length: int64(len(image)), Version: "2", Campaign: "spring"}
	if _, err := s.Install(t.Context(), strings.NewReader(image), m); err != nil {
		t.Fatal(err)
	}
	if err := s.Try(t.Context(), slots.Limits{}); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func openSlots(t *testing.T, dir string, running slots.Slot) *slots.Slots {
	t.Helper()
	s, err := slots.Open(dir, slots.Options{Running: running})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What another process ended is told by the version that runs then: once in the queue, however often the agent starts.
func TestOutcomeIsInTheQueueOnce(t *testing.T) {
	dir, m := tried(t, "#!/bin/false\n")
	failed := fmt.Errorf("execve: %w", syscall.ENOEXEC)
	_ = openSlots(t, dir, "").Launch(t.Context(), func(slots.Start) error { return failed })
	t.Setenv(slots.EnvSlot, "a")
	file := updating(t, fmt.Sprintf("update:\n  ecu: agent\n  slots: %s\n", dir)+updateRoots)
	for range 2 {
		live(t, file, "the update repositories are not followed")
	}
	got := results(t, file)[telemetrypb.UpdateID(m.Campaign, m.SHA256)]
	if len(got) != 1 {
		t.Fatalf("%d results: %v", len(got), got)
	}
	o, err := telemetrypb.ParseUpdateOutcome(got[0].Id, got[0].State, got[0].Reason, got[0].Text)
	if err != nil || o.Outcome != telemetrypb.UpdateRolledBack || !strings.Contains(o.Reason, "no program for this processor") || o.To != "2" {
		t.Errorf("%+v %v", o, err)
	}
	if len(got[0].BootId) != 16 || got[0].BootNs == 0 || got[0].BootCount != 1 {
		t.Errorf("it does not say when: %v", got[0])
	}
	if st, err := openSlots(t, dir, "").Status(); err != nil || len(st.Outcomes) != 0 {
		t.Errorf("%+v %v", st.Outcomes, err)
	}
}

// Ten short journeys, each ended in order before the version could show that it is healthy, do not take it back.
func TestShortIgnitionCyclesOnTrial(t *testing.T) {
	dir, _ := tried(t, "#!/bin/false\n")
	file := updating(t, fmt.Sprintf("update:\n  ecu: agent\n  slots: %s\n", dir)+updateRoots)
	for range 10 {
		var started slots.Slot
		_ = openSlots(t, dir, "").Launch(t.Context(), func(s slots.Start) error {
			if started == "" {
				started = s.Slot
			}
			return errors.New("a test")
		})
		t.Setenv(slots.EnvSlot, string(started))
		if live(t, file, "on probation"); started != slots.B {
			t.Fatal(started)
		}
	}
	st, err := openSlots(t, dir, "").Status()
	if err != nil || st.Trial == nil || st.Trial.Crashes != 0 || st.Trial.Dead != 0 || st.Trial.Starts != 10 || !st.Trial.Alive || !st.Trial.Stopped {
		t.Errorf("%+v %v", st.Trial, err)
	}
}

// Without a launcher nothing could take a bad version back: updates are refused, and the agent runs as ever.
func TestUpdatesWithoutALauncher(t *testing.T) {
	t.Setenv(slots.EnvSlot, "")
	file := updating(t, "update:\n  ecu: agent\n"+updateRoots)
	log := live(t, file, "msg=running")
	if !strings.Contains(log, "updates are refused: waybill-launcher did not start this agent") {
		t.Error(log)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(file), "data", updateFolder)); !os.IsNotExist(err) {
		t.Error("something was followed all the same", err)
	}
}

func TestOutcomesAreToldOnce(t *testing.T) {
	var told []string
	room := false
	fails := errors.New("the disk is full")
	o := &outcomes{path: filepath.Join(t.TempDir(), "told.json"), write: writeDurably,
		emit: func(r *telemetrypb.CommandResult) bool {
			if room {
				told = append(told, r.State)
			}
			return room
		},
		commit: func(context.Context) error { return fails }}
	say := func(o *outcomes, outcome telemetrypb.Outcome, reason string) error {
		return o.report(t.Context(), &telemetrypb.UpdateOutcome{Campaign: "c", SHA256: sha256Hex("x"), Outcome: outcome, Reason: reason})
	}
	if err := say(o, telemetrypb.UpdateInstalled, ""); err == nil || errors.Is(err, fails) {
		t.Fatal("there was no room for it, and it counts as told:", err)
	}
	room = true
	for range 3 {
		if err := say(o, telemetrypb.UpdateInstalled, ""); !errors.Is(err, fails) {
			t.Fatal(err)
		}
	}
	fails = nil
	for range 2 {
		if err := say(o, telemetrypb.UpdateInstalled, ""); err != nil {
			t.Fatal(err)
		}
	}
	again := &outcomes{path: o.path, write: o.write, emit: o.emit, commit: o.commit}
	if err := again.open(); err != nil {
		t.Fatal(err)
	}
	for _, outcome := range []telemetrypb.Outcome{telemetrypb.UpdateInstalled, telemetrypb.UpdateRolledBack, telemetrypb.UpdateRolledBack} {
		if err := say(again, outcome, "why"[:min(3, len(outcome)-9)]); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(told) != "[running failed]" {
		t.Errorf("told %v", told)
	}
}
