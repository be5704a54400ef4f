package postgres

import (
	"fmt"

	"github.com/waybill-telematics/waybill/fleet/store"
)

func (t *tx) Position(topic string, partition int32) (next int64, found bool, err error) {
	found, err = t.one("SELECT next FROM offsets WHERE topic = $1 AND partition = $2", []any{topic, partition}, &next)
	return next, found, err
}

// Advance waits for who moves the same offset, and then finds it moved.
func (t *tx) Advance(topic string, partition int32, from, to int64) error {
	if err := store.CheckAdvance(from, to); err != nil {
		return fmt.Errorf("%s/%d: %w", topic, partition, err)
	}
	var n int64
	var err error
	if from < 0 {
		n, err = t.exec("INSERT INTO offsets (topic, partition, next) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", topic, partition, to)
	} else {
		n, err = t.exec("UPDATE offsets SET next = $4 WHERE topic = $1 AND partition = $2 AND next = $3", topic, partition, from, to)
	}
	if err == nil && n == 0 {
		err = t.fail(fmt.Errorf("%s/%d at %d: %w", topic, partition, from, store.ErrFenced))
	}
	return err
}
