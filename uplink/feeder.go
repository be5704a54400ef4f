package uplink

import (
	"fmt"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// feed packs and publishes until the session is over. Publish may wait; the goroutine that watches for the loss is
// another.
func (s *session) feed() {
	defer s.u.tasks.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		f, topic, payload, wait := s.next()
		if f == nil {
			var due <-chan time.Time
			if wait > 0 {
				timer.Reset(wait)
				due = timer.C
			}
			select {
			case <-s.done:
				return
			case <-s.wake:
			case <-s.u.queue.Notify():
			case <-due:
			}
			continue
		}
		select {
		case <-s.wrote:
		default:
		}
		s.lane.Store(int32(f.lane))
		if f.request {
			s.lane.Store(int32(bulk))
		}
		s.fill(f.lossy)
		f.token = s.client.Publish(topic, 1, f.lane == 0 && !f.request, payload)
		select {
		case s.fifo <- f:
		case <-s.done:
			return
		}
		// One packet at a time: a packet that waited inside Publish would hold this goroutine for the whole write
		// timeout after the link is gone, and could not be overtaken by an event.
		select {
		case <-s.wrote:
		case <-s.done:
			return
		}
	}
}

// ack takes the publishes in order and waits for their PUBACKs.
func (s *session) ack() {
	defer s.u.tasks.Done()
	timer := time.NewTimer(s.u.o.AckTimeout)
	defer timer.Stop()
	heard := time.Now() // the last PUBACK
	for {
		var f *flight
		select {
		case f = <-s.fifo:
		case <-s.done:
			return
		}
		wait := max(s.u.o.AckTimeout-time.Since(heard), s.u.o.AckTimeout/2)
		timer.Reset(wait)
		select {
		case <-f.token.Done():
			if err := f.token.Error(); err != nil {
				s.link.Load().kill(fmt.Errorf("publish: %w", err))
				return
			}
			heard = time.Now()
			s.u.acked(s, f)
		case <-timer.C:
			s.link.Load().kill(fmt.Errorf("%w: %s waited for", errNoPuback, wait.Round(time.Second)))
			return
		case <-s.done:
			return
		}
	}
}

// next decides what is published now; nil: nothing, until something happens or, where wait is above 0, so much later.
func (s *session) next() (f *flight, topic string, payload []byte, wait time.Duration) {
	if s.stopping.Load() {
		return nil, "", nil, 0
	}
	now := time.Now()
	if s.room(now, telemetrypb.Lane_LANE_CONTROL, false).free && s.u.statusDue(now) {
		payload = s.u.status(true, "")
		f = &flight{bytes: len(payload)}
		if !s.launch(f, nil) {
			return nil, "", nil, 0
		}
		return f, s.u.topic(telemetrypb.TopicStatus), payload, 0
	}
	full, asked := false, false
	for _, c := range drainOrder() {
		if c.part != whole && !asked {
			if f, payload = s.nextRequest(now); f != nil {
				return f, s.u.topic(telemetrypb.TopicRequest), payload, 0
			}
			// A suspect before the mass: what breaks connections holds up the rest until it is known.
			if asked = true; s.u.suspectDue(now) {
				if !s.idle(false) {
					return nil, "", nil, 0
				}
				if f, payload = s.load(s.u.gatherSuspect(now), true); f != nil {
					return f, s.u.topic(telemetrypb.TopicLane(telemetrypb.Lane(f.lane))), payload, 0
				}
			}
		}
		if !s.u.allowed(c.lane) {
			continue
		}
		r := s.room(now, c.lane, c.part == backlog)
		if !r.free {
			full, wait = full || r.full, max(wait, r.wait) // where it is not 0, it is the same for each
			continue
		}
		if f, payload = s.load(s.u.gather(c, r.payload), false); f != nil {
			return f, s.u.topic(telemetrypb.TopicLane(c.lane)), payload, 0
		}
	}
	if s.idle(full); !full {
		s.fill(false)
	}
	return nil, "", nil, wait
}

// fill makes segments full, or sends what there is. Where packets are lost, TCP's window counts in them, and bytes that a
// segment could have had are lost to the rate; elsewhere it holds payloads back for nothing.
func (s *session) fill(on bool) {
	if on != s.filling {
		s.filling = on
		s.u.wire.cork(on)
	}
}

