package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // registers the driver; that it does so by init is not ours to change
)

// Options of a SQLite store.
type Options struct {
	ReadOnly bool         // open an existing store for reading beside its writer; Update fails
	Restored bool         // begin a new generation: the operator knows that the store was restored from a copy
	Rand     io.Reader    // makes generations; required unless ReadOnly
	Log      *slog.Logger // nil: nothing is logged
	// LetterBytes is how much of a dead letter is kept, in bytes (0: 64 KiB), and Letters how many are kept (0: 10,000).
	LetterBytes int
	Letters     int
	Limits      Limits // of what one device or tenant can make the store keep
}

// SQLite is a Store in one file: for one machine and the bench. Write-ahead log, synchronous FULL, one writer, which
// holds FILE.lock for as long as it is open. What it last committed stands in FILE.lock as well (generation.go).
type SQLite struct {
	db         *sql.DB
	o          Options
	lock       *os.File
	name       string
	generation uint64

	write sync.Mutex // guards the writer: w, the catalogue cache and the mark
	w     *writer
	mark  mark

	mu     sync.Mutex // guards what follows: what commits have changed
	cover  *coverage
	totals Totals
}

// Open opens the store in a file and makes it when it is not there.
func Open(ctx context.Context, file string, o Options) (*SQLite, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.LetterBytes == 0 {
		o.LetterBytes = 64 << 10
	}
	if o.Letters == 0 {
		o.Letters = 10000
	}
	o.Limits = o.Limits.WithDefaults()
	s := &SQLite{o: o}
	if err := s.open(ctx, file); err != nil {
		s.Close()
		return nil, fmt.Errorf("store %s: %w", file, err)
	}
	return s, nil
}

func (s *SQLite) open(ctx context.Context, file string) error {
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	if s.o.ReadOnly {
		if _, err := os.Stat(path); err != nil {
			return err
		}
	} else if s.lock, err = takeLock(path + ".lock"); err != nil {
		return err
	}
	if s.db, err = sql.Open("sqlite", dsn(path, s.o.ReadOnly)); err != nil {
		return err
	}
	if err := s.prepareSchema(ctx); err != nil {
		return err
	}
	if err := s.loadMeta(ctx); err != nil {
		return err
	}
	if !s.o.ReadOnly {
		if err := s.checkGeneration(ctx); err != nil {
			return err
		}
	}
	if s.cover, err = loadCoverage(ctx, s.db); err != nil {
		return fmt.Errorf("count what is there: %w", err)
	}
	if s.totals, err = loadTotals(ctx, s.db); err != nil {
		return fmt.Errorf("count what is there: %w", err)
	}
	if s.o.ReadOnly {
		return nil
	}
	s.w, err = newWriter(ctx, s.db)
	return err
}

func dsn(path string, readOnly bool) string {
	q := url.Values{}
	q.Add("_pragma", "busy_timeout(5000)")
	q.Add("_pragma", "foreign_keys(1)")
	if readOnly {
		q.Set("mode", "rw") // a reader of a write-ahead log may have to make its index; it changes no row
		q.Add("_pragma", "query_only(1)")
	} else {
		q.Set("mode", "rwc")
		q.Add("_pragma", "journal_mode(WAL)")
		q.Add("_pragma", "synchronous(FULL)")
		q.Add("_pragma", "cache_size(-32768)") // 32 MiB
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return f, nil
}

// prepareSchema makes the tables of a new file and refuses one that is not ours.
func (s *SQLite) prepareSchema(ctx context.Context) error {
	var app, version, tables int64
	if err := s.db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&app); err != nil {
		return err
	}
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if err := s.db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	switch {
	case app == applicationID && version == schemaVersion:
		return nil
	case app == applicationID && version >= 1 && version < schemaVersion && s.o.ReadOnly:
		return nil // its readers miss nothing but what later versions added, and are told
	case app == applicationID && version >= 1 && version < schemaVersion:
		more := strings.Join(upgrades[version-1:], "\n")
		_, err := s.db.ExecContext(ctx, "BEGIN; "+more+fmt.Sprintf("PRAGMA user_version = %d; COMMIT", schemaVersion))
		return err
	}
	if app != 0 || version != 0 || tables != 0 {
		return fmt.Errorf("%w: application id %#x, schema version %d, want %#x, %d", ErrSchema, app, version, applicationID, schemaVersion)
	}
	if s.o.ReadOnly {
		return fmt.Errorf("%w: the file is empty", ErrSchema)
	}
	if s.o.Rand == nil {
		return errors.New("no source of randomness for the generation of a new store")
	}
	var random [16]byte
	if _, err := io.ReadFull(s.o.Rand, random[:]); err != nil {
		return fmt.Errorf("random generation: %w", err)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	name := fmt.Sprintf("sqlite-%x", random[8:])
	if _, err := tx.ExecContext(ctx, "INSERT INTO meta VALUES ('name', ?), ('generation', ?)",
		name, int64(binary.BigEndian.Uint64(random[:8]))); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, schemaVersion)); err != nil {
		return err
	}
	return tx.Commit()
}

func (s *SQLite) loadMeta(ctx context.Context) error {
	var generation int64
	if err := s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = 'generation'").Scan(&generation); err != nil {
		return fmt.Errorf("generation: %w", err)
	}
	if err := s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = 'name'").Scan(&s.name); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	s.generation = uint64(generation)
	return nil
}

// Name is the store's name in receipts.
func (s *SQLite) Name() string { return s.name }

// Generation is random, made with the store, and another one after it was restored from a copy.
func (s *SQLite) Generation() uint64 { return s.generation }

// Update runs f in one transaction. On an error nothing of it remains, in the file or in memory.
func (s *SQLite) Update(ctx context.Context, f func(Tx) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.w == nil {
		return errors.New("the store is open for reading only")
	}
	t := &tx{ctx: ctx, s: s, w: s.w, o: s.o}
	if err := s.w.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	err := f(t)
	if err == nil {
		if err = s.w.exec(ctx, "COMMIT"); err == nil {
			s.keepMark(t.batch)
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, change := range t.committed {
				change(s.cover, &s.totals)
			}
			return nil
		}
		err = fmt.Errorf("commit: %w", err)
	}
	s.w.forget()
	// The context may be what failed; the roll-back must not depend on it. After a failed commit there may be nothing
	// to roll back, so its error says nothing that err does not.
	_ = s.w.exec(context.WithoutCancel(ctx), "ROLLBACK")
	return err
}

// Close closes the store. A writer's log is folded into the file.
func (s *SQLite) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	var errs []error
	if s.w != nil {
		errs = append(errs, s.w.close())
		s.w = nil
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Sync(), s.lock.Close())
	}
	return errors.Join(errs...)
}

// Totals counts what the store holds.
func (s *SQLite) Totals() Totals {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.totals
	t.Gaps = s.cover.missing()
	return t
}

var _ Store = (*SQLite)(nil)
