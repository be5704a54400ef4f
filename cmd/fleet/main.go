// Command waybill-fleet is the cloud side of Waybill on one machine: it takes what vehicles publish over MQTT into a
// store, exactly once, answers with receipts, and lists what is there.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/internal/cli"
)

func main() {
	os.Exit(cli.Execute(rootCommand(), os.Args[1:], os.Stderr))
}

func rootCommand() *cobra.Command {
	return cli.Group("waybill-fleet", "Receive what vehicles deliver, and list it",
		serveCommand(), lsCommand(), samplesCommand(), gapsCommand(), lossesCommand(), deadCommand(), restoredCommand(), commandCommand(), kafkaCommand(), decodedCommand(), mongoCommand(),
		deriveCommand(), eraseCommand(), probeCommand(), otaCommand())
}
