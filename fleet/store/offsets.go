package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// ErrFenced: somebody else has moved the offset meanwhile, and with it stored what lies behind. The transaction must fail.
var ErrFenced = errors.New("another consumer has stored what comes behind this offset")

// CheckAdvance refuses what is no offset; from is −1 where none is known. Back it goes where a topic was made anew.
func CheckAdvance(from, to int64) error {
	if from < -1 || to < 0 {
		return fmt.Errorf("an offset does not go from %d to %d", from, to)
	}
	return nil
}

func (t *tx) Position(topic string, partition int32) (next int64, found bool, err error) {
	found, err = t.one("SELECT next FROM offsets WHERE topic = ? AND partition = ?", []any{topic, int64(partition)}, &next)
	return next, found, err
}

func (t *tx) Advance(topic string, partition int32, from, to int64) error {
	if err := CheckAdvance(from, to); err != nil {
		return fmt.Errorf("%s/%d: %w", topic, partition, err)
	}
	var result sql.Result
	var err error
	if from < 0 {
		result, err = t.exec("INSERT OR IGNORE INTO offsets (topic, partition, next) VALUES (?, ?, ?)", topic, int64(partition), to)
	} else {
		result, err = t.exec("UPDATE offsets SET next = ? WHERE topic = ? AND partition = ? AND next = ?", to, topic, int64(partition), from)
	}
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		err = fmt.Errorf("%s/%d at %d: %w", topic, partition, from, ErrFenced)
	}
	return err
}

// Positions are the offsets that come next, by partition.
func (s *SQLite) Positions(ctx context.Context, topic string) (map[int32]int64, error) {
	next := map[int32]int64{}
	err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var partition int32
		var offset int64
		if err := rows.Scan(&partition, &offset); err != nil {
			return err
		}
		next[partition] = offset
		return nil
	}, "SELECT partition, next FROM offsets WHERE topic = ?", topic)
	return next, earlier(err)
}
