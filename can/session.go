package can

// sessionState is where a session stands.
type sessionState uint8

// free ──begin──▶ open ──last frame, drop──▶ free
//
//	open ──giveUp──▶ given up ──timeout, first frame of another message──▶ free
const (
	sessionFree    sessionState = iota
	sessionOpen                 // frames are collected
	sessionGivenUp              // a fast packet that was counted as incomplete; its further frames are ignored
)

// session is one message under way. Its buffer stays when the session ends, for the next one.
type session struct {
	key      uint64
	deadline int64  // when the next frame must have come, ns
	id       uint32 // of the message; of its first frame that came, where they are fast packets
	next     int    // number of the frame that is expected
	last     int    // transport protocol: number of the last packet
	window   int    // transport protocol: number of the last packet that the receiver asked for, 0 before it asks
	data     []byte // as long as the message will be
	state    sessionState
	kind     keyKind
}

// Sizes of the buffers of a session.
const (
	maxFast      = 6 + 31*7 // bytes of a message in fast packets
	maxTransport = 255 * 7  // bytes of a message by the transport protocol
)

// resize gives the session's data their length. There are two capacities only, so that buffers soon fit.
func (s *session) resize(total int) {
	if total > cap(s.data) {
		room := maxFast
		if total > maxFast {
			room = maxTransport
		}
		s.data = make([]byte, room)
	}
	s.data = s.data[:total]
}

// keyKind tells the sessions of one protocol from those of the other.
type keyKind uint8

const (
	keyFast keyKind = iota + 1
	keyTransport
)

// sessionKey makes the key of a session: the protocol, the bus, and 32 bits that the protocol chooses.
func sessionKey(kind keyKind, bus uint8, rest uint32) uint64 {
	return uint64(kind)<<40 | uint64(bus)<<32 | uint64(rest)
}

// sessionTable holds a fixed number of sessions and finds them by key: open addressing with linear probing, at a load of
// at most one half.
type sessionTable struct {
	slots []session
	free  []uint16 // numbers of the free slots; the one freed last is taken first, as its buffer is there already
	index []uint16 // number of the slot + 1; 0: none
	shift uint8    // 64 − log2(len(index))
}

func newSessionTable(size int) sessionTable {
	size = min(size, 1<<15)
	t := sessionTable{slots: make([]session, size), free: make([]uint16, size)}
	for i := range t.free {
		t.free[i] = uint16(size - 1 - i)
	}
	bits := uint8(1)
	for 1<<bits < 2*size {
		bits++
	}
	t.index, t.shift = make([]uint16, 1<<bits), 64-bits
	return t
}

func (t *sessionTable) home(key uint64) int { return int(key * 0x9E3779B97F4A7C15 >> t.shift) }

// get returns the session of a key, or nil.
func (t *sessionTable) get(key uint64) *session {
	mask := len(t.index) - 1
	for i := t.home(key); ; i++ {
		n := t.index[i&mask]
		if n == 0 {
			return nil
		}
		if s := &t.slots[n-1]; s.key == key {
			return s
		}
	}
}

// put opens a session for a key that has none; nil when all are taken.
func (t *sessionTable) put(key uint64) *session {
	if len(t.free) == 0 {
		return nil
	}
	n := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	mask := len(t.index) - 1
	i := t.home(key)
	for t.index[i&mask] != 0 {
		i++
	}
	t.index[i&mask] = n + 1
	s := &t.slots[n]
	*s = session{key: key, state: sessionOpen, kind: keyKind(key >> 40), data: s.data}
	return s
}

// remove frees a session. Those that were probed past it move up, so that no mark of it has to stay.
func (t *sessionTable) remove(s *session) {
	mask := len(t.index) - 1
	gap := t.home(s.key) & mask
	for &t.slots[t.index[gap]-1] != s {
		gap = (gap + 1) & mask
	}
	t.free = append(t.free, t.index[gap]-1)
	s.state = sessionFree
	for i := (gap + 1) & mask; t.index[i] != 0; i = (i + 1) & mask {
		if way := i - t.home(t.slots[t.index[i]-1].key); way&mask >= (i-gap)&mask {
			t.index[gap] = t.index[i]
			gap = i
		}
	}
	t.index[gap] = 0
}
