package store

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Given is how far a device says to have counted in one lane of an epoch.
type Given struct {
	Epoch uint64
	Lane  telemetrypb.Lane
	Last  uint64 // 0: nothing
}

// Lack is what a store misses of one sequence of numbers.
type Lack struct {
	Epoch uint64
	Lane  telemetrypb.Lane
	Seqs  []Range
}

// Lacks counts what is committed.
func (s *SQLite) Lacks(device int64, given []Given, most int) (list []Lack, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := map[laneKey]uint64{}
	for _, k := range s.cover.devices[device] {
		last[k] = s.cover.lanes[k].last()
	}
	for _, g := range given {
		k := laneKey{device, g.Epoch, g.Lane}
		last[k] = max(last[k], min(g.Last, 1<<63-1))
	}
	keys := make([]laneKey, 0, len(last))
	for k := range last {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b laneKey) int { return cmp.Or(cmp.Compare(a.lane, b.lane), cmp.Compare(a.epoch, b.epoch)) })
	for _, k := range keys {
		var accounted Ranges
		if l := s.cover.lanes[k]; l != nil {
			accounted = l.accounted
		}
		missing := accounted.Missing(last[k])
		if len(missing) > most {
			missing, more = missing[:most], true
		}
		if most -= len(missing); len(missing) > 0 {
			list = append(list, Lack{Epoch: k.epoch, Lane: k.lane, Seqs: missing})
		}
	}
	return list, more
}

// reallyLost takes out of a vehicle's word that it no longer keeps what it was asked for the numbers that have come since, or
// that another record speaks of: the question was older than they are. What is left is to be recorded; nil: nothing.
func (t *tx) reallyLost(device int64, l *telemetrypb.Loss, list []Range) (*telemetrypb.Loss, []Range, error) {
	var known Ranges
	one := func(first, last int64) { known.Add(uint64(first), uint64(last)) }
	epoch, lane := int64(l.GetEpoch()), int64(l.GetLane())
	err := t.eachPair(`SELECT json_extract(r.value, '$.first'), json_extract(r.value, '$.last') FROM losses x, json_each(x.seqs) r
	    WHERE x.device = ? AND x.epoch = ? AND x.lane = ?`, one, device, epoch, lane)
	if err != nil {
		return nil, nil, err
	}
	if err := t.eachPair(`SELECT s.first, s.last FROM supersedes s CROSS JOIN batches b ON b.id = s.batch
	    WHERE b.device = ? AND b.epoch = ? AND b.lane = ?`, one, device, epoch, lane); err != nil {
		return nil, nil, err
	}
	left, lost := []Range{}, proto.CloneOf(l)
	lost.Count = 0
	for _, r := range list {
		if r.First == 0 || r.First > r.Last || r.Last > 1<<63-1 {
			continue
		}
		if err := t.eachPair("SELECT seq, seq FROM batches WHERE device = ? AND epoch = ? AND lane = ? AND seq BETWEEN ? AND ? ORDER BY seq",
			one, device, epoch, lane, int64(r.First), int64(r.Last)); err != nil {
			return nil, nil, err
		}
		for _, r := range known.Without(r.First, r.Last) {
			left = append(left, r)
			lost.Count += r.Last - r.First + 1
		}
	}
	lost.Count = min(lost.Count, 1<<63-1)
	return lost, left, nil
}

// rejectedBefore says whether records of rejections name all these numbers already: a store that was restored got the
// batches again, with the record of their rejection, and rejected them again.
func (t *tx) rejectedBefore(device int64, l *telemetrypb.Loss, list []Range) (bool, error) {
	var known Ranges
	err := t.eachPair(`SELECT json_extract(r.value, '$.first'), json_extract(r.value, '$.last') FROM losses x, json_each(x.seqs) r
	    WHERE x.device = ? AND x.epoch = ? AND x.lane = ? AND x.reason = ?`,
		func(first, last int64) { known.Add(uint64(first), uint64(last)) }, device, int64(l.GetEpoch()), int64(l.GetLane()), int64(l.GetReason()))
	for _, r := range list {
		if len(known.Without(r.First, r.Last)) > 0 {
			return false, err
		}
	}
	return len(list) > 0, err
}

// eachPair runs a query for rows of two numbers and calls f at each.
func (t *tx) eachPair(query string, f func(a, b int64), args ...any) error {
	s, err := t.w.statement(t.ctx, query)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(t.ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var a, b int64
		if err := rows.Scan(&a, &b); err != nil {
			return err
		}
		f(a, b)
	}
	return rows.Err()
}
