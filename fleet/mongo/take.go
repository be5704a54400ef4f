package mongo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/stream"
)

var _ stream.Sink = (*Store)(nil)

// position is a document of waybill_offsets. Its _id is TOPIC/PARTITION.
type position struct {
	Partition int32 `bson:"partition"`
	Next      int64 `bson:"next"`
	// Generation counts how often the position went back: offsets of different generations do not compare.
	Generation int64 `bson:"generation"`
}

// Positions are the offsets of the next record to take, by partition.
func (s *Store) Positions(ctx context.Context, topic string) (map[int32]int64, error) {
	cursor, err := s.db.Collection(positionsCollection).Find(ctx, bson.D{{Key: "topic", Value: topic}})
	if err != nil {
		return nil, fmt.Errorf("MongoDB: positions: %w", err)
	}
	var list []position
	if err := cursor.All(ctx, &list); err != nil {
		return nil, fmt.Errorf("MongoDB: positions: %w", err)
	}
	positions := make(map[int32]int64, len(list))
	for _, p := range list {
		positions[p.Partition] = p.Next
	}
	return positions, nil
}

// Take writes the rows of messages and then moves the position. What it wrote remains when it fails, and is written
// again, the same, by whoever takes these messages then. The counts' samples are rows, their duplicates those that
// were there already or that came twice in these messages.
func (s *Store) Take(ctx context.Context, p stream.Progress, messages []ingest.Message) ([]ingest.Reply, ingest.Counts, error) {
	counts := ingest.Counts{Payloads: uint64(len(messages))}
	now, err := s.position(ctx, p)
	if err != nil {
		return nil, ingest.Counts{}, err
	}
	if len(messages) > 0 {
		models, err := s.models(p, now.Generation, messages)
		if err != nil {
			return nil, ingest.Counts{}, err
		}
		fresh, err := s.write(ctx, collectionOf(p.Topic), models)
		if err != nil {
			return nil, ingest.Counts{}, err
		}
		counts.Samples, counts.Duplicates = fresh, uint64(len(messages))-fresh
	}
	if err := s.move(ctx, p, now.Generation); err != nil {
		return nil, ingest.Counts{}, err
	}
	return nil, counts, nil
}

// collectionOf is the collection of a topic: its name's last part.
func collectionOf(topic string) string { return topic[strings.LastIndexByte(topic, '.')+1:] }

func positionID(p stream.Progress) string { return fmt.Sprintf("%s/%d", p.Topic, p.Partition) }

// position reads where the partition stands, which has to be where the step begins.
func (s *Store) position(ctx context.Context, p stream.Progress) (now position, err error) {
	err = s.db.Collection(positionsCollection).FindOne(ctx, bson.D{{Key: "_id", Value: positionID(p)}}).Decode(&now)
	switch {
	case errors.Is(err, driver.ErrNoDocuments):
	case err != nil:
		return now, fmt.Errorf("MongoDB: position: %w", err)
	}
	if now.Next != p.From {
		return now, fmt.Errorf("MongoDB: partition %d is at %d, not at %d: %w", p.Partition, now.Next, p.From, stream.ErrFenced)
	}
	return now, nil
}

// models are the writes of messages, one for each row; of a row that comes several times, the last one.
//
// A write replaces the document unless that is from further on in the same partition. So a member that was cut off in
// the middle of this, and comes to itself after another has taken its place, does not bring back an older state of a
// row: a document's kafka.to is the end of the step that wrote it, and steps that begin at the same position and end
// further on hold all that the shorter ones do.
func (s *Store) models(p stream.Progress, generation int64, messages []ingest.Message) ([]driver.WriteModel, error) {
	at := map[string]int{}
	var models []driver.WriteModel
	source := bson.D{{Key: "partition", Value: p.Partition}, {Key: "generation", Value: generation}, {Key: "to", Value: p.To}}
	newer := bson.A{bson.D{
		{Key: fieldKafka + ".partition", Value: p.Partition}, {Key: fieldKafka + ".generation", Value: generation},
		{Key: fieldKafka + ".to", Value: bson.D{{Key: "$gt", Value: p.To}}},
	}}
	for _, m := range messages {
		r, err := parse(m.Payload)
		if err != nil {
			return nil, fmt.Errorf("a row that Judge has passed: %w", err)
		}
		document := append(append(bson.D{{Key: "_id", Value: r.id}}, r.fields...), bson.E{Key: fieldKafka, Value: source})
		model := driver.NewReplaceOneModel().SetUpsert(true).SetReplacement(document).
			SetFilter(bson.D{{Key: "_id", Value: r.id}, {Key: "$nor", Value: newer}})
		if i, twice := at[r.id]; twice {
			models[i] = model
			continue
		}
		at[r.id] = len(models)
		models = append(models, model)
	}
	return models, nil
}

// write makes the writes, in any order, and says how many documents are new. A write that finds its _id taken either
// met another's of the same moment, and is made again, or the document there is newer.
func (s *Store) write(ctx context.Context, collection string, models []driver.WriteModel) (fresh uint64, err error) {
	for again := false; len(models) > 0; again = true {
		result, err := s.db.Collection(collection).BulkWrite(ctx, models, options.BulkWrite().SetOrdered(false))
		if result != nil {
			fresh += uint64(result.UpsertedCount)
		}
		if err == nil {
			return fresh, nil
		}
		failed := driver.BulkWriteException{}
		if !errors.As(err, &failed) || failed.WriteConcernError != nil {
			return 0, fmt.Errorf("MongoDB: %s: %w", collection, err)
		}
		var left []driver.WriteModel
		for _, e := range failed.WriteErrors {
			if !driver.IsDuplicateKeyError(e) || e.Index < 0 || e.Index >= len(models) {
				return 0, fmt.Errorf("MongoDB: %s: %w", collection, e)
			}
			left = append(left, models[e.Index])
		}
		if again {
			s.log.Info("rows left as they are: newer ones are there", "collection", collection, "rows", len(left))
			return fresh, nil
		}
		models = left
	}
	return fresh, nil
}

// move moves the position, if nobody else has.
func (s *Store) move(ctx context.Context, p stream.Progress, generation int64) error {
	if p.To < p.From {
		generation++
	}
	id := positionID(p)
	result, err := s.db.Collection(positionsCollection).UpdateOne(ctx,
		bson.D{{Key: "_id", Value: id}, {Key: "next", Value: p.From}},
		bson.D{{Key: "$set", Value: bson.D{
			{Key: "topic", Value: p.Topic}, {Key: "partition", Value: p.Partition},
			{Key: "next", Value: p.To}, {Key: "generation", Value: generation},
		}}},
		options.UpdateOne().SetUpsert(p.From == 0))
	if err == nil && result.MatchedCount+result.UpsertedCount == 1 {
		return nil
	}
	if err == nil || driver.IsDuplicateKeyError(err) {
		return fmt.Errorf("MongoDB: %s is no longer at %d: %w", id, p.From, stream.ErrFenced)
	}
	return fmt.Errorf("MongoDB: position: %w", err)
}
