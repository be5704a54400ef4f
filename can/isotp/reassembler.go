package isotp

import (
	"math"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// Stream is one direction of a conversation that a Reassembler listens to.
type Stream struct {
	Bus  uint8   // as Frame.Bus
	Data Address // where the messages are; with WithTA every address byte is a conversation of its own, TA is not used
	Flow Address // where its receiver sends flow control; ID 0 when that is not known
}

// StandardStreams are the identifiers that ISO 15765-4 gives to the diagnostics of emissions, both directions: 7DF,
// 7E0–7E7 and 7E8–7EF.
func StandardStreams(bus uint8) []Stream {
	streams := []Stream{{Bus: bus, Data: Address{ID: 0x7DF}}}
	for i := range uint32(8) {
		tester, unit := Address{ID: 0x7E0 + i}, Address{ID: 0x7E8 + i}
		streams = append(streams, Stream{Bus: bus, Data: tester, Flow: unit}, Stream{Bus: bus, Data: unit, Flow: tester})
	}
	return streams
}

// ReassemblerOptions are the choices of a Reassembler.
type ReassemblerOptions struct {
	Streams []Stream // that are known
	// Learn finds further conversations: a message of several frames that was flow-controlled from another identifier, and
	// came whole, makes streams of both. Normal addressing only. What was said before is not reported.
	Learn       bool
	MaxMessage  int           // bytes; 0 takes DefaultMaxMessage
	MaxSessions int           // messages at once, and streams learned; 0 takes DefaultMaxSessions
	NCr         time.Duration // by the frames' time; 0 takes DefaultNCr
}

// Message is one message of ISO-TP.
type Message struct {
	Data  []byte // the message; in a Reassembler's answer until its next call
	First int64  // time of the first frame, ns; the frames' own clock
	Last  int64  // time of the last frame, ns
	From  Address
	Bus   uint8
}

// ReassemblerStats are the counts of a Reassembler.
type ReassemblerStats struct {
	Messages uint64          // that came whole, single frames among them
	Single   uint64          // of these, in a single frame
	Flow     uint64          // flow control frames
	Learned  uint64          // streams
	Lost     [reasons]uint64 // by Reason: messages that did not come whole, and frames of no use
}

// Reassembler puts together the messages that others send each other. It holds at most MaxSessions messages of at most
// MaxMessage bytes, and allocates nothing once its conversations have been seen. One goroutine uses it.
type Reassembler struct {
	options  ReassemblerOptions
	streams  map[uint64]*stream // by key(bus, id, format)
	sessions []session
	index    map[uint64]int // key with the address byte → sessions
	guesses  int            // sessions that are guesses
	stats    ReassemblerStats
}

// stream is an identifier that is listened to.
type stream struct {
	withTA bool
	data   bool   // messages are expected here; else flow control only
	flows  uint64 // the key whose messages this identifier's flow control answers; 0 for none
}

// session is one message under way, or the room for the next one.
type session struct {
	assembly
	key   uint64 // with the address byte
	base  uint64 // without
	guess bool   // not known to be ISO-TP: may become a stream
	flow  uint64 // of a guess: who sent the flow control
}

// key numbers an identifier on a bus. It is never 0.
func key(bus uint8, id uint32, extended bool) uint64 {
	k := uint64(bus)<<40 | uint64(id) | 1<<48
	if extended {
		k |= 1 << 29
	}
	return k
}

func withTA(base uint64, ta uint8) uint64 { return base | uint64(ta)<<32 | 1<<49 }

// NewReassembler makes a Reassembler.
func NewReassembler(o ReassemblerOptions) *Reassembler {
	if o.MaxMessage <= 0 {
		o.MaxMessage = DefaultMaxMessage
	}
	if o.MaxSessions <= 0 {
		o.MaxSessions = DefaultMaxSessions
	}
	if o.NCr <= 0 {
		o.NCr = DefaultNCr
	}
	r := &Reassembler{options: o, streams: map[uint64]*stream{}, index: map[uint64]int{}}
	for _, s := range o.Streams {
		data := key(s.Bus, s.Data.ID, s.Data.Extended)
		at := r.stream(data)
		at.data, at.withTA = true, s.Data.WithTA
		if s.Flow.ID != 0 {
			at := r.stream(key(s.Bus, s.Flow.ID, s.Flow.Extended))
			at.flows, at.withTA = data, s.Flow.WithTA
		}
	}
	return r
}

func (r *Reassembler) stream(k uint64) *stream {
	if r.streams[k] == nil {
		r.streams[k] = &stream{}
	}
	return r.streams[k]
}

// Stats returns the counts so far.
func (r *Reassembler) Stats() ReassemblerStats { return r.stats }

// Open is how many messages are under way.
func (r *Reassembler) Open() (n int) {
	for i := range r.sessions {
		if r.sessions[i].open && !r.sessions[i].guess {
			n++
		}
	}
	return n
}

// Expire ends the messages whose next frame is overdue at a time of the frames' clock. Frame does so for the message
// that a frame belongs to; a caller that wants the others counted before their identifier speaks again calls Expire now
// and then.
func (r *Reassembler) Expire(now int64) {
	for i := range r.sessions {
		if s := &r.sessions[i]; s.open && r.overdue(s, now) {
			r.lose(s, Timeout)
		}
	}
}

// Finish ends all messages under way, as at the end of a log. They count as Timeout.
func (r *Reassembler) Finish() { r.Expire(math.MaxInt64) }

// overdue is false for time that goes backwards, as logs have it.
func (r *Reassembler) overdue(s *session, now int64) bool { return now-s.last > int64(r.options.NCr) }

// lose ends a message that will not come whole. A guess that comes to nothing most likely never was a message.
func (r *Reassembler) lose(s *session, why Reason) {
	s.open = false
	if s.guess {
		r.forget(s)
		return
	}
	r.stats.Lost[why]++
}

// Frame takes a frame of any bus and identifier. It answers the message that the frame completes, if it does.
func (r *Reassembler) Frame(f *can.Frame) (m Message, ok bool) {
	if f.Flags&(can.FlagError|can.FlagRemote) != 0 {
		return m, false
	}
	base := key(f.Bus, f.ID, f.Extended())
	known := r.streams[base]
	if known == nil {
		if r.options.Learn {
			return r.guess(f, base)
		}
		return m, false
	}
	k, head := base, 0
	if known.withTA && f.Len > 0 {
		k, head = withTA(base, f.Data[0]), 1
	}
	p, valid := parsePCI(f, head)
	if !valid {
		r.stats.Lost[Malformed]++
		return m, false
	}
	if p.kind == pciFlow {
		r.stats.Flow++
		r.flow(known.flows, known.withTA, &p, f.Time)
		return m, false
	}
	if !known.data {
		r.stats.Lost[Unexpected]++
		return m, false
	}
	return r.data(f, &p, k, base, head)
}

// data takes a frame of a stream that is not flow control (§9.8.3).
func (r *Reassembler) data(f *can.Frame, p *pci, k, base uint64, head int) (m Message, ok bool) {
	var s *session
	if i, found := r.index[k]; found {
		s = &r.sessions[i]
		if s.open && r.overdue(s, f.Time) {
			r.lose(s, Timeout)
		}
	}
	switch p.kind {
	case pciSingle:
		if s != nil && s.open {
			r.lose(s, Interrupted)
		}
		r.stats.Messages++
		r.stats.Single++
		return Message{Data: p.data, First: f.Time, Last: f.Time, From: address(k), Bus: f.Bus}, true
	case pciFirst:
		if s != nil && s.open {
			r.lose(s, Interrupted)
		}
		if uint64(p.length) > uint64(r.options.MaxMessage) {
			r.stats.Lost[TooLong]++
			return m, false
		}
		if s == nil {
			s = r.room(k, base, false)
		}
		s.begin(p, int(f.Len), head, f.Time)
		return m, false
	}
	if s == nil || !s.open {
		r.stats.Lost[Unexpected]++
		return m, false
	}
	whole, fits, why := s.add(p, f.Time)
	if !fits {
		r.stats.Lost[why]++
	}
	if !whole {
		return m, false
	}
	r.stats.Messages++
	return Message{Data: s.buf, First: s.first, Last: s.last, From: address(k), Bus: f.Bus}, true
}

// flow takes flow control for the messages of an identifier: the next frame is not overdue yet, or will not come.
func (r *Reassembler) flow(base uint64, manyTAs bool, p *pci, now int64) {
	for i := range r.sessions {
		s := &r.sessions[i]
		if s.base != base || !s.open || r.overdue(s, now) {
			continue
		}
		// Which of several addresses was refused, the flow control does not say: its address byte is the other one's.
		if p.flow == flowOverflow && !manyTAs {
			r.lose(s, Refused)
			continue
		}
		s.last = max(s.last, now)
	}
}

// address is the inverse of key and withTA.
func address(k uint64) Address {
	return Address{ID: uint32(k & can.MaxExtendedID), Extended: k&(1<<29) != 0, WithTA: k&(1<<49) != 0, TA: uint8(k >> 32)}
}
