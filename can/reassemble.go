package can

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Assembled is a whole message that came in several frames.
type Assembled struct {
	ID   uint32 // as one frame would have it: priority, PGN, destination where the PGN has one, source address
	Time int64  // of the last frame, as in Frame.Time
	Bus  uint8
	Data []byte // valid until the next Take
}

// Reason is why a message that had begun was not assembled.
type Reason uint8

// The reasons.
const (
	ReasonTimeout     Reason = iota // its next frame did not come in time
	ReasonMissing                   // a frame was skipped
	ReasonOutOfOrder                // a frame came again, or too late
	ReasonNoBeginning               // frames of it came, but not the first
	ReasonReplaced                  // its sender began another one in its place
	ReasonAborted                   // one of the two ends broke it off
	ReasonMalformed                 // lengths or numbers in it contradict each other
	ReasonCrowded                   // more messages were under way than there are sessions
	ReasonEnded                     // the reading ended in the middle of it
	reasons
)

func (r Reason) String() string {
	texts := [reasons]string{
		"the next frame did not come in time", "a frame is missing", "a frame came out of order", "the first frame is missing",
		"replaced by another one of its sender", "aborted on the bus", "malformed", "too many messages at once",
		"the reading ended in it",
	}
	if r < reasons {
		return texts[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Incomplete counts, by Reason, the subscribed messages that began and were not assembled. It may be read while a
// Reassembler works.
type Incomplete [reasons]atomic.Uint64

// Drain hands each count above 0 to report and sets it to 0.
func (i *Incomplete) Drain(report func(why Reason, messages uint64)) {
	for why := range i {
		if n := i[why].Load(); n > 0 {
			i[why].Add(-n)
			report(Reason(why), n)
		}
	}
}

// ReassemblerOptions are the choices of a Reassembler.
type ReassemblerOptions struct {
	Sessions int // messages that may be under way at once, each up to 1,785 bytes; 0 takes 128

	// OnIncomplete, if set, hears of each message that began and was not assembled, in place of Reassembler.Incomplete.
	// id is as in Assembled.
	OnIncomplete func(id uint32, why Reason)
}

// Reassembler puts messages together that come in several frames: by the transport protocol of J1939, listened to and
// never answered, and in the fast packets of NMEA 2000. It takes those that its plan subscribes and no others. It has one
// owner; only Incomplete may be used from other goroutines.
//
// The clock is that of the frames: no time passes where they have none. A clock that was set back by more than any
// timeout ends all sessions.
type Reassembler struct {
	Incomplete Incomplete

	plan     *Plan
	missed   func(id uint32, why Reason) // counts an incomplete message
	sessions sessionTable
	due      int64 // no session is due before, ns
	latest   int64 // time of the latest frame, ns
	done     Assembled
}

// NewReassembler makes one for the frames of one bus, or of several that are told apart by Frame.Bus.
func NewReassembler(p *Plan, o ReassemblerOptions) *Reassembler {
	if o.Sessions <= 0 {
		o.Sessions = 128
	}
	r := &Reassembler{plan: p, missed: o.OnIncomplete}
	if r.missed == nil {
		r.missed = func(_ uint32, why Reason) { r.Incomplete[why].Add(1) }
	}
	if p.long {
		r.sessions = newSessionTable(o.Sessions)
	}
	return r
}

// Take looks at a frame, any frame, and returns the message that it completes, or nil. The message is valid until the
// next call. Nothing is allocated once the sessions have their buffers.
func (r *Reassembler) Take(f *Frame) *Assembled {
	if !r.plan.long || f.Flags != FlagExtended || f.Len > MaxClassicLen {
		return nil
	}
	if f.Time >= r.due || f.Time < r.latest-int64(longestTimeout) {
		r.expire(f.Time)
	}
	r.latest = f.Time
	switch f.ID >> 16 & 0x3FF {
	case formatControl:
		r.takeControl(f)
		return nil
	case formatPacket:
		return r.takePacket(f)
	}
	if _, ok := r.plan.fast.get(PGN(f.ID)); !ok {
		return nil
	}
	if m := r.plan.lookupExtended(f.ID); m == nil || !m.fast {
		return nil
	}
	return r.takeFast(f)
}

// End drops every message under way and counts it: the bus is gone, or the log is at its end.
func (r *Reassembler) End() {
	for i := range r.sessions.slots {
		if s := &r.sessions.slots[i]; s.state != sessionFree {
			r.drop(s, ReasonEnded)
		}
	}
}

// drop ends a session. It is counted unless it had been before.
func (r *Reassembler) drop(s *session, why Reason) {
	if s.state == sessionOpen {
		r.missed(s.id, why)
	}
	r.sessions.remove(s)
}

// begin opens a session for the message of an identifier, of so many bytes. When all are taken, the one that is due first has to go, one
// that is given up before one that may still be completed.
func (r *Reassembler) begin(key uint64, id uint32, now int64, timeout time.Duration, total int) *session {
	s := r.sessions.put(key)
	if s == nil {
		first := &r.sessions.slots[0]
		for i := range r.sessions.slots {
			if s := &r.sessions.slots[i]; s.state > first.state || s.state == first.state && s.deadline < first.deadline {
				first = s
			}
		}
		r.drop(first, ReasonCrowded)
		s = r.sessions.put(key)
	}
	s.id = id
	s.resize(total)
	r.extend(s, now, timeout)
	return s
}

// extend sets the time at which the next frame of a session must have come.
func (r *Reassembler) extend(s *session, now int64, timeout time.Duration) {
	s.deadline = now + int64(timeout)
	r.due = min(r.due, s.deadline)
}

// complete ends a session whose message is whole.
func (r *Reassembler) complete(s *session, id uint32, f *Frame) *Assembled {
	r.done = Assembled{ID: id, Time: f.Time, Bus: f.Bus, Data: s.data}
	r.sessions.remove(s)
	return &r.done
}

// expire ends the sessions that are due, and finds out when the next one will be.
func (r *Reassembler) expire(now int64) {
	back := now < r.latest-int64(longestTimeout)
	r.due = 1<<63 - 1
	for i := range r.sessions.slots {
		s := &r.sessions.slots[i]
		switch {
		case s.state == sessionFree:
		case !back && now < s.deadline:
			r.due = min(r.due, s.deadline)
		case !back && s.state == sessionOpen && s.kind == keyFast:
			// Its late frames are to count no second time.
			r.giveUp(s, ReasonTimeout, s.next)
			r.extend(s, now, timeoutFast)
		default:
			r.drop(s, ReasonTimeout)
		}
	}
}
