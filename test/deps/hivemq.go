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

// HiveMQ starts HiveMQ's Community Edition, which keeps sessions and queued messages over Stop and Start in its folder,
// and returns when it accepts connections. dir "" is a temporary folder; elements are added to its config.xml.
func HiveMQ(t testing.TB, dir string, elements ...string) *Broker {
	t.Helper()
	return HiveMQConfig(t, dir, 1, func(ports []int) string {
		return fmt.Sprintf(`<?xml version="1.0"?>
<hivemq>
  <listeners><tcp-listener><port>%d</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
  %s
</hivemq>
`, ports[0], strings.Join(elements, "\n"))
	})
}

// HiveMQConfig starts HiveMQ with a configuration that is made from free ports, the first of which has to accept, and
// with variables (NAME=value) in its environment.
func HiveMQConfig(t testing.TB, dir string, ports int, config func(ports []int) string, env ...string) *Broker {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	jars, java := filepath.Join(Folder(t, "hivemq"), "jars", "*"), filepath.Join(Folder(t, "java"), "java")
	free := make([]int, ports)
	for i := range free {
		free[i] = freePort(t)
	}
	for _, folder := range []string{"conf", "data", "extensions"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "conf", "config.xml"), []byte(config(free)), 0o600); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(Root(t), "test", "deps", "HiveMQ.java")
	b := &Broker{
		Addr: fmt.Sprintf("127.0.0.1:%d", free[0]), Dir: dir, name: "hivemq", log: "hivemq.out", within: 2 * time.Minute, stdin: true,
		command: func() *exec.Cmd {
			cmd := exec.Command(java, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", jars, source, dir)
			cmd.Env = append(os.Environ(), env...)
			return cmd
		},
	}
	return b.run(t)
}
