package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// receiver is where the positions of one receiver stand: rows of signals, one of each in every catalogue that names them.
type receiver struct {
	device                       int64
	source                       string
	latitude, longitude, suspect []int64 // none is nil: an array that is NULL would be like nothing
}

// receivers finds the receivers of devices by the names of their signals, each device's in the order of their names.
func (s reads) receivers(ctx context.Context, devices []int64) ([]*receiver, error) {
	type key struct {
		device int64
		source string
	}
	var list []*receiver
	bySource := map[key]*receiver{}
	var device, id int64
	var name string
	err := s.each(ctx, `SELECT device, id, name FROM signals WHERE device = ANY ($1) AND (right(name, length($2)) = $2 OR right(name, length($3)) = $3 OR right(name, length($4)) = $4 OR name IN ($5, $6))
	    ORDER BY device, name COLLATE "C", id`, []any{devices, api.FixLatitude, api.FixLongitude, api.FixSuspect, api.VSSLocation + api.VSSLatitude, api.VSSLocation + api.VSSLongitude},
		[]any{&device, &id, &name}, func() error {
			put := func(suffix string, into func(*receiver) *[]int64) {
				source, ok := strings.CutSuffix(name, suffix)
				if !ok {
					return
				}
				k := key{device, source}
				r := bySource[k]
				if r == nil {
					r = &receiver{device: device, source: source, latitude: []int64{}, longitude: []int64{}, suspect: []int64{}}
					bySource[k], list = r, append(list, r)
				}
				*into(r) = append(*into(r), id)
			}
			put(api.FixLatitude, func(r *receiver) *[]int64 { return &r.latitude })
			put(api.FixLongitude, func(r *receiver) *[]int64 { return &r.longitude })
			put(api.FixSuspect, func(r *receiver) *[]int64 { return &r.suspect })
			if strings.HasPrefix(name, api.VSSLocation) {
				put(api.VSSLatitude, func(r *receiver) *[]int64 { return &r.latitude })
				put(api.VSSLongitude, func(r *receiver) *[]int64 { return &r.longitude })
			}
			return nil
		})
	return slices.DeleteFunc(list, func(r *receiver) bool { return len(r.latitude) == 0 || len(r.longitude) == 0 }), err
}

// windowed are a device's samples of some signals in a window: $1 device, $2 signals, $3 from, $4 to, $5 where spans of the
// window end at the latest. OFFSET 0 has each span's batch looked up by its index, whatever the planner thinks of the numbers.
const windowed = ` FROM spans y CROSS JOIN LATERAL (SELECT * FROM samples s WHERE s.batch = y.batch AND s.day = y.day AND s.signal = ANY ($2)
      AND s.wall_ns BETWEEN y.first_ns AND y.last_ns AND s.wall_ns >= $3 AND s.wall_ns < $4 OFFSET 0) s
    WHERE y.device = $1 AND y.last_ns >= $3 AND y.last_ns < $5 AND y.first_ns < $4 AND y.signals && $2`

// windowArgs are windowed's.
func windowArgs(device int64, signals []int64, w api.Window) []any {
	to := w.To.UnixNano()
	return []any{device, signals, w.From.UnixNano(), to, min(to, math.MaxInt64-spanWidth) + spanWidth}
}

