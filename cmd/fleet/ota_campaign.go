package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/ota"
	"github.com/waybill-telematics/waybill/internal/cli"
)

func otaCampaignCommand() *cobra.Command {
	group := cli.Group("campaign", "Offer an image to vehicles, stage by stage",
		campaignCreateCommand(), campaignAdvanceCommand(), campaignHaltCommand("pause", ota.Paused), campaignHaltCommand("stop", ota.Stopped), campaignRefreshCommand(), campaignRunCommand())
	group.Long = `Offer an image to vehicles, stage by stage.

  id: agent-1.2.3
  images:
    - {name: linux-arm64/agent-1.2.3, ecu: agent, hardware: linux/arm64}
  conditions: {parked: true, ignition: "off", min_battery_volts: 12.2, window: {from: "02:00", to: "05:00", zone: Europe/Berlin}}
  wifi_only: false
  budget_bytes: 30000000          # that one vehicle may receive for it
  stages:
    - {percent: 1, hold: 24h, committed: 10}     # not further before a day, and ten vehicles that keep it
    - {percent: 10, hold: 24h, committed: 100}
    - {percent: 100, hold: 72h}
  stop: {failed_percent: 2, min_results: 10, rolled_back: 5}   # more than 2 % of ten or more, or five that went back

Each vehicle is for ever in one of 100 cohorts, by the SHA-256 of TENANT/DEVICE; each campaign goes through them in another order.
create offers to nobody; advance begins; run, by a timer, does the rest.`
	return group
}

func printCampaign(out io.Writer, c *ota.Campaign) error {
	last := ""
	if n := len(c.State.History); n > 0 {
		last = c.State.History[n-1].What
	}
	_, err := fmt.Fprintf(out, "%s is %s, %d %% of the vehicles (%s)\n", c.Spec.ID, c.State.Status, c.Percent(), printable(last))
	return err
}

func campaignCreateCommand() *cobra.Command {
	var f otaFlags
	cmd := &cobra.Command{
		Use:   "create FILE.yaml",
		Short: "Take a campaign, and offer it to nobody yet",
		Long:  "Take a campaign, hold it against what is published, and offer it to nobody yet. ota campaign advance begins it.",
		Args:  oneArgument("create", "a campaign's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := ota.Open(ota.Options{Dir: f.dir})
			if err != nil {
				return err
			}
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			c, err := w.Create(text)
			if err != nil {
				return err
			}
			return printCampaign(cmd.OutOrStdout(), c)
		},
	}
	f.registerDir(cmd)
	return cmd
}

func campaignAdvanceCommand() *cobra.Command {
	var f otaFlags
	cmd := &cobra.Command{
		Use:   "advance ID",
		Short: "Begin a campaign, lead it to its next stage, or take it up again",
		Long: `Begin a campaign, lead it to its next stage, or take it up again when it was paused. It refuses while the stage's time is not over or results
are missing, and stops the campaign when its rule says so: exit code 3.`,
		Args: oneArgument("advance", "a campaign's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, keys, err := f.open(true)
			if err != nil {
				return err
			}
			outcomes, end, err := f.results(cmd.Context())
			if err != nil {
				return err
			}
			c, err := w.Advance(cmd.Context(), args[0], outcomes, keys)
			err = errors.Join(err, end())
			var not *ota.NotYet
			if errors.As(err, &not) {
				return &cli.Error{Code: cli.Findings, Err: fmt.Errorf("%s: %w", args[0], err)}
			}
			if err != nil {
				return err
			}
			return printCampaign(cmd.OutOrStdout(), c)
		},
	}
	f.registerOnline(cmd)
	f.registerOutcomes(cmd)
	return cmd
}

func campaignHaltCommand(verb string, status ota.Status) *cobra.Command {
	var f otaFlags
	var why string
	long := "Offer a campaign to nobody any more, until ota campaign advance takes it up again."
	if status == ota.Stopped {
		long = "Offer a campaign to nobody any more, for good. A new one, with retry_of, may offer the same image again."
	}
	cmd := &cobra.Command{
		Use:   verb + " ID",
		Short: strings.ToUpper(verb[:1]) + verb[1:] + " a campaign",
		Long:  long + " Vehicles that have not begun to install do not; what is installed stays installed. They learn of it when they next ask.",
		Args:  oneArgument(verb, "a campaign's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, keys, err := f.open(true)
			if err != nil {
				return err
			}
			c, err := w.Halt(args[0], status, why, keys)
			if err != nil {
				return err
			}
			return printCampaign(cmd.OutOrStdout(), c)
		},
	}
	f.registerOnline(cmd)
	cmd.Flags().StringVar(&why, "why", "", "for the campaign's history")
	return cmd
}

func campaignRefreshCommand() *cobra.Command {
	var f otaFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "refresh",
		Short: "Renew what is signed here and will expire",
		Long:  "Renew snapshots, timestamps and directors' targets of which half of the life is over. Campaigns stay where they are. ota campaign run does it, too.",
		Args:  cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, keys, err := f.open(true)
			if err != nil {
				return err
			}
			did, err := w.Refresh(keys, all)
			for _, line := range did {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return err
		},
	}
	f.registerOnline(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "renew everything now")
	return cmd
}

