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
	if dir == "" {
		dir = t.TempDir()
	}
	jars, java := filepath.Join(Folder(t, "hivemq"), "jars", "*"), filepath.Join(Folder(t, "java"), "java")
	port := freePort(t)
	for _, folder := range []string{"conf", "data", "extensions"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf(`<?xml version="1.0"?>
<hivemq>
  <listeners><tcp-listener><port>%d</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
  %s
</hivemq>
`, port, strings.Join(elements, "\n"))
	if err := os.WriteFile(filepath.Join(dir, "conf", "config.xml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(Root(t), "test", "deps", "HiveMQ.java")
	b := &Broker{
		Addr: fmt.Sprintf("127.0.0.1:%d", port), Dir: dir, name: "hivemq", log: "hivemq.out", within: 2 * time.Minute, stdin: true,
		command: func() *exec.Cmd {
			return exec.Command(java, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", jars, source, dir)
		},
	}
	return b.run(t)
}
