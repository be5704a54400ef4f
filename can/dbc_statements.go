package can

import (
	"strconv"
	"strings"
)

// The statements that say something of what another one defines.

// words reads names with commas or blanks between them.
func (p *parser) words() []string {
	var list []string
	for {
		p.accept(',')
		word := p.word()
		if word == "" {
			return list
		}
		list = append(list, word)
	}
}

// transmitters reads BO_TX_BU_ id : node, node;
func (p *parser) transmitters(line int) {
	id, ok := messageID(p.word())
	if !ok {
		p.fail(line, "BO_TX_BU_: not a message identifier")
		return
	}
	p.accept(':')
	p.senders = append(p.senders, reference{line: line, rawID: id, words: p.words()})
	p.finish(line, "BO_TX_BU_")
}

// labels reads number and text in turn.
func (p *parser) labels(line int, statement string) []Label {
	var list []Label
	for {
		switch c := p.peek(); {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.':
		default:
			return list
		}
		number := p.word()
		text, ok, sound := p.quoted(line, endBeforeNumber)
		if !ok {
			p.warn(p.line(), SeverityWarning, "%s: %s has no text", statement, shorten(number))
			return list
		}
		value, err := parseLabelValue(number)
		if err != nil {
			p.warn(p.line(), SeverityWarning, "%s: %s is not a whole number", statement, shorten(number))
		} else {
			list = append(list, Label{Value: value, Text: text})
		}
		if !sound {
			return list
		}
	}
}

// parseLabelValue reads a whole number of 64 bits; some tools write 1.0 or 1e3.
func parseLabelValue(text string) (int64, error) {
	if v, err := strconv.ParseInt(text, 10, 64); err == nil {
		return v, nil
	}
	if v, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 0, 64); err == nil {
		return int64(v), nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err == nil && (f != float64(int64(f)) || f >= 1<<63 || f < -1<<63) {
		err = strconv.ErrRange
	}
	return int64(f), err
}

// valueTable reads VAL_TABLE_ name number "text" … ;
func (p *parser) valueTable(line int) {
	name := p.word()
	if name == "" {
		p.fail(line, "VAL_TABLE_: no name")
		return
	}
	p.db.ValueTables[name] = p.labels(line, "VAL_TABLE_")
	p.finish(line, "VAL_TABLE_")
}

// valueLabels reads VAL_ id signal number "text" … ; or the name of a table in place of the list, or an environment
// variable in place of the signal.
func (p *parser) valueLabels(line int) {
	first := p.word()
	id, ok := messageID(first)
	if !ok {
		if first == "" {
			p.fail(line, "VAL_: neither a message identifier nor a name")
			return
		}
		p.labels(line, "VAL_") // of an environment variable
		p.finish(line, "VAL_")
		return
	}
	r := reference{line: line, rawID: id, name: p.word()}
	if c := p.peek(); c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
		r.table = p.word()
	} else {
		r.labels = p.labels(line, "VAL_")
	}
	if r.name == "" {
		p.fail(line, "VAL_ %d: no signal name", id)
		return
	}
	p.values = append(p.values, r)
	p.finish(line, "VAL_")
}

// comment reads CM_ [BU_ node | BO_ id | SG_ id signal | EV_ name] "text";
func (p *parser) comment(line int) {
	r := reference{line: line}
	if !p.target(&r) {
		p.fail(line, "CM_: not something that can have a comment")
		return
	}
	text, ok, _ := p.quoted(line, endBeforeSemicolon)
	if !ok {
		p.fail(line, "CM_: no text")
		return
	}
	r.text = text
	p.comments = append(p.comments, r)
	p.finish(line, "CM_")
}

// target reads what a comment or an attribute belongs to. `CM_ SG_ 304 "…"`, with no signal, is read as the message's.
func (p *parser) target(r *reference) bool {
	if c := p.peek(); c == '"' || c == 0 || c == '-' || c >= '0' && c <= '9' {
		return true
	}
	from := p.pos
	switch r.object = p.word(); r.object {
	case "BU_", "EV_":
		r.name = p.word()
		return r.name != ""
	case "BO_", "SG_":
		idText := p.word()
		id, ok := messageID(idText)
		if !ok {
			return false
		}
		r.rawID = id
		if r.object == "SG_" {
			if r.name = p.word(); r.name == "" {
				r.object = "BO_"
				p.warn(r.line, SeverityNote, "SG_ %d: no signal name; taken as the message's", id)
			}
		}
		return true
	}
	p.pos, r.object = from, ""
	return true // the value of a network's attribute may be a bare word
}

