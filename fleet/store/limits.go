package store

import (
	"errors"
	"fmt"
	"strings"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// ErrLimit: a device, or a tenant, has as much of something as it may have. Nothing was stored of what was asked; the
// transaction goes on.
var ErrLimit = errors.New("limit reached")

// Limits bound what one device, or one tenant, can make a store keep beside its samples, which its own bytes pay for. No
// vehicle in good order comes near: they are for one that is broken, or not a vehicle. What is over a limit is not stored and,
// where it is a batch, answered as parked: the vehicle keeps it, and tries again.
type Limits struct {
	Devices int   // of a tenant. Default 1,000,000
	Epochs  int   // of a device; each restored or damaged queue begins one. Default 4,096
	Gaps    int   // of one lane of an epoch: separate runs of missing numbers. Default 65,536
	Parked  int64 // of a device: its batches that wait, each with 256 B and 1 B a sample on top, since they are decoded together. Default 8 MiB
	Signals int   // of a device: in all its catalogues, and by name. Default 1,048,576
	Boots   int   // of a device: clock records. Default 131,072
	Results int   // of a device: answers to commands. Default 65,536
	Letters int   // of a device: dead letters; the oldest go. Default 200
}

// MaxSignals is the most signals of one catalogue.
const MaxSignals = 1 << 16

// MaxName is the most bytes of a signal's name, of a command's id, and of the topic that a dead letter is kept under: they stand in
// indexes, and PostgreSQL takes at most 2,704 bytes there. What it could not take would fail however often it comes.
const MaxName = 512

// CheckNames says whether the signals of a catalogue have names that a store takes, and are not too many.
func CheckNames(spec *telemetrypb.Catalogue) error {
	if n := len(spec.GetSignals()); n > MaxSignals {
		return fmt.Errorf("%w: %d signals in a catalogue, at most %d", ErrLimit, n, MaxSignals)
	}
	for _, s := range spec.GetSignals() {
		if err := CheckName(s.GetName()); err != nil {
			return err
		}
	}
	return nil
}

// CheckName likewise of one name or id.
func CheckName(name string) error {
	if len(name) > MaxName {
		return NoRoom("bytes of a name", MaxName)
	}
	return nil
}

// LetterTopic is the topic under which a dead letter is kept.
func LetterTopic(topic string) string {
	if len(topic) <= MaxName {
		return topic
	}
	return strings.ToValidUTF8(topic[:MaxName], "") // the cut may go through a character
}

// WithDefaults fills in what is zero.
func (l Limits) WithDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Devices, 1_000_000}, {&l.Epochs, 4096}, {&l.Gaps, 1 << 16}, {&l.Signals, 1 << 20}, {&l.Boots, 1 << 17}, {&l.Results, 1 << 16}, {&l.Letters, 200}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if l.Parked <= 0 {
		l.Parked = 8 << 20
	}
	return l
}

// ParkedCost is what a waiting batch counts against Limits.Parked.
func ParkedCost(bytes, samples int64) int64 {
	return bytes + 256 + min(samples, telemetrypb.MaxSamples)
}

// usage is how much a device has of what is limited. A number below zero is not read yet.
type usage struct {
	epochs  map[uint64]struct{} // nil: not read yet
	parked  int64
	signals int64
	boots   int64
	results int64
}

// usageOf is what this device has, transaction included; it is dropped at every roll-back.
func (t *tx) usageOf(device int64) *usage {
	u := t.w.usage[device]
	if u == nil {
		if len(t.w.usage) >= cachedUsages {
			t.w.usage = map[int64]*usage{}
		}
		u = &usage{parked: -1, signals: -1, boots: -1, results: -1}
		t.w.usage[device] = u
	}
	return u
}

// count reads a number once.
func (t *tx) count(into *int64, query string, args ...any) error {
	if *into >= 0 {
		return nil
	}
	_, err := t.one(query, args, into)
	return err
}

// NoRoom is an ErrLimit that says of what there is no more room.
func NoRoom(what string, most int64) error {
	return fmt.Errorf("%w: %s: at most %d", ErrLimit, what, most)
}

// roomForDevice says whether a tenant may have one more.
func (t *tx) roomForDevice(tenant string) error {
	n, known := t.w.tenants[tenant]
	if !known {
		if len(t.w.tenants) >= cachedUsages {
			t.w.tenants = map[string]int64{}
		}
		if _, err := t.one("SELECT count(*) FROM devices WHERE tenant = ?", []any{tenant}, &n); err != nil {
			return err
		}
	}
	if t.w.tenants[tenant] = n; n >= int64(t.o.Limits.Devices) {
		return NoRoom("devices of a tenant", int64(t.o.Limits.Devices))
	}
	t.w.tenants[tenant]++
	return nil
}

