package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// tx is the transaction under way. committed is what the counters learn once it is durable.
type tx struct {
	ctx       context.Context
	s         *SQLite
	w         *writer
	o         Options
	batch     int64 // row of the last batch that was put in; 0: none
	committed []func(*coverage, *Totals)
}

func (t *tx) exec(query string, args ...any) (sql.Result, error) {
	s, err := t.w.statement(t.ctx, query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(t.ctx, args...)
}

// one runs a query for at most one row.
func (t *tx) one(query string, args []any, into ...any) (found bool, err error) {
	s, err := t.w.statement(t.ctx, query)
	if err != nil {
		return false, err
	}
	err = s.QueryRowContext(t.ctx, args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

func (t *tx) after(f func(*coverage, *Totals)) { t.committed = append(t.committed, f) }

func (t *tx) Device(tenant, device string, now time.Time) (int64, error) {
	key := deviceKey{tenant, device}
	id, known := t.w.devices[key]
	if known {
		_, err := t.exec("UPDATE devices SET last_seen = ? WHERE id = ?", now.UnixNano(), id)
		return id, err
	}
	found, err := t.one("UPDATE devices SET last_seen = ? WHERE tenant = ? AND device = ? RETURNING id", []any{now.UnixNano(), tenant, device}, &id)
	if err != nil {
		return 0, err
	}
	if !found {
		if err := t.roomForDevice(tenant); err != nil {
			return 0, err
		}
		if _, err = t.one("INSERT INTO devices (tenant, device, first_seen, last_seen) VALUES (?, ?, ?, ?) RETURNING id",
			[]any{tenant, device, now.UnixNano(), now.UnixNano()}, &id); err != nil {
			return 0, err
		}
		t.after(func(_ *coverage, n *Totals) { n.Devices++ })
	}
	if len(t.w.devices) >= cachedDevices {
		t.w.devices = map[deviceKey]int64{}
	}
	t.w.devices[key] = id
	return id, nil
}

func (t *tx) PutBatch(device int64, b *Batch) (Put, error) {
	if b.Seq == 0 || b.Seq > 1<<63-1 {
		return Put{}, fmt.Errorf("seq %d is out of range", b.Seq)
	}
	if err := t.roomForBatch(device, b); err != nil {
		if !errors.Is(err, ErrLimit) {
			return Put{}, err
		}
		p, found, comparing := t.compare(device, b)
		if comparing != nil || found {
			return p, comparing
		}
		return Put{Outcome: OutcomeFull, State: StateParked, Reason: err.Error()}, nil
	}
	var id int64
	found, err := t.one(`INSERT INTO batches (device, epoch, lane, seq, crc32c, sha256, boot_id, boot_count, catalogue, first_ns, span_ns,
	    samples, form, state, reason, bytes, received) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
	    ON CONFLICT (device, epoch, lane, seq) DO NOTHING RETURNING id`,
		[]any{device, int64(b.Epoch), int64(b.Lane), int64(b.Seq), int64(b.CRC), b.SHA256, b.BootID[:], int64(b.BootCount), b.Catalogue[:],
			b.FirstNS, int64(b.SpanNS), int64(b.Samples), int64(b.Form), int64(b.State), b.Reason, b.Bytes, b.Received.UnixNano()}, &id)
	if err != nil {
		return Put{}, fmt.Errorf("batch %016x/%d/%d: %w", b.Epoch, b.Lane, b.Seq, err)
	}
	if !found {
		p, found, err := t.compare(device, b)
		if err == nil && !found {
			err = fmt.Errorf("batch %016x/%d/%d is neither new nor there", b.Epoch, b.Lane, b.Seq)
		}
		return p, err
	}
	if b.State == StateParked {
		t.usageOf(device).parked += ParkedCost(int64(len(b.Bytes)), int64(b.Samples))
	}
	t.batch = id
	if len(b.Supersedes) > 0 {
		if err := t.w.loadCopied(t); err != nil {
			return Put{}, err
		}
	}
	for _, r := range b.Supersedes {
		addCopied(t.w.copied, laneKey{device, b.Epoch, b.Lane}, r.GetFirst(), r.GetLast())
		if _, err := t.exec("INSERT OR IGNORE INTO supersedes (batch, first, last) VALUES (?, ?, ?)", id, int64(r.GetFirst()), int64(r.GetLast())); err != nil {
			return Put{}, fmt.Errorf("superseded seqs: %w", err)
		}
	}
	key, seq, state, superseded := laneKey{device, b.Epoch, b.Lane}, b.Seq, b.State, b.Supersedes
	t.after(func(c *coverage, n *Totals) {
		c.arrived(key, seq, seq)
		for _, r := range superseded {
			c.accounted(key, r.GetFirst(), r.GetLast())
		}
		n.Batches++
		switch state {
		case StateParked:
			n.Parked++
		case StateRejected:
			n.Rejected++
		}
	})
	return Put{ID: id, Outcome: OutcomeNew, State: b.State, Reason: b.Reason, Catalogue: b.Catalogue}, nil
}

// compare says whether the batch that holds the key is this one. A rendered batch has no bytes of its own to compare:
// then the checksum of the batch it was rendered from decides.
func (t *tx) compare(device int64, b *Batch) (p Put, found bool, err error) {
	var crc, state int64
	var sum, catalogue []byte
	found, err = t.one("SELECT id, crc32c, sha256, catalogue, state, reason FROM batches WHERE device = ? AND epoch = ? AND lane = ? AND seq = ?",
		[]any{device, int64(b.Epoch), int64(b.Lane), int64(b.Seq)}, &p.ID, &crc, &sum, &catalogue, &state, &p.Reason)
	if err != nil || !found {
		return p, false, err
	}
	p.State, p.Outcome = State(state), OutcomeDuplicate
	copy(p.Catalogue[:], catalogue)
	if uint32(crc) != b.CRC || sum != nil && b.SHA256 != nil && !bytes.Equal(sum, b.SHA256) {
		p.Outcome = OutcomeConflict
	}
	return p, true, nil
}

func (t *tx) Settle(batch int64, state State, reason string) error {
	if state == StateParked {
		return errors.New("a batch is not settled by parking it")
	}
	var device, bytes, samples int64
	if _, err := t.one("SELECT device, length(bytes), samples FROM batches WHERE id = ? AND state = 2", []any{batch}, &device, &bytes, &samples); err != nil {
		return err
	}
	result, err := t.exec("UPDATE batches SET state = ?, reason = ?, bytes = NULL WHERE id = ? AND state = 2", int64(state), reason, batch)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("batch row %d is not parked", batch), err)
	}
	if u := t.usageOf(device); u.parked >= 0 {
		u.parked -= ParkedCost(bytes, samples)
	}
	t.after(func(_ *coverage, n *Totals) {
		n.Parked--
		if state == StateRejected {
			n.Rejected++
		}
	})
	return nil
}

func (t *tx) ParkedFor(device int64, catalogue [16]byte) ([]Parked, error) {
	s, err := t.w.statement(t.ctx, `SELECT id, epoch, lane, seq, crc32c, bytes FROM batches
	    WHERE device = ? AND catalogue = ? AND state = 2 AND reason = 'catalogue' ORDER BY id`)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(t.ctx, device, catalogue[:])
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Parked
	for rows.Next() {
		var p Parked
		var epoch, lane, seq, crc int64
		if err := rows.Scan(&p.ID, &epoch, &lane, &seq, &crc, &p.Bytes); err != nil {
			return nil, err
		}
		p.Key, p.CRC = Key{uint64(epoch), telemetrypb.Lane(lane), uint64(seq)}, uint32(crc)
		list = append(list, p)
	}
	return list, rows.Err()
}

func (t *tx) AllStored(device int64, epoch uint64, lane telemetrypb.Lane, ranges []*telemetrypb.SeqRange) (bool, error) {
	if len(ranges) == 0 {
		return false, nil
	}
	for _, r := range ranges {
		if r.GetFirst() == 0 || r.GetFirst() > r.GetLast() || r.GetLast() > 1<<63-1 {
			return false, nil
		}
		var n int64
		if _, err := t.one("SELECT count(*) FROM batches WHERE device = ? AND epoch = ? AND lane = ? AND seq BETWEEN ? AND ? AND state = 1",
			[]any{device, int64(epoch), int64(lane), int64(r.First), int64(r.Last)}, &n); err != nil {
			return false, err
		}
		if uint64(n) != r.Last-r.First+1 {
			return false, nil
		}
	}
	return true, nil
}

func (t *tx) PutSamples(batch int64, rows []Row) error {
	count := int64(len(rows))
	args := make([]any, 0, sampleRows*sampleColumns)
	for len(rows) > 0 {
		n := min(len(rows), sampleRows)
		query := insertSamples
		if n < sampleRows {
			n, query = 1, insertSample
		}
		args = args[:0]
		for i := range rows[:n] {
			r := &rows[i]
			wall, doubt := r.Time.columns()
			var label any
			if r.Label != "" {
				label = r.Label
			}
			args = append(args, batch, int64(r.Index), r.Signal, r.BootNS, wall, doubt, int64(r.Time.Source),
				int64(r.Raw.Kind), r.Raw.column(), r.Value.column(), label)
		}
		if _, err := t.exec(query, args...); err != nil {
			return fmt.Errorf("samples of batch row %d: %w", batch, err)
		}
		rows = rows[n:]
	}
	t.after(func(_ *coverage, n *Totals) { n.Samples += count })
	return nil
}

func (t *tx) Clock(device int64, boot [16]byte) (*telemetrypb.ClockRecord, error) {
	var record []byte
	found, err := t.one("SELECT record FROM clocks WHERE device = ? AND boot_id = ?", []any{device, boot[:]}, &record)
	if err != nil || !found {
		return nil, err
	}
	c := new(telemetrypb.ClockRecord)
	if err := proto.Unmarshal(record, c); err != nil {
		return nil, fmt.Errorf("clock of boot %x: %w", boot, err)
	}
	return c, nil
}

func (t *tx) PutClock(device int64, c *telemetrypb.ClockRecord, now time.Time) error {
	if err := t.roomForBoot(device, c.GetBootId()); err != nil {
		return err
	}
	record, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT OR REPLACE INTO clocks (device, boot_id, boot_count, revision, record, received) VALUES (?, ?, ?, ?, ?, ?)",
		device, c.GetBootId(), int64(c.GetBootCount()), int64(c.GetRevision()), record, now.UnixNano())
	return err
}

