package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// tx is the transaction under way. What is counted and what is copied goes out in finish, or ahead of who reads it.
type tx struct {
	ctx  context.Context
	s    *Store
	conn *pgx.Conn
	err  error // the first: the server takes nothing more then

	wanted     map[deviceName]bool // that were asked for by name, in this attempt or an earlier one
	names      map[deviceName]*held
	devices    map[int64]*held
	lanes      map[laneKey]*laneChange
	catalogues map[catalogueKey]*store.Catalogue
	clocks     map[clockKey]*telemetrypb.ClockRecord // of devices that are held; nil: there is none
	places     map[int64]placed                      // of batches
	outbox     notes
	samples    copyBuffer
	spans      map[spanKey]*span
	wide       map[int64]placed // batches with more spans than are remembered
	copied     []int32          // days whose samples went out
	totals     totalsChange
	derived    derivedChange
	newLetters map[string]string // topics of devices that have new letters, from and below
}

type deviceName struct{ tenant, device string }

// placed is where a batch's samples stand.
type placed struct {
	device int64
	lane   int32
	day    int32 // as a date's binary format has it
}

// held is a device whose row this transaction holds.
type held struct {
	id int64
	usage
	receipts int64
	copies   bool
	lastSeen time.Time // zero: it was not heard from
	changed  bool
}

func newTx(ctx context.Context, s *Store, conn *pgx.Conn, wanted map[deviceName]bool) *tx {
	return &tx{
		ctx: ctx, s: s, conn: conn, wanted: wanted, names: map[deviceName]*held{}, devices: map[int64]*held{}, lanes: map[laneKey]*laneChange{},
		catalogues: map[catalogueKey]*store.Catalogue{}, places: map[int64]placed{}, spans: map[spanKey]*span{}, derived: newDerivedChange(),
	}
}

// fail remembers why the transaction cannot go on.
func (t *tx) fail(err error) error {
	if t.err == nil {
		t.err = err
	}
	return err
}

func (t *tx) exec(query string, args ...any) (int64, error) {
	tag, err := t.conn.Exec(t.ctx, query, args...)
	if err != nil {
		return 0, t.fail(err)
	}
	return tag.RowsAffected(), nil
}

// one runs a query for at most one row.
func (t *tx) one(query string, args []any, into ...any) (found bool, err error) {
	err = t.conn.QueryRow(t.ctx, query, args...).Scan(into...)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, t.fail(err)
	}
	return true, nil
}

// each runs a query and calls f at each row, with what is scanned in into.
func (t *tx) each(query string, args []any, into []any, f func() error) error {
	rows, err := t.conn.Query(t.ctx, query, args...)
	if err != nil {
		return t.fail(err)
	}
	if _, err := pgx.ForEachRow(rows, into, f); err != nil {
		return t.fail(err)
	}
	return nil
}

// Device takes the device's row, which nobody else has until this transaction ends: all that is decided about a device is
// decided by one at a time, whichever process it is.
func (t *tx) Device(tenant, device string, now time.Time) (int64, error) {
	h := t.names[deviceName{tenant, device}]
	if h == nil {
		t.wanted[deviceName{tenant, device}] = true
		h = &held{}
		for h.id == 0 {
			if _, err := t.one("SELECT id, receipts, copies, "+usageColumns+" FROM devices WHERE tenant = $1 AND device = $2 FOR NO KEY UPDATE",
				[]any{tenant, device}, append([]any{&h.id, &h.receipts, &h.copies}, h.usage.into()...)...); err != nil {
				return 0, err
			}
			if h.id != 0 {
				break
			}
			if err := t.roomForDevice(tenant); err != nil {
				return 0, err
			}
			made, err := t.one("INSERT INTO devices (tenant, device, first_seen, last_seen) VALUES ($1, $2, $3, $3) ON CONFLICT (tenant, device) DO NOTHING RETURNING id",
				[]any{tenant, device, now}, &h.id)
			if err != nil {
				return 0, err
			}
			if made {
				t.totals.devices++
			} else if err := t.notNew(tenant); err != nil {
				return 0, err
			}
		}
		if known := t.devices[h.id]; known != nil { // held under its row alone, so far
			h = known
		}
		t.names[deviceName{tenant, device}], t.devices[h.id] = h, h
	}
	if now.After(h.lastSeen) {
		h.lastSeen, h.changed = now, true
	}
	return h.id, nil
}

// takeWanted takes the rows of the devices that earlier attempts asked for.
func (t *tx) takeWanted() error {
	if len(t.wanted) == 0 {
		return nil
	}
	var tenants, devices []string
	for name := range t.wanted {
		tenants, devices = append(tenants, name.tenant), append(devices, name.device)
	}
	var h held
	var name deviceName
	return t.each(`SELECT d.id, d.tenant, d.device, d.receipts, d.copies, `+usageColumns+` FROM devices d JOIN unnest($1::text[], $2::text[]) AS w (tenant, device)
	    ON d.tenant = w.tenant AND d.device = w.device ORDER BY d.id FOR NO KEY UPDATE OF d`, []any{tenants, devices},
		append([]any{&h.id, &name.tenant, &name.device, &h.receipts, &h.copies}, h.usage.into()...), func() error {
			one := h
			t.names[name], t.devices[h.id] = &one, &one
			return nil
		})
}

