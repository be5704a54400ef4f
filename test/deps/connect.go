package deps

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Connect starts a Kafka Connect worker of one process with the settings in a file and the connectors in others, and
// returns when its REST interface, on 127.0.0.1, answers and all connectors with their tasks run. Its plugins are Debezium's JDBC sink and
// MongoDB's. The files find in the environment what env says, and WAYBILL_CONNECT_PORT and WAYBILL_CONNECT_OFFSETS.
func Connect(t testing.TB, env []string, worker string, connectors ...string) *Broker {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	plugins := filepath.Join(dir, "plugins")
	if err := os.Mkdir(plugins, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"connect-jdbc", "connect-mongo"} {
		if err := os.Symlink(filepath.Join(Folder(t, group), "jars"), filepath.Join(plugins, group)); err != nil {
			t.Fatal(err)
		}
	}
	settings, err := os.ReadFile(worker)
	if err != nil {
		t.Fatal(err)
	}
	settings = regexp.MustCompile(`(?m)^plugin\.path=.*$`).ReplaceAll(settings, []byte("plugin.path="+plugins))
	worker = filepath.Join(dir, "worker.properties")
	if err := os.WriteFile(worker, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	jars, java := filepath.Join(Folder(t, "connect"), "jars", "*"), filepath.Join(Folder(t, "java"), "java")
	b := &Broker{
		Addr: fmt.Sprintf("127.0.0.1:%d", port), Dir: dir, name: "connect", log: "connect.out", within: 3 * time.Minute,
		command: func() *exec.Cmd {
			cmd := exec.Command(java, append([]string{"-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
				"-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", jars, "org.apache.kafka.connect.cli.ConnectStandalone", worker}, connectors...)...)
			cmd.Env = append(append(os.Environ(), env...),
				fmt.Sprintf("WAYBILL_CONNECT_PORT=%d", port), "WAYBILL_CONNECT_OFFSETS="+filepath.Join(dir, "offsets"))
			return cmd
		},
	}
	b.ready = func() error {
		for _, path := range []string{"/", "/connectors?expand=status"} {
			answer, err := http.Get("http://" + b.Addr + path)
			if err != nil {
				return err
			}
			text, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil || answer.StatusCode != http.StatusOK || strings.Count(string(text), `"RUNNING"`) < len(connectors) && path != "/" {
				return fmt.Errorf("%s: %s: %s", path, answer.Status, text)
			}
		}
		return nil
	}
	return b.run(t)
}
