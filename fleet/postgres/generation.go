package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// A database that was restored lacks what it had confirmed since, and vehicles have let go of that: it has to ask for it,
// under another generation. It finds out by where it lives: a base backup or a promoted standby goes on under another
// timeline, a dump is loaded into other tables (their object ids), and mostly in another cluster (its system identifier).
// What it cannot see is a disk that went back as a whole: there somebody has to say so (Options.Restored), or Kafka's
// offsets tell.
const whereQuery = `SELECT system_identifier::text || ' ' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || ' ' ||
    (SELECT oid FROM pg_database WHERE datname = current_database()) || ' ' || 'meta'::regclass::oid FROM pg_control_system()`

// metaQuery leaves what is not there empty.
const metaQuery = `SELECT coalesce(max(value) FILTER (WHERE key = 'name'), ''), coalesce(max(value) FILTER (WHERE key = 'generation'), ''),
    coalesce(max(value) FILTER (WHERE key = 'place'), '') FROM meta`

// identity is what meta says.
type identity struct{ name, generation, place string }

func readMeta(ctx context.Context, q interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}) (i identity, err error) {
	err = q.QueryRow(ctx, metaQuery).Scan(&i.name, &i.generation, &i.place)
	return i, err
}

// readIdentity is all that a reader does.
func (s *Store) readIdentity(ctx context.Context, c *pgx.Conn) error {
	i, err := readMeta(ctx, c)
	if err != nil {
		return err
	}
	return s.take(i)
}

func (s *Store) take(i identity) error {
	n, err := strconv.ParseUint(i.generation, 16, 64)
	if err != nil {
		return fmt.Errorf("generation %q in meta: %w", i.generation, err)
	}
	s.name.Store(&i.name)
	s.generation.Store(n)
	return nil
}

// checkGeneration begins a new generation where the store may lack what it has confirmed, and where there is none yet.
func (s *Store) checkGeneration(ctx context.Context, c *pgx.Conn, restored bool) error {
	var place string
	if err := c.QueryRow(ctx, whereQuery).Scan(&place); err != nil {
		return fmt.Errorf("where the database lives: %w", err)
	}
	i, err := readMeta(ctx, c)
	if err != nil {
		return err
	}
	if i.place == place && !restored {
		return s.take(i)
	}
	err = pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		// Another process may find the same at the same time: one new generation is enough.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(openLock)); err != nil {
			return err
		}
		if i, err = readMeta(ctx, tx); err != nil || i.place == place && !restored {
			return err
		}
		before := i
		if err := s.begin(&i); err != nil {
			return fmt.Errorf("random generation: %w", err)
		}
		i.place = place
		if _, err := tx.Exec(ctx, "INSERT INTO meta VALUES ('name', $1), ('generation', $2), ('place', $3) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
			i.name, i.generation, i.place); err != nil {
			return err
		}
		if before.generation != "" {
			why := "the operator says so"
			if !restored {
				why = "the database is another than before"
			}
			s.o.Log.Warn("the store may have been restored from a copy; vehicles are asked for what it lacks", "why", why,
				"generation", i.generation, "before", before.generation)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.take(i)
}

// begin makes another generation, and a name for a store that has none.
func (s *Store) begin(i *identity) error {
	s.random.Lock()
	defer s.random.Unlock()
	var random [8]byte
	if i.name == "" {
		if _, err := io.ReadFull(s.o.Rand, random[:]); err != nil {
			return err
		}
		i.name = fmt.Sprintf("postgres-%x", random)
	}
	if _, err := io.ReadFull(s.o.Rand, random[:]); err != nil {
		return err
	}
	next := binary.BigEndian.Uint64(random[:])
	for next == 0 || fmt.Sprintf("%016x", next) == i.generation {
		next++
	}
	i.generation = fmt.Sprintf("%016x", next)
	return nil
}
