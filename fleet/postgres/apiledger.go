package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// laneWord is a lane's name by its number, to order by.
const laneWord = `(CASE l.lane WHEN 1 THEN 'control' WHEN 2 THEN 'event' WHEN 3 THEN 'telemetry' WHEN 4 THEN 'raw' END)`

// Gaps lists what neither came nor is accounted for. Each lane that lacks numbers has one gap at least, so a page needs no more
// lanes than it has rows.
func (s reads) Gaps(ctx context.Context, q api.LedgerQuery) (list []api.Gap, next string, err error) {
	after, err := store.GapCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	where, args := "", []any{q.Tenant, q.Device, q.Limit + 1}
	var afterFirst uint64
	if after != nil {
		afterFirst, _ = strconv.ParseUint(after[4], 10, 64) // GapCursor has looked
		for _, part := range after[:4] {
			args = append(args, part)
		}
		where = ` AND (d.tenant COLLATE "C", d.device COLLATE "C", lpad(to_hex(l.epoch), 16, '0') COLLATE "C", ` + laneWord + ` COLLATE "C") >= ($4, $5, $6, $7)`
	}
	type laneOf struct {
		id     api.DeviceID
		status *telemetrypb.Status
		k      laneKey
		top    uint64
	}
	var lanes []laneOf
	var ask spans
	var tenant, device string
	var status []byte
	var row, epoch, top int64
	var lane int32
	if err := s.each(ctx, `SELECT d.id, d.tenant, d.device, s.status, l.epoch, l.lane, greatest(l.last, l.announced) FROM lanes l JOIN devices d ON d.id = l.device LEFT JOIN status s ON s.device = d.id
	    WHERE l.missing > 0 AND l.lane BETWEEN 1 AND 4 AND ($1 = '' OR d.tenant = $1) AND ($2 = '' OR d.device = $2)`+where+`
	    ORDER BY d.tenant COLLATE "C", d.device COLLATE "C", lpad(to_hex(l.epoch), 16, '0') COLLATE "C", `+laneWord+` COLLATE "C" LIMIT $3`, args,
		[]any{&row, &tenant, &device, &status, &epoch, &lane, &top}, func() error {
			l := laneOf{id: api.DeviceID{Tenant: tenant, Device: device}, k: laneKey{row, uint64(epoch), telemetrypb.Lane(lane)}, top: uint64(top)}
			if status != nil {
				l.status = new(telemetrypb.Status)
				if err := proto.Unmarshal(status, l.status); err != nil {
					return fmt.Errorf("status of %s: %w", device, err)
				}
			}
			from := uint64(0)
			if len(lanes) == 0 && after != nil && slices.Equal(after[:4], []string{tenant, device, epochName(epoch), laneName(lane)}) {
				from = afterFirst
			}
			ask.add(len(lanes), l.k, from, 0)
			lanes = append(lanes, l)
			return nil
		}); err != nil {
		return nil, "", err
	}
	list = []api.Gap{}
	if len(lanes) == 0 {
		return list, "", nil
	}
	// n runs leave n gaps ahead of them, one behind.
	known := make([]store.Ranges, len(lanes))
	var place, first, last int64
	if err := s.each(ctx, `SELECT p.i, r.first, r.last FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::integer[], $5::bigint[]) AS p (i, device, epoch, lane, lo)
	    CROSS JOIN LATERAL (SELECT first, last FROM ranges r WHERE r.device = p.device AND r.epoch = p.epoch AND r.lane = p.lane AND r.first >= p.lo ORDER BY first LIMIT $6) r`,
		[]any{ask.place, ask.device, ask.epoch, ask.lane, ask.lo, q.Limit + 3}, []any{&place, &first, &last}, func() error {
			known[place].Add(uint64(first), uint64(last))
			return nil
		}); err != nil {
		return nil, "", err
	}
	for i, l := range lanes {
		from := uint64(ask.lo[i])
		if from > 0 {
			known[i].Add(1, from) // the gap that ended the page before; the rest of it is taken out below
		}
		for n, r := range known[i].Missing(l.top) {
			if n == 0 && from > 0 && r.First == from+1 {
				continue
			}
			if len(list) == q.Limit {
				return list, strings.Join(store.GapKey(&list[len(list)-1]), "/"), nil
			}
			list = append(list, api.Gap{DeviceID: l.id, Epoch: epochName(int64(l.k.epoch)), Lane: telemetrypb.LaneName(l.k.lane), First: r.First, Last: r.Last,
				Batches: r.Last - r.First + 1, Queued: store.Queued(l.status, l.k.epoch, l.k.lane)})
		}
	}
	return list, "", nil
}

// who restricts a query to devices: nothing where nobody is named.
func (s reads) who(ctx context.Context, q api.LedgerQuery) (ids []int64, all bool, err error) {
	if q.Tenant == "" && q.Device == "" {
		return nil, true, nil
	}
	ids = []int64{}
	var id int64
	err = s.each(ctx, "SELECT id FROM devices WHERE ($1 = '' OR tenant = $1) AND ($2 = '' OR device = $2)", []any{q.Tenant, q.Device}, []any{&id}, func() error { ids = append(ids, id); return nil })
	return ids, false, err
}

