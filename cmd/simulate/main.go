// Command waybill-simulate is a vehicle of our own making: a drive whose frames and GPS sentences go to a CAN interface,
// a pseudo-terminal, or files, so that the whole way from bus to store can be tried without a car.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/drive"
)

func main() {
	os.Exit(cli.Execute(rootCommand(), os.Args[1:], os.Stderr))
}

func rootCommand() *cobra.Command {
	return cli.Group("waybill-simulate", "A simulated vehicle for the bench",
		driveCommand(), replayCommand(), fleetCommand(), dbcCommand())
}

func dbcCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "dbc",
		Short: "Print the DBC file of the simulated car",
		Args:  cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(drive.DBC())
			return err
		},
	}
}