// hold takes the row of a device, once a transaction.
func (t *tx) hold(device int64) (*held, error) {
	if h := t.devices[device]; h != nil {
		return h, nil
	}
	h := &held{id: device}
	found, err := t.one("SELECT receipts, copies, "+usageColumns+" FROM devices WHERE id = $1 FOR NO KEY UPDATE", []any{device},
		append([]any{&h.receipts, &h.copies}, h.usage.into()...)...)
	if err == nil && !found {
		err = fmt.Errorf("device row %d is not there", device)
	}
	if err != nil {
		return nil, err
	}
	t.devices[device] = h
	return h, nil
}

func (t *tx) NextReceipt(device int64) (uint64, error) {
	h, err := t.hold(device)
	if err != nil {
		return 0, err
	}
	h.receipts++
	h.changed = true
	return uint64(h.receipts), nil
}

// insertBatch inserts the key, unless its lane has as many gaps as it may and the number would begin one more ($19: runs that
// this transaction has added, $20: the limit). It says whether the epoch was known.
const insertBatch = `INSERT INTO batches (device, epoch, lane, seq, crc32c, sha256, boot_id, boot_count, catalogue, first_ns, span_ns,
    samples, form, state, reason, bytes, day, received) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18
    WHERE NOT EXISTS (SELECT 1 FROM lanes l WHERE l.device = $1 AND l.epoch = $2 AND l.lane = $3 AND l.runs + $19::bigint >= $20::bigint
      AND NOT EXISTS (SELECT 1 FROM (SELECT last FROM ranges r WHERE r.device = $1 AND r.epoch = $2 AND r.lane = $3 AND r.first - 1 <= $4 ORDER BY first DESC LIMIT 1) r
        WHERE r.last >= $4 - 1))
    ON CONFLICT (device, epoch, lane, seq) DO NOTHING
    RETURNING id, EXISTS (SELECT 1 FROM lanes l WHERE l.device = $1 AND l.epoch = $2)`

func (t *tx) PutBatch(device int64, b *store.Batch) (store.Put, error) {
	if b.Seq == 0 || b.Seq > maxSeq {
		return store.Put{}, fmt.Errorf("seq %d is out of range", b.Seq)
	}
	h, err := t.hold(device)
	if err != nil {
		return store.Put{}, err
	}
	var id int64
	var known bool
	day := dayOf(b.Received)
	full, err := t.roomForBatch(h, b)
	if err != nil {
		return store.Put{}, err
	}
	if full != nil {
		return t.refuse(device, b, full)
	}
	added := 0
	if l := t.lanes[laneKey{device, b.Epoch, b.Lane}]; l != nil {
		if added = len(l.accounted.List()); l.accounted.Within(b.Seq-1, b.Seq+1) > 0 {
			added = -t.s.o.Limits.Gaps // it joins one of them
		}
	}
	found, err := t.one(insertBatch, []any{device, int64(b.Epoch), int32(b.Lane), int64(b.Seq), int64(b.CRC), b.SHA256, b.BootID, int64(b.BootCount),
		b.Catalogue, b.FirstNS, int64(b.SpanNS), int64(b.Samples), int16(b.Form), int16(b.State), clean(b.Reason), b.Bytes, dateOf(day), b.Received,
		int64(added), int64(t.s.o.Limits.Gaps)}, &id, &known)
	if err != nil {
		return store.Put{}, fmt.Errorf("batch %016x/%d/%d: %w", b.Epoch, b.Lane, b.Seq, err)
	}
	if !found {
		return t.refuse(device, b, store.NoRoom("gaps of a lane", int64(t.s.o.Limits.Gaps)))
	}
	t.places[id] = placed{device, int32(b.Lane), day}
	if err := t.noteEpoch(h, b.Epoch, known); err != nil {
		return store.Put{}, err
	}
	if b.State == store.StateParked {
		h.parked, h.changed = h.parked+store.ParkedCost(int64(len(b.Bytes)), int64(b.Samples)), true
	}
	l := t.lane(device, b.Epoch, b.Lane)
	l.arrived(id, b.Seq)
	l.batches++
	t.totals.batches++
	l.became(b.State, 1, int64(b.Samples))
	t.totals.became(b.State, 1)
	for _, r := range b.Supersedes {
		if !h.copies {
			h.copies, h.changed = true, true
		}
		if _, err := t.exec("INSERT INTO supersedes (batch, device, epoch, lane, first, last) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
			id, device, int64(b.Epoch), int32(b.Lane), int64(r.GetFirst()), int64(r.GetLast())); err != nil {
			return store.Put{}, fmt.Errorf("superseded seqs: %w", err)
		}
		l.account(r.GetFirst(), r.GetLast())
	}
	return store.Put{ID: id, Outcome: store.OutcomeNew, State: b.State, Reason: b.Reason, Catalogue: b.Catalogue}, nil
}

