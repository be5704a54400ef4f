package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/postgres"
	"github.com/waybill-telematics/waybill/fleet/store"
)

// slotFlags are the flags of serve for several receivers that share what comes.
type slotFlags struct {
	share, slots, folder string
	count                int
}

func (f *slotFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.share, "share", "", "share what comes with other receivers of this group, by the broker's shared subscriptions (default: all of it comes here)")
	flags.StringVar(&f.slots, "slots", "0", "with --share: the slots that this process runs, such as 0-3 or 0,2, each with the client id PREFIX-SLOT, PREFIX being --client-id without its -0; auto: as many as are its share")
	flags.IntVar(&f.count, "slot-count", 0, "with --slots auto: how many slots there are, the same for all processes")
	flags.StringVar(&f.folder, "slot-folder", "", "with --slots auto: the folder by whose locks the processes of this machine share the slots (default with a PostgreSQL store: its database shares them among the processes of all machines)")
}

// source is where messages come from.
type source interface {
	Run(context.Context) error
	Connected() bool
	Counts() ingest.Counts
	Send(context.Context, []ingest.Reply) error
}

// source makes the receiver, or those of the slots. close gives leases back.
func (f *slotFlags) source(o ingest.ReceiverOptions, a ingest.Applier, db store.Store) (s source, closed func() error, err error) {
	closed = func() error { return nil }
	if f.share == "" {
		r, err := ingest.NewReceiver(o, a)
		return r, closed, err
	}
	o.ClientID = strings.TrimSuffix(o.ClientID, "-0")
	so := ingest.SlotsOptions{Receiver: o}
	if f.slots != "auto" {
		if so.Fixed, err = parseSlots(f.slots); err != nil {
			return nil, closed, err
		}
	} else {
		var leaser interface {
			ingest.Leaser
			io.Closer
		}
		if p, ok := db.(*postgres.Store); ok && f.folder == "" {
			leaser, err = p.Leaser(f.share + " " + o.ClientID)
		} else {
			leaser, err = ingest.NewFileLeaser(f.folder)
		}
		if err != nil {
			return nil, closed, err
		}
		so.Leaser, so.Count, closed = leaser, f.count, leaser.Close
	}
	slots, err := ingest.NewSlots(so, a)
	if err != nil {
		return nil, closed, err
	}
	return slots, closed, nil
}

// check says what is wrong with the flags, before anything is made.
func (f *slotFlags) check(db storeFlags) error {
	auto := f.slots == "auto"
	switch {
	case f.share == "" && (f.slots != "" && f.slots != "0" || f.count != 0 || f.folder != ""):
		return errors.New("--slots, --slot-count and --slot-folder need --share GROUP: several receivers without it would each get everything")
	case f.share == "":
		return nil
	case auto && (f.count < 1 || f.count > ingest.MaxSlots):
		return fmt.Errorf("--slots auto needs --slot-count N, 1 to %d: how many slots all processes share", ingest.MaxSlots)
	case auto && f.folder == "" && !db.isDatabase():
		return errors.New("--slots auto needs --slot-folder DIR, where the processes of this machine see who runs which; or a PostgreSQL store, whose database shares them")
	case !auto && (f.count != 0 || f.folder != ""):
		return errors.New("--slot-count and --slot-folder are for --slots auto")
	case !auto:
		_, err := parseSlots(f.slots)
		return err
	}
	return nil
}

// parseSlots reads 0-3 and 0,2,5-7.
func parseSlots(text string) (list []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		first, err := strconv.Atoi(from)
		last := first
		if err == nil && isRange {
			last, err = strconv.Atoi(to)
		}
		if err != nil || first < 0 || last < first || last >= ingest.MaxSlots {
			return nil, fmt.Errorf("--slots %q: want numbers from 0 to %d, such as 0-3 or 0,2, or auto", text, ingest.MaxSlots-1)
		}
		for n := first; n <= last; n++ {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}
