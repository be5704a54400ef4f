package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
)

// leaseTime is how long a lease lasts that is not kept: so long a killed process's slots stay empty.
const leaseTime = 15 * time.Second

// leaserTimeout bounds one question to the database, so that a lease is asked for again well before it ends.
const leaserTimeout = 5 * time.Second

// Leaser leases slots to the processes of several machines by rows of the store's database. It is an ingest.Leaser and an
// ingest.Confirmer, and safe for use from several goroutines.
//
// A lease is a row with an end by the server's clock, which each Lease moves on; nobody's own clock decides anything. Advisory locks
// of a session, which end with it, were the other way, and are worse here: a server that does not hear of a machine's death keeps its
// session, and so the slots, until TCP gives up (two hours by default); a pooler between (PgBouncer) takes sessions apart; and
// who holds one has to notice that his connection broke.
//
// A process that was away (stopped, cut off, suspended) may hold a slot's MQTT connection when its lease has ended. No clock of its own
// could be trusted to say so. What fences it is the broker: it has one connection for each client id and ends the older one
// when the next holder connects. The older one may connect again only after Confirm, which asks the database: so two
// processes never take a slot from each other in turns. What it had taken and not acknowledged comes to the next one; what
// it stores all the same is a duplicate there. While the database does not answer, who is connected stays connected, and nobody
// gets a lease that another has.
type Leaser struct {
	s      *Store
	share  string
	member [16]byte
	lasts  time.Duration // of a lease
}

// Leaser leases the slots of a share: of those who give the same name.
func (s *Store) Leaser(share string) (*Leaser, error) {
	if s.o.ReadOnly {
		return nil, errors.New("the store is open for reading only")
	}
	l := &Leaser{s: s, share: share, lasts: leaseTime}
	s.random.Lock()
	defer s.random.Unlock()
	if _, err := io.ReadFull(s.o.Rand, l.member[:]); err != nil {
		return nil, fmt.Errorf("name of a member: %w", err)
	}
	return l, nil
}

// lock has the members of a share take turns.
func (l *Leaser) lock() int64 {
	sum := sha256.Sum256([]byte("waybill slots of " + l.share))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

const (
	joinShare = `INSERT INTO slot_members (share, member, until) VALUES ($1, $2, clock_timestamp() + $3) ON CONFLICT (share, member) DO UPDATE SET until = excluded.until`
	// Whose lease has ended and whose slot nobody took has it still.
	keepSlots = `UPDATE slots SET until = clock_timestamp() + $3 WHERE share = $1 AND member = $2`
	shareOf   = `SELECT count(*), count(*) FILTER (WHERE joined < (SELECT joined FROM slot_members WHERE share = $1 AND member = $2)) FROM slot_members WHERE share = $1`
	takeSlots = `INSERT INTO slots AS s (share, slot, member, until) SELECT $1, n, $2, clock_timestamp() + $3 FROM generate_series(0, $4::integer - 1) n
	    WHERE NOT EXISTS (SELECT 1 FROM slots x WHERE x.share = $1 AND x.slot = n AND x.until > clock_timestamp()) ORDER BY n LIMIT $5
	    ON CONFLICT (share, slot) DO UPDATE SET member = excluded.member, until = excluded.until`
	heldSlots = `SELECT slot FROM slots WHERE share = $1 AND member = $2 AND slot < $3 ORDER BY slot`
)

// Lease keeps what this process has and takes free slots up to its share: n by the number of processes that are there, the
// first of them one more where that leaves a rest.
func (l *Leaser) Lease(ctx context.Context, n int) (slots []int, over int, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaserTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, l.s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", l.lock()); err != nil {
			return err
		}
		for _, query := range []string{joinShare, keepSlots} {
			if _, err := tx.Exec(ctx, query, l.share, l.member, l.lasts); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "DELETE FROM slot_members WHERE share = $1 AND until < clock_timestamp()", l.share); err != nil {
			return err
		}
		var members, before int
		if err := tx.QueryRow(ctx, shareOf, l.share, l.member).Scan(&members, &before); err != nil {
			return err
		}
		share := n / members
		if before < n%members {
			share++
		}
		held := func() (err error) {
			rows, err := tx.Query(ctx, heldSlots, l.share, l.member, n)
			if err == nil {
				slots, err = pgx.CollectRows(rows, pgx.RowTo[int])
			}
			return err
		}
		if err := held(); err != nil {
			return err
		}
		if over = max(0, len(slots)-share); len(slots) >= share {
			return nil
		}
		if _, err := tx.Exec(ctx, takeSlots, l.share, l.member, l.lasts, n, share-len(slots)); err != nil {
			return err
		}
		return held()
	})
	if err != nil {
		return nil, 0, fmt.Errorf("lease slots: %w", err)
	}
	return slots, over, nil
}

// Confirm is nil when the slot is this process's now. Who waits for the answer longer than a lease lasts asks again.
func (l *Leaser) Confirm(ctx context.Context, slot int) error {
	ctx, cancel := context.WithTimeout(ctx, leaserTimeout)
	defer cancel()
	tag, err := l.s.pool.Exec(ctx, "UPDATE slots SET until = clock_timestamp() + $4 WHERE share = $1 AND slot = $2 AND member = $3", l.share, slot, l.member, l.lasts)
	if err != nil {
		return fmt.Errorf("is slot %d ours: %w", slot, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("slot %d is another process's now", slot)
	}
	return nil
}

// Release gives a slot up.
func (l *Leaser) Release(slot int) error {
	return l.leave("DELETE FROM slots WHERE share = $1 AND member = $2 AND slot = $3", slot)
}

// Close leaves: slots and place are free for others.
func (l *Leaser) Close() error {
	return errors.Join(l.leave("DELETE FROM slots WHERE share = $1 AND member = $2"), l.leave("DELETE FROM slot_members WHERE share = $1 AND member = $2"))
}

func (l *Leaser) leave(query string, more ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaserTimeout)
	defer cancel()
	if _, err := l.s.pool.Exec(ctx, query, append([]any{l.share, l.member}, more...)...); err != nil {
		return fmt.Errorf("give slots back: %w", err)
	}
	return nil
}
