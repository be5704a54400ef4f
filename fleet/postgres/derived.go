package postgres

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What is kept beside the samples, in the transaction that stores them or dates them again: batch_hours, latest, and the hours that
// the worker is to look at (derive.go). schema_tables.go says what they are.

const hourNS = int64(time.Hour)

// hourOf is the hour of a time, counted from 1970.
func hourOf(ns int64) int64 {
	if ns < 0 {
		return (ns+1)/hourNS - 1
	}
	return ns / hourNS
}

func hourTime(hour int64) time.Time { return time.Unix(hour*3600, 0).UTC() }

type hourKey struct{ device, hour int64 }

type batchHour struct{ device, hour, batch int64 }

// position is a candidate for the latest one.
type position struct {
	time                store.Time
	latitude, longitude float64
	source              string
}

// newer: of one time that of the first receiver, by name.
func (p *position) newer(q *position) bool {
	return q == nil || p.time.UnixNS > q.time.UnixNS || p.time.UnixNS == q.time.UnixNS && p.source < q.source
}

// derivedChange is what a transaction adds.
type derivedChange struct {
	roles   map[int64]*deviceRoles
	learned map[int64]bool      // devices whose roles may have changed
	hours   map[batchHour]int32 // days
	dirty   map[hourKey]bool
	latest  map[int64]*position
	ahead   map[int64]int64 // Unix ns of the first position that is dated later than now
	refresh map[int64]bool  // devices whose latest position takes a look at what is stored
}

func newDerivedChange() derivedChange {
	return derivedChange{roles: map[int64]*deviceRoles{}, learned: map[int64]bool{}, hours: map[batchHour]int32{},
		dirty: map[hourKey]bool{}, latest: map[int64]*position{}, ahead: map[int64]int64{}, refresh: map[int64]bool{}}
}

// fix is what one receiver said of one moment, as far as the rows at hand tell.
type fix struct {
	latitude, longitude      float64
	hasLatitude, hasLongitud bool
	suspect, hasSuspect      bool
	time                     store.Time
}

type fixKey struct {
	source string
	boot   int64
	wall   int64
}

// noteSamples looks at rows that are about to be stored.
func (t *tx) noteSamples(batch int64, day int32, rows []store.Row) (*deviceRoles, error) {
	device, err := t.deviceOf(batch)
	if err != nil {
		return nil, err
	}
	roles, err := t.rolesOf(device)
	if err != nil {
		return nil, err
	}
	d := &t.derived
	_, wide := t.wide[batch]
	lastHour, noted := int64(0), false
	var fixes map[fixKey]*fix
	for i := range rows {
		r := &rows[i]
		if r.Time.Source == telemetrypb.TimeSource_TIME_SOURCE_NONE {
			continue
		}
		if hour := hourOf(r.Time.UnixNS); !noted || hour != lastHour {
			if lastHour, noted = hour, true; !wide {
				d.hours[batchHour{device, hour, batch}] = day
			}
		}
		s, ok := roles.of(r.Signal)
		if !ok {
			continue
		}
		if s.role == api.RoleSpeed || s.role == api.RoleIgnition {
			if !wide {
				d.dirty[hourKey{device, lastHour}] = true
			}
			continue
		}
		if fixes == nil {
			fixes = map[fixKey]*fix{}
		}
		key := fixKey{s.source, r.BootNS, r.Time.UnixNS}
		f := fixes[key]
		if f == nil {
			f = &fix{time: r.Time}
			fixes[key] = f
		}
		f.add(s.role, r)
	}
	for key, f := range fixes {
		t.noteFix(device, key.source, f, roles)
	}
	return roles, nil
}

func (f *fix) add(role api.Role, r *store.Row) {
	v, ok := number(r.Value)
	if !ok {
		return
	}
	switch role {
	case api.RoleLatitude:
		f.latitude, f.hasLatitude, f.time = v, true, r.Time
	case api.RoleLongitude:
		f.longitude, f.hasLongitud = v, true
	case api.RoleSuspect:
		f.suspect, f.hasSuspect = f.suspect || v != 0, true
	}
}

// number is a value as the column has it.
func number(v store.Scalar) (float64, bool) {
	switch v.Kind {
	case telemetrypb.KindFloat:
		return math.Float64frombits(v.Bits), true
	case telemetrypb.KindInt:
		return float64(int64(v.Bits)), true
	case telemetrypb.KindUint:
		return float64(v.Bits), true
	}
	return 0, false
}

// noteFix decides about the latest position by what is at hand and, where that is not all there may be of the fix, has the
// stored samples looked at.
func (t *tx) noteFix(device int64, source string, f *fix, roles *deviceRoles) {
	d, now := &t.derived, t.s.o.Now().UnixNano()
	if f.hasLatitude && f.time.UnixNS > now {
		if first, ok := d.ahead[device]; !ok || f.time.UnixNS < first {
			d.ahead[device] = f.time.UnixNS
		}
		return
	}
	whole := f.hasLatitude && f.hasLongitud && (f.hasSuspect || !roles.suspects[source])
	if !whole {
		if f.hasLatitude || f.hasLongitud || f.suspect {
			d.refresh[device] = true
		}
		return
	}
	p := &position{f.time, f.latitude, f.longitude, source}
	if f.suspect || f.time.UncertaintyNS > uint64(api.MaxUncertainty) || !(math.Abs(p.latitude) <= 90 && math.Abs(p.longitude) <= 180) {
		return
	}
	if p.newer(d.latest[device]) {
		d.latest[device] = p
	}
}

