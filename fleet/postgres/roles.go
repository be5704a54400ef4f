package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/api"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// rolesVersion stands in meta. It goes up when api.RoleOf answers otherwise than before: then roles is filled anew at the next start.
const rolesVersion = "1"

// cachedRoles bounds the memory for what is known of devices' signals, in devices.
const cachedRoles = 16384

// signalRole is a row of roles.
type signalRole struct {
	role   api.Role
	source string
}

// deviceRoles are the signals of one device that have a role. It is not changed once others see it.
type deviceRoles struct {
	signals  map[int64]signalRole
	near     [256]bool       // by the last 8 bits of a signal's number: most samples need no look at the map
	suspects map[string]bool // receivers that say whether a fix is suspect
}

func (r *deviceRoles) put(signal int64, s signalRole) {
	r.signals[signal], r.near[uint8(signal)] = s, true
	if s.role == api.RoleSuspect {
		r.suspects[s.source] = true
	}
}

func (r *deviceRoles) of(signal int64) (signalRole, bool) {
	if r == nil || !r.near[uint8(signal)] {
		return signalRole{}, false
	}
	s, ok := r.signals[signal]
	return s, ok
}

// rolesOf gives what is known of a device. Who learns a signal, or reads a catalogue that another process has learned, has
// it forgotten. Both hold the device's row, so that nobody remembers what was true before.
func (t *tx) rolesOf(device int64) (*deviceRoles, error) {
	if r := t.derived.roles[device]; r != nil {
		return r, nil
	}
	if _, err := t.hold(device); err != nil {
		return nil, err
	}
	t.s.mu.Lock()
	r := t.s.roles[device]
	t.s.mu.Unlock()
	if r == nil {
		r = &deviceRoles{signals: map[int64]signalRole{}, suspects: map[string]bool{}}
		var signal int64
		var s signalRole
		if err := t.each("SELECT signal, role, source FROM roles WHERE device = $1", []any{device}, []any{&signal, (*string)(&s.role), &s.source}, func() error {
			r.put(signal, s)
			return nil
		}); err != nil {
			return nil, err
		}
		if !t.derived.learned[device] { // else it may be rolled back
			t.s.keepRoles(device, r)
		}
	}
	t.derived.roles[device] = r
	return r, nil
}

// forgetRoles has them read again, by this transaction and by those after it.
func (t *tx) forgetRoles(device int64) {
	delete(t.derived.roles, device)
	t.derived.learned[device] = true
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	delete(t.s.roles, device)
}

func (s *Store) keepRoles(device int64, r *deviceRoles) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.roles) >= cachedRoles {
		s.roles = map[int64]*deviceRoles{}
	}
	s.roles[device] = r
}

const insertRole = `INSERT INTO roles (signal, device, role, source, rank, factor) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (signal) DO NOTHING`

// learnRole notes the role of a new signal, if it has one.
func (t *tx) learnRole(device, signal int64, name, unit string) error {
	role, source, rank := api.RoleOf(name)
	if role == "" {
		return nil
	}
	t.forgetRoles(device)
	if role == api.RoleSpeed || role == api.RoleIgnition {
		var known bool
		if _, err := t.one("SELECT EXISTS (SELECT 1 FROM roles r JOIN signals g ON g.id = r.signal WHERE r.device = $1 AND g.name = $2 AND g.unit = $3)",
			[]any{device, name, unit}, &known); err != nil {
			return err
		}
		if !known { // it may be a better one
			if _, err := t.exec(markAll, device); err != nil {
				return err
			}
		}
	}
	_, err := t.exec(insertRole, signal, device, string(role), source, rank, factorOf(role, unit))
	return err
}

func factorOf(role api.Role, unit string) float64 {
	if role != api.RoleSpeed {
		return 0
	}
	return api.MetresPerSecond(unit)
}

// fillRoles brings what an older version has stored in line with what names mean now. The caller holds openLock.
func fillRoles(ctx context.Context, c *pgx.Conn) error {
	var have string
	if err := c.QueryRow(ctx, "SELECT coalesce((SELECT value FROM meta WHERE key = 'roles'), '')").Scan(&have); err != nil || have == rolesVersion {
		return err
	}
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE signals IN SHARE ROW EXCLUSIVE MODE; DELETE FROM roles", pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		if err := eachOf(ctx, tx, "SELECT id, device, name, unit FROM signals", func(rows pgx.CollectableRow) error {
			var id, device int64
			var name, unit string
			if err := rows.Scan(&id, &device, &name, &unit); err != nil {
				return err
			}
			if role, source, rank := api.RoleOf(name); role != "" {
				batch.Queue(insertRole, id, device, string(role), source, rank, factorOf(role, unit))
			}
			return nil
		}); err != nil {
			return err
		}
		if err := eachOf(ctx, tx, "SELECT device, status, received FROM status", func(rows pgx.CollectableRow) error {
			var device int64
			var text []byte
			var received any
			if err := rows.Scan(&device, &text, &received); err != nil {
				return err
			}
			s := new(telemetrypb.Status)
			if err := proto.Unmarshal(text, s); err != nil {
				return fmt.Errorf("the status of device row %d: %w", device, err)
			}
			batch.Queue(putQueue, queueArgs(device, s, received)...)
			return nil
		}); err != nil {
			return err
		}
		batch.Queue("UPDATE samples SET by_time = NOT by_time WHERE by_time <> (signal IN (SELECT signal FROM roles))")
		batch.Queue("INSERT INTO dirty SELECT DISTINCT device, hour, 'epoch'::timestamptz FROM batch_hours ON CONFLICT (device, hour) DO NOTHING")
		batch.Queue("SELECT refresh_latest(device, ns(now())) FROM (SELECT DISTINCT device FROM roles WHERE role = 'latitude') r")
		batch.Queue("INSERT INTO meta VALUES ('roles', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value", rolesVersion)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("the roles of signals: %w", err)
		}
		return nil
	})
}

func eachOf(ctx context.Context, tx pgx.Tx, query string, f func(pgx.CollectableRow) error) error {
	rows, err := tx.Query(ctx, query)
	if err != nil {
		return err
	}
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) { return struct{}{}, f(row) })
	return err
}

// putQueue keeps what a status says of the queue, for the view gaps.
const putQueue = `INSERT INTO queues (device, epoch, lanes, batches, bytes, received) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (device) DO UPDATE SET epoch = excluded.epoch, lanes = excluded.lanes, batches = excluded.batches, bytes = excluded.bytes, received = excluded.received`

func queueArgs(device int64, s *telemetrypb.Status, received any) []any {
	lanes, batches, bytes := []int32{}, []int64{}, []int64{}
	for _, l := range s.GetQueue() {
		lanes, batches, bytes = append(lanes, int32(l.GetLane())), append(batches, int64(min(l.GetBatches(), maxSeq))), append(bytes, int64(min(l.GetBytes(), maxSeq)))
	}
	return []any{device, int64(s.GetEpoch()), lanes, batches, bytes, received}
}
