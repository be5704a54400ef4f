//go:build system

package browser

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/local"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/programs"
)

// TestLocalPage looks at the page of an agent whose car drives; look_local.mjs says what is tried. SCREENSHOTS=FOLDER keeps the
// pictures.
func TestLocalPage(t *testing.T) {
	tools := findBrowser(t)
	t.Chdir(deps.Root(t))
	if out, err := deps.Go(t, "run", "./fleet/page/fetch").CombinedOutput(); err != nil {
		deps.Missing(t, "the page's parts: %v\n%s", err, out)
	}
	v := &vehicle{t: t, Group: programs.Group{Folder: t.TempDir()}, broker: freeAddress(t), page: freeAddress(t)}
	t.Cleanup(func() {
		v.KillAll()
		if text, err := os.ReadFile(v.Path("waybill-agent.log")); err == nil && t.Failed() {
			t.Logf("log of waybill-agent:\n%s", text)
		}
	})
	if err := v.Build(context.Background()); err != nil {
		t.Fatal(err)
	}
	v.drive()
	v.startFleet()
	v.startAgent()
	tools.look(t, "look_local.mjs", "http://"+v.page+"/", 25, map[string]func(){
		"agent":     v.startAgent,
		"no broker": func() { v.stop(v.fleet) },
		"broker":    v.startFleet,
		"no agent":  func() { v.stop(v.agent) },
	})
}

// vehicle is an agent, its car and its broker.
type vehicle struct {
	t *testing.T
	programs.Group
	broker, page string
	agent, fleet *programs.Process
}

// drive starts the car. What it writes to stays open while the agent is away, so that it goes on.
func (v *vehicle) drive() {
	v.t.Helper()
	dbc, err := exec.Command(v.Path("waybill-simulate"), "dbc").Output()
	if err == nil {
		err = errors.Join(os.WriteFile(v.Path("demo.dbc"), dbc, 0o600), syscall.Mkfifo(v.Path("can0.fifo"), 0o600))
	}
	if err != nil {
		v.t.Fatal(err)
	}
	fifo, err := os.OpenFile(v.Path("can0.fifo"), os.O_RDWR, 0)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = fifo.Close() })
	v.start("waybill-simulate", "drive", "--can", v.Path("can0.fifo"), "--gps", "pty:"+v.Path("gps0"), "--sky", "--duration", "20m")
	more := "  keep_alive: 3s\n  retry_cap: 1s\nmetrics: {listen: \"" + v.page + "\"}\n"
	if err := os.WriteFile(v.Path("agent.yaml"), programs.AgentConfig("demo-car", v.broker, more), 0o600); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vehicle) start(program string, args ...string) *programs.Process {
	v.t.Helper()
	p, err := v.Start(nil, v.Folder, program, program, args...)
	if err != nil {
		v.t.Fatal(err)
	}
	return p
}

func (v *vehicle) startFleet() {
	v.fleet = v.start("waybill-fleet", "serve", "--embedded-broker", v.broker, "--broker", "tcp://"+v.broker, "--insecure",
		"--db", filepath.Join(v.Folder, "fleet.db"))
}

func (v *vehicle) startAgent() {
	v.t.Helper()
	v.agent = v.start("waybill-agent", "run", "-c", v.Path("agent.yaml"))
	client := local.NewClient(v.page, "")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := client.State(context.Background())
		if err == nil {
			return
		}
		if v.agent.Ended() || time.Now().After(deadline) {
			v.t.Fatalf("the agent does not answer: %v\n%s", err, v.agent.LastWords())
		}
	}
}

func (v *vehicle) stop(p *programs.Process) {
	v.t.Helper()
	if err := p.Stop(time.Minute); err != nil {
		v.t.Error(err)
	}
}
