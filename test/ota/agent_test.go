//go:build system

package ota

import (
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// startTimeout is what TimeoutStartSec is to systemd: an agent that is not ready by then hangs.
const startTimeout = 10 * time.Second

// patience is for what has to come about on a slow machine.
const patience = 3 * time.Minute

// TestAgentFollowsTheDirector runs the real programs: launcher, agent, store and the OEM's tool. A vehicle that drives
// waits; parked it takes a version that crashes, one that hangs and one that cannot read its receiver, goes back each time
// by itself, says why, and tries none of them again; then it keeps one that works. The store has one outcome of each. Between
// campaigns it drives: parked, with all delivered, it stays off the network.
func TestAgentFollowsTheDirector(t *testing.T) {
	b := newBench(t)
	b.build("agent-1.0", "./cmd/agent", "version", "1.0")
	b.build("agent-1.3-real", "./cmd/agent", "version", "1.3")
	b.build("agent-1.1", "./test/ota/twin", "fault", "crash")
	b.build("agent-1.2", "./test/ota/twin", "fault", "hang")
	b.build("agent-1.3", "./test/ota/twin", "fault", "deaf", "agent", b.path("agent-1.3-real"))
	b.build("agent-1.4", "./cmd/agent", "version", "1.4")
	b.build("launcher", "./cmd/launcher")
	b.build("fleet", "./cmd/fleet")

	b.ota("init", "--quick", b.path("oem"), "--line", "sedan=agent:"+hardware)
	b.serve()
	b.drive()
	b.run("agent-1.0", "check", "-c", b.path("vehicle", "agent.yaml"))
	b.run("launcher", "--seed", b.path("agent-1.0"))
	b.campaign("1.1", 2)
	stop := b.supervise()
	for n, c := range []struct{ version, reason string }{
		{"1.1", "killed 3 times"}, {"1.2", "killed 3 times"}, {"1.3", "gps:gps0: it cannot be read"},
	} {
		if n > 0 {
			b.campaign(c.version, n+2)
		}
		b.waits(c.version)
		b.until(c.version+" taken back", func() bool { return b.rejection(c.version) != "" })
		if reason := b.rejection(c.version); !strings.Contains(reason, c.reason) {
			t.Errorf("%s was taken back for %q, not for %q", c.version, reason, c.reason)
		}
		b.depart()
		b.until("that is told", func() bool { return b.outcome(c.version) == telemetrypb.UpdateRolledBack })
		b.ota("campaign", "stop", "--dir", b.path("oem"), "to-"+c.version)
	}
	b.campaign("1.4", 5)
	b.waits("1.4")
	b.keeps("1.4")
	stop()
	st := b.status()
	if m := st.Slots[st.Committed].Image; st.Trial != nil || m == nil || m.Version != "1.4" || len(st.Rejected) != 3 || len(st.Outcomes) != 0 {
		t.Errorf("in the end: %+v", st)
	}
	if starts := b.starts["1.1"]; starts != 3 {
		t.Errorf("the version that crashes was started %d times", starts)
	}
}
