// Package docs holds the documents to the programs: each command line that they show has to be one that its program takes, and
// those marked as tried are run as they stand.
package docs

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// programs are built once, under the names that `make build` gives them.
func programs(t *testing.T, folder string) {
	t.Helper()
	for _, name := range []string{"agent", "launcher", "fleet", "simulate"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(folder, "waybill-"+name), "./cmd/"+name)
		cmd.Dir, cmd.Env = deps.Root(t), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, out)
		}
	}
}

// documents are all that have command lines, from the root.
func documents(t *testing.T) (list []string) {
	t.Helper()
	for _, pattern := range []string{"README.md", "docs/*.md", "deploy/*.md", "deploy/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(deps.Root(t), pattern))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, found...)
	}
	if len(list) < 20 {
		t.Fatalf("%d documents: the pattern is wrong", len(list))
	}
	return list
}

// shown is one command line in a document.
type shown struct {
	file    string
	line    int
	program string
	words   []string
}

var (
	inline  = regexp.MustCompile("`([^`]+)`")
	ours    = regexp.MustCompile(`(?:^|[\s(=])(?:[\w./]*/)?(waybill-(?:agent|launcher|fleet|simulate)) ([^\n]*)`)
	ends    = regexp.MustCompile(`(?:^|\s)(?:[|;)#]|&&?|\d?[<>]).*$`)
	aligned = regexp.MustCompile(`   .*$`) // a remark beside it
)

