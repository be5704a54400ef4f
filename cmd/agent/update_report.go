package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// maxTold is of how many updates it is known what was told.
const maxTold = 32

// outcomes puts what became of updates into the control lane, each once: it notes what was told. It belongs to one
// goroutine.
type outcomes struct {
	path   string
	emit   func(*telemetrypb.CommandResult) bool // false: there is no room, and nothing is kept
	commit func(context.Context) error
	write  func(path string, data []byte) error

	told    []toldOutcome // oldest first
	pending toldOutcome   // emitted, and not known to be on disk
}

// toldOutcome is what was told last of an update, by its id (telemetrypb.UpdateID).
type toldOutcome struct {
	ID   string `json:"id"`
	Said string `json:"said"` // outcome and reason
}

// open reads what was told. What cannot be read is told again, and stores keep it once.
func (o *outcomes) open() error {
	data, err := os.ReadFile(o.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &o.told)
	}
	if err != nil {
		return fmt.Errorf("what was told of updates is told again: %w", err)
	}
	return nil
}

// report returns nil when the outcome is on disk to be sent.
func (o *outcomes) report(ctx context.Context, u *telemetrypb.UpdateOutcome) error {
	result, err := u.Result()
	if err != nil {
		return err
	}
	now := toldOutcome{result.Id, string(u.Outcome) + " " + u.Reason}
	if slices.Contains(o.told, now) {
		return nil
	}
	if o.pending != now {
		if !o.emit(result) {
			return errors.New("too many records wait for the disk")
		}
		o.pending = now
	}
	if err := o.commit(ctx); err != nil {
		return err
	}
	o.pending = toldOutcome{}
	list := slices.DeleteFunc(slices.Clone(o.told), func(t toldOutcome) bool { return t.ID == now.ID })
	o.told = append(list[max(0, len(list)-maxTold+1):], now)
	data, err := json.Marshal(o.told)
	if err == nil {
		err = o.write(o.path, append(data, '\n'))
	}
	return err
}
