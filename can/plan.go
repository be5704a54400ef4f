package can

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Subscription asks for one signal of one message.
type Subscription struct {
	ID      uint32   // what its samples carry: the signal's id in the catalogue
	Message *Message // required
	Signal  *Signal  // one of Message.Signals; nil lets the plan know the message without decoding anything of it

	// OnChange allows Changes to leave out a sample that has the same bits as the one before it. Refresh is the age at
	// which it comes all the same, counted from its message's last decoding; 0: none.
	OnChange bool
	Refresh  time.Duration
}

// PlanOptions are the choices of a Plan.
type PlanOptions struct {
	// J1939 compares every extended message by its PGN, and not only those that are J1939 by their attributes.
	J1939 bool
}

// Counters say what a Plan could not decode. They may be read while it works.
type Counters struct {
	Short   atomic.Uint64 // frames that ended before a subscribed signal that was active in them
	Unknown atomic.Uint64 // data frames with an identifier that was not subscribed: no loss; TP frames are among them
	Error   atomic.Uint64 // error frames
	Remote  atomic.Uint64 // remote frames
}

// Plan turns the frames of one bus into samples of the subscribed signals. It is made once by Compile and then only read,
// but for its counters: Decode and Match are safe for use from several goroutines.
type Plan struct {
	Counters Counters

	standard [MaxStandardID + 1]uint16 // number of the message + 1
	extended idTable                   // by whole identifier
	groups   idTable                   // by PGN
	fast     idTable                   // PGNs of which a message comes in fast packets
	long     bool                      // a message may come by the transport protocol
	messages []planMessage
	warnings []Warning
}

// planMessage is what is decoded of one message.
type planMessage struct {
	plain    []operation // of the signals that are always there
	guarded  []segment   // of the multiplexed ones
	quick    []quick     // those of plain, when there is nothing else and each needs but eight bytes of a frame and a shift
	need     int         // bytes that a frame must have for quick; beyond every frame where quick does not serve
	wide     bool        // one of quick lies beyond the first eight bytes
	long     bool        // longer than a classic frame and J1939: may come by the transport protocol
	fast     bool        // its classic frames are fast packets
	most     int         // samples at most
	number   uint16      // its place in Plan.messages
	nextPGN  uint16      // number + 1 of the next message with the same PGN
	j1939    bool
	id       uint32
	extended bool
	message  *Message
	watch    watch
}

// segment is what hangs on one multiplexor value.
type segment struct {
	guard      *guard
	operations []operation
}

// guard holds when its parent holds and the multiplexor's raw value lies in one of the ranges.
type guard struct {
	parent *guard
	read   operation
	ranges []MuxRange
}

// guardKey tells which signals share a guard: those that hang on the same values of the same multiplexor.
type guardKey struct {
	multiplexor *Signal
	ranges      string
}

// Compile makes a plan of the subscriptions. Where two messages with one identifier are subscribed, the first counts;
// what had to be left out stands in Warnings.
func Compile(subscriptions []Subscription, o PlanOptions) *Plan {
	p := &Plan{}
	numbers := map[*Message]int{}
	guards := map[guardKey]int{} // number of the segment within its message
	for _, sub := range subscriptions {
		if sub.Message == nil {
			p.warn(nil, "subscription %d names no message", sub.ID)
			continue
		}
		number, known := numbers[sub.Message]
		if !known {
			number = p.add(sub.Message, o.J1939)
			numbers[sub.Message] = number
		}
		if number < 0 || sub.Signal == nil {
			continue
		}
		p.messages[number].subscribe(p, sub, guards)
	}
	for i := range p.messages {
		m := &p.messages[i]
		m.finish()
	}
	return p
}

// Warnings are what Compile left out or guessed; lines are those of the DBC files.
func (p *Plan) Warnings() []Warning { return slices.Clone(p.warnings) }

func (p *Plan) warn(m *Message, format string, args ...any) {
	w := Warning{Severity: SeverityWarning, Text: fmt.Sprintf(format, args...)}
	if m != nil {
		w.Line = m.Line
	}
	p.warnings = append(p.warnings, w)
}

// add gives a message its place in the tables and returns its number, -1 when another message has its identifier.
func (p *Plan) add(m *Message, allJ1939 bool) int {
	const most = 1<<16 - 2
	number := len(p.messages)
	if number > most {
		p.warn(m, "%s: a plan holds %d messages", m.Name, most)
		return -1
	}
	entry := planMessage{message: m, id: m.ID, number: uint16(number), extended: m.Extended, j1939: m.Extended && (m.J1939 || allJ1939)}
	var before uint16
	if m.Extended {
		before, _ = p.extended.get(m.ID & MaxExtendedID)
	} else {
		before = p.standard[m.ID&MaxStandardID]
	}
	if before != 0 {
		p.warn(m, "%s has the identifier %#x of %s and is left out", m.Name, m.ID, p.messages[before-1].message.Name)
		return -1
	}
	if !m.Extended {
		p.standard[m.ID&MaxStandardID] = uint16(number + 1)
	} else {
		p.extended.put(m.ID&MaxExtendedID, uint16(number+1))
	}
	p.messages = append(p.messages, entry)
	if entry.j1939 {
		p.addPGN(number)
	}
	return number
}

