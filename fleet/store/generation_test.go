package store

import (
	"context"
	"crypto/rand"
	"fmt"
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

// TestLacks: what is asked for is what neither came nor is accounted for, the control lane first, in bounds.
func TestLacks(t *testing.T) {
	s, err := Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), openOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, 1, 3)
	put(t, s, 6, 6)
	put(t, s, 8, 8)
	tele, control := telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Lane_LANE_CONTROL
	given := []Given{{7, tele, 10}, {7, control, 2}, {8, tele, 1 << 63}}
	for _, c := range []struct {
		given []Given
		most  int
		want  string
	}{
		{nil, 10, "[{7 LANE_TELEMETRY [{4 5} {7 7}]}] false"},
		{given, 10, "[{7 LANE_CONTROL [{1 2}]} {7 LANE_TELEMETRY [{4 5} {7 7} {9 10}]} {8 LANE_TELEMETRY [{1 9223372036854775807}]}] false"},
		{given, 2, "[{7 LANE_CONTROL [{1 2}]} {7 LANE_TELEMETRY [{4 5}]}] true"},
	} {
		list, more := s.Lacks(1, c.given, c.most)
		if got := fmt.Sprint(list, more); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	if list, more := s.Lacks(2, nil, 10); len(list) > 0 || more {
		t.Errorf("of a device that is not known: %v", list)
	}
}

// TestNotKept: a vehicle's word that it no longer has what it was asked for counts for what is really missing; and what is
// rejected a second time is recorded once.
func TestNotKept(t *testing.T) {
	s, err := Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), openOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, 1, 3)
	put(t, s, 6, 6)
	tele := telemetrypb.Lane_LANE_TELEMETRY
	loss := func(index int, reason telemetrypb.LossReason, seqs ...*telemetrypb.SeqRange) {
		t.Helper()
		if err := s.Update(context.Background(), func(tx Tx) error {
			return tx.PutLoss(1, 1, index, &telemetrypb.Loss{Reason: reason, Epoch: 7, Lane: tele, Seqs: seqs, Count: 99, Unit: "batches"})
		}); err != nil {
			t.Fatal(err)
		}
	}
	notKept := telemetrypb.LossReason_LOSS_NOT_KEPT
	loss(0, telemetrypb.LossReason_LOSS_EVICTED, &telemetrypb.SeqRange{First: 8, Last: 9})
	loss(1, notKept, &telemetrypb.SeqRange{First: 2, Last: 10}, &telemetrypb.SeqRange{First: 5, Last: 4}, &telemetrypb.SeqRange{Last: 1 << 63})
	loss(2, notKept, &telemetrypb.SeqRange{First: 4, Last: 10}) // said twice
	rejected := telemetrypb.LossReason_LOSS_REJECTED
	loss(3, rejected, &telemetrypb.SeqRange{First: 1, Last: 2})
	loss(4, rejected, &telemetrypb.SeqRange{First: 3, Last: 3})
	loss(5, rejected, &telemetrypb.SeqRange{First: 1, Last: 3}) // again, by the restored store
	loss(6, rejected, &telemetrypb.SeqRange{First: 3, Last: 4}) // one more than before
	loss(7, rejected)                                           // of no known number
	loss(8, rejected)
	list, err := s.Losses(context.Background(), "")
	if err != nil || len(list) != 7 {
		t.Fatalf("%+v, %v", list, err)
	}
	if got := fmt.Sprint(list[1].Reason, list[1].Count, list[1].Seqs); got != "LOSS_NOT_KEPT4 [{4 5} {7 7} {10 10}]" {
		t.Error(got)
	}
	if lacks, _ := s.Lacks(1, nil, 10); len(lacks) > 0 {
		t.Errorf("still asked for: %v", lacks)
	}
}
