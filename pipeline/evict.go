package pipeline

import (
	"errors"
	"fmt"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Stored is a batch of the queue that is to go for want of room.
type Stored struct {
	Sealed
	Epoch uint64
}

// Evictor says what stands in the place of batches that the queue has no room for: a record of the loss and, where that
// is wanted, a copy with every n-th sample of each signal. It is used by one goroutine at a time.
type Evictor struct {
	Tenant, Device string
	BootID         [16]byte // of this boot, for the control batches
	BootCount      uint32
	Every          int     // a copy keeps one of so many samples of a signal; below 2: no copies
	BatchBytes     int     // of a copy at most, unless one batch alone gives more
	Ledger         *Ledger // counts the losses; nil: nobody does

	encoder telemetrypb.Encoder
	samples []telemetrypb.Sample
	kept    []telemetrypb.Sample
	seen    map[uint32]int // samples of each signal in the group at hand
}

// Request is one step of an eviction.
type Request struct {
	Lane    telemetrypb.Lane
	Epoch   uint64 // the current one
	Old     []Stored
	Thin    bool                    // there is room for copies
	Void    []*telemetrypb.SeqRange // numbers of the current epoch that name nothing; nobody is to wait for them
	Reserve func(telemetrypb.Lane) uint64
}

// group is a run of old batches that one loss record can speak of.
type group struct {
	head telemetrypb.Head // of the first; the boot id is zero when it could not be read
	readable,
	copied bool // it is itself a copy: those are not thinned again
	old   []Stored
	views []telemetrypb.BatchView
}

// provisionalSeq is longer than any real one, so that a copy's size is known before its number is taken.
const provisionalSeq = 1<<63 - 1

// Evict makes the control batches that tell of the loss and the copies. It takes no number that it does not use,
// except when it fails.
func (e *Evictor) Evict(r Request) (losses, copies []Sealed, err error) {
	var list []*telemetrypb.Loss
	for _, g := range groups(r.Old) {
		thin := r.Thin && e.Every > 1 && g.readable && !g.copied && g.head.Epoch == r.Epoch && r.Lane == telemetrypb.Lane_LANE_TELEMETRY
		if !thin {
			list = append(list, g.loss(r.Lane))
			continue
		}
		for from := 0; from < len(g.old); {
			part := g.part(from, e.fits(&g, from))
			from += len(part.old)
			made, told, err := e.thin(&part, r)
			if err != nil {
				return nil, nil, err
			}
			copies, list = append(copies, made...), append(list, told...)
		}
	}
	if len(r.Void) > 0 {
		list = append(list, &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_EVICTED, Source: sourceQueue, Unit: unitSamples,
			BootId: e.BootID[:], Epoch: r.Epoch, Lane: r.Lane, Seqs: r.Void, Detail: "numbers of thinned copies for which there was no room after all"})
	}
	records := make([]*telemetrypb.Record, len(list))
	for i, loss := range list {
		records[i] = lossRecord(loss)
	}
	seq := r.Reserve(telemetrypb.Lane_LANE_CONTROL)
	bytes, err := telemetrypb.AppendControl(nil, &telemetrypb.Head{
		Tenant: e.Tenant, Device: e.Device, Epoch: r.Epoch, Lane: telemetrypb.Lane_LANE_CONTROL, Seq: seq,
		BootID: e.BootID, BootCount: e.BootCount,
	}, &telemetrypb.Records{Records: records})
	if err != nil {
		return nil, nil, fmt.Errorf("pipeline: loss record of an eviction: %w", err)
	}
	if e.Ledger != nil {
		for _, loss := range list {
			e.Ledger.told(loss)
		}
	}
	return []Sealed{{Lane: telemetrypb.Lane_LANE_CONTROL, Seq: seq, Samples: uint32(len(records)), Bytes: bytes}}, copies, nil
}

// groups parts batches where their epoch, boot, catalogue or kind changes.
func groups(old []Stored) []group {
	var list []group
	for _, s := range old {
		g := group{head: telemetrypb.Head{Epoch: s.Epoch}}
		view, err := telemetrypb.OpenBatch(s.Bytes)
		if env := view.Envelope; env != nil && (err == nil || errors.Is(err, telemetrypb.ErrNewerFormat)) {
			copy(g.head.BootID[:], env.GetBootId())
			copy(g.head.Catalogue[:], env.GetCatalogue())
			g.head.BootCount = env.GetBootCount()
			g.readable, g.copied = err == nil, len(env.GetSupersedes()) > 0
		}
		n := len(list) - 1
		if n < 0 || list[n].head.Epoch != g.head.Epoch || list[n].head.BootID != g.head.BootID || list[n].head.BootCount != g.head.BootCount ||
			list[n].head.Catalogue != g.head.Catalogue || list[n].readable != g.readable || list[n].copied != g.copied {
			list = append(list, g)
			n++
		}
		list[n].old, list[n].views = append(list[n].old, s), append(list[n].views, view)
	}
	return list
}

