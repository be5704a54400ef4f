package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Result is what became of a command, as far as the vehicle has said.
type Result struct {
	Tenant    string    `json:"tenant"`
	Device    string    `json:"device"`
	ID        string    `json:"id"`
	Name      string    `json:"command"`
	State     string    `json:"state"` // accepted, running, done, failed, refused
	Reason    string    `json:"reason,omitempty"`
	Percent   int64     `json:"percent,omitempty"`
	Text      string    `json:"text,omitempty"`
	BootID    string    `json:"boot_id,omitempty"`
	BootCount int64     `json:"boot_count,omitempty"`
	BootNS    int64     `json:"boot_ns"` // CLOCK_BOOTTIME of the state
	Key       string    `json:"key,omitempty"`
	Counter   int64     `json:"counter,omitempty"`
	Received  time.Time `json:"received"`
}

// resultRank, behind a CASE, orders states by how much they say. A refusal says least: a copy of a command that was taken long ago
// is refused, too.
const resultRank = ` WHEN 'done' THEN 4 WHEN 'failed' THEN 4 WHEN 'running' THEN 3 WHEN 'accepted' THEN 2 WHEN 'refused' THEN 1 ELSE 0 END`

const putResult = `INSERT INTO results (device, id, name, state, percent, text, boot_ns, received, reason, boot_id, boot_count, key_id, counter)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
  ON CONFLICT (device, id) DO UPDATE SET name = excluded.name, state = excluded.state, percent = excluded.percent, text = excluded.text,
    boot_ns = excluded.boot_ns, received = excluded.received, reason = excluded.reason, boot_id = excluded.boot_id, boot_count = excluded.boot_count,
    key_id = excluded.key_id, counter = excluded.counter
  WHERE CASE excluded.state` + resultRank + ` > CASE results.state` + resultRank + `
     OR excluded.state = results.state AND (excluded.state = 'running' AND excluded.percent >= results.percent OR excluded.state = 'refused')`

// PutResult keeps the result that says most: batches may arrive in another order than they were made, and a final one stands.
func (t *tx) PutResult(device int64, r *telemetrypb.CommandResult, now time.Time) error {
	if err := CheckName(r.GetId()); err != nil {
		return err
	}
	if err := t.roomForResult(device, r.GetId()); err != nil {
		return err
	}
	_, err := t.exec(putResult, device, r.GetId(), r.GetName(), r.GetState(), int64(r.GetPercent()), r.GetText(), r.GetBootNs(), now.UnixNano(),
		r.GetReason(), notNil(r.GetBootId()), int64(r.GetBootCount()), notNil(r.GetKeyId()), int64(r.GetCounter()))
	return err
}

// Results lists the answers to commands.
func (s *SQLite) Results(ctx context.Context, device, id string) (list []Result, err error) {
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var r Result
		var received int64
		if err := rows.Scan(&r.Tenant, &r.Device, &r.ID, &r.Name, &r.State, &r.Reason, &r.Percent, &r.Text, &r.BootID, &r.BootCount, &r.BootNS, &r.Key, &r.Counter, &received); err != nil {
			return err
		}
		r.BootID, r.Key, r.Received = strings.ToLower(r.BootID), strings.ToLower(r.Key), time.Unix(0, received).UTC()
		list = append(list, r)
		return nil
	}, `SELECT d.tenant, d.device, r.id, r.name, r.state, r.reason, r.percent, r.text, hex(r.boot_id), r.boot_count, r.boot_ns, hex(r.key_id), r.counter, r.received
	    FROM results r JOIN devices d ON d.id = r.device WHERE (?1 = '' OR d.device = ?1) AND (?2 = '' OR r.id = ?2) ORDER BY r.received DESC, r.boot_ns DESC, r.id`, device, id)
	return list, earlier(err)
}

// earlier explains what a reader misses in a file of an earlier version.
func earlier(err error) error {
	if err != nil && (strings.Contains(err.Error(), "no such column") || strings.Contains(err.Error(), "no such table")) {
		return fmt.Errorf("%w: the file was made by an earlier version; `waybill-fleet serve` brings it up to date", ErrSchema)
	}
	return err
}
