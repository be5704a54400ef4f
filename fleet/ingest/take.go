package ingest

import (
	"context"
	"fmt"

	"github.com/waybill-telematics/waybill/fleet/store"
)

// Step is a part of a log that is read in order, such as a partition of Kafka's: from offset From to before To. To is below
// From where the log was made anew.
type Step struct {
	Topic     string
	Partition int32
	From, To  int64
}

// Take is Apply for the messages of a step. The store's offset moves with them in one transaction, so that each step is
// taken once whoever else reads the log: store.ErrFenced where it does not stand at From. A log that the store does not
// know begins at 0.
func (g *Ingester) Take(ctx context.Context, s Step, messages []Message) ([]Reply, Counts, error) {
	return g.apply(ctx, messages, func(tx store.Tx) error {
		from, found, err := tx.Position(s.Topic, s.Partition)
		if err != nil {
			return err
		}
		if from != s.From { // 0 where there is none
			return fmt.Errorf("%s/%d is at %d and not at %d: %w", s.Topic, s.Partition, from, s.From, store.ErrFenced)
		}
		if !found {
			from = -1
		}
		return tx.Advance(s.Topic, s.Partition, from, s.To)
	})
}
