package postgres

import (
	"fmt"

	"github.com/waybill-telematics/waybill/fleet/store"
)

// A vehicle that has no room replaces old batches by a thinned copy, which names them. What it does not know is whether they
// had arrived, or are on their way. So the store decides, sample by sample: an original beats its copy, and of two copies of
// the same original the one that came first stands.

const (
	deleteCopied = `DELETE FROM samples c USING samples o WHERE c.batch = $1 AND c.day = $2 AND o.batch = $3 AND o.day = $4
	    AND c.signal = o.signal AND c.boot_ns = o.boot_ns AND c.kind = o.kind AND c.bits = o.bits AND c.raw = o.raw`
	shrinkCopy = `UPDATE batches b SET samples = greatest(b.samples - $3, 0) FROM batches old WHERE b.device = $1 AND b.id = $2
	    AND old.device = $1 AND old.id = $2 RETURNING old.samples - b.samples, b.samples, b.epoch, b.lane`
	settleCopy = `UPDATE batches SET state = 3 WHERE device = $1 AND id = $2 AND NOT EXISTS (SELECT 1 FROM samples WHERE batch = $2 AND day = $3)`
)

// row is a stored batch.
type row struct {
	id  int64
	day int32
}

// Yield resolves what a batch, whose samples were just stored, holds in common with copies of it or, when it is a copy
// itself, with what it stands for.
func (t *tx) Yield(device, batch int64, b *store.Batch) (gone uint64, err error) {
	h, err := t.hold(device)
	if err != nil || !h.copies { // no copy has come from it
		return 0, err
	}
	if err := t.flushSamples(); err != nil {
		return 0, err
	}
	at, err := t.placeOf(batch)
	if err != nil {
		return 0, err
	}
	this := row{batch, at.day}
	copies, err := t.copiesOf(device, b.Key, store.Range{First: b.Seq, Last: b.Seq})
	if err != nil {
		return 0, err
	}
	for _, c := range copies {
		if c == this {
			continue
		}
		n, err := t.yieldTo(device, c, this)
		if err != nil {
			return 0, err
		}
		gone += n
	}
	for _, r := range b.Supersedes {
		first, last := r.GetFirst(), r.GetLast()
		if first == 0 || first > last || last > maxSeq {
			continue
		}
		originals, err := t.rows("SELECT id, day - '2000-01-01' FROM batches WHERE device = $1 AND epoch = $2 AND lane = $3 AND seq BETWEEN $4 AND $5 AND state = 1",
			device, int64(b.Epoch), int32(b.Lane), int64(first), int64(last))
		if err != nil {
			return 0, err
		}
		others, err := t.copiesOf(device, b.Key, store.Range{First: first, Last: last})
		if err != nil {
			return 0, err
		}
		for _, o := range append(originals, others...) {
			if o == this {
				continue
			}
			n, err := t.yieldTo(device, this, o)
			if err != nil {
				return 0, err
			}
			gone += n
		}
	}
	return gone, nil
}

// yieldTo takes out of a copy what an original holds.
func (t *tx) yieldTo(device int64, copied, original row) (uint64, error) {
	n, err := t.exec(deleteCopied, copied.id, dateOf(copied.day), original.id, dateOf(original.day))
	if err != nil {
		return 0, fmt.Errorf("samples of a thinned copy: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	var shrunk, left, epoch int64
	var lane int32
	if _, err := t.one(shrinkCopy, []any{device, copied.id, n}, &shrunk, &left, &epoch, &lane); err != nil {
		return 0, err
	}
	settled, err := t.exec(settleCopy, device, copied.id, dateOf(copied.day))
	if err != nil {
		return 0, err
	}
	l := t.laneOf(device, epoch, lane)
	l.samples -= shrunk
	if settled > 0 {
		l.became(store.StateStored, -1, left)
		l.became(store.StateSuperseded, 1, 0)
	}
	t.totals.samples -= n
	return uint64(n), nil
}

// copiesOf lists the stored copies that stand for some of r.
func (t *tx) copiesOf(device int64, k store.Key, r store.Range) ([]row, error) {
	return t.rows(`SELECT DISTINCT b.id, b.day - '2000-01-01' FROM supersedes s JOIN batches b ON b.device = s.device AND b.id = s.batch
	    WHERE s.device = $1 AND s.epoch = $2 AND s.lane = $3 AND s.first <= $4 AND s.last >= $5 AND b.state = 1 ORDER BY b.id`,
		device, int64(k.Epoch), int32(k.Lane), int64(r.Last), int64(r.First))
}

func (t *tx) rows(query string, args ...any) (list []row, err error) {
	var r row
	err = t.each(query, args, []any{&r.id, &r.day}, func() error {
		list = append(list, r)
		return nil
	})
	return list, err
}
