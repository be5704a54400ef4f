package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/api"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// reads answers the API's questions.
type reads struct{ *SQLite }

// Reads is the store as the API asks it. It may be used for as long as the store is open.
func (s *SQLite) Reads() api.Reader { return reads{s} }

// Counts is what the store holds of a tenant. Of all it is known without counting.
func (s reads) Counts(ctx context.Context, tenant string) (c api.Counts, err error) {
	if tenant == "" {
		t := s.Totals()
		c = api.Counts{Devices: t.Devices, Batches: t.Batches, Samples: t.Samples, Gaps: t.Gaps, Losses: t.Losses, Parked: t.Parked, Rejected: t.Rejected, Letters: t.Letters}
		err = s.db.QueryRowContext(ctx, "SELECT count(*) FROM status WHERE online").Scan(&c.Online)
		return c, err
	}
	from, to := LetterTopics(tenant)
	if err := s.db.QueryRowContext(ctx, `SELECT count(*), coalesce(sum((SELECT online FROM status WHERE device = d.id)), 0),
	      coalesce(sum((SELECT count(*) FROM losses WHERE device = d.id)), 0), (SELECT count(*) FROM dead_letters WHERE topic >= ?2 AND topic < ?3)
	    FROM devices d WHERE d.tenant = ?1`, tenant, from, to).Scan(&c.Devices, &c.Online, &c.Losses, &c.Letters); err != nil {
		return c, err
	}
	if err := s.db.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(CASE WHEN b.state = 1 AND b.lane <> 1 THEN b.samples ELSE 0 END), 0),
	      coalesce(sum(b.state = 2), 0), coalesce(sum(b.state = 4), 0)
	    FROM devices d JOIN batches b ON b.device = d.id WHERE d.tenant = ?`, tenant).Scan(&c.Batches, &c.Samples, &c.Parked, &c.Rejected); err != nil {
		return c, err
	}
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		_, missing := s.arrivals(id)
		c.Gaps += missing
		return nil
	}, "SELECT id FROM devices WHERE tenant = ?", tenant)
	return c, err
}

// arrivals counts a device's batches that came, and those in gaps.
func (s reads) arrivals(device int64) (came, missing uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.cover.devices[device] {
		l := s.cover.lanes[k]
		came += l.arrived.Within(0, math.MaxUint64)
		missing += rangesSize(l.accounted.Missing(l.last()))
	}
	return came, missing
}

func rangesSize(list []Range) (n uint64) {
	for _, r := range list {
		n += r.Last - r.First + 1
	}
	return n
}

// deviceRow is a row of devices with its status.
type deviceRow struct {
	id     int64
	d      api.Device
	status *telemetrypb.Status
}

const selectDevices = `SELECT d.id, d.tenant, d.device, d.first_seen, d.last_seen, s.status, s.received
    FROM devices d LEFT JOIN status s ON s.device = d.id WHERE `

func scanDevice(rows *sql.Rows) (r deviceRow, err error) {
	var first, last int64
	var status []byte
	var received sql.NullInt64
	if err := rows.Scan(&r.id, &r.d.Tenant, &r.d.DeviceID.Device, &first, &last, &status, &received); err != nil {
		return r, err
	}
	r.d.FirstSeen, r.d.LastSeen, r.d.State = unixNano(first), unixNano(last), api.StateUnknown
	if !received.Valid {
		return r, nil
	}
	r.status = new(telemetrypb.Status)
	if err := proto.Unmarshal(status, r.status); err != nil {
		return r, fmt.Errorf("status of %s: %w", r.d.DeviceID.Device, err)
	}
	ShowStatus(&r.d, r.status, unixNano(received.Int64))
	return r, nil
}

func unixNano(ns int64) time.Time { return time.Unix(0, ns).UTC() }

// Devices lists devices, each with its latest position.
func (s reads) Devices(ctx context.Context, q api.DeviceQuery) ([]api.Device, error) {
	query := selectDevices + "(d.tenant, d.device) > (?, ?)"
	args := []any{q.After.Tenant, q.After.Device}
	where := func(condition string, arg any) { query, args = query+" AND "+condition, append(args, arg) }
	if q.Tenant != "" {
		where("d.tenant = ?", q.Tenant)
	}
	if q.Search != "" {
		where("instr(lower(d.device), lower(?)) > 0", q.Search)
	}
	if q.Online != nil {
		where("s.online = ?", *q.Online)
	}
	if !q.Since.IsZero() {
		where("d.last_seen > ?", q.Since.UnixNano())
	}
	query, args = query+" ORDER BY d.tenant, d.device LIMIT ?", append(args, q.Limit)
	var found []deviceRow
	if err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		r, err := scanDevice(rows)
		found = append(found, r)
		return err
	}, query, args...); err != nil {
		return nil, err
	}
	losses, err := s.countOf(ctx, found, "SELECT device, count(*) FROM losses WHERE device IN (%s) GROUP BY device")
	if err != nil {
		return nil, err
	}
	parked, err := s.countOf(ctx, found, "SELECT device, count(*) FROM batches WHERE state = 2 AND device IN (%s) GROUP BY device")
	if err != nil {
		return nil, err
	}
	list := make([]api.Device, len(found))
	for i := range found {
		r := &found[i]
		r.d.Batches, r.d.Gaps = s.arrivals(r.id)
		r.d.Losses, r.d.Parked = losses[r.id], parked[r.id]
		if r.d.Position, err = s.latest(ctx, r.id, q.Now); err != nil {
			return nil, err
		}
		list[i] = r.d
	}
	return list, nil
}

// countOf runs a count over some devices.
func (s reads) countOf(ctx context.Context, of []deviceRow, query string) (map[int64]int64, error) {
	ids := make([]int64, len(of))
	for i := range of {
		ids[i] = of[i].id
	}
	counts := map[int64]int64{}
	err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var id, n int64
		err := rows.Scan(&id, &n)
		counts[id] = n
		return err
	}, fmt.Sprintf(query, numbers(ids)))
	return counts, err
}

// numbers writes row numbers for an IN (…).
func numbers(ids []int64) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = fmt.Sprint(id)
	}
	return strings.Join(words, ",")
}

// find gives the row of a device, or ErrNotFound.
func (s reads) find(ctx context.Context, id api.DeviceID) (r deviceRow, err error) {
	found := false
	err = eachRow(ctx, s.db, func(rows *sql.Rows) (err error) {
		r, err = scanDevice(rows)
		found = true
		return err
	}, selectDevices+"d.tenant = ? AND d.device = ?", id.Tenant, id.Device)
	if err == nil && !found {
		err = fmt.Errorf("%w as %s/%s", api.ErrNotFound, id.Tenant, id.Device)
	}
	return r, err
}

// Device tells all of one device.
func (s reads) Device(ctx context.Context, id api.DeviceID, now time.Time) (*api.DeviceDetail, error) {
	r, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	losses, err := s.countOf(ctx, []deviceRow{r}, "SELECT device, count(*) FROM losses WHERE device IN (%s) GROUP BY device")
	if err != nil {
		return nil, err
	}
	parked, err := s.countOf(ctx, []deviceRow{r}, "SELECT device, count(*) FROM batches WHERE state = 2 AND device IN (%s) GROUP BY device")
	if err != nil {
		return nil, err
	}
	r.d.Batches, r.d.Gaps = s.arrivals(r.id)
	r.d.Losses, r.d.Parked = losses[r.id], parked[r.id]
	if r.d.Position, err = s.latest(ctx, r.id, now); err != nil {
		return nil, err
	}
	a := &api.DeviceDetail{Device: r.d, Alarm: []api.Alarm{}, Lanes: s.lanesOf(r.id)}
	if r.status != nil {
		ShowDetail(a, r.status)
	}
	if a.Info, err = s.info(ctx, r.id); err != nil {
		return nil, err
	}
	a.Excluded, err = s.excluded(ctx, r.id, now, r.d.Position)
	return a, err
}

func (s reads) lanesOf(device int64) []api.Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []api.Lane{}
	for _, k := range s.cover.devices[device] {
		l := s.cover.lanes[k]
		list = append(list, api.Lane{Epoch: epochName(k.epoch), Lane: telemetrypb.LaneName(k.lane), Batches: l.arrived.Within(0, math.MaxUint64),
			Last: l.last(), Gaps: rangesSize(l.accounted.Missing(l.last()))})
	}
	return list
}

// info is the newest record of the vehicle itself; nil: none came.
func (s reads) info(ctx context.Context, device int64) (info *api.Info, err error) {
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var versions string
		info = &api.Info{Versions: map[string]string{}}
		if err := rows.Scan(&info.VIN, &info.Mode, &versions); err != nil {
			return err
		}
		var v map[string]string
		if err := json.Unmarshal([]byte(versions), &v); err != nil {
			return fmt.Errorf("versions %q: %w", versions, err)
		}
		if v != nil {
			info.Versions = v
		}
		return nil
	}, "SELECT vin, mode, versions FROM device_info WHERE device = ? ORDER BY boot_count DESC, boot_ns DESC LIMIT 1", device)
	return info, err
}
