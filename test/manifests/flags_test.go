package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// program is waybill-fleet, built for these tests.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "waybill-manifests-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "waybill-fleet")
		cmd := exec.Command("go", "build", "-o", program, "./cmd/fleet")
		cmd.Dir = "../.."
		if text, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, text)
			return 1
		}
		return m.Run()
	}())
}

// flags asks waybill-fleet itself whether it has the flags that a manifest gives it.
func flags(args []string) error {
	// With --help behind them flags are read, and nothing is done.
	text, err := exec.Command(program, append(append([]string(nil), args...), "--help")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("waybill-fleet %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	known := map[string]bool{}
	for _, flag := range regexp.MustCompile(`(?m)^\s+(--[a-z-]+)`).FindAllStringSubmatch(string(text), -1) {
		known[flag[1]] = true
	}
	for _, arg := range args {
		if flag, _, _ := strings.Cut(arg, "="); strings.HasPrefix(flag, "--") && !known[flag] {
			return fmt.Errorf("waybill-fleet %s has no %s", args[0], flag)
		}
	}
	return nil
}

func checkFlags(t *testing.T, who string, args []string) {
	t.Helper()
	if err := flags(args); err != nil {
		t.Errorf("%s: %v", who, err)
	}
}

// missing is the rule of test/deps: a failure in CI, a skip on a person's machine.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing in CI: "+format, args...)
	}
	t.Skipf("skipped: "+format, args...)
}