func (t *tx) PutLoss(device, batch int64, index int, l *telemetrypb.Loss) error {
	list := []Range{}
	for _, r := range l.GetSeqs() {
		list = append(list, Range{r.GetFirst(), r.GetLast()})
	}
	switch l.GetReason() {
	case telemetrypb.LossReason_LOSS_NOT_KEPT:
		var err error
		if l, list, err = t.reallyLost(device, l, list); err != nil || len(list) == 0 {
			return err
		}
	case telemetrypb.LossReason_LOSS_REJECTED:
		if known, err := t.rejectedBefore(device, l, list); err != nil || known {
			return err
		}
	}
	if len(list) > 0 {
		if err := t.roomForEpoch(device, l.GetEpoch()); err != nil {
			return err
		}
		if len(list) > t.o.Limits.Gaps || t.gaps(laneKey{device, l.GetEpoch(), l.GetLane()}, 1<<63)+len(list) > t.o.Limits.Gaps {
			return NoRoom("gaps of a lane", int64(t.o.Limits.Gaps))
		}
	}
	seqs, err := json.Marshal(list)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO losses (batch, idx, device, reason, source, count, count_is_bound, count_unknown, unit, boot_id, first_ns, last_ns,
	    epoch, lane, seqs, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		batch, int64(index), device, int64(l.GetReason()), l.GetSource(), int64(l.GetCount()), l.GetCountIsBound(), l.GetCountUnknown(), l.GetUnit(),
		notNil(l.GetBootId()), l.GetFirstNs(), l.GetLastNs(), int64(l.GetEpoch()), int64(l.GetLane()), string(seqs), l.GetDetail())
	if err != nil {
		return err
	}
	key := laneKey{device, l.GetEpoch(), l.GetLane()}
	t.after(func(c *coverage, n *Totals) {
		n.Losses++
		for _, r := range list {
			c.accounted(key, r.First, r.Last)
		}
	})
	return nil
}