// commandLines finds them in indented blocks, fences and backquotes. A line that ends in a backslash goes on.
func commandLines(file, text string) (list []shown) {
	fenced, joined, first := false, "", 0
	for n, line := range strings.Split(text, "\n") {
		var code []string
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced || strings.HasPrefix(line, "    "):
			if joined == "" {
				first = n + 1
			}
			if rest, more := strings.CutSuffix(line, `\`); more {
				joined += rest
				continue
			}
			code, joined = []string{joined + strings.TrimPrefix(line, "    ")}, ""
		default:
			first = n + 1
			for _, m := range inline.FindAllStringSubmatch(line, -1) {
				code = append(code, m[1])
			}
		}
		for _, c := range code {
			m := ours.FindStringSubmatch(c)
			if m == nil || strings.HasPrefix(strings.TrimSpace(c), "#") {
				continue
			}
			words := strings.ReplaceAll(m[2], `\|`, "|") // of a table
			words = ends.ReplaceAllString(aligned.ReplaceAllString(words, ""), "")
			list = append(list, shown{file, first, m[1], strings.Fields(words)})
		}
	}
	return list
}

// helper asks programs for their help.
type helper struct {
	folder string
	known  map[string]string
}

func (h *helper) help(t *testing.T, path ...string) string {
	t.Helper()
	key := strings.Join(path, " ")
	if text, ok := h.known[key]; ok {
		return text
	}
	out, err := exec.Command(filepath.Join(h.folder, path[0]), append(slices.Clone(path[1:]), "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s --help: %v\n%s", key, err, out)
	}
	h.known[key] = string(out)
	return string(out)
}

var (
	commandName = regexp.MustCompile(`(?m)^  ([a-z][a-z0-9-]*) +\S`)
	flagName    = regexp.MustCompile(`(--[a-z][a-z0-9-]*|-[a-zA-Z]\b)`)
	word        = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
)

// commands are those that a help text lists; none where it is no group's.
func commands(help string) (list []string) {
	_, rest, found := strings.Cut(help, "Available Commands:\n")
	if !found {
		return nil
	}
	rest, _, _ = strings.Cut(rest, "\n\n")
	for _, m := range commandName.FindAllStringSubmatch(rest, -1) {
		list = append(list, m[1])
	}
	return list
}

// check says what is wrong with a command line, by the help of its command.
func (h *helper) check(t *testing.T, s shown) string {
	t.Helper()
	paths := [][]string{{s.program}} // several where the line has alternatives, ls|verify
	words := s.words
	for len(words) > 0 {
		var deeper [][]string
		for _, p := range paths {
			list := commands(h.help(t, p...))
			for _, name := range strings.Split(words[0], "|") {
				if slices.Contains(list, name) {
					deeper = append(deeper, append(slices.Clone(p), name))
				} else if len(list) > 0 && word.MatchString(name) {
					return fmt.Sprintf("%s has no command %q", strings.Join(p, " "), name)
				}
			}
		}
		if len(deeper) == 0 {
			break
		}
		paths, words = deeper, words[1:]
	}
	for _, w := range words {
		for _, flag := range strings.Split(strings.Trim(w, "[],."), "|") {
			name := flagName.FindString(flag)
			if name == "" || !strings.HasPrefix(flag, name) || name == "--help" {
				continue
			}
			for _, p := range paths {
				if !slices.Contains(flagName.FindAllString(h.help(t, p...), -1), name) {
					return fmt.Sprintf("%s has no flag %s", strings.Join(p, " "), name)
				}
			}
		}
	}
	return ""
}

// Every command line in the documents is one of a program's: its command is there, and so are its flags.
func TestCommandsThatDocumentsShow(t *testing.T) {
	h := &helper{folder: t.TempDir(), known: map[string]string{}}
	programs(t, h.folder)
	seen := 0
	for _, file := range documents(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(deps.Root(t), file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range commandLines(name, string(text)) {
			seen++
			if wrong := h.check(t, s); wrong != "" {
				t.Errorf("%s:%d: %s %s: %s", s.file, s.line, s.program, strings.Join(s.words, " "), wrong)
			}
		}
	}
	if seen < 80 {
		t.Errorf("%d command lines found", seen)
	}
	for line, want := range map[string]string{
		"waybill-agent nonsense": "no command", "waybill-agent can nonsense x": "no command", "waybill-agent check --nonsense": "no flag", "waybill-agent queue ls|nonsense DIR": "no command",
		"waybill-agent check -c agent.yaml": "", "waybill-agent queue ls|verify DIR": "", "waybill-fleet ota …": "",
	} {
		list := commandLines("x", "    "+line+"\n")
		if len(list) != 1 {
			t.Fatalf("%q: %+v", line, list)
		}
		if wrong := h.check(t, list[0]); (want == "") != (wrong == "") || !strings.Contains(wrong, want) {
			t.Errorf("%q: %q, want %q", line, wrong, want)
		}
	}
}

// tried is what marks a block of command lines that this test runs.
const tried = "<!-- tried -->"

// blocks are the marked ones, in order.
func blocks(text string) (script string) {
	marked := false
	for _, line := range strings.Split(text, "\n") {
		switch {
		case line == tried:
			marked = true
		case marked && strings.HasPrefix(line, "    "):
			script += strings.TrimPrefix(line, "    ") + "\n"
		case marked && line != "" && script != "":
			marked = false
		}
	}
	return script
}

// What a document marks as tried is run from its beginning to its end, in a folder with bin/ and examples/ in it, by a shell that ends
// with the first command that fails. Addresses on loopback are free ones.
func TestBlocksThatAreTried(t *testing.T) {
	bin := t.TempDir()
	programs(t, bin)
	ran := 0
	for _, file := range documents(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		script := blocks(string(text))
		if script == "" {
			continue
		}
		ran++
		t.Run(filepath.Base(file), func(t *testing.T) {
			dir := t.TempDir()
			for name, target := range map[string]string{"bin": bin, "examples": filepath.Join(deps.Root(t), "examples")} {
				if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			ports := map[string]string{}
			script := regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllStringFunc(script, func(address string) string {
				if ports[address] == "" {
					ports[address] = free(t)
				}
				return ports[address]
			})
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			// What runs in the background ends with the shell.
			cmd := exec.CommandContext(ctx, "bash", "-c", "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n"+script)
			cmd.Dir, cmd.WaitDelay = dir, time.Minute
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s\n--- said:\n%s", err, script, out)
			}
		})
	}
	if ran == 0 {
		t.Error("no document has a block that is tried")
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
