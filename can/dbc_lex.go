package can

import (
	"bytes"
	"sort"
)

// keywords are the words that begin a statement of a DBC file.
var keywords = map[string]bool{
	"VERSION": true, "NS_": true, "BS_": true, "BU_": true, "BO_": true, "SG_": true, "BO_TX_BU_": true,
	"CM_": true, "BA_": true, "BA_DEF_": true, "BA_DEF_DEF_": true, "BA_REL_": true, "BA_DEF_REL_": true,
	"BA_DEF_DEF_REL_": true, "VAL_": true, "VAL_TABLE_": true, "SIG_VALTYPE_": true, "SG_MUL_VAL_": true,
	"SIG_GROUP_": true, "EV_": true, "EV_DATA_": true, "ENVVAR_DATA_": true, "BU_EV_REL_": true, "BU_BO_REL_": true,
	"BU_SG_REL_": true, "SGTYPE_": true, "SGTYPE_VAL_": true, "SIG_TYPE_REF_": true, "SIGTYPE_VALTYPE_": true,
	"BA_DEF_SGTYPE_": true, "BA_SGTYPE_": true, "CAT_DEF_": true, "CAT_": true, "FILTER": true, "NS_DESC_": true,
}

// longestKeyword bounds what is looked at when a line is asked for its keyword.
const longestKeyword = len("SIGTYPE_VALTYPE_")

// lexer walks over the bytes of a DBC file. Its readers never cross the line on which another statement begins, so that
// a statement that is cut or odd cannot swallow the one behind it.
type lexer struct {
	src   []byte
	pos   int
	lines []int // offsets at which lines begin
	open  bool  // a /* has no end: none behind it has one either
}

func newLexer(src []byte) *lexer {
	l := &lexer{src: src, lines: []int{0}}
	for i, c := range src {
		if c == '\n' {
			l.lines = append(l.lines, i+1)
		}
	}
	return l
}

// lineOf is the number of the line that holds an offset, from 1.
func (l *lexer) lineOf(offset int) int { return sort.SearchInts(l.lines, offset+1) }

// line is the number of the line at which the lexer stands.
func (l *lexer) line() int { return l.lineOf(l.pos) }

func isBlank(c byte) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v' || c == 0x1A
}

// skip goes over blanks, newlines and comments, whatever comes next.
func (l *lexer) skip() {
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		switch {
		case isBlank(c) || c == '\n':
			l.pos++
		case bytes.HasPrefix(l.src[l.pos:], []byte("//")):
			l.toLineEnd()
		case bytes.HasPrefix(l.src[l.pos:], []byte("/*")):
			end := -1
			if !l.open {
				end = bytes.Index(l.src[l.pos+2:], []byte("*/"))
				l.open = end < 0
			}
			if l.open {
				return
			}
			l.pos += 2 + end + 2
		default:
			return
		}
	}
}

// toLineEnd leaves out what is left on the line.
func (l *lexer) toLineEnd() {
	end := bytes.IndexByte(l.src[l.pos:], '\n')
	if end < 0 {
		l.pos = len(l.src)
		return
	}
	l.pos += end
}

// more skips blanks and reports whether the statement goes on: false at the end of the file and where a line begins
// another statement.
func (l *lexer) more() bool {
	from := l.pos
	l.skip()
	if l.pos < len(l.src) && (bytes.IndexByte(l.src[from:l.pos], '\n') < 0 || l.keywordHere() == "") {
		return true
	}
	l.pos = from
	return false
}

// innerQuoteReach is how far behind a quote that may close a string a better one is looked for, in bytes.
const innerQuoteReach = 4096

// keywordHere returns the keyword at the lexer's place, which is taken to be the first of its line, or "".
func (l *lexer) keywordHere() string {
	rest := l.src[l.pos:]
	n := 0
	for n < len(rest) && n <= longestKeyword && (rest[n] == '_' || rest[n] >= 'A' && rest[n] <= 'Z') {
		n++
	}
	if word := string(rest[:n]); keywords[word] && (n == len(rest) || rest[n] == ':' || rest[n] == '"' || rest[n] == '\n' || isBlank(rest[n])) {
		return word
	}
	return ""
}

// peek is the next byte of the statement, 0 at its end.
func (l *lexer) peek() byte {
	if !l.more() {
		return 0
	}
	return l.src[l.pos]
}

// accept takes the byte c if it comes next.
func (l *lexer) accept(c byte) bool {
	if l.peek() != c || c == 0 {
		return false
	}
	l.pos++
	return true
}

// word reads up to a blank or one of `:;,"` and returns "" where the statement ends. Names in the wild begin with digits
// and hold signs and dots, so nothing more is asked of them.
func (l *lexer) word() string {
	if !l.more() {
		return ""
	}
	from := l.pos
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		if isBlank(c) || c == '\n' || c == ':' || c == ';' || c == ',' || c == '"' {
			break
		}
		l.pos++
	}
	return decodeText(l.src[from:l.pos])
}

// number reads a run of what numbers are made of.
func (l *lexer) number() string {
	if !l.more() {
		return ""
	}
	from := l.pos
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		if c != '+' && c != '-' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '#' {
			break
		}
		l.pos++
	}
	return string(l.src[from:l.pos])
}

// stringEnd decides whether the quote before rest closes a string.
type stringEnd func(rest []byte) bool

