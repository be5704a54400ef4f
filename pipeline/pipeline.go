package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/internal/clock"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Pipeline takes samples from its Sources to its Queue. Ledger, Emit and Raise are safe for use from several
// goroutines at any time; Source and Recover come before Run, which is called once.
//
// Its selection does not change: for another one, let Run end, which seals what is open, and make a new Pipeline.
type Pipeline struct {
	o         Options
	clock     clock.Clock
	log       *slog.Logger
	queue     Queue
	metrics   *metrics
	ledger    *Ledger
	selection *Selection
	catalogue [16]byte
	epoch     uint64
	sealNS    int64
	headBytes int                                // room for the envelope of a control batch
	room      [telemetrypb.Lane_LANE_RAW + 1]int // uncommitted bytes from which on a lane's samples are refused

	sources []*Source
	wake    chan struct{} // capacity 1, shared: something waits in a source, in raised or in records
	stopped atomic.Bool   // Run has ended
	taken   [telemetrypb.Lane_LANE_RAW + 1]atomic.Uint64

	mu      sync.Mutex // guards what follows
	raised  []telemetrypb.Sample
	records []*telemetrypb.Record
	urgent  bool     // records are to be committed at once
	waiters []waiter // of Commit

	// Run's own from here on.
	states  []signalState // by signal id
	delayed []uint32      // ids of signals with a MinInterval
	lanes   [telemetrypb.Lane_LANE_RAW + 1]lane
	from    string // the source of the samples at hand, for the ledger
	refused struct {
		count       uint64
		first, last int64
	}
	spare []telemetrypb.Sample // swapped with raised
	event [1]telemetrypb.Sample

	uncommitted []sealed // in the order in which they were sealed
	flight      int      // uncommitted[:flight] are in the commit under way
	underWay    bool
	memory      int       // weight of uncommitted
	depth       ringDepth // the same for others
	controlSeq  uint64
	commit      commit
	failing     bool // a commit failed, and since then not all that waited was committed
	full        bool // for want of room
	probe       int  // bytes that a commit carries while failing
	trouble     string
	proven      bool // a commit succeeded
	lastErr     error
	ticked      bool // a tick is not answered yet
	quiet       bool // events were committed less than EventEvery ago
	lossTold    int64
	dropped     []Numbers // no control batch holds the record of these yet

	encoder telemetrypb.Encoder
	head    telemetrypb.Head
	buffers [][]byte
}

// signalState is what Run knows of one signal.
type signalState struct {
	sampler
	rules []rule
}

// New makes a pipeline for one selection; nothing runs until Run.
func New(o Options, sel *Selection, q Queue) (*Pipeline, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("pipeline: %w", err)
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("pipeline: %w", err)
	}
	p := &Pipeline{
		o: o, clock: o.Clock, log: o.Log, queue: q, metrics: m,
		selection: sel, catalogue: sel.ShortHash(),
		epoch:     o.Epoch,
		sealNS:    int64(o.SealEvery),
		headBytes: 128 + len(o.Tenant) + len(o.Device),
		wake:      make(chan struct{}, 1),
		states:    make([]signalState, len(sel.policies)),
		lossTold:  math.MinInt64 / 2,
	}
	if err := m.watch(p); err != nil {
		return nil, fmt.Errorf("pipeline: %w", err)
	}
	if p.epoch == 0 {
		p.epoch = q.Epoch()
	}
	p.ledger = newLedger(o.Clock.Boot, o.BootID, m)
	for id := range p.lanes {
		p.lanes[id] = lane{id: telemetrypb.Lane(id), limit: min(o.BatchBytes/firstSampleBytes, maxSamples), high: math.MinInt64}
		p.room[id] = (o.MemoryBytes - o.BatchBytes) / 4 * 3
	}
	p.room[telemetrypb.Lane_LANE_EVENT] = (o.MemoryBytes - o.BatchBytes) / 8 * 7
	for id, how := range sel.policies {
		p.states[id].policy = how
		if how.minNS > 0 {
			p.delayed = append(p.delayed, uint32(id))
		}
	}
	for _, r := range sel.rules {
		p.states[r.input].rules = append(p.states[r.input].rules, r)
	}
	return p, nil
}

// Ledger is where losses are counted.
func (p *Pipeline) Ledger() *Ledger { return p.ledger }

// Taken is how many samples of a lane were taken since the start.
func (p *Pipeline) Taken(lane telemetrypb.Lane) uint64 { return p.taken[lane].Load() }

// Emit puts a record into the control lane. It is committed with the next commit, at once when it is a clock record
// or a part of a catalogue. The record must not be changed afterwards. Where 1024 wait already it is counted as
// OVERLOAD and let go.
func (p *Pipeline) Emit(r *telemetrypb.Record) {
	if r != nil && !p.TryEmit(r) {
		p.ledger.Add(telemetrypb.LossReason_LOSS_OVERLOAD, sourceAgent, unitRecords, 1, "control records waiting")
	}
}

