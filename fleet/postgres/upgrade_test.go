//go:build system

package postgres

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// TestUpgradeToTables: what an older version has stored stands in the tables, too.
func TestUpgradeToTables(t *testing.T) {
	ctx := context.Background()
	url := fresh(t, quick(t))
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	version := slices.Index(migrations, schemaTables)
	for _, m := range migrations[:version] {
		if _, err := c.Exec(ctx, m, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	status, err := proto.Marshal(&telemetrypb.Status{Epoch: 9, Queue: []*telemetrypb.LaneDepth{{Lane: 3, Batches: 4}}})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Date(2025, 11, 22, 7, 58, 0, 0, time.UTC)
	do(t, url,
		fmt.Sprintf("INSERT INTO meta VALUES ('application', '%s'), ('schema', '%d'), ('name', 'x'), ('generation', '1')", application, version),
		"INSERT INTO devices (tenant, device, first_seen, last_seen) VALUES ('acme', 'car-1', now(), now())",
		fmt.Sprintf(`INSERT INTO status VALUES (1, true, '', '\x%x', now())`, status),
		"CREATE TABLE samples_20251101_20251201 PARTITION OF samples FOR VALUES FROM ('2025-11-01') TO ('2025-12-01')",
		`INSERT INTO signals (device, catalogue, number, name, unit, scale, "offset", type, source, message) SELECT 1, 0, 0, name, unit, 1, 0, 0, '', ''
		    FROM (VALUES ('gps0.fix.latitude', 'deg'), ('gps0.fix.longitude', 'deg'), ('x.VehicleSpeed', 'm/s'), ('other', '')) AS v (name, unit)`,
		`INSERT INTO batches (device, epoch, lane, seq, crc32c, boot_id, boot_count, catalogue, first_ns, span_ns, samples, form, state, reason, day, received)
		    VALUES (1, 9, 3, 2, 0, '00000000-0000-0000-0000-000000000001', 0, '00000000-0000-0000-0000-000000000000', 0, 0, 160, 2, 1, '', '2025-11-22', '2025-11-22 09:00Z')`,
		"INSERT INTO lanes VALUES (1, 9, 3, 1, 1, 160, 0, 0, 0, 2, 0, 1)", "INSERT INTO ranges VALUES (1, 9, 3, 2, 2)",
		fmt.Sprintf(`INSERT INTO samples (day, idx, batch, signal, boot_ns, wall_ns, uncertainty, bits, value, time_source, kind, raw, label)
		    SELECT '2025-11-22', 4 * n + g, 1, g, n * 5000000000, %d + n * 5000000000, 1, 0, CASE g WHEN 3 THEN 10 ELSE n END, 3, 0, '', '' FROM generate_series(0, 39) n, generate_series(1, 4) g`, begin.UnixNano()))
	s := open(t, url, options())
	for n := 1; n > 0; {
		if n, err = s.Derive(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for query, want := range map[string]string{
		"SELECT count(*)::text FROM positions": "40",
		"SELECT latitude::text || ' ' || (wall_ns = ns('2025-11-22 08:01:15Z'))::text FROM latest_positions":             "39 true",
		"SELECT (distance_m)::text || ' ' || to_char(started, 'HH24:MI:SS') FROM trips":                                  "1950 07:58:00",
		"SELECT string_agg(to_char(hour, 'HH24') || ' ' || samples, ', ' ORDER BY hour) FROM hours WHERE name = 'other'": "07 24, 08 16",
		"SELECT first || ' ' || queued || ' ' || verdict FROM gaps":                                                      "1 4 late",
		"SELECT count(*)::text FROM samples WHERE by_time":                                                               "120",
	} {
		if got := words(t, url, query); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
	// What names mean may change: then all is looked at again.
	do(t, url, "UPDATE meta SET value = '0' WHERE key = 'roles'", "UPDATE roles SET role = 'ignition' WHERE role = 'speed'", "UPDATE samples SET by_time = (signal = 4)")
	open(t, url, options())
	if got := words(t, url, "SELECT role || signal FROM roles ORDER BY signal"); !slices.Equal(got, []string{"latitude1", "longitude2", "speed3"}) {
		t.Errorf("roles: %v", got)
	}
	if got := words(t, url, "SELECT count(*)::text FROM samples WHERE by_time <> (signal < 4)"); got[0] != "0" {
		t.Errorf("%s samples are not found as they should be", got[0])
	}
	// The words are those of the protocol.
	for n, name := range telemetrypb.LossReason_name {
		if got := words(t, url, fmt.Sprintf("SELECT 'LOSS_' || upper(loss_reason(%d))", n)); n > 0 && got[0] != name {
			t.Errorf("loss reason %d is %s, want %s", n, got[0], name)
		}
	}
	for lane := telemetrypb.Lane(1); lane <= 4; lane++ {
		if got := words(t, url, fmt.Sprintf("SELECT lane_name(%d)", lane)); got[0] != telemetrypb.LaneName(lane) {
			t.Errorf("lane %d is %s", lane, got[0])
		}
	}
}
