// Package wire weighs and checks what the agent puts on the wire: bytes a sample beside other formats of the very same
// samples, the codec's speed, and that every value comes back as it was, on every processor that the agent is built for.
//
// It uses the agent's commands and the codec as everybody else does, and knows nothing of how columns are written.
package wire

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// programs holds what was built for this run.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "waybill-wire-")
	if err != nil {
		panic(err)
	}
	programs = dir
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "agent"), "./cmd/agent")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// agentOutput runs the agent to its end and gives its standard output. A warning is no failure, but is shown.
func agentOutput(t testing.TB, stdin []byte, args ...string) []byte {
	t.Helper()
	deps.Watch(t)
	return output(t, stdin, append([]string{filepath.Join(programs, "agent")}, args...)...)
}

// output runs a program to its end and gives its standard output.
func output(t testing.TB, stdin []byte, command ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", command, err, stderr.String())
	}
	return out
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func writeFile(t testing.TB, path, format string, args ...any) string {
	t.Helper()
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
