package sim

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// weekResult counts what a week was made of.
type weekResult struct {
	Weeks     uint64
	Samples   int           // taken
	Stored    int           // and in the store in the end
	Cut       int           // lost by a kill, within what may be
	Counted   int           // missing and in the ledger
	Either    int           // missing, lost by a kill or in the ledger
	Restored  int           // forgotten by a store that was restored
	Recalled  uint64        // batches that such a store got back
	Unbounded int           // stored, and nobody vouches for their time
	Worst     time.Duration // off the truth, of those that GPS dates to the second

	Connections, Publishes, Forgotten, ReceiptsLost, Kills int
}

func (r *weekResult) add(s weekResult) {
	r.Weeks += s.Weeks
	r.Samples += s.Samples
	r.Stored += s.Stored
	r.Cut += s.Cut
	r.Counted += s.Counted
	r.Either += s.Either
	r.Restored += s.Restored
	r.Recalled += s.Recalled
	r.Unbounded += s.Unbounded
	r.Worst = max(r.Worst, s.Worst)
	r.Connections += s.Connections
	r.Publishes += s.Publishes
	r.Forgotten += s.Forgotten
	r.ReceiptsLost += s.ReceiptsLost
	r.Kills += s.Kills
}

// verdict holds what the store has in the end to what was taken. The first finding is returned.
func (w *week) verdict() (r weekResult, err error) {
	r = weekResult{Weeks: 1, Connections: w.broker.stats.connections, Publishes: w.broker.stats.publishes, Forgotten: w.broker.stats.forgotten,
		ReceiptsLost: w.fleet.lost, Kills: len(w.kills), Recalled: w.disk.recalled}
	if w.bad != nil {
		return r, w.bad
	}
	if w.fleet.failed != nil {
		return r, w.fleet.failed
	}
	losses := w.losses
	if !w.recalls { // else they come again
		losses = append(losses, w.forgotten...)
	}
	for _, l := range losses {
		if l.Reason == telemetrypb.LossReason_LOSS_NOT_KEPT.String() {
			return r, fmt.Errorf("P1: everything is kept, and the ledger has %+v", l)
		}
	}
	there := map[string][]*store.Reading{}
	for name, truths := range w.truths {
		there[name] = make([]*store.Reading, len(truths))
		r.Samples += len(truths)
	}
	for _, row := range w.rows {
		list, serial := there[row.Signal], serialOfRow(row)
		switch {
		case serial >= len(list):
			return r, fmt.Errorf("P1: %s %d was never taken", row.Signal, serial)
		case list[serial] != nil:
			return r, fmt.Errorf("P1: %s %d is stored twice", row.Signal, serial)
		}
		list[serial] = row
		r.Stored++
		if err := w.checkTime(&r, row, w.truths[row.Signal][serial]); err != nil {
			return r, err
		}
	}
	ledger := uint64(0)
	for _, l := range losses {
		if l.Unit == "samples" && (l.CountUnknown || l.CountIsBound) {
			return r, fmt.Errorf("P1: a loss that is not counted: %+v", l)
		}
		if l.Unit == "samples" {
			ledger += l.Count
		}
	}
	for name, list := range there {
		for serial, row := range list {
			if row == nil {
				if err := w.excuse(&r, name, serial, losses); err != nil {
					return r, err
				}
			}
		}
	}
	if uint64(r.Counted) > ledger {
		return r, fmt.Errorf("P1: %d samples are missing and no kill explains it, the ledger counts %d", r.Counted, ledger)
	}
	if !w.wasRestored || w.recalls {
		if t := w.totals; t.Gaps > 0 || t.Parked > 0 || t.Letters > 0 || t.Rejected > 0 {
			return r, fmt.Errorf("P1: store %+v", t)
		}
	}
	return r, nil
}

// excuse says why a sample may be missing, or that it may not.
func (w *week) excuse(r *weekResult, name string, serial int, losses []store.LossEntry) error {
	truth := w.truths[name][serial]
	k, wasKilled := w.kills[truth.process]
	confirmed := w.disk.samples[name][serial]
	boot := bootID(truth.in)
	hasLoss := false
	for _, l := range losses {
		id, err := hex.DecodeString(l.BootID)
		if err == nil && [16]byte(append(id, make([]byte, 16)...)) == boot && l.FirstNS <= truth.boot && truth.boot <= l.LastNS {
			hasLoss = true
		}
	}
	mayBeCut := wasKilled && !confirmed && !truth.at.Before(k.from)
	switch {
	case w.restored[name][serial] && !w.recalls:
		r.Restored++
	case hasLoss && mayBeCut: // a record tells a span of time, not which samples
		r.Either++
	case hasLoss:
		r.Counted++
	case confirmed:
		return fmt.Errorf("P1: %s %d of boot %d, process %d was confirmed by the queue, and is neither stored nor in the ledger", name, serial, truth.in, truth.process)
	case mayBeCut:
		r.Cut++
	case wasKilled:
		return fmt.Errorf("P2: %s %d of process %d was taken %v before the kill and is lost; %v may be lost", name, serial, truth.process,
			k.at.Sub(truth.at), k.at.Sub(k.from))
	default:
		return fmt.Errorf("P1: %s %d of boot %d, process %d is missing, and nothing was killed", name, serial, truth.in, truth.process)
	}
	return nil
}

// checkTime holds a row's time to the truth, and to what it claims.
func (w *week) checkTime(r *weekResult, row *store.Reading, truth weekTruth) error {
	name := fmt.Sprintf("%s %d of boot %d", row.Signal, serialOfRow(row), truth.in)
	if row.BootID != bootID(truth.in) {
		return fmt.Errorf("P3: %s is stored with the id of another boot", name)
	}
	if row.Time.Source == telemetrypb.TimeSource_TIME_SOURCE_NONE || row.Time.UncertaintyNS >= telemetrypb.Unbounded {
		r.Unbounded++
	} else {
		off := time.Duration(row.Time.UnixNS - truth.unix).Abs()
		if uint64(off) > row.Time.UncertaintyNS {
			return fmt.Errorf("P3: %s at %v is %v off, %v are claimed, by %v", name, time.Unix(0, truth.unix).UTC(), off,
				time.Duration(row.Time.UncertaintyNS), row.Time.Source)
		}
		if row.Time.Source == telemetrypb.TimeSource_TIME_SOURCE_GPS && row.Time.UncertaintyNS < uint64(time.Second) {
			r.Worst = max(r.Worst, off)
		}
	}
	if w.plant == soundAgent && row.BootNS != truth.boot {
		return fmt.Errorf("P3: %s was taken at %d and is stored with %d", name, truth.boot, row.BootNS)
	}
	return nil
}

// serialOfRow is the number that a stored sample carries.
func serialOfRow(row *store.Reading) int {
	if row.Raw.Kind != telemetrypb.KindString {
		return int(row.Raw.Bits)
	}
	n, err := strconv.Atoi(row.Raw.Text[:textSerial])
	if err != nil {
		return -1
	}
	return n
}

// collect reads the store before it is closed.
func (w *week) collect() error {
	ctx := context.Background()
	err := w.fleet.store.Samples(ctx, store.Query{}, func(row *store.Reading) error {
		kept := *row
		w.rows = append(w.rows, &kept)
		return nil
	})
	losses, err2 := w.fleet.store.Losses(ctx, "")
	w.losses, w.totals = losses, w.fleet.store.Totals()
	return errors.Join(err, err2)
}