// loss is the record for a group that is dropped.
func (g *group) loss(lane telemetrypb.Lane) *telemetrypb.Loss {
	loss := &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_EVICTED, Source: sourceQueue, Unit: unitSamples,
		Epoch: g.head.Epoch, Lane: lane, Seqs: seqRanges(g.old), Detail: "the oldest, for want of room in the queue"}
	if g.head.BootID != [16]byte{} {
		loss.BootId = append([]byte(nil), g.head.BootID[:]...)
	}
	first := true
	for _, s := range g.old {
		loss.Count += uint64(s.Samples)
		if s.Samples == 0 {
			continue
		}
		if first {
			loss.FirstNs, loss.LastNs, first = s.First, s.Last, false
		}
		loss.FirstNs, loss.LastNs = min(loss.FirstNs, s.First), max(loss.LastNs, s.Last)
	}
	return loss
}

// thin makes copies of a group, each of as many of its batches as fit, and the records of what they leave out. What
// would hardly shrink is dropped.
func (e *Evictor) thin(g *group, r Request) (copies []Sealed, losses []*telemetrypb.Loss, err error) {
	head := g.head
	head.Tenant, head.Device, head.Lane, head.Seq = e.Tenant, e.Device, r.Lane, provisionalSeq
	head.Supersedes = seqRanges(g.old)
	old := 0
	for _, s := range g.old {
		old += len(s.Bytes)
	}
	if err := e.choose(g); err != nil {
		return nil, []*telemetrypb.Loss{g.loss(r.Lane)}, nil // a body that nobody can read
	}
	var bytes []byte
	if len(e.kept) > 0 && len(e.kept) <= telemetrypb.MaxSamples {
		if bytes, err = e.encoder.AppendBatch(nil, &head, e.kept); err != nil {
			bytes = nil
		}
	}
	if (bytes == nil || len(bytes) > e.BatchBytes) && len(g.old) > 1 && len(e.kept) > 0 {
		for _, half := range [2]group{g.part(0, len(g.old)/2), g.part(len(g.old)/2, len(g.old))} {
			c, l, err := e.thin(&half, r)
			if err != nil {
				return nil, nil, err
			}
			copies, losses = append(copies, c...), append(losses, l...)
		}
		return copies, losses, nil
	}
	if bytes == nil || len(bytes) > old/2 {
		return nil, []*telemetrypb.Loss{g.loss(r.Lane)}, nil
	}
	head.Seq = r.Reserve(r.Lane)
	if bytes, err = e.encoder.AppendBatch(bytes[:0], &head, e.kept); err != nil {
		return nil, nil, fmt.Errorf("pipeline: thinned copy: %w", err)
	}
	loss := g.loss(r.Lane)
	loss.Reason = telemetrypb.LossReason_LOSS_THINNED
	loss.Count -= min(loss.Count, uint64(len(e.kept)))
	loss.Detail = fmt.Sprintf("for want of room in the queue; one of %d samples of each signal is in batch %d", e.Every, head.Seq)
	first, last := span(e.kept)
	return []Sealed{{Lane: r.Lane, Seq: head.Seq, Samples: uint32(len(e.kept)), First: first, Last: last, Bytes: bytes}},
		[]*telemetrypb.Loss{loss}, nil
}

// fits guesses how many batches from one on make one copy. Far between, samples take a third more each.
func (e *Evictor) fits(g *group, from int) (to int) {
	size := 0
	for to = from; to < len(g.old); to++ {
		if size += len(g.old[to].Bytes); to > from && size/3*4 > e.BatchBytes*e.Every {
			break
		}
	}
	return to
}

func (g *group) part(from, to int) group {
	p := *g
	p.old, p.views = g.old[from:to], g.views[from:to]
	return p
}

// choose takes the first of every so many samples of each signal into e.kept.
func (e *Evictor) choose(g *group) error {
	if e.seen == nil {
		e.seen = map[uint32]int{}
	}
	clear(e.seen)
	e.kept = e.kept[:0]
	for _, view := range g.views {
		var err error
		if e.samples, err = view.Samples(e.samples[:0]); err != nil {
			return err
		}
		for _, s := range e.samples {
			if e.seen[s.Signal]%e.Every == 0 {
				e.kept = append(e.kept, s)
			}
			e.seen[s.Signal]++
		}
		clear(e.samples) // lets go of texts
	}
	return nil
}

// seqRanges lists the numbers of batches, which ascend.
func seqRanges(old []Stored) []*telemetrypb.SeqRange {
	var list []*telemetrypb.SeqRange
	for _, s := range old {
		if n := len(list); n > 0 && list[n-1].Last+1 == s.Seq {
			list[n-1].Last = s.Seq
			continue
		}
		list = append(list, &telemetrypb.SeqRange{First: s.Seq, Last: s.Seq})
	}
	return list
}
