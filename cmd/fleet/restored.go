package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

func restoredCommand() *cobra.Command {
	var f storeFlags
	cmd := &cobra.Command{
		Use:   "restored --db STORE",
		Short: "Have vehicles asked for what this store lacks, after its disk went back to an earlier state",
		Long: `Have vehicles asked for what this store lacks, after its disk went back to an earlier state.

A store that lacks what it has confirmed begins a new generation, and asks each vehicle that it hears from for what is
missing; vehicles keep it for queue.keep_after_receipt. serve finds out by itself when FILE.db was replaced by a copy,
when its folder was copied back, and when it moved to another machine. Only when the whole disk went back (a snapshot
of a virtual machine, of a volume) it cannot: then say so with this command, before serve is started. A PostgreSQL
database likewise: a base backup, a promoted standby and a loaded dump are found out, a volume's snapshot is not. To say
it without need costs each vehicle one message.`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			there, err := openStore(cmd.Context(), f, true, false, nil) // serve makes a store, this does not
			if err != nil {
				return err
			}
			if err := there.Close(); err != nil {
				return err
			}
			s, err := openStore(cmd.Context(), f, false, true, nil)
			if err != nil {
				if errors.Is(err, store.ErrLocked) {
					err = fmt.Errorf("%w: stop waybill-fleet serve first", err)
				}
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "store %s is generation %016x now\n", s.Name(), s.Generation())
			return errors.Join(err, s.Close())
		},
	}
	f.register(cmd)
	return cmd
}
