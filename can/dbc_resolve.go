package can

import (
	"slices"
	"strconv"
	"strings"
)

// resolve applies what the statements say of each other, once all of them are known.
func (p *parser) resolve() {
	for _, r := range p.attrs {
		p.setAttribute(r)
	}
	for _, r := range p.comments {
		p.setComment(r)
	}
	for _, r := range p.values {
		labels := r.labels
		if r.table != "" {
			table, ok := p.db.ValueTables[r.table]
			if !ok {
				p.warn(r.line, SeverityWarning, "VAL_ %d %s: no value table %s", r.rawID, r.name, shorten(r.table))
				continue
			}
			labels = table
		}
		for _, s := range p.signalsOf("VAL_", r) {
			s.Labels = labels
		}
	}
	for _, r := range p.valTypes {
		p.setEncoding(r)
	}
	for _, r := range p.muxes {
		for _, s := range p.signalsOf("SG_MUL_VAL_", r) {
			s.muxNames = append(s.muxNames, muxNamed{multiplexor: r.text, ranges: r.ranges, line: r.line})
		}
	}
	for _, r := range p.senders {
		for _, m := range p.messagesOf("BO_TX_BU_", r) {
			m.Senders = r.words
		}
	}
	for _, m := range p.db.Messages {
		p.linkMultiplexors(m)
	}
	p.markJ1939()
	p.longNames()
}

// messagesOf are the messages that a statement names; none is worth a warning, unless one was left out, which was told.
func (p *parser) messagesOf(statement string, r reference) []*Message {
	list := p.byID[r.rawID]
	if len(list) == 0 && r.rawID != independentID && !p.rejected[rejectedName{id: r.rawID}] {
		p.warn(r.line, SeverityWarning, "%s: there is no message %d; left out", statement, r.rawID)
	}
	return list
}

// signalsOf are the signals that a statement names.
func (p *parser) signalsOf(statement string, r reference) []*Signal {
	var list []*Signal
	messages := p.messagesOf(statement, r)
	for _, m := range messages {
		list = append(list, p.byName[signalName{m, r.name}]...)
	}
	if len(list) == 0 && len(messages) > 0 && !p.rejected[rejectedName{r.rawID, r.name}] {
		p.warn(r.line, SeverityWarning, "%s: message %d, %s, has no signal %s; left out", statement, r.rawID, messages[0].Name, shorten(r.name))
	}
	return list
}

