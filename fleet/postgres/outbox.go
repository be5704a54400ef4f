package postgres

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// notesAtOnce is how many notes of a shard are read at once.
const notesAtOnce = 512

// SwitchOn waits until no transaction of Update is under way, and lets none begin meanwhile: each has seen the row or will.
func (s *Store) SwitchOn(ctx context.Context) (begun bool, err error) {
	if s.o.ReadOnly {
		return false, errors.New("the store is open for reading only")
	}
	err = s.alone(ctx, func(tx pgx.Tx) error {
		var on bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS ("+outboxQuery+")").Scan(&on); err != nil || on {
			return err
		}
		begun = true
		// The number of the last batch row: a batch that is noted when it is stored has a higher one, or was parked now.
		if _, err := tx.Exec(ctx, "INSERT INTO meta SELECT 'decoded', CASE WHEN is_called THEN last_value ELSE 0 END FROM batch_rows"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO outbox_parked SELECT id FROM batches WHERE state = 2")
		return err
	})
	if err != nil {
		return false, fmt.Errorf("switch the outbox on: %w", err)
	}
	return begun, nil
}

// alone runs f in a transaction beside which no Update runs.
func (s *Store) alone(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(updateLock)); err != nil {
			return err
		}
		return f(tx)
	})
}

// backfillLock is the key of the advisory lock that has backfills take turns ("WBbf"): who opens the store does not wait for them.
const backfillLock = 0x57426266

// backfillNotes takes batches in the order in which they came. A batch that was parked when the outbox began has its note by itself.
const backfillNotes = `WITH b AS (SELECT b.id, b.device FROM batches b WHERE b.id <= $1 AND b.day >= $2::date AND ($3::date IS NULL OR b.day < $3::date) AND b.state = 1
      AND NOT EXISTS (SELECT 1 FROM outbox_parked p WHERE p.batch = b.id))
    INSERT INTO outbox (shard, kind, device, batch, idx)
    SELECT device % 16, kind, device, batch, idx FROM (
      SELECT 1::smallint AS kind, b.device, b.id AS batch, 0::bigint AS idx FROM b JOIN batches x ON x.device = b.device AND x.id = b.id WHERE x.lane <> 1
      UNION ALL SELECT 3::smallint, l.device, l.batch, l.idx FROM b JOIN losses l ON l.device = b.device AND l.batch = b.id) n ORDER BY batch, idx`

// Backfill is one transaction, so that what it noted and how far it went never differ.
func (s *Store) Backfill(ctx context.Context, from time.Time) (made int64, err error) {
	day := from.UTC().Format(time.DateOnly)
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(backfillLock)); err != nil {
			return err
		}
		var last, until string
		if err := tx.QueryRow(ctx, "SELECT coalesce(max(value) FILTER (WHERE key = 'decoded'), ''), coalesce(max(value) FILTER (WHERE key = 'decoded_from'), '') FROM meta").
			Scan(&last, &until); err != nil {
			return err
		}
		if last == "" {
			return errors.New("the outbox is off: `waybill-fleet serve --decoded` switches it on")
		}
		boundary, err := strconv.ParseInt(last, 10, 64)
		if err != nil {
			return fmt.Errorf("meta, decoded: %w", err)
		}
		if until != "" && until <= day {
			return nil // it is noted already
		}
		var end any
		if until != "" {
			end = until
		}
		tag, err := tx.Exec(ctx, backfillNotes, boundary, day, end)
		if err != nil {
			return err
		}
		made = tag.RowsAffected()
		_, err = tx.Exec(ctx, "INSERT INTO meta VALUES ('decoded_from', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value", day)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("backfill: %w", err)
	}
	return made, nil
}

// Pending looks at one row of each shard.
func (s *Store) Pending(ctx context.Context, shards []int) (list []int, err error) {
	ask := make([]int16, len(shards))
	for i, n := range shards {
		ask[i] = int16(n)
	}
	var shard int16
	err = s.each(ctx, "SELECT s FROM unnest($1::smallint[]) s WHERE EXISTS (SELECT 1 FROM outbox WHERE shard = s)", []any{ask}, []any{&shard}, func() error {
		list = append(list, int(shard))
		return nil
	})
	return list, err
}

