package deps

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// MosquittoOptions say how the broker runs.
type MosquittoOptions struct {
	Dir         string   // where configuration, log and store lie; "" is a temporary folder
	Persistence bool     // keep sessions and queued messages over Stop and Start; written at Stop only, unless Config says otherwise
	Config      []string // further lines of mosquitto.conf, which outrank ours
	// Whole makes the configuration from free ports, as many as Ports says; what is above, but for Dir, does not count then.
	// The first port is the one that has to accept.
	Whole func(ports []int) string
	Ports int
}

// Mosquitto starts Debian's Mosquitto and returns when it accepts connections.
func Mosquitto(t testing.TB, o MosquittoOptions) *Broker {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	const log = "mosquitto.log"
	if o.Whole != nil {
		return wholeMosquitto(t, o, log)
	}
	port := freePort(t)
	lines := []string{
		fmt.Sprintf("listener %d 127.0.0.1", port),
		"allow_anonymous true",
		"log_type all",
		fmt.Sprintf("log_dest file %s", filepath.Join(o.Dir, log)),
		fmt.Sprintf("persistence %t", o.Persistence),
		fmt.Sprintf("persistence_location %s/", o.Dir),
	}
	if os.Geteuid() == 0 {
		lines = append(lines, "user root") // else it becomes a user who may not write to Dir
	}
	conf := filepath.Join(o.Dir, "mosquitto.conf")
	if err := os.WriteFile(conf, []byte(strings.Join(append(lines, o.Config...), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &Broker{
		Addr: fmt.Sprintf("127.0.0.1:%d", port), Dir: o.Dir, name: "mosquitto", log: log, within: 10 * time.Second,
		command: func() *exec.Cmd { return Program(t, "mosquitto", "mosquitto", "-c", conf) },
	}
	return b.run(t)
}

// wholeMosquitto runs a configuration as it is, with its log in a file and as the user that we are.
func wholeMosquitto(t testing.TB, o MosquittoOptions, log string) *Broker {
	t.Helper()
	ports := make([]int, o.Ports)
	for i := range ports {
		ports[i] = freePort(t)
	}
	conf := filepath.Join(o.Dir, "mosquitto.conf")
	text := o.Whole(ports) + fmt.Sprintf("\nlog_dest file %s\n", filepath.Join(o.Dir, log))
	if os.Geteuid() == 0 {
		text += "user root\n"
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &Broker{
		Addr: fmt.Sprintf("127.0.0.1:%d", ports[0]), Dir: o.Dir, name: "mosquitto", log: log, within: 10 * time.Second,
		command: func() *exec.Cmd { return Program(t, "mosquitto", "mosquitto", "-c", conf) },
	}
	return b.run(t)
}
