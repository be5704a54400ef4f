package postgres

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// maxSeq is the highest number of a batch.
const maxSeq = 1<<63 - 1

// laneKey names one sequence of numbers.
type laneKey struct {
	device int64
	epoch  uint64
	lane   telemetrypb.Lane
}

// laneChange is what a transaction adds to a row of lanes.
type laneChange struct {
	first                                          int64 // row of the first batch; 0: none
	batches, samples, parked, rejected, superseded int64
	last, announced                                uint64
	accounted                                      store.Ranges
}

func (t *tx) lane(device int64, epoch uint64, lane telemetrypb.Lane) *laneChange {
	k := laneKey{device, epoch, lane}
	l := t.lanes[k]
	if l == nil {
		l = &laneChange{}
		t.lanes[k] = l
	}
	return l
}

func (l *laneChange) arrived(batch int64, seq uint64) {
	if l.first == 0 {
		l.first = batch
	}
	l.last = max(l.last, seq)
	l.account(seq, seq)
}

// account takes any two numbers that a vehicle says: what no batch can have is left out.
func (l *laneChange) account(first, last uint64) {
	if first, last = max(first, 1), min(last, maxSeq); first <= last {
		l.accounted.Add(first, last)
	}
}

func (l *laneChange) announce(seq uint64) { l.announced = max(l.announced, min(seq, maxSeq)) }

// became counts n batches (1 or −1) of a state.
func (l *laneChange) became(s store.State, n, samples int64) {
	switch s {
	case store.StateStored:
		l.samples += n * samples
	case store.StateParked:
		l.parked += n
	case store.StateRejected:
		l.rejected += n
	case store.StateSuperseded:
		l.superseded += n
	}
}

// totalsChange is what a transaction adds to a row of totals.
type totalsChange struct {
	devices, batches, samples, parked, rejected, losses, letters int64
}

func (n *totalsChange) became(s store.State, by int64) {
	switch s {
	case store.StateParked:
		n.parked += by
	case store.StateRejected:
		n.rejected += by
	}
}

const updateDevices = `UPDATE devices d SET receipts = u.receipts, copies = u.copies, last_seen = greatest(d.last_seen, u.seen),
      epochs = u.epochs, signals = u.signals, boots = u.boots, results = u.results, parked = u.parked
    FROM unnest($1::bigint[], $2::bigint[], $3::boolean[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
      AS u (id, receipts, copies, seen, epochs, signals, boots, results, parked) WHERE d.id = u.id`

const updateLanes = `INSERT INTO lanes AS l (device, epoch, lane, first_batch, batches, samples, parked, rejected, superseded, last, announced, missing, runs)
    SELECT device, epoch, lane, nullif(first_batch, 0), batches, samples, parked, rejected, superseded, last, announced, missing, runs
    FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[])
      AS u (device, epoch, lane, first_batch, batches, samples, parked, rejected, superseded, last, announced, missing, runs)
    ON CONFLICT (device, epoch, lane) DO UPDATE SET first_batch = coalesce(l.first_batch, excluded.first_batch), batches = l.batches + excluded.batches,
      samples = l.samples + excluded.samples, parked = l.parked + excluded.parked, rejected = l.rejected + excluded.rejected,
      superseded = l.superseded + excluded.superseded, last = greatest(l.last, excluded.last), announced = greatest(l.announced, excluded.announced),
      missing = excluded.missing, runs = l.runs + excluded.runs`

// updateTotals adds to the row of this session, so that those of other sessions need not wait for this commit.
const updateTotals = `INSERT INTO totals AS t VALUES (pg_backend_pid() % 64, $1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (shard) DO UPDATE SET devices = t.devices + excluded.devices, batches = t.batches + excluded.batches, samples = t.samples + excluded.samples,
      parked = t.parked + excluded.parked, rejected = t.rejected + excluded.rejected, losses = t.losses + excluded.losses, letters = t.letters + excluded.letters`

// finish writes what the transaction has gathered, in a few round trips.
func (t *tx) finish() error {
	if err := t.flushSamples(); err != nil {
		return err
	}
	if err := t.settleWide(); err != nil {
		return err
	}
	if err := t.trimLetters(); err != nil {
		return err
	}
	batch := &pgx.Batch{}
	t.queueSpans(batch)
	t.queueDevices(batch)
	t.queueDerived(batch)
	if err := t.queueLanes(batch); err != nil {
		return err
	}
	if n := t.totals; n != (totalsChange{}) {
		batch.Queue(updateTotals, n.devices, n.batches, n.samples, n.parked, n.rejected, n.losses, n.letters)
	}
	t.outbox.queue(batch)
	if batch.Len() == 0 {
		return nil
	}
	if err := t.conn.SendBatch(t.ctx, batch).Close(); err != nil {
		return t.fail(fmt.Errorf("count what there is: %w", err))
	}
	return nil
}

func (t *tx) queueDevices(batch *pgx.Batch) {
	var ids, receipts []int64
	var copies []bool
	var seen []*time.Time
	var used [5][]int64
	for id, h := range t.devices {
		if !h.changed {
			continue
		}
		ids, receipts, copies = append(ids, id), append(receipts, h.receipts), append(copies, h.copies)
		for i, n := range []int64{h.epochs, h.signals, h.boots, h.results, h.parked} {
			used[i] = append(used[i], n)
		}
		if h.lastSeen.IsZero() {
			seen = append(seen, nil)
		} else {
			seen = append(seen, &h.lastSeen)
		}
	}
	if len(ids) > 0 {
		batch.Queue(updateDevices, ids, receipts, copies, seen, used[0], used[1], used[2], used[3], used[4])
	}
}

func (t *tx) queueLanes(batch *pgx.Batch) error {
	if len(t.lanes) == 0 {
		return nil
	}
	keys := make([]laneKey, 0, len(t.lanes))
	for k := range t.lanes {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b laneKey) int {
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.lane, b.lane))
	})
	now, err := t.settleLanes(keys)
	if err != nil {
		return err
	}
	columns := make([][]int64, 12)
	lanes := make([]int32, len(keys))
	for i, k := range keys {
		l := t.lanes[k]
		for c, v := range []int64{k.device, int64(k.epoch), l.first, l.batches, l.samples, l.parked, l.rejected, l.superseded, int64(l.last), int64(l.announced), int64(now[i].missing), now[i].more} {
			columns[c] = append(columns[c], v)
		}
		lanes[i] = int32(k.lane)
	}
	batch.Queue(updateLanes, columns[0], columns[1], lanes, columns[2], columns[3], columns[4], columns[5], columns[6], columns[7], columns[8], columns[9], columns[10], columns[11])
	t.queueRuns(batch, keys, now)
	return nil
}