// Losses lists the loss ledgers, the newest entries first.
func (s reads) Losses(ctx context.Context, q api.LedgerQuery) (list []api.Loss, next string, err error) {
	var batch, index int64 = math.MaxInt64, 0
	if q.After != "" {
		if n, err := fmt.Sscanf(q.After, "%d/%d", &batch, &index); n != 2 || err != nil {
			return nil, "", api.ErrCursor
		}
	}
	where, args := "", []any{batch, index, q.Limit + 1}
	ids, all, err := s.who(ctx, q)
	if err != nil {
		return nil, "", err
	}
	if !all {
		where, args = " AND l.device = ANY ($4)", append(args, ids)
	}
	at := ""
	var l api.Loss
	var count, epoch, arrived int64
	var reason, lane int32
	var received time.Time
	var seqs string
	err = s.each(ctx, `SELECT l.batch, l.idx, d.tenant, d.device, b.received, l.reason, l.source, l.count, l.count_is_bound, l.count_unknown, l.unit, l.epoch, l.lane, l.seqs::text, l.detail,
	      (SELECT count(*) FROM jsonb_to_recordset(l.seqs) AS r (first numeric, last numeric) JOIN batches c ON c.device = l.device AND c.epoch = l.epoch AND c.lane = l.lane
	         AND c.seq BETWEEN least(r.first, 9223372036854775807)::bigint AND least(r.last, 9223372036854775807)::bigint)
	    FROM (SELECT * FROM losses l WHERE (l.batch, l.idx) < ($1, $2)`+where+` ORDER BY l.batch DESC, l.idx DESC LIMIT $3) l
	      JOIN devices d ON d.id = l.device JOIN batches b ON b.id = l.batch AND b.device = l.device ORDER BY l.batch DESC, l.idx DESC`, args,
		[]any{&batch, &index, &l.Tenant, &l.DeviceID.Device, &received, &reason, &l.Source, &count, &l.CountIsBound, &l.CountUnknown, &l.Unit, &epoch, &lane, &seqs, &l.Detail, &arrived}, func() error {
			if len(list) == q.Limit {
				next = at
				return nil
			}
			one := l
			one.Recorded, one.Count, one.Seqs, at = received.UTC(), uint64(count), []api.Seqs{}, fmt.Sprintf("%d/%d", batch, index)
			one.Reason = store.ReasonName(int64(reason))
			if err := json.Unmarshal([]byte(seqs), &one.Seqs); err != nil {
				return fmt.Errorf("loss record: seqs %q: %w", seqs, err)
			}
			if len(one.Seqs) > 0 {
				one.Epoch, one.Lane, one.Arrived = epochName(epoch), laneName(lane), uint64(arrived)
			}
			list = append(list, one)
			return nil
		})
	return list, next, err
}

// ParkedBatches lists what waits, oldest first.
func (s reads) ParkedBatches(ctx context.Context, q api.LedgerQuery) (list []api.Parked, next string, err error) {
	after, err := store.RowCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	where, args := "", []any{after, q.Limit + 1}
	ids, all, err := s.who(ctx, q)
	if err != nil {
		return nil, "", err
	}
	if !all {
		where, args = " AND b.device = ANY ($3)", append(args, ids)
	}
	var p api.Parked
	var at, row, epoch, seq, samples int64
	var lane int32
	var catalogue [16]byte
	err = s.each(ctx, `SELECT b.id, d.tenant, d.device, b.epoch, b.lane, b.seq, b.samples, coalesce(length(b.bytes), 0), b.reason, b.catalogue, b.received
	    FROM batches b JOIN devices d ON d.id = b.device WHERE b.state = 2 AND b.id > $1`+where+` ORDER BY b.id LIMIT $2`, args,
		[]any{&row, &p.Tenant, &p.DeviceID.Device, &epoch, &lane, &seq, &samples, &p.Bytes, &p.Reason, &catalogue, &p.Received}, func() error {
			if len(list) == q.Limit {
				next = strconv.FormatInt(at, 10)
				return nil
			}
			one := p
			one.Epoch, one.Lane, one.Seq, one.Samples = epochName(epoch), laneName(lane), uint64(seq), uint64(samples)
			one.Catalogue, one.Received, at = fmt.Sprintf("%x", catalogue), p.Received.UTC(), row
			list = append(list, one)
			return nil
		})
	return list, next, err
}

// Letters lists what could not be taken, oldest first, without its bytes.
func (s reads) Letters(ctx context.Context, q api.LedgerQuery) (list []api.DeadLetter, next string, err error) {
	after, err := store.RowCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	where, args := "", []any{after, q.Limit + 1}
	if q.Tenant != "" {
		from, below := store.LetterTopics(q.Tenant)
		where, args = ` AND topic COLLATE "C" >= $3 AND topic COLLATE "C" < $4`, append(args, from, below)
	}
	if q.Device != "" {
		args = append(args, q.Device)
		where += fmt.Sprintf(" AND strpos(topic, '/' || $%d || '/') > 0", len(args))
	}
	var d api.DeadLetter
	err = s.each(ctx, "SELECT id, topic, reason, detail, size, times, first_at, last_at FROM dead_letters WHERE id > $1"+where+" ORDER BY id LIMIT $2", args,
		[]any{&d.ID, &d.Topic, &d.Reason, &d.Detail, &d.Bytes, &d.Times, &d.First, &d.Last}, func() error {
			if len(list) == q.Limit {
				next = strconv.FormatInt(list[len(list)-1].ID, 10)
				return nil
			}
			one := d
			one.First, one.Last = d.First.UTC(), d.Last.UTC()
			list = append(list, one)
			return nil
		})
	return list, next, err
}
