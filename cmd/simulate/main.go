// Command waybill-simulate is a vehicle of our own making: a drive whose frames and GPS sentences go to a CAN interface,
// a pseudo-terminal, or files, so that the whole way from bus to store can be tried without a car.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/test/drive"
)

// Exit codes of every command.
const (
	exitOK     = 0
	exitFailed = 1 // an output could not be written
	exitUsage  = 2 // wrong flags or arguments
)

// exitError carries an exit code other than exitFailed.
type exitError struct {
	Code int
	Err  error
}

func (e *exitError) Error() string { return e.Err.Error() }
func (e *exitError) Unwrap() error { return e.Err }

func main() {
	os.Exit(execute(rootCommand(), os.Args[1:], os.Stderr))
}

// execute runs a command line and turns its error into words and an exit code.
func execute(root *cobra.Command, args []string, stderr io.Writer) int {
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(stderr, "waybill-simulate:", err)
	var coded *exitError
	if errors.As(err, &coded) {
		return coded.Code
	}
	return exitFailed
}

func usageError(err error) error { return &exitError{Code: exitUsage, Err: err} }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "waybill-simulate",
		Short:         "A simulated vehicle for the bench",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(fmt.Errorf("unknown command %q; see waybill-simulate --help", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err) })
	root.AddCommand(driveCommand(), dbcCommand())
	return root
}

func dbcCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "dbc",
		Short: "Print the DBC file of the simulated car",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(drive.DBC())
			return err
		},
	}
}

// noArguments refuses positional arguments with the usage exit code.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(fmt.Errorf("unexpected argument %q; see %s --help", args[0], cmd.CommandPath()))
	}
	return nil
}
