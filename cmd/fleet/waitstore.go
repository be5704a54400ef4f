package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/waybill-telematics/waybill/fleet/postgres"
	"github.com/waybill-telematics/waybill/fleet/store"
)

// How long serve waits at its start for a database that is not there (yet), and between two tries: where all of a machine starts at once, the
// database is rarely first.
const (
	storeWait  = 2 * time.Minute
	storeAgain = time.Second
)

// awaitStore opens the store, and waits for a database that cannot be reached, or is starting, or stopping. What is wrong otherwise, such
// as a password, is an error at once.
func awaitStore(ctx context.Context, f storeFlags, log *slog.Logger) (store.Store, error) {
	for end := time.Now().Add(storeWait); ; {
		s, err := openStore(ctx, f, false, false, log)
		if err == nil || !postgres.Unreachable(err) || ctx.Err() != nil || time.Now().After(end) {
			return s, err
		}
		log.Warn("the database is waited for", "err", err, "until", end.UTC().Format(time.TimeOnly))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(storeAgain):
		}
	}
}
