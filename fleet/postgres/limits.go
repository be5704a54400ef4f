package postgres

import (
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Limits are exact whoever writes: what a device has of each thing stands in its row, which the transaction holds, and a lane's
// runs in the lane's. A tenant's devices are counted in its row of `tenants`, for which those who make new ones wait.

const usageColumns = "epochs, signals, boots, results, parked"

// usage is what a device has of what is limited, this transaction included.
type usage struct {
	epochs, signals, boots, results int64
	parked                          int64 // store.ParkedCost of its batches that wait
	known                           map[uint64]bool
}

// into is where usageColumns are scanned.
func (u *usage) into() []any { return []any{&u.epochs, &u.signals, &u.boots, &u.results, &u.parked} }

// roomForDevice counts one more device of a tenant, if it may have one.
func (t *tx) roomForDevice(tenant string) error {
	most := int64(t.s.o.Limits.Devices)
	var n int64
	// Who is at the limit stays there, and need not wait for those who are not.
	if _, err := t.one("SELECT devices FROM tenants WHERE tenant = $1", []any{tenant}, &n); err != nil {
		return err
	}
	if n < most {
		found, err := t.one(`INSERT INTO tenants AS t (tenant, devices) VALUES ($1, 1) ON CONFLICT (tenant) DO UPDATE SET devices = t.devices + 1 WHERE t.devices < $2 RETURNING devices`,
			[]any{tenant, most}, &n)
		if err != nil || found {
			return err
		}
	}
	return store.NoRoom("devices of a tenant", most)
}

// notNew takes back what roomForDevice counted: another transaction has made the device meanwhile.
func (t *tx) notNew(tenant string) error {
	_, err := t.exec("UPDATE tenants SET devices = devices - 1 WHERE tenant = $1", tenant)
	return err
}

// epochKnown says whether an epoch of a device is there, this transaction included.
func (t *tx) epochKnown(h *held, epoch uint64) (bool, error) {
	if h.known[epoch] {
		return true, nil
	}
	var there bool
	_, err := t.one(`SELECT EXISTS (SELECT 1 FROM lanes WHERE device = $1 AND epoch = $2) OR EXISTS (SELECT 1 FROM epochs WHERE device = $1 AND (epoch = $2 OR parent = $2 AND parent <> 0))`,
		[]any{h.id, int64(epoch)}, &there)
	return there, err
}

// noteEpoch counts an epoch that is not known. What only a record of another epoch named is known, too.
func (t *tx) noteEpoch(h *held, epoch uint64, known bool) (err error) {
	if !known && !h.known[epoch] {
		if known, err = t.epochKnown(h, epoch); err != nil {
			return err
		}
		if !known {
			h.epochs++
			h.changed = true
		}
	}
	if h.known == nil {
		h.known = map[uint64]bool{}
	}
	h.known[epoch] = true
	return nil
}

// roomForEpochs notes epochs (0: none), if there is room for all that are new.
func (t *tx) roomForEpochs(h *held, epochs ...uint64) error {
	fresh := map[uint64]bool{}
	for _, e := range epochs {
		known, err := t.epochKnown(h, e)
		if err != nil {
			return err
		}
		if e != 0 && !known {
			fresh[e] = true
		}
	}
	if most := int64(t.s.o.Limits.Epochs); h.epochs+int64(len(fresh)) > most {
		return store.NoRoom("epochs of a device", most)
	}
	for e := range fresh {
		if err := t.noteEpoch(h, e, false); err != nil {
			return err
		}
	}
	return nil
}

// roomForBatch says why there is no room for a new batch; the gaps of its lane are insertBatch's to see to.
func (t *tx) roomForBatch(h *held, b *store.Batch) (full, err error) {
	if most := int64(t.s.o.Limits.Epochs); h.epochs >= most {
		known, err := t.epochKnown(h, b.Epoch)
		if err != nil {
			return nil, err
		}
		if !known {
			return store.NoRoom("epochs of a device", most), nil
		}
	}
	if most := t.s.o.Limits.Parked; b.State == store.StateParked && h.parked+store.ParkedCost(int64(len(b.Bytes)), int64(b.Samples)) > most {
		return store.NoRoom("bytes of parked batches", most), nil
	}
	return nil, nil
}

// roomForLoss likewise for an entry of the ledger that speaks of n runs of numbers.
func (t *tx) roomForLoss(h *held, l *telemetrypb.Loss, n int) error {
	most := int64(t.s.o.Limits.Gaps)
	var runs int64
	if _, err := t.one("SELECT runs FROM lanes WHERE device = $1 AND epoch = $2 AND lane = $3", []any{h.id, int64(l.GetEpoch()), int32(l.GetLane())}, &runs); err != nil {
		return err
	}
	if now := t.lanes[laneKey{h.id, l.GetEpoch(), l.GetLane()}]; now != nil {
		runs += int64(len(now.accounted.List()))
	}
	if runs+int64(n) > most {
		return store.NoRoom("gaps of a lane", most)
	}
	return t.roomForEpochs(h, l.GetEpoch())
}

// roomForSignals counts n more signals of a device.
func (t *tx) roomForSignals(device, n int64) error {
	h, err := t.hold(device)
	if err != nil {
		return err
	}
	if most := int64(t.s.o.Limits.Signals); h.signals+n > most {
		return store.NoRoom("signals of a device", most)
	}
	h.signals, h.changed = h.signals+n, true
	return nil
}

// roomForBoot counts a clock record, unless there is one of this boot.
func (t *tx) roomForBoot(h *held, boot [16]byte) error {
	return t.roomForRow(h, &h.boots, "boots of a device", t.s.o.Limits.Boots, "SELECT EXISTS (SELECT 1 FROM clocks WHERE device = $1 AND boot_id = $2)", boot)
}

// roomForResult likewise of a command's answer.
func (t *tx) roomForResult(h *held, id string) error {
	return t.roomForRow(h, &h.results, "answers to commands of a device", t.s.o.Limits.Results, "SELECT EXISTS (SELECT 1 FROM results WHERE device = $1 AND id = $2)", id)
}

func (t *tx) roomForRow(h *held, have *int64, what string, most int, query string, key any) error {
	var there bool
	if _, err := t.one(query, []any{h.id, key}, &there); err != nil || there {
		return err
	}
	if *have >= int64(most) {
		return store.NoRoom(what, int64(most))
	}
	*have, h.changed = *have+1, true
	return nil
}
