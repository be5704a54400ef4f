// Command gotest runs `go test` with the arguments given, prints what went wrong and one line a package, and closes
// with a line of counts. With CI=true a skipped test fails the run, so that a part that is missing does not pass for a
// part that works; -allow-skips says that this run is a subset by intent. -goarch tests for another machine than this
// one, which GOARCH itself cannot say: `go run` would build this program for it.
//
// With -again up to three tests that failed run once more, each alone, when all is over: real kernels, brokers and
// databases on a busy machine are late at times. One that passes then is named in the last line. What raced, panicked or
// ran out of time is not given a second try, nor is a package that failed as a whole.
//
// usage: go run ./test/gotest [-allow-skips] [-again] [-goarch ARCH] [go test flags and packages]
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
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
	parts                   map[string]int      // that failed, by package and test
	failures                []failure           // of whole tests, not of their parts
	broken                  bool                // something failed that a second try says nothing about
}

// failure is a test that failed.
type failure struct {
	pkg, test string
	count     int // itself, and its parts that failed
}

func main() {
	args, env, allowSkips, again := os.Args[1:], os.Environ(), false, false
	for len(args) > 0 {
		if args[0] == "-allow-skips" {
			args, allowSkips = args[1:], true
		} else if args[0] == "-again" {
			args, again = args[1:], true
		} else if args[0] == "-goarch" && len(args) > 1 {
			args, env = args[2:], append(env, "GOARCH="+args[1])
		} else {
			break
		}
	}
	run := func(r *report, args []string) error {
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
		r.read(pipe)
		return cmd.Wait()
	}
	r := newReport(os.Stdout)
	err := run(r, args)
	var late []string
	if again && r.worthAgain() {
		late = r.again(args, run)
		if r.failed == 0 {
			err = nil
		}
	}
	strict := os.Getenv("CI") == "true" && !allowSkips
	code := r.close(err, strict)
	for _, name := range late {
		fmt.Println("failed, and passed alone:", name)
	}
	os.Exit(code)
}

func newReport(out io.Writer) *report {
	return &report{out: out, pending: map[string][]string{}, parts: map[string]int{}}
}

// worthAgain says whether what failed may have been late only.
func (r *report) worthAgain() bool {
	return !r.broken && len(r.failures) > 0 && len(r.failures) <= 3
}

// again runs each test that failed alone, and takes back the failure of those that pass. It returns their names.
func (r *report) again(args []string, run func(*report, []string) error) (late []string) {
	for _, f := range r.failures {
		fmt.Fprintf(r.out, "gotest: once more, alone: %s %s\n", f.pkg, f.test)
		second := newReport(r.out)
		err := run(second, append(flagsOf(args), "-count=1", "-run", "^"+f.test+"$", f.pkg))
		if err == nil && second.passed > 0 && second.failed == 0 && second.skipped == 0 {
			r.failed -= f.count
			r.passed++
			late = append(late, f.pkg+" "+f.test)
		}
	}
	return late
}

// flagsOf are go test's flags but those that choose tests; packages are written as paths here.
func flagsOf(args []string) (flags []string) {
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-run" || args[i] == "-skip":
			i++
		case strings.HasPrefix(args[i], "./") || strings.Contains(args[i], "github.com/"):
		default:
			flags = append(flags, args[i])
		}
	}
	return flags
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
		r.failed, r.broken = r.failed+1, true
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
			r.fail(e, output)
		case "skip":
			r.skipped++
			r.skips = append(r.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(output)))
		}
	}
}

func (r *report) fail(e event, output string) {
	r.failed++
	fmt.Fprint(r.out, output)
	for _, word := range []string{"DATA RACE", "race detected", "panic:", "fatal error:"} {
		r.broken = r.broken || strings.Contains(output, word)
	}
	// A test is closed after its parts.
	if whole, _, part := strings.Cut(e.Test, "/"); !part {
		count := r.parts[e.Package+" "+whole] + 1
		r.failures = append(r.failures, failure{e.Package, whole, count})
	} else {
		r.parts[e.Package+" "+whole]++
	}
}

// closePackage prints a package's own closing line, and all it has when it failed outside of its tests: a panic, a
// data race, a time-out.
func (r *report) closePackage(e event, output string) {
	if e.Action == "fail" {
		known := slices.ContainsFunc(r.failures, func(f failure) bool { return f.pkg == e.Package })
		r.broken = r.broken || !known
		for key, lines := range r.pending {
			if strings.HasPrefix(key, e.Package+" ") {
				r.broken = true // it did not come to its end
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
