package cloudtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// committedTable is what the vehicles wrote down, in a table of the test's own.
const committedTable = `CREATE TEMPORARY TABLE committed (device text, epoch bigint, lane int, seq bigint, samples bigint, sum numeric, ordered numeric, boot numeric,
    PRIMARY KEY (device, epoch, lane, seq))`

// storedTable is the same of the fleet's tables, from nothing but keys and samples: no count that the fleet keeps is asked.
const storedTable = `CREATE TEMPORARY TABLE stored AS
SELECT d.device, b.epoch, b.lane, b.seq, b.state, count(s.idx) AS samples, count(DISTINCT s.idx) AS places, coalesce(min(s.idx), 0) AS first, coalesce(max(s.idx), -1) AS last,
       coalesce(sum(s.bits::numeric), 0) AS sum, coalesce(sum((s.idx + 1) * s.bits::numeric), 0) AS ordered, coalesce(sum(s.boot_ns::numeric), 0) AS boot
FROM batches b JOIN devices d ON d.id = b.device LEFT JOIN samples s ON s.batch = b.id
GROUP BY d.device, b.epoch, b.lane, b.seq, b.state`

// questions each count what must not be; the words say what it is.
var questions = []struct{ what, query string }{
	{"batches that were committed and are not in the table", `SELECT count(*) FROM committed c LEFT JOIN stored s USING (device, epoch, lane, seq) WHERE s.seq IS NULL`},
	{"batches in the table that no vehicle committed", `SELECT count(*) FROM stored s LEFT JOIN committed c USING (device, epoch, lane, seq) WHERE c.seq IS NULL`},
	{"keys that are in the table twice", `SELECT count(*) - count(DISTINCT (device, epoch, lane, seq)) FROM stored`},
	{"batches with another number of samples", `SELECT count(*) FROM committed c JOIN stored s USING (device, epoch, lane, seq) WHERE s.samples <> c.samples`},
	{"batches with a place taken twice, or none taken", `SELECT count(*) FROM stored WHERE places <> samples OR first <> 0 OR last <> samples - 1`},
	{"batches with other values", `SELECT count(*) FROM committed c JOIN stored s USING (device, epoch, lane, seq) WHERE s.sum <> c.sum OR s.ordered <> c.ordered OR s.boot <> c.boot`},
	{"batches that are not stored but parked, superseded or rejected", `SELECT count(*) FROM stored WHERE state <> 1`},
	{"sequences with gaps", `SELECT count(*) FROM (SELECT 1 FROM stored GROUP BY device, epoch, lane HAVING count(*) <> max(seq) OR min(seq) <> 1) x`},
	{"samples of no batch", `SELECT count(*) FROM samples s WHERE NOT EXISTS (SELECT 1 FROM batches b WHERE b.id = s.batch)`},
	{"entries of the loss ledger", `SELECT count(*) FROM losses`},
	{"dead letters", `SELECT count(*) FROM dead_letters`},
}

// Compare holds the tables against what vehicles committed, by SQL: each batch once, each sample of it once, with its
// value and time, and nothing else. It says how many batches and samples there are.
func Compare(t testing.TB, conn *pgx.Conn, vehicles []*Vehicle) (batches, samples int64) {
	t.Helper()
	ctx := context.Background()
	var rows [][]any
	for _, v := range vehicles {
		for _, c := range v.Committed {
			rows = append(rows, []any{c.Device, int64(c.Epoch), int32(c.Lane), int64(c.Seq), int64(c.Samples), c.Sum, c.Ordered, c.Boot})
		}
	}
	if _, err := conn.Exec(ctx, committedTable); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{"committed"}, []string{"device", "epoch", "lane", "seq", "samples", "sum", "ordered", "boot"}, pgx.CopyFromRows(rows)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, storedTable); err != nil {
		t.Fatal(err)
	}
	for _, q := range questions {
		var n int64
		if err := conn.QueryRow(ctx, q.query).Scan(&n); err != nil {
			t.Errorf("%s: %v", q.what, err)
		} else if n != 0 {
			t.Errorf("%s: %d", q.what, n)
		}
	}
	if err := conn.QueryRow(ctx, "SELECT count(*), sum(samples)::bigint FROM stored").Scan(&batches, &samples); err != nil {
		t.Error(err)
	}
	return batches, samples
}
