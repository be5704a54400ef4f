package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/internal/local"
)

// aState is an agent with one of everything.
func aState() local.State {
	tx, rx := uint16(7), uint16(130)
	return local.State{
		Format: 1, Now: local.Now{BootMS: 1_000_000, UptimeS: 3700, RSS: 20 << 20},
		Agent: local.Agent{Device: "car-1", Tenant: "acme", Version: "v1.2.3", Slot: "a"},
		Clock: local.Clock{Source: "gps", UncertaintyS: 0.2},
		Buses: []local.Bus{{Name: "can0", Interface: "can0", State: "error_passive", Up: true, Bitrate: 500000,
			ListenOnly: true, LoadPercent: 23.44, FrameRate: 1234, TxErrors: &tx, RxErrors: &rx},
			{Name: "can1", State: "stopped", LoadPercent: local.Missing(), FrameRate: local.Missing()}},
		Receivers: []local.Receiver{{Name: "gps0", AtMS: 999_000, Mode: "3D", Latitude: 48.1, Longitude: 11.5, Error: 3,
			Speed: 12.3, Used: 9, Seen: 14}},
		Queue: local.Queue{Batches: 12, Bytes: 34_500, OldestS: 3, DiskBytes: 1 << 20, MaxBytes: 1 << 30,
			Flash: local.Flash{PerDay: local.Missing(), UsedPercent: local.Missing()}},
		Uplink: &local.Uplink{Phase: "connecting", Text: "no route to the broker", SendRate: 0, RoundTripMS: local.Missing(),
			Sent: 5, Released: 3},
		Losses:  []local.Loss{{Reason: "overload", Source: "can:can0", Unit: "frames", Count: 12}},
		Collect: local.Collect{Signals: 3, Available: 4},
	}
}

// fakeAgent answers as an agent does: a state, and events of fifty signals, one a tenth of a second.
type fakeAgent struct {
	server *httptest.Server
	alarms atomic.Bool
	events atomic.Int64
}

func newFakeAgent(t *testing.T) *fakeAgent {
	t.Helper()
	a := &fakeAgent{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+local.PathState, func(w http.ResponseWriter,
		_ *http.Request) {
		_ = json.NewEncoder(w).Encode(a.state())
	})
	mux.HandleFunc("GET "+local.PathEvents, a.stream)
	a.server = httptest.NewServer(mux)
	t.Cleanup(func() { a.server.CloseClientConnections(); a.server.Close() })
	return a
}

func (a *fakeAgent) address() string { return strings.TrimPrefix(a.server.URL, "http://") }

func (a *fakeAgent) state() local.State {
	s := aState()
	if a.alarms.Load() {
		s.Alarms = []local.Alarm{{Name: "uplink.receipt", Text: "no store answers\x1b[2J", SinceMS: 940_000, Times: 1}}
	}
	return s
}

