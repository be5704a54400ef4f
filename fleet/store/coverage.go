package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"sort"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// laneKey names one sequence of numbers.
type laneKey struct {
	device int64
	epoch  uint64
	lane   telemetrypb.Lane
}

func (k laneKey) exists() bool {
	return k.lane >= telemetrypb.Lane_LANE_CONTROL && k.lane <= telemetrypb.Lane_LANE_RAW
}

// laneCover is what is known of one sequence. A gap is a number from 1 to the highest one known that neither arrived
// nor is spoken for by a loss record or a thinned copy.
type laneCover struct {
	arrived   Ranges
	accounted Ranges // arrived, lost or superseded
	announced uint64 // the highest number given, as the next epoch's first record says
}

func (c *laneCover) last() uint64 { return max(c.arrived.Max(), c.announced) }

// coverage is laneCover for every sequence. It is guarded by SQLite.mu.
type coverage struct {
	lanes   map[laneKey]*laneCover
	devices map[int64][]laneKey // the keys of lanes
}

func (c *coverage) lane(k laneKey) *laneCover {
	l := c.lanes[k]
	if l == nil {
		l = &laneCover{}
		c.lanes[k] = l
		c.devices[k.device] = append(c.devices[k.device], k)
	}
	return l
}

func (c *coverage) arrived(k laneKey, first, last uint64) {
	l := c.lane(k)
	l.arrived.Add(first, last)
	l.accounted.Add(first, last)
}

// A record may speak of a lane that does not exist; nobody asks for it.
func (c *coverage) accounted(k laneKey, first, last uint64) {
	if k.exists() {
		c.lane(k).accounted.Add(first, last)
	}
}

func (c *coverage) announced(k laneKey, seq uint64) {
	if k.exists() {
		l := c.lane(k)
		l.announced = max(l.announced, seq)
	}
}

// began takes the record of a new epoch: how far its parent had come, and from where its own numbers count.
func (c *coverage) began(device int64, epoch, parent uint64, parentLast, first []LaneSeq) {
	if parent != 0 {
		for _, l := range parentLast {
			c.announced(laneKey{device, parent, telemetrypb.Lane(l.Lane)}, l.Seq)
		}
	}
	for _, l := range first {
		if l.Seq > 1 {
			c.accounted(laneKey{device, epoch, telemetrypb.Lane(l.Lane)}, 1, l.Seq-1)
		}
	}
}

// missing counts the numbers in gaps.
func (c *coverage) missing() uint64 {
	var n uint64
	for _, l := range c.lanes {
		for _, r := range l.accounted.Missing(l.last()) {
			n += r.Last - r.First + 1
		}
	}
	return n
}

// keys lists the sequences in a fixed order.
func (c *coverage) keys() []laneKey {
	keys := make([]laneKey, 0, len(c.lanes))
	for k := range c.lanes {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		a, b := keys[i], keys[j]
		if a.device != b.device {
			return a.device < b.device
		}
		if a.epoch != b.epoch {
			return a.epoch < b.epoch
		}
		return a.lane < b.lane
	})
	return keys
}

