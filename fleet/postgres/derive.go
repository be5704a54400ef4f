package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
)

// Trips are found by the rule of package api, an hour of a vehicle at a time, from what `dirty` names. An hour's drives depend
// on its samples and on how the ignition stood before it, on nothing else; so each can be found again at any time, by any process,
// and comes out the same. The device's row is held meanwhile: nobody adds samples in between, and two workers take two devices.

// hoursAtOnce bounds what one transaction looks at: vehicles wait for it.
const hoursAtOnce = 24

// deriveEvery is how often Run looks for work when there was none, and deriveAgain the wait after a store that failed.
const (
	deriveEvery = 5 * time.Second
	deriveAgain = 5 * time.Second
)

// DeriveQuery names hours by hand; zero values restrict nothing.
type DeriveQuery struct {
	Tenant, Device string
	From, To       time.Time
}

// MarkDirty has the hours that hold samples looked at again.
func (s *Store) MarkDirty(ctx context.Context, q DeriveQuery) error {
	return s.Update(ctx, func(x store.Tx) error {
		query := `INSERT INTO dirty AS m (device, hour, since) SELECT DISTINCT h.device, h.hour, 'epoch'::timestamptz FROM batch_hours h JOIN devices d ON d.id = h.device WHERE true`
		var args []any
		where := func(condition string, arg any) {
			args = append(args, arg)
			query += fmt.Sprintf(" AND %s$%d", condition, len(args))
		}
		if q.Tenant != "" {
			where("d.tenant = ", q.Tenant)
		}
		if q.Device != "" {
			where("d.device = ", q.Device)
		}
		if !q.From.IsZero() {
			where("h.hour > ", q.From.Add(-time.Hour))
		}
		if !q.To.IsZero() {
			where("h.hour < ", q.To)
		}
		_, err := x.(*tx).exec(query+" ORDER BY 1, 2 ON CONFLICT (device, hour) DO UPDATE SET spread = true, since = excluded.since", args...)
		return err
	})
}

// Derive finds the drives of some hours of one vehicle that were marked before a moment, in one transaction. hours is how many;
// 0: there is nothing to do, or others do it.
func (s *Store) Derive(ctx context.Context, before time.Time) (hours int, err error) {
	err = s.Update(ctx, func(x store.Tx) error {
		t := x.(*tx)
		hours = 0
		device, err := t.nextDirty(before)
		if err != nil || device == 0 {
			return err
		}
		hours, err = t.derive(device, before)
		return err
	})
	return hours, err
}

// comeTrue has the latest position found again of a vehicle of which one was dated later than it was then, and is not any more.
func (s *Store) comeTrue(ctx context.Context) (more bool, err error) {
	err = s.Update(ctx, func(x store.Tx) error {
		t := x.(*tx)
		now := s.o.Now().UnixNano()
		device, err := t.takeDirty(`SELECT device FROM latest WHERE ahead_ns <= $1 ORDER BY ahead_ns LIMIT 256`, now)
		if more = device != 0; more {
			t.derived.refresh[device] = true
		}
		return err
	})
	return more, err
}

// nextDirty takes one device after the other, so that one that always has something to do, or of which something cannot be done, does not
// keep the others waiting. Several processes go round each for itself.
func (t *tx) nextDirty(before time.Time) (device int64, err error) {
	const query = `SELECT device FROM dirty WHERE since <= $1 AND device > $2 ORDER BY device LIMIT 256`
	t.s.mu.Lock()
	last := t.s.derived
	t.s.mu.Unlock()
	if device, err = t.takeDirty(query, before, last); err == nil && device == 0 && last > 0 {
		device, err = t.takeDirty(query, before, int64(0))
	}
	if device != 0 {
		t.s.mu.Lock()
		t.s.derived = device
		t.s.mu.Unlock()
	}
	return device, err
}

// takeDirty takes the first of the devices that a query names, of those that nobody holds; 0: none.
func (t *tx) takeDirty(query string, args ...any) (int64, error) {
	var h held
	found, err := t.one("SELECT id, receipts, copies, "+usageColumns+" FROM devices WHERE id IN ("+query+") ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED", args,
		append([]any{&h.id, &h.receipts, &h.copies}, h.usage.into()...)...)
	if err != nil || !found {
		return 0, err
	}
	t.devices[h.id] = &h
	return h.id, nil
}