func (p *parser) node(name string) *Node {
	i := slices.IndexFunc(p.db.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &p.db.Nodes[i]
}

func (p *parser) setComment(r reference) {
	switch r.object {
	case "":
		p.db.Comment = r.text
	case "BU_":
		if n := p.node(r.name); n != nil {
			n.Comment = r.text
		} else {
			p.warn(r.line, SeverityNote, "CM_: there is no node %s", shorten(r.name))
		}
	case "BO_":
		for _, m := range p.messagesOf("CM_", r) {
			m.Comment = r.text
		}
	case "SG_":
		for _, s := range p.signalsOf("CM_", r) {
			s.Comment = r.text
		}
	}
}

func (p *parser) setAttribute(r reference) {
	d, defined := p.db.Definitions[r.attribute]
	if !defined {
		p.warn(r.line, SeverityNote, "BA_ %q has no BA_DEF_", r.attribute)
	}
	if d.Type == "ENUM" {
		// A number is an index into the list, unless the list holds it as a name.
		if i, err := strconv.Atoi(r.text); err == nil && i >= 0 && i < len(d.Enum) && !slices.Contains(d.Enum, r.text) {
			r.text = d.Enum[i]
		}
	}
	a := Attribute{Text: r.text, Line: r.line}
	set := func(to *map[string]Attribute) {
		if *to == nil {
			*to = map[string]Attribute{}
		}
		(*to)[r.attribute] = a
	}
	switch r.object {
	case "":
		set(&p.db.Attributes)
	case "BU_":
		if n := p.node(r.name); n != nil {
			set(&n.Attributes)
		} else {
			p.warn(r.line, SeverityNote, "BA_ %q: there is no node %s", r.attribute, shorten(r.name))
		}
	case "BO_":
		for _, m := range p.messagesOf("BA_", r) {
			set(&m.Attributes)
		}
	case "SG_":
		for _, s := range p.signalsOf("BA_", r) {
			set(&s.Attributes)
		}
	}
}

func (p *parser) setEncoding(r reference) {
	var (
		encoding Encoding
		bits     int
	)
	switch r.text {
	case "0":
		return
	case "1":
		encoding, bits = EncodingFloat32, 32
	case "2":
		encoding, bits = EncodingFloat64, 64
	default:
		p.warn(r.line, SeverityWarning, "SIG_VALTYPE_ %s of %s is not known; read as an integer", shorten(r.text), shorten(r.name))
		return
	}
	for _, s := range p.signalsOf("SIG_VALTYPE_", r) {
		if s.Size != bits {
			p.warn(r.line, SeverityWarning, "SIG_VALTYPE_: %s has %d bits and not the %d of its type; read as an integer", s.Name, s.Size, bits)
			continue
		}
		s.Encoding = encoding
	}
}

// linkMultiplexors finds for every multiplexed signal what switches it. SG_MUL_VAL_ decides; without one it is the
// message's multiplexor and the number of m3. A multiplexor is what the file marks with M: where it names another, or
// has none, nobody can say when the signal is there, and a value that is not there is worse than none.
func (p *parser) linkMultiplexors(m *Message) {
	var switches []*Signal
	for _, s := range m.Signals {
		if s.muxMark == "M" {
			switches = append(switches, s)
		}
	}
	for _, s := range m.Signals {
		if p.linkNamed(m, s) {
			continue
		}
		number, numbered := muxNumber(s.muxMark)
		switch {
		case !numbered:
		case len(switches) == 0:
			p.warn(s.Line, SeverityError, "SG_ %s of %s is multiplexed and the message has no multiplexor (M); the signal is left out", s.Name, m.Name)
			s.Unreachable = true
		default:
			if len(switches) > 1 {
				p.warn(s.Line, SeverityWarning, "SG_ %s of %s: the message has %d multiplexors and no SG_MUL_VAL_ says which; %s is taken", s.Name, m.Name, len(switches), switches[0].Name)
			}
			s.Multiplexor, s.Ranges = switches[0], []MuxRange{{number, number}}
		}
	}
	for _, s := range switches {
		s.Switch = true
	}
	p.checkChains(m)
}

// deepestMux is how many multiplexors a signal may hang on, one on the other. Known files nest three.
const deepestMux = 16

// checkChains gives up the signals whose multiplexors form a ring or hang on one that was given up.
func (p *parser) checkChains(m *Message) {
	for _, s := range m.Signals {
		seen := 0
		for above := s.Multiplexor; above != nil; above = above.Multiplexor {
			seen++
			if deep := seen > deepestMux; deep || above.Unreachable {
				if deep {
					p.warn(s.Line, SeverityError, "SG_ %s of %s: its multiplexors form a ring, or more than %d hang on each other; the signal is left out", s.Name, m.Name, deepestMux)
				}
				s.Unreachable = true
				break
			}
		}
	}
	for _, s := range m.Signals {
		if s.Unreachable {
			s.Multiplexor, s.Ranges = nil, nil
		} else if s.Multiplexor != nil {
			s.Multiplexor.Switch = true
		}
	}
}

// muxNumber is the 3 of m3 and m3M.
func muxNumber(mark string) (uint64, bool) {
	digits, ok := strings.CutPrefix(mark, "m")
	n, err := strconv.ParseUint(strings.TrimSuffix(digits, "M"), 10, 64)
	return n, ok && err == nil
}

// linkNamed applies the SG_MUL_VAL_ of a signal; false when none decides.
func (p *parser) linkNamed(m *Message, s *Signal) bool {
	for _, n := range s.muxNames {
		var above *Signal
		if named := p.byName[signalName{m, n.multiplexor}]; len(named) > 0 {
			above = named[0]
		}
		switch {
		case above == nil || above == s:
			p.warn(n.line, SeverityWarning, "SG_MUL_VAL_: %s is no other signal of %s", shorten(n.multiplexor), m.Name)
		case !strings.HasSuffix(above.muxMark, "M"):
			p.warn(s.Line, SeverityError, "SG_ %s of %s: its multiplexor %s is not marked as one (M); the signal is left out", s.Name, m.Name, above.Name)
			s.Unreachable = true
		case s.Multiplexor != nil && s.Multiplexor != above:
			p.warn(n.line, SeverityWarning, "SG_MUL_VAL_: %s of %s hangs on %s already", s.Name, m.Name, s.Multiplexor.Name)
		default:
			s.Multiplexor = above
			s.Ranges = append(s.Ranges, n.ranges...)
		}
	}
	if number, ok := muxNumber(s.muxMark); ok && s.Multiplexor != nil && len(s.Ranges) == 0 {
		s.Ranges = []MuxRange{{number, number}}
	}
	return s.Unreachable || s.Multiplexor != nil
}

// markJ1939 decides for which messages the PGN counts: those whose VFrameFormat says J1939PG, and in a network whose
// ProtocolType or BusType says J1939 or NMEA 2000 the extended ones whose VFrameFormat is not set, or whose source
// address is 0xFE, the null address, from which nothing is sent: there it stands for any.
func (p *parser) markJ1939() {
	const nullAddress = 0xFE
	network := false
	for _, name := range []string{"ProtocolType", "BusType"} {
		value := strings.ToUpper(strings.ReplaceAll(p.db.networkAttribute(name), " ", ""))
		network = network || strings.Contains(value, "J1939") || strings.Contains(value, "NMEA2000")
	}
	for _, m := range p.db.Messages {
		if !m.Extended {
			continue
		}
		format, own, ok := p.db.messageAttribute(m, "VFrameFormat")
		if ok && (format == "J1939PG" || format == "3" && p.db.Definitions["VFrameFormat"].Type != "ENUM") {
			m.J1939 = true
			continue
		}
		m.J1939 = network && (!own || m.ID&0xFF == nullAddress)
	}
}

// longNames puts back the names that Vector's tools cut to 32 characters and keep in attributes.
func (p *parser) longNames() {
	for i := range p.db.Nodes {
		if a := p.db.Nodes[i].Attributes["SystemNodeLongSymbol"]; a.Text != "" {
			p.db.Nodes[i].Name = a.Text
		}
	}
	for _, m := range p.db.Messages {
		if a := m.Attributes["SystemMessageLongSymbol"]; a.Text != "" {
			m.Name = a.Text
		}
		for _, s := range m.Signals {
			if a := s.Attributes["SystemSignalLongSymbol"]; a.Text != "" {
				s.Name = a.Text
			}
		}
	}
}
