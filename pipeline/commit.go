package pipeline

import (
	"context"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// commit is one call of Queue.Commit, and what its outcome means. There is one, used again: it is either Run's, to be
// filled, or the committer's. While it is with the committer, uncommitted[:flight] are the batches in it, and Run goes
// on sampling: a slow disk costs memory, not samples.
//
//	        start                    Queue.Commit returns
//	idle ───────────▶ under way ───────────────────────────▶ settle ──▶ idle
//	 ▲                                                         │ error: the batches stay, the next tick tries again
//	 └─────────────────────────────────────────────────────────┘
type commit struct {
	batches []Sealed
	journal []Journal
	marks   []mark // one for each journal entry
	bytes   [telemetrypb.Lane_LANE_RAW + 1][]byte
	waiters []waiter // who wait for it
	err     error
	tookNS  int64
	whole   bool // nothing that waited was left out
}

// mark says how far a journal entry reaches.
type mark struct {
	lane        telemetrypb.Lane
	seq         uint64
	samples, to int
	last        int64
}

// committer calls Commit for Run, which owns it: it ends when todo is closed.
func (p *Pipeline) committer(todo <-chan *commit, done chan<- *commit) {
	defer close(done)
	for c := range todo {
		p.call(c)
		done <- c
	}
}

func (p *Pipeline) call(c *commit) {
	start := p.clock.Boot()
	c.err = p.queue.Commit(c.batches, c.journal)
	c.tookNS = p.clock.Boot() - start
}

// due says whether something is to be committed now.
func (p *Pipeline) due() bool {
	switch {
	case p.underWay:
		return false
	case p.ticked:
		return true
	case p.failing: // again at the next tick, not before
		return false
	}
	return p.isUrgent() || p.memory >= p.o.CommitBytes || len(p.lanes[telemetrypb.Lane_LANE_EVENT].samples) > 0 && !p.quiet
}

// prepare fills the commit with all there is; false says that there is nothing. final seals what is open.
func (p *Pipeline) prepare(final bool) bool {
	p.ticked = false
	sealing := p.admit()
	switch {
	case final || sealing:
		for i := range p.lanes {
			p.sealAll(&p.lanes[i])
		}
	case !p.failing: // else events wait, in the journal, and make one batch in place of one for each attempt
		p.sealAll(&p.lanes[telemetrypb.Lane_LANE_EVENT])
	}
	p.sealControl(final)

	c := &p.commit
	c.batches, c.journal, c.marks, c.err = c.batches[:0], c.journal[:0], c.marks[:0], nil
	n := p.carry(final)
	c.whole = n == len(p.uncommitted)
	for id := telemetrypb.Lane_LANE_CONTROL; id <= telemetrypb.Lane_LANE_RAW; id++ {
		for i := range p.uncommitted[:n] {
			if p.uncommitted[i].Lane == id {
				c.batches = append(c.batches, p.uncommitted[i].Sealed)
			}
		}
	}
	for i := range p.lanes {
		// Of a lane of which a batch waits nothing newer is to be durable, but what was so under the number of a batch that
		// goes with this commit.
		if c.whole || p.lanes[i].inherited > 0 {
			p.journal(c, &p.lanes[i])
		}
	}
	if len(c.batches)+len(c.journal) == 0 {
		c.answer(nil) // all there is is on disk
		return false
	}
	p.flight, p.underWay = n, true
	return true
}

// journal adds what is new in an open batch.
func (p *Pipeline) journal(c *commit, l *lane) {
	n := len(l.samples)
	if n == l.journaled {
		return
	}
	if l.seq == 0 {
		l.seq = p.queue.Reserve(l.id)
	}
	news := l.samples[l.journaled:]
	bytes := AppendJournal(c.bytes[l.id][:0], l.journaled, news)
	c.bytes[l.id] = bytes
	c.journal = append(c.journal, Journal{
		Lane: l.id, Seq: l.seq,
		BootID: p.o.BootID, BootCount: p.o.BootCount, Catalogue: p.catalogue,
		Bytes: bytes,
	})
	_, last := span(news)
	c.marks = append(c.marks, mark{lane: l.id, seq: l.seq, samples: len(news), to: n, last: last})
	l.flying = n
}

// settle takes the outcome of a commit.
func (p *Pipeline) settle(c *commit) {
	flown := p.flight
	p.flight, p.underWay = 0, false
	p.metrics.committed(float64(c.tookNS)/1e9, c.err)
	for i := range p.lanes {
		l := &p.lanes[i]
		if c.err == nil {
			l.inherited = max(l.inherited, l.promised)
		}
		l.flying, l.promised = 0, 0
	}
	for i := range p.uncommitted {
		s := &p.uncommitted[i]
		if c.err == nil {
			s.keep, s.journaled = s.keep || s.flying, max(s.journaled, s.promised)
		}
		s.flying, s.promised = false, 0
	}
	if c.err != nil {
		if !p.failing {
			p.log.Error("commit failed; batches are kept in memory and tried again", "err", c.err,
				"batches", len(c.batches), "bytes", p.memory)
		}
		p.admitAll()
		c.answer(c.err)
		p.keepUnstored(flown)
		p.fail(c.err)
		return
	}
	c.answer(nil)
	p.logCommitted(c)
	for _, m := range c.marks {
		p.lanes[m.lane].settle(m, p.uncommitted[flown:])
	}
	for i := range p.uncommitted[:flown] {
		p.count(&p.uncommitted[i], -1)
		p.release(p.uncommitted[i].Bytes)
	}
	p.uncommitted = slices.Delete(p.uncommitted, 0, flown)
	if p.failing && !c.whole { // the rest at once, in growing steps
		p.probe, p.ticked = min(2*p.probe, p.o.MemoryBytes), true
		return
	}
	if p.failing || !p.proven {
		if p.failing {
			p.log.Info("commits succeed again")
		}
		p.failing, p.lastErr, p.proven = false, nil, true
		p.o.OnCommitOK()
	}
}

// settle notes which samples the journal holds now; the batch may have been sealed meanwhile.
func (l *lane) settle(m mark, waiting []sealed) {
	if l.seq == m.seq {
		l.journaled = m.to
		return
	}
	for i := range waiting {
		if s := &waiting[i]; s.Lane == m.lane && s.Seq == m.seq {
			s.journaled = min(m.to, int(s.Samples))
		}
	}
}

// logCommitted writes a line for each batch and each journal entry that is durable now.
func (p *Pipeline) logCommitted(c *commit) {
	ctx := context.Background()
	if !p.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for _, s := range c.batches {
		p.log.LogAttrs(ctx, slog.LevelDebug, "committed", slog.String("kind", "batch"),
			slog.String("lane", telemetrypb.LaneName(s.Lane)), slog.Uint64("seq", s.Seq),
			slog.Uint64("samples", uint64(s.Samples)), slog.Uint64("total", uint64(s.Samples)), slog.Int64("last", s.Last))
	}
	for _, m := range c.marks {
		p.log.LogAttrs(ctx, slog.LevelDebug, "committed", slog.String("kind", "journal"),
			slog.String("lane", telemetrypb.LaneName(m.lane)), slog.Uint64("seq", m.seq),
			slog.Int("samples", m.samples), slog.Int("total", m.to), slog.Int64("last", m.last))
	}
}

// sealControl seals what Emit and the ledger have. While commits fail one control batch waits and the rest is
// gathered for the next one; the ledger waits until nothing else does, but for the numbers of batches that were dropped: what is
// above them waits for the record.
func (p *Pipeline) sealControl(final bool) {
	if p.failing && !final && slices.ContainsFunc(p.uncommitted, func(s sealed) bool { return s.Lane == telemetrypb.Lane_LANE_CONTROL }) {
		return
	}
	p.mu.Lock()
	records := p.records
	p.records, p.urgent = nil, false
	p.mu.Unlock()
	var lost []Numbers
	if now := p.clock.Boot(); final || len(p.dropped) > 0 || !p.failing && now-p.lossTold >= int64(p.o.LossEvery) {
		lost, p.dropped = p.dropped, nil
		if losses := p.ledger.take(); len(losses) > 0 {
			p.lossTold = now
			records = append(records, losses...)
		}
	}
	before := len(p.uncommitted)
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) {
			size += proto.Size(records[n]) + 4
			if n > 0 && size > p.o.BatchBytes-p.headBytes {
				break
			}
			n++
		}
		err := p.sealRecords(records[:n])
		if err != nil && n > 1 { // one of them is at fault
			n = 1
			err = p.sealRecords(records[:n])
		}
		if err != nil {
			p.sealFailed(err)
		}
		records = records[n:]
	}
	if n := len(p.uncommitted); n > before { // the last of them is durable after the others
		p.uncommitted[n-1].Lost = lost
	} else {
		p.dropped = lost
	}
}

