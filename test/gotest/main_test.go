package main

import (
	"errors"
	"io"
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
		r := &report{out: &out, pending: map[string][]string{}}
		r.read(strings.NewReader(c.lines))
		if code := r.close(c.err, c.strict); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: exit code %d, want %d, and %q in:\n%s", name, code, c.code, c.says, out.String())
		}
	}
}

func TestOutputOfTestsThatPassIsNotShown(t *testing.T) {
	r := &report{out: io.Discard, pending: map[string][]string{}}
	var out strings.Builder
	r.out = &out
	r.read(strings.NewReader(`{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}` + "\n" +
		`{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"))
	if out.String() != "" {
		t.Errorf("printed %q", out.String())
	}
}
