package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// reads answers the API's questions. What is asked of one vehicle is found by its row: its lanes, and its spans, which lead
// to the batches that have what is asked for.
type reads struct{ *Store }

// each runs a query when it is its turn. What somebody asks for may be no text that PostgreSQL takes; what is stored was made one, too.
func (s reads) each(ctx context.Context, query string, args []any, into []any, f func() error) error {
	for i, a := range args {
		if text, ok := a.(string); ok {
			args[i] = clean(text)
		}
	}
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
		return s.Store.each(ctx, query, args, into, f)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// one runs a query for one row.
func (s reads) one(ctx context.Context, query string, args []any, into ...any) error {
	return s.each(ctx, query, args, into, func() error { return nil })
}

// Reads is the store as the API asks it. It may be used for as long as the store is open.
func (s *Store) Reads() api.Reader { return reads{s} }

var _ api.Reader = reads{}

// Counts is what the store holds of a tenant. Of all it is known without counting.
func (s reads) Counts(ctx context.Context, tenant string) (c api.Counts, err error) {
	if tenant == "" {
		t := s.Totals()
		c = api.Counts{Devices: t.Devices, Batches: t.Batches, Samples: t.Samples, Gaps: t.Gaps, Losses: t.Losses, Parked: t.Parked, Rejected: t.Rejected, Letters: t.Letters}
		err = s.one(ctx, "SELECT count(*) FROM status WHERE online", nil, &c.Online)
		return c, err
	}
	from, below := store.LetterTopics(tenant)
	var gaps string
	err = s.one(ctx, `WITH d AS (SELECT id FROM devices WHERE tenant = $1), l AS (SELECT l.* FROM lanes l JOIN d ON d.id = l.device)
	    SELECT (SELECT count(*) FROM d), (SELECT count(*) FROM d JOIN status s ON s.device = d.id WHERE s.online), (SELECT count(*) FROM d JOIN losses x ON x.device = d.id),
	      (SELECT count(*) FROM dead_letters WHERE topic COLLATE "C" >= $2 AND topic COLLATE "C" < $3), coalesce(sum(batches), 0)::bigint,
	      coalesce(sum(samples) FILTER (WHERE lane <> 1), 0)::bigint, coalesce(sum(parked), 0)::bigint, coalesce(sum(rejected), 0)::bigint,
	      least(coalesce(sum(missing), 0), 18446744073709551615)::text FROM l`, []any{tenant, from, below},
		&c.Devices, &c.Online, &c.Losses, &c.Letters, &c.Batches, &c.Samples, &c.Parked, &c.Rejected, &gaps)
	if err == nil {
		c.Gaps, err = strconv.ParseUint(gaps, 10, 64)
	}
	return c, err
}

// deviceRow is a row of devices with its status, and what its lanes come to.
type deviceRow struct {
	id     int64
	d      api.Device
	status *telemetrypb.Status
}

const selectDevices = `SELECT d.id, d.tenant, d.device, d.first_seen, d.last_seen, s.status, s.received,
      l.batches, l.parked, l.missing, (SELECT count(*) FROM losses x WHERE x.device = d.id)
    FROM devices d LEFT JOIN status s ON s.device = d.id
      CROSS JOIN LATERAL (SELECT coalesce(sum(batches), 0)::bigint AS batches, coalesce(sum(parked), 0)::bigint AS parked,
        least(coalesce(sum(missing), 0), 18446744073709551615)::text AS missing FROM lanes WHERE device = d.id) l WHERE `

// devices runs selectDevices.
func (s reads) devices(ctx context.Context, where string, args ...any) ([]deviceRow, error) {
	var list []deviceRow
	var id, batches, parked, losses int64
	var tenant, device, missing string
	var first, last time.Time
	var received *time.Time
	var status []byte
	err := s.each(ctx, selectDevices+where, args, []any{&id, &tenant, &device, &first, &last, &status, &received, &batches, &parked, &missing, &losses}, func() error {
		r := deviceRow{id: id, d: api.Device{DeviceID: api.DeviceID{Tenant: tenant, Device: device}, FirstSeen: first.UTC(), LastSeen: last.UTC(), State: api.StateUnknown,
			Batches: uint64(batches), Losses: losses, Parked: parked}}
		var err error
		if r.d.Gaps, err = strconv.ParseUint(missing, 10, 64); err != nil {
			return err
		}
		if received != nil {
			r.status = new(telemetrypb.Status)
			if err := proto.Unmarshal(status, r.status); err != nil {
				return fmt.Errorf("status of %s: %w", device, err)
			}
			store.ShowStatus(&r.d, r.status, received.UTC())
		}
		list = append(list, r)
		return nil
	})
	return list, err
}

// Devices lists devices, each with its latest position.
func (s reads) Devices(ctx context.Context, q api.DeviceQuery) ([]api.Device, error) {
	where := `(d.tenant COLLATE "C", d.device COLLATE "C") > ($1, $2)`
	args := []any{q.After.Tenant, q.After.Device}
	and := func(condition string, arg any) {
		args = append(args, arg)
		where += " AND " + fmt.Sprintf(condition, len(args))
	}
	if q.Tenant != "" {
		and("d.tenant = $%d", q.Tenant)
	}
	if q.Search != "" {
		and("strpos(lower(d.device), lower($%d)) > 0", q.Search)
	}
	if q.Online != nil {
		and("s.online = $%d", *q.Online)
	}
	if !q.Since.IsZero() {
		and("d.last_seen > $%d", q.Since)
	}
	args = append(args, q.Limit)
	found, err := s.devices(ctx, where+fmt.Sprintf(` ORDER BY d.tenant COLLATE "C", d.device COLLATE "C" LIMIT $%d`, len(args)), args...)
	if err != nil {
		return nil, err
	}
	if err := s.locate(ctx, found, q.Now); err != nil {
		return nil, err
	}
	list := make([]api.Device, len(found))
	for i := range found {
		list[i] = found[i].d
	}
	return list, nil
}

// latestAt is the latest position of devices at a moment ($2): what stands in `latest`, or where that is of another moment, what is found.
const latestAt = `SELECT l.device, p.* FROM (SELECT *, coalesce(ahead_ns <= $2, false) OR coalesce(wall_ns > $2, false) AS other FROM latest WHERE device = ANY ($1)) l
    CROSS JOIN LATERAL (SELECT l.wall_ns, l.uncertainty, l.time_source, l.latitude, l.longitude, l.source WHERE NOT l.other
      UNION ALL SELECT n.* FROM latest_of(l.device, $2) n WHERE l.other) p WHERE p.wall_ns IS NOT NULL`

// locate gives devices their latest positions: dated, by a time that is not uncertain and has come, and not suspect. No vehicle's history is
// looked at: one whose positions are not believed would have the list of all take as long as its history is.
func (s reads) locate(ctx context.Context, found []deviceRow, now time.Time) error {
	ids := make([]int64, len(found))
	at := map[int64]*api.Device{}
	for i := range found {
		ids[i], at[found[i].id] = found[i].id, &found[i].d
	}
	var device, wall, doubt int64
	var source int16
	var p api.Position
	return s.each(ctx, latestAt, []any{ids, now.UnixNano()}, []any{&device, &wall, &doubt, &source, &p.Latitude, &p.Longitude, &p.Source}, func() error {
		one := p
		one.Time, one.Uncertainty, one.TimeSource = time.Unix(0, wall).UTC(), time.Duration(doubt).Seconds(), store.SourceName(int64(source))
		at[device].Position = &one
		return nil
	})
}

// find gives the row of a device, or ErrNotFound.
func (s reads) find(ctx context.Context, id api.DeviceID) (r deviceRow, err error) {
	list, err := s.devices(ctx, "d.tenant = $1 AND d.device = $2", id.Tenant, id.Device)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%w as %s/%s", api.ErrNotFound, id.Tenant, id.Device)
	}
	if err != nil {
		return r, err
	}
	return list[0], nil
}

