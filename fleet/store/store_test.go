package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func open(t testing.TB, file string) *SQLite {
	t.Helper()
	s, err := Open(context.Background(), file, Options{Rand: rand.Reader, LetterBytes: 10, Letters: 5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// check is SQLite's own opinion of the file.
func check(t testing.TB, s *SQLite) {
	t.Helper()
	CheckRows(t, s.db)
}

// CheckRows asks SQLite for its own opinion of a store; the suite's tests are in another package and ask too.
func CheckRows(t testing.TB, db *sql.DB) {
	t.Helper()
	for _, pragma := range []string{"integrity_check", "foreign_key_check"} {
		rows, err := db.Query("PRAGMA " + pragma)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			if pragma == "foreign_key_check" {
				t.Error("a row refers to one that is not there")
			} else if err := rows.Scan(&text); err != nil || text != "ok" {
				t.Errorf("%s: %s %v", pragma, text, err)
			}
		}
	}
}

func batch(seq uint64, crc uint32) *Batch {
	return &Batch{Key: Key{9, telemetrypb.Lane_LANE_TELEMETRY, seq}, CRC: crc, SHA256: []byte(fmt.Sprint(crc)), Form: FormColumns, State: StateStored, Received: now}
}

func TestRangesAgainstAPlainSet(t *testing.T) {
	for seed := range uint64(200) {
		rng := mathrand.New(mathrand.NewPCG(seed, 0))
		var r Ranges
		set := map[uint64]bool{}
		for range 40 {
			first := 1 + rng.Uint64N(60)
			last := first + rng.Uint64N(5)
			if rng.IntN(10) == 0 {
				first, last = last+1, first
			}
			r.Add(first, last)
			for n := first; n <= last; n++ {
				set[n] = true
			}
			top := rng.Uint64N(80)
			var missing, within []uint64
			for n := uint64(1); n <= 80; n++ {
				if !set[n] && n <= top {
					missing = append(missing, n)
				}
				if set[n] && n >= first && n <= top {
					within = append(within, n)
				}
			}
			var got []uint64
			for _, g := range r.Missing(top) {
				for n := g.First; n <= g.Last; n++ {
					got = append(got, n)
				}
			}
			if !slices.Equal(got, missing) {
				t.Fatalf("seed %d: missing up to %d: %v, want %v (%v)", seed, top, got, missing, r.list)
			}
			if n := r.Within(first, top); n != uint64(len(within)) {
				t.Fatalf("seed %d: %d within %d-%d, want %d (%v)", seed, n, first, top, len(within), r.list)
			}
			for i := 1; i < len(r.list); i++ {
				if r.list[i].First <= r.list[i-1].Last+1 {
					t.Fatalf("seed %d: %v touch", seed, r.list)
				}
			}
		}
	}
	var r Ranges
	r.Add(1, math.MaxUint64)
	r.Add(math.MaxUint64, math.MaxUint64)
	r.Add(5, 6)
	if len(r.list) != 1 || r.Max() != math.MaxUint64 || r.Missing(math.MaxUint64) != nil {
		t.Errorf("the whole range: %v", r.list)
	}
}

func TestWhoMayOpen(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	file := filepath.Join(dir, "a # strange?name%20.db")
	s := open(t, file)
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("the file is elsewhere: %v", err)
	}
	if _, err := Open(ctx, file, Options{Rand: rand.Reader}); !errors.Is(err, ErrLocked) {
		t.Errorf("a second writer: %v", err)
	}
	r, err := Open(ctx, file, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Generation() != s.Generation() || r.Name() != s.Name() {
		t.Error("the reader sees another store")
	}
	if err := r.Update(ctx, func(Tx) error { return nil }); err == nil {
		t.Error("a reader may write")
	}
	if _, err := r.db.Exec("DELETE FROM meta"); err == nil {
		t.Error("a reader's connection may write")
	}
	r.Close()
	s.Close()
	again := open(t, file)
	if again.Generation() != s.Generation() || s.Generation() == 0 {
		t.Error("the generation changed with a restart")
	}
	if other := open(t, filepath.Join(dir, "b.db")); other.Generation() == s.Generation() || other.Name() == s.Name() {
		t.Error("two stores have one generation")
	}

	if _, err := Open(ctx, filepath.Join(dir, "none.db"), Options{ReadOnly: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reading a store that is not there: %v", err)
	}
	foreign := filepath.Join(dir, "foreign.db")
	db, err := sql.Open("sqlite", foreign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE theirs (x)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := Open(ctx, foreign, Options{Rand: rand.Reader}); !errors.Is(err, ErrSchema) {
		t.Errorf("somebody else's database: %v", err)
	}
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, text, Options{Rand: rand.Reader}); err == nil {
		t.Error("a text file was taken for a store")
	}
	check(t, again)
}

func BenchmarkPutSamples(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "a.db"))
	const perBatch = 1000
	rows := make([]Row, perBatch)
	seq := uint64(0)
	for b.Loop() {
		seq++
		if err := s.Update(context.Background(), func(tx Tx) error {
			d, err := tx.Device("acme", "car-1", now)
			if err != nil {
				return err
			}
			g, err := tx.NamedSignal(d, "can0.A.B", "")
			if err != nil {
				return err
			}
			for i := range rows {
				v := Scalar{Kind: telemetrypb.KindInt, Bits: uint64(i)}
				at := int64(seq)*1e9 + int64(i)*1e6
				rows[i] = Row{Index: uint32(i), Signal: g, BootNS: at, Time: Time{now.UnixNano() + at, 1000, 3}, Raw: v, Value: v}
			}
			p, err := tx.PutBatch(d, batch(seq, uint32(seq)))
			if err != nil {
				return err
			}
			return tx.PutSamples(p.ID, rows)
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(perBatch*float64(b.N)/b.Elapsed().Seconds(), "samples/s")
}

func BenchmarkRetime(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "a.db"))
	const perBatch, batches = 1000, 50
	err := s.Update(context.Background(), func(tx Tx) error {
		d, err := tx.Device("acme", "car-1", now)
		if err != nil {
			return err
		}
		g, err := tx.NamedSignal(d, "can0.A.B", "")
		if err != nil {
			return err
		}
		for seq := uint64(1); seq <= batches; seq++ {
			rows := make([]Row, perBatch)
			for i := range rows {
				rows[i] = Row{Index: uint32(i), Signal: g, BootNS: int64(i)}
			}
			p, err := tx.PutBatch(d, batch(seq, uint32(seq)))
			if err == nil {
				err = tx.PutSamples(p.ID, rows)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	shift := int64(0)
	for b.Loop() {
		shift++
		if err := s.Update(context.Background(), func(tx Tx) error {
			d, err := tx.Device("acme", "car-1", now)
			if err != nil {
				return err
			}
			if err := tx.PutRetiming(d, [16]byte{}, math.MinInt64); err != nil {
				return err
			}
			n, done, err := tx.Retime(d, [16]byte{}, 2*perBatch*batches, func(boot int64) Time { return Time{boot + shift*1e9, 1, 3} })
			if n != perBatch*batches || !done {
				b.Fatalf("%d samples dated again, done %v", n, done)
			}
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(perBatch*batches*float64(b.N)/b.Elapsed().Seconds(), "samples/s")
}

// A store of an earlier version is made one of this by its writer; a reader takes it as it is.
func TestUpgradeFromEarlierVersions(t *testing.T) {
	const noViews = "DROP VIEW latest_positions; DROP VIEW positions; DROP VIEW receivers; DROP VIEW events; DROP VIEW minutes; DROP VIEW hours; DROP VIEW ledger; "
	const fewer = noViews + "DROP TABLE offsets; ALTER TABLE results DROP COLUMN reason; ALTER TABLE results DROP COLUMN boot_id; ALTER TABLE results DROP COLUMN boot_count; " +
		"ALTER TABLE results DROP COLUMN key_id; ALTER TABLE results DROP COLUMN counter; "
	for name, downgrade := range map[string]string{
		"1": fewer + "DROP TABLE retimings; PRAGMA user_version = 1",
		"2": fewer + "PRAGMA user_version = 2",
		"3": noViews + "DROP TABLE offsets; PRAGMA user_version = 3",
		"4": noViews + "PRAGMA user_version = 4",
	} {
		t.Run(name, func(t *testing.T) { upgrade(t, downgrade) })
	}
}

func upgrade(t *testing.T, downgrade string) {
	file := filepath.Join(t.TempDir(), "a.db")
	s := open(t, file)
	if _, err := s.db.Exec(downgrade); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	reader, err := Open(context.Background(), file, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Results(context.Background(), "", ""); !errors.Is(err, ErrSchema) && strings.Contains(downgrade, "results") {
		t.Errorf("results of an earlier version: %v", err)
	}
	if _, err := reader.Positions(context.Background(), "raw"); !errors.Is(err, ErrSchema) && strings.Contains(downgrade, "offsets") {
		t.Errorf("offsets of an earlier version: %v", err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, file)
	if err := s.Update(context.Background(), func(tx Tx) error {
		d, err := tx.Device("acme", "car-1", now)
		if err != nil {
			return err
		}
		return errors.Join(tx.Advance("raw", 0, -1, 1), tx.PutRetiming(d, [16]byte{1}, 5), tx.PutResult(d, &telemetrypb.CommandResult{Id: "a", Reason: "clock"}, now))
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, file)
	for _, view := range []string{"positions", "latest_positions", "events", "minutes", "hours", "ledger"} {
		if _, err := s.db.Exec("SELECT * FROM " + view); err != nil {
			t.Errorf("%s after the upgrade: %v", view, err)
		}
	}
}
