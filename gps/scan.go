package gps

// Limits of what is kept of a line. NMEA 0183 §5.3 allows 82 characters; receivers with long coordinates, four
// systems or proprietary sentences go beyond it.
const (
	maxSentence = 128 // characters between '$' and '*'
	maxFields   = 40
	maxComment  = 120 // characters of a log's header line that are looked at
)

// Reason says why something on the line was not used.
type Reason uint8

// The reasons.
const (
	ReasonChecksum   Reason = iota // the checksum does not match
	ReasonNoChecksum               // a sentence without one
	ReasonMalformed                // a sentence with fields that cannot be, or cut short
	ReasonTooLong                  // longer than any receiver's
	ReasonUnknown                  // sound, but of a kind that says nothing about a fix
	reasons
)

var reasonNames = [reasons]string{"checksum", "no checksum", "malformed", "too long", "unknown"}

func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return "invalid"
}

// Counters is what a Parser has seen since it was made.
type Counters struct {
	Sentences  uint64          // taken
	Rejected   [reasons]uint64 // not taken, by Reason
	NoiseBytes uint64          // outside any sentence
	Fixes      uint64          // emitted
	Unfinished uint64          // epochs whose last sentence never came, not emitted
}

// Reject tells of one thing that was not used. Text is valid only during the call.
type Reject struct {
	Reason Reason
	Line   uint64 // from 1
	Text   []byte // what was kept of the sentence, without '$'
}

type scanState uint8

const (
	scanNoise scanState = iota
	scanSentence
	scanSum1 // after '*'
	scanSum2
	scanComment // a header line of a log
	scanRest    // up to the end of the line, nothing is expected
)

// scanner cuts sentences out of a stream of bytes. It keeps at most maxSentence bytes, whatever comes.
type scanner struct {
	state    scanState
	length   int
	sum      byte
	want     byte
	line     uint64
	boot     int64 // when the current sentence's '$' was read, ns
	buf      [maxSentence]byte
	comma    [maxFields]uint8 // where they stand in buf
	commas   int              // how many came, more than fit in comma perhaps
	lineHead bool             // nothing but white space since the line began
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// Feed takes bytes as they came off the line; boot is CLOCK_BOOTTIME at their arrival, ns. emit is called for each
// epoch that ends in them. Sentences may be cut anywhere between two calls.
func (p *Parser) Feed(data []byte, boot int64, emit func(Fix)) {
	s := &p.scan
	for len(data) > 0 {
		if s.state == scanSentence {
			if data = data[s.plain(data):]; len(data) == 0 {
				break
			}
		}
		c := data[0]
		data = data[1:]
		if c == '$' || c == '!' { // '!': an encapsulated sentence, such as AIS; framed the same way
			if s.state == scanComment {
				p.commentByte(c)
				continue
			}
			if s.state == scanSentence || s.state == scanSum1 || s.state == scanSum2 {
				p.reject(ReasonMalformed)
			}
			s.state, s.length, s.commas, s.sum, s.boot = scanSentence, 0, 0, 0, boot
			s.lineHead = false
			continue
		}
		switch s.state {
		case scanSentence:
			p.sentenceByte(c)
		case scanSum1:
			digit, ok := hexDigit(c)
			if !ok {
				p.abandon(c, ReasonMalformed)
				continue
			}
			s.want, s.state = digit<<4, scanSum2
		case scanSum2:
			digit, ok := hexDigit(c)
			if !ok {
				p.abandon(c, ReasonMalformed)
				continue
			}
			s.state = scanRest
			if s.want|digit != s.sum {
				p.reject(ReasonChecksum)
				continue
			}
			p.sentence(emit)
		case scanComment:
			p.commentByte(c)
		default:
			p.otherByte(c)
		}
	}
	if p.stat != nil {
		p.stat.publish(p.count)
	}
}

// plain takes what is nothing but text of a sentence off the front of data, and returns how much: nearly all that comes.
func (s *scanner) plain(data []byte) int {
	room := s.buf[s.length:]
	data = data[:min(len(data), len(room))]
	sum := s.sum
	n := len(data)
	for i, c := range data {
		if c == ',' {
			if s.commas < maxFields {
				s.comma[s.commas] = uint8(s.length + i)
			}
			s.commas++
		} else if c < ' ' || c > '~' || c == '*' || c == '$' || c == '!' {
			n = i
			break
		}
		room[i] = c
		sum ^= c
	}
	s.sum = sum
	s.length += n
	return n
}

func (p *Parser) sentenceByte(c byte) {
	s := &p.scan
	switch {
	case c == '*':
		s.state = scanSum1
	case c == '\r' || c == '\n':
		p.abandon(c, ReasonNoChecksum)
	case c < ' ' || c > '~':
		p.abandon(c, ReasonMalformed)
	default: // plain would have taken it if there were room
		p.abandon(c, ReasonTooLong)
	}
}

// abandon gives the current sentence up at byte c.
func (p *Parser) abandon(c byte, why Reason) {
	p.reject(why)
	p.scan.state = scanRest
	if c == '\n' || c == '\r' {
		p.otherByte(c)
	}
}

// otherByte takes a byte outside a sentence.
func (p *Parser) otherByte(c byte) {
	s := &p.scan
	switch {
	case c == '\n':
		s.state, s.lineHead = scanNoise, true
		s.line++
	case c == '\r':
	case c == '#' && s.lineHead && p.opts.LogHeaders:
		s.state, s.length = scanComment, 0
		s.lineHead = false
	case s.state == scanRest:
		// The tail of a sentence that was counted, or white space after one.
	default:
		p.count.NoiseBytes++
		s.lineHead = s.lineHead && (c == ' ' || c == '\t')
	}
}

func (p *Parser) commentByte(c byte) {
	s := &p.scan
	if c == '\n' || c == '\r' {
		if date, ok := parseDateHeader(s.buf[:s.length]); ok {
			p.setReference(date)
		}
		s.state = scanRest
		p.otherByte(c)
		return
	}
	if s.length < maxComment {
		s.buf[s.length] = c
		s.length++
	}
}

func (p *Parser) reject(why Reason) {
	p.count.Rejected[why]++
	if p.opts.OnReject != nil {
		p.opts.OnReject(Reject{Reason: why, Line: p.scan.line, Text: p.scan.buf[:p.scan.length]})
	}
}

// Counters is what has been seen so far. It belongs to the goroutine that calls Feed.
func (p *Parser) Counters() Counters { return p.count }
