package postgres

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// clockKey names a clock record.
type clockKey struct {
	device int64
	boot   [16]byte
}

// rememberedClocks bounds the clock records that a transaction keeps in memory: some for each device of a group of
// messages, each asked for by all of that device's.
const rememberedClocks = 1024

func (t *tx) Clock(device int64, boot [16]byte) (*telemetrypb.ClockRecord, error) {
	if _, err := t.hold(device); err != nil { // or a newer record could come between this and the samples that it dates
		return nil, err
	}
	k := clockKey{device, boot}
	if c, known := t.clocks[k]; known {
		return c, nil
	}
	var record []byte
	found, err := t.one("SELECT record FROM clocks WHERE device = $1 AND boot_id = $2", []any{device, boot}, &record)
	if err != nil {
		return nil, err
	}
	var c *telemetrypb.ClockRecord
	if found {
		c = new(telemetrypb.ClockRecord)
		if err := proto.Unmarshal(record, c); err != nil {
			return nil, fmt.Errorf("clock of boot %x: %w", boot, err)
		}
	}
	t.rememberClock(k, c)
	return c, nil
}

// rememberClock notes what a boot's record is; nobody changes it while the device is held. nil: there is none.
func (t *tx) rememberClock(k clockKey, c *telemetrypb.ClockRecord) {
	if t.clocks == nil || len(t.clocks) >= rememberedClocks {
		t.clocks = map[clockKey]*telemetrypb.ClockRecord{}
	}
	t.clocks[k] = c
}

func (t *tx) PutClock(device int64, c *telemetrypb.ClockRecord, now time.Time) error {
	h, err := t.hold(device)
	if err != nil {
		return err
	}
	if len(c.GetBootId()) != 16 {
		return fmt.Errorf("boot id of %d bytes", len(c.GetBootId()))
	}
	record, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return err
	}
	if err := t.roomForBoot(h, [16]byte(c.BootId)); err != nil {
		return err
	}
	if _, err = t.exec(`INSERT INTO clocks (device, boot_id, boot_count, revision, record, received) VALUES ($1, $2, $3, $4, $5, $6)
	    ON CONFLICT (device, boot_id) DO UPDATE SET boot_count = excluded.boot_count, revision = excluded.revision, record = excluded.record, received = excluded.received`,
		device, [16]byte(c.BootId), int64(c.GetBootCount()), int64(c.GetRevision()), notNil(record), now); err != nil {
		return err
	}
	t.rememberClock(clockKey{device, [16]byte(c.BootId)}, c)
	return nil
}

// PutRetiming begins again with work that was noted before and is not done.
func (t *tx) PutRetiming(device int64, boot [16]byte, from int64) error {
	if _, err := t.hold(device); err != nil {
		return err
	}
	_, err := t.exec(`INSERT INTO retimings AS r (device, boot_id, from_ns, done) VALUES ($1, $2, $3, 0)
	    ON CONFLICT (device, boot_id) DO UPDATE SET from_ns = least(r.from_ns, excluded.from_ns), done = 0`, device, boot, from)
	return err
}

// NextRetiming gives one after the other, so that a device that always has some does not keep the others waiting. Several processes
// go round each for itself; two that meet at one device take turns at its row.
func (t *tx) NextRetiming() (r store.Retiming, ok bool, err error) {
	t.s.mu.Lock()
	last := t.s.retimed
	t.s.mu.Unlock()
	const next = "SELECT device, boot_id FROM retimings WHERE (device, boot_id) > ($1, $2) ORDER BY device, boot_id LIMIT 1"
	ok, err = t.one(next, []any{last.Device, last.Boot}, &r.Device, &r.Boot)
	if err == nil && !ok {
		ok, err = t.one(next, []any{int64(0), [16]byte{}}, &r.Device, &r.Boot)
	}
	if ok {
		t.s.mu.Lock()
		t.s.retimed = r
		t.s.mu.Unlock()
	}
	return r, ok, err
}