// Positions reads a track. Without a source it takes the first receiver, by name, that has a position in the window.
func (s reads) Positions(ctx context.Context, id api.DeviceID, source string, w api.Window, f func(api.Point) error) (string, api.Excluded, error) {
	var left api.Excluded
	device, err := s.row(ctx, id)
	if err != nil {
		return "", left, err
	}
	list, err := s.receivers(ctx, []int64{device})
	if err != nil {
		return "", left, err
	}
	for _, r := range list {
		if source != "" && r.source != source {
			continue
		}
		some := false
		var p api.Point
		var uncertain, suspect bool
		err := s.each(ctx, `WITH p AS MATERIALIZED (SELECT s.signal, s.wall_ns, s.boot_ns, s.value, s.uncertainty`+windowed+`)
		    SELECT a.wall_ns, a.value, b.value, a.uncertainty > $6, coalesce(c.value, 0) <> 0 FROM p a JOIN p b ON b.signal = ANY ($8) AND b.wall_ns = a.wall_ns AND b.boot_ns = a.boot_ns
		      LEFT JOIN p c ON c.signal = ANY ($9) AND c.wall_ns = a.wall_ns AND c.boot_ns = a.boot_ns
		    WHERE a.signal = ANY ($7) AND a.value BETWEEN -90 AND 90 AND b.value BETWEEN -180 AND 180 ORDER BY a.wall_ns`,
			append(windowArgs(device, slices.Concat(r.latitude, r.longitude, r.suspect), w), int64(api.MaxUncertainty), r.latitude, r.longitude, r.suspect),
			[]any{&p.UnixNS, &p.Latitude, &p.Longitude, &uncertain, &suspect}, func() error {
				some = true
				switch {
				case uncertain:
					left.Uncertain++
				case suspect:
					left.Suspect++
				default:
					return f(p)
				}
				return nil
			})
		if err != nil || some {
			return r.source, left, err
		}
	}
	return source, left, nil
}

// Buckets sums up a signal's numbers; what is no finite number is left out.
func (s reads) Buckets(ctx context.Context, id api.DeviceID, signal string, w api.Window, width time.Duration) (list []api.Bucket, err error) {
	device, err := s.row(ctx, id)
	if err != nil {
		return nil, err
	}
	signals := []int64{}
	var row int64
	if err := s.each(ctx, "SELECT id FROM signals WHERE device = $1 AND name = $2", []any{device, signal}, []any{&row}, func() error { signals = append(signals, row); return nil }); err != nil {
		return nil, err
	}
	var b api.Bucket
	err = s.each(ctx, `SELECT (s.wall_ns - $3) / $6 AS part, count(*), min(s.value), max(s.value), sum(s.value) / count(*), min(s.wall_ns), max(s.wall_ns)`+windowed+`
	    AND s.value BETWEEN -1e300 AND 1e300 GROUP BY part ORDER BY part`, append(windowArgs(device, signals, w), int64(width)),
		[]any{&b.Index, &b.Count, &b.Min, &b.Max, &b.Mean, &b.FirstNS, &b.LastNS}, func() error { list = append(list, b); return nil })
	return list, err
}

// Signals lists the names under which a device delivered.
func (s reads) Signals(ctx context.Context, id api.DeviceID, q api.SignalQuery) ([]api.Signal, error) {
	device, err := s.row(ctx, id)
	if err != nil {
		return nil, err
	}
	list := []api.Signal{}
	of := map[int64]int{} // row of a signal: its place in the list
	done := errors.New("enough")
	var g api.Signal
	var row int64
	var labels *string
	err = s.each(ctx, `SELECT id, name, unit, source, labels::text FROM signals WHERE device = $1 AND name COLLATE "C" > $2 AND strpos(lower(name), lower($3)) > 0 ORDER BY name COLLATE "C", id`,
		[]any{device, q.After, q.Search}, []any{&row, &g.Name, &g.Unit, &g.Source, &labels}, func() error {
			words, err := labelsOf(g.Name, labels)
			if err != nil {
				return err
			}
			n := len(list) - 1
			switch {
			case n >= 0 && list[n].Name == g.Name:
			case len(list) == q.Limit:
				return done
			default:
				list = append(list, api.Signal{})
				n++
			}
			list[n] = g // the newest row tells unit and labels
			list[n].Labels = words
			of[row] = n
			return nil
		})
	if err != nil && !errors.Is(err, done) {
		return nil, err
	}
	if q.Last {
		err = s.lastValues(ctx, device, list, of, q.Now)
	} else {
		err = nil
	}
	return list, err
}

