package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/internal/cli"
)

// importFleetwise runs the command on the files of testdata.
func importFleetwise(t *testing.T, code int, more ...string) (dir, said string) {
	t.Helper()
	dir = t.TempDir()
	from := func(name string) string { return filepath.Join("testdata", "fleetwise", name) }
	var out, stderr bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&stderr)
	args := append([]string{"import", "fleetwise", "--decoders", from("decoders.json"), "--interfaces", from("networks.json"),
		"--campaign", from("braking.json"), "--campaign", from("heartbeat.json"), "--out", dir}, more...)
	if got := cli.Execute(root, args, &stderr); got != code {
		t.Fatalf("exit code %d, want %d\n%s", got, code, stderr.String())
	}
	return dir, stderr.String()
}

func TestImportFleetwiseSaysWhatDoesNotCarryOver(t *testing.T) {
	dir, said := importFleetwise(t, cli.Findings)
	for _, w := range []string{
		"not carried over: signal Vehicle.Location.Latitude is a CUSTOM_DECODING_SIGNAL",
		"not carried over: bus can0: nothing is asked for by OBD until",
		"otherwise: campaign braking: its signals are collected all the time",
		"otherwise: campaign braking: the rule raises an event when its condition becomes true, and not again each 1000 ms",
		"otherwise: campaign heartbeat: what is collected is not sent every 10000 ms",
	} {
		if !strings.Contains(said, w) {
			t.Errorf("it does not say %q:\n%s", w, said)
		}
	}
	s, v, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, signal := range v.selection.Catalogue().Signals {
		if strings.HasPrefix(signal.Source, "can:") {
			got = append(got, signal.Name)
		}
	}
	if want := "[can0.Engine.Torque can0.Engine.Mode can0.Brakes.Pressure can0.Brakes.Temperature]"; fmt.Sprint(got) != want {
		t.Errorf("signals %v, want %s", got, want)
	}
	if s.CAN[0].Diagnose != nil {
		t.Error("something is asked on the bus")
	}
	if len(s.Rules) != 1 || s.Rules[0].Name != "braking" || s.Rules[0].Signal != "can0.Brakes.Pressure" || *s.Rules[0].Above != 70.5 {
		t.Errorf("rules %+v", s.Rules)
	}
	if err := validateYAML(t, compileSchema(t), readText(t, filepath.Join(dir, "agent.yaml"))); err != nil {
		t.Error(err)
	}
}

func TestImportFleetwiseWithOBD(t *testing.T) {
	dir, said := importFleetwise(t, cli.Findings, "--ignition", "can0.Engine.Mode") // the custom signal is lost either way
	if strings.Contains(said, "by OBD") {
		t.Errorf("it says %s", said)
	}
	s, v, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"can0.OBD.EngineSpeed", "can0.OBD.StoredCodes", "can0.OBD.PendingCodes"} {
		if _, ok := v.selection.ID(name); !ok {
			t.Errorf("%s is not collected", name)
		}
	}
	if _, ok := v.selection.ID("can0.OBD.CalculatedEngineLoad"); ok || s.CAN[0].Diagnose == nil {
		t.Error("what no campaign wants is collected, or nothing is asked")
	}
}

// The imported configuration, on recorded frames, puts into the queue what FleetWise's formula gives: raw × factor +
// offset, computed by hand beside each frame.
func TestImportedConfigurationDecodesTheSame(t *testing.T) {
	dir, _ := importFleetwise(t, cli.Findings)
	// Torque: bits of bytes 2 and 3, the first the higher. Mode: bits 3 to 7 of byte 0.
	// Pressure: byte 1 from bit 4 on, bytes 2 and 3. Temperature: bytes 4 to 7 as IEEE 754, the lowest first.
	log := "(1.000000) can0 101#F800FF9C00000000\n" + // -100 × 0.5 − 20; 31
		"(2.000000) can0 18FEF100#00A0BC1A0000C841\n" + // 0x1ABCA × 0.01 = 1095.14; 25
		"(3.000000) can0 101#0800012C00000000\n" + // 300 × 0.5 − 20; 1
		"(4.000000) can0 18FEF100#001000000000C0BF\n" // 1 × 0.01; −1.5
	for name, text := range map[string]string{"a.log": log,
		"conf.d/bench.yaml": "data_dir: data\ncan: [{bus: can0, replay: ../a.log, speed: 0, dbc: [can0.dbc]}]\n"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "../", "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, v, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := runAgent(context.Background(), s, v, slog.New(slog.DiscardHandler), newRenewal()); err != nil {
		t.Fatal(err)
	}
	got := telemetry(t, filepath.Join(dir, "data"), v)
	for name, want := range map[string][]float64{
		"can0.Engine.Torque":      {-70, 130},
		"can0.Engine.Mode":        {31, 1}, // one in ten seconds, and at the end what waited
		"can0.Brakes.Pressure":    {1095.14, 0.01},
		"can0.Brakes.Temperature": {25, -1.5},
		"event.braking":           {1095.14},
	} {
		if len(got[name]) != len(want) {
			t.Errorf("%s: %v, want %v", name, got[name], want)
			continue
		}
		for i := range want {
			if math.Abs(got[name][i]-want[i]) > 1e-9 {
				t.Errorf("%s: %v, want %v", name, got[name], want)
			}
		}
	}
}

func TestImportFleetwiseOverwritesNothing(t *testing.T) {
	dir, _ := importFleetwise(t, cli.Findings)
	before := readText(t, filepath.Join(dir, "agent.yaml"))
	_, said := importFleetwise(t, cli.Failed, "--out", dir)
	if !strings.Contains(said, "is there already") || readText(t, filepath.Join(dir, "agent.yaml")) != before {
		t.Errorf("it says %s", said)
	}
	importFleetwise(t, cli.Findings, "--out", dir, "--force")
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