// told is the signal that tells something of a device: its rows, one a catalogue.
type told struct {
	name   string
	rows   []int64
	factor float64
}

// teller finds the best signal of a role.
func (t *tx) teller(device int64, role api.Role) (told, error) {
	var a told
	var id int64
	var name string
	var factor float64
	err := t.each(`SELECT r.signal, g.name, r.factor FROM roles r JOIN signals g ON g.id = r.signal WHERE r.device = $1 AND r.role = $2 ORDER BY r.rank, g.name COLLATE "C", g.id`,
		[]any{device, string(role)}, []any{&id, &name, &factor}, func() error {
			if a.rows == nil {
				a.name = name
			}
			if a.name == name { // the newest row tells the unit
				a.rows, a.factor = append(a.rows, id), factor
			}
			return nil
		})
	return a, err
}

// finite is what counts of a value.
const finite = " AND by_time AND value BETWEEN -1e300 AND 1e300 "

// drive is one found, with its hour.
type drive struct {
	api.Drive
	hour time.Time
	by   string
}

// derive looks at the oldest hours of a device that are marked.
func (t *tx) derive(device int64, before time.Time) (int, error) {
	speed, err := t.teller(device, api.RoleSpeed)
	if err != nil {
		return 0, err
	}
	ignition, err := t.teller(device, api.RoleIgnition)
	if err != nil {
		return 0, err
	}
	by := ""
	if speed.factor > 0 {
		by = "speed"
	}
	byIgnition := false
	if len(ignition.rows) > 0 {
		if _, err := t.one("SELECT EXISTS (SELECT 1 FROM unnest($1::bigint[]) g CROSS JOIN LATERAL (SELECT 1 FROM samples WHERE signal = g AND wall_ns IS NOT NULL"+finite+"LIMIT 1) x)",
			[]any{ignition.rows}, &byIgnition); err != nil {
			return 0, err
		}
	}
	if byIgnition {
		by = "ignition"
	}
	if changed, err := t.exec("INSERT INTO driven_by AS b VALUES ($1, $2) ON CONFLICT (device) DO UPDATE SET by = excluded.by WHERE b.by <> excluded.by", device, by); err != nil {
		return 0, err
	} else if changed > 0 {
		if _, err := t.exec(markAll, device); err != nil {
			return 0, err
		}
	}
	var hour time.Time
	var spread bool
	var hours []time.Time
	var changed []time.Time // whose own samples did
	if err := t.each("SELECT hour, spread FROM dirty WHERE device = $1 AND since <= $2 ORDER BY hour LIMIT $3", []any{device, before, hoursAtOnce}, []any{&hour, &spread}, func() error {
		if hours = append(hours, hour.UTC()); spread {
			changed = append(changed, hour.UTC())
		}
		return nil
	}); err != nil {
		return 0, err
	}
	var found []drive
	for _, hour := range hours {
		list, err := t.drivesOf(hour, speed, ignition, byIgnition)
		if err != nil {
			return 0, fmt.Errorf("drives of device row %d at %v: %w", device, hour, err)
		}
		for _, d := range list {
			found = append(found, drive{d, hour, by})
		}
	}
	if _, err := t.exec("DELETE FROM dirty WHERE device = $1 AND hour = ANY ($2)", device, hours); err != nil {
		return 0, err
	}
	if _, err := t.exec("DELETE FROM drives WHERE device = $1 AND hour = ANY ($2)", device, hours); err != nil {
		return 0, err
	}
	if err := t.putDrives(device, found); err != nil {
		return 0, err
	}
	if byIgnition {
		for _, hour := range changed {
			if err := t.spread(device, hour, ignition); err != nil {
				return 0, err
			}
		}
	}
	return len(hours), nil
}

// spread marks the hours that stand under what the ignition was in this one: those up to its next sample.
func (t *tx) spread(device int64, hour time.Time, ignition told) error {
	_, err := t.exec(`INSERT INTO dirty (device, hour, since, spread) SELECT DISTINCT device, hour, 'epoch'::timestamptz, false FROM batch_hours
	    WHERE device = $1 AND hour > $2 AND hour <= coalesce((SELECT time_of(min(x.wall_ns)) FROM unnest($3::bigint[]) g
	      CROSS JOIN LATERAL (SELECT wall_ns FROM samples WHERE signal = g AND wall_ns >= $4`+finite+`ORDER BY wall_ns LIMIT 1) x), 'infinity')
	    ON CONFLICT (device, hour) DO NOTHING`, device, hour, ignition.rows, hour.Add(time.Hour).UnixNano())
	return err
}

