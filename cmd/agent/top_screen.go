package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/waybill-telematics/waybill/internal/local"
)

// Orders of the signals.
const (
	orderConfigured = iota
	orderName
	orderRate
	orders
)

var orderNames = [orders]string{"as configured", "by name", "by rate"}

// topScreen is where the viewer is. It belongs to one goroutine.
type topScreen struct {
	first     int // row at the top
	order     int
	search    string
	searching bool   // what is typed is the search
	escape    string // of a key that sends several bytes, what came so far
	page      int    // rows on the screen at the last draw
}

// Keys. Those of several bytes are as a VT220 and xterm send them.
const (
	keyInterrupt = 3
	keyEscape    = 27
	keyBackspace = 8
	keyDelete    = 127
)

// press takes a byte of what is typed. True: the end.
func (s *topScreen) press(b byte) bool {
	if s.escape != "" {
		s.sequence(b)
		return false
	}
	switch {
	case b == keyInterrupt:
		return true
	case b == keyEscape:
		s.escape = "\x1b"
	case s.searching:
		s.letter(b)
	case b == 'q':
		return true
	case b == '/':
		s.searching, s.search, s.first = true, "", 0
	case b == 'o':
		s.order = (s.order + 1) % orders
	case b == 'k':
		s.first--
	case b == 'j':
		s.first++
	case b == ' ':
		s.first += s.page
	}
	return false
}

func (s *topScreen) letter(b byte) {
	switch {
	case b == '\r' || b == '\n':
		s.searching = false
	case b == keyBackspace || b == keyDelete:
		if runes := []rune(s.search); len(runes) > 0 {
			s.search = string(runes[:len(runes)-1])
		}
	case b >= ' ' && len(s.search) < 100:
		s.search += string(rune(b))
	}
	s.first = 0
}

// sequence takes a further byte of a key that sends several.
func (s *topScreen) sequence(b byte) {
	s.escape += string(rune(b))
	switch s.escape {
	case "\x1b[A", "\x1bOA":
		s.first--
	case "\x1b[B", "\x1bOB":
		s.first++
	case "\x1b[5~":
		s.first -= s.page
	case "\x1b[6~":
		s.first += s.page
	case "\x1b[", "\x1bO", "\x1b[5", "\x1b[6":
		return
	default:
		if len(s.escape) < 8 && b < '@' {
			return // of a key that means nothing here, not at its end
		}
	}
	s.escape = ""
}

// settle is called when no further byte came: an Escape that stood alone drops the search.
func (s *topScreen) settle() {
	if s.escape == "\x1b" {
		s.searching, s.search, s.first = false, "", 0
	}
	s.escape = ""
}

// draw makes the whole screen, so many columns and rows.
func (s *topScreen) draw(v topView, width, height int) []byte {
	var lines []string
	if v.state == nil {
		lines = append(lines, bold+cut("waybill-agent top", width)+plain)
	} else {
		for i, line := range overview(v.state) {
			switch line = cut(line, width); {
			case i == 0:
				line = bold + line + plain
			case strings.HasPrefix(line, "ALARM"):
				line = reverse + line + plain
			}
			lines = append(lines, line)
		}
	}
	if v.fault != "" {
		lines = slices.Insert(lines, 1, reverse+cut("not connected: "+v.fault, width)+plain)
	}
	if most := max(height-4, 1); len(lines) > most { // some signals are always seen
		lines = append(lines[:most-1], cut(fmt.Sprintf("… %d more lines: waybill-agent status", len(lines)-most+1), width))
	}
	rows := s.choose(v.rows)
	s.page = max(height-len(lines)-2, 0)
	s.first = max(min(s.first, len(rows)-s.page), 0)
	lines = append(lines, bold+cut(heading(width), width)+plain)
	for _, row := range rows[s.first:min(s.first+s.page, len(rows))] {
		lines = append(lines, cut(row.line(width), width))
	}
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:min(len(lines), max(height-1, 0))], s.foot(len(rows), width))
	var out bytes.Buffer
	out.WriteString(screenHome)
	for i, line := range lines[max(len(lines)-height, 0):] {
		if i > 0 {
			out.WriteString("\r\n")
		}
		out.WriteString(line + lineClear)
	}
	out.WriteString(screenRest)
	return out.Bytes()
}

// foot is the last line: what the keys do, or the search.
func (s *topScreen) foot(rows, width int) string {
	if s.searching {
		return reverse + cut("/"+s.search+"_", width) + plain
	}
	text := fmt.Sprintf("q end  / search  o order (%s)  %d–%d of %d signals", orderNames[s.order], min(s.first+1, rows),
		min(s.first+s.page, rows), rows)
	if s.search != "" {
		text += fmt.Sprintf(" with %q", s.search)
	}
	return reverse + cut(text, width) + plain
}

// choose takes the rows that are searched for, in their order.
func (s *topScreen) choose(all []topRow) []topRow {
	rows := make([]topRow, 0, len(all))
	for _, r := range all {
		if s.search == "" || strings.Contains(strings.ToLower(r.name), strings.ToLower(s.search)) {
			rows = append(rows, r)
		}
	}
	switch s.order {
	case orderName:
		slices.SortStableFunc(rows, func(a, b topRow) int { return cmp.Compare(a.name, b.name) })
	case orderRate:
		slices.SortStableFunc(rows, func(a, b topRow) int { return cmp.Compare(b.rate, a.rate) })
	}
	return rows
}

// Columns of the table beside the name, which has the rest.
const (
	valueColumn   = 14
	unitColumn    = 6
	rateColumn    = 6
	ageColumn     = 5
	historyColumn = 10
	leastName     = 16
)

func nameColumn(width int) int {
	return max(width-valueColumn-unitColumn-rateColumn-ageColumn-historyColumn-5, leastName)
}

func heading(width int) string {
	return fmt.Sprintf("%-*s %*s %-*s %*s %*s %s", nameColumn(width), "signal", valueColumn, "value", unitColumn, "unit",
		rateColumn, "per s", ageColumn, "age", "last 10 s")
}

func (r topRow) line(width int) string {
	old := "–"
	if r.ageS >= 0 {
		old = age(r.ageS)
	}
	name, n := printable(r.name), nameColumn(width)
	if runes := []rune(name); len(runes) > n { // the end tells more than the beginning
		name = "…" + string(runes[len(runes)-n+1:])
	}
	return fmt.Sprintf("%-*s %*s %-*s %*.1f %*s %s", n, name, valueColumn, cut(r.value, valueColumn), unitColumn, cut(r.unit,
		unitColumn), rateColumn, r.rate, ageColumn, old, sparkline(r.history, historyColumn))
}

var bars = []rune("▁▂▃▄▅▆▇█")

// sparkline draws the last points between their least and greatest; what is missing is a blank.
func sparkline(history []local.Number, points int) string {
	history = history[max(len(history)-points, 0):]
	low, high := math.Inf(1), math.Inf(-1)
	for _, n := range history {
		if n.Known() {
			low, high = min(low, float64(n)), max(high, float64(n))
		}
	}
	var text strings.Builder
	for _, n := range history {
		switch {
		case !n.Known():
			text.WriteByte(' ')
		case high-low <= 0 || math.IsInf(high-low, 0):
			text.WriteRune(bars[0])
		default:
			text.WriteRune(bars[int(math.Round((float64(n)-low)/(high-low)*float64(len(bars)-1)))])
		}
	}
	return text.String()
}
