package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/gps/gpstest"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/uplink/doctor"
)

// A vehicle without fault, on this machine: a recording in place of a bus. The tests break one thing each.
const (
	soundCAN     = "can: [{bus: can0, replay: a.log, time: receipt, dbc: [a.dbc]}]\n"
	soundCollect = "collect: {signals: [{match: '*'}]}\n"
	soundDevice  = "device: {id: car-1}\ndata_dir: data\n"
	soundUplink  = "uplink: {broker: 'mqtts://127.0.0.1:1'}\n"
	sound        = soundDevice + soundCAN + soundCollect + soundUplink
)

// breakage is a vehicle that somebody broke.
type breakage struct {
	problem string // its name
	result  doctor.Result
	config  string // DIR is the folder
	prepare func(t *testing.T, dir string)
	nobody  bool // tried as a user that owns nothing
}

// asNobody runs do with the rights of a user that owns nothing, if this one is root: on a thread of its own, which ends
// with it.
func asNobody(do func()) {
	if os.Geteuid() != 0 {
		do()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		_ = unix.Setfsgid(65534)
		_ = unix.Setfsuid(65534) // takes CAP_DAC_OVERRIDE out of effect, setfsuid(2) and capabilities(7)
		do()
	}()
	<-done
}

// lay makes the folder of a vehicle.
func lay(t *testing.T, b breakage) (file string) {
	t.Helper()
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "a.log": ""})
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"..", ".", "a.dbc", "a.log", "data"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := b.config
	if config == "" {
		config = sound
	}
	file = filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "DIR", dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	if b.nobody {
		if err := os.Chmod(filepath.Join(dir, "data"), 0o777|os.ModeSticky); err != nil {
			t.Fatal(err)
		}
	}
	if b.prepare != nil {
		b.prepare(t, dir)
	}
	return file
}

// problemsOf runs the command and returns what it says is wrong, by name.
func problemsOf(t *testing.T, file string, flags ...string) (found map[string]doctor.Step, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := rootCommand()
	root.SetOut(&stdout)
	code = cli.Execute(root, append([]string{"doctor", "-c", file, "--json", "--local"}, flags...), &stderr)
	t.Logf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
	found = map[string]doctor.Step{}
	for line := range strings.Lines(stdout.String()) {
		var s doctor.Step
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if s.Problem != "" {
			if s.Wrong == "" || s.Remedy == "" {
				t.Errorf("%s: nothing is said of it, or no remedy", s.Problem)
			}
			found[s.Problem] = s
		}
	}
	return found, code
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	err := os.WriteFile(path, []byte(text), 0o600)
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// openQueueAt makes a queue and returns it open.
func openQueueAt(t *testing.T, dir string) *buffer.Queue {
	t.Helper()
	q, err := buffer.Open(filepath.Join(dir, "data", "queue"), buffer.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// receiverAt is a receiver on DIR/gps that says something again and again until the test ends.
func receiverAt(rate uint32, say func(second int) []byte) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		r, err := gpstest.NewReceiver(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(r.Path(), filepath.Join(dir, "gps")); err != nil {
			t.Fatal(err)
		}
		r.Speak(rate)
		stop, done := make(chan struct{}), make(chan struct{})
		t.Cleanup(func() { close(stop); <-done; _ = r.Close() })
		go func() {
			defer close(done)
			for second := 0; ; second++ {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
					if say != nil {
						_, _ = r.Write(say(second % 60)) // nobody may be listening yet
					}
				}
			}
		}()
	}
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// tcpServer says the same to whoever connects.
func tcpServer(t *testing.T, say string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(say)) // it may be gone
			t.Cleanup(func() { conn.Close() })
		}
	}()
	return l.Addr().String()
}

func withGPS(source string) string {
	return soundDevice + "gps: [{name: gps0, " + source + "}]\n" + soundCollect + soundUplink
}

func withCerts(keys string) string {
	return soundDevice + soundCAN + soundCollect + "uplink: {broker: 'mqtts://127.0.0.1:1', " + keys + "}\n"
}

// signed lays out car.pem and car.key, valid between two times from now, and ca.pem.
func signed(from, to time.Duration) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		ca := certs.NewAuthority(t, "ca")
		ca.Write(dir, "ca")
		ca.Sign("car-1", time.Now().Add(from), time.Now().Add(to)).Write(dir, "car")
	}
}

const (
	ownPair = "ca: ca.pem, cert: car.pem, key: car.key"
	day     = 24 * time.Hour
)

func noFix(second int) []byte {
	return gpstest.Epoch(nil, gps.Fix{Time: time.Date(2026, 11, 22, 12, 0, second, 0, time.UTC).UnixNano(),
		Mode: gps.ModeNoFix, Fields: gps.HasTime})
}
