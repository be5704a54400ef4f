package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/gps/gpstest"
	"github.com/waybill-telematics/waybill/internal/local"
)

const pageToken = "0123456789abcdef"

// An agent on a unix socket tells what its bus and its receiver say, to who has the token; and looking changes nothing of
// what is collected.
func TestLocalPage(t *testing.T) {
	receiver, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "token": pageToken + "\n", "agent.yaml": fmt.Sprintf(`
device: {id: car-1}
data_dir: data
can: [{bus: can0, replay: can.fifo, speed: 0, time: receipt, dbc: [a.dbc]}]
gps: [{name: gps0, tcp: '%s'}]
collect: {signals: [{match: 'can0.*'}], rules: [{name: fast, signal: can0.Motion.VehicleSpeed, above: 120}]}
metrics: {listen: 'unix:agent.sock', token_file: token}
`, receiver.Addr())})
	if err := syscall.Mkfifo(filepath.Join(dir, "can.fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	bus, err := os.OpenFile(filepath.Join(dir, "can.fifo"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	// An agent that was killed left its socket behind.
	left, err := net.Listen("unix", filepath.Join(dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = left.Close()

	s, v, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- runAgent(ctx, s, v, slog.New(slog.DiscardHandler), newRenewal()) }()
	go func() {
		conn, err := receiver.Accept()
		for second := 0; err == nil; second++ {
			f := secondFix(second)
			f.Time = time.Date(2026, 5, 1, 12, 0, second, 0, time.UTC).UnixNano()
			_, err = conn.Write(gpstest.Epoch(nil, f))
			time.Sleep(100 * time.Millisecond)
		}
	}()

	client := local.NewClient(s.MetricsListen, pageToken)
	state := awaitState(t, ctx, client, func(st *local.State) bool {
		return len(st.Receivers) == 1 && st.Receivers[0].Mode == "3D" && st.Agent.Device == "car-1"
	})
	fix := secondFix(0)
	latitude, longitude := fix.Degrees()
	r := state.Receivers[0]
	if math.Abs(float64(r.Latitude)-latitude) > 0.1 || math.Abs(float64(r.Longitude)-longitude) > 0.1 ||
		r.Source != "tcp "+receiver.Addr().String() {
		t.Errorf("receiver %+v, want about %v %v", r, latitude, longitude)
	}
	// 0x04D2 is 1234, times 0.01; gear 3. The frame says the same again and again, from before anybody looks.
	frames := 0
	repeat := func() {
		frames++
		_, _ = fmt.Fprintf(bus, "(1.%06d) can0 100#D204030000000000\n", frames)
	}
	for range 5 {
		repeat()
	}
	awaitState(t, ctx, client, func(st *local.State) bool { return st.Buses[0].Frames == 5 })
	seen := false
	err = client.Follow(ctx, func(view *local.View) error {
		repeat()
		for _, one := range view.Signals.Signals {
			if one.Name == "can0.Motion.VehicleSpeed" && one.AtMS > 0 {
				seen = seen || one.Value.Value == 12.34 && one.Unit == "km/h" && len(one.History) > 2
			}
		}
		if seen && view.State.Buses[0].FrameRate.Known() {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if _, err := local.NewClient(s.MetricsListen, "").State(ctx); !errors.Is(err, local.ErrToken) {
		t.Error("without the token:", err)
	}
	if code := getMetrics(t, ctx, strings.TrimPrefix(s.MetricsListen, "unix:")); code != http.StatusUnauthorized {
		t.Error("metrics without the token:", code)
	}
	state, err = client.State(ctx)
	if err != nil || len(state.Collect.Rules) != 1 || state.Uplink != nil || state.Queue.Flash.Written < 0 {
		t.Errorf("%+v, %v", state, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := client.State(context.Background()); !errors.Is(err, local.ErrNotRunning) {
		t.Error("of an agent that stopped:", err)
	}
	if got := telemetry(t, filepath.Join(dir, "data"), v)["can0.Motion.VehicleSpeed"]; len(got) != 1 || got[0] != 12.34 {
		t.Errorf("collected %v: one value that never changed", got)
	}
}

var errEnough = errors.New("enough")

func awaitState(t *testing.T, ctx context.Context, client *local.Client, ok func(*local.State) bool) local.State {
	t.Helper()
	for {
		st, err := client.State(ctx)
		if err == nil && ok(&st) {
			return st
		}
		if ctx.Err() != nil {
			t.Fatalf("the state is %+v, %v", st, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// getMetrics asks a socket for /metrics without a token.
func getMetrics(t *testing.T, ctx context.Context, socket string) int {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	return r.StatusCode
}

// Where the agent answers, and to whom, by the configuration and the environment.
func TestPageSettings(t *testing.T) {
	const good = "device: {id: car-1}\ncan: [{bus: can0, interface: can0, dbc: [a.dbc]}]\ncollect: {signals: [{match: '*'}]}\n"
	for _, c := range []struct {
		name, text, env string
		listen          string // without the folder
		on              bool
		token           string
		problem         string // part of it; empty: none
	}{
		{"nothing", "", "", "", true, "", ""},
		{"loopback", "metrics: {listen: '127.0.0.1:9464'}", "", "127.0.0.1:9464", true, "", ""},
		{"localhost", "metrics: {listen: 'localhost:9464'}", "", "localhost:9464", true, "", ""},
		{"socket", "metrics: {listen: 'unix:agent.sock'}", "", "unix:/agent.sock", true, "", ""},
		{"no page", "metrics: {listen: '[::1]:9464', page: false}", "", "[::1]:9464", false, "", ""},
		{"production", "profile: production\nmetrics: {listen: '127.0.0.1:9464'}", "", "127.0.0.1:9464", false, "", ""},
		{"asked for", "profile: production\nmetrics: {listen: '127.0.0.1:9464', page: true}", "", "127.0.0.1:9464", true, "", ""},
		{"wider", "metrics: {listen: '0.0.0.0:9464', token_file: token}", "", "0.0.0.0:9464", true, pageToken, ""},
		{"token by the environment", "metrics: {listen: ':9464'}", "fedcba9876543210", ":9464", true, "fedcba9876543210", ""},
		{"the file counts", "metrics: {listen: ':9464', token_file: token}", "fedcba9876543210", ":9464", true, pageToken, ""},
		{"wider without a token", "metrics: {listen: '0.0.0.0:9464'}", "", "", false, "", "metrics.listen: want a loopback address"},
		{"everywhere without a token", "metrics: {listen: ':9464'}", "", "", false, "", "token_file"},
		{"name without a token", "metrics: {listen: 'car.local:9464'}", "", "", false, "", "loopback"},
		{"short token", "metrics: {listen: ':9464', token_file: short}", "", "", false, "", "can be guessed"},
		{"empty token", "metrics: {listen: '127.0.0.1:9464', token_file: empty}", "", "", false, "", "can be guessed"},
		{"no such token", "metrics: {listen: ':9464', token_file: none}", "", "", false, "", "no such file"},
		{"no port", "metrics: {listen: '127.0.0.1'}", "", "", false, "", "with a port"},
		{"no path", "metrics: {listen: 'unix:'}", "", "", false, "", "path of the socket"},
		{"page without an address", "metrics: {page: true}", "", "", false, "", "needs listen:"},
		{"no such profile", "profile: fleet", "", "", false, "", "want bench or production"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(local.EnvToken, c.env)
			dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "token": pageToken + "\nsecond line\n", "short": "abc\n", "empty": "\n",
				"agent.yaml": good + c.text + "\n"})
			s, _, err := load(filepath.Join(dir, "agent.yaml"))
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) || strings.Contains(err.Error(), pageToken) {
					t.Errorf("%v, want %q", err, c.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if listen := strings.Replace(s.MetricsListen, dir, "", 1); listen != c.listen || s.Page.On != c.on || s.Page.Token != c.token {
				t.Errorf("%q %+v", listen, s.Page)
			}
		})
	}
}

// What an eMMC says in sysfs, as the kernel's mmc driver writes it (drivers/mmc/core/mmc.c: "0x%02x 0x%02x\n").
func TestFlashLife(t *testing.T) {
	for _, c := range []struct {
		life, eol string
		used      float64
		end       string
	}{
		{"0x01 0x02\n", "0x01\n", 20, "normal"},
		{"0x0b 0x01\n", "0x03\n", 110, "urgent"},
		{"0x00 0x00\n", "0x00\n", math.NaN(), ""},
		{"", "", math.NaN(), ""},
		{"what?\n", "0x02\n", math.NaN(), "warning"},
	} {
		device := filepath.Join(t.TempDir(), "mmcblk0")
		if err := os.MkdirAll(filepath.Join(device, "device"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"life_time": c.life, "pre_eol_info": c.eol} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(device, "device", name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f := readLife(device)
		unknown := math.IsNaN(c.used)
		if f.Device != "mmcblk0" || f.EndOfLife != c.end || f.UsedPercent.Known() == unknown || !unknown && f.UsedPercent != local.Number(c.used) {
			t.Errorf("%q %q: %+v", c.life, c.eol, f)
		}
	}
}
