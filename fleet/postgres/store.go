// Package postgres keeps what vehicles delivered in PostgreSQL: a fleet's store, written by several processes at once.
// It is store.Store with the tables of the SQLite one, done as PostgreSQL does it best (docs/STORE.md).
//
// Whatever must hold rests on the database: whoever changes anything of a device holds that device's row until the commit,
// keys are inserted before what they stand for, and counts are kept in the transaction that changes them. The package
// remembers nothing that another process could make false. It knows no MQTT, no Kafka, and decodes no batch.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/waybill-telematics/waybill/fleet/store"
)

// Options of a store.
type Options struct {
	ReadOnly bool         // for reading only, also from a standby; Update fails
	Restored bool         // begin a new generation: the operator knows that the store was restored from a copy
	Rand     io.Reader    // makes generations; required unless ReadOnly
	Log      *slog.Logger // nil: nothing is logged
	// Password, if not empty, is the password; else the URL, PGPASSWORD or PGPASSFILE give it.
	Password string
	// Connections is the most that are opened; 0: 8. Each Update uses one; the API's questions use half of them at most, so that
	// nobody who asks keeps vehicles waiting.
	Connections int32
	// Daily makes a partition of samples a day, and not a month, from now on: for fleets of more than about 10,000 samples/s.
	Daily bool
	// LetterBytes is how much of a dead letter is kept, in bytes (0: 64 KiB), and Letters how many are kept (0: 10,000).
	LetterBytes int
	Letters     int
	Limits      store.Limits // of what one device or tenant can make the store keep
	// Now says which partitions are made ahead; nil: time.Now.
	Now func() time.Time
}

// Store is a store.Store in a PostgreSQL database. It is safe for use from several goroutines, each Update on a connection
// of its own.
type Store struct {
	o          Options
	pool       *pgxpool.Pool
	name       atomic.Pointer[string]
	generation atomic.Uint64

	reading chan struct{} // a place for each question of the API that has a connection

	mu         sync.Mutex // guards what follows
	catalogues map[catalogueKey]*store.Catalogue
	roles      map[int64]*deviceRoles
	signals    map[int64]*decodedSignal // that the outbox has named
	days       map[int32]bool           // partitions of samples that were there, by their first day
	totals     store.Totals             // as last read
	retimed    store.Retiming           // the last one that was given out
	derived    int64                    // the device whose drives were found last
	random     sync.Mutex               // guards o.Rand
	buffers    sync.Pool                // of *[]byte, for the samples of a transaction
}

var _ store.Store = (*Store)(nil)

// connectTimeout bounds one connection's making.
const connectTimeout = 15 * time.Second

// abandoned has the server end a transaction of a machine that is gone or a process that is stopped, and let go of its locks: of its
// devices, of its Kafka partitions, and of the one that all share. Else that takes until TCP gives up, two hours by default. The URL
// may say otherwise.
var abandoned = map[string]string{
	"idle_in_transaction_session_timeout": "60000", // ms; between two statements lie milliseconds
	"tcp_keepalives_idle":                 "15",    // s
	"tcp_keepalives_interval":             "5",
	"tcp_keepalives_count":                "3",
	"tcp_user_timeout":                    "30000", // ms
}

// askTimeout bounds what has no context of its own: Totals and Lacks.
const askTimeout = 15 * time.Second

