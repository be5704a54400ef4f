package can

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// signal reads SG_ name [mux] : start|size@order sign (scale,offset) [min|max] "unit" receivers.
func (p *parser) signal(line int) {
	if p.message == nil {
		if !p.orphan {
			p.warn(line, SeverityError, "SG_: a signal outside of a message is left out")
		}
		p.toLineEnd()
		return
	}
	s := &Signal{Line: line, Scale: 1}
	if err := p.signalLine(s); err != nil {
		p.warn(line, SeverityError, "SG_ %s of %s: %v; the signal is left out", s.Name, p.message.Name, err)
		p.rejected[rejectedName{p.message.rawID, s.Name}] = true
		p.resync()
		return
	}
	key := signalName{p.message, s.Name}
	for _, other := range p.byName[key] {
		if other.muxMark == s.muxMark {
			p.warn(line, SeverityError, "SG_ %s of %s stands in line %d already; this one is left out", s.Name, p.message.Name, other.Line)
			return
		}
		p.warn(line, SeverityWarning, "SG_ %s of %s stands in line %d too, under another multiplexor value", s.Name, p.message.Name, other.Line)
	}
	p.byName[key] = append(p.byName[key], s)
	p.message.Signals = append(p.message.Signals, s)
}

func (p *parser) signalLine(s *Signal) error {
	s.Name = p.word()
	if s.Name == "" {
		return errors.New("no name")
	}
	for p.peek() != ':' {
		mark := p.word()
		if mark == "" {
			return errors.New("no colon behind the name")
		}
		if !isMuxMark(mark) {
			return fmt.Errorf("%s is no multiplexing", shorten(mark))
		}
		s.muxMark += mark
	}
	p.accept(':')
	start, startErr := strconv.ParseUint(p.number(), 10, 32)
	if !p.accept('|') || startErr != nil || start >= maxSignalStart {
		return errors.New("no start bit")
	}
	size, sizeErr := strconv.ParseUint(p.number(), 10, 32)
	if !p.accept('@') || sizeErr != nil {
		return errors.New("no size")
	}
	if size < 1 || size > 64 {
		return fmt.Errorf("%d bits, where 1 to 64 can be read", size)
	}
	s.Start, s.Size = int(start), int(size)
	switch p.peek() {
	case '0':
		s.BigEndian = true
	case '1':
	default:
		return errors.New("no byte order: @0 or @1")
	}
	p.pos++
	switch p.peek() {
	case '-':
		s.Signed = true
		p.pos++
	case '+':
		p.pos++
	default:
		p.warn(s.Line, SeverityWarning, "SG_ %s: neither + nor - behind the byte order; read as unsigned", s.Name)
	}
	if err := p.scaling(s); err != nil {
		return err
	}
	p.bounds(s)
	if p.peek() == '"' {
		s.Unit, _, _ = p.quoted(s.Line, endUnit)
	} else {
		p.warn(s.Line, SeverityNote, "SG_ %s: no unit", s.Name)
	}
	for p.sameLine() && p.peek() != ';' {
		if p.accept(',') {
			p.more() // a list may go on in the next line behind a comma
			continue
		}
		receiver := p.word()
		if receiver == "" {
			p.warn(s.Line, SeverityNote, "SG_ %s: left out from %s on", s.Name, shorten(string(p.src[p.pos:p.pos+1])))
			p.toLineEnd()
			break
		}
		s.Receivers = append(s.Receivers, receiver)
	}
	p.accept(';')
	return nil
}

// isMuxMark knows M, m3 and m3M, and a bare m, which has been seen on multiplexors.
func isMuxMark(mark string) bool {
	if mark == "M" || mark == "m" {
		return true
	}
	digits, ok := strings.CutPrefix(mark, "m")
	_, err := strconv.ParseUint(strings.TrimSuffix(digits, "M"), 10, 64)
	return ok && err == nil
}

// scaling reads (scale,offset).
func (p *parser) scaling(s *Signal) error {
	if !p.accept('(') {
		p.warn(s.Line, SeverityWarning, "SG_ %s: no (scale,offset); read as (1,0)", s.Name)
		return nil
	}
	scale, scaleErr := parseNumber(p.number())
	comma := p.accept(',')
	offset, offsetErr := parseNumber(p.number())
	if !comma || !p.accept(')') || scaleErr != nil || offsetErr != nil || !isFinite(scale) || !isFinite(offset) {
		return errors.New("no (scale,offset)")
	}
	if scale == 0 {
		p.warn(s.Line, SeverityWarning, "SG_ %s: a scale of 0 is read as 1", s.Name)
		scale = 1
	}
	s.Scale, s.Offset = scale, offset
	return nil
}

// bounds reads [min|max]. They decide nothing, so that bad ones cost only themselves.
func (p *parser) bounds(s *Signal) {
	if !p.accept('[') {
		p.warn(s.Line, SeverityNote, "SG_ %s: no [min|max]", s.Name)
		return
	}
	low, lowErr := parseNumber(p.number())
	bar := p.accept('|')
	high, highErr := parseNumber(p.number())
	if bar && lowErr == nil && highErr == nil {
		s.Min, s.Max = low, high
	} else {
		p.warn(s.Line, SeverityWarning, "SG_ %s: [min|max] cannot be read", s.Name)
	}
	for p.sameLine() && p.src[p.pos] != ']' && p.src[p.pos] != '"' {
		p.pos++
	}
	if p.sameLine() {
		p.accept(']')
	}
}

// parseNumber reads what DBC files hold for numbers: 1, +1, .5, 1., 1E-05. strconv also takes 0x1p-2, 1_000 and words.
func parseNumber(text string) (float64, error) {
	if text == "" || strings.ContainsAny(text, "_xX") {
		return 0, fmt.Errorf("%s is not a number", shorten(text))
	}
	return strconv.ParseFloat(text, 64)
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
