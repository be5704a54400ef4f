package mongo

import (
	"context"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Collections are the decoded topics' names, which are those of the collections.
func Collections() []string { return []string{"samples", "events", "positions", "losses"} }

// Erase deletes all documents of a vehicle and says how many they were. What is on the topics and was not taken yet comes
// after it: erase in the primary store first, and here when the position has passed what was on the topics then.
func (s *Store) Erase(ctx context.Context, tenant, device string) (deleted int64, err error) {
	for _, name := range Collections() {
		result, err := s.db.Collection(name).DeleteMany(ctx, bson.D{{Key: "tenant", Value: tenant}, {Key: "device", Value: device}})
		if err != nil {
			return deleted, fmt.Errorf("MongoDB: erase in %s: %w", name, err)
		}
		deleted += result.DeletedCount
	}
	return deleted, nil
}
