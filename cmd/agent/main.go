// Command waybill-agent is the telematics agent of a car: it reads CAN and GPS, keeps every sample through dead zones
// and power cuts, and delivers it over MQTT. The same binary holds the tools for a bench.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes of every command.
const (
	exitOK       = 0
	exitFailed   = 1 // the input could not be read, or the work failed
	exitUsage    = 2 // wrong flags or arguments
	exitFindings = 3 // the input was read and something is wrong with it
)

// exitError carries an exit code other than exitFailed. A nil Err prints nothing.
type exitError struct {
	Code int
	Err  error
}

func (e *exitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

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
	var coded *exitError
	if errors.As(err, &coded) {
		if coded.Err != nil {
			fmt.Fprintln(stderr, "waybill-agent:", coded.Err)
		}
		return coded.Code
	}
	fmt.Fprintln(stderr, "waybill-agent:", err)
	return exitFailed
}

func usageError(err error) error { return &exitError{Code: exitUsage, Err: err} }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "waybill-agent",
		Short:         "The telematics agent of a car, and its bench tools",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(fmt.Errorf("unknown command %q; see waybill-agent --help", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err) })
	root.AddCommand(runCommand(), checkCommand(), versionCommand(), canCommand(), gpsCommand(), batchCommand(), queueCommand())
	return root
}
