package vm

import (
	"path/filepath"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// The agent's tests that want a real bus: those named TestVcan….
func TestAgentOnVcan(t *testing.T) {
	binary := Build(t, "amd64", "test", "./cmd/agent")
	requireTests(t, Run(t, Job{Command: []string{binary, "-test.v", "-test.run", "^TestVcan"}, Dir: filepath.Join(deps.Root(t), "cmd", "agent"), Env: []string{"WAYBILL_VM=1"}}))
}
