package can

import (
	"encoding/binary"
	"time"
)

// The transport protocol (SAE J1939-21 §5.10; ISO 11783-3 has the same): messages of 9 to 1,785 bytes in packets of 7. A
// broadcast (BAM) is announced and sent; between two nodes one asks (RTS) and the other lets packets come (CTS), again
// where some were lost, and acknowledges. Who listens hears both sides and answers none.
const (
	formatControl = 0xEC // PDU format of TP.CM, PGN 60416
	formatPacket  = 0xEB // of TP.DT, PGN 60160

	// The first byte of TP.CM (§5.10.3).
	controlRTS   = 16
	controlCTS   = 17
	controlEnd   = 19 // EndOfMsgACK
	controlBAM   = 32
	controlAbort = 255

	globalAddress = 255
	packetBytes   = 7
	minTransport  = MaxClassicLen + 1
)

// Timeouts (SAE J1939-21 §5.10.2.4 and figures; ISO 11783-3 §5.13.3, by those who implement it). They are those of the two ends, and hold as well for who hears
// what the ends hear.
const (
	timeoutT1 = 750 * time.Millisecond  // from a packet to the next one, when more are to come
	timeoutT2 = 1250 * time.Millisecond // from a CTS to the first packet that it asks for
	timeoutT3 = 1250 * time.Millisecond // from the RTS, or the last packet that was asked for, to the CTS
	timeoutT4 = 1050 * time.Millisecond // from a CTS that says wait to the next one

	longestTimeout = timeoutT2
)

// transportKey is that of the session from one address to another.
func transportKey(bus uint8, from, to uint8) uint64 {
	return sessionKey(keyTransport, bus, uint32(from)<<8|uint32(to))
}

// takeControl takes a TP.CM.
func (r *Reassembler) takeControl(f *Frame) {
	data := f.Payload()
	if len(data) != MaxClassicLen {
		return // no TP.CM; a session that wants one ends by its timeout
	}
	from, to := SourceAddress(f.ID), uint8(f.ID>>8)
	group := uint32(data[5]) | uint32(data[6])<<8 | uint32(data[7])<<16
	switch data[0] {
	case controlBAM, controlRTS:
		if (data[0] == controlBAM) == (to == globalAddress) {
			r.beginTransport(f, from, to, group)
		}
	case controlCTS:
		if s := r.transport(f.Bus, to, from, group); s != nil {
			r.clear(s, f.Time, int(data[1]), int(data[2]))
		}
	case controlEnd:
		// The receiver has all of it and this listener has not.
		if s := r.transport(f.Bus, to, from, group); s != nil {
			r.drop(s, ReasonMissing)
		}
	case controlAbort:
		if s := r.transport(f.Bus, from, to, group); s != nil {
			r.drop(s, ReasonAborted)
		}
		if s := r.transport(f.Bus, to, from, group); s != nil {
			r.drop(s, ReasonAborted)
		}
	}
}

// transport returns the session between two nodes if it is of that PGN.
func (r *Reassembler) transport(bus, from, to uint8, group uint32) *session {
	s := r.sessions.get(transportKey(bus, from, to))
	if s == nil || PGN(s.id) != PGN(group<<8) {
		return nil
	}
	return s
}

// beginTransport takes a BAM or an RTS.
func (r *Reassembler) beginTransport(f *Frame, from, to uint8, group uint32) {
	key := transportKey(f.Bus, from, to)
	if s := r.sessions.get(key); s != nil {
		r.drop(s, ReasonReplaced)
	}
	const priority = 7 << 26
	id := f.ID&priority | PGN(group<<8)<<8 | uint32(from)
	if id>>16&0xFF < pduFormatBroadcast {
		id |= uint32(to) << 8
	}
	if m := r.plan.lookupExtended(id); m == nil || !m.long {
		return
	}
	total, packets := int(binary.LittleEndian.Uint16(f.Data[1:])), int(f.Data[3])
	if total < minTransport || packets != (total+packetBytes-1)/packetBytes {
		r.missed(id, ReasonMalformed)
		return
	}
	timeout := timeoutT1
	if to != globalAddress {
		timeout = timeoutT3
	}
	s := r.begin(key, id, f.Time, timeout, total)
	s.next, s.last = 1, packets
	if to == globalAddress {
		s.window = packets
	}
}

// clear takes a CTS: the receiver wants so many packets, from next on; 0 packets tell the sender to wait.
func (r *Reassembler) clear(s *session, now int64, packets, next int) {
	switch {
	case packets == 0:
		r.extend(s, now, timeoutT4)
	case next == 0 || next > s.last:
		r.drop(s, ReasonMalformed)
	case next > s.next: // the receiver has packets that did not come here
		r.drop(s, ReasonMissing)
	default: // next below s.next: those packets come again
		s.next, s.window = next, min(next+packets-1, s.last)
		r.extend(s, now, timeoutT2)
	}
}

// takePacket takes a TP.DT. It does not name its PGN: without a session it may be of any.
func (r *Reassembler) takePacket(f *Frame) *Assembled {
	s := r.sessions.get(transportKey(f.Bus, SourceAddress(f.ID), uint8(f.ID>>8)))
	data := f.Payload()
	if s == nil || len(data) == 0 {
		return nil
	}
	number := int(data[0])
	at := packetBytes * (number - 1)
	switch {
	case number > s.next:
		r.drop(s, ReasonMissing)
		return nil
	case number < s.next:
		r.drop(s, ReasonOutOfOrder)
		return nil
	case len(data)-1 < min(packetBytes, len(s.data)-at):
		r.drop(s, ReasonMalformed)
		return nil
	}
	copy(s.data[at:], data[1:])
	if number == s.last {
		return r.complete(s, s.id, f)
	}
	s.next++
	timeout := timeoutT1
	if number >= s.window {
		timeout = timeoutT3
	}
	r.extend(s, f.Time, timeout)
	return nil
}
