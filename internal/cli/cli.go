// Package cli is what the command lines of all programs share: exit codes, how an error becomes words, and how numbers
// are printed as JSON.
package cli

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/spf13/cobra"
)

// Exit codes of every command.
const (
	OK       = 0
	Failed   = 1 // the input could not be read, or the work failed
	Usage    = 2 // wrong flags or arguments
	Findings = 3 // the input was read, and something is wrong with it
)

// Error carries an exit code other than Failed. A nil Err prints nothing.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// UsageError marks an error as the user's way of calling.
func UsageError(err error) error { return &Error{Code: Usage, Err: err} }

// Execute runs a command line and turns its error into words on stderr and an exit code.
func Execute(root *cobra.Command, args []string, stderr io.Writer) int {
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return OK
	}
	var coded *Error
	if !errors.As(err, &coded) {
		coded = &Error{Code: Failed, Err: err}
	}
	if coded.Err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", root.Name(), coded.Err)
	}
	return coded.Code
}

// Group makes a command that only holds others: alone it prints its help.
func Group(use, short string, commands ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{
		Use:           use,
		Short:         short,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return UsageError(fmt.Errorf("unknown command %q; see %s --help", args[0], cmd.CommandPath()))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	group.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return UsageError(err) })
	group.AddCommand(commands...)
	return group
}

// NoArguments refuses positional arguments.
func NoArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return UsageError(fmt.Errorf("unexpected argument %q; see %s --help", args[0], cmd.CommandPath()))
	}
	return nil
}

// AppendFloat appends a JSON number: the shortest that reads back equal, whole numbers without a fraction. NaN and the
// infinities, which JSON lacks, become the strings "NaN", "Infinity" and "-Infinity".
func AppendFloat(dst []byte, v float64) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, `"NaN"`...)
	case math.IsInf(v, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(v, -1):
		return append(dst, `"-Infinity"`...)
	case v == 0 && math.Signbit(v):
		return append(dst, "-0"...)
	case v == math.Trunc(v) && math.Abs(v) < 1<<53:
		return strconv.AppendInt(dst, int64(v), 10)
	}
	return strconv.AppendFloat(dst, v, 'g', -1, 64)
}
