package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/deps"
)

// TestManualPages: a page for each command, with each of its options, that groff takes without a word.
func TestManualPages(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "man1")
	var stderr bytes.Buffer
	if code := cli.Execute(rootCommand(), []string{"man", folder}, &stderr); code != cli.OK {
		t.Fatal(stderr.String())
	}
	pages := 0
	var each func(cmd *cobra.Command)
	each = func(cmd *cobra.Command) {
		text, err := os.ReadFile(filepath.Join(folder, manualName(cmd)+".1"))
		if err != nil {
			t.Fatal(err)
		}
		pages++
		plain := strings.NewReplacer(`\-`, "-", `\fB`, "", `\fI`, "", `\fR`, "", `\e`, `\`, `\&`, "").Replace(string(text))
		if !strings.Contains(plain, cmd.Short) {
			t.Errorf("%s does not say %q", manualName(cmd), cmd.Short)
		}
		for line := range strings.Lines(cmd.LocalFlags().FlagUsages()) {
			if name := regexp.MustCompile(`--[a-z0-9-]+`).FindString(line); name != "" && !strings.Contains(plain, name) {
				t.Errorf("%s does not know %s", manualName(cmd), name)
			}
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, ".") && !regexp.MustCompile(`^\.(TH|SH|PP|TP|B|BR|nf|fi)\b`).MatchString(line) {
				t.Errorf("%s has a line that is taken for a macro: %q", manualName(cmd), line)
			}
		}
		for _, below := range manuals(cmd) {
			each(below)
		}
	}
	each(rootCommand())
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != pages || pages < 20 {
		t.Errorf("%d pages for %d commands, %v", len(entries), pages, err)
	}
	if testing.Short() {
		return // what groff says of them does not depend on the processor
	}
	files, _ := filepath.Glob(filepath.Join(folder, "*.1"))
	groff := deps.Program(t, "groff", "groff", append([]string{"-man", "-Tutf8", "-ww", "-z"}, files...)...)
	share := filepath.Join(deps.Folder(t, "groff"), "usr/share/groff/current")
	groff.Env = append(groff.Environ(), "GROFF_FONT_PATH="+share+"/font", "GROFF_TMAC_PATH="+share+"/tmac",
		"PATH="+filepath.Dir(groff.Path)+":"+os.Getenv("PATH"))
	if out, err := groff.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}

// TestCompletion: a shell that asks for words gets those of the commands and of their values.
func TestCompletion(t *testing.T) {
	for line, want := range map[string]string{
		"d": "doctor", "doctor --as": "--as-vehicle", "queue ": "salvage", "init --db": "--dbc",
		"queue export --lane ": "telemetry",
	} {
		var stdout, stderr bytes.Buffer
		root := rootCommand()
		root.SetOut(&stdout)
		if code := cli.Execute(root, append([]string{"__complete"}, strings.Split(line, " ")...), &stderr); code != cli.OK ||
			!strings.Contains(stdout.String(), want) {
			t.Errorf("%q completes to %q, want %s among them (exit code %d)", line, stdout.String(), want, code)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var stdout, stderr bytes.Buffer
		root := rootCommand()
		root.SetOut(&stdout)
		if code := cli.Execute(root, []string{"completion", shell}, &stderr); code != cli.OK ||
			!strings.Contains(stdout.String(), "waybill-agent") {
			t.Errorf("%s: exit code %d, %s", shell, code, stderr.String())
		}
		if shell != "bash" {
			continue
		}
		check := exec.Command("bash", "-n")
		check.Stdin = &stdout
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("bash does not take it: %v\n%s", err, out)
		}
	}
}
