package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/postgres"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// derives is a store that keeps tables of what follows from its samples.
type derives interface {
	RunDerive(ctx context.Context, after time.Duration) error
}

// deriving is the task that finds trips beside serve; it ends with ctx.
func deriving(ctx context.Context, s store.Store, after time.Duration) func() {
	d, ok := s.(derives)
	if !ok || after < 0 {
		return func() {}
	}
	return func() { _ = d.RunDerive(ctx, after) } // it ends with ctx, and always well
}

func checkDeriveAfter(after time.Duration) error {
	if after > 24*time.Hour {
		return fmt.Errorf("--derive-after: must be at most 24h, or negative to leave it to others, got %v", after)
	}
	return nil
}

func deriveCommand() *cobra.Command {
	var f storeFlags
	var tenant, device, from, to string
	cmd := &cobra.Command{
		Use:   "derive --db STORE",
		Short: "Find trips again, from the samples",
		Long: `Find trips again, from the samples, in a PostgreSQL store.

serve does it by itself: it notes the hours of which samples came or were dated again, and finds their trips --derive-after
later. This command does it for all hours that hold samples, or for those that are named, and for what is noted; it may run
beside serve, be stopped at any time, and be run again: what it finds is the same.`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := postgres.DeriveQuery{Tenant: tenant, Device: device}
			for _, t := range []struct {
				flag, text string
				into       *time.Time
			}{{"from", from, &q.From}, {"to", to, &q.To}} {
				if t.text == "" {
					continue
				}
				at, err := time.Parse(time.RFC3339, t.text)
				if err != nil {
					return cli.UsageError(fmt.Errorf("--%s %q: want a time such as 2026-11-22T12:00:00Z", t.flag, t.text))
				}
				*t.into = at
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			s, err := openStore(ctx, f, true, false, nil) // it makes no store
			if err != nil {
				return err
			}
			_, isOne := s.(*postgres.Store)
			if err := s.Close(); err != nil {
				return err
			}
			if !isOne {
				return cli.UsageError(errors.New("--db: a file has no table of trips, the page finds them when it is asked; want postgres://USER@HOST:PORT/NAME"))
			}
			if s, err = openStore(ctx, f, false, false, nil); err != nil {
				return err
			}
			p := s.(*postgres.Store)
			err = p.MarkDirty(ctx, q)
			hours := 0
			for n := 1; err == nil && n > 0; hours += n {
				n, err = p.Derive(ctx, time.Now())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "looked at %d hours\n", hours)
			return errors.Join(err, s.Close())
		},
	}
	f.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&tenant, "tenant", "", "only this tenant")
	flags.StringVar(&device, "device", "", "only this device")
	flags.StringVar(&from, "from", "", "only hours that reach beyond this time, such as 2026-11-22T12:00:00Z")
	flags.StringVar(&to, "to", "", "only hours that begin before this time")
	return cmd
}
