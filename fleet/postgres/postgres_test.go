//go:build system

package postgres

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/store/storetest"
)

func TestSuite(t *testing.T) {
	p := quick(t)
	storetest.Run(t, func(t testing.TB) store.Store {
		url := fresh(t, p)
		s := open(t, url, options())
		t.Cleanup(func() { check(t, url) })
		return s
	})
}

// check holds what is counted against what is there, by queries that have nothing to do with how it was counted.
func check(t testing.TB, url string) {
	t.Helper()
	c, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for what, query := range map[string]string{
		"totals": `SELECT count(*) FROM (SELECT coalesce(sum(batches), 0), coalesce(sum(samples), 0), coalesce(sum(parked), 0), coalesce(sum(rejected), 0), coalesce(sum(losses), 0), coalesce(sum(letters), 0), coalesce(sum(devices), 0) FROM totals
		    EXCEPT SELECT (SELECT count(*) FROM batches), (SELECT count(*) FROM samples), (SELECT count(*) FROM batches WHERE state = 2), (SELECT count(*) FROM batches WHERE state = 4),
		      (SELECT count(*) FROM losses), (SELECT count(*) FROM dead_letters), (SELECT count(*) FROM devices)) x`,
		"lanes": `SELECT count(*) FROM (
		    SELECT device, epoch, lane, count(*), coalesce(sum(samples) FILTER (WHERE state = 1), 0), count(*) FILTER (WHERE state = 2), count(*) FILTER (WHERE state = 4), count(*) FILTER (WHERE state = 3), max(seq), min(id) FROM batches GROUP BY 1, 2, 3
		    EXCEPT SELECT device, epoch, lane, batches, samples, parked, rejected, superseded, last, first_batch FROM lanes) x`,
		"numbers that came and are not accounted for": `SELECT count(*) FROM batches b WHERE NOT EXISTS (SELECT 1 FROM ranges r WHERE r.device = b.device AND r.epoch = b.epoch AND r.lane = b.lane AND b.seq BETWEEN r.first AND r.last)`,
		"ranges that touch":                           `SELECT count(*) FROM (SELECT first - lag(last) OVER (PARTITION BY device, epoch, lane ORDER BY first) AS space, first, last FROM ranges) x WHERE space < 2 OR first > last OR first < 1`,
		"missing": `SELECT count(*) FROM (SELECT l.missing, greatest(l.last, l.announced) - coalesce(sum(least(r.last, greatest(l.last, l.announced)) - r.first + 1), 0) AS counted
		    FROM lanes l LEFT JOIN ranges r ON r.device = l.device AND r.epoch = l.epoch AND r.lane = l.lane AND r.first <= greatest(l.last, l.announced)
		    GROUP BY l.device, l.epoch, l.lane) x WHERE missing <> counted`,
		"samples without a batch or a signal": `SELECT (SELECT count(*) FROM samples) - (SELECT count(*) FROM readings)`,
		"what devices have of what is limited": `SELECT count(*) FROM (SELECT id, epochs, signals, boots, results, parked FROM devices
		    EXCEPT SELECT id, (SELECT count(*) FROM epochs_of x WHERE x.device = d.id), (SELECT count(*) FROM signals x WHERE x.device = d.id), (SELECT count(*) FROM clocks x WHERE x.device = d.id),
		      (SELECT count(*) FROM results x WHERE x.device = d.id), (SELECT coalesce(sum(length(bytes) + 256 + least(samples, 1048576)), 0) FROM batches x WHERE x.device = d.id AND state = 2) FROM devices d) x`,
		"devices of tenants":            `SELECT count(*) FROM (SELECT tenant, count(*) FROM devices GROUP BY tenant EXCEPT SELECT tenant, devices FROM tenants) x`,
		"runs of lanes":                 `SELECT count(*) FROM lanes l WHERE runs <> (SELECT count(*) FROM ranges r WHERE r.device = l.device AND r.epoch = l.epoch AND r.lane = l.lane)`,
		"samples that not one span has": `SELECT count(*) FROM samples s JOIN batches b ON b.id = s.batch WHERE 1 <> (SELECT count(*) FROM spans x WHERE x.device = b.device AND x.batch = s.batch AND x.day = s.day AND x.lane = b.lane AND s.signal = ANY (x.signals) AND (s.wall_ns BETWEEN x.first_ns AND x.last_ns OR s.wall_ns IS NULL AND x.last_ns IS NULL))`,
		"spans that are too long":       `SELECT count(*) FROM spans WHERE last_ns - first_ns >= 7200000000000 OR first_ns > last_ns`,
		"samples that stand twice":      `SELECT count(*) FROM (SELECT 1 FROM samples GROUP BY batch, idx HAVING count(*) > 1) x`,
	} {
		var n int64
		if err := c.QueryRow(context.Background(), query).Scan(&n); err != nil || n != 0 {
			t.Errorf("%s: %d are wrong, %v", what, n, err)
		}
	}
	rows, err := c.Query(context.Background(), "SELECT * FROM readings")
	if err == nil {
		for rows.Next() {
		}
		err = rows.Err()
	}
	if err != nil {
		t.Errorf("readings: %v", err)
	}
}
