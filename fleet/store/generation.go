package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// A store that was restored from a copy lacks what it had confirmed since, and vehicles have let go of that. So it has to
// ask for it, under another generation. It finds out by itself, from a mark that is not part of the database:
//
//	FILE.lock   generation (16 hex) │ row of the last batch committed (20 digits) │ inode of FILE.lock (20 digits)
//
// The mark is written behind each commit and ahead of its receipts. When the database has fewer batches than the mark says,
// or there is no mark that belongs to it (another machine, a folder copied back), a new generation begins. One too many
// costs each vehicle a message; one too few would cost data. What it cannot see is a disk that went back as a whole: there,
// and only there, somebody has to say so (Options.Restored).

const (
	markFormat = "%016x %020d %020d\n"
	markBytes  = 16 + 1 + 20 + 1 + 20 + 1
)

// mark is what FILE.lock says.
type mark struct {
	generation uint64
	batch      int64
	inode      uint64
	failed     bool // to be written; it was said
}

// checkGeneration begins a new generation where the store may lack what it has confirmed.
func (s *SQLite) checkGeneration(ctx context.Context) error {
	var info unix.Stat_t
	if err := unix.Fstat(int(s.lock.Fd()), &info); err != nil {
		return fmt.Errorf("%s: %w", s.lock.Name(), err)
	}
	var last int64
	if err := s.db.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM batches").Scan(&last); err != nil {
		return err
	}
	text := make([]byte, markBytes)
	n, err := s.lock.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", s.lock.Name(), err)
	}
	var old mark
	why := ""
	_, err = fmt.Sscanf(string(text[:n]), markFormat, &old.generation, &old.batch, &old.inode)
	switch {
	case s.o.Restored:
		why = "the operator says so"
	case last == 0 && n == 0: // a new store
	case err != nil:
		why = "nothing beside it tells what it had"
	case old.inode != info.Ino:
		why = "its folder was copied"
	case old.generation != s.generation:
		why = "it is another store than the one that was here"
	case old.batch > last:
		why = fmt.Sprintf("it has %d batches and had %d", last, old.batch)
	}
	s.mark = mark{generation: s.generation, batch: last, inode: info.Ino}
	if why != "" {
		if err := s.newGeneration(ctx); err != nil {
			return fmt.Errorf("a new generation: %w", err)
		}
		s.o.Log.Warn("the store may have been restored from a copy; vehicles are asked for what it lacks", "why", why,
			"generation", fmt.Sprintf("%016x", s.generation), "before", fmt.Sprintf("%016x", s.mark.generation))
		s.mark.generation = s.generation
	}
	if err := s.writeMark(); err != nil {
		return err
	}
	return s.lock.Sync()
}

func (s *SQLite) newGeneration(ctx context.Context) error {
	if s.o.Rand == nil {
		return errors.New("no source of randomness")
	}
	var random [8]byte
	if _, err := io.ReadFull(s.o.Rand, random[:]); err != nil {
		return err
	}
	next := binary.BigEndian.Uint64(random[:])
	for next == s.generation || next == 0 {
		next++
	}
	if _, err := s.db.ExecContext(ctx, "UPDATE meta SET value = ? WHERE key = 'generation'", int64(next)); err != nil {
		return err
	}
	s.generation = next
	return nil
}

// keepMark notes the last batch of a commit; 0: it had none. It is not flushed: after a power cut the mark may be older than
// the database, which is never taken for a restore.
func (s *SQLite) keepMark(batch int64) {
	if batch <= s.mark.batch && !s.mark.failed {
		return
	}
	s.mark.batch = max(s.mark.batch, batch)
	err := s.writeMark()
	if err != nil && !s.mark.failed {
		s.o.Log.Error("what was committed cannot be noted beside the store: a restore from a copy would not be seen", "err", err)
	}
	s.mark.failed = err != nil
}

func (s *SQLite) writeMark() error {
	_, err := s.lock.WriteAt(fmt.Appendf(nil, markFormat, s.mark.generation, s.mark.batch, s.mark.inode), 0)
	return err
}
