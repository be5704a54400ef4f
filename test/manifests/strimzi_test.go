package manifests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestStrimzi: Kafka's manifests are read by the classes of Strimzi's own API (Strimzi.java), and refused once they are broken.
func TestStrimzi(t *testing.T) {
	folders, err := exec.Command("../deps/fetch.sh", "java", "strimzi").Output()
	lines := strings.Fields(string(folders))
	if err != nil || len(lines) != 2 {
		missing(t, "Strimzi's classes: %v", err)
	}
	java, classes := filepath.Join(lines[0], "java"), t.TempDir()
	jars, err := filepath.Glob(filepath.Join(lines[1], "jars", "*.jar"))
	if err != nil || len(jars) == 0 {
		t.Fatalf("no jars: %v", err)
	}
	path := strings.Join(append(jars, classes), string(os.PathListSeparator))
	if text, err := exec.Command(java, "-m", "jdk.compiler/com.sun.tools.javac.Main", "-cp", path, "-d", classes, "Strimzi.java").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var all [][]byte
	for _, document := range build(t, "example") {
		if bytes.Contains(document, []byte("apiVersion: kafka.strimzi.io/")) {
			all = append(all, document)
		}
	}
	whole := bytes.Join(all, []byte("---\n"))
	if len(all) != 3 {
		t.Fatalf("%d manifests", len(all))
	}
	cases := []struct{ old, replacement, verdict string }{
		{"", "", "good"},
		{"deleteClaim:", "deleteClaims:", "UnrecognizedProperty"},
		{"patternType:", "pattern:", "UnrecognizedProperty"},
		{"port: 9093", "port: ninety", "Cannot coerce String value"},
		{"replicas: 3", `replicas: "3"`, "Cannot coerce String value"},
		{"size: 500Gi", "size: 500", "Cannot coerce Integer value"},
		{"kind: KafkaUser", "kind: KafkaUsers", "unknown kind"},
		{"strimzi.io/v1beta2", "strimzi.io/v1beta9", "unknown version"},
		{"type: jbod", "type: jbods", "InvalidTypeId"},
		{"      tls: true\n", "", "tls is required"},
		{"  replicas: 3\n", "", "replicas is required"},
		{"patternType: prefix", "patternType: all", "patternType cannot be"},
		{"- broker\n", "- brokers\n", "roles cannot be"},
	}
	args, dir := []string{"-XX:TieredStopAtLevel=1", "-cp", path, "Strimzi"}, t.TempDir()
	for i, c := range cases {
		broken := bytes.Replace(whole, []byte(c.old), []byte(c.replacement), 1)
		if i > 0 && bytes.Equal(broken, whole) {
			t.Errorf("there is no %q", c.old)
		}
		file := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
		if err := os.WriteFile(file, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	text, err := exec.Command(java, args...).Output()
	verdicts := strings.Split(strings.TrimSpace(string(text)), "\n")
	if err != nil || len(verdicts) != len(cases) {
		t.Fatalf("%v: %d verdicts for %d files:\n%s", err, len(verdicts), len(cases), text)
	}
	for i, c := range cases {
		if !strings.Contains(verdicts[i], c.verdict) {
			t.Errorf("%q in place of %q: %s, want %s", c.replacement, c.old, verdicts[i], c.verdict)
		}
	}
}
