package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/api"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Lost, late and parked are three things: a gap neither came nor stands in a ledger, and may be late; a loss stands in the
// vehicle's ledger; a parked batch came, and waits.

// Gaps lists what neither came nor is accounted for.
func (s reads) Gaps(ctx context.Context, q api.LedgerQuery) (list []api.Gap, next string, err error) {
	after, err := GapCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	all, err := s.allGaps(ctx, q)
	if err != nil {
		return nil, "", err
	}
	slices.SortFunc(all, func(a, b api.Gap) int { return slices.Compare(GapKey(&a), GapKey(&b)) })
	from, _ := slices.BinarySearchFunc(all, after, func(g api.Gap, key []string) int {
		return cmp.Or(slices.Compare(GapKey(&g), key), -1) // after the one that is equal
	})
	if after == nil {
		from = 0
	}
	all = all[from:]
	if len(all) > q.Limit {
		all = all[:q.Limit]
		next = strings.Join(GapKey(&all[len(all)-1]), "/")
	}
	return all, next, nil
}

func (s reads) allGaps(ctx context.Context, q api.LedgerQuery) ([]api.Gap, error) {
	type owner struct {
		id     api.DeviceID
		status *telemetrypb.Status
	}
	owners := map[int64]owner{}
	if err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var row int64
		var o owner
		var status []byte
		if err := rows.Scan(&row, &o.id.Tenant, &o.id.Device, &status); err != nil {
			return err
		}
		if status != nil {
			o.status = new(telemetrypb.Status)
			if err := proto.Unmarshal(status, o.status); err != nil {
				return fmt.Errorf("status of %s: %w", o.id.Device, err)
			}
		}
		owners[row] = o
		return nil
	}, "SELECT d.id, d.tenant, d.device, s.status FROM devices d LEFT JOIN status s ON s.device = d.id WHERE (?1 = '' OR d.tenant = ?1) AND (?2 = '' OR d.device = ?2)",
		q.Tenant, q.Device); err != nil {
		return nil, err
	}
	list := []api.Gap{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for device, o := range owners {
		for _, k := range s.cover.devices[device] {
			l := s.cover.lanes[k]
			for _, r := range l.accounted.Missing(l.last()) {
				list = append(list, api.Gap{DeviceID: o.id, Epoch: epochName(k.epoch), Lane: telemetrypb.LaneName(k.lane), First: r.First, Last: r.Last,
					Batches: r.Last - r.First + 1, Queued: Queued(o.status, k.epoch, k.lane)})
			}
		}
	}
	return list, nil
}

// Losses lists the loss ledgers, the newest entries first.
func (s reads) Losses(ctx context.Context, q api.LedgerQuery) (list []api.Loss, next string, err error) {
	var batch, index int64 = 1<<63 - 1, 0
	if q.After != "" {
		if n, err := fmt.Sscanf(q.After, "%d/%d", &batch, &index); n != 2 || err != nil {
			return nil, "", api.ErrCursor
		}
	}
	at := ""
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		if len(list) == q.Limit {
			next = at
			return nil
		}
		l := api.Loss{Seqs: []api.Seqs{}}
		var batch, index, device, received, reason, count, epoch, lane int64
		var seqs string
		if err := rows.Scan(&batch, &index, &device, &l.Tenant, &l.DeviceID.Device, &received, &reason, &l.Source, &count, &l.CountIsBound, &l.CountUnknown, &l.Unit,
			&epoch, &lane, &seqs, &l.Detail); err != nil {
			return err
		}
		l.Recorded, l.Count, at = unixNano(received), uint64(count), fmt.Sprintf("%d/%d", batch, index)
		l.Reason = ReasonName(reason)
		if err := json.Unmarshal([]byte(seqs), &l.Seqs); err != nil {
			return fmt.Errorf("loss record: seqs %q: %w", seqs, err)
		}
		if len(l.Seqs) > 0 {
			l.Epoch, l.Lane = epochName(uint64(epoch)), telemetrypb.LaneName(telemetrypb.Lane(lane))
			l.Arrived = s.came(laneKey{device, uint64(epoch), telemetrypb.Lane(lane)}, l.Seqs)
		}
		list = append(list, l)
		return nil
	}, `SELECT l.batch, l.idx, l.device, d.tenant, d.device, b.received, l.reason, l.source, l.count, l.count_is_bound, l.count_unknown, l.unit, l.epoch, l.lane, l.seqs, l.detail
	    FROM losses l JOIN devices d ON d.id = l.device JOIN batches b ON b.id = l.batch
	    WHERE (l.batch, l.idx) < (?1, ?2) AND (?3 = '' OR d.tenant = ?3) AND (?4 = '' OR d.device = ?4) ORDER BY l.batch DESC, l.idx DESC LIMIT ?5`,
		batch, index, q.Tenant, q.Device, q.Limit+1)
	return list, next, err
}

