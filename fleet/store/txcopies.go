package store

import (
	"fmt"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// A vehicle that has no room replaces old batches by a thinned copy, which names them. What it does not know is
// whether they had arrived, or are on their way. So the store decides, sample by sample: an original beats its copy, and of two
// copies of the same original the one that came first stands.

const (
	deleteCopied = `DELETE FROM samples WHERE batch = ? AND (signal, boot_ns, kind, ifnull(raw, '')) IN (
	    SELECT o.signal, o.boot_ns, o.kind, ifnull(o.raw, '') FROM samples o WHERE o.batch = ?)`
	shrinkCopy = `UPDATE batches SET samples = max(samples - ?, 0) WHERE id = ?`
	settleCopy = `UPDATE batches SET state = 3 WHERE id = ? AND NOT EXISTS (SELECT 1 FROM samples WHERE batch = ?)`
)

// Yield resolves what a batch, whose samples were just stored, holds in common with copies of it or, when it is a copy
// itself, with what it stands for.
func (t *tx) Yield(device, batch int64, b *Batch) (gone uint64, err error) {
	copies, err := t.copiesOf(device, b.Key, Range{b.Seq, b.Seq})
	if err != nil {
		return 0, err
	}
	for _, c := range copies {
		if c == batch {
			continue
		}
		n, err := t.yieldTo(c, batch)
		if err != nil {
			return 0, err
		}
		gone += n
	}
	for _, r := range b.Supersedes {
		first, last := r.GetFirst(), r.GetLast()
		if first == 0 || first > last || last > 1<<63-1 {
			continue
		}
		originals, err := t.ids("SELECT id FROM batches WHERE device = ? AND epoch = ? AND lane = ? AND seq BETWEEN ? AND ? AND state = 1",
			device, int64(b.Epoch), int64(b.Lane), int64(first), int64(last))
		if err != nil {
			return 0, err
		}
		others, err := t.copiesOf(device, b.Key, Range{first, last})
		if err != nil {
			return 0, err
		}
		for _, o := range append(originals, others...) {
			if o == batch {
				continue
			}
			n, err := t.yieldTo(batch, o)
			if err != nil {
				return 0, err
			}
			gone += n
		}
	}
	return gone, nil
}

// yieldTo takes out of a copy what an original holds.
func (t *tx) yieldTo(copied, original int64) (uint64, error) {
	result, err := t.exec(deleteCopied, copied, original)
	if err != nil {
		return 0, fmt.Errorf("samples of a thinned copy: %w", err)
	}
	n, err := result.RowsAffected()
	if err != nil || n == 0 {
		return 0, err
	}
	if _, err := t.exec(shrinkCopy, n, copied); err != nil {
		return 0, err
	}
	if _, err := t.exec(settleCopy, copied, copied); err != nil {
		return 0, err
	}
	t.after(func(_ *coverage, total *Totals) { total.Samples -= n })
	return uint64(n), nil
}

// copiesOf lists the stored copies that stand for some of r.
func (t *tx) copiesOf(device int64, k Key, r Range) ([]int64, error) {
	if err := t.w.loadCopied(t); err != nil {
		return nil, err
	}
	copied := t.w.copied[laneKey{device, k.Epoch, k.Lane}]
	if copied == nil || copied.Within(r.First, r.Last) == 0 {
		return nil, nil
	}
	return t.ids(`SELECT DISTINCT b.id FROM supersedes s CROSS JOIN batches b ON b.id = s.batch
	    WHERE s.first <= ? AND s.last >= ? AND b.device = ? AND b.epoch = ? AND b.lane = ? AND b.state = 1 ORDER BY b.id`,
		int64(r.Last), int64(r.First), device, int64(k.Epoch), int64(k.Lane))
}

// loadCopied reads which numbers copies stand for, once after a start and after each transaction that failed.
func (w *writer) loadCopied(t *tx) error {
	if w.copied != nil {
		return nil
	}
	s, err := w.statement(t.ctx, `SELECT b.device, b.epoch, b.lane, s.first, s.last FROM supersedes s CROSS JOIN batches b ON b.id = s.batch`)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(t.ctx)
	if err != nil {
		return err
	}
	defer rows.Close()
	copied := map[laneKey]*Ranges{}
	for rows.Next() {
		var device, epoch, lane, first, last int64
		if err := rows.Scan(&device, &epoch, &lane, &first, &last); err != nil {
			return err
		}
		addCopied(copied, laneKey{device, uint64(epoch), telemetrypb.Lane(lane)}, uint64(first), uint64(last))
	}
	if err := rows.Err(); err != nil {
		return err
	}
	w.copied = copied
	return nil
}

func addCopied(copied map[laneKey]*Ranges, k laneKey, first, last uint64) {
	if copied[k] == nil {
		copied[k] = &Ranges{}
	}
	copied[k].Add(first, last)
}

func (t *tx) ids(query string, args ...any) (list []int64, err error) {
	s, err := t.w.statement(t.ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(t.ctx, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		list = append(list, id)
	}
	return list, rows.Err()
}
