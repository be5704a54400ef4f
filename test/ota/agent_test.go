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
// by itself, says why, and tries none of them again; then it keeps one that works. The store has one outcome of each.
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
	b.until("a refusal while it drives", func() bool { return b.outcome("1.1") == telemetrypb.UpdateRefused })
	b.park()
	b.until("the crash taken back", func() bool { return b.outcome("1.1") == telemetrypb.UpdateRolledBack })
	before := "1.1"
	for _, c := range []struct{ version, reason string }{
		{"1.2", "killed 3 times"}, {"1.3", "gps:gps0: it cannot be read"},
	} {
		b.ota("campaign", "stop", "--dir", b.path("oem"), "to-"+before)
		b.campaign(c.version, int(c.version[2]-'0')+1)
		before = c.version
		b.until(c.version+" taken back", func() bool { return b.outcome(c.version) == telemetrypb.UpdateRolledBack })
		if reason := b.rejection(c.version); !strings.Contains(reason, c.reason) {
			t.Errorf("%s was taken back for %q, not for %q", c.version, reason, c.reason)
		}
	}
	b.ota("campaign", "stop", "--dir", b.path("oem"), "to-"+before)
	b.campaign("1.4", 5)
	b.until("1.4 installed", func() bool {
		return b.outcome("1.4") == telemetrypb.UpdateInstalled || b.outcome("1.4") == telemetrypb.UpdateCommitted
	})
	b.until("1.4 committed", func() bool { return b.outcome("1.4") == telemetrypb.UpdateCommitted })
	stop()
	st := b.status()
	if m := st.Slots[st.Committed].Image; st.Trial != nil || m == nil || m.Version != "1.4" || len(st.Rejected) != 3 || len(st.Outcomes) != 0 {
		t.Errorf("in the end: %+v", st)
	}
	if starts := b.starts["1.1"]; starts != 3 {
		t.Errorf("the version that crashes was started %d times", starts)
	}
}