func (a *fakeAgent) stream(w http.ResponseWriter, r *http.Request) {
	send := func(event string, document any) error {
		text, err := json.Marshal(document)
		if err == nil {
			_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, text)
		}
		if err == nil {
			err = http.NewResponseController(w).Flush()
		}
		return err
	}
	all := local.Signals{Format: 1, BootMS: 1_000_000, PeriodS: 1}
	for i := range 50 {
		all.Signals = append(all.Signals, local.Signal{Name: fmt.Sprintf("can0.Message%02d.Signal", i), Unit: "km/h",
			Value:   local.Value{ID: uint32(i + 1), Value: local.Number(i), AtMS: 1_000_000, Rate: float64(i)},
			History: []local.Number{1, 2, local.Missing(), 4}})
	}
	err := send(local.EventState, a.state())
	for n := int64(0); err == nil && r.Context().Err() == nil; n++ {
		if n == 0 {
			err = send(local.EventSignals, all)
		} else {
			err = send(local.EventValues, local.Values{BootMS: 1_000_000 + n, Values: []local.Value{{ID: 1,
				Value: local.Number(7000 + n), AtMS: 1_000_000 + n}}})
		}
		a.events.Add(1)
		select {
		case <-r.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestStatusTellsItsVerdictByExitCode(t *testing.T) {
	a := newFakeAgent(t)
	ask := func(flags ...string) (int, string) {
		var stdout, stderr bytes.Buffer
		root := rootCommand()
		root.SetOut(&stdout)
		code := cli.Execute(root, append([]string{"status"}, flags...), &stderr)
		t.Logf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
		return code, stdout.String() + stderr.String()
	}
	code, out := ask("--address", a.address())
	if code != cli.OK {
		t.Errorf("exit code %d", code)
	}
	wantSaid(t, out, "car-1 of acme  v1.2.3  up 62m", "error_passive  load 23.4%  1234 frames/s  500 kbit/s listen-only  "+
		"tx/rx errors 7/130", "can1    NOT READ  stopped",
		"3D  9/14 satellites  48.10000 11.50000  ±3.0 m  12.3 m/s", "gps  ±200ms",
		"12 batches wait  33.7 KiB  oldest 3 s  disk 1.0 MiB of 1.0 GiB", "connecting  0 B/s  5 sent, 3 received by the "+
			"store  no route",
		"12 frames of can:can0: overload", "3 signals of 4")
	a.alarms.Store(true)
	if code, out = ask("--address", a.address()); code != exitAlarms {
		t.Errorf("exit code %d with an alarm", code)
	}
	wantSaid(t, out, "ALARM     uplink.receipt for 60s: no store answers")
	if strings.Contains(out, "\x1b") {
		t.Error("what the agent says rules the terminal")
	}
	code, out = ask("--address", a.address(), "--json")
	var s local.State
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != exitAlarms || s.Agent.Device != "car-1" ||
		len(s.Alarms) != 1 {
		t.Errorf("exit code %d, %v: %+v", code, err, s)
	}
	if code, out = ask("--address", closedPort(t)); code != exitNotRunning || !strings.Contains(out, "does not run") {
		t.Errorf("exit code %d without an agent", code)
	}
	if code, _ = ask("--address", "unix:"+t.TempDir()+"/gone"); code != exitNotRunning {
		t.Errorf("exit code %d without a socket", code)
	}
	dir := writeFiles(t, map[string]string{"agent.yaml": sound, "a.dbc": smallDBC, "a.log": ""})
	if code, out = ask("-c", dir+"/agent.yaml"); code != cli.Usage || !strings.Contains(out, "metrics.listen") {
		t.Errorf("exit code %d without an address", code)
	}
	if code, _ = ask("-c", dir+"/gone.yaml"); code != cli.Usage {
		t.Errorf("exit code %d without a configuration", code)
	}
}

// TestStatusOfARunningAgent asks an agent, not a fake, by its configuration.
func TestStatusOfARunningAgent(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "token": pageToken + "\n", "agent.yaml": `
device: {id: car-1, tenant: acme}
data_dir: data
can: [{bus: can0, replay: can.fifo, time: receipt, dbc: [a.dbc]}]
collect: {signals: [{match: 'can0.*'}]}
metrics: {listen: 'unix:agent.sock', token_file: token}
`})
	if err := syscall.Mkfifo(filepath.Join(dir, "can.fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "agent.yaml")
	ask := func() (int, string) {
		var stdout, stderr bytes.Buffer
		root := rootCommand()
		root.SetOut(&stdout)
		code := cli.Execute(root, []string{"status", "-c", file}, &stderr)
		return code, stdout.String() + stderr.String()
	}
	if code, out := ask(); code != exitNotRunning {
		t.Errorf("exit code %d before it runs: %s", code, out)
	}
	s, v, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- runAgent(ctx, s, v, slog.New(slog.DiscardHandler), newRenewal()) }()
	code, out := ask()
	for code == exitNotRunning && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
		code, out = ask()
	}
	if code != cli.OK {
		t.Errorf("exit code %d", code)
	}
	wantSaid(t, out, "car-1 of acme", "bus       can0", "uplink    record only", "collects  2 signals")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
