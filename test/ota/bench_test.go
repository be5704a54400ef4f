//go:build system

package ota

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/fleet/ota"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const hardware = runtime.GOOS + "/" + runtime.GOARCH

// bench is a vehicle, its OEM and its store on this machine.
type bench struct {
	t        *testing.T
	dir      string
	broker   string
	receiver string // host:port
	host     *httptest.Server
	moving   atomic.Bool

	mu     sync.Mutex     // guards starts
	starts map[string]int // by version
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), starts: map[string]int{}}
	b.moving.Store(true)
	must(t, os.MkdirAll(b.path("vehicle"), 0o755))
	return b
}

func (b *bench) path(name ...string) string {
	return filepath.Join(append([]string{b.dir}, name...)...)
}

// build makes a program of ours; variables are names and values of main or firmware.
func (b *bench) build(name, pkg string, variables ...string) {
	b.t.Helper()
	flags := "-s -w"
	for i := 0; i < len(variables); i += 2 {
		of := "main"
		if variables[i] == "version" {
			of = "github.com/waybill-telematics/waybill/firmware"
		}
		flags += fmt.Sprintf(" -X %s.%s=%s", of, variables[i], variables[i+1])
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", flags, "-o", b.path(name), pkg)
	cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

func (b *bench) environment() []string {
	return append(os.Environ(), "WAYBILL_FIRMWARE_DIR="+b.path("vehicle", "firmware"), "WAYBILL_FACTORY_AGENT=/nowhere")
}

// run calls a program and gives what it prints.
func (b *bench) run(name string, args ...string) []byte {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), b.path(name), args...)
	cmd.Env = b.environment()
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, err.(*exec.ExitError).Stderr)
	}
	return out
}

func (b *bench) ota(args ...string) {
	b.t.Helper()
	b.t.Logf("%s", b.run("fleet", append([]string{"ota"}, args...)...))
}

// start runs a program in the background, with its words in NAME.log.
func (b *bench) start(name string, env []string, args ...string) *exec.Cmd {
	b.t.Helper()
	log, err := os.OpenFile(b.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(b.t, err)
	defer log.Close()
	cmd := exec.Command(b.path(name), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(b.environment(), env...), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(b.t, cmd.Start())
	return cmd
}

// serve runs broker, store and the host of the files.
func (b *bench) serve() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b.t, err)
	b.broker = l.Addr().String()
	must(b.t, l.Close())
	fleet := b.start("fleet", nil, "serve", "--embedded-broker", b.broker, "--broker", "tcp://"+b.broker, "--insecure",
		"--db", b.path("fleet.db"), "--every", "1h")
	b.t.Cleanup(func() { _ = fleet.Process.Kill(); _ = fleet.Wait() })
	b.host = httptest.NewServer(http.FileServer(http.Dir(b.path("oem", "public"))))
	b.t.Cleanup(b.host.Close)
}