// loadCoverage reads it from the tables.
func loadCoverage(ctx context.Context, db *sql.DB) (*coverage, error) {
	c := &coverage{lanes: map[laneKey]*laneCover{}, devices: map[int64][]laneKey{}}
	// Runs of consecutive numbers share the difference between the number and its place in order.
	err := eachRow(ctx, db, func(rows *sql.Rows) error {
		var device, epoch, lane, first, last int64
		if err := rows.Scan(&device, &epoch, &lane, &first, &last); err != nil {
			return err
		}
		c.arrived(laneKey{device, uint64(epoch), telemetrypb.Lane(lane)}, uint64(first), uint64(last))
		return nil
	}, `SELECT device, epoch, lane, min(seq), max(seq) FROM (
	      SELECT device, epoch, lane, seq, seq - row_number() OVER (PARTITION BY device, epoch, lane ORDER BY seq) AS run FROM batches)
	    GROUP BY device, epoch, lane, run ORDER BY device, epoch, lane, 4`)
	if err != nil {
		return nil, err
	}
	err = eachRow(ctx, db, func(rows *sql.Rows) error {
		var device, epoch, lane, first, last int64
		if err := rows.Scan(&device, &epoch, &lane, &first, &last); err != nil {
			return err
		}
		c.accounted(laneKey{device, uint64(epoch), telemetrypb.Lane(lane)}, uint64(first), uint64(last))
		return nil
	}, `SELECT b.device, b.epoch, b.lane, s.first, s.last FROM supersedes s JOIN batches b ON b.id = s.batch`)
	if err != nil {
		return nil, err
	}
	err = eachRow(ctx, db, func(rows *sql.Rows) error {
		var device, epoch, lane int64
		var seqs string
		if err := rows.Scan(&device, &epoch, &lane, &seqs); err != nil {
			return err
		}
		var list []Range
		if err := json.Unmarshal([]byte(seqs), &list); err != nil {
			return fmt.Errorf("loss record: seqs %q: %w", seqs, err)
		}
		for _, r := range list {
			c.accounted(laneKey{device, uint64(epoch), telemetrypb.Lane(lane)}, r.First, r.Last)
		}
		return nil
	}, `SELECT device, epoch, lane, seqs FROM losses WHERE seqs <> '[]'`)
	if err != nil {
		return nil, err
	}
	err = eachRow(ctx, db, func(rows *sql.Rows) error {
		var device, epoch, parent int64
		var lastText, firstText string
		if err := rows.Scan(&device, &epoch, &parent, &lastText, &firstText); err != nil {
			return err
		}
		var last, first []LaneSeq
		if err := json.Unmarshal([]byte(lastText), &last); err != nil {
			return fmt.Errorf("epoch record: parent's last %q: %w", lastText, err)
		}
		if err := json.Unmarshal([]byte(firstText), &first); err != nil {
			return fmt.Errorf("epoch record: first %q: %w", firstText, err)
		}
		c.began(device, uint64(epoch), uint64(parent), last, first)
		return nil
	}, `SELECT device, epoch, parent, parent_last, first FROM epochs`)
	return c, err
}

// LaneSeq is an element of epochs.parent_last and epochs.first, as it stands there in JSON.
type LaneSeq struct {
	Lane int32  `json:"lane"`
	Seq  uint64 `json:"seq"`
}

// LaneSeqs makes elements of what a vehicle said.
func LaneSeqs(list []*telemetrypb.LaneSeq) []LaneSeq {
	out := make([]LaneSeq, 0, len(list))
	for _, l := range list {
		out = append(out, LaneSeq{int32(l.GetLane()), l.GetSeq()})
	}
	return out
}

// Totals counts what a store holds.
type Totals struct {
	Devices  int64
	Batches  int64 // whatever their state
	Samples  int64 // rows
	Parked   int64 // batches
	Rejected int64 // batches
	Gaps     uint64
	Losses   int64 // records
	Letters  int64
}

func loadTotals(ctx context.Context, db *sql.DB) (t Totals, err error) {
	err = db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM devices), count(*),
	    coalesce(sum(CASE WHEN state = 1 AND lane <> 1 THEN samples ELSE 0 END), 0), coalesce(sum(state = 2), 0), coalesce(sum(state = 4), 0),
	    (SELECT count(*) FROM losses), (SELECT count(*) FROM dead_letters) FROM batches`).
		Scan(&t.Devices, &t.Batches, &t.Samples, &t.Parked, &t.Rejected, &t.Losses, &t.Letters)
	return t, err
}

// eachRow runs a query and calls f at each row.
func eachRow(ctx context.Context, db *sql.DB, f func(*sql.Rows) error, query string, args ...any) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
