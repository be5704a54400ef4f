package isotp

import "github.com/waybill-telematics/waybill/can"

// room finds a session for a key: a new one while there may be more, else the one that is missed least. A guess never
// takes the room of a message that is known to be one; then it is nil.
func (r *Reassembler) room(k, base uint64, guess bool) *session {
	i := len(r.sessions)
	if i < r.options.MaxSessions {
		r.sessions = append(r.sessions, session{})
	} else if i = r.victim(guess); i < 0 {
		return nil
	}
	s := &r.sessions[i]
	if s.open {
		r.lose(s, Evicted)
	}
	r.forget(s)
	s.key, s.base, s.guess, s.flow = k, base, guess, 0
	if guess {
		r.guesses++
	}
	r.index[k] = i
	return s
}

// forget takes a session out of the index; its buffer stays for the next one.
func (r *Reassembler) forget(s *session) {
	if s.guess {
		s.guess = false
		r.guesses--
	}
	delete(r.index, s.key)
	s.key, s.base = 0, 0
}

// victim is the session to give up: guesses first, then one that is idle, then the one that was silent longest.
func (r *Reassembler) victim(guess bool) int {
	best := -1
	for i := range r.sessions {
		s := &r.sessions[i]
		if guess && !s.guess && s.open {
			continue
		}
		if best < 0 || rank(s) < rank(&r.sessions[best]) || rank(s) == rank(&r.sessions[best]) && s.last < r.sessions[best].last {
			best = i
		}
	}
	return best
}

func rank(s *session) int {
	switch {
	case s.key == 0:
		return 0
	case s.guess:
		return 1
	case !s.open:
		return 2
	}
	return 3
}

// guess takes a frame of an identifier that is no stream. The message by which a conversation is learned is reported.
//
//	first frame ─▶ guess ──flow control from another id within N_Bs──▶ consecutive frames, all in order ─▶ two streams
//	                └──anything else──▶ forgotten
func (r *Reassembler) guess(f *can.Frame, base uint64) (m Message, ok bool) {
	p, valid := parsePCI(f, 0)
	i, under := r.index[base]
	if !under && (!valid || p.kind != pciFirst) && (r.guesses == 0 || !valid || p.kind != pciFlow) {
		return m, false // most frames of a bus end here
	}
	if under && (!valid || p.kind != pciConsecutive || r.sessions[i].flow == 0 || r.overdue(&r.sessions[i], f.Time)) {
		s := &r.sessions[i]
		s.open = false
		r.forget(s)
		under = false
	}
	if !valid {
		return m, false
	}
	switch p.kind {
	case pciFirst:
		if uint64(p.length) > uint64(r.options.MaxMessage) || len(r.streams) >= r.options.MaxSessions+2*len(r.options.Streams) {
			return m, false
		}
		if s := r.room(base, base, true); s != nil {
			s.begin(&p, int(f.Len), 0, f.Time)
		}
	case pciFlow:
		r.guessFlow(f, base, &p)
	case pciConsecutive:
		if under {
			return r.guessData(f, &p, &r.sessions[i])
		}
	}
	return m, false
}

// guessFlow notes who may have answered the first frame of a guess.
func (r *Reassembler) guessFlow(f *can.Frame, base uint64, p *pci) {
	if p.flow > flowWait {
		return
	}
	for i := range r.sessions {
		s := &r.sessions[i]
		if !s.guess || s.base == base || s.seq != 1 || (s.base^base)&(1<<29) != 0 || s.base>>40 != base>>40 || r.overdue(s, f.Time) {
			continue
		}
		s.flow, s.last = base, f.Time
	}
}

// guessData goes on with a guess that was answered. When it is whole, both identifiers are streams.
func (r *Reassembler) guessData(f *can.Frame, p *pci, s *session) (m Message, ok bool) {
	whole, fits, _ := s.add(p, f.Time)
	if !fits {
		r.forget(s)
	}
	if !whole {
		return m, false
	}
	r.guesses--
	s.guess = false
	data, flow := r.stream(s.base), r.stream(s.flow)
	data.data, data.flows = true, s.flow
	flow.data, flow.flows = true, s.base
	r.stats.Learned += 2
	r.stats.Messages++
	if j, found := r.index[s.flow]; found && r.sessions[j].guess { // what the other identifier had begun was none
		r.sessions[j].open = false
		r.forget(&r.sessions[j])
	}
	return Message{Data: s.buf, First: s.first, Last: s.last, From: address(s.base), Bus: f.Bus}, true
}
