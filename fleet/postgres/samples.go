package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Samples go by COPY in PostgreSQL's binary format (its documentation, "COPY", "Binary Format"), written by hand: per row two
// bytes that count the columns, per column four bytes of length and the value, big-endian.
const copySamples = `COPY samples (day, idx, batch, signal, boot_ns, wall_ns, uncertainty, bits, value, time_source, kind, raw, label, by_time) FROM STDIN (FORMAT binary)`

const sampleColumns = 14

// copyHead is the signature, no flags, and no extension.
const copyHead = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// fixedRow is the size of a row without NULLs, text and label.
const fixedRow = 2 + sampleColumns*4 + 4 + 4 + 7*8 + 2 + 2 + 1

// flushAt bounds what a transaction keeps in memory of its samples, in bytes.
const flushAt = 1 << 20

// copyBuffer collects rows.
type copyBuffer struct {
	bytes []byte
	days  []int32 // that its rows are of
	rows  int64
}

// add writes the rows of a batch; those that roles names are found by time.
func (c *copyBuffer) add(day int32, batch int64, rows []store.Row, roles *deviceRoles) {
	if len(c.bytes) == 0 {
		c.bytes = append(c.bytes, copyHead...)
	}
	if !slices.Contains(c.days, day) {
		c.days = append(c.days, day)
	}
	c.bytes = slices.Grow(c.bytes, len(rows)*fixedRow)
	b := c.bytes
	for i := range rows {
		b = appendRow(b, day, batch, &rows[i])
		byTime := byte(0)
		if _, ok := roles.of(rows[i].Signal); ok {
			byTime = 1
		}
		b = append(binary.BigEndian.AppendUint32(b, 1), byTime)
	}
	c.bytes = b
	c.rows += int64(len(rows))
}

// NULL is a length of −1 and no value.
const null = math.MaxUint32

// appendRow writes all columns but the last.
func appendRow(b []byte, day int32, batch int64, r *store.Row) []byte {
	be := binary.BigEndian
	// The head of a row, up to boot_ns, is of one size whatever it says.
	const head = 2 + 8 + 8 + 4*0 + 12 + 12 + 12
	n := len(b)
	b = slices.Grow(b, fixedRow)[:n+head]
	h := b[n : n+head : n+head]
	be.PutUint16(h, sampleColumns)
	be.PutUint32(h[2:], 4)
	be.PutUint32(h[6:], uint32(day))
	be.PutUint32(h[10:], 4)
	be.PutUint32(h[14:], r.Index)
	be.PutUint32(h[18:], 8)
	be.PutUint64(h[22:], uint64(batch))
	be.PutUint32(h[30:], 8)
	be.PutUint64(h[34:], uint64(r.Signal))
	be.PutUint32(h[42:], 8)
	be.PutUint64(h[46:], uint64(r.BootNS))
	if r.Time.Source == telemetrypb.TimeSource_TIME_SOURCE_NONE {
		b = be.AppendUint32(b, null)
		b = be.AppendUint32(b, null)
	} else {
		b = be.AppendUint64(be.AppendUint32(b, 8), uint64(r.Time.UnixNS))
		b = be.AppendUint64(be.AppendUint32(b, 8), min(r.Time.UncertaintyNS, math.MaxInt64))
	}
	bits, text := r.Raw.Bits, ""
	if r.Raw.Kind == telemetrypb.KindString || r.Raw.Kind == store.KindBlob {
		bits, text = 0, r.Raw.Text
	}
	b = be.AppendUint64(be.AppendUint32(b, 8), bits)
	switch r.Value.Kind {
	case telemetrypb.KindFloat:
		b = be.AppendUint64(be.AppendUint32(b, 8), r.Value.Bits)
	case telemetrypb.KindInt:
		b = be.AppendUint64(be.AppendUint32(b, 8), math.Float64bits(float64(int64(r.Value.Bits))))
	case telemetrypb.KindUint:
		b = be.AppendUint64(be.AppendUint32(b, 8), math.Float64bits(float64(r.Value.Bits)))
	default:
		b = be.AppendUint32(b, null)
	}
	b = be.AppendUint16(be.AppendUint32(b, 2), uint16(r.Time.Source))
	b = be.AppendUint16(be.AppendUint32(b, 2), uint16(r.Raw.Kind))
	b = append(be.AppendUint32(b, uint32(len(text))), text...)
	label := clean(r.Label)
	return append(be.AppendUint32(b, uint32(len(label))), label...)
}

// PutSamples keeps the rows for the next COPY.
func (t *tx) PutSamples(batch int64, rows []store.Row) error {
	if len(rows) == 0 {
		return nil
	}
	at, err := t.placeOf(batch)
	if err != nil {
		return err
	}
	day := at.day
	if !t.s.ready(day) {
		return t.fail(&absentPartition{[]int32{day}})
	}
	t.noteSpans(batch, at, rows) // it says which batches are wide
	roles, err := t.noteSamples(batch, day, rows)
	if err != nil {
		return err
	}
	if err := t.noteForOutbox(batch); err != nil {
		return err
	}
	t.samples.add(day, batch, rows, roles)
	t.totals.samples += int64(len(rows))
	if len(t.samples.bytes) < flushAt {
		return nil
	}
	return t.flushSamples()
}

// flushSamples has what was put read by the statements that follow.
func (t *tx) flushSamples() error {
	c := &t.samples
	if c.rows == 0 {
		return nil
	}
	c.bytes = append(c.bytes, 0xFF, 0xFF) // no row follows
	tag, err := t.conn.PgConn().CopyFrom(t.ctx, bytes.NewReader(c.bytes), copySamples)
	if isAbsentPartition(err) {
		err = &absentPartition{slices.Clone(c.days)}
	}
	if err == nil && tag.RowsAffected() != c.rows {
		err = fmt.Errorf("the server took %d of %d", tag.RowsAffected(), c.rows)
	}
	if err != nil {
		return t.fail(fmt.Errorf("copy samples: %w", err))
	}
	t.copied = append(t.copied, c.days...)
	c.bytes, c.days, c.rows = c.bytes[:0], c.days[:0], 0
	return nil
}

// placeOf is where a batch's samples stand.
func (t *tx) placeOf(batch int64) (placed, error) {
	p, known := t.places[batch]
	if known {
		return p, nil
	}
	found, err := t.one("SELECT device, lane, day - '2000-01-01' FROM batches WHERE id = $1", []any{batch}, &p.device, &p.lane, &p.day)
	if err == nil && !found {
		err = absentBatch(batch)
	}
	if err != nil {
		return p, err
	}
	t.places[batch] = p
	return p, nil
}

func absentBatch(batch int64) error { return fmt.Errorf("batch row %d is not there", batch) }
