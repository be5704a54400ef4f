package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/fleet/api"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// receiver is where the positions of one receiver stand: rows of signals, one of each in every catalogue that names them.
type receiver struct {
	source                       string
	latitude, longitude, suspect []int64
}

// receivers finds a device's receivers by the names of their signals, in the order of their names.
func (s reads) receivers(ctx context.Context, device int64) ([]*receiver, error) {
	var list []*receiver
	bySource := map[string]*receiver{}
	err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var id int64
		var name string
		if err := rows.Scan(&id, &name); err != nil {
			return err
		}
		put := func(suffix string, into func(*receiver) *[]int64) {
			source, ok := strings.CutSuffix(name, suffix)
			if !ok {
				return
			}
			r := bySource[source]
			if r == nil {
				r = &receiver{source: source}
				bySource[source], list = r, append(list, r)
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
	}, `SELECT id, name FROM signals WHERE device = ? AND (name GLOB '*`+api.FixLatitude+`' OR name GLOB '*`+api.FixLongitude+`' OR name GLOB '*`+api.FixSuspect+`'
	    OR name IN ('`+api.VSSLocation+api.VSSLatitude+`', '`+api.VSSLocation+api.VSSLongitude+`')) ORDER BY name, id`, device)
	return slices.DeleteFunc(list, func(r *receiver) bool { return len(r.latitude) == 0 || len(r.longitude) == 0 }), err
}

// joined pairs the samples of one fix: they share a time.
func (r *receiver) joined() string {
	return ` FROM samples a JOIN samples b ON b.signal IN (` + numbers(r.longitude) + `) AND b.wall_ns = a.wall_ns AND b.boot_ns = a.boot_ns
	    LEFT JOIN samples c ON c.signal IN (` + numbers(r.suspect) + `) AND c.wall_ns = a.wall_ns AND c.boot_ns = a.boot_ns WHERE `
}

// onEarth leaves what is no number out as well.
const onEarth = " AND a.value BETWEEN -90 AND 90 AND b.value BETWEEN -180 AND 180"

// latest is the newest position that is believed: dated, by a time that is not uncertain and has come, and not suspect.
func (s reads) latest(ctx context.Context, device int64, now time.Time) (*api.Position, error) {
	receivers, err := s.receivers(ctx, device)
	if err != nil {
		return nil, err
	}
	var best *api.Position
	for _, r := range receivers {
		for _, signal := range r.latitude {
			if err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
				var wall, doubt, source int64
				p := api.Position{Source: r.source}
				if err := rows.Scan(&wall, &doubt, &source, &p.Latitude, &p.Longitude); err != nil {
					return err
				}
				p.Time, p.Uncertainty, p.TimeSource = unixNano(wall), time.Duration(doubt).Seconds(), SourceName(source)
				if best == nil || p.Time.After(best.Time) {
					best = &p
				}
				return nil
			}, `SELECT a.wall_ns, a.uncertainty, a.time_source, a.value, b.value`+r.joined()+`a.signal = ? AND a.wall_ns <= ? AND a.uncertainty <= ?
			    AND ifnull(c.value, 0) = 0`+onEarth+` ORDER BY a.wall_ns DESC LIMIT 1`, signal, now.UnixNano(), int64(api.MaxUncertainty)); err != nil {
				return nil, err
			}
		}
	}
	return best, nil
}

// excluded counts positions that cannot be the latest: all that are undated or dated later than now, and those newer than what is
// shown of which the time is too uncertain or the fix suspect.
func (s reads) excluded(ctx context.Context, device int64, now time.Time, shown *api.Position) (x api.Excluded, err error) {
	receivers, err := s.receivers(ctx, device)
	if err != nil {
		return x, err
	}
	after := int64(math.MinInt64)
	if shown != nil {
		after = shown.Time.UnixNano()
	}
	for _, r := range receivers {
		of := func(signals []int64) string { return "samples WHERE signal IN (" + numbers(signals) + ") AND " }
		for _, c := range []struct {
			n     *int64
			query string
			args  []any
		}{
			{&x.Undated, of(r.latitude) + "wall_ns IS NULL", nil},
			{&x.Future, of(r.latitude) + "wall_ns > ?", []any{now.UnixNano()}},
			{&x.Uncertain, of(r.latitude) + "wall_ns > ? AND wall_ns <= ? AND uncertainty > ?", []any{after, now.UnixNano(), int64(api.MaxUncertainty)}},
			{&x.Suspect, of(r.suspect) + "wall_ns > ? AND wall_ns <= ? AND value <> 0", []any{after, now.UnixNano()}},
		} {
			var n int64
			if err := s.db.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM %s LIMIT %d)", c.query, ExcludedMost), c.args...).Scan(&n); err != nil {
				return x, err
			}
			*c.n += n
		}
	}
	return x, nil
}