// text reads a quoted string. ok is false when none begins here. sound is false when its end had to be guessed: no quote
// closes it before another statement begins. Statements within a comment, which somebody took out, are text.
//
// Quotes inside a string happen, escaped or bare; ends says which quote can close this one. When no quote will do, the
// first one does.
func (l *lexer) text(ends stringEnd) (text string, ok, sound bool) {
	if !l.accept('"') {
		return "", false, true
	}
	from, first := l.pos, -1
	end := -1
scan:
	for i := from; i < len(l.src); i++ {
		if first >= 0 && i-first > innerQuoteReach {
			break
		}
		switch l.src[i] {
		case '"':
			if i > from && l.src[i-1] == '\\' && !ends(l.src[i+1:]) {
				continue
			}
			if first < 0 {
				first = i
			}
			if ends(l.src[i+1:]) {
				end = i
				break scan
			}
		case '\n':
			if l.statementAt(i+1) && (first >= 0 || !closedBehind(l.src[i:])) {
				if first < 0 {
					l.pos = i
					return unescape(bytes.TrimRight(l.src[from:i], "\r \t")), true, false
				}
				break scan
			}
		}
	}
	switch {
	case end >= 0:
	case first >= 0:
		end = first
	default:
		l.pos = len(l.src)
		return unescape(l.src[from:]), true, false
	}
	l.pos = end + 1
	return unescape(l.src[from:end]), true, true
}

// closedBehind reports whether the next quote stands before a semicolon, as only one that closes a string does: what looks
// like a statement is then a line of a comment.
func closedBehind(rest []byte) bool {
	rest = rest[:min(len(rest), innerQuoteReach)]
	quote := bytes.IndexByte(rest, '"')
	if quote < 0 {
		return false
	}
	rest = bytes.TrimLeft(rest[quote+1:], " \t\r")
	return len(rest) > 0 && rest[0] == ';'
}

func unescape(raw []byte) string {
	return decodeText(bytes.ReplaceAll(raw, []byte(`\"`), []byte(`"`)))
}

// endAnywhere closes a string at the first quote.
func endAnywhere([]byte) bool { return true }

// endInList closes a string before a comma too.
func endInList(rest []byte) bool {
	i := 0
	for i < len(rest) && isBlank(rest[i]) {
		i++
	}
	return i < len(rest) && rest[i] == ',' || endBeforeSemicolon(rest)
}

// endUnit closes the unit of a signal at the last quote of its line: an inch sign is a quote.
func endUnit(rest []byte) bool {
	if end := bytes.IndexAny(rest, "\"\n"); end >= 0 && rest[end] == '"' {
		return bytes.Contains(rest[:end], []byte("//"))
	}
	return true
}

// endBeforeSemicolon closes a string before a semicolon, or before the end of a line behind which a statement begins.
func endBeforeSemicolon(rest []byte) bool {
	i, newline := 0, false
	for i < len(rest) && (isBlank(rest[i]) || rest[i] == '\n') {
		newline = newline || rest[i] == '\n'
		i++
	}
	if i == len(rest) || rest[i] == ';' {
		return true
	}
	return newline && (&lexer{src: rest, pos: i}).keywordHere() != ""
}

// endBeforeNumber closes a string of a value list: behind it comes the next number, or the end.
func endBeforeNumber(rest []byte) bool {
	i := 0
	for i < len(rest) && (isBlank(rest[i]) || rest[i] == '\n') {
		i++
	}
	if endBeforeSemicolon(rest) {
		return true
	}
	from := i
	for i < len(rest) && i-from < 32 && (rest[i] >= '0' && rest[i] <= '9' || rest[i] == '-' || rest[i] == '+' || rest[i] == '.') {
		i++
	}
	if i == from {
		return false
	}
	for i < len(rest) && isBlank(rest[i]) {
		i++
	}
	return i < len(rest) && (rest[i] == '"' || rest[i] == '\n')
}

// statementAt reports whether a statement unmistakably begins on the line at an offset: its keyword and the shape of
// what follows. A line of a longer comment may well begin with a keyword alone.
func (l *lexer) statementAt(offset int) bool {
	for offset < len(l.src) && isBlank(l.src[offset]) {
		offset++
	}
	probe := lexer{src: l.src, pos: offset}
	word := probe.keywordHere()
	if word == "" {
		return false
	}
	end := bytes.IndexByte(l.src[offset:], '\n')
	if end < 0 {
		end = len(l.src) - offset
	}
	rest := bytes.TrimLeft(l.src[offset+len(word):offset+end], " \t")
	if len(rest) == 0 {
		return false
	}
	digit := rest[0] >= '0' && rest[0] <= '9'
	switch word {
	case "BO_":
		return digit && bytes.IndexByte(rest, ':') > 0
	case "SG_":
		return bytes.IndexByte(rest, ':') > 0 && bytes.IndexByte(rest, '|') > 0 && bytes.IndexByte(rest, '@') > 0
	case "BU_", "BS_", "NS_":
		return rest[0] == ':'
	case "VAL_", "BO_TX_BU_", "SIG_VALTYPE_", "SG_MUL_VAL_", "SIG_GROUP_":
		return digit
	case "CM_", "BA_", "BA_DEF_", "BA_DEF_DEF_", "BA_REL_", "BA_DEF_REL_", "BA_DEF_DEF_REL_":
		return bytes.IndexByte(rest, '"') >= 0
	case "VAL_TABLE_":
		return bytes.IndexByte(rest, '"') >= 0 || bytes.IndexByte(rest, ';') >= 0
	}
	return false
}

// resync gives a statement up: it goes behind the next semicolon, or to the next line that begins a statement,
// whichever comes first.
func (l *lexer) resync() {
	for l.more() {
		switch l.src[l.pos] {
		case ';':
			l.pos++
			return
		case '"':
			l.text(endAnywhere)
		default:
			l.pos++
		}
	}
}
