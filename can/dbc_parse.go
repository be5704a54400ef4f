package can

import (
	"crypto/sha256"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Limits of a DBC file, against input made to hurt.
const (
	maxWarnings      = 2000
	maxSignalStart   = 8 * 65536 // bits; a transport protocol's message has 1785 bytes, CAN XL's 2048
	maxMessageLength = 65536     // bytes
)

// The pseudo message that holds signals of no message.
const (
	independentSignals = "VECTOR__INDEPENDENT_SIG_MSG"
	independentID      = 0xC0000000
)

// parser reads the statements of a file into db. What names another statement is kept until the end, since files
// come in any order.
type parser struct {
	*lexer
	db       *Database
	message  *Message // the one that SG_ belongs to; nil after a message that was rejected
	orphan   bool     // SG_ lines are left out silently: their message was reported
	byID     map[uint32][]*Message
	byName   map[signalName][]*Signal
	valTypes []reference
	muxes    []reference
	values   []reference
	comments []reference
	attrs    []reference
	senders  []reference
	rejected map[rejectedName]bool
	dropped  int
}

// rejectedName is a message, or with a name a signal, that was left out and reported: what else the file says of it is
// worth no word.
type rejectedName struct {
	id     uint32 // as the file writes it
	signal string
}

// signalName is what statements name a signal by.
type signalName struct {
	message *Message
	name    string
}

// reference is what a statement says about something that another statement defines.
type reference struct {
	line      int
	object    string // BU_, BO_, SG_, EV_ or ""
	rawID     uint32
	name      string // of the signal, node or environment variable
	attribute string
	text      string
	labels    []Label
	table     string
	words     []string
	ranges    []MuxRange
}

// ParseDBC reads a DBC file, whatever its state. What cannot be read is left out and stands in Warnings with its line:
// one signal, one message or one statement, never the rest of the file.
func ParseDBC(file []byte) *Database {
	p := &parser{
		lexer: newLexer(plainBytes(file)),
		db: &Database{
			ValueTables: map[string][]Label{},
			Definitions: map[string]AttributeDefinition{},
			Attributes:  map[string]Attribute{},
			Hash:        sha256.Sum256(file),
		},
		byID:     map[uint32][]*Message{},
		byName:   map[signalName][]*Signal{},
		rejected: map[rejectedName]bool{},
	}
	for p.statement() {
	}
	p.resolve()
	p.check()
	if p.dropped > 0 {
		p.db.Warnings = append(p.db.Warnings, Warning{Severity: SeverityWarning, Text: fmt.Sprintf("%d further findings are not listed", p.dropped)})
	}
	sort.SliceStable(p.db.Warnings, func(i, j int) bool { return p.db.Warnings[i].Line < p.db.Warnings[j].Line })
	return p.db
}

func (p *parser) warn(line int, severity Severity, format string, args ...any) {
	if len(p.db.Warnings) >= maxWarnings {
		p.dropped++
		return
	}
	p.db.Warnings = append(p.db.Warnings, Warning{Line: line, Severity: severity, Text: fmt.Sprintf(format, args...)})
}

// statement reads one statement; false at the end of the file.
func (p *parser) statement() bool {
	p.skip()
	if p.pos >= len(p.src) {
		return false
	}
	line, from := p.line(), p.pos
	if p.src[p.pos] == ';' {
		p.pos++
		return true
	}
	word := p.keywordHere()
	p.pos += len(word)
	switch word {
	case "":
		p.unknown(line)
	case "VERSION":
		p.db.Version, _, _ = p.quoted(line, endAnywhere)
		p.accept(';')
	case "NS_":
		p.newSymbols()
	case "BS_":
		p.accept(':')
		for p.peek() != 0 && p.peek() != ';' {
			p.pos++
		}
		p.accept(';')
	case "BU_":
		p.nodes(line)
	case "BO_":
		p.messageHead(line)
	case "SG_":
		p.signal(line)
	case "VAL_TABLE_":
		p.valueTable(line)
	case "VAL_":
		p.valueLabels(line)
	case "CM_":
		p.comment(line)
	case "BA_DEF_", "BA_DEF_REL_":
		p.attributeDefinition(line)
	case "BA_DEF_DEF_", "BA_DEF_DEF_REL_":
		p.attributeDefault(line)
	case "BA_":
		p.attributeValue(line)
	case "SIG_VALTYPE_":
		p.signalType(line)
	case "SG_MUL_VAL_":
		p.multiplexValues(line)
	case "BO_TX_BU_":
		p.transmitters(line)
	default: // known by name; nothing in it is of use here
		p.resync()
	}
	if p.pos == from {
		p.pos++ // no statement may be read twice
	}
	return true
}

// unknown leaves out what begins with no keyword.
func (p *parser) unknown(line int) {
	word := p.word()
	if word == "" {
		word = string(p.src[p.pos])
		p.pos++
	}
	p.warn(line, SeverityWarning, "%s is not a statement of a DBC file; left out", shorten(word))
	p.resync()
}

// shorten makes a piece of the file fit for a message.
func shorten(text string) string {
	const most = 40
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return strconv.Quote(text)
}

// finish expects the semicolon of a statement.
func (p *parser) finish(line int, statement string) {
	if p.accept(';') {
		for p.accept(';') {
		}
		return
	}
	if rest := p.peek(); rest != 0 {
		p.warn(line, SeverityWarning, "%s: left out from %s on", statement, shorten(p.word()))
		p.resync()
		return
	}
	from := p.pos
	p.skip()
	if p.pos >= len(p.src) {
		p.warn(line, SeverityWarning, "%s does not end with a semicolon, and the file ends; it may have been cut off here", statement)
	} else {
		p.warn(line, SeverityNote, "%s does not end with a semicolon", statement)
	}
	p.pos = from
}

// fail reports a statement that cannot be used and leaves it.
func (p *parser) fail(line int, format string, args ...any) {
	p.warn(line, SeverityWarning, format, args...)
	p.resync()
}

// quoted reads a string and reports one without an end.
func (p *parser) quoted(line int, ends stringEnd) (text string, ok, sound bool) {
	text, ok, sound = p.text(ends)
	if !sound {
		p.warn(line, SeverityWarning, "a text has no closing quote: %s", shorten(text))
	}
	return text, ok, sound
}

// newSymbols reads past the list of NS_, whose words are keywords: each stands alone on its line.
func (p *parser) newSymbols() {
	p.toLineEnd()
	for {
		from := p.pos
		p.skip()
		for p.pos < len(p.src) && (p.src[p.pos] == '_' || p.src[p.pos] >= 'A' && p.src[p.pos] <= 'Z') {
			p.pos++
		}
		word := p.pos
		for p.pos < len(p.src) && isBlank(p.src[p.pos]) {
			p.pos++
		}
		alone := p.pos >= len(p.src) || p.src[p.pos] == '\n'
		text := strings.TrimSpace(string(p.src[from:word]))
		if text == "" || !alone || text == "BU_" || text == "BS_" || text == "BO_" {
			p.pos = from
			return
		}
	}
}

// nodes reads BU_: the names of the ECUs, over as many lines as it takes.
func (p *parser) nodes(line int) {
	p.accept(':')
	for {
		p.accept(',')
		if p.accept('"') { // quoted names have been seen
			continue
		}
		name := p.word()
		if name == "" {
			break
		}
		p.db.Nodes = append(p.db.Nodes, Node{Name: name})
	}
	p.accept(';')
	if p.peek() == ':' {
		p.fail(line, "BU_: a colon among the names")
	}
}

// messageID reads an identifier as the file writes it. Anything but a number of 32 bits is answered with false.
func messageID(text string) (uint32, bool) {
	text = strings.TrimPrefix(text, "+")
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		id, err = strconv.ParseUint(text, 0, 32) // 0x…
	}
	return uint32(id), err == nil
}