// came counts those of some numbers that arrived.
func (s reads) came(k laneKey, seqs []api.Seqs) (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cover.lanes[k]; c != nil {
		for _, r := range seqs {
			n += c.arrived.Within(r.First, r.Last)
		}
	}
	return n
}

// ParkedBatches lists what waits, oldest first.
func (s reads) ParkedBatches(ctx context.Context, q api.LedgerQuery) (list []api.Parked, next string, err error) {
	after, err := RowCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	var at int64
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		if len(list) == q.Limit {
			next = strconv.FormatInt(at, 10)
			return nil
		}
		var p api.Parked
		var epoch, lane, seq, samples, received int64
		var catalogue []byte
		if err := rows.Scan(&at, &p.Tenant, &p.DeviceID.Device, &epoch, &lane, &seq, &samples, &p.Bytes, &p.Reason, &catalogue, &received); err != nil {
			return err
		}
		p.Epoch, p.Lane, p.Seq, p.Samples = epochName(uint64(epoch)), telemetrypb.LaneName(telemetrypb.Lane(lane)), uint64(seq), uint64(samples)
		p.Catalogue, p.Received = fmt.Sprintf("%x", catalogue), unixNano(received)
		list = append(list, p)
		return nil
	}, `SELECT b.id, d.tenant, d.device, b.epoch, b.lane, b.seq, b.samples, coalesce(length(b.bytes), 0), b.reason, b.catalogue, b.received
	    FROM batches b JOIN devices d ON d.id = b.device WHERE b.state = 2 AND b.id > ?1 AND (?2 = '' OR d.tenant = ?2) AND (?3 = '' OR d.device = ?3)
	    ORDER BY b.id LIMIT ?4`, after, q.Tenant, q.Device, q.Limit+1)
	return list, next, err
}

// Letters lists what could not be taken, oldest first, without its bytes.
func (s reads) Letters(ctx context.Context, q api.LedgerQuery) (list []api.DeadLetter, next string, err error) {
	after, err := RowCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	from, to := LetterTopics(q.Tenant)
	var at int64
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		if len(list) == q.Limit {
			next = strconv.FormatInt(at, 10)
			return nil
		}
		var d api.DeadLetter
		var first, last int64
		if err := rows.Scan(&d.ID, &d.Topic, &d.Reason, &d.Detail, &d.Bytes, &d.Times, &first, &last); err != nil {
			return err
		}
		d.First, d.Last, at = unixNano(first), unixNano(last), d.ID
		list = append(list, d)
		return nil
	}, `SELECT id, topic, reason, detail, size, times, first_at, last_at FROM dead_letters
	    WHERE id > ?1 AND topic >= ?2 AND topic < ?3 AND (?4 = '' OR instr(topic, '/' || ?4 || '/') > 0) ORDER BY id LIMIT ?5`, after, from, to, q.Device, q.Limit+1)
	return list, next, err
}