// compare says whether the batch that holds the key is this one. A rendered batch has no bytes of its own to compare:
// then the checksum of the batch it was rendered from decides.
func (t *tx) compare(device int64, b *store.Batch) (p store.Put, found bool, err error) {
	var crc int64
	var state int16
	var sum []byte
	found, err = t.one("SELECT id, crc32c, sha256, catalogue, state, reason FROM batches WHERE device = $1 AND epoch = $2 AND lane = $3 AND seq = $4",
		[]any{device, int64(b.Epoch), int32(b.Lane), int64(b.Seq)}, &p.ID, &crc, &sum, &p.Catalogue, &state, &p.Reason)
	if err != nil || !found {
		return p, false, err
	}
	p.State, p.Outcome = store.State(state), store.OutcomeDuplicate
	if uint32(crc) != b.CRC || sum != nil && b.SHA256 != nil && !bytes.Equal(sum, b.SHA256) {
		p.Outcome = store.OutcomeConflict
	}
	return p, true, nil
}

// refuse is the answer to a batch that was not inserted: its key is there, or there is no room for it.
func (t *tx) refuse(device int64, b *store.Batch, full error) (store.Put, error) {
	p, found, err := t.compare(device, b)
	if err == nil && !found {
		p = store.Put{Outcome: store.OutcomeFull, State: store.StateParked, Reason: full.Error()}
	}
	return p, err
}

func (t *tx) Settle(batch int64, state store.State, reason string) error {
	if state == store.StateParked {
		return errors.New("a batch is not settled by parking it")
	}
	var device, epoch, samples, size int64
	var lane, day int32
	found, err := t.one(`UPDATE batches b SET state = $2, reason = $3, bytes = NULL FROM batches old WHERE b.id = $1 AND b.state = 2 AND old.id = b.id AND old.device = b.device
	    RETURNING b.device, b.epoch, b.lane, b.samples, b.day - '2000-01-01', coalesce(length(old.bytes), 0)`,
		[]any{batch, int16(state), clean(reason)}, &device, &epoch, &lane, &samples, &day, &size)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("batch row %d is not parked", batch)
	}
	h, err := t.hold(device)
	if err != nil {
		return err
	}
	h.parked, h.changed = h.parked-store.ParkedCost(size, samples), true
	t.places[batch] = placed{device, lane, day}
	l := t.lane(device, uint64(epoch), telemetrypb.Lane(lane))
	l.became(store.StateParked, -1, samples)
	l.became(state, 1, samples)
	t.totals.became(store.StateParked, -1)
	t.totals.became(state, 1)
	return nil
}

func (t *tx) ParkedFor(device int64, catalogue [16]byte) (list []store.Parked, err error) {
	if _, err := t.hold(device); err != nil {
		return nil, err
	}
	var id, epoch, seq, crc int64
	var lane int32
	var text []byte
	err = t.each(`SELECT id, epoch, lane, seq, crc32c, bytes FROM batches
	    WHERE device = $1 AND catalogue = $2 AND state = 2 AND reason = 'catalogue' ORDER BY id`, []any{device, catalogue},
		[]any{&id, &epoch, &lane, &seq, &crc, &text}, func() error {
			list = append(list, store.Parked{ID: id, Key: store.Key{Epoch: uint64(epoch), Lane: telemetrypb.Lane(lane), Seq: uint64(seq)}, CRC: uint32(crc), Bytes: bytes.Clone(text)})
			return nil
		})
	return list, err
}

func (t *tx) AllStored(device int64, epoch uint64, lane telemetrypb.Lane, ranges []*telemetrypb.SeqRange) (bool, error) {
	if len(ranges) == 0 {
		return false, nil
	}
	if _, err := t.hold(device); err != nil {
		return false, err
	}
	for _, r := range ranges {
		if r.GetFirst() == 0 || r.GetFirst() > r.GetLast() || r.GetLast() > maxSeq {
			return false, nil
		}
		var n int64
		if _, err := t.one("SELECT count(*) FROM batches WHERE device = $1 AND epoch = $2 AND lane = $3 AND seq BETWEEN $4 AND $5 AND state = 1",
			[]any{device, int64(epoch), int32(lane), int64(r.First), int64(r.Last)}, &n); err != nil {
			return false, err
		}
		if uint64(n) != r.Last-r.First+1 {
			return false, nil
		}
	}
	return true, nil
}

// clean makes a text one that PostgreSQL takes: it has no NUL, and is UTF-8. What a vehicle sends may be otherwise.
func clean(s string) string {
	if strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// notNil keeps a NOT NULL column satisfied by absent bytes.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