// Done asks for the generation in the same statement: the connection may lead to another server than the one that was read from.
func (s *Store) Done(ctx context.Context, shard int, generation uint64, notes []int64) error {
	if len(notes) == 0 {
		return nil
	}
	_, err := s.pool.Exec(ctx, `DELETE FROM outbox WHERE shard = $1 AND id = ANY($2::bigint[]) AND EXISTS (SELECT 1 FROM meta WHERE key = 'generation' AND value = $3)`,
		int16(shard), notes, fmt.Sprintf("%016x", generation))
	if err != nil {
		return fmt.Errorf("delete notes of the outbox: %w", err)
	}
	return nil
}

// Backlog reads the first row of each shard for the age.
func (s *Store) Backlog(ctx context.Context) (n int64, oldest time.Time, err error) {
	var at *time.Time
	err = s.pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT $1) o),
	    (SELECT min(f.at) FROM generate_series(0, 15) s CROSS JOIN LATERAL (SELECT at FROM outbox WHERE shard = s::smallint ORDER BY id LIMIT 1) f)`, int64(store.BacklogMost)).Scan(&n, &at)
	if err != nil || at == nil {
		return n, time.Time{}, err
	}
	return n, at.UTC(), nil
}

// named is a note with the names of what it is about.
type named struct {
	id, device, batch, idx int64
	kind                   int16
	day                    int32
	samples                int64
	head                   store.DecodedBatch
}

const nextNotes = `SELECT (SELECT value FROM meta WHERE key = 'generation'), o.id, o.kind, o.device, o.batch, o.idx, d.tenant, d.device, b.epoch, b.lane, b.seq, b.boot_id, b.received,
    b.day - '2000-01-01', b.samples
    FROM (SELECT id, kind, device, batch, idx FROM outbox WHERE shard = $1 ORDER BY id LIMIT $2) o
    LEFT JOIN devices d ON d.id = o.device LEFT JOIN batches b ON b.device = o.device AND b.id = o.batch ORDER BY o.id`

// Next reads the notes first and then what they name: whatever changes between the two leaves a note of its own.
func (s *Store) Next(ctx context.Context, shard, most int) (*store.Carry, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer conn.Release()
	c := &store.Carry{}
	list, err := nextOf(ctx, conn, c, shard, most)
	if err != nil {
		return nil, fmt.Errorf("the outbox: %w", err)
	}
	if err := s.readBatches(ctx, conn, c, list); err != nil {
		return nil, fmt.Errorf("samples for the decoded topics: %w", err)
	}
	if err := readLosses(ctx, conn, c, list); err != nil {
		return nil, fmt.Errorf("losses for the decoded topics: %w", err)
	}
	return c, nil
}

// nextOf reads notes up to about `most` samples. What is gone is noted and carries nothing.
func nextOf(ctx context.Context, conn *pgxpool.Conn, c *store.Carry, shard, most int) (list []named, err error) {
	rows, err := conn.Query(ctx, nextNotes, int16(shard), notesAtOnce)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for room := int64(most); rows.Next(); {
		var n named
		var generation string
		var tenant, device *string
		var epoch, seq, samples *int64
		var lane, day *int32
		var boot *[16]byte
		var received *time.Time
		if err := rows.Scan(&generation, &n.id, &n.kind, &n.device, &n.batch, &n.idx, &tenant, &device, &epoch, &lane, &seq, &boot, &received, &day, &samples); err != nil {
			return nil, err
		}
		if c.Generation, err = strconv.ParseUint(generation, 16, 64); err != nil {
			return nil, fmt.Errorf("generation in meta: %w", err)
		}
		if tenant != nil && epoch != nil {
			if n.kind != noteLoss {
				if room -= *samples; room < 0 && len(c.Notes) > 0 {
					break
				}
			}
			n.day, n.samples = *day, *samples
			n.head = store.DecodedBatch{Tenant: *tenant, Device: *device, BootID: *boot, Received: received.UTC(),
				Key: store.Key{Epoch: uint64(*epoch), Lane: telemetrypb.Lane(*lane), Seq: uint64(*seq)}}
			list = append(list, n)
		}
		c.Notes = append(c.Notes, n.id)
	}
	rows.Close()
	return list, rows.Err()
}

const decodedSamples = `SELECT batch, idx, signal, boot_ns, wall_ns, uncertainty, bits, kind, raw, value, label
    FROM samples WHERE batch = ANY($1::bigint[]) AND day = ANY($2::date[]) ORDER BY batch, idx & 4294967295`

// readBatches reads the samples of the batches that are noted, each batch once.
func (s *Store) readBatches(ctx context.Context, conn *pgxpool.Conn, c *store.Carry, list []named) error {
	place := map[int64]int{}
	var ids []int64
	var days []time.Time
	known := map[int32]bool{}
	for _, n := range list {
		if _, again := place[n.batch]; again || n.kind == noteLoss {
			continue
		}
		place[n.batch] = len(c.Batches)
		n.head.Samples = make([]store.DecodedSample, 0, min(n.samples, 1<<16))
		c.Batches, ids = append(c.Batches, n.head), append(ids, n.batch)
		if !known[n.day] {
			known[n.day] = true
			days = append(days, dateOf(n.day))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	raw, err := readRaw(ctx, conn, ids, days)
	if err != nil {
		return err
	}
	signals, err := s.decodedSignals(ctx, conn, raw)
	if err != nil {
		return err
	}
	for i := range raw {
		r := &raw[i]
		b := &c.Batches[place[r.batch]]
		b.Samples = append(b.Samples, r.sample(signals[r.signal]))
	}
	return nil
}

// rawSample is a row of samples whose signal is not looked up yet.
type rawSample struct {
	batch, signal, bits int64
	kind                telemetrypb.Kind
	raw                 []byte
	store.DecodedSample
}

// readRaw reads rows in the binary format, which pgx asks for.
func readRaw(ctx context.Context, conn *pgxpool.Conn, ids []int64, days []time.Time) ([]rawSample, error) {
	rows, err := conn.Query(ctx, decodedSamples, ids, days)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for _, f := range rows.FieldDescriptions() {
		if f.Format != pgx.BinaryFormatCode && f.DataTypeOID != pgtype.TextOID { // a text is the same in both
			return nil, fmt.Errorf("column %s comes as text", f.Name)
		}
	}
	be := binary.BigEndian
	var list []rawSample
	for rows.Next() {
		v := rows.RawValues()
		r := rawSample{batch: int64(be.Uint64(v[0])), signal: int64(be.Uint64(v[2])), bits: int64(be.Uint64(v[6])), kind: telemetrypb.Kind(be.Uint16(v[7])),
			DecodedSample: store.DecodedSample{Index: be.Uint32(v[1]), BootNS: int64(be.Uint64(v[3]))}}
		if v[4] != nil && v[5] != nil {
			r.Dated, r.WallNS, r.UncertaintyNS = true, int64(be.Uint64(v[4])), int64(be.Uint64(v[5]))
		}
		if len(v[8]) > 0 {
			r.raw = append([]byte(nil), v[8]...)
		}
		if v[9] != nil {
			r.HasValue, r.Value = true, math.Float64frombits(be.Uint64(v[9]))
		}
		r.Label = string(v[10])
		list = append(list, r)
	}
	rows.Close()
	return list, rows.Err()
}

// decodedSignal is what a sample shows of its signal.
type decodedSignal struct {
	name, unit string
	labels     map[int64]string
}

// shortBytes is the most that rows tell of a signal's name, unit or label: each of a million samples of a batch says it again, and a
// catalogue may have megabytes of it.
const shortBytes = 1000

func shortened(s string) string {
	if len(s) <= shortBytes {
		return s
	}
	return strings.ToValidUTF8(s[:shortBytes], "") + "…"
}

func newDecodedSignal(name, unit string, labels *string) *decodedSignal {
	g := &decodedSignal{name: shortened(name), unit: shortened(unit)}
	if labels == nil {
		return g
	}
	_ = json.Unmarshal([]byte(*labels), &g.labels) // what makes no sense has no labels
	for n, text := range g.labels {
		g.labels[n] = shortened(text)
	}
	return g
}

// cacheable says whether a signal may be kept in memory beside very many others.
func (g *decodedSignal) cacheable() bool { return len(g.labels) <= 1024 }

// sample completes a row as the view `readings` shows it.
func (r *rawSample) sample(g *decodedSignal) store.DecodedSample {
	d := r.DecodedSample
	if g != nil {
		d.Name, d.Unit = g.name, g.unit
		if d.Label == "" && (r.kind == telemetrypb.KindInt || r.kind == telemetrypb.KindUint && r.bits >= 0) {
			d.Label = g.labels[r.bits]
		}
	}
	switch r.kind {
	case telemetrypb.KindString:
		d.HasText, d.Text = true, clean(string(r.raw)) // without NUL: most databases behind the topics refuse it, and a sink stops there
	case store.KindBlob:
		d.HasText, d.Text = true, hex.EncodeToString(r.raw)
	}
	return d
}

// cachedSignals bounds what is remembered of signals, which nobody changes once they are there.
const cachedSignals = 200_000

// decodedSignals looks up what the rows name.
func (s *Store) decodedSignals(ctx context.Context, conn *pgxpool.Conn, rows []rawSample) (map[int64]*decodedSignal, error) {
	found := map[int64]*decodedSignal{}
	var ask []int64
	s.mu.Lock()
	for i := range rows {
		id := rows[i].signal
		if _, done := found[id]; done {
			continue
		}
		g := s.signals[id]
		if found[id] = g; g == nil {
			ask = append(ask, id)
		}
	}
	s.mu.Unlock()
	if len(ask) == 0 {
		return found, nil
	}
	list, err := conn.Query(ctx, "SELECT id, name, unit, labels::text FROM signals WHERE id = ANY($1::bigint[])", ask)
	if err != nil {
		return nil, err
	}
	var id int64
	var name, unit string
	var labels *string
	if _, err := pgx.ForEachRow(list, []any{&id, &name, &unit, &labels}, func() error {
		found[id] = newDecodedSignal(name, unit, labels)
		return nil
	}); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signals == nil || len(s.signals)+len(ask) > cachedSignals {
		s.signals = map[int64]*decodedSignal{}
	}
	for _, id := range ask {
		if g := found[id]; g != nil && g.cacheable() {
			s.signals[id] = g
		}
	}
	return found, nil
}

// readLosses reads the records that are noted.
func readLosses(ctx context.Context, conn *pgxpool.Conn, c *store.Carry, list []named) error {
	type key struct{ device, batch, idx int64 }
	heads := map[key]store.DecodedBatch{}
	var devices, batches, indexes []int64
	for _, n := range list {
		k := key{n.device, n.batch, n.idx}
		if _, again := heads[k]; n.kind == noteLoss && !again {
			heads[k] = n.head
			devices, batches, indexes = append(devices, n.device), append(batches, n.batch), append(indexes, n.idx)
		}
	}
	if len(devices) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, `SELECT l.device, l.batch, l.idx, l.lane, l.source, l.reason, l.count, l.unit, l.detail
	    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS u (device, batch, idx, n)
	    JOIN losses l ON l.device = u.device AND l.batch = u.batch AND l.idx = u.idx ORDER BY u.n`, devices, batches, indexes)
	if err != nil {
		return err
	}
	var k key
	var lane, reason int32
	var l store.DecodedLoss
	_, err = pgx.ForEachRow(rows, []any{&k.device, &k.batch, &k.idx, &lane, &l.Source, &reason, &l.Count, &l.Unit, &l.Detail}, func() error {
		h := heads[k]
		l.Tenant, l.Device, l.Key, l.Received = h.Tenant, h.Device, h.Key, h.Received
		l.Index, l.Of, l.Reason = k.idx, telemetrypb.Lane(lane), telemetrypb.LossReason(reason)
		c.Losses = append(c.Losses, l)
		return nil
	})
	return err
}

// lease holds a connection of its own: its advisory locks go with it.
type lease struct {
	conn  *pgxpool.Conn
	space int32 // of the locks: the store's
}

// relayLock is the lock that all relays share, beside the shards' own.
const relayLock = 1000

// Lease takes a connection out of the pool for as long as it lasts.
func (s *Store) Lease(ctx context.Context) (store.Lease, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	h := fnv.New32a()
	h.Write([]byte("decoded " + s.Name()))
	l := &lease{conn: conn, space: int32(h.Sum32())}
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock_shared($1, $2)", l.space, int32(relayLock)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *lease) Relays(ctx context.Context) (n int, err error) {
	err = l.conn.QueryRow(ctx, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1::bigint::oid AND objid = $2::bigint::oid AND objsubid = 2 AND granted
	    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, int64(uint32(l.space)), int64(relayLock)).Scan(&n)
	return n, err
}

func (l *lease) Take(ctx context.Context, shard int) (taken bool, err error) {
	err = l.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", l.space, int32(shard)).Scan(&taken)
	return taken, err
}

func (l *lease) Give(ctx context.Context, shard int) error {
	_, err := l.conn.Exec(ctx, "SELECT pg_advisory_unlock($1, $2)", l.space, int32(shard))
	return err
}

// Close ends the connection and with it the locks.
func (l *lease) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	_ = l.conn.Hijack().Close(ctx)
}