func labelsOf(name string, text *string) (labels map[string]string, err error) {
	if text == nil {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(*text), &labels); err != nil {
		return nil, fmt.Errorf("labels of %s: %w", name, err)
	}
	return labels, nil
}

// Spans that lastValues looks at together: few at first, where most signals have their newest value, then more.
const (
	firstSpans = 4
	mostSpans  = 256
)

// lastValues finds the newest value of each signal that is not of the future: from the newest span back, for as long as an older one
// may hold a newer value of a signal that is still open.
func (s reads) lastValues(ctx context.Context, device int64, list []api.Signal, of map[int64]int, now time.Time) error {
	newest := make([]int64, len(list)) // Unix ns
	until := now.UnixNano()
	below, belowBatch := min(until, math.MaxInt64-spanWidth)+spanWidth, int64(math.MaxInt64)
	for most := firstSpans; ; most = min(4*most, mostSpans) {
		open := []int64{}
		for row, i := range of {
			if list[i].Last == nil || newest[i] < below {
				open = append(open, row)
			}
		}
		if len(open) == 0 {
			return nil
		}
		var batches, firsts, lasts []int64
		var days []time.Time
		var batch, first, last int64
		var day time.Time
		if err := s.each(ctx, `SELECT batch, day, first_ns, last_ns FROM spans WHERE device = $1 AND (last_ns, batch) < ($2, $3) AND last_ns <= $2 AND first_ns <= $4 AND signals && $5
		    ORDER BY last_ns DESC, batch DESC LIMIT $6`, []any{device, below, belowBatch, until, open, most}, []any{&batch, &day, &first, &last}, func() error {
			batches, days, firsts, lasts = append(batches, batch), append(days, day), append(firsts, first), append(lasts, min(last, until))
			return nil
		}); err != nil || len(batches) == 0 {
			return err
		}
		below, belowBatch = last, batch
		var row, wall, bits int64
		var kind int16
		var raw []byte
		var value *float64
		var scale, offset float64
		var label string
		if err := s.each(ctx, `SELECT DISTINCT ON (s.signal) s.signal, s.wall_ns, s.kind, s.bits, s.raw, s.value, s.label, g.scale, g."offset"
		    FROM unnest($1::bigint[], $2::date[], $3::bigint[], $4::bigint[]) AS y (batch, day, first_ns, last_ns)
		      CROSS JOIN LATERAL (SELECT * FROM samples s WHERE s.batch = y.batch AND s.day = y.day AND s.signal = ANY ($5) AND s.wall_ns BETWEEN y.first_ns AND y.last_ns OFFSET 0) s
		      JOIN signals g ON g.id = s.signal ORDER BY s.signal, s.wall_ns DESC`, []any{batches, days, firsts, lasts, open},
			[]any{&row, &wall, &kind, &bits, &raw, &value, &label, &scale, &offset}, func() error {
				i := of[row]
				if list[i].Last != nil && wall <= newest[i] {
					return nil
				}
				v := shown(kind, bits, raw, value, label, scale, offset, list[i].Labels)
				v.Time = time.Unix(0, wall).UTC()
				list[i].Last, newest[i] = &v, wall
				return nil
			}); err != nil {
			return err
		}
	}
}

// shown is a value as the API answers it.
func shown(kind int16, bits int64, raw []byte, value *float64, label string, scale, offset float64, labels map[string]string) api.Value {
	r, v := scalars(kind, bits, raw, value, scale, offset)
	return store.Shown(r, v, label, labels)
}

