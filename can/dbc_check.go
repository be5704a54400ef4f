package can

import "bytes"

// check looks for what parses and is still wrong or odd.
func (p *parser) check() {
	names := map[string]*Message{}
	for _, m := range p.db.Messages {
		if other := names[m.Name]; other != nil {
			p.warn(m.Line, SeverityNote, "the name of message %s stands in line %d too", m.Name, other.Line)
		} else {
			names[m.Name] = m
		}
		for _, s := range m.Signals {
			if need := s.lastByte(); need > m.Length {
				p.warn(s.Line, SeverityWarning, "SG_ %s of %s ends in byte %d and the message has %d; only longer frames have the signal", s.Name, m.Name, need, m.Length)
			}
			if s.Min > s.Max {
				p.warn(s.Line, SeverityNote, "SG_ %s: the minimum %v is above the maximum %v; no value depends on them", s.Name, s.Min, s.Max)
			}
			p.checkRanges(s)
		}
		p.checkOverlaps(m)
	}
	if text := bytes.TrimRight(p.src, " \t\r\x1A"); len(text) > 0 && text[len(text)-1] != '\n' && text[len(text)-1] != ';' {
		p.warn(p.lineOf(len(text)-1), SeverityWarning, "the last line has no end; the file may have been cut off here")
	}
}

// checkRanges looks for multiplexor values that the multiplexor's bits cannot hold.
func (p *parser) checkRanges(s *Signal) {
	if s.Multiplexor == nil || s.Multiplexor.Size == 64 {
		return
	}
	for _, r := range s.Ranges {
		if r.First >= 1<<s.Multiplexor.Size {
			p.warn(s.Line, SeverityWarning, "SG_ %s: multiplexor %s has %d bits and never holds %d", s.Name, s.Multiplexor.Name, s.Multiplexor.Size, r.First)
		}
	}
}

// checkOverlaps looks for two signals of a message on one bit which can both be there.
func (p *parser) checkOverlaps(m *Message) {
	owner := map[int][]*Signal{}
	for _, s := range m.Signals {
	bits: // one overlap a signal is enough to look at it
		for bit, end := s.firstBit(), s.firstBit()+s.Size; bit < end; bit++ {
			place := bit
			if s.BigEndian { // count both orders the little-endian way
				place = bit&^7 | 7 - bit&7
			}
			for _, other := range owner[place] {
				if together(s, other) {
					p.warn(s.Line, SeverityNote, "SG_ %s of %s shares bits with %s; both are read", s.Name, m.Name, other.Name)
					break bits
				}
			}
			if len(owner[place]) < 64 {
				owner[place] = append(owner[place], s)
			}
		}
	}
}

// together reports whether two signals can be in one frame as far as their own multiplexor says.
func together(a, b *Signal) bool {
	if a.Multiplexor == nil || a.Multiplexor != b.Multiplexor {
		return a.Multiplexor == nil && b.Multiplexor == nil
	}
	for _, x := range a.Ranges {
		for _, y := range b.Ranges {
			if x.First <= y.Last && y.First <= x.Last {
				return true
			}
		}
	}
	return false
}

// firstBit is the place of the signal's first bit in the order in which its bits follow each other: for little-endian
// signals that of the least significant one, counted from the least significant bit of byte 0; for big-endian ones that of
// the most significant, counted from the most significant bit of byte 0.
func (s *Signal) firstBit() int {
	if s.BigEndian {
		return s.Start&^7 | 7 - s.Start&7
	}
	return s.Start
}

// lastByte is the number of bytes that a frame must have for the signal to be whole.
func (s *Signal) lastByte() int { return (s.firstBit() + s.Size + 7) / 8 }
