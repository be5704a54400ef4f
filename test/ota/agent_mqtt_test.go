//go:build system

package ota

import (
	"os"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

// TestAgentFetchesOverMQTT: a real agent that no host of files answers is updated all the same, by waybill-fleet ota serve at its broker.
func TestAgentFetchesOverMQTT(t *testing.T) {
	b := newBench(t)
	b.build("agent-1.0", "./cmd/agent", "version", "1.0")
	b.build("agent-1.1", "./cmd/agent", "version", "1.1")
	b.build("launcher", "./cmd/launcher")
	b.build("fleet", "./cmd/fleet")
	b.ota("init", "--quick", b.path("oem"), "--line", "sedan=agent:"+hardware)
	b.serve()
	b.drive()
	config := b.path("vehicle", "agent.yaml")
	text, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(strings.Replace(string(text), "  poll: 1s\n", "  poll: 1s\n  mqtt: true\n  targets: [\"http://127.0.0.1:9/\"]\n", 1)), 0o600))
	b.run("agent-1.0", "check", "-c", config)
	b.run("launcher", "--seed", b.path("agent-1.0"))
	b.campaign("1.1", 2)
	must(t, os.Link(b.path("fleet"), b.path("images")))
	images := b.start("images", nil, "ota", "serve", "--broker", "tcp://"+b.broker, "--public", b.path("oem", "public"), "--vehicle-rate", "4000000")
	t.Cleanup(func() { _ = images.Process.Kill(); _ = images.Wait() })
	stop := b.supervise()
	b.waits("1.1")
	b.keeps("1.1")
	stop()
	if st := b.status(); st.Slots[slots.B].Image.Version != "1.1" || st.Committed != slots.B {
		t.Errorf("%+v", st)
	}
}
