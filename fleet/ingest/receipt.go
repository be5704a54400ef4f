package ingest

import (
	"bytes"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// verdict is what is said of one batch.
type verdict struct {
	verdict telemetrypb.Verdict
	reason  string // of a rejection, and of a parking that no catalogue ends
	want    []byte // parked: the catalogue that is missing
}

var stored = verdict{verdict: telemetrypb.Verdict_VERDICT_STORED}

func rejected(reason string) verdict {
	return verdict{verdict: telemetrypb.Verdict_VERDICT_REJECTED, reason: reason}
}

// verdictOf answers for a batch that holds its key, now or since long.
func verdictOf(p store.Put) verdict {
	switch p.State {
	case store.StateParked:
		v := verdict{verdict: telemetrypb.Verdict_VERDICT_PARKED}
		if p.Reason == store.ReasonCatalogue {
			v.want = bytes.Clone(p.Catalogue[:])
		} else {
			v.reason = p.Reason
		}
		return v
	case store.StateRejected:
		return rejected(p.Reason)
	}
	return stored // superseded too: the vehicle may let go
}

// receiptRanges collects the verdicts of one payload as runs of consecutive seqs.
type receiptRanges struct {
	list []*telemetrypb.ReceiptRange
}

// add appends a batch; it joins the last run when it is the next seq with the same verdict.
func (r *receiptRanges) add(k store.Key, crc uint32, v verdict) {
	if n := len(r.list); n > 0 {
		l := r.list[n-1]
		if l.Epoch == k.Epoch && l.Lane == k.Lane && l.Last+1 == k.Seq && l.Verdict == v.verdict && l.Reason == v.reason &&
			bytes.Equal(l.WantCatalogue, v.want) {
			l.Last, l.Count, l.CrcXor = k.Seq, l.Count+1, l.CrcXor^crc
			return
		}
	}
	r.addAlone(k, crc, v)
}

// addAlone appends a batch that came in another payload: it makes a run of its own, which its vehicle can always verify.
func (r *receiptRanges) addAlone(k store.Key, crc uint32, v verdict) {
	r.list = append(r.list, &telemetrypb.ReceiptRange{
		Epoch: k.Epoch, Lane: k.Lane, First: k.Seq, Last: k.Seq, Count: 1, CrcXor: crc,
		Verdict: v.verdict, Reason: v.reason, WantCatalogue: v.want,
	})
}