// roomForEpoch notes an epoch, if there is room for one more.
func (t *tx) roomForEpoch(device int64, epoch uint64) error {
	u := t.usageOf(device)
	if u.epochs == nil {
		u.epochs = map[uint64]struct{}{}
		note := func(a, _ int64) { u.epochs[uint64(a)] = struct{}{} }
		// From one epoch to the next by the index, however many batches lie between.
		if err := t.eachPair(`WITH RECURSIVE e(x) AS (SELECT min(epoch) FROM batches WHERE device = ?1
		    UNION ALL SELECT (SELECT min(epoch) FROM batches WHERE device = ?1 AND epoch > e.x) FROM e WHERE e.x IS NOT NULL)
		    SELECT x, 0 FROM e WHERE x IS NOT NULL`, note, device); err != nil {
			return err
		}
		if err := t.eachPair("SELECT parent, 0 FROM epochs WHERE device = ? AND parent <> 0", note, device); err != nil {
			return err
		}
	}
	if _, known := u.epochs[epoch]; known {
		return nil
	}
	if len(u.epochs) >= t.o.Limits.Epochs {
		return NoRoom("epochs of a device", int64(t.o.Limits.Epochs))
	}
	u.epochs[epoch] = struct{}{}
	return nil
}

// roomForBatch says whether a new batch has room.
func (t *tx) roomForBatch(device int64, b *Batch) error {
	if err := t.roomForEpoch(device, b.Epoch); err != nil {
		return err
	}
	if t.gaps(laneKey{device, b.Epoch, b.Lane}, b.Seq) >= t.o.Limits.Gaps {
		return NoRoom("gaps of a lane", int64(t.o.Limits.Gaps))
	}
	if b.State != StateParked {
		return nil
	}
	u := t.usageOf(device)
	if err := t.count(&u.parked, "SELECT coalesce(sum(length(bytes) + 256 + min(samples, ?)), 0) FROM batches WHERE device = ? AND state = 2",
		telemetrypb.MaxSamples, device); err != nil {
		return err
	}
	if cost := ParkedCost(int64(len(b.Bytes)), int64(b.Samples)); u.parked+cost > t.o.Limits.Parked {
		return NoRoom("bytes of parked batches", t.o.Limits.Parked)
	}
	return nil
}

// gaps is into how many runs a lane is broken, if the number would not join one of them. Committed ones count: one
// transaction adds few.
func (t *tx) gaps(k laneKey, seq uint64) int {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	l := t.s.cover.lanes[k]
	if l == nil || l.accounted.Within(seq-1, seq+1) > 0 {
		return 0
	}
	return len(l.accounted.list)
}

// roomForSignals says whether a device may have n more.
func (t *tx) roomForSignals(device, n int64) error {
	u := t.usageOf(device)
	if err := t.count(&u.signals, "SELECT count(*) FROM signals WHERE device = ?", device); err != nil {
		return err
	}
	if u.signals+n > int64(t.o.Limits.Signals) {
		return NoRoom("signals of a device", int64(t.o.Limits.Signals))
	}
	u.signals += n
	return nil
}

// roomForBoot says whether a device may have a clock record of this boot.
func (t *tx) roomForBoot(device int64, boot []byte) error {
	var there int64
	found, err := t.one("SELECT 1 FROM clocks WHERE device = ? AND boot_id = ?", []any{device, boot}, &there)
	if err != nil || found {
		return err
	}
	u := t.usageOf(device)
	if err := t.count(&u.boots, "SELECT count(*) FROM clocks WHERE device = ?", device); err != nil {
		return err
	}
	if u.boots >= int64(t.o.Limits.Boots) {
		return NoRoom("boots of a device", int64(t.o.Limits.Boots))
	}
	u.boots++
	return nil
}

// roomForResult likewise of a command's answer.
func (t *tx) roomForResult(device int64, id string) error {
	var there int64
	found, err := t.one("SELECT 1 FROM results WHERE device = ? AND id = ?", []any{device, id}, &there)
	if err != nil || found {
		return err
	}
	u := t.usageOf(device)
	if err := t.count(&u.results, "SELECT count(*) FROM results WHERE device = ?", device); err != nil {
		return err
	}
	if u.results >= int64(t.o.Limits.Results) {
		return NoRoom("answers to commands of a device", int64(t.o.Limits.Results))
	}
	u.results++
	return nil
}
