package postgres

import (
	"fmt"
	"sort"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/store"
)

// The numbers of a lane that came, were lost or are superseded stand in `ranges`, as runs that neither touch nor overlap. A
// transaction reads and writes only the runs beside what it adds, so that a lane of a hundred thousand gaps costs no more
// than one without; lanes.missing is kept by what that changes. All of it under the device's row.

// laneNow is what a lane comes to with this transaction.
type laneNow struct {
	before, top uint64 // the highest number known ahead of it, and now
	missing     uint64
	more        int64             // runs that it has more than before
	runs        map[uint64]uint64 // that were there beside what is added: first to last
}

const readLanes = `SELECT p.i, l.last, l.announced, l.missing FROM unnest($1::bigint[], $2::bigint[], $3::integer[]) WITH ORDINALITY AS p (device, epoch, lane, i)
    JOIN lanes l ON l.device = p.device AND l.epoch = p.epoch AND l.lane = p.lane`

// readRuns finds, for each span, the run that holds or precedes its first number, and those that begin behind it.
const readRuns = `SELECT p.i, r.first, r.last FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::integer[], $5::bigint[], $6::bigint[]) AS p (i, device, epoch, lane, lo, hi)
    CROSS JOIN LATERAL (
      (SELECT first, last FROM ranges r WHERE r.device = p.device AND r.epoch = p.epoch AND r.lane = p.lane AND r.first <= p.lo ORDER BY first DESC LIMIT 1)
      UNION ALL
      (SELECT first, last FROM ranges r WHERE r.device = p.device AND r.epoch = p.epoch AND r.lane = p.lane AND r.first > p.lo AND r.first <= p.hi)) r`

// spans are what readRuns asks for.
type spans struct {
	place, device, epoch, lo, hi []int64
	lane                         []int32
}

func (s *spans) add(place int, k laneKey, first, last uint64) {
	s.place, s.device, s.epoch, s.lane = append(s.place, int64(place)), append(s.device, k.device), append(s.epoch, int64(k.epoch)), append(s.lane, int32(k.lane))
	s.lo, s.hi = append(s.lo, int64(first)), append(s.hi, int64(last))
}

// runs calls f at each run beside the spans; one may come several times.
func (t *tx) runs(s *spans, f func(place int, first, last uint64)) error {
	if len(s.place) == 0 {
		return nil
	}
	var place, first, last int64
	return t.each(readRuns, []any{s.place, s.device, s.epoch, s.lane, s.lo, s.hi}, []any{&place, &first, &last}, func() error {
		f(int(place), uint64(first), uint64(last))
		return nil
	})
}

// settleLanes reads what the lanes of this transaction are beside, and counts.
func (t *tx) settleLanes(keys []laneKey) ([]laneNow, error) {
	now := make([]laneNow, len(keys))
	devices, epochs, lanes := make([]int64, len(keys)), make([]int64, len(keys)), make([]int32, len(keys))
	for i, k := range keys {
		now[i].runs = map[uint64]uint64{}
		devices[i], epochs[i], lanes[i] = k.device, int64(k.epoch), int32(k.lane)
	}
	var place, last, announced, missing int64
	if err := t.each(readLanes, []any{devices, epochs, lanes}, []any{&place, &last, &announced, &missing}, func() error {
		n := &now[place-1]
		n.before, n.missing = uint64(max(last, announced)), uint64(missing)
		return nil
	}); err != nil {
		return nil, err
	}
	var ask spans
	for i, k := range keys {
		l, n := t.lanes[k], &now[i]
		n.top = max(n.before, l.last, l.announced)
		around := l.accounted
		if n.top > n.before {
			around = store.Ranges{}
			around.Add(n.before+1, n.top) // what was accounted for ahead of its turn counts now
			for _, r := range l.accounted.List() {
				around.Add(r.First, r.Last)
			}
		}
		for _, r := range around.List() {
			ask.add(i, k, r.First, min(r.Last, maxSeq-1)+1)
		}
	}
	if err := t.runs(&ask, func(place int, first, last uint64) { now[place].runs[first] = last }); err != nil {
		return nil, err
	}
	for i, k := range keys {
		n := &now[i]
		was, is := n.sets(&t.lanes[k].accounted)
		n.more = int64(len(is.List()) - len(was.List()))
		n.missing = n.missing + (n.top - n.before) + was.Within(1, n.before) - is.Within(1, n.top)
	}
	return now, nil
}

// sets are the runs that were there, and these with what is added.
func (n *laneNow) sets(added *store.Ranges) (was, is store.Ranges) {
	firsts := make([]uint64, 0, len(n.runs))
	for first := range n.runs {
		firsts = append(firsts, first)
	}
	sort.Slice(firsts, func(i, j int) bool { return firsts[i] < firsts[j] })
	for _, first := range firsts {
		was.Add(first, n.runs[first])
		is.Add(first, n.runs[first])
	}
	for _, r := range added.List() {
		is.Add(r.First, r.Last)
	}
	return was, is
}

// queueRuns writes the runs that are others than before.
func (t *tx) queueRuns(batch *pgx.Batch, keys []laneKey, now []laneNow) {
	var gone, put spans
	for i, k := range keys {
		_, is := now[i].sets(&t.lanes[k].accounted)
		for _, r := range is.List() {
			if last, known := now[i].runs[r.First]; !known || last != r.Last {
				put.add(i, k, r.First, r.Last)
			}
			delete(now[i].runs, r.First)
		}
		for first := range now[i].runs { // swallowed
			gone.add(i, k, first, 0)
		}
	}
	if len(gone.place) > 0 {
		batch.Queue(`DELETE FROM ranges r USING unnest($1::bigint[], $2::bigint[], $3::integer[], $4::bigint[]) AS p (device, epoch, lane, first)
		    WHERE r.device = p.device AND r.epoch = p.epoch AND r.lane = p.lane AND r.first = p.first`, gone.device, gone.epoch, gone.lane, gone.lo)
	}
	if len(put.place) > 0 {
		batch.Queue(`INSERT INTO ranges (device, epoch, lane, first, last) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::bigint[], $5::bigint[])
		    ON CONFLICT (device, epoch, lane, first) DO UPDATE SET last = excluded.last`, put.device, put.epoch, put.lane, put.lo, put.hi)
	}
}

// known is what of some ranges is accounted for, and the runs beside them.
func (t *tx) known(k laneKey, list []store.Range) (*store.Ranges, error) {
	var ask spans
	for _, r := range list {
		ask.add(0, k, r.First, r.Last)
	}
	var set store.Ranges
	if err := t.runs(&ask, func(_ int, first, last uint64) { set.Add(first, last) }); err != nil {
		return nil, fmt.Errorf("what is accounted for: %w", err)
	}
	if now := t.lanes[k]; now != nil { // of this transaction
		for _, r := range now.accounted.List() {
			set.Add(r.First, r.Last)
		}
	}
	return &set, nil
}
