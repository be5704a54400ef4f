package store

import "fmt"

// Retime goes batch by batch, so that its memory does not grow with the length of a boot.
func (t *tx) Retime(device int64, boot [16]byte, from int64, date func(bootNS int64) Time) (changed int64, err error) {
	s, err := t.w.statement(t.ctx, `SELECT id FROM batches WHERE device = ? AND boot_id = ? AND state = 1 AND lane <> 1
	    AND (form = 2 OR first_ns + span_ns >= ?)`)
	if err != nil {
		return 0, err
	}
	rows, err := s.QueryContext(t.ctx, device, boot[:], from)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var batches []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return 0, err
		}
		batches = append(batches, id)
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	for _, id := range batches {
		n, err := t.retimeBatch(id, from, date)
		if err != nil {
			return changed, fmt.Errorf("date batch row %d again: %w", id, err)
		}
		changed += n
	}
	return changed, nil
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