// attributeDefinition reads BA_DEF_ [object] "name" type …;
func (p *parser) attributeDefinition(line int) {
	d := AttributeDefinition{}
	if p.peek() != '"' {
		d.Object = p.word()
	}
	name, ok, _ := p.quoted(line, endAnywhere)
	if !ok {
		p.fail(line, "BA_DEF_: no attribute name")
		return
	}
	d.Name, d.Type = name, strings.ToUpper(p.word())
	if d.Type == "ENUM" {
		for p.peek() == '"' || p.peek() == ',' {
			if p.accept(',') {
				continue
			}
			text, _, sound := p.quoted(line, endInList)
			d.Enum = append(d.Enum, text)
			if !sound {
				break
			}
		}
	} else {
		for p.word() != "" || p.accept(',') { // the bounds of a number
		}
	}
	if old, again := p.db.Definitions[name]; again && old.Type == "" {
		d.Default, d.hasDef = old.Default, old.hasDef
	}
	p.db.Definitions[name] = d
	p.finish(line, "BA_DEF_")
}

// value reads the value of an attribute: a string or a bare word.
func (p *parser) value(line int) (string, bool) {
	if p.peek() == '"' {
		text, ok, _ := p.quoted(line, endBeforeSemicolon)
		return text, ok
	}
	text := p.word()
	return text, text != ""
}

// attributeDefault reads BA_DEF_DEF_ "name" value;
func (p *parser) attributeDefault(line int) {
	if p.peek() != '"' {
		p.word() // an object that does not belong here
	}
	name, ok, _ := p.quoted(line, endAnywhere)
	if !ok {
		p.fail(line, "BA_DEF_DEF_: no attribute name")
		return
	}
	d := p.db.Definitions[name]
	d.Name = name
	if d.Default, d.hasDef = p.value(line); !d.hasDef {
		p.fail(line, "BA_DEF_DEF_ %q: no value", name)
		return
	}
	p.db.Definitions[name] = d
	p.finish(line, "BA_DEF_DEF_")
}

// attributeValue reads BA_ "name" [object] value;
func (p *parser) attributeValue(line int) {
	name, ok, _ := p.quoted(line, endAnywhere)
	r := reference{line: line, attribute: name}
	if !ok || !p.target(&r) {
		p.fail(line, "BA_ %q: not an attribute of anything", name)
		return
	}
	if r.text, ok = p.value(line); !ok {
		p.fail(line, "BA_ %q: no value", name)
		return
	}
	p.attrs = append(p.attrs, r)
	p.finish(line, "BA_")
}

// signalType reads SIG_VALTYPE_ id signal : type;
func (p *parser) signalType(line int) {
	id, ok := messageID(p.word())
	r := reference{line: line, rawID: id, name: p.word()}
	p.accept(':')
	r.text = p.word()
	if !ok || r.name == "" || r.text == "" {
		p.fail(line, "SIG_VALTYPE_: not message, signal and type")
		return
	}
	p.valTypes = append(p.valTypes, r)
	p.finish(line, "SIG_VALTYPE_")
}

// multiplexValues reads SG_MUL_VAL_ id signal multiplexor first-last, …;
func (p *parser) multiplexValues(line int) {
	id, ok := messageID(p.word())
	r := reference{line: line, rawID: id, name: p.word(), text: p.word()}
	if !ok || r.name == "" || r.text == "" {
		p.fail(line, "SG_MUL_VAL_: not message, signal and multiplexor")
		return
	}
	for {
		p.accept(',')
		if c := p.peek(); c < '0' || c > '9' {
			break
		}
		span := p.rangeText()
		first, last, found := strings.Cut(span, "-")
		if !found {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 64)
		b, err2 := strconv.ParseUint(last, 10, 64)
		if err != nil || err2 != nil || b < a {
			p.warn(line, SeverityWarning, "SG_MUL_VAL_ %d %s: range %s", id, r.name, shorten(span))
			continue
		}
		r.ranges = append(r.ranges, MuxRange{First: a, Last: b})
	}
	p.muxes = append(p.muxes, r)
	p.finish(line, "SG_MUL_VAL_")
}

// rangeText reads "3-5", also with blanks around the dash.
func (p *parser) rangeText() string {
	text := p.number()
	if strings.HasSuffix(text, "-") || !strings.Contains(text, "-") && p.peek() == '-' {
		text += p.number()
		if strings.HasSuffix(text, "-") {
			text += p.number()
		}
	}
	return text
}
