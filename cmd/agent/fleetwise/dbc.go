package fleetwise

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Limits of CAN identifiers.
const (
	maxStandard = 0x7FF
	maxExtended = 0x1FFFFFFF
	extendedBit = 1 << 31 // of identifiers in DBC files
)

// message is one of a DBC file.
type message struct {
	id      uint32 // without flags
	name    string
	length  uint32 // bytes
	signals []placed
}

// placed is a signal with its place in a DBC file.
type placed struct {
	CANSignal
	name  string
	start uint32 // as DBC files count it: the most significant bit where the most significant byte comes first
}

// place finds a signal's first bit for a DBC file, and the bytes that a frame needs for it.
func (c *CANSignal) place() (start, bytes uint32, err error) {
	switch {
	case c.Length < 1 || c.Length > 64:
		return 0, 0, fmt.Errorf("has %d bits, which no CAN signal has", c.Length)
	case c.Float && c.Length != 32 && c.Length != 64:
		return 0, 0, fmt.Errorf("is a floating point number of %d bits", c.Length)
	case c.Message&^extendedBit > maxExtended:
		return 0, 0, fmt.Errorf("is of message %#x, which has no CAN identifier", c.Message)
	case c.Factor == 0 || c.Factor-c.Factor != 0 || c.Offset-c.Offset != 0:
		return 0, 0, fmt.Errorf("has the factor %g and the offset %g", c.Factor, c.Offset)
	case c.StartBit >= 512:
		return 0, 0, fmt.Errorf("begins at bit %d, which no frame has", c.StartBit)
	}
	start, bytes = c.StartBit, (c.StartBit+c.Length+7)/8
	if c.BigEndian {
		// Counted in the order of sending, the most significant bit comes Length-1 bits before the least significant one.
		last := c.StartBit/8*8 + 7 - c.StartBit%8
		if last+1 < c.Length {
			return 0, 0, fmt.Errorf("begins before the frame: %d bits that end at bit %d", c.Length, c.StartBit)
		}
		first := last + 1 - c.Length
		start, bytes = first/8*8+7-first%8, last/8+1
	}
	if bytes > 64 {
		return 0, 0, fmt.Errorf("ends in byte %d, which no frame has", bytes)
	}
	return start, bytes, nil
}

// frameLength is the least length of a frame with so many bytes (ISO 11898-1, DLC).
func frameLength(bytes uint32) uint32 {
	for _, n := range []uint32{8, 12, 16, 20, 24, 32, 48} {
		if bytes <= 8 {
			return bytes
		}
		if bytes <= n {
			return n
		}
	}
	return 64
}

// messages groups the signals of a bus. Their names are made of the fully qualified ones: the last part is the signal's, the
// part before it the message's, if all of its signals have it.
func (s *Source) messages(signals []CANSignal) []message {
	byID := map[uint32]*message{}
	for _, c := range signals {
		start, bytes, err := c.place()
		if err != nil {
			s.lost("signal %s %v", c.Name, err)
			continue
		}
		id := c.Message &^ extendedBit
		if c.Message&extendedBit != 0 && id <= maxStandard {
			s.lost("signal %s is of message %#x, a long identifier with a short number", c.Name, c.Message)
			continue
		}
		m := byID[id]
		if m == nil {
			m = &message{id: id, name: parent(c.Name)}
			byID[id] = m
		}
		if m.name != parent(c.Name) {
			m.name = ""
		}
		m.length = max(m.length, frameLength(bytes))
		m.signals = append(m.signals, placed{c, "", start})
	}
	list := slices.SortedFunc(maps.Values(byID), func(a, b *message) int { return cmp.Compare(a.id, b.id) })
	names := map[string]bool{}
	var sorted []message
	for _, m := range list {
		if m.name = identifier(m.name, "Message"); m.name == "Message" {
			m.name = fmt.Sprintf("Message_%X", m.id)
		}
		if names[m.name] {
			m.name = fmt.Sprintf("%s_%X", m.name, m.id)
		}
		names[m.name] = true
		used := map[string]bool{}
		for i := range m.signals {
			m.signals[i].name = unique(identifier(last(m.signals[i].Name), "Signal"), used)
		}
		sorted = append(sorted, *m)
	}
	return sorted
}

// unique adds a number to a name that is used already.
func unique(name string, used map[string]bool) string {
	free := name
	for n := 2; used[free]; n++ {
		free = fmt.Sprintf("%s_%d", name, n)
	}
	used[free] = true
	return free
}

func last(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

func parent(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return last(name[:i])
	}
	return ""
}

// identifier makes a C identifier of a name, as DBC files want it.
func identifier(name, otherwise string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
	if clean == "" {
		return otherwise
	}
	if clean[0] >= '0' && clean[0] <= '9' {
		clean = "_" + clean
	}
	return clean[:min(len(clean), 100)]
}

// dbc writes the file. Comments have the names that the signals had.
func dbc(messages []message) string {
	var b, comments strings.Builder
	b.WriteString("VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_:\n\n")
	float := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	for _, m := range messages {
		id := m.id
		if id > maxStandard {
			id |= extendedBit
		}
		fmt.Fprintf(&b, "BO_ %d %s: %d Vector__XXX\n", id, m.name, m.length)
		for _, s := range m.signals {
			order, sign := 1, '+'
			if s.BigEndian {
				order = 0
			}
			if s.Signed || s.Float {
				sign = '-'
			}
			fmt.Fprintf(&b, " SG_ %s : %d|%d@%d%c (%s,%s) [0|0] \"\" Vector__XXX\n",
				s.name, s.start, s.Length, order, sign, float(s.Factor), float(s.Offset))
			fmt.Fprintf(&comments, "CM_ SG_ %d %s \"%s\";\n", id, s.name, plain(s.Name))
			if s.Float {
				fmt.Fprintf(&comments, "SIG_VALTYPE_ %d %s : %d;\n", id, s.name, s.Length/32)
			}
		}
		b.WriteString("\n")
	}
	return b.String() + comments.String()
}

// plain makes text that stands in a DBC string or a YAML comment.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '"' || r == '\\' || r == 0xFFFD || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, text)
}
