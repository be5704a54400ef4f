package postgres

import (
	"math/bits"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// spanWidth is how long a span is at most, ns: an hour, or two around 1970, where division rounds towards zero.
const spanWidth = int64(2 * time.Hour)

const hour = int64(time.Hour)

// spanKey names a row of spans.
type spanKey struct {
	batch int64
	hour  int64
	dated bool
}

// span is one that a transaction adds.
type span struct {
	placed
	first, last int64
	signals     signalSet
}

// noteSpans says of rows that are put when they are of, and of which signals.
func (t *tx) noteSpans(batch int64, at placed, rows []store.Row) {
	if _, wide := t.wide[batch]; wide {
		return
	}
	var key spanKey
	var one *span
	for i := range rows {
		r := &rows[i]
		k := spanKey{batch: batch}
		if r.Time.Source != telemetrypb.TimeSource_TIME_SOURCE_NONE {
			k.dated, k.hour = true, r.Time.UnixNS/hour
		}
		if one == nil || k != key {
			key = k
			if one = t.spans[k]; one == nil {
				if len(t.spans) >= spansAtOnce {
					t.widen(batch, at)
					return
				}
				one = &span{placed: at, first: r.Time.UnixNS, last: r.Time.UnixNS, signals: signalSet{base: r.Signal - nearSignals/2}}
				t.spans[k] = one
			}
		}
		one.first, one.last = min(one.first, r.Time.UnixNS), max(one.last, r.Time.UnixNS)
		one.signals.add(r.Signal)
	}
}

// spansAtOnce is how many spans a transaction remembers. Some hundred bytes can hold a million samples, each of another hour: of a batch
// beyond it the server finds spans and hours in what was stored.
const spansAtOnce = 1 << 14

// widen leaves a batch to the server.
func (t *tx) widen(batch int64, at placed) {
	for k := range t.spans {
		if k.batch == batch {
			delete(t.spans, k)
		}
	}
	for k := range t.derived.hours {
		if k.batch == batch {
			delete(t.derived.hours, k)
		}
	}
	if t.wide == nil {
		t.wide = map[int64]placed{}
	}
	t.wide[batch] = at
}

// settleWide does for those batches what queueSpans and queueDerived do for the others. Their samples have been flushed.
func (t *tx) settleWide() error {
	for batch, at := range t.wide {
		if err := t.spanAgain(batch, dateOf(at.day)); err != nil {
			return err
		}
		if _, err := t.exec(insertHoursOf, at.device, batch, dateOf(at.day)); err != nil {
			return err
		}
		if err := t.markHoursOf(at.device, batch, at.day); err != nil {
			return err
		}
	}
	return nil
}

// markHoursOf has the worker look at the hours of a batch.
func (t *tx) markHoursOf(device, batch int64, day int32) error {
	_, err := t.exec(markHoursOf, device, batch, dateOf(day), t.s.o.Now())
	return err
}

const (
	insertHoursOf = `INSERT INTO batch_hours (device, hour, batch, day) SELECT DISTINCT $1::bigint, date_trunc('hour', time_of(wall_ns), 'UTC'), $2::bigint, $3::date FROM samples
	    WHERE batch = $2 AND day = $3 AND wall_ns IS NOT NULL ORDER BY 2 ON CONFLICT DO NOTHING`
	markHoursOf = `INSERT INTO dirty AS d (device, hour, since) SELECT DISTINCT $1::bigint, date_trunc('hour', time_of(wall_ns), 'UTC'), $4::timestamptz FROM samples
	    WHERE batch = $2 AND day = $3 AND by_time AND wall_ns IS NOT NULL ORDER BY 2 ON CONFLICT (device, hour) DO UPDATE SET spread = true WHERE NOT d.spread`
)

// nearSignals is how many numbers signalSet holds as bits: those of a catalogue follow one another.
const nearSignals = 4096

// signalSet is a set of rows of signals.
type signalSet struct {
	base int64
	near [nearSignals / 64]uint64
	far  map[int64]struct{}
}

func (s *signalSet) add(signal int64) {
	if d := uint64(signal - s.base); d < nearSignals {
		s.near[d/64] |= 1 << (d % 64)
		return
	}
	if s.far == nil {
		s.far = map[int64]struct{}{}
	}
	s.far[signal] = struct{}{}
}

// array writes it as PostgreSQL's text has an array.
func (s *signalSet) array() string {
	b := []byte{'{'}
	put := func(signal int64) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, signal, 10)
	}
	for i, word := range s.near {
		for ; word != 0; word &= word - 1 {
			put(s.base + int64(i*64+bits.TrailingZeros64(word)))
		}
	}
	for signal := range s.far {
		put(signal)
	}
	return string(append(b, '}'))
}

// queueSpans writes those of this transaction. An array of arrays would have to be rectangular, so signals go as text.
func (t *tx) queueSpans(batch *pgx.Batch) {
	if len(t.spans) == 0 {
		return
	}
	n := len(t.spans)
	devices, batches, days, lanes := make([]int64, 0, n), make([]int64, 0, n), make([]time.Time, 0, n), make([]int32, 0, n)
	firsts, lasts, signals := make([]*int64, 0, n), make([]*int64, 0, n), make([]string, 0, n)
	for k, s := range t.spans {
		devices, batches, days, lanes = append(devices, s.device), append(batches, k.batch), append(days, dateOf(s.day)), append(lanes, s.lane)
		first, last := &s.first, &s.last
		if !k.dated {
			first, last = nil, nil
		}
		firsts, lasts, signals = append(firsts, first), append(lasts, last), append(signals, s.signals.array())
	}
	batch.Queue(`INSERT INTO spans (device, batch, day, lane, first_ns, last_ns, signals) SELECT u.device, u.batch, u.day, u.lane, u.first_ns, u.last_ns, u.signals::bigint[]
	    FROM unnest($1::bigint[], $2::bigint[], $3::date[], $4::integer[], $5::bigint[], $6::bigint[], $7::text[]) AS u (device, batch, day, lane, first_ns, last_ns, signals)`,
		devices, batches, days, lanes, firsts, lasts, signals)
}

// spanAgain makes a batch's spans anew: its samples were dated again, and have been flushed.
func (t *tx) spanAgain(batch int64, day time.Time) error {
	for k := range t.spans {
		if k.batch == batch {
			delete(t.spans, k)
		}
	}
	if _, err := t.exec("DELETE FROM spans WHERE batch = $1", batch); err != nil {
		return err
	}
	_, err := t.exec(`INSERT INTO spans (device, batch, day, lane, first_ns, last_ns, signals)
	    SELECT b.device, b.id, b.day, b.lane, min(s.wall_ns), max(s.wall_ns), array_agg(DISTINCT s.signal) FROM batches b JOIN samples s ON s.batch = b.id AND s.day = b.day
	    WHERE b.id = $1 AND s.batch = $1 AND s.day = $2 GROUP BY b.device, b.id, b.day, b.lane, s.wall_ns / $3`, batch, day, hour)
	return err
}
