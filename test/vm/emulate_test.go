//go:build system

package vm

import (
	"strings"
	"testing"
	"time"
)

// The agent's own binary and the tests of the real bus, on kernels for the vehicles' processors.
func TestAgentOnEmulatedVehicles(t *testing.T) {
	for _, goarch := range []string{"arm64", "arm"} {
		t.Run(goarch, func(t *testing.T) {
			agent := Build(t, goarch, "build", "./cmd/agent")
			r := Emulate(t, goarch, Job{Command: []string{"/bin/waybill-agent", "version"}}, map[string]string{"/bin/waybill-agent": agent})
			t.Logf("boot %v, in all %v", r.Boot.Round(time.Millisecond), r.Total.Round(time.Millisecond))
			if r.Exit != 0 || !strings.Contains(r.Output, "linux/"+goarch) {
				t.Errorf("version: exit code %d, output %q", r.Exit, r.Output)
			}
		})
	}
}

func TestCANOnEmulatedVehicles(t *testing.T) {
	for _, goarch := range []string{"arm64", "arm"} {
		t.Run(goarch, func(t *testing.T) {
			binary := Build(t, goarch, "test", "./can")
			r := Emulate(t, goarch, Job{
				Command: []string{"/can.test", "-test.v", "-test.run", "^TestVcan"}, Dir: "/tmp",
				Env: []string{"WAYBILL_VM=1"}, Timeout: 5 * time.Minute,
			}, map[string]string{"/can.test": binary})
			requireTests(t, r)
		})
	}
}
