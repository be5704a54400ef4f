package httpin

import "sync"

// deviceRequests is how many requests one device may have under way. A vehicle waits for the answer to one.
const deviceRequests = 4

// shares bound what requests under way hold, all together and each sender by itself: who sends slowly, or much, or both,
// leaves the half to others. They are safe for use from several goroutines.
type shares struct {
	requests int   // all together
	bytes    int64 // all together

	mu      sync.Mutex // guards what follows
	all     share
	senders map[string]*share // of those with a request under way
}

type share struct {
	requests int
	bytes    int64
}

func newShares(requests int, bytes int64) *shares {
	return &shares{requests: requests, bytes: bytes, senders: map[string]*share{}}
}

// begin takes a place for a request; most bounds those of this sender. mine says that this sender has too many.
func (s *shares) begin(sender string, most int) (ok, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.senders[sender]
	if h != nil && h.requests >= most {
		return false, true
	}
	if s.all.requests >= s.requests {
		return false, false
	}
	if h == nil {
		h = &share{}
		s.senders[sender] = h
	}
	h.requests++
	s.all.requests++
	return true, false
}

// hold adds bytes to a request under way, or takes them off, and says whether they have room. They count either way.
func (s *shares) hold(sender string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.senders[sender]
	h.bytes += n
	s.all.bytes += n
	return s.all.bytes <= s.bytes && h.bytes <= s.bytes/2
}

// end gives the place of a request back; its bytes are off already.
func (s *shares) end(sender string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.senders[sender]
	h.requests--
	s.all.requests--
	if h.requests == 0 {
		delete(s.senders, sender)
	}
}
