package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// each runs a query and calls f at each row, with what is scanned in into.
func (s *Store) each(ctx context.Context, query string, args []any, into []any, f func() error) error {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, f)
	return err
}

func epochName(e int64) string { return fmt.Sprintf("%016x", uint64(e)) }

func laneName(l int32) string { return telemetrypb.LaneName(telemetrypb.Lane(l)) }

// Totals counts what is committed: the rows of totals, and what lanes lack. When the database does not answer, it is what
// was read last.
func (s *Store) Totals() store.Totals {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	var n store.Totals
	var gaps string
	err := s.pool.QueryRow(ctx, `SELECT coalesce(sum(devices), 0)::bigint, coalesce(sum(batches), 0)::bigint, coalesce(sum(samples), 0)::bigint, coalesce(sum(parked), 0)::bigint,
	    coalesce(sum(rejected), 0)::bigint, coalesce(sum(losses), 0)::bigint, coalesce(sum(letters), 0)::bigint,
	    (SELECT least(coalesce(sum(missing), 0), 18446744073709551615) FROM lanes WHERE missing > 0)::text FROM totals`).
		Scan(&n.Devices, &n.Batches, &n.Samples, &n.Parked, &n.Rejected, &n.Losses, &n.Letters, &gaps)
	if err == nil {
		n.Gaps, err = strconv.ParseUint(gaps, 10, 64)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.o.Log.Warn("the totals cannot be read; older ones stand for them", "err", err)
		return s.totals
	}
	s.totals = n
	return n
}

// Lacks counts what is committed. When the database does not answer there may be more, and the device asks again.
func (s *Store) Lacks(device int64, given []store.Given, most int) (list []store.Lack, more bool) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	last := map[laneKey]uint64{}
	var epoch, top int64
	var lane int32
	err := s.each(ctx, "SELECT epoch, lane, greatest(last, announced) FROM lanes WHERE device = $1", []any{device}, []any{&epoch, &lane, &top}, func() error {
		last[laneKey{device, uint64(epoch), telemetrypb.Lane(lane)}] = uint64(top)
		return nil
	})
	for _, g := range given {
		k := laneKey{device, g.Epoch, g.Lane}
		last[k] = max(last[k], min(g.Last, maxSeq))
	}
	keys := make([]laneKey, 0, len(last))
	for k := range last {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b laneKey) int { return cmp.Or(cmp.Compare(a.lane, b.lane), cmp.Compare(a.epoch, b.epoch)) })
	for _, k := range keys {
		var known store.Ranges
		var first, end int64
		if err == nil { // n runs leave n gaps ahead of them, one behind
			err = s.each(ctx, "SELECT first, last FROM ranges WHERE device = $1 AND epoch = $2 AND lane = $3 ORDER BY first LIMIT $4",
				[]any{device, int64(k.epoch), int32(k.lane), most + 2}, []any{&first, &end}, func() error { known.Add(uint64(first), uint64(end)); return nil })
		}
		if err != nil {
			s.o.Log.Warn("what a device lacks cannot be read", "err", err)
			return nil, true
		}
		missing := known.Missing(last[k])
		if len(missing) > most {
			missing, more = missing[:most], true
		}
		if most -= len(missing); len(missing) > 0 {
			list = append(list, store.Lack{Epoch: k.epoch, Lane: k.lane, Seqs: missing})
		}
	}
	return list, more
}

