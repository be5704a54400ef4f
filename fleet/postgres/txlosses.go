package postgres

import (
	"encoding/json"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func (t *tx) PutLoss(device, batch int64, index int, l *telemetrypb.Loss) error {
	h, err := t.hold(device)
	if err != nil {
		return err
	}
	list := []store.Range{}
	for _, r := range l.GetSeqs() {
		list = append(list, store.Range{First: r.GetFirst(), Last: r.GetLast()})
	}
	switch l.GetReason() {
	case telemetrypb.LossReason_LOSS_NOT_KEPT:
		if l, list, err = t.reallyLost(device, l, list); err != nil || len(list) == 0 {
			return err
		}
	case telemetrypb.LossReason_LOSS_REJECTED:
		if known, err := t.rejectedBefore(device, l, list); err != nil || known {
			return err
		}
	}
	if len(list) > 0 {
		if err := t.roomForLoss(h, l, len(list)); err != nil {
			return err
		}
	}
	seqs, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO losses (batch, idx, device, reason, source, count, count_is_bound, count_unknown, unit, boot_id, first_ns, last_ns,
	    epoch, lane, seqs, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::text::jsonb, $16)`,
		batch, int64(index), device, int32(l.GetReason()), clean(l.GetSource()), int64(l.GetCount()), l.GetCountIsBound(), l.GetCountUnknown(), clean(l.GetUnit()),
		notNil(l.GetBootId()), l.GetFirstNs(), l.GetLastNs(), int64(l.GetEpoch()), int32(l.GetLane()), string(seqs), clean(l.GetDetail())); err != nil {
		return err
	}
	t.totals.losses++
	t.outbox.add(note{noteLoss, device, batch, int64(index)})
	for _, r := range list {
		t.lane(device, l.GetEpoch(), l.GetLane()).account(r.First, r.Last)
	}
	return nil
}

// reallyLost takes out of a vehicle's word that it no longer keeps what it was asked for the numbers that have come since, or
// that another record speaks of: the question was older than they are. What is left is to be recorded; nil: nothing.
func (t *tx) reallyLost(device int64, l *telemetrypb.Loss, list []store.Range) (*telemetrypb.Loss, []store.Range, error) {
	sound := slices.DeleteFunc(slices.Clone(list), func(r store.Range) bool { return r.First == 0 || r.First > r.Last || r.Last > maxSeq })
	known, err := t.known(laneKey{device, l.GetEpoch(), l.GetLane()}, sound)
	if err != nil {
		return nil, nil, err
	}
	left, lost := []store.Range{}, proto.CloneOf(l)
	lost.Count = 0
	for _, r := range sound {
		for _, r := range known.Without(r.First, r.Last) {
			left = append(left, r)
			lost.Count += r.Last - r.First + 1
		}
	}
	lost.Count = min(lost.Count, maxSeq)
	return lost, left, nil
}

// rejectedBefore says whether records of rejections name all these numbers already: a store that was restored got the
// batches again, with the record of their rejection, and rejected them again.
func (t *tx) rejectedBefore(device int64, l *telemetrypb.Loss, list []store.Range) (bool, error) {
	var known store.Ranges
	var seqs string
	if err := t.each("SELECT seqs::text FROM losses WHERE device = $1 AND epoch = $2 AND lane = $3 AND reason = $4",
		[]any{device, int64(l.GetEpoch()), int32(l.GetLane()), int32(l.GetReason())}, []any{&seqs}, func() error {
			var before []store.Range
			err := json.Unmarshal([]byte(seqs), &before)
			for _, r := range before {
				known.Add(r.First, r.Last)
			}
			return err
		}); err != nil {
		return false, err
	}
	for _, r := range list {
		if len(known.Without(r.First, r.Last)) > 0 {
			return false, nil
		}
	}
	return len(list) > 0, nil
}
