//go:build system

package vm

import (
	"testing"
	"time"
)

func TestAgentStartsOnARealARM64Kernel(t *testing.T) {
	agent := Build(t, "arm64", "build", "./cmd/agent")
	r := RunARM64(t, Job{Command: []string{"/bin/waybill-agent", "version"}}, map[string]string{"/bin/waybill-agent": agent})
	t.Logf("boot %v, in all %v", r.Boot.Round(time.Millisecond), r.Total.Round(time.Millisecond))
	if r.Exit != 0 || r.Output == "" {
		t.Errorf("version: exit code %d, output %q", r.Exit, r.Output)
	}
}

func TestVcanOnARealARM64Kernel(t *testing.T) {
	binary := Build(t, "arm64", "test", "./can")
	r := RunARM64(t, Job{
		Command: []string{"/can.test", "-test.v", "-test.run", "Vcan"}, Dir: "/tmp",
		Env: []string{"WAYBILL_VM=1"}, Timeout: 5 * time.Minute,
	}, map[string]string{"/can.test": binary})
	t.Logf("boot %v, in all %v", r.Boot.Round(time.Millisecond), r.Total.Round(time.Millisecond))
	requireTests(t, r)
}