// Devices lists the devices with what there is of each.
func (s *Store) Devices(ctx context.Context) ([]store.Device, error) {
	var list []store.Device
	place := map[int64]int{}
	var d store.Device
	var id int64
	err := s.each(ctx, `SELECT d.id, d.tenant, d.device, d.first_seen, d.last_seen, s.online, coalesce(s.version, ''), d.receipts, (SELECT count(*) FROM losses l WHERE l.device = d.id)
	    FROM devices d LEFT JOIN status s ON s.device = d.id ORDER BY d.tenant COLLATE "C", d.device COLLATE "C"`, nil,
		[]any{&id, &d.Tenant, &d.Device, &d.FirstSeen, &d.LastSeen, &d.Online, &d.Version, &d.Receipts, &d.Losses}, func() error {
			d.FirstSeen, d.LastSeen, d.Lanes = d.FirstSeen.UTC(), d.LastSeen.UTC(), []store.LaneInfo{}
			place[id] = len(list)
			list = append(list, d)
			d.Online = nil
			return nil
		})
	if err != nil {
		return nil, err
	}
	var l store.LaneInfo
	var epoch, last, missing int64
	var lane int32
	err = s.each(ctx, `SELECT device, epoch, lane, batches, samples, parked, rejected, superseded, last, missing FROM lanes WHERE batches > 0 ORDER BY device, first_batch, lane`, nil,
		[]any{&id, &epoch, &lane, &l.Batches, &l.Samples, &l.Parked, &l.Rejected, &l.Superseded, &last, &missing}, func() error {
			l.Epoch, l.Lane, l.Last, l.Missing = epochName(epoch), laneName(lane), uint64(last), uint64(missing)
			if i, known := place[id]; known { // else it came between the two queries
				list[i].Lanes = append(list[i].Lanes, l)
			}
			return nil
		})
	return list, err
}

// Gaps lists what never came and is not accounted for.
func (s *Store) Gaps(ctx context.Context) ([]store.Gap, error) {
	list := []store.Gap{}
	var g store.Gap
	var epoch, from, to int64
	var lane int32
	err := s.each(ctx, gapsQuery, nil, []any{&g.Tenant, &g.Device, &epoch, &lane, &from, &to}, func() error {
		g.Epoch, g.Lane, g.Range = epochName(epoch), laneName(lane), store.Range{First: uint64(from), Last: uint64(to)}
		list = append(list, g)
		return nil
	})
	return list, err
}

// gapsQuery looks between each run and the one before it, the highest number known being the end.
const gapsQuery = `SELECT d.tenant, d.device, g.epoch, g.lane, (g.behind + 1)::bigint, (g.ahead - 1)::bigint FROM (
      SELECT l.device, l.epoch, l.lane, l.top, coalesce(lag(r.last) OVER w, 0) AS behind, least(r.first, l.top + 1) AS ahead FROM
        (SELECT device, epoch, lane, greatest(last, announced)::numeric AS top FROM lanes WHERE missing > 0) l
        CROSS JOIN LATERAL (SELECT first::numeric, last::numeric FROM ranges r WHERE r.device = l.device AND r.epoch = l.epoch AND r.lane = l.lane
          UNION ALL SELECT 9223372036854775808, 9223372036854775808) r
      WINDOW w AS (PARTITION BY l.device, l.epoch, l.lane ORDER BY r.first)) g JOIN devices d ON d.id = g.device
    WHERE g.behind < g.ahead - 1 ORDER BY g.device, g.epoch < 0, g.epoch, g.lane, g.behind`

// Losses lists the loss ledgers; an empty device means all.
func (s *Store) Losses(ctx context.Context, device string) ([]store.LossEntry, error) {
	list := []store.LossEntry{}
	var l store.LossEntry
	var count, epoch, arrived int64
	var reason, lane int32
	var boot []byte
	var seqs string
	err := s.each(ctx, `SELECT d.tenant, d.device, l.reason, l.source, l.count, l.count_is_bound, l.count_unknown, l.unit, l.boot_id, l.first_ns, l.last_ns,
	      l.epoch, l.lane, l.seqs::text, l.detail,
	      (SELECT count(*) FROM jsonb_to_recordset(l.seqs) AS r (first numeric, last numeric) JOIN batches b ON b.device = l.device AND b.epoch = l.epoch AND b.lane = l.lane
	         AND b.seq BETWEEN least(r.first, 9223372036854775807)::bigint AND least(r.last, 9223372036854775807)::bigint)
	    FROM losses l JOIN devices d ON d.id = l.device WHERE $1 = '' OR d.device = $1 ORDER BY d.tenant COLLATE "C", d.device COLLATE "C", l.batch, l.idx`, []any{device},
		[]any{&l.Tenant, &l.Device, &reason, &l.Source, &count, &l.CountIsBound, &l.CountUnknown, &l.Unit, &boot, &l.FirstNS, &l.LastNS, &epoch, &lane, &seqs, &l.Detail, &arrived}, func() error {
			e := l
			e.Reason, e.Count = telemetrypb.LossReason(reason).String(), uint64(count)
			if len(boot) > 0 {
				e.BootID = fmt.Sprintf("%x", boot)
			}
			if err := json.Unmarshal([]byte(seqs), &e.Seqs); err != nil {
				return fmt.Errorf("loss record: seqs %q: %w", seqs, err)
			}
			if len(e.Seqs) > 0 {
				e.Epoch, e.Lane, e.Arrived = epochName(epoch), laneName(lane), uint64(arrived)
			}
			list = append(list, e)
			return nil
		})
	return list, err
}