// Open opens the store in a database, postgres://USER@HOST:PORT/NAME, and makes its tables when there are none. The other
// parameters of the URL are libpq's.
func Open(ctx context.Context, url string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Connections == 0 {
		o.Connections = 8
	}
	if o.LetterBytes == 0 {
		o.LetterBytes = 64 << 10
	}
	if o.Letters == 0 {
		o.Letters = 10000
	}
	o.Limits = o.Limits.WithDefaults()
	if o.Now == nil {
		o.Now = time.Now
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err) // it leaves the password out
	}
	if o.Password != "" {
		config.ConnConfig.Password = o.Password
	}
	s := &Store{o: o, catalogues: map[catalogueKey]*store.Catalogue{}, days: map[int32]bool{}, roles: map[int64]*deviceRoles{}}
	s.reading = make(chan struct{}, max(1, o.Connections/2))
	if err := s.open(ctx, config); err != nil {
		s.Close()
		return nil, fmt.Errorf("store %s/%s: %w", config.ConnConfig.Host, config.ConnConfig.Database, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, config *pgxpool.Config) error {
	if !s.o.ReadOnly && s.o.Rand == nil {
		return errors.New("no source of randomness for the generation of a store")
	}
	c := config.ConnConfig
	c.DialFunc = dialer().DialContext
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "waybill-fleet"
	}
	c.RuntimeParams["timezone"] = "UTC"
	c.RuntimeParams["default_transaction_isolation"] = "read committed" // the locks and the fences count on seeing what was committed
	for name, value := range abandoned {
		if c.RuntimeParams[name] == "" {
			c.RuntimeParams[name] = value
		}
	}
	if s.o.ReadOnly {
		c.RuntimeParams["default_transaction_read_only"] = "on"
	}
	first, err := pgx.ConnectConfig(ctx, c.Copy())
	if err != nil {
		return err
	}
	err = s.settle(ctx, first)
	if closed := first.Close(context.WithoutCancel(ctx)); err != nil || closed != nil { // with it goes the lock
		return errors.Join(err, closed)
	}
	config.MaxConns = s.o.Connections
	config.AfterConnect = s.greet
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	if s.o.ReadOnly {
		return nil
	}
	return s.makePartitions(ctx, dayOf(s.o.Now()))
}

// settle has the schema right and reads what it says of itself.
func (s *Store) settle(ctx context.Context, c *pgx.Conn) error {
	if s.o.ReadOnly {
		if err := prepare(ctx, c, true); err != nil {
			return err
		}
		return s.readIdentity(ctx, c)
	}
	if _, err := c.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(openLock)); err != nil {
		return err
	}
	if err := prepare(ctx, c, false); err != nil {
		return err
	}
	if err := fillRoles(ctx, c); err != nil {
		return err
	}
	return s.checkGeneration(ctx, c, s.o.Restored)
}

// greet is run at each new connection. One that a vehicle's receipt depends on must not confirm what a power cut may take,
// and one that leads to another server than before (a restored or a promoted one) begins a new generation.
func (s *Store) greet(ctx context.Context, c *pgx.Conn) error {
	if s.o.ReadOnly {
		return nil
	}
	if _, err := c.Exec(ctx, "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"); err != nil {
		return err
	}
	return s.checkGeneration(ctx, c, false)
}

// Name is the store's name in receipts.
func (s *Store) Name() string {
	if name := s.name.Load(); name != nil {
		return *name
	}
	return ""
}

// Generation is random, made with the store, and another one after it was restored from a copy.
func (s *Store) Generation() uint64 { return s.generation.Load() }

// Close closes the connections.
func (s *Store) Close() error {
	if s.pool != nil {
		s.pool.Close()
	}
	return nil
}

// attempts is how often Update tries what other transactions were in the way of; from the aloneFrom-th on, no other one runs
// beside it: those that go on as they are could be in its way for ever.
const (
	attempts  = 20
	aloneFrom = 4
)

// begin begins a transaction beside others, or alone. Who waits to be alone is overtaken by nobody (the lock's queue). Its last answer has
// a row where the transaction is to leave notes in the outbox.
func begin(attempt int) string {
	if attempt < aloneFrom {
		return fmt.Sprintf("BEGIN; SELECT pg_advisory_xact_lock_shared(%d); %s", updateLock, outboxQuery)
	}
	return fmt.Sprintf("BEGIN; SELECT pg_advisory_xact_lock(%d); %s", updateLock, outboxQuery)
}

