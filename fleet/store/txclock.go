package store

import (
	"fmt"
	"math"
)

// Retiming is the work that a new clock record leaves: samples of one boot that are dated by an older one.
type Retiming struct {
	Device int64
	Boot   [16]byte
}

// PutRetiming begins again with work that was noted before and is not done.
func (t *tx) PutRetiming(device int64, boot [16]byte, from int64) error {
	_, err := t.exec(`INSERT INTO retimings (device, boot_id, from_ns, done) VALUES (?, ?, ?, 0)
	    ON CONFLICT (device, boot_id) DO UPDATE SET from_ns = min(from_ns, excluded.from_ns), done = 0`, device, boot[:], from)
	return err
}

func (t *tx) NextRetiming() (r Retiming, ok bool, err error) {
	var boot []byte
	// One after the other, so that a device that always has some does not keep the others waiting.
	ok, err = t.one("SELECT device, boot_id FROM retimings WHERE (device, boot_id) > (?, ?) ORDER BY device, boot_id LIMIT 1",
		[]any{t.w.retimed.Device, t.w.retimed.Boot[:]}, &r.Device, &boot)
	if err == nil && !ok {
		ok, err = t.one("SELECT device, boot_id FROM retimings ORDER BY device, boot_id LIMIT 1", nil, &r.Device, &boot)
	}
	copy(r.Boot[:], boot)
	if ok {
		t.w.retimed = r
	}
	return r, ok, err
}

// Retime goes batch by batch, so that neither memory nor a transaction grows with the length of a boot.
func (t *tx) Retime(device int64, boot [16]byte, most int, date func(bootNS int64) Time) (changed int64, done bool, err error) {
	var from, last int64
	found, err := t.one("SELECT from_ns, done FROM retimings WHERE device = ? AND boot_id = ?", []any{device, boot[:]}, &from, &last)
	if err != nil || !found {
		return 0, !found, err
	}
	for looked := int64(0); looked < int64(most); {
		var id, samples int64
		found, err := t.one(`SELECT id, samples FROM batches WHERE device = ? AND boot_id = ? AND id > ? AND state = 1 AND lane <> 1
		    AND (form = 2 OR first_ns + span_ns >= ?) ORDER BY id LIMIT 1`, []any{device, boot[:], last, from}, &id, &samples)
		if err != nil {
			return changed, false, err
		}
		if !found {
			_, err := t.exec("DELETE FROM retimings WHERE device = ? AND boot_id = ?", device, boot[:])
			return changed, err == nil, err
		}
		n, err := t.retimeBatch(id, from, date)
		if err != nil {
			return changed, false, fmt.Errorf("date batch row %d again: %w", id, err)
		}
		changed, looked, last = changed+n, looked+1+min(samples, math.MaxInt32), id
	}
	_, err = t.exec("UPDATE retimings SET done = ? WHERE device = ? AND boot_id = ?", last, device, boot[:])
	return changed, false, err
}

// redated is a sample that gets another time.
type redated struct {
	index int64
	time  Time
}

// retimeBatch reads first and writes then: the two would be in each other's way.
func (t *tx) retimeBatch(batch, from int64, date func(int64) Time) (int64, error) {
	s, err := t.w.statement(t.ctx, "SELECT idx, boot_ns, wall_ns, uncertainty, time_source FROM samples WHERE batch = ? AND boot_ns >= ?")
	if err != nil {
		return 0, err
	}
	rows, err := s.QueryContext(t.ctx, batch, from)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var list []redated
	for rows.Next() {
		var index, bootNS, source int64
		var oldWall, oldDoubt any
		if err := rows.Scan(&index, &bootNS, &oldWall, &oldDoubt, &source); err != nil {
			return 0, err
		}
		now := date(bootNS)
		wall, doubt := now.columns()
		if wall != oldWall || doubt != oldDoubt || int64(now.Source) != source {
			list = append(list, redated{index, now})
		}
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	for _, r := range list {
		wall, doubt := r.time.columns()
		if _, err := t.exec("UPDATE samples SET wall_ns = ?, uncertainty = ?, time_source = ? WHERE batch = ? AND idx = ?",
			wall, doubt, int64(r.time.Source), batch, r.index); err != nil {
			return 0, err
		}
	}
	return int64(len(list)), nil
}