// DeadLetters lists what could not be taken, oldest first.
func (s *Store) DeadLetters(ctx context.Context) ([]store.DeadEntry, error) {
	list := []store.DeadEntry{}
	var d store.DeadEntry
	err := s.each(ctx, "SELECT id, topic, reason, detail, size, bytes, times, first_at, last_at FROM dead_letters ORDER BY id", nil,
		[]any{&d.ID, &d.Topic, &d.Reason, &d.Detail, &d.Size, &d.Bytes, &d.Times, &d.First, &d.Last}, func() error {
			d.First, d.Last = d.First.UTC(), d.Last.UTC()
			list = append(list, d)
			d.Bytes = nil
			return nil
		})
	return list, err
}

// Results lists the answers to commands.
func (s *Store) Results(ctx context.Context, device, id string) (list []store.Result, err error) {
	var r store.Result
	err = s.each(ctx, `SELECT d.tenant, d.device, r.id, r.name, r.state, r.reason, r.percent, r.text, encode(r.boot_id, 'hex'), r.boot_count, r.boot_ns, encode(r.key_id, 'hex'), r.counter, r.received
	    FROM results r JOIN devices d ON d.id = r.device WHERE ($1 = '' OR d.device = $1) AND ($2 = '' OR r.id = $2) ORDER BY r.received DESC, r.boot_ns DESC, r.id COLLATE "C"`, []any{device, id},
		[]any{&r.Tenant, &r.Device, &r.ID, &r.Name, &r.State, &r.Reason, &r.Percent, &r.Text, &r.BootID, &r.BootCount, &r.BootNS, &r.Key, &r.Counter, &r.Received}, func() error {
			r.Received = r.Received.UTC()
			list = append(list, r)
			return nil
		})
	return list, err
}

