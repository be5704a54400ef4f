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
		"samples that stand twice":            `SELECT count(*) FROM (SELECT 1 FROM samples GROUP BY batch, idx HAVING count(*) > 1) x`,
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
