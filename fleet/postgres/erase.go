package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

var _ api.Eraser = (*Store)(nil)

// eraseBatches is how many batches one transaction of an erasure empties: between two of them vehicles are taken from.
const eraseBatches = 500

// erasureStays is said with every erasure beside store.ErasureStays.
var erasureStays = []string{
	"what the server keeps of deleted rows until it vacuums their pages, and in its log and archives",
}

// Erase empties a device's batches and removes what it told of itself. What comes with new keys afterwards is stored as ever; other
// processes may write meanwhile, to this device as well.
func (s *Store) Erase(ctx context.Context, id api.DeviceID) (api.Erased, error) {
	e := api.Erased{DeviceID: id, Stays: slices.Concat(store.ErasureStays(), erasureStays)}
	device, err := reads{s}.row(ctx, id)
	if err != nil {
		return e, err
	}
	if err := s.eraseAll(ctx, device, id, &e); err != nil {
		return e, fmt.Errorf("erasing %s/%s: %w; try again, part of it may be done", id.Tenant, id.Device, err)
	}
	return e, nil
}

func (s *Store) eraseAll(ctx context.Context, device int64, id api.DeviceID, e *api.Erased) error {
	var last int64
	if err := s.pool.QueryRow(ctx, "SELECT last_value FROM batch_rows").Scan(&last); err != nil {
		return err
	}
	at, done := store.Key{Epoch: 1 << 63}, false // the least, as the database counts
	for !done {
		var next store.Key
		var gone api.Erased
		if err := s.Update(ctx, func(x store.Tx) (err error) {
			gone = api.Erased{} // it may run again
			next, done, err = x.(*tx).eraseBatches(device, at, last, &gone)
			return err
		}); err != nil {
			return err
		}
		at = next
		e.Samples, e.Batches = e.Samples+gone.Samples, e.Batches+gone.Batches
	}
	var records int64
	if err := s.Update(ctx, func(x store.Tx) (err error) {
		records, err = x.(*tx).eraseRecords(device, id)
		return err
	}); err != nil {
		return err
	}
	e.Records += records
	return nil
}

// emptied is a batch that an erasure comes by.
type emptied struct {
	id, samples int64
	key         store.Key
	state       store.State
	day         int32
}

// eraseBatches empties the next batches behind a key, and gives the key to go on from. A parked one is settled: its key alone stays.
func (t *tx) eraseBatches(device int64, after store.Key, last int64, e *api.Erased) (next store.Key, done bool, err error) {
	if _, err := t.hold(device); err != nil {
		return after, false, err
	}
	var list []emptied
	var b emptied
	var epoch, seq int64
	var lane int32
	var state int16
	if err := t.each(`SELECT id, epoch, lane, seq, state, samples, day - '2000-01-01' FROM batches WHERE device = $1 AND (epoch, lane, seq) > ($2, $3, $4) ORDER BY epoch, lane, seq LIMIT $5`,
		[]any{device, int64(after.Epoch), int32(after.Lane), int64(after.Seq), eraseBatches}, []any{&b.id, &epoch, &lane, &seq, &state, &b.samples, &b.day}, func() error {
			b.key, b.state = store.Key{Epoch: uint64(epoch), Lane: telemetrypb.Lane(lane), Seq: uint64(seq)}, store.State(state)
			list = append(list, b)
			return nil
		}); err != nil {
		return after, false, err
	}
	if len(list) == 0 {
		return after, true, nil
	}
	deletes := &pgx.Batch{}
	var ids []int64
	for _, b := range list {
		next = b.key
		if b.id > last {
			continue // it came after the question
		}
		ids = append(ids, b.id)
		if b.state == store.StateParked {
			if err := t.Settle(b.id, store.StateSuperseded, "erased"); err != nil {
				return after, false, err
			}
		}
		if b.key.Lane == telemetrypb.Lane_LANE_CONTROL {
			continue // its records stand elsewhere, and it counts no samples
		}
		if b.samples > 0 {
			e.Batches++
		}
		if b.state == store.StateStored {
			t.lane(device, b.key.Epoch, b.key.Lane).samples -= b.samples
		}
		deletes.Queue("DELETE FROM samples WHERE batch = $1 AND day = $2", b.id, dateOf(b.day)).Exec(func(tag pgconn.CommandTag) error {
			e.Samples += tag.RowsAffected()
			if b.state == store.StateStored {
				t.totals.samples -= tag.RowsAffected()
			}
			return nil
		})
		deletes.Queue("UPDATE batches SET samples = 0, reason = CASE state WHEN 4 THEN reason ELSE 'erased' END WHERE device = $1 AND id = $2", device, b.id)
	}
	deletes.Queue("DELETE FROM spans WHERE batch = ANY ($1)", ids)
	deletes.Queue("DELETE FROM batch_hours WHERE device = $1 AND batch = ANY ($2)", device, ids)
	if err := t.conn.SendBatch(t.ctx, deletes).Close(); err != nil {
		return after, false, t.fail(err)
	}
	return next, false, nil
}

// erased are the tables that hold what a device told of itself, beside its batches, and have a column `device`.
var erased = []string{"device_info", "clocks", "retimings", "results", "status"}

// derivedTables are those that were made of its batches, likewise. What came since the question stands in them again soon.
var derivedTables = []string{"drives", "driven_by", "queues", "latest", "dirty"}

// eraseRecords removes what stands beside the batches.
func (t *tx) eraseRecords(device int64, id api.DeviceID) (records int64, err error) {
	h, err := t.hold(device)
	if err != nil {
		return 0, err
	}
	for _, table := range derivedTables {
		if _, err := t.exec("DELETE FROM "+table+" WHERE device = $1", device); err != nil {
			return 0, err
		}
	}
	if _, err := t.exec(markAll, device); err != nil {
		return 0, err
	}
	t.derived.refresh[device] = true
	for _, table := range erased {
		n, err := t.exec("DELETE FROM "+table+" WHERE device = $1", device)
		if err != nil {
			return 0, err
		}
		records += n
	}
	h.boots, h.results, h.changed = 0, 0, true
	if _, err := t.exec("UPDATE losses SET detail = '' WHERE device = $1 AND detail <> ''", device); err != nil {
		return 0, err
	}
	from, below := store.LettersOf(telemetrypb.Topic(id.Tenant, id.Device, telemetrypb.TopicStatus))
	n, err := t.exec(`DELETE FROM dead_letters WHERE topic COLLATE "C" >= $1 AND topic COLLATE "C" < $2`, from, below)
	t.totals.letters -= n
	return records + n, err
}
