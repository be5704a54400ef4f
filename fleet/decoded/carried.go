package decoded

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// carried is a record of the topic of what was carried: the notes of the transaction that it is part of. Its key is the store's name.
type carried struct {
	Version    int       `json:"version"`
	Generation string    `json:"generation"` // of the store, 16 hexadecimal digits
	Notes      []int64   `json:"notes"`
	At         time.Time `json:"at"`
}

// carriedVersion is the one form there is.
const carriedVersion = 1

// beginKey is beside a store's own: a relay that begins leaves a mark behind all that others have written.
func beginKey(store string) string { return store + "/begin" }

// settled is what the last transaction of a shard carried, nil where there was none. The session is the only one that writes to the
// shard's partition: who wrote before is fenced. What it left is decided (InitProducerId waits for that), and a mark that is read back
// behind it says that all of it was seen, whatever of it was aborted or compacted.
func (s *session) settled(ctx context.Context) (*carried, error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fmt.Errorf("random mark: %w", err)
	}
	mark := hex.EncodeToString(random[:])
	topic := s.o.CarriedTopic()
	if err := s.transaction(ctx, settleTimeout, func(put func(*kgo.Record)) {
		put(&kgo.Record{Topic: topic, Partition: int32(s.shard), Key: []byte(beginKey(s.store.Name())), Value: []byte(mark)})
	}); err != nil {
		return nil, err
	}
	reader, err := s.o.Client(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(time.Second),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {int32(s.shard): kgo.NewOffset().AtStart()}}))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var last *carried
	for {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, fmt.Errorf("read %s/%d: %w", topic, s.shard, err)
		}
		for _, e := range fetches.Errors() {
			return nil, fmt.Errorf("read %s/%d: %w", e.Topic, e.Partition, e.Err)
		}
		for i := fetches.RecordIter(); !i.Done(); {
			switch r := i.Next(); string(r.Key) {
			case s.store.Name():
				c := new(carried)
				if err := json.Unmarshal(r.Value, c); err != nil || c.Version != carriedVersion {
					return nil, fmt.Errorf("%s/%d, offset %d: a record that this version cannot read (version %d, %v); use a newer waybill-fleet", topic, s.shard, r.Offset, c.Version, err)
				}
				last = c
			case beginKey(s.store.Name()):
				if string(r.Value) == mark {
					return last, nil
				}
			}
		}
	}
}