func (t *tx) PutEpoch(device int64, e *telemetrypb.Epoch, now time.Time) error {
	for _, epoch := range []uint64{e.GetEpoch(), e.GetParent()} {
		if err := t.roomForEpoch(device, epoch); epoch != 0 && err != nil {
			return err
		}
	}
	last, err := json.Marshal(LaneSeqs(e.GetParentLast()))
	if err != nil {
		return err
	}
	first, err := json.Marshal(LaneSeqs(e.GetFirst()))
	if err != nil {
		return err
	}
	if _, err := t.exec("INSERT OR IGNORE INTO epochs (device, epoch, parent, parent_last, first, reason, received) VALUES (?, ?, ?, ?, ?, ?, ?)",
		device, int64(e.GetEpoch()), int64(e.GetParent()), string(last), string(first), e.GetReason(), now.UnixNano()); err != nil {
		return err
	}
	t.after(func(c *coverage, _ *Totals) {
		c.began(device, e.GetEpoch(), e.GetParent(), LaneSeqs(e.GetParentLast()), LaneSeqs(e.GetFirst()))
	})
	return nil
}

func (t *tx) PutInfo(device, batch int64, index int, bootCount uint32, i *telemetrypb.DeviceInfo) error {
	versions, err := json.Marshal(i.GetVersions())
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO device_info (batch, idx, device, boot_count, boot_ns, vin, mode, versions) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		batch, int64(index), device, int64(bootCount), i.GetBootNs(), i.GetVin(), i.GetMode(), string(versions))
	return err
}