// Update runs f in one transaction, and again when another transaction was in its way: f must begin anew then. When the
// connection breaks while the server commits, Update fails and what f did may stand: whoever does it again finds
// duplicates and a moved offset.
func (s *Store) Update(ctx context.Context, f func(store.Tx) error) error {
	if s.o.ReadOnly {
		return errors.New("the store is open for reading only")
	}
	wanted := map[deviceName]bool{} // devices, by the attempts before
	for attempt := 1; ; attempt++ {
		copied, err := s.try(ctx, f, wanted, attempt)
		var absent *absentPartition
		switch {
		case err == nil:
			s.aheadOf(ctx, copied)
			return nil
		case ctx.Err() != nil || attempt >= attempts:
			return err
		case errors.As(err, &absent):
			for _, day := range absent.days {
				if err := s.makePartitions(ctx, day); err != nil {
					return fmt.Errorf("a partition for samples of %s: %w", dateOf(day).Format(time.DateOnly), err)
				}
			}
		case !wasInTheWay(err):
			return err
		default:
			s.o.Log.Debug("a transaction is tried again", "attempt", attempt, "err", err)
			select {
			case <-ctx.Done():
				return err
			case <-time.After(rand.N(time.Duration(attempt) * 5 * time.Millisecond)):
			}
		}
	}
}

// wasInTheWay says whether a transaction failed for others' sake only: serialization_failure, deadlock_detected.
func wasInTheWay(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01")
}

// try is one transaction. It takes what earlier attempts wanted ahead of f and in one order, so that several that have been
// in one another's way are no more. copied are the days whose samples it stored.
func (s *Store) try(ctx context.Context, f func(store.Tx) error, wanted map[deviceName]bool, attempt int) (copied []int32, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer conn.Release()
	defer func() {
		if err != nil {
			undo(ctx, conn.Conn())
		}
	}()
	begun, err := conn.Conn().PgConn().Exec(ctx, begin(attempt)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	t := newTx(ctx, s, conn.Conn(), wanted)
	t.outbox.wanted = len(begun[len(begun)-1].Rows) > 0
	if b, ok := s.buffers.Get().(*[]byte); ok {
		t.samples.bytes = (*b)[:0]
	}
	defer func() { s.buffers.Put(&t.samples.bytes) }()
	if err = t.takeWanted(); err == nil {
		err = f(t)
	}
	if err == nil {
		err = t.err
	}
	if err == nil {
		if err = t.finish(); err == nil {
			var tag pgconn.CommandTag
			if tag, err = conn.Exec(ctx, "COMMIT"); err == nil && tag.String() == "COMMIT" {
				s.keep(t)
				return t.copied, nil
			}
			if err == nil {
				return nil, errors.New("commit: the server rolled the transaction back")
			}
			err = fmt.Errorf("commit: %w", err)
		}
	}
	if t.err != nil && !errors.Is(err, t.err) {
		err = errors.Join(err, t.err) // what f made of it may hide that it can be tried again
	}
	return nil, err
}

// undo rolls a connection's transaction back. The context may be what failed, and the roll-back must not depend on it. A
// broken connection is not used again.
func undo(ctx context.Context, c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
	defer cancel()
	if _, err := c.Exec(ctx, "ROLLBACK"); err != nil {
		_ = c.Close(ctx)
	}
}

// aheadOf makes the partitions behind those of some days. It takes a connection, so that nobody may hold one who calls it: at the turn
// of a month all writers do.
func (s *Store) aheadOf(ctx context.Context, days []int32) {
	for _, day := range days {
		if err := s.ahead(ctx, day); err != nil { // the next transaction tries it again
			s.o.Log.Warn("the next partition of samples could not be made", "err", err)
			return
		}
	}
}

// keep remembers what a transaction has made or read and nobody can change.
func (s *Store) keep(t *tx) {
	if len(t.catalogues) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.catalogues)+len(t.catalogues) > cachedCatalogues {
		s.catalogues = map[catalogueKey]*store.Catalogue{}
	}
	for k, c := range t.catalogues {
		s.catalogues[k] = c
	}
}
