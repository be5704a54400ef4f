package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// listFlags are the flags that every listing has.
type listFlags struct {
	storeFlags
	json bool
}

// listCommand makes a command that reads the store and prints.
func listCommand(use, short, long string, f *listFlags, run func(ctx context.Context, s store.Store, out io.Writer) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := openStore(cmd.Context(), f.storeFlags, true, false, nil)
			if err != nil {
				return err
			}
			defer s.Close()
			return run(cmd.Context(), s, cmd.OutOrStdout())
		},
	}
	f.register(cmd)
	return cmd
}

// withJSON adds --json.
func (f *listFlags) withJSON(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&f.json, "json", false, "JSON instead of a table")
	return cmd
}

func lsCommand() *cobra.Command {
	var f listFlags
	return f.withJSON(listCommand("ls --db STORE", "List devices with their batches, samples, gaps and losses", "", &f,
		func(ctx context.Context, s store.Store, out io.Writer) error {
			devices, err := s.Devices(ctx)
			if err != nil {
				return err
			}
			if f.json {
				return printJSON(out, struct {
					Store      string         `json:"store"`
					Generation string         `json:"generation"`
					Devices    []store.Device `json:"devices"`
				}{s.Name(), fmt.Sprintf("%016x", s.Generation()), append([]store.Device{}, devices...)})
			}
			t := newTable(out, "TENANT", "DEVICE", "EPOCH", "LANE", "BATCHES", "SAMPLES", "LAST SEQ", "MISSING", "PARKED", "REJECTED", "LAST SEEN")
			for _, d := range devices {
				for _, l := range d.Lanes {
					t.row(d.Tenant, d.Device, l.Epoch, l.Lane, l.Batches, l.Samples, l.Last, l.Missing, l.Parked, l.Rejected, d.LastSeen.Format(time.DateTime))
				}
				if len(d.Lanes) == 0 {
					t.row(d.Tenant, d.Device, "-", "-", 0, 0, 0, 0, 0, 0, d.LastSeen.Format(time.DateTime))
				}
			}
			if err := t.flush(); err != nil {
				return err
			}
			totals := s.Totals()
			_, err = fmt.Fprintf(out, "%d devices, %d batches, %d samples, %d missing, %d loss records, %d parked, %d dead letters\n",
				totals.Devices, totals.Batches, totals.Samples, totals.Gaps, totals.Losses, totals.Parked, totals.Letters)
			return err
		}))
}

func gapsCommand() *cobra.Command {
	var f listFlags
	return f.withJSON(listCommand("gaps --db STORE", "List sequence numbers that never came and that nothing accounts for",
		"List sequence numbers that never came and that nothing accounts for. Exit code 3 when there are any.", &f,
		func(ctx context.Context, s store.Store, out io.Writer) error {
			gaps, err := s.Gaps(ctx)
			if err != nil {
				return err
			}
			if f.json {
				err = printLines(out, gaps)
			} else {
				t := newTable(out, "TENANT", "DEVICE", "EPOCH", "LANE", "FIRST", "LAST", "BATCHES")
				for _, g := range gaps {
					t.row(g.Tenant, g.Device, g.Epoch, g.Lane, g.First, g.Last, g.Last-g.First+1)
				}
				err = t.flush()
			}
			if err == nil && len(gaps) > 0 {
				return &cli.Error{Code: cli.Findings}
			}
			return err
		}))
}

func lossesCommand() *cobra.Command {
	var f listFlags
	var device string
	cmd := f.withJSON(listCommand("losses --db STORE", "List what the vehicles' loss ledgers say", "", &f,
		func(ctx context.Context, s store.Store, out io.Writer) error {
			losses, err := s.Losses(ctx, device)
			if err != nil {
				return err
			}
			if f.json {
				return printLines(out, losses)
			}
			t := newTable(out, "TENANT", "DEVICE", "REASON", "SOURCE", "COUNT", "UNIT", "SEQS", "ARRIVED", "DETAIL")
			for _, l := range losses {
				t.row(l.Tenant, l.Device, lossWord(l.Reason), l.Source, countWord(l), l.Unit, seqWords(l), l.Arrived, l.Detail)
			}
			return t.flush()
		}))
	cmd.Flags().StringVar(&device, "device", "", "only this device")
	return cmd
}

func deadCommand() *cobra.Command {
	var f listFlags
	return f.withJSON(listCommand("dead --db STORE", "List what could not be taken", "List what could not be taken. With --json, bytes are base64 of what was kept.", &f,
		func(ctx context.Context, s store.Store, out io.Writer) error {
			letters, err := s.DeadLetters(ctx)
			if err != nil {
				return err
			}
			if f.json {
				return printLines(out, letters)
			}
			t := newTable(out, "ID", "LAST", "TIMES", "REASON", "TOPIC", "BYTES", "DETAIL")
			for _, d := range letters {
				t.row(d.ID, d.Last.Format(time.DateTime), d.Times, d.Reason, printable(d.Topic), d.Size, printable(d.Detail))
			}
			return t.flush()
		}))
}

// lossWord is LOSS_KERNEL_DROP as people read it: kernel drop.
func lossWord(reason string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(reason, "LOSS_"), "_", " "))
}

func countWord(l store.LossEntry) string {
	switch {
	case l.CountUnknown:
		return "unknown"
	case l.CountIsBound:
		return fmt.Sprintf("≤ %d", l.Count)
	}
	return fmt.Sprint(l.Count)
}

func seqWords(l store.LossEntry) string {
	if len(l.Seqs) == 0 {
		return "-"
	}
	words := make([]string, 0, len(l.Seqs))
	for _, r := range l.Seqs {
		if r.First == r.Last {
			words = append(words, fmt.Sprint(r.First))
		} else {
			words = append(words, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	return l.Lane + " " + strings.Join(words, ",")
}

// printable keeps foreign text from driving a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 {
			return '·'
		}
		return r
	}, s)
}

// table prints aligned columns.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, heads ...any) *table {
	t := &table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	t.row(heads...)
	return t
}

func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		if text, ok := c.(string); ok {
			c = printable(text)
		}
		fmt.Fprint(t.w, c)
	}
	fmt.Fprintln(t.w)
}

func (t *table) flush() error { return t.w.Flush() }

// printJSON prints one object, indented.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printLines prints one object a line.
func printLines[T any](out io.Writer, list []T) error {
	e := json.NewEncoder(out)
	for i := range list {
		if err := e.Encode(&list[i]); err != nil {
			return err
		}
	}
	return nil
}