// row gives the number of a device's row, or ErrNotFound.
func (s reads) row(ctx context.Context, id api.DeviceID) (row int64, err error) {
	err = s.each(ctx, "SELECT id FROM devices WHERE tenant = $1 AND device = $2", []any{id.Tenant, id.Device}, []any{&row}, func() error { return nil })
	if err == nil && row == 0 {
		err = fmt.Errorf("%w as %s/%s", api.ErrNotFound, id.Tenant, id.Device)
	}
	return row, err
}

// Device tells all of one device.
func (s reads) Device(ctx context.Context, id api.DeviceID, now time.Time) (*api.DeviceDetail, error) {
	r, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	one := []deviceRow{r}
	if err := s.locate(ctx, one, now); err != nil {
		return nil, err
	}
	a := &api.DeviceDetail{Device: one[0].d, Alarm: []api.Alarm{}}
	if r.status != nil {
		store.ShowDetail(a, r.status)
	}
	if a.Lanes, err = s.lanesOf(ctx, r.id); err != nil {
		return nil, err
	}
	if a.Info, err = s.info(ctx, r.id); err != nil {
		return nil, err
	}
	a.Excluded, err = s.excluded(ctx, r.id, now, a.Position)
	return a, err
}

func (s reads) lanesOf(ctx context.Context, device int64) ([]api.Lane, error) {
	list := []api.Lane{}
	var epoch, batches, last, missing int64
	var lane int32
	err := s.each(ctx, `SELECT epoch, lane, batches, greatest(last, announced), missing FROM lanes WHERE device = $1 AND lane BETWEEN $2 AND $3 ORDER BY first_batch, epoch, lane`,
		[]any{device, int32(telemetrypb.Lane_LANE_CONTROL), int32(telemetrypb.Lane_LANE_RAW)}, []any{&epoch, &lane, &batches, &last, &missing}, func() error {
			list = append(list, api.Lane{Epoch: epochName(epoch), Lane: laneName(lane), Batches: uint64(batches), Last: uint64(last), Gaps: uint64(missing)})
			return nil
		})
	return list, err
}

