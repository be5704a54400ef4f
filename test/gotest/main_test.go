package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const passes = `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"
	const skips = `{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:1: no bus here\n"}` + "\n" +
		`{"Action":"skip","Package":"p","Test":"TestB"}` + "\n"
	const fails = `{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:2: 1, want 2\n"}` + "\n" +
		`{"Action":"fail","Package":"p","Test":"TestC"}` + "\n"
	const panics = `{"Action":"output","Package":"p","Test":"TestD","Output":"panic: gone\n"}` + "\n" +
		`{"Action":"fail","Package":"p"}` + "\n"
	for name, c := range map[string]struct {
		lines  string
		err    error
		strict bool
		code   int
		says   string
	}{
		"all pass":             {passes, nil, true, 0, "1 passed, 0 failed, 0 skipped\n"},
		"a skip, by a person":  {passes + skips, nil, false, 0, "skipped: p TestB: b_test.go:1: no bus here\n"},
		"a skip, in CI":        {passes + skips, nil, true, 1, "1 passed, 0 failed, 1 skipped\n"},
		"a failure":            {passes + fails, errors.New("exit status 1"), false, 1, "c_test.go:2: 1, want 2\n"},
		"no test":              {"", nil, false, 1, "no test ran"},
		"a panic":              {passes + panics, errors.New("exit status 1"), false, 1, "panic: gone\n"},
		"a package that fails": {passes, errors.New("exit status 1"), false, 1, "1 passed, 0 failed"},
	} {
		var out strings.Builder
		r := newReport(&out)
		r.read(strings.NewReader(c.lines))
		if code := r.close(c.err, c.strict); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: exit code %d, want %d, and %q in:\n%s", name, code, c.code, c.says, out.String())
		}
	}
}

func TestOutputOfTestsThatPassIsNotShown(t *testing.T) {
	var out strings.Builder
	r := newReport(&out)
	r.read(strings.NewReader(`{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}` + "\n" +
		`{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"))
	if out.String() != "" {
		t.Errorf("printed %q", out.String())
	}
}

// A failure is taken back when the test passes alone, with its parts, and by the flags of the first run; never one that
// raced or panicked, or one of many.
func TestAgain(t *testing.T) {
	fails := func(names ...string) (lines string) {
		for _, name := range names {
			lines += `{"Action":"fail","Package":"p","Test":"` + name + `"}` + "\n"
		}
		return lines + `{"Action":"fail","Package":"p"}` + "\n"
	}
	says := func(text string) string {
		return `{"Action":"output","Package":"p","Test":"TestA","Output":"` + text + `"}` + "\n"
	}
	const passes = `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"
	for name, c := range map[string]struct {
		first, second string
		err           error
		failed, late  int
	}{
		"late":            {fails("TestA/part", "TestA"), passes, nil, 0, 1},
		"fails again":     {fails("TestA"), fails("TestA"), errors.New("exit status 1"), 1, 0},
		"skips then":      {fails("TestA"), `{"Action":"skip","Package":"p","Test":"TestA"}` + "\n", nil, 1, 0},
		"raced":           {says("WARNING: DATA RACE") + fails("TestA"), passes, nil, 1, 0},
		"panicked":        {says("panic: gone") + fails("TestA"), passes, nil, 1, 0},
		"four":            {fails("TestA", "TestB", "TestC", "TestD"), passes, nil, 4, 0},
		"did not end":     {says("panic: test timed out") + fails(), passes, nil, 0, 0},
		"fails elsewhere": {fails("TestA") + `{"Action":"fail","Package":"q"}` + "\n", passes, nil, 1, 0},
	} {
		var out strings.Builder
		r := newReport(&out)
		r.read(strings.NewReader(c.first))
		var late []string
		if r.worthAgain() {
			late = r.again([]string{"-race", "-run", "x", "-timeout", "1m", "./a"}, func(second *report, args []string) error {
				if want := []string{"-race", "-timeout", "1m", "-count=1", "-run", "^TestA$", "p"}; !slices.Equal(args, want) {
					t.Errorf("%s: runs %q, want %q", name, args, want)
				}
				second.read(strings.NewReader(c.second))
				return c.err
			})
		}
		if r.failed != c.failed || len(late) != c.late {
			t.Errorf("%s: %d failed and %d late, want %d and %d", name, r.failed, len(late), c.failed, c.late)
		}
	}
}
