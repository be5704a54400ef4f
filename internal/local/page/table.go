package page

import (
	"encoding/json"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/internal/local"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// period is from one beat of a stream, and one point of a history, to the next.
const period = time.Second

// rateBeats is over how many beats a rate is taken.
const rateBeats = 5

// Table holds the latest value of each signal while somebody looks. Take may be called at any time and is nearly free while
// nobody does; it allocates nothing. The table is safe for use from several goroutines.
type Table struct {
	fixed []fixed // by signal id
	on    atomic.Bool

	mu    sync.Mutex // guards what follows
	rows  []row      // by signal id; nil while nobody looks
	beats int        // since it was switched on
}

// fixed is what never changes of a signal.
type fixed struct {
	shown         bool
	scale, offset float64
	labels        map[int64]string
	head          []byte // its members of JSON up to the history
}

// row is what was seen of a signal.
type row struct {
	last    telemetrypb.Sample
	seen    bool
	changed bool // since the last beat
	count   uint32
	counts  [rateBeats]uint32 // of the last beats
	told    float64           // the rate that was told last
	history [local.HistoryPoints]local.Number
	points  int // ever written to history
}

// Shown is a signal of the table.
type Shown struct {
	*telemetrypb.Signal
	Lane string // event, telemetry; "": only rules look at it
}

// NewTable makes a table of some of a catalogue's signals.
func NewTable(signals []Shown) *Table {
	t := &Table{}
	for _, s := range signals {
		for int(s.GetId()) >= len(t.fixed) {
			t.fixed = append(t.fixed, fixed{})
		}
		f := fixed{shown: true, scale: s.GetScale(), offset: s.GetOffset()}
		if len(s.GetLabels()) > 0 {
			f.labels = make(map[int64]string, len(s.GetLabels()))
			for _, l := range s.GetLabels() {
				f.labels[l.GetValue()] = l.GetText()
			}
		}
		f.head = append(f.head, `{"name":`...)
		f.head = appendText(f.head, s.GetName())
		f.head = append(f.head, `,"unit":`...)
		f.head = appendText(f.head, s.GetUnit())
		f.head = append(f.head, `,"source":`...)
		f.head = appendText(f.head, s.GetSource())
		f.head = append(f.head, `,"comment":`...)
		f.head = appendText(f.head, s.GetComment())
		f.head = append(f.head, `,"lane":`...)
		f.head = appendText(f.head, s.Lane)
		f.head = append(f.head, `,"history":[`...)
		t.fixed[s.GetId()] = f
	}
	return t
}

// Take sees samples as they come.
func (t *Table) Take(samples []telemetrypb.Sample) {
	if !t.on.Load() || len(samples) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range samples {
		s := &samples[i]
		if int64(s.Signal) >= int64(len(t.rows)) || !t.fixed[s.Signal].shown {
			continue
		}
		r := &t.rows[s.Signal]
		r.last, r.seen, r.changed = *s, true, true
		r.count++
	}
}

// start begins to look.
func (t *Table) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows, t.beats = make([]row, len(t.fixed)), 0
	t.on.Store(true)
}

// stop forgets everything.
func (t *Table) stop() {
	t.on.Store(false)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = nil
}

// beat ends a period: it appends the Values of what changed in it.
func (t *Table) beat(dst []byte, boot int64) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	dst = append(dst, `{"boot_ms":`...)
	dst = strconv.AppendInt(dst, boot/1e6, 10)
	dst = append(dst, `,"values":[`...)
	t.beats++
	first := true
	for id := range t.rows {
		r := &t.rows[id]
		if !r.seen {
			continue
		}
		r.counts[t.beats%rateBeats], r.count = r.count, 0
		f := &t.fixed[id]
		r.history[r.points%local.HistoryPoints] = f.number(&r.last)
		r.points++
		if rate := t.rate(r); rate != r.told || r.changed {
			r.told, r.changed = rate, false
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = append(dst, '{')
			dst = t.appendValue(dst, id)
			dst = append(dst, '}')
		}
	}
	return append(dst, "]}"...)
}

// rate is in samples/s over the last beats.
func (t *Table) rate(r *row) float64 {
	sum := uint32(0)
	for _, n := range r.counts {
		sum += n
	}
	return float64(sum) / (float64(min(t.beats, rateBeats)) * period.Seconds())
}

// all appends the Signals with what is known of them.
func (t *Table) all(dst []byte, boot int64) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	dst = append(dst, `{"format":`...)
	dst = strconv.AppendInt(dst, local.Format, 10)
	dst = append(dst, `,"boot_ms":`...)
	dst = strconv.AppendInt(dst, boot/1e6, 10)
	dst = append(dst, `,"period_s":`...)
	dst = strconv.AppendFloat(dst, period.Seconds(), 'g', -1, 64)
	dst = append(dst, `,"signals":[`...)
	first := true
	for id := range t.rows {
		if !t.fixed[id].shown {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, t.fixed[id].head...)
		r := &t.rows[id]
		for i := max(r.points-local.HistoryPoints, 0); i < r.points; i++ {
			if dst[len(dst)-1] != '[' {
				dst = append(dst, ',')
			}
			dst = appendNumber(dst, r.history[i%local.HistoryPoints])
		}
		dst = append(dst, "],"...)
		dst = t.appendValue(dst, id)
		dst = append(dst, '}')
	}
	return append(dst, "]}"...)
}

// appendValue appends the members of a Value.
func (t *Table) appendValue(dst []byte, id int) []byte {
	f, r := &t.fixed[id], &t.rows[id]
	number, text := local.Missing(), ""
	if r.seen {
		number, text = f.number(&r.last), f.text(&r.last)
	}
	dst = append(dst, `"id":`...)
	dst = strconv.AppendInt(dst, int64(id), 10)
	dst = append(dst, `,"value":`...)
	dst = appendNumber(dst, number)
	dst = append(dst, `,"text":`...)
	dst = appendText(dst, text)
	dst = append(dst, `,"at_ms":`...)
	dst = strconv.AppendInt(dst, r.last.Time/1e6, 10)
	dst = append(dst, `,"rate":`...)
	return strconv.AppendFloat(dst, r.told, 'g', -1, 64)
}

// number is the physical value; NaN: text.
func (f *fixed) number(s *telemetrypb.Sample) local.Number {
	return local.Number(s.Physical(f.scale, f.offset))
}

// appendNumber writes what binary64 holds of a scaled decimal as somebody would: three times 0.1 is 0.3. A whole number
// keeps all of its digits.
func appendNumber(dst []byte, n local.Number) []byte {
	v := float64(n)
	if !n.Known() || v == math.Trunc(v) {
		return n.AppendJSON(dst)
	}
	return strconv.AppendFloat(dst, v, 'g', 12, 64)
}

// text is the value's label, or text.
func (f *fixed) text(s *telemetrypb.Sample) string {
	switch s.Kind {
	case telemetrypb.KindString:
		return s.Str
	case telemetrypb.KindInt, telemetrypb.KindUint:
		return f.labels[int64(s.Bits)]
	}
	return ""
}

// appendText appends a JSON string.
func appendText(dst []byte, text string) []byte {
	if text == "" {
		return append(dst, `""`...)
	}
	quoted, err := json.Marshal(text)
	if err != nil { // never of a string
		return append(dst, `""`...)
	}
	return append(dst, quoted...)
}
