package main

import (
	"bufio"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/can"
)

func canStatusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [INTERFACE…]",
		Short: "Say how CAN interfaces are: state, bit rate, error counters",
		Long: `Ask the kernel for the state of CAN interfaces, of all when none is named. It needs no privilege and sends nothing on
a bus. The exit code is 0 when every interface could be asked, whatever its state, else 1.`,
		Example: `  waybill-agent can status
  waybill-agent can status --json can0 | jq -r .state`,
		RunE: func(cmd *cobra.Command, names []string) error {
			return withOutput(cmd, func(out *bufio.Writer) error { return writeStatus(out, names, asJSON) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object an interface")
	return cmd
}

func writeStatus(out *bufio.Writer, names []string, asJSON bool) (err error) {
	var links can.LinkReader
	defer links.Close()
	var list []can.LinkState
	if len(names) == 0 {
		if list, err = links.List(); err != nil {
			return err
		}
	}
	for _, name := range names {
		l, err := links.Read(name)
		if err != nil {
			return err
		}
		list = append(list, l)
	}
	for _, l := range list {
		line := []byte(l.String())
		if asJSON {
			if line, err = json.Marshal(l); err != nil {
				return err
			}
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return nil
}
