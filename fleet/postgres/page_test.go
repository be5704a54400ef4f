//go:build system

package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/store/storetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/fleetdata"
	"github.com/waybill-telematics/waybill/test/readtest"
)

// TestPageMigration: a store of before has what the page needs once it is brought up to date.
func TestPageMigration(t *testing.T) {
	ctx := context.Background()
	url := fresh(t, quick(t))
	s := open(t, url, Options{Rand: rand.Reader})
	readtest.FillFleet(t, s, readtest.Now)
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	spans := func() (text string) {
		t.Helper()
		if err := c.QueryRow(ctx, `SELECT string_agg(x::text, E'\n') FROM (SELECT device, batch, day, lane, first_ns, last_ns, ARRAY(SELECT unnest(signals) ORDER BY 1) FROM spans ORDER BY batch, last_ns) x`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := spans()
	s.Close()
	if _, err := c.Exec(ctx, `DROP TABLE spans, tenants, slots, slot_members; DROP FUNCTION latest_position; DROP VIEW epochs_of; DROP INDEX devices_in_order, losses_by_batch, dead_letters_by_topic;
	    ALTER TABLE devices DROP COLUMN epochs, DROP COLUMN signals, DROP COLUMN boots, DROP COLUMN results, DROP COLUMN parked; ALTER TABLE lanes DROP COLUMN runs;
	    UPDATE meta SET value = '`+fmt.Sprint(slices.Index(migrations, schemaPage))+`' WHERE key = 'schema'`); err != nil {
		t.Fatal(err)
	}
	open(t, url, Options{Rand: rand.Reader})
	if after := spans(); after != before || strings.Count(after, "\n") < 100 {
		t.Errorf("spans before:\n%.1000s\nafter:\n%.1000s", before, after)
	}
	check(t, url)
}

// TestOneVehicleOfMany: what is asked of one vehicle, and a page of a list, reads no large table from end to end. (The list of all
// vehicles is none, where their names are wanted.)
func TestOneVehicleOfMany(t *testing.T) {
	const vehicles = 10_000
	ctx := context.Background()
	p := quick(t)
	url := fresh(t, p)
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	s := open(t, url, Options{Rand: rand.Reader, Now: func() time.Time { return at }})
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	// Four batches a vehicle, ten minutes apart, of four samples; number 3 of each is missing.
	for _, query := range []string{
		`INSERT INTO devices (tenant, device, first_seen, last_seen, signals) SELECT 'acme', 'car-' || lpad(n::text, 6, '0'), now(), now(), 4 FROM generate_series(1, ` + fmt.Sprint(vehicles) + `) n`,
		`INSERT INTO tenants VALUES ('acme', ` + fmt.Sprint(vehicles) + `)`,
		`INSERT INTO signals (device, catalogue, number, name, unit, scale, "offset", type, source, message) SELECT d.id, 0, 0, n, '', 1, 0, 0, '', ''
		   FROM devices d, unnest(ARRAY['gps0.fix.latitude', 'gps0.fix.longitude', 'gps0.fix.suspect', 'can0.speed']) n`,
		`INSERT INTO batches (device, epoch, lane, seq, crc32c, boot_id, boot_count, catalogue, first_ns, span_ns, samples, form, state, reason, day, received)
		   SELECT d.id, 9, CASE q WHEN 5 THEN 2 ELSE 3 END, CASE q WHEN 5 THEN 1 ELSE q END, 0, gen_random_uuid(), 1, gen_random_uuid(), 0, 0, 4, 1, 1, '', '2026-11-22', now() FROM devices d, unnest(ARRAY[1, 2, 4, 5]) q`,
		`INSERT INTO samples SELECT b.day, g.n, b.id, g.id, b.seq, 1795348800000000000 - (10 - b.seq) * 600000000000, 0, 0, CASE g.n WHEN 3 THEN 0 ELSE 10 + g.n END, 1, 3, '', ''
		   FROM batches b JOIN (SELECT id, device, row_number() OVER (PARTITION BY device ORDER BY id) AS n FROM signals) g ON g.device = b.device`,
		`INSERT INTO spans SELECT b.device, b.id, b.day, b.lane, min(s.wall_ns), max(s.wall_ns), array_agg(DISTINCT s.signal) FROM samples s JOIN batches b ON b.id = s.batch GROUP BY 1, 2, 3, 4`,
		`INSERT INTO lanes SELECT device, epoch, lane, min(id), count(*), 12, 0, 0, 0, max(seq), 0, CASE lane WHEN 3 THEN 1 ELSE 0 END, 1 FROM batches GROUP BY 1, 2, 3`,
		`INSERT INTO ranges SELECT device, epoch, 3, 1, 2 FROM lanes WHERE lane = 3 UNION ALL SELECT device, epoch, 3, 4, 4 FROM lanes WHERE lane = 3`,
		`INSERT INTO losses SELECT min(id), 0, device, 1, 'queue', 1, false, false, 'samples', '', 0, 0, 9, 3, '[]', '' FROM batches GROUP BY device`,
		`UPDATE meta SET value = '' WHERE key = 'roles'`, // the next start finds roles and positions
	} {
		if _, err := c.Exec(ctx, query); err != nil {
			t.Fatalf("%.60s: %v", query, err)
		}
	}
	s.Close()
	open(t, url, Options{Rand: rand.Reader}).Close() // a session's statistics are sure to be told when it has ended
	do(t, url, "VACUUM ANALYZE")
	read := func() map[string]int64 {
		t.Helper()
		counts := map[string]int64{}
		rows, err := c.Query(ctx, `SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE relname ~ '^(samples|spans|batches|signals|lanes|ranges|losses|devices)'`)
		if err != nil {
			t.Fatal(err)
		}
		var name string
		var n int64
		if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { counts[name] = n; return nil }); err != nil {
			t.Fatal(err)
		}
		return counts
	}
	scanned := func(what string, ask func(api.Reader) error) {
		t.Helper()
		before := read()
		s, err := Open(ctx, url, Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		err = ask(s.Reads())
		s.Close()
		if err != nil {
			t.Fatal(what, err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			var left int
			if err := c.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'").Scan(&left); err != nil || time.Now().After(deadline) {
				t.Fatal(left, err)
			}
			if left == 0 {
				break
			}
		}
		for name, n := range read() {
			if n -= before[name]; n > vehicles/10 && (name != "devices" || !strings.HasSuffix(what, "of all")) {
				t.Errorf("%s: %d rows of %s were read from end to end", what, n, name)
			}
		}
	}
	id := api.DeviceID{Tenant: "acme", Device: "car-004321"}
	w := api.Window{From: at.Add(-3 * time.Hour), To: at}
	var d *api.DeviceDetail
	scanned("device", func(r api.Reader) (err error) { d, err = r.Device(ctx, id, at); return err })
	if d.Position == nil || d.Position.Latitude != 11 || d.Gaps != 1 || d.Batches != 4 || d.Losses != 1 {
		t.Errorf("%+v", d)
	}
	scanned("signals", func(r api.Reader) error {
		list, err := r.Signals(ctx, id, api.SignalQuery{Now: at, Limit: 100, Last: true})
		if len(list) != 4 || list[0].Last == nil {
			t.Errorf("%+v", list)
		}
		return err
	})
	scanned("buckets", func(r api.Reader) error {
		list, err := r.Buckets(ctx, id, "can0.speed", w, time.Minute)
		if len(list) != 3 { // the event is of the first one's time
			t.Errorf("%+v", list)
		}
		return err
	})
	scanned("positions", func(r api.Reader) error {
		n := 0
		_, _, err := r.Positions(ctx, id, "", w, func(api.Point) error { n++; return nil })
		if n < 4 {
			t.Errorf("%d positions", n)
		}
		return err
	})
	scanned("events", func(r api.Reader) error {
		list, _, err := r.Events(ctx, id, api.Window{}, api.Page{Limit: 100})
		if len(list) != 4 {
			t.Errorf("%d events", len(list))
		}
		return err
	})
	scanned("losses", func(r api.Reader) error {
		list, _, err := r.Losses(ctx, api.LedgerQuery{Tenant: id.Tenant, Device: id.Device, Page: api.Page{Limit: 100}})
		if len(list) != 1 {
			t.Errorf("%d losses", len(list))
		}
		return err
	})
	scanned("losses of all", func(r api.Reader) error {
		_, _, err := r.Losses(ctx, api.LedgerQuery{Page: api.Page{Limit: 100}})
		return err
	})
	scanned("a page of the list", func(r api.Reader) error {
		list, err := r.Devices(ctx, api.DeviceQuery{Now: at, Limit: 100, After: id})
		if len(list) != 100 || list[99].Position == nil {
			t.Errorf("%d devices", len(list))
		}
		return err
	})
}

// What was made of a vehicle's samples goes with them, and nothing of it comes back when the marked hours are looked at; nobody else's changes.
func TestErasedIsDerivedFromNothing(t *testing.T) {
	ctx := context.Background()
	url := fresh(t, quick(t))
	s := open(t, url, Options{Rand: rand.Reader, Now: func() time.Time { return readtest.Now }})
	readtest.FillFleet(t, s, readtest.Now)
	derive := func() {
		t.Helper()
		for {
			n, err := s.Derive(ctx, readtest.Now.Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				return
			}
		}
	}
	derive()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	rows := func(whose string) map[string]int {
		t.Helper()
		counts := map[string]int{}
		for _, table := range append([]string{"samples", "batch_hours", "spans", "latest"}, derivedTables...) {
			from := table + " x JOIN devices d ON d.id = x.device"
			switch table {
			case "samples":
				from = "samples x JOIN batches b ON b.id = x.batch AND b.day = x.day JOIN devices d ON d.id = b.device"
			case "latest":
				from += " AND x.wall_ns IS NOT NULL"
			}
			var n int
			if err := c.QueryRow(ctx, "SELECT count(*) FROM "+from+" WHERE d.device "+whose).Scan(&n); err != nil {
				t.Fatal(err)
			}
			counts[table] = n
		}
		return counts
	}
	const erased = "= '" + fleetdata.Plain + "'"
	before, others := rows(erased), rows("<> '"+fleetdata.Plain+"'")
	for _, table := range []string{"samples", "batch_hours", "spans", "latest", "drives", "queues", "driven_by"} {
		if before[table] == 0 {
			t.Errorf("%s: nothing to erase, that tests nothing: %v", table, before)
		}
	}
	if _, err := s.Erase(ctx, api.DeviceID{Tenant: fleetdata.First, Device: fleetdata.Plain}); err != nil {
		t.Fatal(err)
	}
	derive()
	for table, n := range rows(erased) {
		if n != 0 && table != "driven_by" { // which may say that nothing tells
			t.Errorf("%s: %d rows after the erasure", table, n)
		}
	}
	if now := rows("<> '" + fleetdata.Plain + "'"); !maps.Equal(now, others) {
		t.Errorf("others: %v, then %v", others, now)
	}
}

// TestABatchOfManyHours: what a transaction remembers of a batch is bounded, however many hours its samples are of; and what
// the server finds in its place is the same.
func TestABatchOfManyHours(t *testing.T) {
	ctx := context.Background()
	url := fresh(t, quick(t))
	s := open(t, url, Options{Rand: rand.Reader, Now: func() time.Time { return readtest.Now }})
	const hours = spansAtOnce + 1000
	date := func(boot int64) store.Time {
		return store.Time{UnixNS: boot, UncertaintyNS: uint64(time.Hour), Source: telemetrypb.TimeSource_TIME_SOURCE_GPS}
	}
	update := func(f func(x *tx, device int64) error) {
		t.Helper()
		if err := s.Update(ctx, func(x store.Tx) error {
			d, err := x.Device("acme", "car-1", readtest.Now)
			if err != nil {
				return err
			}
			return f(x.(*tx), d)
		}); err != nil {
			t.Fatal(err)
		}
	}
	bounded := func(x *tx) {
		t.Helper()
		if len(x.spans) > spansAtOnce || len(x.derived.hours) > spansAtOnce || len(x.derived.dirty) > spansAtOnce {
			t.Errorf("%d spans, %d hours, %d to look at are remembered", len(x.spans), len(x.derived.hours), len(x.derived.dirty))
		}
	}
	held := func(what string, shift int64) {
		t.Helper()
		for query, want := range map[string]int{
			"SELECT count(*)::text FROM spans WHERE first_ns = last_ns AND cardinality(signals) = 1":            2 * hours,
			fmt.Sprintf("SELECT count(*)::text FROM batch_hours h WHERE h.hour >= time_of(%d)", shift):          2 * hours,
			fmt.Sprintf("SELECT count(*)::text FROM dirty WHERE hour >= time_of(%d)", shift):                    hours,
			"SELECT count(*)::text FROM spans x JOIN samples s USING (batch, day) WHERE s.wall_ns = x.first_ns": 2 * hours,
		} {
			if got := words(t, url, query); got[0] != fmt.Sprint(want) {
				t.Errorf("%s: %s: %s, want %d", what, query, got[0], want)
			}
		}
	}
	for seq := uint64(1); seq <= 2; seq++ {
		update(func(x *tx, device int64) error {
			name := []string{"gps0.fix.latitude", "x.VehicleSpeed"}[seq-1]
			if _, err := x.NamedSignal(device, "gps0.fix.longitude", "deg"); err != nil {
				return err
			}
			g, err := x.NamedSignal(device, name, "m/s")
			if err != nil {
				return err
			}
			b := storetest.Batch(seq, uint32(seq))
			b.Samples, b.BootID = hours, [16]byte{1}
			p, err := x.PutBatch(device, b)
			if err != nil {
				return err
			}
			for from := 0; from < hours; from += 4000 {
				var rows []store.Row
				for i := from; i < min(from+4000, hours); i++ {
					v := store.Scalar{Kind: telemetrypb.KindFloat, Bits: math.Float64bits(1)}
					rows = append(rows, store.Row{Index: uint32(i), Signal: g, BootNS: int64(i) * hourNS, Time: date(int64(i) * hourNS), Raw: v, Value: v})
				}
				if err := x.PutSamples(p.ID, rows); err != nil {
					return err
				}
				bounded(x)
			}
			return nil
		})
	}
	held("stored", 0)
	do(t, url, "DELETE FROM dirty")
	shift := 5 * 24 * int64(time.Hour)
	for done := false; !done; {
		update(func(x *tx, device int64) (err error) {
			if err = x.PutRetiming(device, [16]byte{1}, math.MinInt64); err == nil {
				_, done, err = x.Retime(device, [16]byte{1}, math.MaxInt, func(boot int64) store.Time { return date(boot + shift) })
				bounded(x)
			}
			return err
		})
	}
	held("dated again", shift)
	if got := words(t, url, "SELECT count(*)::text FROM dirty"); got[0] != fmt.Sprint(hours+shift/hourNS) {
		t.Errorf("%s hours are to be looked at", got[0])
	}
	// Of a vehicle whose positions are all too uncertain the list of vehicles does not look at each hour.
	soon, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if list, err := s.Reads().Devices(soon, api.DeviceQuery{Now: readtest.Now, Limit: 10}); err != nil || len(list) != 1 || list[0].Position != nil {
		t.Errorf("%+v, %v", list, err)
	}
}