// addPGN puts a message behind those that have the same PGN.
func (p *Plan) addPGN(number int) {
	entry := &p.messages[number]
	m := entry.message
	if m.Length > MaxClassicLen {
		entry.long, p.long = true, true
		if entry.fast = hasFastPackets(m.ID); entry.fast {
			p.fast.put(PGN(m.ID), 1)
		}
	}
	first, ok := p.groups.get(PGN(m.ID))
	if !ok {
		p.groups.put(PGN(m.ID), uint16(number+1))
		return
	}
	p.warn(m, "%s and %s have the same PGN %d; the source address decides, else the first", m.Name, p.messages[first-1].message.Name, PGN(m.ID))
	last := &p.messages[first-1]
	for last.nextPGN != 0 {
		last = &p.messages[last.nextPGN-1]
	}
	last.nextPGN = uint16(number + 1)
}

// subscribe compiles one signal.
func (m *planMessage) subscribe(p *Plan, sub Subscription, guards map[guardKey]int) {
	s := sub.Signal
	if s.Unreachable {
		p.warn(m.message, "%s.%s has no multiplexor that could be read and is left out", m.message.Name, s.Name)
		return
	}
	room := m.room()
	op, ok := compileSignal(s, sub.ID, room)
	if !ok {
		p.warn(m.message, "%s.%s lies beyond the %d bytes that can come and is left out", m.message.Name, s.Name, room)
		return
	}
	if s.Multiplexor == nil {
		m.watch.add(sub)
		m.plain = append(m.plain, op)
		return
	}
	key := guardKey{s.Multiplexor, fmt.Sprint(s.Ranges)}
	if i, known := guards[key]; known {
		m.watch.add(sub)
		m.guarded[i].operations = append(m.guarded[i].operations, op)
		return
	}
	g, ok := compileGuard(s, room)
	if !ok {
		p.warn(m.message, "%s.%s hangs on a multiplexor beyond the %d bytes that can come and is left out", m.message.Name, s.Name, room)
		return
	}
	m.watch.add(sub)
	guards[key] = len(m.guarded)
	m.guarded = append(m.guarded, segment{guard: g, operations: []operation{op}})
}

// room is the number of bytes that the message can have at most.
func (m *planMessage) room() int {
	if m.long {
		return maxTransport
	}
	return MaxLen
}

// part reports whether a frame of the message is but a part of it: a fast packet, which the Reassembler takes.
func (m *planMessage) part(f *Frame) bool {
	return m.fast && f.Len <= MaxClassicLen && f.Flags&FlagFD == 0
}

// finish counts, and packs the operations of a message that is decoded the quick way: nearly every one of nearly every bus.
func (m *planMessage) finish() {
	m.most = len(m.plain)
	for _, s := range m.guarded {
		m.most += len(s.operations)
	}
	m.need = MaxLen + 1
	need := 0
	for _, o := range m.plain {
		q, ok := o.quick()
		if !ok {
			return
		}
		m.quick = append(m.quick, q)
		m.wide = m.wide || o.need > 8
		need = max(need, int(o.need))
	}
	if len(m.guarded) == 0 && !m.fast {
		m.need = need
	}
}

// compileGuard makes the guard of a multiplexed signal, and of what its multiplexor hangs on.
func compileGuard(s *Signal, room int) (*guard, bool) {
	read, ok := compileSignal(s.Multiplexor, 0, room)
	if !ok {
		return nil, false
	}
	g := &guard{read: read, ranges: s.Ranges}
	if s.Multiplexor.Multiplexor != nil {
		if g.parent, ok = compileGuard(s.Multiplexor, room); !ok {
			return nil, false
		}
	}
	return g, true
}

// Match returns the message that a frame is decoded by, nil when none is subscribed, the frame is no data frame, or it is
// but a part of a message (see Reassembler).
func (p *Plan) Match(f *Frame) *Message {
	if f.Flags&(FlagError|FlagRemote) != 0 {
		return nil
	}
	if m := p.lookup(f); m != nil && !m.part(f) {
		return m.message
	}
	return nil
}

// MatchAssembled returns the message that an assembled payload is decoded by, nil when none is subscribed.
func (p *Plan) MatchAssembled(a *Assembled) *Message {
	if m := p.lookupExtended(a.ID); m != nil {
		return m.message
	}
	return nil
}