// drive makes the car: a bus that tells its speed, a receiver, an ignition, and the agent's configuration.
func (b *bench) drive() {
	t := b.t
	must(t, syscall.Mkfifo(b.path("vehicle", "can0"), 0o600))
	bus, err := os.OpenFile(b.path("vehicle", "can0"), os.O_RDWR, 0)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	t.Cleanup(func() { cancel(); bus.Close(); tasks.Wait() })
	tasks.Go(func() {
		for ctx.Err() == nil {
			speed := 0
			if b.moving.Load() {
				speed = 5000
			}
			_ = bus.SetWriteDeadline(time.Now().Add(time.Second)) // while nobody reads the pipe is full
			_, _ = fmt.Fprintf(bus, "(%d.000000) can0 100#%02X%02X\n", time.Now().Unix(), speed&0xff, speed>>8)
			time.Sleep(50 * time.Millisecond)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	b.receiver = l.Addr().String()
	t.Cleanup(func() { l.Close() })
	tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer conn.Close()
				for ctx.Err() == nil {
					if _, err := conn.Write([]byte(sentence(time.Now()))); err != nil {
						return
					}
					time.Sleep(200 * time.Millisecond)
				}
			})
		}
	})
	write := func(name, text string) { must(t, os.WriteFile(b.path("vehicle", name), []byte(text), 0o600)) }
	write("ignition", "1\n")
	write("car.dbc", "VERSION \"\"\nBU_: ECU\nBO_ 256 Motion: 2 ECU\n SG_ Speed : 0|16@1+ (0.01,0) [0|655] \"km/h\" ECU\n")
	write("agent.yaml", fmt.Sprintf(`
device: {id: car-1, tenant: acme}
data_dir: data
can: [{bus: can0, replay: can0, time: receipt, dbc: [car.dbc]}]
gps: [{tcp: %s}]
collect: {signals: [{match: "*"}]}
uplink: {broker: "mqtt://%s", insecure: true, retry_base: 200ms, retry_cap: 1s, drain: 2s}
power: {ignition: {file: ignition}, drain: {time: 12h, bytes: 1GiB}}
update:
  ecu: agent
  director: ["%[3]s/director/sedan/{cohort}/"]
  images: ["%[3]s/image/"]
  roots: {director: "%[4]s/director.root.json", images: "%[4]s/image.root.json"}
  poll: 1s
  signals: {speed: can0.Motion.Speed}
  parked: {hold: 1s}
  probation: {healthy: 3s, source: 3s}
`, b.receiver, b.broker, b.host.URL, b.path("oem", "factory")))
}

// waits has the vehicle drive until it says that it waits for the end of the journey, and then parks it.
func (b *bench) waits(version string) {
	b.t.Helper()
	b.depart()
	b.until(version+" waits while it drives", func() bool { return b.outcome(version) == telemetrypb.UpdateRefused })
	b.park()
}

// keeps sees a version on trial, or committed, and drives, so that it can be heard; it comes to be committed.
func (b *bench) keeps(version string) {
	b.t.Helper()
	b.until(version+" installed", func() bool {
		st := b.status()
		image := st.Slots[st.Committed].Image
		return st.Trial != nil || image != nil && image.Version == version
	})
	b.depart()
	b.until(version+" committed", func() bool { return b.outcome(version) == telemetrypb.UpdateCommitted })
}

func (b *bench) depart() {
	b.moving.Store(true)
	must(b.t, os.WriteFile(b.path("vehicle", "ignition"), []byte("1\n"), 0o600))
}

func (b *bench) park() {
	b.moving.Store(false)
	must(b.t, os.WriteFile(b.path("vehicle", "ignition"), []byte("0\n"), 0o600))
}

// sentence is an RMC of NMEA 0183 at a time.
func sentence(now time.Time) string {
	text := fmt.Sprintf("GPRMC,%s,A,4807.038,N,01131.000,E,000.0,000.0,%s,,,A", now.UTC().Format("150405.00"), now.UTC().Format("020106"))
	sum := byte(0)
	for _, c := range []byte(text) {
		sum ^= c
	}
	return fmt.Sprintf("$%s*%02X\r\n", text, sum)
}

// supervise is what systemd does: it starts the launcher again whenever it ends, and ends what is not ready in time. stop
// ends it in order.
func (b *bench) supervise() (stop func()) {
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: b.path("notify"), Net: "unixgram"})
	must(b.t, err)
	ready := make(chan struct{}, 16)
	go func() {
		message := make([]byte, 1024)
		for {
			n, err := socket.Read(message)
			if err != nil {
				return
			}
			if strings.Contains(string(message[:n]), "READY=1") {
				ready <- struct{}{}
			}
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for len(ready) > 0 {
				<-ready
			}
			agent := b.start("launcher", []string{"NOTIFY_SOCKET=" + b.path("notify")}, "run", "-c", b.path("vehicle", "agent.yaml"))
			ended, hung := make(chan error, 1), false
			go func() { ended <- agent.Wait() }()
			select {
			case <-ready:
			case <-ended:
				b.count()
				continue
			case <-time.After(startTimeout):
				hung = true
				_ = agent.Process.Kill()
			}
			b.count()
			select {
			case err := <-ended:
				if err != nil && !hung {
					b.t.Errorf("it came up, and ended with %v", err)
				}
			case <-ctx.Done():
				_ = agent.Process.Signal(syscall.SIGTERM)
				select {
				case err := <-ended:
					if err != nil {
						b.t.Errorf("told to stop, the agent ended with %v", err)
					}
				case <-time.After(time.Minute):
					_ = agent.Process.Kill()
					b.t.Error("told to stop, the agent did not")
				}
			}
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done; _ = socket.Close() }) }
	b.t.Cleanup(stop)
	b.t.Cleanup(func() {
		if b.t.Failed() {
			for _, name := range []string{"launcher", "fleet"} {
				text, _ := os.ReadFile(b.path(name + ".log"))
				b.t.Logf("%s said:\n%s", name, text[max(0, len(text)-12000):])
			}
		}
	})
	return stop
}

