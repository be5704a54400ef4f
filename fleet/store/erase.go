package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/waybill-telematics/waybill/fleet/api"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// eraseBatches is how many batches one transaction of an erasure empties: between two of them vehicles are taken from.
const eraseBatches = 500

// ErasureStays is said with every erasure, by whichever store.
func ErasureStays() []string {
	return []string{
		"the device's name, and when it was first and last heard of",
		"batch keys: epoch, lane, number, checksums, catalogue's hash, CLOCK_BOOTTIME, time of receipt; so that what is sent again is known and not stored again",
		"epochs, and the loss ledger without its remarks: reasons, counts and numbers",
		"catalogues: names, units and scales of signals, without which what the vehicle still delivers could not be read",
		"copies of this store, and what other stores and streams were given",
	}
}

// Erase empties a device's batches and removes what it told of itself. What comes with new keys afterwards is stored as ever.
func (s *SQLite) Erase(ctx context.Context, id api.DeviceID) (api.Erased, error) {
	e := api.Erased{DeviceID: id, Stays: ErasureStays()}
	d, err := reads{s}.find(ctx, id)
	if err != nil {
		return e, err
	}
	// What is deleted is overwritten, and does not stay in pages that are free.
	if err := s.secureDelete(ctx, true); err != nil {
		return e, err
	}
	err = s.eraseAll(ctx, d.id, id, &e)
	err = errors.Join(err, s.secureDelete(context.WithoutCancel(ctx), false))
	if err != nil {
		return e, fmt.Errorf("erasing %s/%s: %w; try again, part of it may be done", id.Tenant, id.Device, err)
	}
	// The log may hold pages of before.
	_, err = s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	return e, err
}

func (s *SQLite) secureDelete(ctx context.Context, on bool) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.w == nil {
		return errors.New("the store is open for reading only")
	}
	return s.w.exec(ctx, fmt.Sprintf("PRAGMA secure_delete = %t", on))
}

func (s *SQLite) eraseAll(ctx context.Context, device int64, id api.DeviceID, e *api.Erased) error {
	var last, first int64
	if err := s.db.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM batches WHERE device = ?", device).Scan(&last); err != nil {
		return err
	}
	for first <= last {
		done := false
		if err := s.Update(ctx, func(x Tx) (err error) {
			first, done, err = x.(*tx).eraseBatches(device, first, last, e)
			return err
		}); err != nil {
			return err
		}
		if done {
			break
		}
	}
	return s.Update(ctx, func(x Tx) error { return x.(*tx).eraseRecords(device, id, e) })
}

// eraseBatches empties the next batches from a row on, and gives the row to go on from. A parked one is settled: its key alone stays.
func (t *tx) eraseBatches(device, first, last int64, e *api.Erased) (next int64, done bool, err error) {
	ids, err := t.ids("SELECT id FROM batches WHERE device = ? AND id BETWEEN ? AND ? ORDER BY id LIMIT ?", device, first, last, eraseBatches)
	if err != nil || len(ids) == 0 {
		return last + 1, true, err
	}
	for _, batch := range ids {
		result, err := t.exec("DELETE FROM samples WHERE batch = ?", batch)
		if err != nil {
			return first, false, err
		}
		rows, err := result.RowsAffected()
		if err != nil {
			return first, false, err
		}
		var state, lane, samples int64
		if _, err := t.one("SELECT state, lane, samples FROM batches WHERE id = ?", []any{batch}, &state, &lane, &samples); err != nil {
			return first, false, err
		}
		if State(state) == StateParked {
			if err := t.Settle(batch, StateSuperseded, "erased"); err != nil {
				return first, false, err
			}
		}
		if telemetrypb.Lane(lane) == telemetrypb.Lane_LANE_CONTROL {
			continue // its records stand elsewhere, and it counts no samples
		}
		if samples > 0 {
			e.Batches++
		}
		e.Samples += rows
		if _, err := t.exec("UPDATE batches SET samples = 0, reason = CASE state WHEN 4 THEN reason ELSE 'erased' END WHERE id = ?", batch); err != nil {
			return first, false, err
		}
		if State(state) == StateStored {
			t.after(func(_ *coverage, n *Totals) { n.Samples -= rows })
		}
	}
	return ids[len(ids)-1] + 1, false, nil
}

// eraseRecords removes what stands beside the batches.
func (t *tx) eraseRecords(device int64, id api.DeviceID, e *api.Erased) error {
	for _, query := range []string{
		"DELETE FROM device_info WHERE device = ?",
		"DELETE FROM clocks WHERE device = ?",
		"DELETE FROM retimings WHERE device = ?",
		"DELETE FROM results WHERE device = ?",
		"DELETE FROM status WHERE device = ?",
	} {
		result, err := t.exec(query, device)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return err
		}
		e.Records += n
	}
	if _, err := t.exec("UPDATE losses SET detail = '' WHERE device = ?", device); err != nil {
		return err
	}
	topic := telemetrypb.Topic(id.Tenant, id.Device, "")
	result, err := t.exec("DELETE FROM dead_letters WHERE topic >= ? AND topic < ?", topic, topic[:len(topic)-1]+"0")
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	e.Records += n
	t.after(func(_ *coverage, c *Totals) { c.Letters -= n })
	return err
}