func (t *tx) PutStatus(device int64, s *telemetrypb.Status, now time.Time) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT OR REPLACE INTO status (device, online, version, status, received) VALUES (?, ?, ?, ?, ?)",
		device, s.GetOnline(), s.GetVersion(), notNil(data), now.UnixNano())
	return err
}

func (t *tx) PutDeadLetter(d *DeadLetter) error {
	sum := sha256.Sum256(d.Bytes)
	head := notNil(d.Bytes[:min(len(d.Bytes), t.o.LetterBytes)])
	topic := LetterTopic(d.Topic)
	var id, times int64
	if _, err := t.one(`INSERT INTO dead_letters (topic, reason, detail, sha256, size, bytes, times, first_at, last_at) VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?)
	    ON CONFLICT (topic, reason, sha256) DO UPDATE SET times = times + 1, last_at = excluded.last_at, detail = excluded.detail RETURNING id, times`,
		[]any{topic, d.Reason, d.Detail, sum[:], int64(len(d.Bytes)), head, d.At.UnixNano(), d.At.UnixNano()}, &id, &times); err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	if times > 1 {
		return nil
	}
	// Those of one device push out its own first.
	from, below := LettersOf(topic)
	result, err := t.exec(`DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE topic >= ? AND topic < ? ORDER BY id DESC LIMIT -1 OFFSET ?)`,
		from, below, int64(t.o.Limits.Letters))
	if err != nil {
		return err
	}
	own, err := result.RowsAffected()
	if err != nil {
		return err
	}
	if err := t.count(&t.w.letters, "SELECT count(*) - 1 + ? FROM dead_letters", own); err != nil { // as it was before this one
		return err
	}
	gone := own
	if t.w.letters += 1 - own; t.w.letters > int64(t.o.Letters) {
		if _, err := t.exec("DELETE FROM dead_letters WHERE id = (SELECT min(id) FROM dead_letters)"); err != nil {
			return err
		}
		t.w.letters--
		gone++
	}
	t.after(func(_ *coverage, n *Totals) { n.Letters += 1 - gone })
	return nil
}

func (t *tx) NextReceipt(device int64) (n uint64, err error) {
	var number int64
	found, err := t.one("UPDATE devices SET receipts = receipts + 1 WHERE id = ? RETURNING receipts", []any{device}, &number)
	if err == nil && !found {
		err = fmt.Errorf("device row %d is not there", device)
	}
	return uint64(number), err
}

// notNil keeps a NOT NULL column satisfied by absent bytes.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