// TryEmit is Emit for what is kept elsewhere and tried again: where there is no room it answers false, and nothing is lost.
func (p *Pipeline) TryEmit(r *telemetrypb.Record) (kept bool) {
	p.mu.Lock()
	full := len(p.records) >= maxRecords
	if !full {
		p.records = append(p.records, r)
		if r.GetClock() != nil || r.GetCatalogue() != nil {
			p.urgent = true
		}
	}
	p.mu.Unlock()
	p.wakeUp()
	return !full
}

// Raise puts a sample of the named signal into the event lane: an alarm, say. Its signal id is filled in, and its
// time when that is 0. Where 1024 wait already it is counted as OVERLOAD and let go.
func (p *Pipeline) Raise(signalName string, value telemetrypb.Sample) {
	if value.Time == 0 {
		value.Time = p.o.Now()
	}
	id, ok := p.selection.ID(signalName)
	if !ok {
		p.log.Error("an event of a signal that is not collected cannot be kept", "signal", signalName)
		p.ledger.add(telemetrypb.LossReason_LOSS_UNDECODABLE, sourceAgent, unitSamples, 1, value.Time, value.Time, "not a collected signal")
		return
	}
	value.Signal = id
	p.mu.Lock()
	full := len(p.raised) >= maxRaised
	if !full {
		p.raised = append(p.raised, value)
	}
	p.mu.Unlock()
	if full {
		p.ledger.add(telemetrypb.LossReason_LOSS_OVERLOAD, sourceAgent, unitSamples, 1, value.Time, value.Time, "events waiting")
	}
	p.wakeUp()
}

func (p *Pipeline) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Pipeline) isUrgent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.urgent || len(p.waiters) > 0
}

// Run samples, seals and commits until ctx ends; it commits the catalogue first. The owner of the readers has stopped
// them before that. Then it takes what is left in the channels, seals, commits, and returns nil, or, when that last
// commit failed, an error that says what was not written.
func (p *Pipeline) Run(ctx context.Context) error {
	todo, done := make(chan *commit, 1), make(chan *commit, 1)
	go p.committer(todo, done)
	defer func() {
		close(todo)
		for range done { // closed when the committer has ended
		}
	}()
	tick, stop := p.o.Timers.Ticker(p.o.CommitEvery)
	defer stop()
	var calm <-chan time.Time
	stopCalm := func() {}
	defer func() { stopCalm() }()

	p.begin()
	for {
		if p.due() && p.prepare(false) {
			if p.commit.hasEvents() {
				stopCalm()
				calm, stopCalm = p.o.Timers.Timer(p.o.EventEvery)
				p.quiet = true
			}
			todo <- &p.commit
		}
		wake := p.wake
		if p.choked() {
			wake = nil
		}
		select {
		case <-ctx.Done():
			if p.underWay {
				p.settle(<-done)
			}
			return p.finish()
		case <-wake:
			p.take()
		case <-tick:
			p.tick()
		case <-calm:
			p.quiet = false
		case c := <-done:
			p.settle(c)
		}
	}
}

// begin emits what must be there before any batch that needs it. Epoch records that were emitted before Run stay ahead.
func (p *Pipeline) begin() {
	var records []*telemetrypb.Record
	for _, part := range telemetrypb.SplitCatalogue(p.selection.data) {
		records = append(records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: part}})
	}
	if p.o.Info != nil {
		records = append(records, &telemetrypb.Record{Record: &telemetrypb.Record_Device{Device: p.o.Info}})
	}
	p.mu.Lock()
	p.records = append(p.records, records...)
	p.urgent = true
	p.mu.Unlock()
}

// hasEvents: quiet is owed after it.
func (c *commit) hasEvents() bool {
	for i := range c.batches {
		if c.batches[i].Lane == telemetrypb.Lane_LANE_EVENT {
			return true
		}
	}
	return false
}

// choked: the disk is behind and has not said no. What waits in the channels waits there, so that a replay is slowed
// down; a reader finds its channel full and counts.
func (p *Pipeline) choked() bool {
	return p.underWay && !p.failing && p.memory >= p.o.MemoryBytes/2
}

// laden: a commit comes before the next chunk.
func (p *Pipeline) laden() bool {
	return !p.underWay && !p.failing && p.memory >= p.o.CommitBytes
}

// take has a turn of each source, and what was raised.
func (p *Pipeline) take() {
	more := false
	for _, s := range p.sources {
		more = p.takeFrom(s) || more
	}
	p.takeRaised()
	p.tellTaken()
	if more {
		p.wakeUp()
	}
}

// takeFrom takes some chunks; more says that others may wait.
func (p *Pipeline) takeFrom(s *Source) (more bool) {
	for range chunksATurn {
		if p.choked() || p.laden() {
			return true
		}
		select {
		case c := <-s.full:
			p.from = s.name
			p.o.OnSamples(c.Samples)
			for i := range c.Samples {
				p.sample(&c.Samples[i])
			}
			p.tellRefused()
			s.recycle(c)
		default:
			return false
		}
	}
	return true
}