func (p *Pipeline) sealRecords(records []*telemetrypb.Record) error {
	if p.controlSeq == 0 {
		p.controlSeq = p.queue.Reserve(telemetrypb.Lane_LANE_CONTROL)
	}
	bytes, err := telemetrypb.AppendControl(nil, &telemetrypb.Head{
		Tenant: p.o.Tenant, Device: p.o.Device, Epoch: p.epoch,
		Lane: telemetrypb.Lane_LANE_CONTROL, Seq: p.controlSeq,
		BootID: p.o.BootID, BootCount: p.o.BootCount,
	}, &telemetrypb.Records{Records: records})
	if err != nil {
		return err // the seq serves for the next batch
	}
	now := p.clock.Boot()
	p.hold(sealed{
		Sealed: Sealed{Lane: telemetrypb.Lane_LANE_CONTROL, Seq: p.controlSeq, Samples: uint32(len(records)), First: now, Last: now, Bytes: bytes},
		keep:   true,
	})
	p.controlSeq = 0
	return nil
}

// sealFailed gives up on a record that protobuf will not encode: text that is no UTF-8, say.
func (p *Pipeline) sealFailed(err error) {
	p.log.Error("a control record could not be encoded", "err", err)
	p.ledger.Add(telemetrypb.LossReason_LOSS_UNDECODABLE, sourceAgent, unitRecords, 1, "a control record could not be encoded")
}