// scalars are a sample's raw and physical value, exact where they were.
func scalars(kind int16, bits int64, raw []byte, value *float64, scale, offset float64) (r, v store.Scalar) {
	r = store.Scalar{Kind: telemetrypb.Kind(kind), Bits: uint64(bits)}
	switch r.Kind {
	case telemetrypb.KindString, store.KindBlob:
		r.Text = string(raw)
	case telemetrypb.KindInt, telemetrypb.KindUint, telemetrypb.KindFloat:
		v = store.ValueOf(telemetrypb.Sample{Kind: r.Kind, Bits: r.Bits}, scale, offset)
	default:
		r = store.Scalar{}
		if value != nil {
			v = store.Scalar{Kind: telemetrypb.KindFloat, Bits: math.Float64bits(*value)}
		}
	}
	return r, v
}

// Events lists the samples of the event lane.
func (s reads) Events(ctx context.Context, id api.DeviceID, w api.Window, p api.Page) (list []api.Event, next string, err error) {
	device, err := s.row(ctx, id)
	if err != nil {
		return nil, "", err
	}
	args := []any{device}
	arg := func(v any) int { args = append(args, v); return len(args) }
	query := `SELECT coalesce(s.wall_ns, 0), s.batch, s.idx, s.wall_ns, coalesce(s.uncertainty, 0), s.time_source, b.epoch, b.seq, g.name, g.unit, g.labels::text, g.scale, g."offset", s.kind, s.bits, s.raw, s.value, s.label
	    FROM spans y CROSS JOIN LATERAL (SELECT * FROM samples s WHERE s.batch = y.batch AND s.day = y.day AND (s.wall_ns BETWEEN y.first_ns AND y.last_ns OR s.wall_ns IS NULL AND y.last_ns IS NULL) OFFSET 0) s
	      JOIN batches b ON b.id = s.batch AND b.device = $1 JOIN signals g ON g.id = s.signal WHERE y.device = $1 AND y.lane = 2`
	if !w.To.IsZero() {
		a := windowArgs(device, nil, w)
		from, to, end := arg(a[2]), arg(a[3]), arg(a[4])
		query += fmt.Sprintf(" AND y.last_ns >= $%d AND y.last_ns < $%d AND s.wall_ns >= $%d AND s.wall_ns < $%d", from, end, from, to)
	}
	if p.After != "" {
		var wall, batch, index int64
		if n, err := fmt.Sscanf(p.After, "%d/%d/%d", &wall, &batch, &index); n != 3 || err != nil {
			return nil, "", api.ErrCursor
		}
		query += fmt.Sprintf(" AND (coalesce(s.wall_ns, 0), s.batch, s.idx & 4294967295) < ($%d::bigint, $%d::bigint, $%d::bigint)", arg(wall), arg(batch), arg(index))
	}
	query += fmt.Sprintf(" ORDER BY 1 DESC, s.batch DESC, s.idx & 4294967295 DESC LIMIT $%d", arg(p.Limit+1))
	at := ""
	var e api.Event
	var order, batch, doubt, epoch, seq, bits int64
	var index int32
	var source, kind int16
	var wall *int64
	var labels *string
	var scale, offset float64
	var raw []byte
	var value *float64
	var label string
	err = s.each(ctx, query, args, []any{&order, &batch, &index, &wall, &doubt, &source, &epoch, &seq, &e.Name, &e.Unit, &labels, &scale, &offset, &kind, &bits, &raw, &value, &label}, func() error {
		if len(list) == p.Limit {
			next = at
			return nil
		}
		words, err := labelsOf(e.Name, labels)
		if err != nil {
			return err
		}
		one := e
		if wall != nil {
			t := time.Unix(0, *wall).UTC()
			one.Time = &t
		}
		v := shown(kind, bits, raw, value, label, scale, offset, words)
		one.Uncertainty, one.TimeSource, one.Value, one.Label = time.Duration(doubt).Seconds(), store.SourceName(int64(source)), v.Value, v.Label
		one.Epoch, one.Seq, one.Index = epochName(epoch), uint64(seq), uint32(index)
		list, at = append(list, one), fmt.Sprintf("%d/%d/%d", order, batch, uint32(index))
		return nil
	})
	return list, next, err
}