// Assembles reports whether a message with this identifier is put together by a Reassembler of the plan when it comes in
// several frames.
func (p *Plan) Assembles(id uint32) bool {
	m := p.lookupExtended(id)
	return m != nil && m.long
}

// lookup finds a data frame's message: by the whole identifier, else by PGN, and there by the source address, else the
// first.
func (p *Plan) lookup(f *Frame) *planMessage {
	if f.Flags&FlagExtended == 0 {
		if n := p.standard[f.ID&MaxStandardID]; n != 0 {
			return &p.messages[n-1]
		}
		return nil
	}
	return p.lookupExtended(f.ID)
}

func (p *Plan) lookupExtended(id uint32) *planMessage {
	if n, ok := p.extended.get(id); ok {
		return &p.messages[n-1]
	}
	n, ok := p.groups.get(PGN(id))
	if !ok {
		return nil
	}
	first := &p.messages[n-1]
	for m := first; ; m = &p.messages[m.nextPGN-1] {
		if SourceAddress(m.id) == SourceAddress(id) {
			return m
		}
		if m.nextPGN == 0 {
			return first
		}
	}
}

// Decode appends the samples of the subscribed signals that are active in the frame, in no order to rely on. Signals
// beyond a short frame's end are left out and the frame is counted. A frame that is but a part of a message has no
// samples: hand every frame to a Reassembler as well. Nothing is allocated once dst has room.
func (p *Plan) Decode(f *Frame, dst []telemetrypb.Sample) []telemetrypb.Sample {
	var m *planMessage
	switch {
	case f.Flags&(FlagError|FlagRemote|FlagExtended) == 0: // nearly all: without a call
		if n := p.standard[f.ID&MaxStandardID]; n != 0 {
			m = &p.messages[n-1]
		}
	case f.Flags&FlagError != 0:
		p.Counters.Error.Add(1)
		return dst
	case f.Flags&FlagRemote != 0:
		p.Counters.Remote.Add(1)
		return dst
	default:
		m = p.lookup(f)
	}
	if m == nil {
		p.Counters.Unknown.Add(1)
		return dst
	}
	if int(f.Len) < m.need {
		if m.part(f) {
			return dst
		}
		return m.decodeOther(p, f.Data[:], int(f.Len), f.Time, dst)
	}
	base := len(dst)
	dst = slices.Grow(dst, len(m.quick))[:base+len(m.quick)]
	if m.wide {
		decodeWide(m.quick, f, dst[base:])
	} else {
		decodeQuick(m.quick, f, dst[base:])
	}
	return dst
}

// DecodeAssembled appends the samples of the subscribed signals that are active in an assembled payload, like Decode.
func (p *Plan) DecodeAssembled(a *Assembled, dst []telemetrypb.Sample) []telemetrypb.Sample {
	m := p.lookupExtended(a.ID)
	if m == nil {
		return dst
	}
	return m.decodeOther(p, a.Data, len(a.Data), a.Time, dst)
}

// Filter is a kernel filter: a frame passes when its identifier with flag bits equals ID in the bits of Mask.
type Filter struct{ ID, Mask uint32 }

// Pass reports whether the filter lets a frame through, as the kernel decides it. Error frames have a filter of their own.
func (f Filter) Pass(frame *Frame) bool {
	id := frame.ID
	if frame.Extended() {
		id |= flagEFF
	}
	if frame.Flags&FlagRemote != 0 {
		id |= flagRTR
	}
	return id&f.Mask == f.ID&f.Mask
}

// MaxFilters is what the kernel takes of one socket (CAN_RAW_FILTER_MAX in linux/can/raw.h).
const MaxFilters = 512

// Filters are the kernel filters that let just the plan's frames pass, with those of the transport protocol where one of
// its messages may come by it; nil when they would be too many, and then everything has to pass.
func (p *Plan) Filters() []Filter {
	filters := make([]Filter, 0, len(p.messages))
	seen := map[Filter]bool{}
	for i := range p.messages {
		m := &p.messages[i]
		const exact = flagEFF | flagRTR
		f := Filter{ID: m.id, Mask: MaxStandardID | exact}
		switch {
		case m.j1939:
			mask := pgnMask(m.id)
			f = Filter{ID: m.id&mask | flagEFF, Mask: mask | exact}
		case m.extended:
			f = Filter{ID: m.id | flagEFF, Mask: MaxExtendedID | exact}
		}
		if !seen[f] {
			seen[f] = true
			filters = append(filters, f)
		}
	}
	if p.long {
		const mask = 0x3FF0000 | flagEFF | flagRTR
		filters = append(filters, Filter{ID: formatControl<<16 | flagEFF, Mask: mask}, Filter{ID: formatPacket<<16 | flagEFF, Mask: mask})
	}
	if len(filters) > MaxFilters {
		return nil
	}
	return filters
}
