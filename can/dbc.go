package can

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// Severity says how much a Warning matters.
type Severity uint8

// The severities.
const (
	SeverityNote    Severity = iota // an oddity; nothing is lost by it
	SeverityWarning                 // something was left out or guessed
	SeverityError                   // a message or a signal was left out
)

func (s Severity) String() string {
	switch s {
	case SeverityNote:
		return "note"
	case SeverityWarning:
		return "warning"
	case SeverityError:
		return "error"
	}
	return fmt.Sprintf("severity %d", uint8(s))
}

// Warning is something odd in a DBC file.
type Warning struct {
	Line     int // from 1; 0: the file as a whole
	Severity Severity
	Text     string
}

// Database is what a DBC file says. It does not change after ParseDBC, so that any number of goroutines may read it.
type Database struct {
	Version     string
	Comment     string
	Nodes       []Node
	Messages    []*Message // in the order of the file
	ValueTables map[string][]Label
	Definitions map[string]AttributeDefinition // by attribute name
	Attributes  map[string]Attribute           // of the network as a whole
	Hash        [sha256.Size]byte              // of the file's bytes
	Warnings    []Warning                      // in the order of lines
}

// Node is an ECU on the bus.
type Node struct {
	Name       string
	Comment    string
	Attributes map[string]Attribute
}

// Message is the layout of one frame.
type Message struct {
	Name       string
	ID         uint32 // without flag bits
	Extended   bool
	J1939      bool // the attributes say that the PGN counts, and not the whole identifier
	Length     int  // bytes; above 8 a J1939 message, above 64 any message comes in several frames
	Sender     string
	Senders    []string // BO_TX_BU_
	Comment    string
	Signals    []*Signal
	Attributes map[string]Attribute
	Line       int

	rawID uint32 // as the file writes it, with flag bits: what other statements name it by
}

// Signal returns the first signal of that name, or nil.
func (m *Message) Signal(name string) *Signal {
	for _, s := range m.Signals {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Encoding says how the bits of a signal are read.
type Encoding uint8

// The encodings.
const (
	EncodingInteger Encoding = iota // two's complement or unsigned
	EncodingFloat32                 // IEEE 754 binary32 (SIG_VALTYPE_ 1)
	EncodingFloat64                 // IEEE 754 binary64 (SIG_VALTYPE_ 2)
)

// Signal is one value of a message.
type Signal struct {
	Name       string
	Start      int // bit number as in the file: of the least significant bit, or with BigEndian of the most significant
	Size       int // bits, 1–64
	BigEndian  bool
	Signed     bool
	Encoding   Encoding
	Scale      float64 // physical = raw × Scale + Offset
	Offset     float64
	Min, Max   float64 // as the file says; values are never clamped. Both 0: not said
	Unit       string
	Receivers  []string
	Comment    string
	Labels     []Label
	Attributes map[string]Attribute
	Line       int

	// Multiplexor is the signal that switches this one, nil when it is always there. The signal is there when the
	// multiplexor is there and its raw value lies in one of the ranges.
	Multiplexor *Signal
	Ranges      []MuxRange
	// Switch reports that other signals hang on this one.
	Switch bool
	// Unreachable reports that the file does not say when the signal is there; it is never decoded.
	Unreachable bool

	muxMark  string     // m3, M, m3M as the file writes it
	muxNames []muxNamed // SG_MUL_VAL_
}

// MuxRange is a closed range of a multiplexor's raw values.
type MuxRange struct{ First, Last uint64 }

type muxNamed struct {
	multiplexor string
	ranges      []MuxRange
	line        int
}

// Label is the text of one raw value.
type Label struct {
	Value int64 // an unsigned value above the signed range keeps its bits
	Text  string
}

// Label returns the text of a raw value.
func (s *Signal) Label(raw int64) (string, bool) {
	for _, l := range s.Labels {
		if l.Value == raw {
			return l.Text, true
		}
	}
	return "", false
}

// AttributeDefinition is a BA_DEF_ and its default.
type AttributeDefinition struct {
	Name    string
	Object  string // BU_, BO_, SG_, EV_, or "" for the network; BU_BO_REL_ and its like for relations
	Type    string // INT, HEX, FLOAT, STRING, ENUM
	Enum    []string
	Default string
	hasDef  bool
}

// Attribute is the value of an attribute as text; enumerations are resolved to their name.
type Attribute struct {
	Text string
	Line int
}

// messageAttribute returns an attribute of a message: its own value, else the definition's default. own tells them apart.
func (db *Database) messageAttribute(m *Message, name string) (text string, own, ok bool) {
	if a, found := m.Attributes[name]; found {
		return a.Text, true, true
	}
	d, found := db.Definitions[name]
	return d.Default, false, found && d.hasDef
}

// networkAttribute returns an attribute of the network; an empty value falls back to the definition's default.
func (db *Database) networkAttribute(name string) string {
	if a, found := db.Attributes[name]; found && strings.TrimSpace(a.Text) != "" {
		return a.Text
	}
	return db.Definitions[name].Default
}

// Message returns the first message of that name, or nil.
func (db *Database) Message(name string) *Message {
	for _, m := range db.Messages {
		if m.Name == name {
			return m
		}
	}
	return nil
}