func campaignRunCommand() *cobra.Command {
	var f otaFlags
	cmd := &cobra.Command{
		Use:   "run --db STORE",
		Short: "One step of all campaigns: stop, next stage, renewal; for a timer",
		Long: `One step: each active campaign is stopped if its rule says so, led to its next stage if that one's time has come and results allow it, or
waits; then what will expire is renewed. Let a timer (systemd, cron) call it each quarter of an hour, and copy DIR/public to the host
afterwards: all files first, timestamp.json last (docs/OTA.md).

Exit code 3: a campaign was stopped in this step.`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, keys, err := f.open(true)
			if err != nil {
				return err
			}
			outcomes, end, err := f.results(cmd.Context())
			if err != nil {
				return err
			}
			steps, renewed, err := w.Run(cmd.Context(), outcomes, keys)
			err = errors.Join(err, end())
			out := cmd.OutOrStdout()
			stopped := false
			for _, s := range steps {
				stopped = stopped || s.Did == "stopped"
				why := ""
				if s.Why != "" {
					why = ": " + printable(s.Why)
				}
				fmt.Fprintf(out, "%s %s, %d %% of the vehicles%s\n", s.Campaign, s.Did, s.Percent, why)
			}
			for _, line := range renewed {
				fmt.Fprintln(out, line)
			}
			if err == nil && stopped {
				return &cli.Error{Code: cli.Findings}
			}
			return err
		},
	}
	f.registerOnline(cmd)
	f.registerOutcomes(cmd)
	return cmd
}

func otaStatusCommand() *cobra.Command {
	var f otaFlags
	cmd := &cobra.Command{
		Use:   "status [--db STORE]",
		Short: "Show what is published, what waits for signatures, what expires, and how campaigns go",
		Long: `Show what is published, what waits for signatures, what expires, and how campaigns go; with --db or --outcomes also what became of them.
Needs no keys. Exit code 3 when somebody has to see to something.`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := f.report(cmd.Context())
			if err != nil {
				return err
			}
			if f.json {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = printReport(cmd.OutOrStdout(), r)
			}
			if err == nil && len(r.Warnings) > 0 {
				return &cli.Error{Code: cli.Findings}
			}
			return err
		},
	}
	f.registerDir(cmd)
	f.registerOutcomes(cmd)
	cmd.Flags().BoolVar(&f.json, "json", false, "JSON instead of words")
	return cmd
}

func (f *otaFlags) report(ctx context.Context) (*ota.Report, error) {
	w, err := ota.Open(ota.Options{Dir: f.dir})
	if err != nil {
		return nil, err
	}
	if f.db.db == "" && f.outcomes == "" {
		return w.Report(ctx, nil)
	}
	outcomes, end, err := f.results(ctx)
	if err != nil {
		return nil, err
	}
	r, err := w.Report(ctx, outcomes)
	return r, errors.Join(err, end())
}

func printReport(out io.Writer, r *ota.Report) error {
	t := newTable(out, "REPOSITORY", "ROLE", "VERSION", "EXPIRES", "SIGNED", "KEYS")
	for _, role := range r.Roles {
		t.row(role.Repository, role.Role, role.Version, role.Expires.UTC().Format(time.DateTime), fmt.Sprintf("%d, %d needed", role.Signed, role.Threshold), strings.Join(role.Keys, " "))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(r.Images) > 0 {
		fmt.Fprintln(out)
		t = newTable(out, "IMAGE", "RELEASE", "BYTES", "HARDWARE", "PATCHES")
		for _, image := range r.Images {
			t.row(image.Name, image.Release, image.Length, strings.Join(image.Made, " "), image.Patches)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	for _, p := range r.Waiting {
		fmt.Fprintf(out, "\nwaits: %s\n", printable(p.Path))
		for _, line := range p.Signatures {
			fmt.Fprintf(out, "  %s\n", printable(line))
		}
	}
	for _, c := range r.Campaigns {
		fmt.Fprintf(out, "\ncampaign %s is %s, stage %d of %d, %d %% of the vehicles, since %s\n", c.ID, c.Status, c.Stage, c.Stages, c.Percent, c.Since.UTC().Format(time.DateTime))
		if c.Tally != nil {
			fmt.Fprintf(out, "  %d committed, %d on probation, %d rolled back, %d failed, %d refused, %d not counted\n", c.Tally.Committed, c.Tally.Installed, c.Tally.RolledBack, c.Tally.Failed, c.Tally.Refused, c.Tally.Outside)
			if reasons, err := json.Marshal(c.Tally.Reasons); err == nil && len(c.Tally.Reasons) > 0 {
				fmt.Fprintf(out, "  reasons: %s\n", printable(string(reasons)))
			}
		}
		for _, line := range slices.DeleteFunc([]string{c.Waits, c.Last}, func(s string) bool { return s == "" }) {
			fmt.Fprintf(out, "  %s\n", printable(line))
		}
	}
	for _, line := range slices.Concat(r.Notes, r.Warnings) {
		fmt.Fprintf(out, "\n! %s\n", printable(line))
	}
	return nil
}