// drivesOf finds those of one hour.
func (t *tx) drivesOf(hour time.Time, speed, ignition told, byIgnition bool) ([]api.Drive, error) {
	w := api.Window{From: hour, To: hour.Add(time.Hour)}
	var moved, turned []api.Bucket
	var err error
	if speed.factor > 0 {
		if moved, err = t.buckets(speed.rows, w); err != nil {
			return nil, err
		}
	}
	on := false
	if byIgnition {
		if turned, err = t.buckets(ignition.rows, w); err != nil {
			return nil, err
		}
		if on, err = t.onBefore(ignition.rows, hour.UnixNano()); err != nil {
			return nil, err
		}
	}
	return api.Drives(moved, speed.factor, turned, byIgnition, on, w), nil
}

func (t *tx) buckets(signals []int64, w api.Window) (list []api.Bucket, err error) {
	var b api.Bucket
	err = t.each(`SELECT (wall_ns - $2) / $4::bigint AS part, count(*), min(value), max(value), sum(value) / count(*), min(wall_ns), max(wall_ns) FROM samples
	    WHERE signal = ANY ($1) AND wall_ns >= $2 AND wall_ns < $3`+finite+`GROUP BY part ORDER BY part`, []any{signals, w.From.UnixNano(), w.To.UnixNano(), int64(api.DriveStep)},
		[]any{&b.Index, &b.Count, &b.Min, &b.Max, &b.Mean, &b.FirstNS, &b.LastNS}, func() error {
			list = append(list, b)
			return nil
		})
	return list, err
}

// onBefore says how the ignition stood: as in the last step of which something is known.
func (t *tx) onBefore(signals []int64, ns int64) (on bool, err error) {
	var last *int64
	if _, err := t.one(`SELECT max(x.wall_ns) FROM unnest($1::bigint[]) g CROSS JOIN LATERAL (SELECT wall_ns FROM samples WHERE signal = g AND wall_ns < $2`+finite+
		`ORDER BY wall_ns DESC LIMIT 1) x`, []any{signals, ns}, &last); err != nil || last == nil {
		return false, err
	}
	begin := *last - *last%int64(api.DriveStep)
	_, err = t.one("SELECT coalesce(max(value) > 0, false) FROM samples WHERE signal = ANY ($1) AND wall_ns >= $2 AND wall_ns < $3"+finite, []any{signals, begin, ns}, &on)
	return on, err
}

func (t *tx) putDrives(device int64, list []drive) error {
	batch := &pgx.Batch{}
	for _, d := range list {
		var first, last *int64
		var firstSpeed, lastSpeed *float64
		if d.Known {
			first, firstSpeed, last, lastSpeed = &d.FirstNS, &d.First, &d.LastNS, &d.Last
		}
		batch.Queue(`INSERT INTO drives (device, start_ns, end_ns, hour, by, distance, top, first_ns, first_speed, last_ns, last_speed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			device, d.Start.UnixNano(), d.End.UnixNano(), d.hour, d.by, d.Distance, d.Top, first, firstSpeed, last, lastSpeed)
	}
	if batch.Len() == 0 {
		return nil
	}
	if err := t.conn.SendBatch(t.ctx, batch).Close(); err != nil {
		return t.fail(fmt.Errorf("drives: %w", err))
	}
	return nil
}

// RunDerive does what is to be done until ctx ends, and returns nil: hours that were marked `after` ago or longer. What is under
// way is looked at once in that time, however often something comes. Several processes may do it at once.
func (s *Store) RunDerive(ctx context.Context, after time.Duration) error {
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		n, err := s.Derive(ctx, s.o.Now().Add(-after))
		more := false
		if err == nil {
			more, err = s.comeTrue(ctx)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			s.o.Log.Warn("trips could not be found; they will be", "err", err)
			wait = deriveAgain
		case n > 0 || more:
			wait = 0
		default:
			wait = deriveEvery
		}
	}
}
