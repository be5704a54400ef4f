package uplink

import (
	"fmt"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// receive takes what arrived from the broker.
func (u *Uplink) receive(s *session, m mqtt.Message) {
	if m.Topic() != u.topic(telemetrypb.TopicReceipt) {
		u.count.foreign.Add(1)
		if u.o.OnMessage != nil {
			u.o.OnMessage(m.Topic(), m.Payload())
		}
		return
	}
	r := new(telemetrypb.Receipt)
	if err := proto.Unmarshal(m.Payload(), r); err != nil {
		u.count.malformed.Add(1)
		u.o.Log.Warn("a receipt cannot be read", "bytes", len(m.Payload()), "error", err)
		return
	}
	u.count.receipts.Add(1)
	u.mu.Lock()
	u.store, u.newest = r.GetStore(), r.GetGeneration()
	u.mu.Unlock()
	if u.over(r.GetGeneration()) && r.GetWanted() == nil {
		u.count.stale.Add(uint64(len(r.GetRanges())))
		return
	}
	u.follow(r.GetStore(), r.GetGeneration(), r.GetWanted())
	for _, g := range r.GetRanges() {
		if !u.takeRange(r, g) {
			continue
		}
		u.mu.Lock()
		quiet := u.win.believe(buffer.Lane(g.GetLane()), time.Now())
		u.mu.Unlock()
		if quiet {
			u.o.Alarms.Clear(alarmReceipt)
		}
	}
	u.poke()
}

// opinion is what comparing a receipt range with what is held says.
type opinion uint8

const (
	matches   opinion = iota
	stale             // part of it was released meanwhile: it cannot be verified, and need not be
	elsewhere         // another epoch's
	unfounded         // it cannot be about our batches
	unknown           // it is of our epoch, about batches that we never had
)

// takeRange verifies one range and acts on its verdict. It reports whether the range was believed, or at least was
// about batches that had been released before.
func (u *Uplink) takeRange(r *telemetrypb.Receipt, g *telemetrypb.ReceiptRange) bool {
	l := buffer.Lane(g.GetLane())
	if g.GetLane() < 1 || g.GetLane() > telemetrypb.Lane(lastLane) {
		u.dispute(r, g, "there is no such lane")
		return false
	}
	found, view, why := u.verify(l, g)
	switch view {
	case stale:
		u.count.stale.Add(1)
		return true
	case elsewhere:
		u.count.otherEpoch.Add(1)
		return false
	case unfounded:
		u.dispute(r, g, why)
		return false
	case unknown:
		u.dispute(r, g, why)
		if g.GetVerdict() == telemetrypb.Verdict_VERDICT_STORED && u.o.OnConflict != nil {
			u.o.OnConflict(Conflict{Epoch: g.GetEpoch(), Lane: l, First: g.GetFirst(), Last: g.GetLast(), Why: why})
		}
		return false
	}
	span := buffer.Range{First: g.GetFirst(), Last: g.GetLast()}
	u.reached(found)
	switch g.GetVerdict() {
	case telemetrypb.Verdict_VERDICT_STORED:
		u.release(l, span)
	case telemetrypb.Verdict_VERDICT_REJECTED:
		if telemetrypb.IsConflict(g.GetReason()) && u.o.OnConflict != nil {
			u.conflict(r, g, span)
			return true
		}
		u.count.rejected.Add(uint64(g.GetCount()))
		u.o.Log.Error("the store rejects batches", "store", r.GetStore(), "lane", laneName(l), "first", span.First, "last", span.Last, "reason", g.GetReason())
		if u.o.OnRejected != nil { // before the release: a crash between the two counts twice rather than not at all
			u.o.OnRejected(rejection(r, g, found))
		}
		u.release(l, span)
	case telemetrypb.Verdict_VERDICT_PARKED:
		u.count.parked.Add(uint64(g.GetCount()))
		u.mu.Lock()
		u.win.park(l, span, time.Now().Add(u.o.ParkedRetry))
		u.win.trim()
		u.mu.Unlock()
		if want := g.GetWantCatalogue(); len(want) == 16 && u.o.OnWantCatalogue != nil {
			u.o.OnWantCatalogue([16]byte(want))
		}
	default:
		u.count.malformed.Add(1)
		u.o.Log.Warn("a receipt has an unknown verdict; nothing is released", "verdict", int32(g.GetVerdict()))
		return false
	}
	u.settle(l, span)
	return true
}

// verify compares a range with what is held: sent by this process, or by one before it and still in the queue.
func (u *Uplink) verify(l buffer.Lane, g *telemetrypb.ReceiptRange) (found []held, view opinion, why string) {
	first, last := g.GetFirst(), g.GetLast()
	current := g.GetEpoch() == u.queue.Epoch() // a queue may still hold batches of the epoch before
	switch {
	case first == 0 || last < first || last-first >= maxRangeCount:
		return nil, unfounded, "its bounds are impossible"
	case uint64(g.GetCount()) != last-first+1:
		return nil, unfounded, "its count does not fit its bounds"
	case current && last > u.newestCommitted(l):
		return nil, unknown, "it names batches that were never committed"
	}
	var xor uint32
	var read int
	for seq := first; ; seq++ {
		u.mu.Lock()
		h, ok := u.win.held[key{l, seq}]
		u.mu.Unlock()
		if !ok {
			if h, ok = u.readBack(l, seq, &read); !ok && current {
				return nil, stale, ""
			}
		}
		if h.epoch != g.GetEpoch() {
			return nil, elsewhere, ""
		}
		found = append(found, h)
		xor ^= h.crc
		if seq == last {
			break
		}
	}
	if xor != g.GetCrcXor() {
		return nil, unfounded, fmt.Sprintf("its checksum is %08x, ours %08x", g.GetCrcXor(), xor)
	}
	return found, matches, ""
}

// readBack learns of a batch from the queue. ok is false when the queue holds it no more, or when a receipt would make
// us read too much; then the batch is sent, and receipted again.
func (u *Uplink) readBack(l buffer.Lane, seq uint64, read *int) (h held, ok bool) {
	if *read >= maxRangeRead {
		return h, false
	}
	rec, err := u.queue.Next(l, seq)
	if err != nil || rec.Seq != seq {
		return h, false
	}
	*read += len(rec.Bytes)
	p, err := u.open(rec)
	if err != nil {
		return h, false
	}
	return p.held, true
}

// dispute frees nothing: whatever the store has, it is not what we hold.
func (u *Uplink) dispute(r *telemetrypb.Receipt, g *telemetrypb.ReceiptRange, why string) {
	u.count.mismatches.Add(1)
	u.mu.Lock()
	if l := g.GetLane(); l >= 1 && l <= telemetrypb.Lane(lastLane) && g.GetLast() >= g.GetFirst() {
		u.win.lanes[l].disputed.add(g.GetFirst(), g.GetLast())
	}
	u.mu.Unlock()
	u.o.Alarms.Raise(alarmMismatch, fmt.Sprintf("store %q sent a receipt for batches %d…%d of lane %s that does not fit what this vehicle holds: %s; nothing is released. Two vehicles with one device id, or a store restored from elsewhere, are the likely causes",
		r.GetStore(), g.GetFirst(), g.GetLast(), telemetrypb.LaneName(g.GetLane()), why))
}

// Conflict is what a store says of numbers that it has given to other bytes.
type Conflict struct {
	Epoch       uint64
	Lane        buffer.Lane
	First, Last uint64
	Rejected    bool // these are batches of ours that the store has rejected; else ones that it has and we never had
	Why         string
}

// conflict has batches named anew. Until that is done they wait: sent again, they would be rejected again.
func (u *Uplink) conflict(r *telemetrypb.Receipt, g *telemetrypb.ReceiptRange, span buffer.Range) {
	l := buffer.Lane(g.GetLane())
	u.o.Log.Error("the store has other batches under numbers of ours", "store", r.GetStore(), "epoch", fmt.Sprintf("%016x", g.GetEpoch()),
		"lane", laneName(l), "first", span.First, "last", span.Last, "reason", g.GetReason())
	if u.o.OnConflict(Conflict{Epoch: g.GetEpoch(), Lane: l, First: span.First, Last: span.Last, Rejected: true, Why: g.GetReason()}) {
		u.release(l, span)
		return
	}
	u.mu.Lock()
	u.win.park(l, span, time.Now().Add(u.o.ParkedRetry))
	u.win.trim()
	u.mu.Unlock()
}

// settle takes the alarm down when nothing is disputed any more.
func (u *Uplink) settle(l buffer.Lane, span buffer.Range) {
	u.mu.Lock()
	u.win.lanes[l].disputed.remove(span.First, span.Last)
	settled := true
	for i := range u.win.lanes {
		settled = settled && u.win.lanes[i].disputed.empty()
	}
	u.mu.Unlock()
	if settled {
		u.o.Alarms.Clear(alarmMismatch)
	}
}

// rejection is the ledger's entry for batches that the store will never have.
func rejection(r *telemetrypb.Receipt, g *telemetrypb.ReceiptRange, found []held) *telemetrypb.Loss {
	loss := &telemetrypb.Loss{
		Reason: telemetrypb.LossReason_LOSS_REJECTED, Source: "queue", Unit: "samples", Epoch: g.GetEpoch(), Lane: g.GetLane(),
		Seqs:   []*telemetrypb.SeqRange{{First: g.GetFirst(), Last: g.GetLast()}},
		Detail: fmt.Sprintf("store %s: %s", r.GetStore(), g.GetReason()),
	}
	for i, h := range found {
		loss.Count += uint64(h.samples)
		if i == 0 {
			loss.FirstNs, loss.LastNs = h.first, h.last
		}
		loss.FirstNs, loss.LastNs = min(loss.FirstNs, h.first), max(loss.LastNs, h.last)
	}
	return loss
}
