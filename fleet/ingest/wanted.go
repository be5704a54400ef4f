package ingest

import (
	"fmt"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// maxWanted bounds what one answer asks for, in ranges; the vehicle comes back for the rest.
const maxWanted = 1024

// question is a status that names another generation than the store's: the vehicle may have released what the store
// lacks, because a store of that generation confirmed it.
type question struct {
	tenant, name string
	device       int64
	number       uint64 // of the receipt that answers
	status       *telemetrypb.Status
}

// questions are those of one Apply: the last one of each device, in the order of the first.
type questions struct {
	list  []question
	place map[int64]int
}

// asks notes a status that is to be answered.
func (a *application) asks(s *telemetrypb.Status) error {
	if !s.GetOnline() || s.GetNonce() == 0 || s.GetStoreGeneration() == a.store.Generation() {
		return nil
	}
	q := question{tenant: a.tenant, name: a.name, device: a.device, status: s}
	var err error
	if q.number, err = a.tx.NextReceipt(a.device); err != nil {
		return err
	}
	if i, twice := a.asked.place[q.device]; twice {
		a.asked.list[i] = q
		return nil
	}
	if a.asked.place == nil {
		a.asked.place = map[int64]int{}
	}
	a.asked.place[q.device] = len(a.asked.list)
	a.asked.list = append(a.asked.list, q)
	return nil
}

// answers tells what the store lacks once everything of this Apply is committed, and behind its receipts: what these
// confirm is then not asked for.
func (g *Ingester) answers(asked *questions, counts *Counts) (replies []Reply) {
	for _, q := range asked.list {
		var given []store.Given
		for _, d := range q.status.GetQueue() {
			if l := d.GetLane(); d.GetNextSeq() > 1 && l >= telemetrypb.Lane_LANE_CONTROL && l <= telemetrypb.Lane_LANE_RAW {
				given = append(given, store.Given{Epoch: q.status.GetEpoch(), Lane: d.GetLane(), Last: d.GetNextSeq() - 1})
			}
		}
		list, more := g.store.Lacks(q.device, given, maxWanted)
		wanted := &telemetrypb.Wanted{Nonce: q.status.GetNonce(), More: more}
		var batches uint64
		for _, l := range list {
			r := &telemetrypb.WantedRange{Epoch: l.Epoch, Lane: l.Lane}
			for _, s := range l.Seqs {
				r.Seqs = append(r.Seqs, &telemetrypb.SeqRange{First: s.First, Last: s.Last})
				batches += s.Last - s.First + 1
			}
			wanted.Ranges = append(wanted.Ranges, r)
		}
		counts.Wanted += batches
		if batches > 0 {
			g.log.Info("a vehicle is told what this store lacks of it", "tenant", q.tenant, "device", q.name, "batches", batches, "more", more,
				"generation", fmt.Sprintf("%016x", g.store.Generation()), "known to it", fmt.Sprintf("%016x", q.status.GetStoreGeneration()))
		}
		replies = append(replies, Reply{
			Topic: telemetrypb.Topic(q.tenant, q.name, telemetrypb.TopicReceipt),
			Receipt: &telemetrypb.Receipt{
				Store: g.store.Name(), Generation: g.store.Generation(), Number: q.number, MaxFormat: telemetrypb.Format, Wanted: wanted,
			},
		})
	}
	return replies
}
