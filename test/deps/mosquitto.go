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
}

// Mosquitto starts Debian's Mosquitto and returns when it accepts connections.
func Mosquitto(t testing.TB, o MosquittoOptions) *Broker {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	port := freePort(t)
	const log = "mosquitto.log"
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