// flagExtendedID marks 29-bit identifiers in a DBC file.
const flagExtendedID = 1 << 31

// messageHead reads BO_ id name : length sender.
func (p *parser) messageHead(line int) {
	p.message, p.orphan = nil, true
	idText := p.word()
	id, ok := messageID(idText)
	if !ok {
		p.warn(line, SeverityError, "BO_ %s: not an identifier of 32 bits; the message is left out", shorten(idText))
		p.toLineEnd()
		return
	}
	name := p.word()
	if name == independentSignals || id == independentID {
		p.toLineEnd()
		return
	}
	if name == "" {
		p.warn(line, SeverityError, "BO_ %d: no name; the message is left out", id)
		p.rejected[rejectedName{id: id}] = true
		p.toLineEnd()
		return
	}
	if !p.accept(':') {
		p.warn(line, SeverityWarning, "BO_ %d %s: no colon behind the name", id, name)
	}
	lengthText := p.word()
	length, err := strconv.ParseUint(lengthText, 10, 32)
	if err != nil || length > maxMessageLength {
		p.warn(line, SeverityError, "BO_ %d %s: length %s; the message is left out", id, name, shorten(lengthText))
		p.rejected[rejectedName{id: id}] = true
		p.toLineEnd()
		return
	}
	m := &Message{Name: name, Length: int(length), Line: line, rawID: id, ID: id &^ flagExtendedID, Extended: id&flagExtendedID != 0}
	switch {
	case m.ID > MaxExtendedID:
		p.warn(line, SeverityError, "BO_ %d %s: the identifier has more than 29 bits; the message is left out", id, name)
		p.rejected[rejectedName{id: id}] = true
		p.toLineEnd()
		return
	case !m.Extended && m.ID > MaxStandardID:
		p.warn(line, SeverityNote, "BO_ %d %s: above 0x7FF without the flag of an extended identifier; read as extended", id, name)
		m.Extended = true
	}
	if p.sameLine() {
		m.Sender = p.word()
	}
	p.accept(';')
	for _, other := range p.byID[id] {
		p.warn(line, SeverityWarning, "BO_ %d %s: the identifier is that of %s in line %d, which comes first and decodes the frames", id, name, other.Name, other.Line)
		break
	}
	p.message, p.orphan = m, false
	p.byID[id] = append(p.byID[id], m)
	p.db.Messages = append(p.db.Messages, m)
	if p.sameLine() && p.peek() != 0 {
		p.warn(line, SeverityNote, "BO_ %d %s: left out from %s on", id, name, shorten(p.word()))
		p.toLineEnd()
	}
}

// sameLine skips blanks and reports whether anything is left on the line.
func (p *parser) sameLine() bool {
	for p.pos < len(p.src) && isBlank(p.src[p.pos]) {
		p.pos++
	}
	return p.pos < len(p.src) && p.src[p.pos] != '\n' && !strings.HasPrefix(string(p.src[p.pos:min(p.pos+2, len(p.src))]), "//")
}