// noteRedated looks at samples of a batch that get other times.
func (t *tx) noteRedated(device, batch int64, day int32, before, after []*int64) {
	d := &t.derived
	for _, ns := range before {
		if ns != nil {
			d.dirty[hourKey{device, hourOf(*ns)}] = true
		}
	}
	for _, ns := range after {
		if ns != nil {
			d.dirty[hourKey{device, hourOf(*ns)}] = true
			d.hours[batchHour{device, hourOf(*ns), batch}] = day
		}
	}
	d.refresh[device] = true
}

// Statements of queueDerived.
const (
	insertHours = `INSERT INTO batch_hours (device, hour, batch, day) SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::bigint[], $4::date[]) ON CONFLICT DO NOTHING`
	markHours   = `INSERT INTO dirty AS d (device, hour, since) SELECT u.*, $3 FROM unnest($1::bigint[], $2::timestamptz[]) AS u (device, hour)
	    ON CONFLICT (device, hour) DO UPDATE SET spread = true WHERE NOT d.spread`
	markAll   = `INSERT INTO dirty (device, hour, since) SELECT DISTINCT device, hour, 'epoch'::timestamptz FROM batch_hours WHERE device = $1 ON CONFLICT (device, hour) DO NOTHING`
	putLatest = `INSERT INTO latest AS l (device, wall_ns, uncertainty, time_source, latitude, longitude, source)
	    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::double precision[], $6::double precision[], $7::text[])
	    ON CONFLICT (device) DO UPDATE SET wall_ns = excluded.wall_ns, uncertainty = excluded.uncertainty, time_source = excluded.time_source,
	      latitude = excluded.latitude, longitude = excluded.longitude, source = excluded.source
	    WHERE l.wall_ns IS NULL OR excluded.wall_ns > l.wall_ns OR excluded.wall_ns = l.wall_ns AND excluded.source < l.source COLLATE "C"`
	putAhead = `INSERT INTO latest AS l (device, ahead_ns) SELECT * FROM unnest($1::bigint[], $2::bigint[])
	    ON CONFLICT (device) DO UPDATE SET ahead_ns = excluded.ahead_ns WHERE l.ahead_ns IS NULL OR excluded.ahead_ns < l.ahead_ns`
	refreshLatest = `SELECT refresh_latest(u, $2) FROM unnest($1::bigint[]) AS u`
)

// queueDerived writes it. The samples are stored already.
func (t *tx) queueDerived(batch *pgx.Batch) {
	d := &t.derived
	if len(d.hours) > 0 {
		keys := sortedKeys(d.hours, func(a, b batchHour) int {
			return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.hour, b.hour), cmp.Compare(a.batch, b.batch))
		})
		var devices, batches []int64
		var hours, days []time.Time
		for _, k := range keys {
			devices, batches, hours, days = append(devices, k.device), append(batches, k.batch), append(hours, hourTime(k.hour)), append(days, dateOf(d.hours[k]))
		}
		batch.Queue(insertHours, devices, hours, batches, days)
	}
	if len(d.dirty) > 0 {
		var devices []int64
		var hours []time.Time
		for _, k := range sortedKeys(d.dirty, func(a, b hourKey) int { return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.hour, b.hour)) }) {
			devices, hours = append(devices, k.device), append(hours, hourTime(k.hour))
		}
		batch.Queue(markHours, devices, hours, t.s.o.Now())
	}
	if len(d.latest) > 0 {
		devices := sortedKeys(d.latest, cmp.Compare[int64])
		var walls, doubts []int64
		var sources []int16
		var latitudes, longitudes []float64
		var names []string
		for _, id := range devices {
			p := d.latest[id]
			walls, doubts, sources = append(walls, p.time.UnixNS), append(doubts, int64(p.time.UncertaintyNS)), append(sources, int16(p.time.Source))
			latitudes, longitudes, names = append(latitudes, p.latitude), append(longitudes, p.longitude), append(names, p.source)
		}
		batch.Queue(putLatest, devices, walls, doubts, sources, latitudes, longitudes, names)
	}
	if len(d.ahead) > 0 {
		devices := sortedKeys(d.ahead, cmp.Compare[int64])
		var firsts []int64
		for _, id := range devices {
			firsts = append(firsts, d.ahead[id])
		}
		batch.Queue(putAhead, devices, firsts)
	}
	if len(d.refresh) > 0 {
		batch.Queue(refreshLatest, sortedKeys(d.refresh, cmp.Compare[int64]), t.s.o.Now().UnixNano())
	}
}

// sortedKeys: whoever writes several rows does so in one order.
func sortedKeys[K comparable, V any](m map[K]V, order func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, order)
	return keys
}
