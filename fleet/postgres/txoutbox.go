package postgres

import (
	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/store"
)

// Kinds of notes in the outbox.
const (
	noteSamples = 1
	noteRetimed = 2
	noteLoss    = 3
)

// outboxQuery, run behind the lock of updates, says whether this transaction leaves notes: SwitchOn holds that lock alone.
const outboxQuery = "SELECT 1 FROM meta WHERE key = 'decoded'"

const insertNotes = `INSERT INTO outbox (shard, kind, device, batch, idx)
    SELECT u.device % 16, u.kind, u.device, u.batch, u.idx FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS u (kind, device, batch, idx, n) ORDER BY u.n`

// note is a row of the outbox.
type note struct {
	kind               int16
	device, batch, idx int64
}

// notes are the outbox's rows of a transaction, each once, in the order in which they came up.
type notes struct {
	wanted bool
	list   []note
	known  map[note]bool
}

func (o *notes) add(n note) {
	if !o.wanted || o.known[n] {
		return
	}
	if o.known == nil {
		o.known = map[note]bool{}
	}
	o.known[n] = true
	o.list = append(o.list, n)
}

// queue writes the rows while the transaction holds their devices, so that those of one device are numbered in the order of their commits.
func (o *notes) queue(batch *pgx.Batch) {
	if len(o.list) == 0 {
		return
	}
	kinds, devices, batches, indexes := make([]int16, len(o.list)), make([]int64, len(o.list)), make([]int64, len(o.list)), make([]int64, len(o.list))
	for i, n := range o.list {
		kinds[i], devices[i], batches[i], indexes[i] = n.kind, n.device, n.batch, n.idx
	}
	batch.Queue(insertNotes, kinds, devices, batches, indexes)
}

// noteForOutbox notes that samples of a batch were stored.
func (t *tx) noteForOutbox(batch int64) error {
	if !t.outbox.wanted {
		return nil
	}
	device, err := t.deviceOf(batch)
	if err == nil {
		t.outbox.add(note{noteSamples, device, batch, 0})
	}
	return err
}

// deviceOf is the device of a batch.
func (t *tx) deviceOf(batch int64) (int64, error) {
	at, err := t.placeOf(batch)
	return at.device, err
}

var _ store.Outbox = (*Store)(nil)
