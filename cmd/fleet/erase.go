package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// eraseCommand is the erasure without the page's server.
func eraseCommand() *cobra.Command {
	var db storeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "erase TENANT/DEVICE --db STORE",
		Short: "Erase what a vehicle told, and keep the keys of its batches",
		Long: `Erase what a vehicle told, and keep the keys of its batches.

Samples, positions, events, what the vehicle said of itself, its clocks, its answers to commands and its dead letters go.
The keys stay, so that nothing of it is stored again when it is sent again; what else stays is printed. What the vehicle
delivers later is stored as ever: stop it first where that is not wanted.

A SQLite store must not be in use: beside a running serve, ask that one, DELETE /api/v1/devices/TENANT/DEVICE with a token
that may erase. A PostgreSQL store may be in use.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.UsageError(errors.New("which vehicle? want TENANT/DEVICE; see waybill-fleet erase --help"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, device, ok := strings.Cut(args[0], "/")
			if !ok || tenant == "" || device == "" {
				return cli.UsageError(fmt.Errorf("%q: want TENANT/DEVICE", args[0]))
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			return erase(cmd.Context(), db, api.DeviceID{Tenant: tenant, Device: device}, asJSON, cmd.OutOrStdout(), log)
		},
	}
	db.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "JSON instead of words")
	return cmd
}

func erase(ctx context.Context, db storeFlags, id api.DeviceID, asJSON bool, out io.Writer, log *slog.Logger) error {
	// What is not there must not be made.
	if db.isDatabase() {
		there, err := openStore(ctx, db, true, false, log)
		if err == nil {
			err = there.Close()
		}
		if err != nil {
			return err
		}
	} else if _, _, err := db.postgres(); err == nil && db.db != "" {
		if _, err := os.Stat(db.db); err != nil {
			return err
		}
	}
	s, err := openStore(ctx, db, false, false, log)
	if err != nil {
		if errors.Is(err, store.ErrLocked) {
			err = fmt.Errorf("%w: ask it with DELETE %s/devices/%s/%s, or stop it", err, api.Prefix, id.Tenant, id.Device)
		}
		return err
	}
	eraser, ok := s.(api.Eraser)
	if !ok {
		return errors.Join(errors.New("this store cannot erase"), s.Close())
	}
	e, err := eraser.Erase(ctx, id)
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, e)
	}
	fmt.Fprintf(out, "erased: %d samples of %d batches, %d records\nstays:\n", e.Samples, e.Batches, e.Records)
	for _, what := range e.Stays {
		fmt.Fprintf(out, "  - %s\n", what)
	}
	return nil
}
