package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
		Buses: []local.Bus{{Name: "can0", Interface: "can0", State: "error_passive", Up: true, Bitrate: 500000, ListenOnly: true, LoadPercent: 23.44, FrameRate: 1234, TxErrors: &tx, RxErrors: &rx},
			{Name: "can1", State: "stopped", LoadPercent: local.Missing(), FrameRate: local.Missing()}},
		Receivers: []local.Receiver{{Name: "gps0", AtMS: 999_000, Mode: "3D", Latitude: 48.1, Longitude: 11.5, Error: 3, Speed: 12.3, Used: 9, Seen: 14}},
		Queue:     local.Queue{Batches: 12, Bytes: 34_500, OldestS: 3, DiskBytes: 1 << 20, MaxBytes: 1 << 30, Flash: local.Flash{PerDay: local.Missing(), UsedPercent: local.Missing()}},
		Uplink:    &local.Uplink{Phase: "connecting", Text: "no route to the broker", SendRate: 0, RoundTripMS: local.Missing(), Sent: 5, Released: 3},
		Losses:    []local.Loss{{Reason: "overload", Source: "can:can0", Unit: "frames", Count: 12}},
		Collect:   local.Collect{Signals: 3, Available: 4},
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
	mux.HandleFunc("GET "+local.PathState, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(a.state()) })
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
			Value: local.Value{ID: uint32(i + 1), Value: local.Number(i), AtMS: 1_000_000, Rate: float64(i)}, History: []local.Number{1, 2, local.Missing(), 4}})
	}
	err := send(local.EventState, a.state())
	for n := int64(0); err == nil && r.Context().Err() == nil; n++ {
		if n == 0 {
			err = send(local.EventSignals, all)
		} else {
			err = send(local.EventValues, local.Values{BootMS: 1_000_000 + n, Values: []local.Value{{ID: 1, Value: local.Number(7000 + n), AtMS: 1_000_000 + n}}})
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
	wantSaid(t, out, "car-1 of acme  v1.2.3  up 62m", "error_passive  load 23.4%  1234 frames/s  500 kbit/s listen-only  tx/rx errors 7/130", "can1    NOT READ  stopped",
		"3D  9/14 satellites  48.10000 11.50000  ±3.0 m  12.3 m/s", "gps  ±200ms", "12 batches wait  33.7 KiB  oldest 3 s  disk 1.0 MiB of 1.0 GiB", "connecting  0 B/s  5 sent, 3 received by the store  no route",
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
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != exitAlarms || s.Agent.Device != "car-1" || len(s.Alarms) != 1 {
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

// terminal is a pseudo-terminal and what it shows: as much of ECMA-48 as top uses.
type terminal struct {
	master, slave *os.File
	screen        chan []string // the lines after each change
}

func openTerminal(t *testing.T, columns, rows int) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	tt := &terminal{master: master, slave: slave, screen: make(chan []string, 1000)}
	tt.resize(t, columns, rows)
	t.Cleanup(func() { slave.Close(); master.Close() })
	return tt
}

func (tt *terminal) resize(t *testing.T, columns, rows int) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(tt.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
}

// show reads the terminal until it is closed, and hands over each whole screen: from one cursor home to the next.
func (tt *terminal) show() {
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := tt.master.Read(buf)
		all = append(all, buf[:n]...)
		for {
			begin := bytes.Index(all, []byte(screenHome))
			end := bytes.Index(all, []byte(screenRest))
			if begin < 0 || end < begin {
				break
			}
			text := string(all[begin+len(screenHome) : end])
			for _, code := range []string{lineClear, bold, reverse, plain} {
				text = strings.ReplaceAll(text, code, "")
			}
			tt.screen <- strings.Split(text, "\r\n")
			all = all[end+len(screenRest):]
		}
		if err != nil {
			tt.screen <- []string{string(all)} // what came last of all
			close(tt.screen)
			return
		}
	}
}

// await waits for a screen that is as wanted.
func (tt *terminal) await(t *testing.T, what string, wanted func(lines []string) bool) []string {
	t.Helper()
	deadline := time.After(time.Minute)
	var last []string
	for {
		select {
		case lines, ok := <-tt.screen:
			if ok && wanted(lines) {
				return lines
			}
			if !ok {
				t.Fatalf("it ended before %s; the last screen:\n%s", what, strings.Join(last, "\n"))
			}
			last = lines
		case <-deadline:
			t.Fatalf("no %s; the last screen:\n%s", what, strings.Join(last, "\n"))
		}
	}
}

// TestTopOnATerminal runs the program on a real pseudo-terminal: it draws what fits, follows the size, scrolls, searches, goes
// on when the agent comes back, and leaves the terminal as it was.
func TestTopOnATerminal(t *testing.T) {
	if os.Getenv("WAYBILL_TEST_TOP") != "" {
		os.Exit(cli.Execute(rootCommand(), []string{"top", "--address", os.Getenv("WAYBILL_TEST_TOP")}, os.Stderr))
	}
	a := newFakeAgent(t)
	a.alarms.Store(true)
	tt := openTerminal(t, 80, 24)
	before, err := unix.IoctlGetTermios(int(tt.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestTopOnATerminal$")
	cmd.Env = append(os.Environ(), "WAYBILL_TEST_TOP="+a.address())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tt.slave, tt.slave, tt.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // so that a new size is told by SIGWINCH
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	go tt.show()
	fits := func(lines []string, columns, rows int) bool {
		for _, line := range lines {
			if len([]rune(line)) > columns {
				t.Errorf("a line of %d columns: %q", len([]rune(line)), line)
			}
		}
		return len(lines) == rows
	}
	press := func(keys string) {
		t.Helper()
		if _, err := tt.master.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	has := func(lines []string, words string) bool { return strings.Contains(strings.Join(lines, "\n"), words) }

	lines := tt.await(t, "signals on 80×24", func(lines []string) bool { return has(lines, "Message00") && has(lines, "70") })
	if !fits(lines, 80, 24) {
		t.Errorf("%d lines on 24", len(lines))
	}
	t.Log("\n" + strings.Join(lines, "\n"))
	for _, words := range []string{"car-1 of acme", "ALARM     uplink.receipt", "can0", "queue", "uplink", "q end", "of 50 signals", "▁▃ █"} {
		if !has(lines, words) {
			t.Errorf("it does not show %q", words)
		}
	}
	tt.resize(t, 120, 50)
	tt.await(t, "screen of 120×50", func(lines []string) bool { return len(lines) == 50 && fits(lines, 120, 50) && has(lines, "Message20") })
	tt.resize(t, 40, 10)
	tt.await(t, "screen of 40×10", func(lines []string) bool { return len(lines) == 10 && fits(lines, 40, 10) })
	tt.resize(t, 80, 24)
	tt.await(t, "screen of 80×24", func(lines []string) bool { return len(lines) == 24 && fits(lines, 80, 24) })
	press("\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~")
	tt.await(t, "end of the list", func(lines []string) bool { return has(lines, "Message49") && !has(lines, "Message00") })
	press("/age3")
	tt.await(t, "search", func(lines []string) bool {
		return has(lines, "/age3_") && has(lines, "Message39") && has(lines, "Message30") && !has(lines, "Message49")
	})
	press("\r")
	tt.await(t, "kept search", func(lines []string) bool { return has(lines, `10 signals with "age3"`) })
	press("\x1b")
	tt.await(t, "all signals again", func(lines []string) bool { return has(lines, "of 50 signals") && has(lines, "Message00") })
	press("oo")
	tt.await(t, "order by rate", func(lines []string) bool {
		return has(lines, "by rate") && has(lines, "Message49") && !has(lines, "Message00")
	})
	a.server.CloseClientConnections()
	tt.await(t, "word of a lost agent", func(lines []string) bool { return has(lines, "not connected: ") && has(lines, "Message49") })
	tt.await(t, "agent that is back", func(lines []string) bool { return !has(lines, "not connected: ") && has(lines, "Message49") })
	press("q")
	if err := <-ended; err != nil {
		t.Errorf("it ends with %v", err)
	}
	after, err := unix.IoctlGetTermios(int(tt.slave.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is another one: %+v, %+v, %v", before, after, err)
	}
	tt.slave.Close() // the last one: the master's reader ends
	last := ""
	for lines := range tt.screen {
		last = strings.Join(lines, "\n")
	}
	if !strings.Contains(last, screenEnd) {
		t.Errorf("it leaves the alternate screen on, or the cursor off: %q", last)
	}
}

func TestTopWithoutATerminal(t *testing.T) {
	var stderr bytes.Buffer
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	stdin := os.Stdin
	os.Stdin = in
	defer func() { os.Stdin = stdin }()
	if code := cli.Execute(rootCommand(), []string{"top", "--address", "127.0.0.1:1"}, &stderr); code != cli.Usage || !strings.Contains(stderr.String(), "needs a terminal") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
}

// FuzzTopScreen: whatever is typed and however small the terminal is, a screen has its size.
func FuzzTopScreen(f *testing.F) {
	f.Add([]byte("/abc\r\x1b[6~o\x1b"), 80, 24)
	f.Add([]byte("\x1b[999999~qjk /\x7f\x7f"), 1, 1)
	state := aState()
	rows := make([]topRow, 40)
	f.Fuzz(func(t *testing.T, typed []byte, width, height int) {
		width, height = 1+max(width, 0)%300, 1+max(height, 0)%100
		s := &topScreen{}
		for _, b := range typed {
			s.press(b)
			screen := string(s.draw(topView{state: &state, rows: rows}, width, height))
			lines := strings.Split(strings.TrimSuffix(strings.TrimPrefix(screen, screenHome), screenRest), "\r\n")
			if len(lines) != height {
				t.Fatalf("%d lines on %d", len(lines), height)
			}
			for _, line := range lines {
				for _, code := range []string{lineClear, bold, reverse, plain} {
					line = strings.ReplaceAll(line, code, "")
				}
				if n := len([]rune(line)); n > width || strings.ContainsAny(line, "\x1b\r\n") {
					t.Fatalf("%d columns on %d: %q", n, width, line)
				}
			}
		}
		s.settle()
	})
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