// info is the newest record of the vehicle itself; nil: none came.
func (s reads) info(ctx context.Context, device int64) (info *api.Info, err error) {
	var vin, mode, versions string
	err = s.each(ctx, "SELECT vin, mode, versions::text FROM device_info WHERE device = $1 ORDER BY boot_count DESC, boot_ns DESC LIMIT 1", []any{device}, []any{&vin, &mode, &versions}, func() error {
		info = &api.Info{VIN: vin, Mode: mode, Versions: map[string]string{}}
		var v map[string]string
		if err := json.Unmarshal([]byte(versions), &v); err != nil {
			return fmt.Errorf("versions %q: %w", versions, err)
		}
		if v != nil {
			info.Versions = v
		}
		return nil
	})
	return info, err
}

// excluded counts positions that cannot be the latest: all that are undated or dated later than now, and those newer than what is
// shown of which the time is too uncertain or the fix suspect.
func (s reads) excluded(ctx context.Context, device int64, now time.Time, shown *api.Position) (x api.Excluded, err error) {
	list, err := s.receivers(ctx, []int64{device})
	if err != nil {
		return x, err
	}
	after, until := int64(math.MinInt64), now.UnixNano()
	if shown != nil {
		after = shown.Time.UnixNano()
	}
	const counted = `SELECT count(*) FROM (SELECT 1 FROM spans y CROSS JOIN LATERAL (SELECT 1 FROM samples s WHERE s.batch = y.batch AND s.day = y.day AND s.signal = ANY ($2)
	    AND %s OFFSET 0) s WHERE y.device = $1 AND y.signals && $2 AND %s LIMIT $3) x`
	const within = "s.wall_ns BETWEEN y.first_ns AND y.last_ns AND s.wall_ns > $4 AND s.wall_ns <= $5 AND "
	for _, r := range list {
		for _, c := range []struct {
			n             *int64
			signals       []int64
			samples, span string
			args          []any
		}{
			{&x.Undated, r.latitude, "s.wall_ns IS NULL", "y.last_ns IS NULL", nil},
			{&x.Future, r.latitude, "s.wall_ns BETWEEN y.first_ns AND y.last_ns AND s.wall_ns > $4", "y.last_ns > $4", []any{until}},
			{&x.Uncertain, r.latitude, within + "s.uncertainty > $6", "y.last_ns > $4 AND y.first_ns <= $5", []any{after, until, int64(api.MaxUncertainty)}},
			{&x.Suspect, r.suspect, within + "s.value <> 0", "y.last_ns > $4 AND y.first_ns <= $5", []any{after, until}},
		} {
			if len(c.signals) == 0 {
				continue
			}
			var n int64
			if err := s.one(ctx, fmt.Sprintf(counted, c.samples, c.span), append([]any{device, c.signals, store.ExcludedMost}, c.args...), &n); err != nil {
				return x, err
			}
			*c.n += n
		}
	}
	return x, nil
}
