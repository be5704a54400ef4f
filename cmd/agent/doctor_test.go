package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink/doctor"
)

// doctorConfig is a vehicle with a broker.
const doctorConfig = `device: {id: car-1, tenant: acme}
data_dir: data
can: [{bus: can0, replay: a.log, time: receipt, dbc: [a.dbc]}]
collect: {signals: [{match: '*'}]}
uplink:
  broker: %s
  insecure: true
`

// consult runs the command and returns its exit code and what it prints.
func consult(t *testing.T, text string, flags ...string) (dir string, code int, out string) {
	t.Helper()
	dir = writeFiles(t, map[string]string{"agent.yaml": text, "a.dbc": smallDBC, "a.log": "", "pw": "geheimes-kennwort\n"})
	var stdout, stderr bytes.Buffer
	root := rootCommand()
	root.SetOut(&stdout)
	code = cli.Execute(root, append([]string{"doctor", "-c", filepath.Join(dir, "agent.yaml")}, flags...), &stderr)
	out = stdout.String() + stderr.String()
	t.Logf("exit code %d\n%s", code, out)
	for _, never := range []string{"geheim", "goroutine ", "panic", ".go:", "main."} {
		if strings.Contains(out, never) {
			t.Errorf("it shows %q", never)
		}
	}
	return dir, code, out
}

func wantSaid(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("it does not say %q", w)
		}
	}
}

func TestDoctorWithoutABrokerInReach(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	text := fmt.Sprintf(doctorConfig, "mqtts://"+closed) + "  user: car-1\n  password_file: pw\n  broker_profile: aws\n"
	_, code, out := consult(t, text, "--timeout", "6s")
	if code != cli.Failed {
		t.Errorf("exit code %d", code)
	}
	wantSaid(t, out, "ok       configuration", "device car-1 of tenant acme", "a password or token", "FAIL     tcp",
		closed+": refused", "to do: check that the broker runs", "skipped  tls", "look at this first: tcp:")

	_, code, out = consult(t, text, "--json", "--timeout", "6s")
	if code != cli.Failed {
		t.Errorf("exit code %d", code)
	}
	failed := 0
	for line := range strings.Lines(out) {
		var s doctor.Step
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if s.Result == doctor.Failed {
			failed++
			if s.Name != doctor.StepTCP || s.Remedy == "" {
				t.Errorf("%+v", s)
			}
		}
	}
	if failed != 1 {
		t.Errorf("%d failures, want 1", failed)
	}
}

func TestDoctorOnConfigurations(t *testing.T) {
	good := fmt.Sprintf(doctorConfig, "mqtt://127.0.0.1:1")
	for _, c := range []struct {
		name, text string
		words      []string
	}{
		{"a key that is none", strings.Replace(good, "broker:", "brokr:", 1), []string{"FAIL     configuration",
			"agent.yaml:6:", `did you mean "broker"?`, "to do: correct the file"}},
		{"a file that is not there", good + "  cert: gone.pem\n  key: gone.key\n", []string{"FAIL     configuration",
			"uplink.cert", "gone.pem", "no such file"}},
		{"nothing to collect", strings.Replace(good, "'*'", "'nothing.*'", 1), []string{"FAIL     configuration", "nothing.*",
			"FAIL     tcp", "look at this first: configuration"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, code, out := consult(t, c.text, "--timeout", "6s")
			if code != cli.Failed {
				t.Errorf("exit code %d", code)
			}
			wantSaid(t, out, c.words...)
		})
	}
	if _, code, out := consult(t, good, "--timeout", "1ms"); code != cli.Usage || !strings.Contains(out, "between 1s and 10m") {
		t.Errorf("exit code %d", code)
	}
}

// TestDoctorLeavesNothing: it may run beside an agent and before the first one: the data folder stays as it is.
func TestDoctorLeavesNothing(t *testing.T) {
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	dir, code, out := consult(t, fmt.Sprintf(doctorConfig, broker.URL())+"  ack: puback\n  broker_profile: mosquitto\n",
		"--timeout", "30s")
	if code != cli.OK {
		t.Errorf("exit code %d", code)
	}
	wantSaid(t, out, "accepted as \"car-1-doctor\"", "ok       publish", "skipped  receipt", "ok       size",
		"ok       limits", "nothing is wrong")
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("there is a data folder")
	}
	log, err := os.ReadFile(filepath.Join(broker.Dir, "mosquitto.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, never := range []string{"up/status", "as car-1 ", "Will message specified"} {
		if strings.Contains(string(log), never) {
			t.Errorf("the broker saw %q", never)
		}
	}
}

func TestBrokerProfilesRefuseWhatCannotWork(t *testing.T) {
	good := fmt.Sprintf(doctorConfig, "mqtts://127.0.0.1:443")
	for _, c := range []struct {
		name, more string
		line       int
		words      []string
	}{
		{"no such profile", "  broker_profile: mosqitto\n", 8, []string{"uplink.broker_profile", `did you mean "mosquitto"?`}},
		{"keep-alive", "  broker_profile: aws\n  keep_alive: 15s\n", 9, []string{"uplink.keep_alive", "30s or more",
			"broker_profile: aws"}},
		{"payload", "  broker_profile: aws\n  payload_bytes: 256KiB\n", 9, []string{"uplink.payload_bytes", "use 130048 or less"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := writeFiles(t, map[string]string{"agent.yaml": good + c.more, "a.dbc": smallDBC, "a.log": ""})
			_, _, err := load(filepath.Join(dir, "agent.yaml"))
			var p *problems
			if !errors.As(err, &p) || len(p.List) != 1 {
				t.Fatalf("got %v", err)
			}
			if p.List[0].Line != c.line {
				t.Errorf("line %d, want %d", p.List[0].Line, c.line)
			}
			wantSaid(t, err.Error(), c.words...)
		})
	}
	plain := strings.Replace(good, "mqtts:", "mqtt:", 1)
	dir := writeFiles(t, map[string]string{"agent.yaml": plain + "  broker_profile: aws\n", "a.dbc": smallDBC, "a.log": ""})
	if _, _, err := load(filepath.Join(dir, "agent.yaml")); err == nil || !strings.Contains(err.Error(),
		"uplink.broker: AWS IoT Core takes TLS only") {
		t.Errorf("plain text to AWS: %v", err)
	}
	dir = writeFiles(t, map[string]string{"agent.yaml": good + "  broker_profile: aws\n", "a.dbc": smallDBC, "a.log": ""})
	s, _, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := s.Uplink.offering(func() (*tls.Config, error) { return &tls.Config{}, nil })()
	if err != nil || len(config.NextProtos) != 1 || config.NextProtos[0] != "x-amzn-mqtt-ca" {
		t.Errorf("TLS offers %v on AWS's port 443, %v", config.NextProtos, err)
	}
	if s.Uplink.PayloadBytes != 64<<10 || s.Uplink.InFlight != usualInFlight {
		t.Errorf("bounds %d bytes, %d in flight", s.Uplink.PayloadBytes, s.Uplink.InFlight)
	}
}
