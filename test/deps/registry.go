package deps

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// SchemaRegistry starts Apicurio Registry, which keeps what it is told in memory, and gives the URL of its interface that is Confluent's.
func SchemaRegistry(t testing.TB) (url string) {
	t.Helper()
	jars, _ := filepath.Glob(filepath.Join(Folder(t, "registry"), "*-runner.jar"))
	java := filepath.Join(Folder(t, "java"), "java")
	if len(jars) != 1 {
		t.Fatalf("the registry's archive holds %v, want one runner", jars)
	}
	port := freePort(t)
	url = fmt.Sprintf("http://127.0.0.1:%d/apis/ccompat/v7", port)
	b := &Broker{
		Addr: fmt.Sprintf("127.0.0.1:%d", port), Dir: t.TempDir(), name: "registry", log: "registry.out", within: 3 * time.Minute,
		command: func() *exec.Cmd {
			return exec.Command(java, "-Xmx300m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dquarkus.http.host=127.0.0.1", fmt.Sprintf("-Dquarkus.http.port=%d", port), "-jar", jars[0])
		},
		ready: func() error {
			answer, err := http.Get(url + "/subjects")
			if err != nil {
				return err
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				return fmt.Errorf("%s", answer.Status)
			}
			return nil
		},
	}
	b.run(t)
	return url
}

// Confluent runs Python with Confluent's client for Kafka and for schema registries.
func Confluent(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(filepath.Join(Folder(t, "confluent"), "python3"), args...)
}