// Positions reads a track. Without a source it takes the first receiver, by name, that has a position in the window.
func (s reads) Positions(ctx context.Context, id api.DeviceID, source string, w api.Window, f func(api.Point) error) (string, api.Excluded, error) {
	var left api.Excluded
	d, err := s.find(ctx, id)
	if err != nil {
		return "", left, err
	}
	receivers, err := s.receivers(ctx, d.id)
	if err != nil {
		return "", left, err
	}
	for _, r := range receivers {
		if source != "" && r.source != source {
			continue
		}
		any := false
		err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
			var p api.Point
			var uncertain, suspect bool
			if err := rows.Scan(&p.UnixNS, &p.Latitude, &p.Longitude, &uncertain, &suspect); err != nil {
				return err
			}
			any = true
			switch {
			case uncertain:
				left.Uncertain++
			case suspect:
				left.Suspect++
			default:
				return f(p)
			}
			return nil
		}, `SELECT a.wall_ns, a.value, b.value, a.uncertainty > ?, ifnull(c.value, 0) <> 0`+r.joined()+`a.signal IN (`+numbers(r.latitude)+`)
		    AND a.wall_ns >= ? AND a.wall_ns < ?`+onEarth+` ORDER BY a.wall_ns`, int64(api.MaxUncertainty), w.From.UnixNano(), w.To.UnixNano())
		if err != nil || any {
			return r.source, left, err
		}
	}
	return source, left, nil
}

// Signals lists the names under which a device delivered.
func (s reads) Signals(ctx context.Context, id api.DeviceID, q api.SignalQuery) ([]api.Signal, error) {
	d, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	list := []api.Signal{}
	var rowsOf [][]int64
	done := errors.New("enough")
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var g api.Signal
		var row int64
		var labels string
		if err := rows.Scan(&row, &g.Name, &g.Unit, &g.Source, &labels); err != nil {
			return err
		}
		if labels != "" {
			if err := json.Unmarshal([]byte(labels), &g.Labels); err != nil {
				return fmt.Errorf("labels of %s: %w", g.Name, err)
			}
		}
		n := len(list) - 1
		switch {
		case n >= 0 && list[n].Name == g.Name:
			list[n] = g // the newest row tells unit and labels
			rowsOf[n] = append(rowsOf[n], row)
		case len(list) == q.Limit:
			return done
		default:
			list, rowsOf = append(list, g), append(rowsOf, []int64{row})
		}
		return nil
	}, `SELECT id, name, unit, source, labels FROM signals WHERE device = ? AND name > ? AND instr(lower(name), lower(?)) > 0 ORDER BY name, id`,
		d.id, q.After, q.Search)
	if err != nil && !errors.Is(err, done) {
		return nil, err
	}
	if !q.Last {
		return list, nil
	}
	for i := range list {
		if list[i].Last, err = s.lastValue(ctx, rowsOf[i], list[i].Labels, q.Now); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// lastValue is the newest value that is not of the future, nil when none is dated.
func (s reads) lastValue(ctx context.Context, signals []int64, labels map[string]string, now time.Time) (best *api.Value, err error) {
	for _, signal := range signals {
		err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
			var wall, kind int64
			var raw, value any
			var label sql.NullString
			if err := rows.Scan(&wall, &kind, &raw, &value, &label); err != nil {
				return err
			}
			v, err := shown(telemetrypb.Kind(kind), raw, value, label.String, labels)
			if v.Time = unixNano(wall); best == nil || v.Time.After(best.Time) {
				best = &v
			}
			return err
		}, "SELECT wall_ns, kind, raw, value, label FROM samples WHERE signal = ? AND wall_ns <= ? ORDER BY wall_ns DESC LIMIT 1", signal, now.UnixNano())
		if err != nil {
			return nil, err
		}
	}
	return best, nil
}