func (p *Pipeline) takeRaised() {
	p.mu.Lock()
	p.raised, p.spare = p.spare[:0], p.raised
	p.mu.Unlock()
	p.from = sourceAgent
	p.o.OnSamples(p.spare)
	for i := range p.spare {
		p.keepSample(telemetrypb.Lane_LANE_EVENT, &p.spare[i])
	}
	p.tellRefused()
	clear(p.spare)
}

// sample takes one sample through its rules and its sampling.
func (p *Pipeline) sample(s *telemetrypb.Sample) {
	if s.Signal == 0 || int64(s.Signal) >= int64(len(p.states)) {
		p.ledger.add(telemetrypb.LossReason_LOSS_UNDECODABLE, p.from, unitSamples, 1, s.Time, s.Time, "signal id not in the catalogue")
		return
	}
	st := &p.states[s.Signal]
	for i := range st.rules {
		r := &st.rules[i]
		if value, raised := r.see(s); raised {
			p.event[0] = telemetrypb.FloatSample(r.event, s.Time, value)
			p.o.OnSamples(p.event[:])
			p.keepSample(telemetrypb.Lane_LANE_EVENT, &p.event[0])
			p.o.OnEvent(r.event, s.Time)
		}
	}
	if st.lane == 0 {
		return
	}
	if st.part {
		p.keepPart(st.lane, s)
		return
	}
	if st.everySample() {
		p.keepSample(st.lane, s)
		return
	}
	if st.holding {
		until := s.Time - 1
		if st.repeats(s) {
			until = s.Time
		}
		held, ok := st.due(until)
		if !ok && st.begins(s) {
			held, ok = st.flush()
		}
		if ok {
			p.keepSample(st.lane, &held)
		}
	}
	if st.take(s) {
		p.keepSample(st.lane, s)
	}
}

// tick is the beat of commits.
func (p *Pipeline) tick() {
	p.take() // what was offered before this moment comes before what was held back until it
	now := p.o.Now()
	p.from = sourceAgent
	for _, id := range p.delayed {
		if held, ok := p.states[id].due(now); ok {
			p.keepSample(p.states[id].lane, &held)
		}
	}
	p.tellRefused()
	p.tellTaken()
	p.sealOld()
	p.ticked = true
}

// tellTaken adds to the metrics once for many samples.
func (p *Pipeline) tellTaken() {
	for i := range p.lanes {
		l := &p.lanes[i]
		p.metrics.taken(l.id, l.taken)
		p.taken[i].Add(uint64(l.taken))
		l.taken = 0
	}
}

// finish takes, seals and commits all there is, after the last commit of the loop was settled.
func (p *Pipeline) finish() error {
	defer p.dismiss()
	p.takeAll()
	p.from = sourceAgent
	for _, id := range p.delayed {
		if held, ok := p.states[id].flush(); ok {
			p.keepSample(p.states[id].lane, &held)
		}
	}
	p.tellRefused()
	p.tellTaken()
	for p.prepare(true) {
		p.call(&p.commit)
		p.settle(&p.commit)
		if p.failing {
			return p.giveUp()
		}
		p.takeAll() // what a callback raised
	}
	return nil
}

// takeAll empties the channels, and commits on the way when that is a lot.
func (p *Pipeline) takeAll() {
	for p.left() {
		p.take()
		if p.memory >= p.o.CommitBytes && !p.failing && p.prepare(false) {
			p.call(&p.commit)
			p.settle(&p.commit)
		}
	}
}

// left says whether anything waits for take.
func (p *Pipeline) left() bool {
	for _, s := range p.sources {
		if len(s.full) > 0 {
			return true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.raised) > 0
}

// giveUp counts what the disk did not take before the end. What is in the journal is not lost: the next start finds it.
func (p *Pipeline) giveUp() error {
	var samples, batches uint64
	for i := range p.uncommitted {
		s := &p.uncommitted[i]
		if s.Lane == telemetrypb.Lane_LANE_CONTROL {
			continue
		}
		batches++
		if n := uint64(int(s.Samples) - s.journaled); n > 0 {
			samples += n
			p.ledger.AddLoss(&telemetrypb.Loss{Reason: p.lossReason(), Source: sourceQueue, Unit: unitSamples, Count: n,
				FirstNs: s.First, LastNs: s.Last, Epoch: p.epoch, Lane: s.Lane, Detail: p.lossDetail(),
				Seqs: []*telemetrypb.SeqRange{{First: s.Seq, Last: s.Seq}}})
		}
	}
	p.log.Error("the last commit failed; what was in memory only is lost", "samples", samples, "batches", batches, "err", p.lastErr)
	return fmt.Errorf("pipeline: the last commit failed: %d samples of %d batches were not written: %w", samples, batches, p.lastErr)
}
