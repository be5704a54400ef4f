package postgres

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func (t *tx) laneOf(device, epoch int64, lane int32) *laneChange {
	return t.lane(device, uint64(epoch), telemetrypb.Lane(lane))
}

// PutEpoch notes how far the epoch's parent had come, and from where its own numbers count.
func (t *tx) PutEpoch(device int64, e *telemetrypb.Epoch, now time.Time) error {
	h, err := t.hold(device)
	if err != nil {
		return err
	}
	if err := t.roomForEpochs(h, e.GetEpoch(), e.GetParent()); err != nil {
		return err
	}
	parentLast, first := store.LaneSeqs(e.GetParentLast()), store.LaneSeqs(e.GetFirst())
	lastText, err := json.Marshal(parentLast)
	if err != nil {
		return err
	}
	firstText, err := json.Marshal(first)
	if err != nil {
		return err
	}
	if _, err := t.exec(`INSERT INTO epochs (device, epoch, parent, parent_last, first, reason, received) VALUES ($1, $2, $3, $4::text::jsonb, $5::text::jsonb, $6, $7) ON CONFLICT DO NOTHING`,
		device, int64(e.GetEpoch()), int64(e.GetParent()), string(lastText), string(firstText), clean(e.GetReason()), now); err != nil {
		return err
	}
	if e.GetParent() != 0 {
		for _, l := range parentLast {
			t.lane(device, e.GetParent(), telemetrypb.Lane(l.Lane)).announce(l.Seq)
		}
	}
	for _, l := range first {
		if l.Seq > 1 {
			t.lane(device, e.GetEpoch(), telemetrypb.Lane(l.Lane)).account(1, l.Seq-1)
		}
	}
	return nil
}

func (t *tx) PutInfo(device, batch int64, index int, bootCount uint32, i *telemetrypb.DeviceInfo) error {
	if _, err := t.hold(device); err != nil {
		return err
	}
	clear := map[string]string{}
	for k, v := range i.GetVersions() {
		clear[clean(k)] = clean(v)
	}
	versions, err := json.Marshal(clear)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO device_info (batch, idx, device, boot_count, boot_ns, vin, mode, versions) VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::json)",
		batch, int64(index), device, int64(bootCount), i.GetBootNs(), clean(i.GetVin()), clean(i.GetMode()), string(versions))
	return err
}

func (t *tx) PutStatus(device int64, s *telemetrypb.Status, now time.Time) error {
	if _, err := t.hold(device); err != nil {
		return err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return err
	}
	if _, err = t.exec(putQueue, queueArgs(device, s, now)...); err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO status (device, online, version, status, received) VALUES ($1, $2, $3, $4, $5)
	    ON CONFLICT (device) DO UPDATE SET online = excluded.online, version = excluded.version, status = excluded.status, received = excluded.received`,
		device, s.GetOnline(), clean(s.GetVersion()), notNil(data), now)
	return err
}

// resultRank, behind a CASE, orders states by how much they say. A refusal says least: a copy of a command that was taken long
// ago is refused, too.
const resultRank = ` WHEN 'done' THEN 4 WHEN 'failed' THEN 4 WHEN 'running' THEN 3 WHEN 'accepted' THEN 2 WHEN 'refused' THEN 1 ELSE 0 END`

const putResult = `INSERT INTO results AS r (device, id, name, state, percent, text, boot_ns, received, reason, boot_id, boot_count, key_id, counter)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
  ON CONFLICT (device, id) DO UPDATE SET name = excluded.name, state = excluded.state, percent = excluded.percent, text = excluded.text,
    boot_ns = excluded.boot_ns, received = excluded.received, reason = excluded.reason, boot_id = excluded.boot_id, boot_count = excluded.boot_count,
    key_id = excluded.key_id, counter = excluded.counter
  WHERE CASE excluded.state` + resultRank + ` > CASE r.state` + resultRank + `
     OR excluded.state = r.state AND (excluded.state = 'running' AND excluded.percent >= r.percent OR excluded.state = 'refused')`

// PutResult keeps the result that says most: batches may arrive in another order than they were made, and a final one stands.
func (t *tx) PutResult(device int64, r *telemetrypb.CommandResult, now time.Time) error {
	h, err := t.hold(device)
	if err != nil {
		return err
	}
	if err := store.CheckName(r.GetId()); err != nil {
		return err
	}
	if err := t.roomForResult(h, clean(r.GetId())); err != nil {
		return err
	}
	_, err = t.exec(putResult, device, clean(r.GetId()), clean(r.GetName()), clean(r.GetState()), int64(r.GetPercent()), clean(r.GetText()), r.GetBootNs(), now,
		clean(r.GetReason()), notNil(r.GetBootId()), int64(r.GetBootCount()), notNil(r.GetKeyId()), int64(r.GetCounter()))
	return err
}

// PutDeadLetter counts the same letter up; what is one too many goes in trimLetters.
func (t *tx) PutDeadLetter(d *store.DeadLetter) error {
	sum := sha256.Sum256(d.Bytes)
	head := notNil(d.Bytes[:min(len(d.Bytes), t.s.o.LetterBytes)])
	topic := clean(store.LetterTopic(d.Topic))
	var times int64
	if _, err := t.one(`INSERT INTO dead_letters AS l (topic, reason, detail, sha256, size, bytes, times, first_at, last_at) VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $7)
	    ON CONFLICT (topic, reason, sha256) DO UPDATE SET times = l.times + 1, last_at = excluded.last_at, detail = excluded.detail RETURNING times`,
		[]any{topic, clean(d.Reason), clean(d.Detail), sum[:], int64(len(d.Bytes)), head, d.At}, &times); err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	if times == 1 {
		t.totals.letters++
		if t.newLetters == nil {
			t.newLetters = map[string]string{}
		}
		from, below := store.LettersOf(topic)
		t.newLetters[from] = below
	}
	return nil
}

// trimLetters keeps the newest letters: of each device, then of all. Rows have gaps in their numbers, so it counts.
func (t *tx) trimLetters() error {
	for from, below := range t.newLetters {
		gone, err := t.exec(`DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE topic COLLATE "C" >= $1 AND topic COLLATE "C" < $2 ORDER BY id DESC OFFSET $3)`,
			from, below, t.s.o.Limits.Letters)
		if err != nil {
			return err
		}
		t.totals.letters -= gone
	}
	if len(t.newLetters) == 0 {
		return nil
	}
	gone, err := t.exec("DELETE FROM dead_letters WHERE id <= (SELECT id FROM dead_letters ORDER BY id DESC OFFSET $1 LIMIT 1)", t.s.o.Letters)
	t.totals.letters -= gone
	return err
}