// shown is a value as the API answers it.
func shown(kind telemetrypb.Kind, raw, value any, label string, labels map[string]string) (v api.Value, err error) {
	r, err := scalarFrom(kind, raw)
	if err != nil {
		return v, err
	}
	var physical Scalar
	switch x := value.(type) {
	case int64:
		physical = scalarOf(telemetrypb.KindInt, uint64(x))
	case float64:
		physical = scalarOf(telemetrypb.KindFloat, math.Float64bits(x))
	case []byte: // what SQLite has no number for
		if physical, err = scalarFrom(telemetrypb.KindUint, x); err != nil || kind != telemetrypb.KindUint {
			physical, err = scalarOf(telemetrypb.KindFloat, math.Float64bits(math.NaN())), nil
		}
	}
	return Shown(r, physical, label, labels), err
}

// Buckets sums up a signal's numbers; what is no finite number is left out.
func (s reads) Buckets(ctx context.Context, id api.DeviceID, signal string, w api.Window, width time.Duration) ([]api.Bucket, error) {
	d, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	var signals []int64
	if err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var row int64
		err := rows.Scan(&row)
		signals = append(signals, row)
		return err
	}, "SELECT id FROM signals WHERE device = ? AND name = ?", d.id, signal); err != nil {
		return nil, err
	}
	var list []api.Bucket
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var b api.Bucket
		err := rows.Scan(&b.Index, &b.Count, &b.Min, &b.Max, &b.Mean, &b.FirstNS, &b.LastNS)
		list = append(list, b)
		return err
	}, `SELECT (wall_ns - ?1) / ?3 AS part, count(*), min(value), max(value), avg(value), min(wall_ns), max(wall_ns) FROM samples
	    WHERE signal IN (`+numbers(signals)+`) AND wall_ns >= ?1 AND wall_ns < ?2 AND value BETWEEN -1e300 AND 1e300 GROUP BY part ORDER BY part`,
		w.From.UnixNano(), w.To.UnixNano(), int64(width))
	return list, err
}

// Events lists the samples of the event lane.
func (s reads) Events(ctx context.Context, id api.DeviceID, w api.Window, p api.Page) (list []api.Event, next string, err error) {
	d, err := s.find(ctx, id)
	if err != nil {
		return nil, "", err
	}
	query := `SELECT coalesce(s.wall_ns, 0), s.batch, s.idx, s.wall_ns, coalesce(s.uncertainty, 0), s.time_source, b.epoch, b.seq, g.name, g.unit, g.labels, s.kind, s.raw, s.value, s.label
	    FROM batches b JOIN samples s ON s.batch = b.id JOIN signals g ON g.id = s.signal WHERE b.device = ? AND b.lane = 2`
	args := []any{d.id}
	if !w.To.IsZero() {
		query, args = query+" AND s.wall_ns >= ? AND s.wall_ns < ?", append(args, w.From.UnixNano(), w.To.UnixNano())
	}
	if p.After != "" {
		var wall, batch, index int64
		if n, err := fmt.Sscanf(p.After, "%d/%d/%d", &wall, &batch, &index); n != 3 || err != nil {
			return nil, "", api.ErrCursor
		}
		query, args = query+" AND (coalesce(s.wall_ns, 0), s.batch, s.idx) < (?, ?, ?)", append(args, wall, batch, index)
	}
	query, args = query+" ORDER BY 1 DESC, s.batch DESC, s.idx DESC LIMIT ?", append(args, p.Limit+1)
	at := ""
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		if len(list) == p.Limit {
			next = at
			return nil
		}
		var e api.Event
		var order, batch, index, doubt, source, epoch, seq, kind int64
		var wall sql.NullInt64
		var labels string
		var raw, value any
		var label sql.NullString
		if err := rows.Scan(&order, &batch, &index, &wall, &doubt, &source, &epoch, &seq, &e.Name, &e.Unit, &labels, &kind, &raw, &value, &label); err != nil {
			return err
		}
		var words map[string]string
		if labels != "" {
			if err := json.Unmarshal([]byte(labels), &words); err != nil {
				return fmt.Errorf("labels of %s: %w", e.Name, err)
			}
		}
		v, err := shown(telemetrypb.Kind(kind), raw, value, label.String, words)
		if err != nil {
			return err
		}
		if wall.Valid {
			t := unixNano(wall.Int64)
			e.Time = &t
		}
		e.Uncertainty, e.TimeSource, e.Value, e.Label = time.Duration(doubt).Seconds(), SourceName(source), v.Value, v.Label
		e.Epoch, e.Seq, e.Index = epochName(uint64(epoch)), uint64(seq), uint32(index)
		list, at = append(list, e), fmt.Sprintf("%d/%d/%d", order, batch, index)
		return nil
	}, query, args...)
	return list, next, err
}
