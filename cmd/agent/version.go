package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/internal/cli"
)

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which build this is",
		Args:  cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id := firmware.Current()
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(id)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "waybill-agent", id)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as one JSON object")
	return cmd
}
