package isotp

// Reason says why a message was not put together, or a frame not used.
type Reason uint8

// The reasons. N_… is what ISO 15765-2 §8.3.7 calls it.
const (
	Sequence    Reason = iota // a consecutive frame was missing or came twice: N_WRONG_SN
	Timeout                   // the next frame did not come within N_Cr: N_TIMEOUT_Cr
	Interrupted               // a new message began in the midst of another: N_UNEXP_PDU
	TooLong                   // longer than MaxMessage: N_BUFFER_OVFLW
	Refused                   // the receiver's flow control said overflow: N_BUFFER_OVFLW
	Unexpected                // a consecutive frame that continues nothing; §9.8.3 has it ignored
	Malformed                 // a frame that §9.6 does not allow
	Evicted                   // more conversations at once than MaxSessions
	reasons
)

var reasonNames = [reasons]string{
	"sequence", "timeout", "interrupted", "too long", "refused", "unexpected", "malformed", "evicted",
}

// String names the reason in a word or two, for counters and logs.
func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return "unknown"
}

// assembly is one message that is being put together. The zero value is idle.
//
//	idle ──first frame──▶ open ──last consecutive frame──▶ idle, with the message in buf
//	                       └──wrong number, short frame, time, a new message──▶ idle, lost
type assembly struct {
	buf   []byte
	want  uint32 // bytes of the whole message
	unit  int    // data bytes of every consecutive frame but the last: those of a frame as long as the first one
	seq   uint8  // the next consecutive frame's number
	open  bool
	first int64 // time of the first frame, ns
	last  int64 // time of the latest frame, ns
}

// begin takes a first frame. The buffer grows with what arrives, not with what is announced.
func (a *assembly) begin(p *pci, size, head int, t int64) {
	a.buf = append(a.buf[:0], p.data...)
	a.want, a.unit, a.seq, a.open = p.length, size-head-1, 1, true
	a.first, a.last = t, t
}

// add takes a consecutive frame of an open message. It answers whether the message is whole now; with ok false it is lost.
func (a *assembly) add(p *pci, t int64) (whole, ok bool, why Reason) {
	rest := int(a.want - uint32(len(a.buf)))
	switch {
	case p.seq != a.seq:
		a.open = false
		return false, false, Sequence
	case len(p.data) < min(rest, a.unit): // §9.6.4.1: only the last may be shorter, and it holds all that is left
		a.open = false
		return false, false, Malformed
	}
	a.buf = append(a.buf, p.data[:min(rest, a.unit, len(p.data))]...)
	a.seq = (a.seq + 1) & 0x0F
	a.last = t
	whole = uint32(len(a.buf)) == a.want
	a.open = !whole
	return whole, true, 0
}