// like makes a pattern with * and ? one of LIKE.
var like = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`, `?`, `_`)

// Samples reads samples, oldest first, those of unknown time before all others.
func (s *Store) Samples(ctx context.Context, q store.Query, f func(*store.Reading) error) error {
	query := `SELECT d.tenant, d.device, b.epoch, b.lane, b.seq, s.idx, b.boot_id, s.boot_ns, s.wall_ns, s.uncertainty, s.time_source,
	      g.name, g.unit, g.scale, g."offset", g.labels::text, s.kind, s.bits, s.raw, s.value, s.label
	    FROM samples s JOIN batches b ON b.id = s.batch AND b.day = s.day JOIN devices d ON d.id = b.device JOIN signals g ON g.id = s.signal WHERE true`
	var args []any
	where := func(condition string, arg any) {
		args = append(args, arg)
		query += " AND " + condition + "$" + strconv.Itoa(len(args))
	}
	if q.Tenant != "" {
		where("d.tenant = ", q.Tenant)
	}
	if q.Device != "" {
		where("d.device = ", q.Device)
	}
	if q.Signal != "" {
		where("g.name LIKE ", like.Replace(q.Signal))
	}
	if !q.From.IsZero() {
		where("s.wall_ns >= ", q.From.UnixNano())
	}
	if !q.To.IsZero() {
		where("s.wall_ns < ", q.To.UnixNano())
	}
	query += " ORDER BY s.wall_ns NULLS FIRST, d.id, b.boot_count, s.boot_ns, s.batch, s.idx"
	if q.Limit > 0 {
		query += " LIMIT " + strconv.FormatInt(q.Limit, 10)
	}
	var r readingRow
	return s.each(ctx, query, args, r.into(), func() error { return f(r.reading()) })
}

// readingRow is what a row of Samples is scanned into.
type readingRow struct {
	r             store.Reading
	epoch, seq    int64
	lane, index   int32
	wall, doubt   *int64
	source, kind  int16
	scale, offset float64
	labels        *string
	bits          int64
	raw           []byte
	value         *float64
	parsed        map[string]string // of labelText
	labelText     string
}

func (w *readingRow) into() []any {
	r := &w.r
	return []any{&r.Tenant, &r.Device, &w.epoch, &w.lane, &w.seq, &w.index, &r.BootID, &r.BootNS, &w.wall, &w.doubt, &w.source,
		&r.Signal, &r.Unit, &w.scale, &w.offset, &w.labels, &w.kind, &w.bits, &w.raw, &w.value, &r.Label}
}

func (w *readingRow) reading() *store.Reading {
	r := w.r
	r.Key, r.Index = store.Key{Epoch: uint64(w.epoch), Lane: telemetrypb.Lane(w.lane), Seq: uint64(w.seq)}, uint32(w.index)
	r.Time = store.Time{Source: telemetrypb.TimeSource(w.source)}
	if w.wall != nil && w.doubt != nil {
		r.Time.UnixNS, r.Time.UncertaintyNS = *w.wall, uint64(*w.doubt)
	}
	r.Raw = store.Scalar{Kind: telemetrypb.Kind(w.kind), Bits: uint64(w.bits)}
	switch r.Raw.Kind {
	case telemetrypb.KindString, store.KindBlob:
		r.Raw.Text = string(w.raw)
	case telemetrypb.KindInt, telemetrypb.KindUint, telemetrypb.KindFloat:
		r.Value = store.ValueOf(telemetrypb.Sample{Kind: r.Raw.Kind, Bits: r.Raw.Bits}, w.scale, w.offset)
	default:
		r.Raw = store.Scalar{}
		if w.value != nil {
			r.Value = store.Scalar{Kind: telemetrypb.KindFloat, Bits: math.Float64bits(*w.value)}
		}
	}
	if r.Label == "" && w.labels != nil && (r.Raw.Kind == telemetrypb.KindInt || r.Raw.Kind == telemetrypb.KindUint && w.bits >= 0) {
		if w.parsed == nil || w.labelText != *w.labels {
			w.parsed, w.labelText = map[string]string{}, *w.labels
			_ = json.Unmarshal([]byte(w.labelText), &w.parsed) // what makes no sense has no labels
		}
		r.Label = w.parsed[strconv.FormatInt(w.bits, 10)]
	}
	return &r
}

// Positions are the offsets that come next, by partition.
func (s *Store) Positions(ctx context.Context, topic string) (map[int32]int64, error) {
	next := map[int32]int64{}
	var partition int32
	var offset int64
	err := s.each(ctx, "SELECT partition, next FROM offsets WHERE topic = $1", []any{topic}, []any{&partition, &offset}, func() error {
		next[partition] = offset
		return nil
	})
	return next, err
}

// Survey counts devices by what their last status said (of those online, as silent those of which nothing came since), and what the
// loss ledgers account for by reason and unit.
func (s *Store) Survey(ctx context.Context, since time.Time) (devices map[string]int, lost map[[2]string]float64, err error) {
	devices, lost = map[string]int{}, map[[2]string]float64{}
	var state string
	var n int64
	if err := s.each(ctx, `SELECT CASE WHEN s.online IS NULL THEN 'unknown' WHEN NOT s.online THEN 'offline' WHEN d.last_seen < $1 THEN 'silent' ELSE 'online' END, count(*)
	    FROM devices d LEFT JOIN status s ON s.device = d.id GROUP BY 1`, []any{since}, []any{&state, &n}, func() error { devices[state] = int(n); return nil }); err != nil {
		return nil, nil, err
	}
	var reason int32
	var unit string
	var sum float64
	err = s.each(ctx, `SELECT reason, unit, sum(count::float8 + CASE WHEN count < 0 THEN 18446744073709551616 ELSE 0 END) FROM losses GROUP BY 1, 2`, nil, []any{&reason, &unit, &sum}, func() error {
		lost[[2]string{telemetrypb.LossReason(reason).String(), unit}] = sum
		return nil
	})
	return devices, lost, err
}
