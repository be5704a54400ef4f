package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"testing"

	"github.com/spf13/cobra"
)

func TestErrorsBecomeExitCodes(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"good"}, OK, ""},
		{[]string{"bad"}, Failed, "tool: it broke\n"},
		{[]string{"findings"}, Findings, ""},
		{[]string{"good", "--wrong"}, Usage, "tool: unknown flag: --wrong\n"},
		{[]string{"good", "more"}, Usage, "tool: unexpected argument \"more\"; see tool good --help\n"},
		{[]string{"gone"}, Usage, "tool: unknown command \"gone\"; see tool --help\n"},
	} {
		run := func(err error) func(*cobra.Command, []string) error {
			return func(*cobra.Command, []string) error { return err }
		}
		root := Group("tool", "a tool",
			&cobra.Command{Use: "good", Args: NoArguments, RunE: run(nil)},
			&cobra.Command{Use: "bad", RunE: run(errors.New("it broke"))},
			&cobra.Command{Use: "findings", RunE: run(&Error{Code: Findings})})
		var stderr bytes.Buffer
		if code := Execute(root, c.args, &stderr); code != c.code || stderr.String() != c.says {
			t.Errorf("%v: exit code %d, %q; want %d, %q", c.args, code, stderr.String(), c.code, c.says)
		}
	}
}

func TestNumbersReadBackEqual(t *testing.T) {
	for _, v := range []float64{0, math.Copysign(0, -1), 1, -1, 0.1, 1e-300, math.MaxFloat64, math.SmallestNonzeroFloat64, 1<<53 - 1, 1 << 53, 1 << 62, 1e21, -123456.789} {
		text := AppendFloat(nil, v)
		var back float64
		if err := json.Unmarshal(text, &back); err != nil || math.Float64bits(back) != math.Float64bits(v) {
			t.Errorf("%g is printed as %s, which reads as %g: %v", v, text, back, err)
		}
	}
	for v, want := range map[float64]string{42: "42", -7: "-7", math.Inf(1): `"Infinity"`, math.Inf(-1): `"-Infinity"`} {
		if got := string(AppendFloat(nil, v)); got != want {
			t.Errorf("%g is printed as %s", v, got)
		}
	}
	if got := string(AppendFloat(nil, math.NaN())); got != `"NaN"` {
		t.Errorf("NaN is printed as %s", got)
	}
}
