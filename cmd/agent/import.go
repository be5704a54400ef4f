package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/cmd/agent/fleetwise"
	"github.com/waybill-telematics/waybill/internal/cli"
)

func importCommand() *cobra.Command {
	return cli.Group("import", "Make a configuration of another system's files", importFleetwiseCommand())
}

func importFleetwiseCommand() *cobra.Command {
	var decoders, campaigns, networks []string
	var out string
	var force bool
	o := fleetwise.Options{}
	cmd := &cobra.Command{
		Use:   "fleetwise --decoders FILE [--campaign FILE]",
		Short: "Make a configuration and DBC files of AWS IoT FleetWise's decoder manifest and campaigns",
		Long: `Reads decoder manifests, network interfaces and campaigns of AWS IoT FleetWise, JSON as its API takes and gives
them, or the protobuf messages of its edge agent, and writes agent.yaml and a DBC file for each bus. docs/FLEETWISE.md
tells what becomes of what. Everything that does not carry over is told here and at the head of agent.yaml.

Exit code 0: everything carried over; 3: agent.yaml was written, and something is not in it; 1: a file cannot be read.`,
		Example: "  waybill-agent import fleetwise --decoders decoders.json --interfaces networks.json --campaign campaign.json --out car\n" +
			"  waybill-agent check -c car/agent.yaml --signals",
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(decoders) == 0 {
				return cli.UsageError(errors.New("name the decoder manifest with --decoders"))
			}
			var s fleetwise.Source
			for _, kind := range []struct {
				files []string
				read  func(name string, text []byte) error
			}{
				{networks, func(_ string, text []byte) error { return s.Networks(text) }},
				{decoders, func(_ string, text []byte) error { return s.Decoders(text) }},
				{campaigns, s.Campaign},
			} {
				for _, file := range kind.files {
					text, err := os.ReadFile(file)
					if err != nil {
						return err
					}
					name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
					if err := kind.read(name, text); err != nil {
						return fmt.Errorf("%s: %w; want JSON of FleetWise's API, or its edge agent's protobuf", file, err)
					}
				}
			}
			if len(s.CAN)+len(s.OBD) == 0 {
				return errors.New("no signal in the decoder manifest that could be read")
			}
			result := s.Convert(o)
			if err := writeImport(out, force, result); err != nil {
				return err
			}
			code := cli.OK
			for _, f := range result.Findings {
				word := "otherwise"
				if f.Lost {
					word, code = "not carried over", cli.Findings
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", word, f.Text)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d CAN signals, %d of OBD, %d campaigns; waybill-agent check -c %[1]s\n",
				filepath.Join(out, "agent.yaml"), len(s.CAN), len(s.OBD), len(s.Schemes))
			if code != cli.OK {
				return &cli.Error{Code: code}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&decoders, "decoders", nil, "decoder manifest; may be given again")
	flags.StringArrayVar(&campaigns, "campaign", nil,
		"campaign or collection schemes; may be given again; none: everything is collected")
	flags.StringArrayVar(&networks, "interfaces", nil, "network interfaces; may be given again")
	flags.StringToStringVar(&o.Interfaces, "interface", nil, "ID=NAME: Linux's name of a network interface")
	flags.StringVar(&o.Ignition, "ignition", "",
		"full name of the signal that tells of the ignition, such as can0.Body.Ignition: OBD is asked while it is on")
	flags.StringVar(&o.Device, "device", "car-0001", "id of the vehicle")
	flags.StringVarP(&out, "out", "o", ".", "folder to write to")
	flags.BoolVar(&force, "force", false, "overwrite what is there")
	return cmd
}

// writeImport writes the files; none if one is there already.
func writeImport(dir string, force bool, r fleetwise.Result) error {
	files := maps.Clone(r.DBC)
	files["agent.yaml"] = r.Config
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); !force && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already; give another --out, or --force", filepath.Join(dir, name))
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o644); err != nil {
			return err
		}
	}
	return nil
}
