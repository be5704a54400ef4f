// Command gotest runs `go test` with the arguments given, prints what went wrong and one line a package, and closes
// with a line of counts. With CI=true a skipped test fails the run, so that a part that is missing does not pass for a
// part that works; -allow-skips says that this run is a subset by intent. -goarch tests for another machine than this
// one, which GOARCH itself cannot say: `go run` would build this program for it.
//
// usage: go run ./test/gotest [-allow-skips] [-goarch ARCH] [go test flags and packages]
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// report counts tests and holds back what a test prints until it is known to have failed.
type report struct {
	out                     io.Writer
	passed, failed, skipped int
	skips                   []string
	pending                 map[string][]string // output by package and test
}

func main() {
	args, env, allowSkips := os.Args[1:], os.Environ(), false
	for len(args) > 0 {
		if args[0] == "-allow-skips" {
			args, allowSkips = args[1:], true
		} else if args[0] == "-goarch" && len(args) > 1 {
			args, env = args[2:], append(env, "GOARCH="+args[1])
		} else {
			break
		}
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Env, cmd.Stderr = env, os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
	r := &report{out: os.Stdout, pending: map[string][]string{}}
	r.read(pipe)
	err = cmd.Wait()
	strict := os.Getenv("CI") == "true" && !allowSkips
	os.Exit(r.close(err, strict))
}

func (r *report) read(lines io.Reader) {
	scanner := bufio.NewScanner(lines)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var e event
		if json.Unmarshal(scanner.Bytes(), &e) != nil {
			fmt.Fprintln(r.out, scanner.Text())
			continue
		}
		r.take(e)
	}
	if err := scanner.Err(); err != nil {
		r.failed++
		fmt.Fprintln(r.out, "gotest: reading go test's output:", err)
	}
}

func (r *report) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		r.pending[key] = append(r.pending[key], e.Output)
	case "pass", "fail", "skip":
		output := strings.Join(r.pending[key], "")
		delete(r.pending, key)
		if e.Test == "" {
			r.closePackage(e, output)
			return
		}
		switch e.Action {
		case "pass":
			r.passed++
		case "fail":
			r.failed++
			fmt.Fprint(r.out, output)
		case "skip":
			r.skipped++
			r.skips = append(r.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(output)))
		}
	}
}

// closePackage prints a package's own closing line, and all it has when it failed outside of its tests: a panic, a
// data race, a time-out.
func (r *report) closePackage(e event, output string) {
	if e.Action == "fail" {
		for key, lines := range r.pending {
			if strings.HasPrefix(key, e.Package+" ") {
				fmt.Fprint(r.out, strings.Join(lines, ""))
				delete(r.pending, key)
			}
		}
		fmt.Fprint(r.out, output)
		return
	}
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "ok ") || strings.HasPrefix(line, "ok\t") {
			fmt.Fprint(r.out, line)
		}
	}
}

// close prints the counts and returns the exit code.
func (r *report) close(err error, strict bool) int {
	for _, skip := range r.skips {
		fmt.Fprintln(r.out, "skipped:", skip)
	}
	code := 0
	if err != nil || r.failed > 0 {
		code = 1
	}
	if strict && r.skipped > 0 {
		fmt.Fprintln(r.out, "gotest: tests were skipped, and CI=true")
		code = 1
	}
	if r.passed+r.failed == 0 {
		fmt.Fprintln(r.out, "gotest: no test ran")
		code = 1
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return code
}

// reason is the line in which a test says why it skipped.
func reason(output string) string {
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			return line
		}
	}
	return "no reason given"
}
