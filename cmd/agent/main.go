// Command waybill-agent is the telematics agent of a car: it reads CAN and GPS, keeps every sample through dead zones
// and power cuts, and delivers it over MQTT. The same binary holds the tools for a bench.
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
	return cli.Group("waybill-agent", "The telematics agent of a car, and its bench tools",
		runCommand(), initCommand(), checkCommand(), configCommand(), importCommand(), doctorCommand(), statusCommand(), topCommand(), versionCommand(),
		canCommand(), gpsCommand(), batchCommand(), queueCommand(), manCommand())
}
