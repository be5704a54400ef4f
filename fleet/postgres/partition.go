package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// epochDay is day 0 of PostgreSQL's dates.
var epochDay = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// dayOf is a date as PostgreSQL's binary format has it: days since 2000-01-01, UTC.
func dayOf(t time.Time) int32 {
	seconds := t.Unix() - epochDay.Unix()
	day := seconds / 86400
	if seconds%86400 < 0 {
		day--
	}
	return int32(day)
}

func dateOf(day int32) time.Time { return epochDay.AddDate(0, 0, int(day)) }

// absentPartition: samples of one of these days have no partition yet, or no more.
type absentPartition struct{ days []int32 }

func (e *absentPartition) Error() string {
	return "no partition of samples holds " + dateOf(e.days[0]).Format(time.DateOnly)
}

// isAbsentPartition says whether the server found none (check_violation, with no constraint's name).
func isAbsentPartition(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "23514" && e.ConstraintName == ""
}

// period is the partition that holds a day: the first day, and the first one behind.
func (s *Store) period(day int32) (from, to int32) {
	if s.o.Daily {
		return day, day + 1
	}
	t := dateOf(day)
	first := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	return dayOf(first), dayOf(first.AddDate(0, 1, 0))
}

// ready says whether the partition of a day was there, as far as this process knows. What it knows may be out of date where
// somebody drops partitions: then the server says so.
func (s *Store) ready(day int32) bool {
	from, _ := s.period(day)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.days[from]
}

// makePartitions makes the partition of a day and the one behind it, so that the turn of the day or the month finds its
// own ready.
func (s *Store) makePartitions(ctx context.Context, day int32) error {
	from, to := s.period(day)
	if err := s.makePartition(ctx, from, to); err != nil {
		return err
	}
	from, to = s.period(to)
	return s.makePartition(ctx, from, to)
}

// makePartition makes a table and attaches it: unlike CREATE TABLE … PARTITION OF, that stops no writer. What is there
// already may be of the other kind, days beside a month: then the month is cut to what is left of it.
func (s *Store) makePartition(ctx context.Context, from, to int32) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(openLock)); err != nil {
		return err
	}
	// Names carry the days they hold, so that these can be asked for: samples_20261101_20261201.
	rows, err := tx.Query(ctx, `SELECT (split_part(c.relname, '_', 2)::date - '2000-01-01'), (split_part(c.relname, '_', 3)::date - '2000-01-01')
	    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'samples'::regclass ORDER BY 1`)
	if err != nil {
		return err
	}
	missing := [][2]int32{{from, to}}
	var have [2]int32
	for rows.Next() {
		if err := rows.Scan(&have[0], &have[1]); err != nil {
			rows.Close()
			return err
		}
		last := missing[len(missing)-1]
		if have[1] <= last[0] || have[0] >= last[1] {
			continue
		}
		missing = missing[:len(missing)-1]
		if last[0] < have[0] {
			missing = append(missing, [2]int32{last[0], have[0]})
		}
		if have[1] < last[1] {
			missing = append(missing, [2]int32{have[1], last[1]})
		} else {
			break
		}
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	for _, m := range missing {
		first, behind := dateOf(m[0]), dateOf(m[1])
		name := fmt.Sprintf("samples_%s_%s", first.Format("20060102"), behind.Format("20060102"))
		// Autovacuum freezes and gathers statistics of what is only ever added to; a page is filled but for what re-dating needs.
		for _, statement := range []string{
			"CREATE TABLE " + name + " (LIKE samples INCLUDING DEFAULTS)",
			fmt.Sprintf("ALTER TABLE samples ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')", name, first.Format(time.DateOnly), behind.Format(time.DateOnly)),
		} {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		s.o.Log.Info("a partition of samples was made", "table", name)
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.days[from] = true
	s.mu.Unlock()
	return nil
}

// ahead makes the next partition once the current one is in use.
func (s *Store) ahead(ctx context.Context, day int32) error {
	_, next := s.period(day)
	if s.ready(next) {
		return nil
	}
	return s.makePartitions(ctx, day)
}
