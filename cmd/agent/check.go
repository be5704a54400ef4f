package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func checkCommand() *cobra.Command {
	var file string
	var list, asJSON bool
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Say what is wrong with a configuration, and what it would collect",
		Long: `Reads the configuration and everything that it names, as run would, and starts nothing. Every problem is printed as
FILE:LINE: key: what is wrong; what to do. Exit code 0: good; 1: it cannot be used.`,
		Example: "  waybill-agent check -c /etc/waybill/agent.yaml --signals",
		Args:    cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, v, err := load(file)
			if asJSON {
				return printProblems(cmd.OutOrStdout(), err)
			}
			if err != nil {
				return err
			}
			for _, w := range v.warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), w)
			}
			out := cmd.OutOrStdout()
			if list {
				for _, signal := range v.selection.Catalogue().Signals {
					line := struct {
						ID   uint32 `json:"id"`
						Name string `json:"name"`
						Unit string `json:"unit,omitempty"`
						Type string `json:"type"`
					}{signal.Id, signal.Name, signal.Unit, typeName(signal.Type)}
					if err := json.NewEncoder(out).Encode(line); err != nil {
						return err
					}
				}
				return nil
			}
			hash := v.selection.Hash()
			_, err = fmt.Fprintf(out, "%s: good: device %s, %d CAN buses, %d receivers, %d signals of %d, %d rules, catalogue %x\n",
				file, s.Device, len(s.CAN), len(s.GPS), v.selection.Len()-v.own-len(s.Rules), v.available, len(s.Rules), hash[:8])
			for _, line := range v.polls() {
				if err == nil {
					_, err = fmt.Fprintln(out, line)
				}
			}
			return err
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the problems, one JSON object a line: file, line, text")
	cmd.Flags().BoolVar(&list, "signals", false, "list the signals that are collected, one JSON object a line")
	return cmd
}

// printProblems prints what is wrong for a program to read; nothing when nothing is.
func printProblems(out io.Writer, err error) error {
	if err == nil {
		return nil
	}
	type line struct {
		File string `json:"file,omitempty"`
		Line int    `json:"line,omitempty"`
		Text string `json:"text"`
	}
	lines := []line{{Text: err.Error()}}
	var all *problems
	if errors.As(err, &all) {
		lines = lines[:0]
		for _, p := range all.List {
			lines = append(lines, line{all.File, p.Line, p.Text})
		}
	}
	for _, l := range lines {
		if err := json.NewEncoder(out).Encode(l); err != nil {
			return err
		}
	}
	return &cli.Error{Code: cli.Failed}
}

func typeName(t telemetrypb.ValueType) string {
	switch t {
	case telemetrypb.ValueType_VALUE_TYPE_INT:
		return "int"
	case telemetrypb.ValueType_VALUE_TYPE_UINT:
		return "uint"
	case telemetrypb.ValueType_VALUE_TYPE_FLOAT:
		return "float"
	case telemetrypb.ValueType_VALUE_TYPE_STRING:
		return "string"
	}
	return "unknown"
}
