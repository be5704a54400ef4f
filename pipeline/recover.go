package pipeline

import (
	"errors"
	"fmt"
	"slices"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

type batchKey struct {
	epoch uint64
	lane  telemetrypb.Lane
	seq   uint64
}

// recovered is a batch as far as its journal entries tell.
type recovered struct {
	head    telemetrypb.Head
	parts   []part
	damaged int   // entries that could not be read
	err     error // why
}

type part struct {
	before  uint64 // samples ahead of it
	samples []telemetrypb.Sample
}

// Recover seals what a crash left in the journal, before Run: the entries of one (lane, seq) become one batch under
// that very epoch and seq, with the boot id and the catalogue that the entries name. What does not fit into it goes under the
// next free seq in the same commit. An entry that cannot be read is entered in the ledger by its seq, and the batch
// is sealed with what the others hold, empty if need be, so that the seq is settled. When the commit fails the
// batches are kept and Run tries again.
func (p *Pipeline) Recover(entries []Journal) error {
	if p.stopped.Load() {
		return errors.New("pipeline: recovery comes before Run")
	}
	list, err := gather(entries, p.epoch)
	if err != nil {
		return err
	}
	for _, r := range list {
		r.head.Tenant, r.head.Device = p.o.Tenant, p.o.Device
		p.sealRecovered(r)
	}
	if p.prepare(false) {
		p.call(&p.commit)
		p.settle(&p.commit)
	}
	return nil
}

// gather sorts journal entries by their batch, in the order in which the batches began.
func gather(entries []Journal, epoch uint64) ([]*recovered, error) {
	found := map[batchKey]*recovered{}
	var list []*recovered
	for i := range entries {
		e := &entries[i]
		if e.Lane < telemetrypb.Lane_LANE_EVENT || e.Lane > telemetrypb.Lane_LANE_RAW || e.Seq == 0 {
			return nil, fmt.Errorf("pipeline: a journal entry of lane %d, seq %d is not one of ours", e.Lane, e.Seq)
		}
		of := e.Epoch
		if of == 0 {
			of = epoch
		}
		key := batchKey{of, e.Lane, e.Seq}
		r := found[key]
		if r == nil {
			r = &recovered{head: telemetrypb.Head{
				Epoch: of, Lane: e.Lane, Seq: e.Seq,
				BootID: e.BootID, BootCount: e.BootCount, Catalogue: e.Catalogue,
			}}
			found[key] = r
			list = append(list, r)
		}
		r.add(e)
	}
	return list, nil
}

// Unsealed is what a queue's journal holds of a batch that is not sealed yet.
type Unsealed struct {
	Head telemetrypb.Head // without tenant and device
	// Parts are the samples of each journal entry: its signals ascending, each signal's samples in order. What belongs
	// together (Collect.Part) is in one of them.
	Parts   [][]telemetrypb.Sample
	Damaged int   // entries that could not be read
	Err     error // why the last of them could not
}

// ReadJournal reads journal entries as Recover does, for tools that look into a queue.
func ReadJournal(entries []Journal, epoch uint64) ([]Unsealed, error) {
	list, err := gather(entries, epoch)
	if err != nil {
		return nil, err
	}
	all := make([]Unsealed, len(list))
	for i, r := range list {
		all[i] = Unsealed{Head: r.head, Damaged: r.damaged, Err: r.err}
		for _, part := range r.parts {
			all[i].Parts = append(all[i].Parts, part.samples)
		}
	}
	return all, nil
}

// add takes one more entry of the batch.
func (r *recovered) add(e *Journal) {
	if e.BootID != r.head.BootID || e.Catalogue != r.head.Catalogue {
		r.damaged++
		r.err = fmt.Errorf("journal entry of another boot or catalogue: %w", telemetrypb.ErrMalformed)
		return
	}
	before, samples, err := DecodeJournal(nil, e.Bytes)
	if err != nil {
		r.damaged++
		r.err = err
		return
	}
	// Written again after a commit that was reported to have failed: it holds what the earlier one held, and more.
	for n := len(r.parts); n > 0 && r.parts[n-1].before >= before; n-- {
		r.parts = r.parts[:n-1]
	}
	r.parts = append(r.parts, part{before, samples})
}

func (p *Pipeline) sealRecovered(r *recovered) {
	var samples []telemetrypb.Sample
	var ends []int // of the journal entries' samples
	for _, part := range r.parts {
		samples = append(samples, part.samples...)
		ends = append(ends, len(samples))
	}
	// In a journal entry the order between signals is lost, so that of raw frames one entry is not parted: what belongs
	// together (Collect.Part) is in one entry, since a reader hands it over in one chunk.
	done := 0
	cut := func(rest []telemetrypb.Sample, n int) int {
		if r.head.Lane != telemetrypb.Lane_LANE_RAW {
			return min(n, len(rest))
		}
		i, exact := slices.BinarySearch(ends, done+n)
		if !exact && i > 0 && ends[i-1] > done {
			i--
		}
		return ends[min(i, len(ends)-1)] - done
	}
	if r.damaged > 0 {
		p.log.Error("journal entries could not be read", "lane", telemetrypb.LaneName(r.head.Lane), "seq", r.head.Seq,
			"entries", r.damaged, "samples", len(samples), "err", r.err)
		p.ledger.AddLoss(&telemetrypb.Loss{
			Reason: telemetrypb.LossReason_LOSS_QUARANTINED, Source: sourceQueue, Unit: unitSamples, CountUnknown: true,
			BootId: r.head.BootID[:], Epoch: r.head.Epoch, Lane: r.head.Lane,
			Seqs:   []*telemetrypb.SeqRange{{First: r.head.Seq, Last: r.head.Seq}},
			Detail: fmt.Sprintf("%d journal entries: %v", r.damaged, r.err),
		})
	}
	for first := true; first || len(samples) > 0; first = false {
		if !first {
			r.head.Epoch, r.head.Seq = p.epoch, p.queue.Reserve(r.head.Lane)
		}
		bytes, n, err := p.encode(&r.head, samples, cut)
		if err != nil {
			p.log.Error("recovered samples could not be encoded", "seq", r.head.Seq, "samples", n, "err", err)
			p.ledger.Add(telemetrypb.LossReason_LOSS_UNDECODABLE, sourceQueue, unitSamples, uint64(n), err.Error())
		} else {
			s := sealed{Sealed: Sealed{Lane: r.head.Lane, Seq: r.head.Seq, Samples: uint32(n), Bytes: bytes}, journaled: n, keep: true}
			if n > 0 {
				s.First, s.Last = span(samples[:n])
			}
			p.hold(s)
		}
		samples, done = samples[n:], done+n
	}
}
