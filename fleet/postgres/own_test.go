//go:build system

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/store/storetest"
)

func do(t testing.TB, url string, statements ...string) {
	t.Helper()
	c, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for _, s := range statements {
		if _, err := c.Exec(context.Background(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func words(t testing.TB, url, query string) (list []string) {
	t.Helper()
	c, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	rows, err := c.Query(context.Background(), query)
	if err != nil {
		t.Fatal(err)
	}
	list, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

const partitions = `SELECT c.relname || ' ' || pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'samples'::regclass ORDER BY 1`

// TestPartitions: they are made ahead, on demand, made anew when somebody drops them, and cut where months and days meet.
func TestPartitions(t *testing.T) {
	p := quick(t)
	url := fresh(t, p)
	now := time.Date(2026, 11, 30, 23, 59, 0, 0, time.UTC)
	o := options()
	o.Now = func() time.Time { return now }
	s := open(t, url, o)
	names := func() (list []string) {
		for _, line := range words(t, url, partitions) {
			list = append(list, strings.Fields(strings.TrimPrefix(line, "samples_"))[0])
		}
		return list
	}
	expect := func(what string, list ...string) {
		t.Helper()
		if got := names(); !slices.Equal(got, list) {
			t.Errorf("%s: %v, want %v", what, got, list)
		}
	}
	seq := uint64(0)
	put := func(s *Store, at time.Time) (tries int) {
		t.Helper()
		if err := s.Update(context.Background(), func(tx store.Tx) error {
			tries++
			d, err := tx.Device("acme", "car-1", at)
			if err != nil {
				return err
			}
			g, err := tx.NamedSignal(d, "a", "")
			if err != nil {
				return err
			}
			b := storetest.Batch(seq+1, 1)
			b.Received, b.Samples = at, 1
			p, err := tx.PutBatch(d, b)
			if err != nil {
				return err
			}
			return tx.PutSamples(p.ID, []store.Row{{Signal: g}})
		}); err != nil {
			t.Fatal(err)
		}
		seq++
		return tries
	}
	expect("made ahead", "20261101_20261201", "20261201_20270101")
	for _, c := range []struct {
		at    time.Time
		tries int
	}{{now, 1}, {now.Add(2 * time.Minute), 1}, {now.AddDate(0, 1, 0), 1}, {now.AddDate(-1, 0, 0), 2}} {
		if n := put(s, c.at); n != c.tries {
			t.Errorf("%v: %d tries, want %d", c.at, n, c.tries)
		}
	}
	expect("by use, ahead, and on demand", "20251101_20251201", "20251201_20260101", "20261101_20261201", "20261201_20270101", "20270101_20270201")
	do(t, url, "DROP TABLE samples_20261201_20270101")
	if n := put(s, now.Add(time.Hour)); n != 2 {
		t.Errorf("%d tries where the partition was dropped", n)
	}
	o.Daily = true
	now = time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	daily := open(t, url, o)
	put(daily, now.AddDate(0, 0, 1))
	put(s, now.AddDate(0, 0, 1)) // a month beside days
	expect("days beside months", "20251101_20251201", "20251201_20260101", "20261101_20261201", "20261201_20270101", "20270101_20270201",
		"20270201_20270202", "20270202_20270203", "20270203_20270301", "20270301_20270401")
	for _, line := range words(t, url, "SELECT indexdef FROM pg_indexes WHERE tablename = 'samples_20270202_20270203' ORDER BY indexname") {
		if !strings.Contains(line, "USING btree (batch)") && !strings.Contains(line, "USING btree (signal, wall_ns) WHERE by_time") && !strings.Contains(line, "USING brin (wall_ns) WITH (pages_per_range='32', autosummarize='on')") {
			t.Errorf("an index of a partition: %s", line)
		}
	}
	if got := words(t, url, "SELECT count(*)::text FROM samples"); got[0] != "5" {
		t.Errorf("%s samples; 7 were put and two were dropped", got)
	}
}

// TestPartitionAheadOfFewConnections: who makes the next partition at the turn of a month holds no connection meanwhile, or as many
// writers as there are connections would wait for one another for ever.
func TestPartitionAheadOfFewConnections(t *testing.T) {
	url := fresh(t, quick(t))
	o := options()
	o.Connections = 1
	turn := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	o.Now = func() time.Time { return turn.Add(-time.Minute) }
	s := open(t, url, o)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for seq := uint64(1); seq <= 2; seq++ {
		if err := s.Update(ctx, func(tx store.Tx) error {
			d, err := tx.Device("acme", "car-1", turn)
			if err != nil {
				return err
			}
			g, err := tx.NamedSignal(d, "a", "")
			if err != nil {
				return err
			}
			b := storetest.Batch(seq, 1)
			b.Received, b.Samples = turn, 1
			p, err := tx.PutBatch(d, b)
			if err != nil {
				return err
			}
			return tx.PutSamples(p.ID, []store.Row{{Signal: g}})
		}); err != nil {
			t.Fatalf("batch %d after the turn of the month: %v", seq, err)
		}
	}
	if got := words(t, url, partitions); len(got) != 3 {
		t.Errorf("partitions: %v; want the one behind, too", got)
	}
}

// TestQuestionsLeaveRoomForVehicles: however many ask, and however long it takes, vehicles are taken from.
func TestQuestionsLeaveRoomForVehicles(t *testing.T) {
	o := options()
	o.Connections = 2
	s := open(t, fresh(t, quick(t)), o)
	asking, done := context.WithCancel(context.Background())
	var askers sync.WaitGroup
	defer askers.Wait()
	defer done()
	for range 4 {
		askers.Go(func() {
			var n int
			if err := (reads{s}).one(asking, "SELECT 1 FROM pg_sleep(60)", nil, &n); err == nil {
				t.Error("the question has slept its time")
			}
		})
	}
	time.Sleep(time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Update(ctx, func(tx store.Tx) error { _, err := tx.Device("acme", "car-1", storetest.Now); return err }); err != nil {
		t.Error(err)
	}
}

// TestQuestionsOfAnyText: who asks for what PostgreSQL takes for no text finds nothing, and is no error of the store's.
func TestQuestionsOfAnyText(t *testing.T) {
	ctx := context.Background()
	s := open(t, fresh(t, quick(t)), options())
	if err := s.Update(ctx, func(tx store.Tx) error {
		d, err := tx.Device("acme", "car-1", storetest.Now)
		if err == nil {
			_, err = tx.NamedSignal(d, "a\x00b", "")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r, id := s.Reads(), api.DeviceID{Tenant: "acme", Device: "car-1"}
	w := api.Window{From: storetest.Now.Add(-time.Hour), To: storetest.Now}
	for _, text := range []string{"\x00", "\xff", "a\x00b"} {
		_, err := r.Device(ctx, api.DeviceID{Tenant: "acme", Device: text}, w.To)
		if !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%q: %v", text, err)
		}
		p := api.Page{Limit: 10}
		for what, err := range map[string]error{
			"devices": second(r.Devices(ctx, api.DeviceQuery{Search: text, After: api.DeviceID{Tenant: text, Device: text}, Now: w.To, Limit: 10})),
			"signals": second(r.Signals(ctx, id, api.SignalQuery{Search: text, After: text, Now: w.To, Limit: 10, Last: true})),
			"series":  second(r.Buckets(ctx, id, text, w, time.Minute)),
			"gaps":    third(r.Gaps(ctx, api.LedgerQuery{Tenant: "acme", Device: text, Page: api.Page{Limit: 10, After: text + "/" + text + "/" + text + "/" + text + "/1"}})),
			"losses":  third(r.Losses(ctx, api.LedgerQuery{Tenant: "acme", Device: text, Page: p})),
			"parked":  third(r.ParkedBatches(ctx, api.LedgerQuery{Tenant: "acme", Device: text, Page: p})),
			"letters": third(r.Letters(ctx, api.LedgerQuery{Tenant: "acme", Device: text, Page: p})),
		} {
			if err != nil {
				t.Errorf("%s, %q: %v", what, text, err)
			}
		}
	}
	if list, err := r.Signals(ctx, id, api.SignalQuery{Search: "a\x00", Now: w.To, Limit: 10}); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

func second[T any](_ T, err error) error { return err }

func third[T any](_ T, _ string, err error) error { return err }

// TestWhoMayOpen: another program's database is refused and left alone, as are a newer schema and an empty one that is only
// to be read; a second schema of a shared database will do.
func TestWhoMayOpen(t *testing.T) {
	p := quick(t)
	ctx := context.Background()
	for name, statements := range map[string][]string{
		"a table":          {"CREATE TABLE theirs (x int)"},
		"a view":           {"CREATE VIEW theirs AS SELECT 1"},
		"a meta of theirs": {"CREATE TABLE meta (x int)"},
		"the same columns": {"CREATE TABLE meta (key text, value text)", "INSERT INTO meta VALUES ('application', 'another'), ('schema', '1')"},
		"a newer schema":   {"CREATE TABLE meta (key text, value text)", "INSERT INTO meta VALUES ('application', 'waybill-fleet'), ('schema', '99')"},
	} {
		url := fresh(t, p)
		do(t, url, statements...)
		before := words(t, url, "SELECT relname::text FROM pg_class ORDER BY 1")
		if _, err := Open(ctx, url, options()); !errors.Is(err, store.ErrSchema) {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(before, words(t, url, "SELECT relname::text FROM pg_class ORDER BY 1")) {
			t.Errorf("%s: tables were made", name)
		}
	}
	url := fresh(t, p)
	if _, err := Open(ctx, url, Options{ReadOnly: true}); !errors.Is(err, store.ErrSchema) {
		t.Errorf("reading an empty database: %v", err)
	}
	do(t, url, "CREATE TABLE theirs (x int)", "CREATE SCHEMA fleet")
	s := open(t, url+"?search_path=fleet", options())
	if err := s.Update(ctx, func(tx store.Tx) error { _, err := deliver(tx, "car-1", 1); return err }); err != nil {
		t.Fatal(err)
	}
	r := open(t, url+"?search_path=fleet", Options{ReadOnly: true})
	if r.Generation() != s.Generation() || r.Name() != s.Name() || r.Totals() != s.Totals() || r.Totals().Samples != 10 {
		t.Error("the reader sees another store")
	}
	if err := r.Update(ctx, func(store.Tx) error { return nil }); err == nil {
		t.Error("a reader may write")
	}
	if _, err := r.pool.Exec(ctx, "DELETE FROM meta"); err == nil {
		t.Error("a reader's connection may write")
	}
	// Nobody has to be a superuser.
	do(t, url, "CREATE ROLE owner LOGIN PASSWORD 'x'", "CREATE ROLE reader LOGIN PASSWORD 'x'", "CREATE SCHEMA theirs AUTHORIZATION owner", "GRANT USAGE ON SCHEMA theirs TO reader",
		"ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA theirs GRANT SELECT ON TABLES TO reader")
	as := func(role string) string {
		return strings.Replace(url, "waybill:not%20a%20secret", role+":x", 1) + "?search_path=theirs"
	}
	s = open(t, as("owner"), options())
	if err := s.Update(ctx, func(tx store.Tx) error { _, err := deliver(tx, "car-1", 1); return err }); err != nil {
		t.Fatal(err)
	}
	if n := open(t, as("reader"), Options{ReadOnly: true}).Totals(); n.Samples != 10 {
		t.Errorf("an ordinary reader sees %+v", n)
	}
	_, err := Open(ctx, strings.Replace(url, "not%20a%20secret", "wrong%20one", 1), options())
	if err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := Open(ctx, "postgres://u:hush@[::1/x", options()); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("a URL that is none: %v", err)
	}
}

// TestGeneration: another place is another generation, for all processes; the same one is not.
func TestGeneration(t *testing.T) {
	p := quick(t)
	url := fresh(t, p)
	var log bytes.Buffer
	o := options()
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	generation := func(o Options) uint64 {
		s := open(t, url, o)
		defer s.Close()
		return s.Generation()
	}
	first := generation(o)
	if first == 0 || generation(o) != first {
		t.Error("the generation changed with a restart")
	}
	p.Kill()
	p.Start()
	if generation(o) != first {
		t.Error("the generation changed with a killed server")
	}
	running := open(t, url, o)
	// What a base backup, a promoted standby, and a dump that was loaded elsewhere leave: another timeline, cluster, database, table.
	place := words(t, url, "SELECT value FROM meta WHERE key = 'place'")[0]
	if fields := strings.Fields(place); len(fields) != 4 || fields[1] != "00000001" {
		t.Fatalf("place %q", place)
	}
	seen := map[uint64]bool{first: true}
	for i := range 4 {
		fields := strings.Fields(place)
		fields[i] += "0"
		do(t, url, fmt.Sprintf("UPDATE meta SET value = '%s' WHERE key = 'place'", strings.Join(fields, " ")))
		g := generation(o)
		if seen[g] || generation(o) != g {
			t.Errorf("another %s: generation %x", []string{"cluster", "timeline", "database", "table"}[i], g)
		}
		seen[g] = true
	}
	if n := strings.Count(log.String(), "restored from a copy"); n != 4 {
		t.Errorf("said %d times, want 4", n)
	}
	// One that runs hears of it with its next connection, which it needs after any restore.
	p.Restart()
	for try := 0; ; try++ {
		if err := running.Update(context.Background(), func(tx store.Tx) error { _, err := deliver(tx, "car-1", 1); return err }); err == nil {
			break
		} else if try > 20 {
			t.Fatal(err)
		}
	}
	if running.Generation() != generation(o) {
		t.Error("a running process has the old generation")
	}
	o.Restored = true
	if g := generation(o); seen[g] {
		t.Error("the operator's word made no new generation")
	}
}

// TestADumpIsAnotherPlace: pg_dump and its result loaded into another database of the same server.
func TestADumpIsAnotherPlace(t *testing.T) {
	p := quick(t)
	url := fresh(t, p)
	s := open(t, url, options())
	if err := s.Update(context.Background(), func(tx store.Tx) error { _, err := deliver(tx, "car-1", 1); return err }); err != nil {
		t.Fatal(err)
	}
	totals := s.Totals()
	s.Close()
	other := fresh(t, p)
	p.Copy(t, url, other)
	c := open(t, other, options())
	if c.Generation() == s.Generation() || c.Name() != s.Name() || c.Totals() != totals {
		t.Errorf("generation %x and %x, totals %+v", c.Generation(), s.Generation(), c.Totals())
	}
	if err := c.Update(context.Background(), func(tx store.Tx) error {
		isNew, err := deliver(tx, "car-1", 1)
		if isNew {
			t.Error("what was loaded is new")
		}
		if err == nil {
			_, err = deliver(tx, "car-1", 2)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	check(t, other)
}