// load turns packed parcels into a flight.
func (s *session) load(cargo *load, alone bool) (*flight, []byte) {
	if cargo == nil || len(cargo.parcels) == 0 {
		return nil, nil
	}
	l := cargo.parcels[0].key.lane
	payload, err := cargo.encode(s.u.o.Format(telemetrypb.Lane(l)) == FormatJSON)
	if err != nil { // text that JSON cannot carry: the batches go as they are
		s.u.o.Log.Warn("payload goes in columns", "lane", laneName(l), "error", err)
		s.u.count.unrendered.Add(uint64(len(cargo.parcels)))
		for i := range cargo.parcels {
			cargo.parcels[i].plain = nil
		}
		if payload, err = cargo.encode(false); err != nil {
			s.u.o.Log.Error("payload cannot be made", "lane", laneName(l), "error", err)
			return nil, nil
		}
	}
	f := &flight{lane: l, bytes: len(payload), alone: alone, large: cargo.large, weight: cargo.size}
	for i := range cargo.parcels {
		f.seqs = append(f.seqs, cargo.parcels[i].key.seq)
	}
	if !s.launch(f, cargo.parcels) {
		if f.large {
			s.u.untried(l)
		}
		return nil, nil
	}
	return f, payload
}

// launch notes a flight before it is published: its receipt may be faster than Publish returns.
func (s *session) launch(f *flight, parcels []parcel) bool {
	u := s.u
	u.mu.Lock()
	defer u.mu.Unlock()
	if s.dead || s.stopping.Load() {
		return false
	}
	for i := range parcels {
		h := parcels[i].held
		h.flight = f
		if t, late := u.win.tardy[parcels[i].key]; late {
			if f.tries = max(f.tries, t.tries); f.since.IsZero() || t.since.Before(f.since) {
				f.since = t.since
			}
		}
		if u.win.hold(parcels[i].key, h) {
			u.count.resent.Add(1)
		}
		u.count.batchesSent.Add(1)
	}
	f.mark, f.lossy = s.budget.launched(time.Now(), s.flyingBytes), s.budget.lossy
	s.flying = append(s.flying, f)
	s.flyingBytes += f.bytes
	if f.lane != 0 {
		u.launchedLocked(f)
		u.count.payloads.Add(1)
	}
	return true
}

// room is what may be published now.
type room struct {
	free    bool
	full    bool          // it is the link that has enough, and nothing else
	wait    time.Duration // until a full link has less; 0: until a PUBACK
	payload int           // bytes of a payload
}

// room says whether a publish may go now; lane 0 is a request, which no receipt is awaited for. Control and events have two places of their own, beside the budget, so that
// they never stand behind the backlog; a suspect flies alone.
func (s *session) room(now time.Time, l telemetrypb.Lane, old bool) (r room) {
	u := s.u
	u.mu.Lock()
	defer u.mu.Unlock()
	r.payload = min(u.limitLocked(), s.budget.payload())
	places, bytes := u.o.InFlight, u.o.InFlightBytes
	urgent := l != 0 && l <= telemetrypb.Lane_LANE_EVENT
	if urgent {
		places, bytes = places+2, bytes+2*u.o.PayloadBytes
	}
	reserved := 2
	for _, f := range s.flying {
		if f.alone {
			return r
		}
		if f.lane <= buffer.Lane(telemetrypb.Lane_LANE_EVENT) && !f.request {
			reserved--
		}
	}
	if len(s.flying) >= places || l != 0 && u.o.Ack == AckReceipt && u.win.full(buffer.Lane(l), old, u.o.UnreceiptedCount, u.o.UnreceiptedBytes) {
		return r
	}
	if len(s.flying) > 0 && s.flyingBytes+r.payload > bytes {
		r.full = true
		return r
	}
	if urgent && reserved > 0 {
		r.free = true
		return r
	}
	r.free, r.wait = s.budget.room(now, r.payload, s.flying)
	r.full = !r.free
	return r
}

// idle says whether nothing is in flight. Where the link is not full, it notes that there was nothing to fill it with.
func (s *session) idle(full bool) bool {
	s.u.mu.Lock()
	defer s.u.mu.Unlock()
	if !full {
		s.budget.ranDry(s.flyingBytes)
	}
	return len(s.flying) == 0
}
