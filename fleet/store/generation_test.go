package store

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func openOptions() Options { return Options{Rand: rand.Reader} }

// put commits batches of a device under the numbers first to last.
func put(t *testing.T, s *SQLite, first, last uint64) {
	t.Helper()
	if err := s.Update(context.Background(), func(tx Tx) error {
		device, err := tx.Device("acme", "car-1", time.Unix(0, 1))
		for seq := first; err == nil && seq <= last; seq++ {
			_, err = tx.PutBatch(device, &Batch{Key: Key{Epoch: 7, Lane: telemetrypb.Lane_LANE_TELEMETRY, Seq: seq}, CRC: 9, State: StateStored, Form: FormColumns})
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestGeneration: a store that was restored in any of the usual ways begins a new generation, by itself; one that was
// closed, killed, or has only lost what nobody had been told of does not.
func TestGeneration(t *testing.T) {
	type place struct {
		t         *testing.T
		dir, file string
	}
	copyStore := func(p place, to string) {
		for _, name := range []string{"fleet.db", "fleet.db-wal", "fleet.db.lock"} {
			if b, err := os.ReadFile(filepath.Join(p.dir, name)); err == nil {
				if err := os.WriteFile(filepath.Join(to, name), b, 0o644); err != nil {
					p.t.Fatal(err)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		between func(p place, s *SQLite) (file string) // the store is closed when it returns
		options Options
		same    bool
	}{
		"closed": {same: true, between: func(p place, s *SQLite) string { s.Close(); return p.file }},
		"killed": {same: true, between: func(p place, s *SQLite) string { // the log is not folded in, the mark not flushed
			s.db.Close()
			s.lock.Close()
			return p.file
		}},
		"an older mark, after a power cut": {same: true, between: func(p place, s *SQLite) string {
			mark, _ := os.ReadFile(p.file + ".lock")
			put(p.t, s, 5, 8)
			s.Close()
			os.WriteFile(p.file+".lock", mark, 0o644)
			return p.file
		}},
		"nothing since the copy": {same: true, between: func(p place, s *SQLite) string {
			s.Close()
			b, _ := os.ReadFile(p.file)
			os.Remove(p.file)
			os.WriteFile(p.file, b, 0o644)
			return p.file
		}},
		"an older copy of the file": {between: func(p place, s *SQLite) string {
			s.Close()
			b, _ := os.ReadFile(p.file)
			s, err := Open(context.Background(), p.file, openOptions())
			if err != nil {
				p.t.Fatal(err)
			}
			put(p.t, s, 5, 5)
			s.Close()
			os.WriteFile(p.file, b, 0o644)
			return p.file
		}},
		"a folder copied elsewhere": {between: func(p place, s *SQLite) string {
			s.Close()
			other := p.t.TempDir()
			copyStore(p, other)
			return filepath.Join(other, "fleet.db")
		}},
		"the file alone, elsewhere": {between: func(p place, s *SQLite) string {
			s.Close()
			other := p.t.TempDir()
			copyStore(p, other)
			os.Remove(filepath.Join(other, "fleet.db.lock"))
			return filepath.Join(other, "fleet.db")
		}},
		"a mark that makes no sense": {between: func(p place, s *SQLite) string {
			s.Close()
			os.WriteFile(p.file+".lock", []byte("what is this?"), 0o644)
			return p.file
		}},
		"the operator says so": {options: Options{Restored: true}, between: func(p place, s *SQLite) string { s.Close(); return p.file }},
	} {
		t.Run(name, func(t *testing.T) {
			p := place{t: t, dir: t.TempDir()}
			p.file = filepath.Join(p.dir, "fleet.db")
			s, err := Open(context.Background(), p.file, openOptions())
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, 1, 4)
			first, called := s.Generation(), s.Name()
			file := c.between(p, s)
			var generations []uint64
			for i := range 2 { // the second time nothing has happened
				o := openOptions()
				o.Restored = c.options.Restored && i == 0
				if s, err = Open(context.Background(), file, o); err != nil {
					t.Fatal(err)
				}
				generations = append(generations, s.Generation())
				put(t, s, 20, 21)
				if s.Name() != called {
					t.Errorf("name %q, was %q", s.Name(), called)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if (generations[0] == first) != c.same || generations[1] != generations[0] {
				t.Errorf("generations %x, then %x", first, generations)
			}
		})
	}
}