// nextOfBoot finds the next batch that may hold samples to date again. Sums that no bigint holds are of hostile batches.
const nextOfBoot = `SELECT id, day - '2000-01-01', samples FROM batches WHERE device = $1 AND boot_id = $2 AND id > $3 AND state = 1 AND lane <> 1
    AND (form = 2 OR span_ns < 0 OR first_ns::numeric + span_ns >= $4::bigint) ORDER BY id LIMIT 1`

// Retime goes batch by batch, so that neither memory nor a transaction grows with the length of a boot.
func (t *tx) Retime(device int64, boot [16]byte, most int, date func(bootNS int64) store.Time) (changed int64, done bool, err error) {
	if _, err := t.hold(device); err != nil {
		return 0, false, err
	}
	if err := t.flushSamples(); err != nil {
		return 0, false, err
	}
	var from, last int64
	found, err := t.one("SELECT from_ns, done FROM retimings WHERE device = $1 AND boot_id = $2", []any{device, boot}, &from, &last)
	if err != nil || !found {
		return 0, !found, err
	}
	for looked := int64(0); looked < int64(most); {
		var id, samples int64
		var day int32
		found, err := t.one(nextOfBoot, []any{device, boot, last, from}, &id, &day, &samples)
		if err != nil {
			return changed, false, err
		}
		if !found {
			_, err := t.exec("DELETE FROM retimings WHERE device = $1 AND boot_id = $2", device, boot)
			return changed, err == nil, err
		}
		n, err := t.retimeBatch(device, id, day, from, date)
		if err != nil {
			return changed, false, fmt.Errorf("date batch row %d again: %w", id, err)
		}
		if n > 0 {
			t.outbox.add(note{noteRetimed, device, id, 0})
		}
		changed, looked, last = changed+n, looked+1+min(samples, math.MaxInt32), id
	}
	_, err = t.exec("UPDATE retimings SET done = $3 WHERE device = $1 AND boot_id = $2", device, boot, last)
	return changed, false, err
}

// times are the columns of a time: NULL where nothing is known.
func times(n store.Time) (wall, doubt *int64) {
	if n.Source == telemetrypb.TimeSource_TIME_SOURCE_NONE {
		return nil, nil
	}
	d := int64(min(n.UncertaintyNS, math.MaxInt64))
	return &n.UnixNS, &d
}

func same(a, b *int64) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

func (t *tx) retimeBatch(device, batch int64, day int32, from int64, date func(int64) store.Time) (int64, error) {
	var index int32
	var bootNS int64
	var oldWall, oldDoubt *int64
	var source int16
	var indexes []int32
	var before, walls, doubts []*int64
	var sources []int16
	if err := t.each("SELECT idx, boot_ns, wall_ns, uncertainty, time_source FROM samples WHERE batch = $1 AND day = $2 AND boot_ns >= $3",
		[]any{batch, dateOf(day), from}, []any{&index, &bootNS, &oldWall, &oldDoubt, &source}, func() error {
			now := date(bootNS)
			wall, doubt := times(now)
			if !same(wall, oldWall) || !same(doubt, oldDoubt) || int16(now.Source) != source {
				if oldWall != nil {
					old := *oldWall
					before = append(before, &old)
				}
				indexes, walls, doubts, sources = append(indexes, index), append(walls, wall), append(doubts, doubt), append(sources, int16(now.Source))
			}
			return nil
		}); err != nil || len(indexes) == 0 {
		return 0, err
	}
	if len(indexes) <= spansAtOnce {
		t.noteRedated(device, batch, day, before, walls)
	} else {
		t.derived.refresh[device] = true
		if err := t.markHoursOf(device, batch, day); err != nil {
			return 0, err
		}
		t.widen(batch, placed{device: device, day: day})
	}
	n, err := t.exec(`UPDATE samples s SET wall_ns = u.wall, uncertainty = u.doubt, time_source = u.source
	    FROM unnest($3::integer[], $4::bigint[], $5::bigint[], $6::smallint[]) AS u (idx, wall, doubt, source)
	    WHERE s.batch = $1 AND s.day = $2 AND s.idx = u.idx`, batch, dateOf(day), indexes, walls, doubts, sources)
	if err != nil {
		return 0, err
	}
	return n, t.spanAgain(batch, dateOf(day))
}
