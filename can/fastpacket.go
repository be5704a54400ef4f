package can

import "time"

// Fast packets of NMEA 2000 (IEC 61162-3): a message of up to 223 bytes in classic frames of its own PGN. The first byte
// of each has three bits that tell the sender's messages apart and a frame counter of five; the second byte of frame 0 is
// the length. Nobody acknowledges them.
const (
	fastCounter = 0x1F // bits of the first byte: number of the frame
	fastFirst   = 6    // bytes of the message in frame 0
	fastOther   = 7    // in every other one
)

// timeoutFast is the longest time between two frames of a message: that of a broadcast by the transport protocol (T1).
const timeoutFast = 750 * time.Millisecond

// hasFastPackets reports whether messages longer than a frame come in fast packets under an identifier. NMEA 2000 has
// them on data page 1 only; on data page 0 a single frame is a message that happens to be short, such as a DM1 with one
// trouble code.
func hasFastPackets(id uint32) bool { return id>>24&3 == 1 }

// takeFast takes a frame of a subscribed message in fast packets.
func (r *Reassembler) takeFast(f *Frame) *Assembled {
	data := f.Payload()
	if len(data) == 0 {
		return nil // of which message it would be a part cannot be told
	}
	const withoutPriority = 1<<26 - 1
	key := sessionKey(keyFast, f.Bus, f.ID&withoutPriority<<3|uint32(data[0]>>5))
	s, counter := r.sessions.get(key), int(data[0]&fastCounter)
	if counter == 0 {
		if s != nil {
			r.drop(s, ReasonReplaced)
		}
		return r.beginFast(key, f)
	}
	if s == nil {
		s = r.begin(key, f.ID, f.Time, timeoutFast, 0)
		r.giveUp(s, ReasonNoBeginning, counter+1)
		return nil
	}
	r.extend(s, f.Time, timeoutFast)
	switch {
	case s.state == sessionGivenUp && counter >= s.next:
		s.next = counter + 1
		return nil
	case s.state == sessionGivenUp: // the counter began anew, in a frame that did not come
		s.state = sessionOpen
		r.giveUp(s, ReasonNoBeginning, counter+1)
		return nil
	case counter > s.next:
		r.giveUp(s, ReasonMissing, counter+1)
		return nil
	case counter < s.next:
		r.giveUp(s, ReasonOutOfOrder, counter+1)
		return nil
	}
	at := fastFirst + fastOther*(counter-1)
	if len(data)-1 < min(fastOther, len(s.data)-at) {
		r.giveUp(s, ReasonMalformed, counter+1)
		return nil
	}
	copy(s.data[at:], data[1:])
	s.next++
	if at+fastOther >= len(s.data) {
		return r.complete(s, f.ID, f)
	}
	return nil
}

// beginFast takes frame 0, which may be all there is.
func (r *Reassembler) beginFast(key uint64, f *Frame) *Assembled {
	data := f.Payload()
	total := 0
	if len(data) > 1 {
		total = int(data[1])
	}
	s := r.begin(key, f.ID, f.Time, timeoutFast, min(total, maxFast))
	if total == 0 || total > maxFast || len(data)-2 < min(fastFirst, total) {
		r.giveUp(s, ReasonMalformed, 1)
		return nil
	}
	copy(s.data, data[2:])
	s.next = 1
	if total <= fastFirst {
		return r.complete(s, f.ID, f)
	}
	return nil
}

// giveUp counts a message as incomplete and keeps its session, so that its further frames, from next on, are known for
// what they are.
func (r *Reassembler) giveUp(s *session, why Reason, next int) {
	r.missed(s.id, why)
	s.state, s.next = sessionGivenUp, next
}
