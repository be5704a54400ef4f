package main

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/waybill-telematics/waybill/can"
)

// recordConfig is what is written behind record: one word or a list, each as it is written, since 123 is hexadecimal here
// and a number to YAML.
type recordConfig []string

// UnmarshalYAML takes a word for a list of one.
func (r *recordConfig) UnmarshalYAML(node *yaml.Node) error {
	items := []*yaml.Node{node}
	if node.Kind == yaml.SequenceNode {
		items = node.Content
	}
	*r = recordConfig{} // there, if empty
	for _, item := range items {
		if item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		if item.Kind != yaml.ScalarNode {
			return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: record wants all, or a list of identifiers such as [123, 18FEF100, 100-1FF]", item.Line)}}
		}
		*r = append(*r, item.Value)
	}
	return nil
}

// recordSettings say which frames of a bus are recorded.
type recordSettings struct {
	all    bool
	errors bool        // error frames; with all they are among the rest
	base   []idPattern // 11-bit identifiers
	long   []idPattern // 29-bit identifiers
}

// idPattern holds the identifiers from first to last whose bits in mask are those of first.
type idPattern struct{ first, last, mask uint32 }

// maxRecordItems bounds the list: each frame is compared with it.
const maxRecordItems = 256

func (r *recordSettings) on() bool { return r.all || r.errors || len(r.base)+len(r.long) > 0 }

// has says whether a frame is recorded, remote frames like data frames.
func (r *recordSettings) has(f *can.Frame) bool {
	switch {
	case r.all:
		return true
	case f.Flags&can.FlagError != 0:
		return r.errors
	case f.Extended():
		return hasID(r.long, f.ID)
	}
	return hasID(r.base, f.ID)
}

func hasID(list []idPattern, id uint32) bool {
	for i := range list {
		if p := &list[i]; id >= p.first && id <= p.last && (id^p.first)&p.mask == 0 {
			return true
		}
	}
	return false
}

// filters are kernel filters that let through what is recorded, and data and remote frames alike.
func (r *recordSettings) filters() (list []can.Filter, all bool) {
	if r.all {
		return nil, true
	}
	for _, p := range r.base {
		list = p.appendFilters(list, 0, can.MaxStandardID)
	}
	for _, p := range r.long {
		list = p.appendFilters(list, rawEFF, can.MaxExtendedID)
	}
	return list, false
}

// appendFilters cuts a range into blocks of a power of two, as a network's addresses are.
func (p idPattern) appendFilters(list []can.Filter, format, whole uint32) []can.Filter {
	if p.mask != 0 {
		return append(list, can.Filter{ID: p.first | format, Mask: p.mask | rawEFF})
	}
	for first := p.first; first <= p.last; {
		size := uint32(1) << bits.TrailingZeros32(first|(whole+1))
		for size-1 > p.last-first {
			size /= 2
		}
		list = append(list, can.Filter{ID: first | format, Mask: whole&^(size-1) | rawEFF})
		first += size
	}
	return list
}

// record checks record: of a bus.
func (c *checker) record(raw recordConfig, bus int) recordSettings {
	var r recordSettings
	if raw == nil {
		return r
	}
	at := []any{"can", bus, "record"}
	const want = "want all, or a list of error and of hexadecimal identifiers as candump prints them, three digits (11 bits) or eight (29 bits), " +
		"each with x for any digit, or a range: [123, 18FEF1xx, 100-1FF]"
	if len(raw) == 0 || len(raw) > maxRecordItems {
		c.fail(fmt.Sprintf("%s; 1 to %d of them, got %d", want, maxRecordItems, len(raw)), at...)
	}
	for i, item := range raw {
		switch {
		case item == "all":
			if r.all = true; len(raw) > 1 {
				c.fail("all is everything; leave the others out", append(at, i)...)
			}
			continue
		case item == "error":
			r.errors = true
			continue
		}
		p, long, err := parseIDPattern(item)
		switch {
		case err != nil:
			c.fail(fmt.Sprintf("%q: %v; %s", item, err, want), append(at, i)...)
		case long:
			r.long = append(r.long, p)
		default:
			r.base = append(r.base, p)
		}
	}
	return r
}

// parseIDPattern reads an identifier, one with x in it, or a range; long says that it has 29 bits.
func parseIDPattern(text string) (p idPattern, long bool, err error) {
	low, high, ranged := strings.Cut(text, "-")
	first, free, digits, err := parseIDText(low)
	if err != nil {
		return p, false, err
	}
	limit := uint32(can.MaxStandardID)
	if long = digits == 8; long {
		limit = can.MaxExtendedID
	}
	p = idPattern{first: first, last: first | free, mask: 0}
	switch {
	case ranged:
		var lastFree uint32
		var lastDigits int
		if p.last, lastFree, lastDigits, err = parseIDText(high); err != nil {
			return p, false, err
		}
		if lastDigits != digits || free|lastFree != 0 || p.last < p.first {
			return p, false, fmt.Errorf("want two identifiers of one length, the lower one first")
		}
	case free != 0:
		p.last, p.mask = min(p.last, limit), limit&^free
	}
	if p.first > limit || p.last > limit {
		return p, false, fmt.Errorf("want at most %X", limit)
	}
	return p, long, nil
}

// parseIDText reads the digits of an identifier; free has the bits of those that may be any.
func parseIDText(text string) (id, free uint32, digits int, err error) {
	text = strings.TrimSpace(text)
	if rest, ok := strings.CutPrefix(text, "0x"); ok && len(text) != 3 { // 0xx is a pattern
		text = rest
	}
	if len(text) != 3 && len(text) != 8 {
		return 0, 0, 0, fmt.Errorf("%d digits", len(text))
	}
	value, err := strconv.ParseUint(strings.ReplaceAll(text, "x", "0"), 16, 32)
	if err != nil || strings.ContainsAny(text, "_+-") {
		return 0, 0, 0, fmt.Errorf("not hexadecimal digits")
	}
	for i := range len(text) {
		free <<= 4
		if text[i] == 'x' {
			free |= 15
		}
	}
	return uint32(value), free, len(text), nil
}
