package deploy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// promtool runs Prometheus's own checker in a folder.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := deps.Program(t, "prometheus", "promtool", args...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, text)
	}
}

// TestRules: Prometheus takes the rules, and they fire when they should and not otherwise.
func TestRules(t *testing.T) {
	dir := filepath.Join(deps.Root(t), "deploy", "prometheus")
	promtool(t, dir, "check", "rules", "--lint-fatal", "waybill.rules.yml")
	promtool(t, dir, "test", "rules", "waybill.rules_test.yml")
}

// TestDashboard: every expression of the dashboard is one for Prometheus, and rules and dashboard speak of metrics that
// a real receiver has.
func TestDashboard(t *testing.T) {
	root := deps.Root(t)
	text, err := os.ReadFile(filepath.Join(root, "deploy", "grafana", "waybill-fleet.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	rules := "groups:\n  - name: dashboard\n    rules:\n"
	n := 0
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			n++
			expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(target.Expr)
			rules += fmt.Sprintf("      - record: waybill:panel%d\n        expr: %q\n", n, expr)
		}
	}
	if n < len(dashboard.Panels) || n == 0 {
		t.Fatalf("%d expressions in %d panels", n, len(dashboard.Panels))
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dashboard.yml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, dir, "check", "rules", "--lint-fatal", "dashboard.yml")

	alerts, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "waybill.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	served := metricNames(t)
	for _, name := range regexp.MustCompile(`waybill_fleet_\w+`).FindAllString(rules+string(alerts), -1) {
		if strings.HasPrefix(name, "waybill_fleet_outbox_") {
			continue // served with --decoded alone: TestRelayMetrics of cmd/fleet
		}
		if name != "waybill_fleet_lost" && !served[name] { // an empty ledger has no reason yet
			t.Errorf("%s is no metric of the receiver", name)
		}
	}
}

// metricNames are those of a receiver that was just started.
func metricNames(t *testing.T) map[string]bool {
	t.Helper()
	dir := t.TempDir()
	fleet := filepath.Join(dir, "waybill-fleet")
	if text, err := exec.Command("go", "build", "-o", fleet, "../../cmd/fleet").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	cmd := exec.Command(fleet, "serve", "--db", filepath.Join(dir, "fleet.db"), "--broker", "tcp://127.0.0.1:1", "--metrics", "127.0.0.1:0", "--json")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	url := ""
	for lines := bufio.NewScanner(log); url == "" && lines.Scan(); {
		url = regexp.MustCompile(`http://127\.0\.0\.1:\d+/metrics`).FindString(lines.Text())
	}
	go func() { _, _ = io.Copy(io.Discard, log) }() // ends with the process
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	names := map[string]bool{}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if name := regexp.MustCompile(`^waybill_fleet_\w+`).FindString(lines.Text()); name != "" {
			names[name] = true
		}
	}
	return names
}