// count notes which version was started last.
func (b *bench) count() {
	st := b.status()
	slot := st.Committed
	if st.Trial != nil && st.Trial.Starts > 0 {
		slot = st.Trial.Slot
	}
	if m := st.Slots[slot].Image; m != nil {
		b.mu.Lock()
		b.starts[m.Version]++
		b.mu.Unlock()
	}
}

func (b *bench) status() (st slots.Status) {
	cmd := exec.Command(b.path("launcher"), "--status", "--json")
	cmd.Env = b.environment()
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &st)
	}
	if err != nil {
		b.t.Errorf("launcher --status: %v\n%s", err, out)
	}
	return st
}

// rejection is why a version is not tried again.
func (b *bench) rejection(version string) string {
	for _, r := range b.status().Rejected {
		if r.Version == version {
			return r.Reason
		}
	}
	return ""
}

// campaign publishes a version and offers it to all; what was offered before is over.
func (b *bench) campaign(version string, release int) {
	b.t.Helper()
	team := strings.Replace(hardware, "/", "-", 1)
	b.ota("publish", "--dir", b.path("oem"), b.path("agent-"+version), "--name", "agent", "--hardware", hardware,
		"--version", version, "--release-counter", fmt.Sprint(release), "--key", b.path("oem", "keys", "team-"+team, "team-"+team+".keys"))
	spec := b.path("campaign.yaml")
	must(b.t, os.WriteFile(spec, fmt.Appendf(nil, `
id: to-%[1]s
images: [{name: %[2]s/agent-%[1]s, hardware: %[3]s}]
conditions: {parked: true, ignition: "off"}
stages: [{percent: 100}]
stop: {rolled_back: 100}
`, version, team, hardware), 0o600))
	b.ota("campaign", "create", "--dir", b.path("oem"), spec)
	b.ota("campaign", "advance", "--dir", b.path("oem"), "to-"+version)
}

// outcome is what the store knows of a version's campaign; empty: nothing.
func (b *bench) outcome(version string) telemetrypb.Outcome {
	cmd := exec.Command(b.path("fleet"), "ota", "status", "--dir", b.path("oem"), "--db", b.path("fleet.db"), "--json")
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() != 3) {
		b.t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	var report ota.Report
	must(b.t, json.Unmarshal(out, &report))
	for _, c := range report.Campaigns {
		if c.ID != "to-"+version || c.Tally == nil {
			continue
		}
		switch t := c.Tally; {
		case t.Committed+t.RolledBack+t.Failed+t.Installed+t.Refused > 1:
			b.t.Fatalf("one vehicle has more than one outcome: %+v", *t)
		case t.Committed == 1:
			return telemetrypb.UpdateCommitted
		case t.RolledBack == 1:
			return telemetrypb.UpdateRolledBack
		case t.Failed == 1:
			return telemetrypb.UpdateFailed
		case t.Installed == 1:
			return telemetrypb.UpdateInstalled
		case t.Refused == 1:
			return telemetrypb.UpdateRefused
		}
	}
	return ""
}

func (b *bench) until(what string, is func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(500 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("never seen: %s", what)
		}
	}
}
