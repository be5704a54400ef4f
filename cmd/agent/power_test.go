package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

const powerDBC = `VERSION ""
BU_: ECU
BO_ 256 Motion: 8 ECU
 SG_ VehicleSpeed : 0|16@1+ (0.01,0) [0|655.35] "km/h" ECU
BO_ 257 Body: 8 ECU
 SG_ Ignition : 0|1@1+ (1,0) [0|1] "" ECU
 SG_ Supply : 8|8@1+ (0.1,0) [0|25.5] "V" ECU
`

// powered loads a configuration with these lines under power:.
func powered(t *testing.T, text string) (*settings, *vehicle, error) {
	dir := writeFiles(t, map[string]string{"a.dbc": powerDBC, "x.log": "", "agent.yaml": `device: {id: a}
can: [{bus: can0, replay: x.log, time: receipt, dbc: [a.dbc]}]
collect: {signals: [{match: '*.VehicleSpeed'}]}
` + text})
	return load(filepath.Join(dir, "agent.yaml"))
}

func TestPowerConfiguration(t *testing.T) {
	s, v, err := powered(t, "power: {ignition: {signal: can0.Body.Ignition}, floor: {signal: can0.Body.Supply, unknown: refuse}, wake: {every: 6h}}\n")
	if err != nil {
		t.Fatal(err)
	}
	o := s.Power.Options
	if o.OffAfter != 5*time.Second || o.StaleAfter != time.Minute || o.DrainTime != 2*time.Minute || o.DrainBytes != 16<<20 || o.WakeEvery != 6*time.Hour || o.WakeFor != 5*time.Minute ||
		o.Floor != 11.8 || o.Hysteresis != 0.3 || o.Hold != 10*time.Second || !o.UnknownIsLow || s.Power.Above != 0.5 {
		t.Errorf("%+v", s.Power)
	}
	if id, ok := v.selection.ID(powerSignal); !ok || id == 0 || v.own != 2 {
		t.Error("the state of parking is not collected")
	}
	// Frames of the bus reach it although neither signal is collected.
	pass := func(id uint32, data ...byte) {
		f := can.Frame{ID: id, Len: uint8(len(data))}
		copy(f.Data[:], data)
		for _, feature := range v.features[0] {
			tap, _ := feature.attach(nil)
			tap.take(&f, nil)
		}
	}
	pass(256, 1, 1)
	if r := v.parking.reading(); r.Heard || r.HasVolts {
		t.Errorf("another message: %+v", r)
	}
	pass(257, 1, 126)
	if r := v.parking.reading(); !r.Heard || !r.On || !r.HasVolts || math.Abs(r.Volts-12.6) > 1e-9 {
		t.Errorf("ignition on, 12.6 V: %+v", r)
	}
	if len(v.parking.wake) != 1 {
		t.Error("a change wakes nobody")
	}
	if r := v.parking.reading(); r.Heard || !r.On || r.HasVolts {
		t.Errorf("nothing since: %+v", r)
	}
	pass(257, 0, 126)
	if r := v.parking.reading(); !r.Heard || r.On {
		t.Errorf("ignition off: %+v", r)
	}

	if _, v, err = powered(t, "power: {ignition: {message: can0.Body}}\n"); err != nil {
		t.Fatal(err)
	}
	pass(257, 0, 0)
	if r := v.parking.reading(); !r.Heard || !r.On {
		t.Errorf("the message came: %+v", r)
	}
	if allocated := testing.AllocsPerRun(1000, func() { v.parking.ignition(true); v.parking.voltage(12) }); allocated != 0 {
		t.Errorf("%v allocations a frame", allocated)
	}

	if s, v, err := powered(t, ""); err != nil || s.Power != nil || v.parking != nil || v.own != 1 {
		t.Errorf("without the section: %v", err)
	}
	for text, want := range map[string]string{
		"power: {}\n": "want one source",
		"power: {ignition: {signal: can0.Body.Ignition, file: x}}\n":                          "want one source",
		"power: {ignition: {signal: can0.Body.Ignitio}}\n":                                    `did you mean "can0.Body.Ignition"?`,
		"power: {ignition: {message: can0.Boddy}}\n":                                          "a message can0.Boddy",
		"power: {ignition: {message: can0.Body, above: 1}}\n":                                 "signal: only",
		"power: {ignition: {gpio: {chip: gpiochip0}}}\n":                                      "/dev/gpiochip0",
		"power: {ignition: {file: x}, wake: {every: 1m}}\n":                                   "between 10m",
		"power: {ignition: {file: x}, floor: {volts: 12}}\n":                                  "SupplyVoltage",
		"power: {ignition: {file: x}, floor: {signal: can0.Body.Suply}}\n":                    "can0.Body.Supply",
		"power: {ignition: {file: x}, floor: {signal: can0.Body.Supply, volts: 3}}\n":         "between 6 and 60",
		"power: {ignition: {file: x}, floor: {signal: can0.Body.Supply, unknown: maybe}}\n":   "allow or refuse",
		"power: {ignition: {file: x}, drain: {time: 48h}}\n":                                  "between 0s and 24h",
		"power: {ignition: {file: x}, drian: {time: 1h}}\n":                                   `did you mean "drain"?`,
		"power: {ignition: {file: x, off_after: 1h}}\n":                                       "between 0s and 10m",
		"power: {ignition: {file: x}, floor: {signal: can0.Body.Supply, hysteresis: .nan}}\n": "between 0 and 5",
	} {
		if _, _, err := powered(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestIgnitionFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ignition")
	for text, want := range map[string]string{"1": "on", "1\n": "on", "0\n": "off", "": "bad", "yes": "bad", "10": "bad", "\n": "bad"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		on, err := ignitionFile(file)
		got := map[bool]string{true: "on", false: "off"}[on]
		if err != nil {
			got = "bad"
		}
		if got != want {
			t.Errorf("%q: %s, want %s: %v", text, got, want, err)
		}
	}
	if _, err := ignitionFile(file + "x"); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// TestDiagnosticsTakeTheIgnitionOfPower: one notion of the ignition is enough.
func TestDiagnosticsTakeTheIgnitionOfPower(t *testing.T) {
	const config = `device: {id: a}
can:
  - bus: can0
    interface: vcan0
    dbc: [a.dbc]
    diagnose: {voltage: {signal: none}, obd: {pids: [{list: [EngineSpeed]}]}}
collect: {signals: [{match: '*'}]}
`
	dir := writeFiles(t, map[string]string{"a.dbc": powerDBC, "agent.yaml": config, "power.yaml": config + "power: {ignition: {signal: can0.Body.Ignition}}\n"})
	if _, _, err := load(filepath.Join(dir, "agent.yaml")); err == nil || !strings.Contains(err.Error(), "with power: it may be left out") {
		t.Errorf("without any ignition: %v", err)
	}
	_, v, err := load(filepath.Join(dir, "power.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(v.polls(), "\n"); !strings.Contains(text, "while the ignition of power: is on") {
		t.Error(text)
	}
}

// TestSuspendIsNoticed: CLOCK_BOOTTIME runs on in a suspend, CLOCK_MONOTONIC does not.
func TestSuspendIsNoticed(t *testing.T) {
	a := &agent{}
	a.sleeps.Store(sleepUnknown)
	const s = int64(time.Second)
	for _, one := range []struct {
		boot, mono int64
		want       bool
	}{
		{100 * s, 100 * s, false}, {200 * s, 200 * s, false}, {300 * s, 295 * s, false}, {320 * s, 306 * s, false}, {330 * s, 306 * s, true}, {9000 * s, 310 * s, true}, {9005 * s, 315 * s, false},
	} {
		if got := a.slept(one.boot, one.mono); got != one.want {
			t.Errorf("at %d s, %d s of it awake: %v", one.boot/s, one.mono/s, got)
		}
	}
	b := &agent{}
	b.sleeps.Store(sleepUnknown)
	if b.slept(9000*s, 10*s) {
		t.Error("a suspend before the agent's start counts")
	}
}
