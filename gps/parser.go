package gps

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ParserOptions is what a Parser needs to know beforehand.
type ParserOptions struct {
	// Reference is a day near which the receiver's dates are expected to lie, within 9.8 years: it gives two-digit
	// years their century and brings dates of a receiver whose week number has rolled over (1024 weeks) back. On a
	// vehicle the later of the build's day and the last good time; zero: none, then the first full date in a sentence
	// serves.
	Reference time.Time
	// LogHeaders: a line "# Date: 2006-01-02" sets Reference. For logs only: on a line it would be noise.
	LogHeaders bool
	// OnReject, if not nil, is told of everything that is not used.
	OnReject func(Reject)
	// Metrics, if not nil, gets the counters; Source is their label.
	Metrics prometheus.Registerer
	Source  string
}

// Parser turns bytes into fixes. It belongs to one goroutine, allocates nothing once made, and holds at most one
// sentence.
type Parser struct {
	opts   ParserOptions
	scan   scanner
	fields fields
	epoch  epoch
	sky    sky
	count  Counters
	date   dating
	stat   *metrics
}

// NewParser makes a Parser.
func NewParser(o ParserOptions) (*Parser, error) {
	p := &Parser{opts: o}
	p.scan.line = 1
	p.scan.lineHead = true
	if !o.Reference.IsZero() {
		p.setReference(o.Reference)
	}
	if o.Metrics == nil {
		return p, nil
	}
	var err error
	p.stat, err = newMetrics(o.Metrics, o.Source)
	return p, err
}

// Reset forgets the current sentence and epoch, and the line: what a replugged receiver, perhaps another one, does not
// continue. The reference day and the counters stay. An epoch that was complete is emitted first.
func (p *Parser) Reset(emit func(Fix)) {
	p.Flush(emit)
	line := p.scan.line
	p.scan = scanner{line: line, lineHead: true}
	p.epoch = epoch{}
	p.sky = sky{}
	p.date = dating{reference: p.date.reference, hasReference: p.date.hasReference}
}

// sentence takes the sound sentence in the scanner's buffer.
func (p *Parser) sentence(emit func(Fix)) {
	f := &p.fields
	if !f.cut(&p.scan) {
		p.reject(ReasonMalformed)
		return
	}
	kind := kindOf(f)
	u := update{kind: kind}
	if kind >= kindRMC && !p.decode(f, &u) {
		p.reject(ReasonMalformed)
		return
	}
	if kind == kindUnknown || kind == kindAside {
		p.count.Rejected[ReasonUnknown]++ // not told one by one: a receiver sends more of these than of the others
	} else {
		p.count.Sentences++
	}
	if kind != kindGSA {
		p.epoch.gsaTalker = 0
	}
	p.finish(&u, emit)
}

// sound is how many sentences came whose checksum is right, known or not.
func (p *Parser) sound() uint64 { return p.count.Sentences + p.count.Rejected[ReasonUnknown] }

// dating gives times of day their day.
type dating struct {
	reference    day
	hasReference bool
	current      day
	hasCurrent   bool
	timeOfDay    int64 // the last one seen, ns
}

func (p *Parser) setReference(t time.Time) {
	p.date.reference = day(t.Unix() / 86400)
	p.date.hasReference = true
}

// 1024 weeks, after which the week number of the GPS signal begins again (IS-GPS-200 §20.3.3.3.1.1), and half of it.
const (
	rollover     = 1024 * 7
	halfRollover = rollover / 2
)

// setFull takes a date with a four-digit year.
func (d *dating) setFull(date day) {
	if !d.hasReference {
		d.reference, d.hasReference = date, true
	}
	for date-d.reference > halfRollover {
		date -= rollover
	}
	for d.reference-date > halfRollover {
		date += rollover
	}
	d.current, d.hasCurrent = date, true
}

// setShort takes a date with a two-digit year: of the centuries, the one nearest the reference; without a reference
// the years 1980 (the beginning of GPS) to 2079.
func (d *dating) setShort(year, month, dom int) bool {
	if !d.hasReference {
		if year < 80 {
			year += 100
		}
		date, ok := dayOf(1900+year, time.Month(month), dom)
		if ok {
			d.current, d.hasCurrent = date, true
		}
		return ok
	}
	var best day
	found := false
	for century := 1900; century <= 2200; century += 100 {
		date, ok := dayOf(century+year, time.Month(month), dom)
		if ok && (!found || apart(date, d.reference) < apart(best, d.reference)) {
			best, found = date, true
		}
	}
	if found {
		d.setFull(best)
	}
	return found
}

func apart(a, b day) day {
	if a < b {
		return b - a
	}
	return a - b
}

// setClock takes a time of day. A step back by more than half a day is midnight; a smaller one is a receiver that
// sends sentences of two epochs mixed, or a correction.
func (d *dating) setClock(t clockTime) {
	if d.hasCurrent && d.timeOfDay-t.ns > 12*3600*1e9 {
		d.current++
	}
	d.timeOfDay = t.ns
}

// unix is the time of day on its day, Unix ns.
func (d *dating) unix() (int64, bool) {
	return int64(d.current)*86400*1e9 + d.timeOfDay, d.hasCurrent
}

// parseDateHeader reads "Date: 2006-01-02" or "Date = 2006-1-2", the header of a receiver's log, without its '#'. What
// follows the day is not looked at.
func parseDateHeader(b []byte) (time.Time, bool) {
	b = skipBlanks(b)
	const word = "date"
	if len(b) < len(word) {
		return time.Time{}, false
	}
	for i := range len(word) {
		if b[i]|0x20 != word[i] {
			return time.Time{}, false
		}
	}
	b = skipBlanks(b[len(word):])
	if len(b) == 0 || b[0] != ':' && b[0] != '=' {
		return time.Time{}, false
	}
	b = skipBlanks(b[1:])
	var part [3]int
	for i := range part {
		start := len(b)
		for len(b) > 0 && b[0] >= '0' && b[0] <= '9' && start-len(b) < 4 {
			part[i] = part[i]*10 + int(b[0]-'0')
			b = b[1:]
		}
		if start == len(b) {
			return time.Time{}, false
		}
		if i < 2 {
			if len(b) == 0 || b[0] != '-' && b[0] != '/' {
				return time.Time{}, false
			}
			b = b[1:]
		}
	}
	date, ok := dayOf(part[0], time.Month(part[1]), part[2])
	if !ok || part[0] < 1970 {
		return time.Time{}, false
	}
	return time.Unix(int64(date)*86400, 0).UTC(), true
}

func skipBlanks(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	return b
}
