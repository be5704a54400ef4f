package pipeline

import (
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// lane holds the open batch of one lane of samples.
type lane struct {
	id      telemetrypb.Lane
	seq     uint64               // of the open batch; 0: not given yet
	samples []telemetrypb.Sample // of the open batch; the memory is used again
	since   int64                // clock's BOOTTIME at its first sample
	opened  int64                // high at its first sample
	high    int64                // latest sample time ever seen: a span is counted from where it stood
	limit   int                  // samples at which the batch is likely to be full

	journaled int // samples[:journaled] are durable in the journal, under seq
	flying    int // samples[:flying] will be, if the commit under way succeeds; 0: not in it
	inherited int // samples[:inherited] are durable under the seq of an older batch that is not committed yet
	promised  int // samples[:promised] will be likewise, if the commit under way succeeds
	taken     int // samples put in since the metrics were told

	refusing bool // the last sample that is no part of another was refused
}

// sealed is a batch that is not committed yet. Its bytes and its seq never change.
type sealed struct {
	Sealed
	journaled int  // of its samples, already durable in the journal
	promised  int  // of its samples, durable under an older batch's seq if the commit under way succeeds
	keep      bool // some of its samples are in the journal, or it is a control batch: never dropped for want of memory
	flying    bool // some of its samples are in the journal of the commit under way: not dropped until that is settled
}

// keepSample puts a sample into its lane's open batch, or counts it as refused.
func (p *Pipeline) keepSample(id telemetrypb.Lane, s *telemetrypb.Sample) {
	l := &p.lanes[id]
	if s.Kind == telemetrypb.KindString && len(s.Str) > maxText {
		l.refusing = true
		p.ledger.add(telemetrypb.LossReason_LOSS_UNDECODABLE, p.from, unitSamples, 1, s.Time, s.Time, "text too long to be sent")
		return
	}
	if len(l.samples) > 0 && (len(l.samples) >= l.limit || s.Time-l.opened >= p.sealNS) {
		p.sealFull(l)
	}
	if p.memory >= p.room[id] && !p.makeRoom(id) {
		l.refusing = true
		p.refuse(s)
		return
	}
	l.refusing = false
	if len(l.samples) == 0 {
		l.since = p.clock.Boot()
		l.high = max(l.high, s.Time)
		l.opened = l.high
	}
	l.high = max(l.high, s.Time)
	l.samples = append(l.samples, *s)
	l.taken++
}

// keepPart puts a sample where the one it belongs to is: into the open batch, full or not, or among the refused.
func (p *Pipeline) keepPart(id telemetrypb.Lane, s *telemetrypb.Sample) {
	l := &p.lanes[id]
	if l.refusing || len(l.samples) == 0 {
		p.refuse(s)
		return
	}
	l.high = max(l.high, s.Time)
	l.samples = append(l.samples, *s)
	l.taken++
}

// whole is where to cut samples so that about n stand before the cut and none is parted from its parts: not more than
// n, unless the first sample alone has more parts than that.
func (p *Pipeline) whole(samples []telemetrypb.Sample, n int) int {
	isPart := func(i int) bool { return i < len(samples) && p.states[samples[i].Signal].part }
	cut := n
	for cut > 0 && isPart(cut) {
		cut--
	}
	if cut > 0 {
		return cut
	}
	for cut = n; isPart(cut); {
		cut++
	}
	return cut
}

// sealFull seals what is open: the rest of a batch that turned out too large stays open when it was full by size, so
// that a short batch does not follow each long one.
func (p *Pipeline) sealFull(l *lane) {
	if len(l.samples) >= l.limit {
		p.sealOne(l)
		return
	}
	p.sealAll(l)
}

func (p *Pipeline) sealAll(l *lane) {
	for len(l.samples) > 0 {
		p.sealOne(l)
	}
}

// sealOne seals the open batch, or as many of its samples as fit. The rest becomes the next open batch.
func (p *Pipeline) sealOne(l *lane) {
	n := len(l.samples)
	if l.seq == 0 {
		l.seq = p.queue.Reserve(l.id)
	}
	bytes, n, err := p.encode(&telemetrypb.Head{
		Tenant: p.o.Tenant, Device: p.o.Device, Epoch: p.epoch,
		Lane: l.id, Seq: l.seq,
		BootID: p.o.BootID, BootCount: p.o.BootCount, Catalogue: p.catalogue,
	}, l.samples, p.whole)
	first, last := span(l.samples[:n])
	if err != nil {
		p.log.Error("samples could not be encoded", "lane", telemetrypb.LaneName(l.id), "samples", n, "err", err)
		p.ledger.add(telemetrypb.LossReason_LOSS_UNDECODABLE, sourceQueue, unitSamples, uint64(n), first, last, err.Error())
	} else {
		p.learn(l, n, len(bytes))
		p.hold(sealed{
			Sealed:    Sealed{Lane: l.id, Seq: l.seq, Samples: uint32(n), First: first, Last: last, Bytes: bytes},
			journaled: min(n, max(l.journaled, l.inherited)),
			promised:  min(n, l.promised),
			keep:      max(l.journaled, l.inherited) > 0,
			flying:    max(l.flying, l.promised) > 0,
		})
	}
	rest := copy(l.samples, l.samples[n:])
	clear(l.samples[rest:]) // lets go of texts
	l.samples = l.samples[:rest]
	l.inherited = max(0, max(l.journaled, l.inherited)-n)
	l.promised = max(0, max(l.flying, l.promised)-n)
	l.seq, l.journaled, l.flying = 0, 0, 0
	l.since = p.clock.Boot()
	l.opened = l.high
}

// encode writes a batch of the first n samples, as many as keep it within the size of a batch, at least as many as
// belong together. cut says where samples may be parted, at about n.
func (p *Pipeline) encode(head *telemetrypb.Head, samples []telemetrypb.Sample, cut func([]telemetrypb.Sample, int) int) (bytes []byte, n int, err error) {
	p.head = *head // head itself stays on the stack
	bytes, n = p.buffer(), len(samples)
	if n > maxSamples {
		n = cut(samples, maxSamples)
	}
	for {
		bytes, err = p.encoder.AppendBatch(bytes[:0], &p.head, samples[:n])
		if err != nil || len(bytes) <= p.o.BatchBytes {
			return bytes, n, err
		}
		fits := int(int64(n) * int64(p.o.BatchBytes) / int64(len(bytes)))
		less := cut(samples, max(1, min(n-1, fits*15/16)))
		if less >= n {
			return bytes, n, nil
		}
		n = less
	}
}

// learn takes the size of a sealed batch as the measure of the next one, which may be four times as long at most. A
// batch that was sealed short for another reason codes badly and says little.
func (p *Pipeline) learn(l *lane, samples, bytes int) {
	if samples < l.limit && bytes < p.o.BatchBytes/4 {
		return
	}
	fits := int64(samples) * int64(p.o.BatchBytes) / int64(bytes) * 15 / 16
	l.limit = int(max(1, min(fits, 4*int64(samples), maxSamples)))
}

// sealOld seals what has been open for the seal interval, give or take half a tick.
func (p *Pipeline) sealOld() {
	now := p.clock.Boot()
	for i := range p.lanes {
		l := &p.lanes[i]
		if len(l.samples) > 0 && now-l.since >= p.sealNS-int64(p.o.CommitEvery/2) {
			p.sealAll(l)
		}
	}
}

// buffer is memory for one batch; it comes back when the batch is committed.
func (p *Pipeline) buffer() []byte {
	if n := len(p.buffers); n > 0 {
		b := p.buffers[n-1]
		p.buffers = p.buffers[:n-1]
		return b
	}
	return make([]byte, 0, p.o.BatchBytes+p.o.BatchBytes/4)
}

// refuse counts a sample for which there is no memory; tellRefused enters the sum in the ledger.
func (p *Pipeline) refuse(s *telemetrypb.Sample) {
	r := &p.refused
	if r.count == 0 {
		r.first, r.last = s.Time, s.Time
	}
	r.count++
	r.first, r.last = min(r.first, s.Time), max(r.last, s.Time)
}

func (p *Pipeline) tellRefused() {
	if p.refused.count > 0 {
		p.ledger.add(p.lossReason(), p.from, unitSamples, p.refused.count, p.refused.first, p.refused.last, p.lossDetail())
		p.refused.count = 0
	}
}

// release takes a batch's memory back.
func (p *Pipeline) release(bytes []byte) {
	if len(p.buffers) < keptBuffers && cap(bytes) <= 2*p.o.BatchBytes {
		p.buffers = append(p.buffers, bytes[:0])
	}
}
