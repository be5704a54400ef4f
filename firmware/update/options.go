package update

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Options are what the agent gives. All functions are called by the goroutine of Run; where several Updaters run, each
// has a Dir, a Checker and a Health of its own.
type Options struct {
	Dir     string // a folder of its own: the download, the baseline, the progress of a trial
	ECU     string // this unit's id, as the director knows it
	Version string // of the running software
	Resolve func(context.Context) (trust.Bundle, error)
	// Where its images go: one of the two.
	Slots  *slots.Slots // the agent's own
	System *System      // the whole system's

	Delivery delivery.Options                   // mirrors, MQTT and limits; the order gives the rest
	Flow     func(wifiOnly bool) (bool, string) // whether bytes may flow now, and why not; nil: always

	Checker  *conditions.Checker
	Readings func() (conditions.Readings, int64) // and CLOCK_BOOTTIME ns
	Consents *conditions.Consents                // nil: there is nobody to ask

	Health    func() probation.Health
	Sources   []string             // that Health names, in their order
	Awake     func() time.Duration // CLOCK_MONOTONIC: what a suspended system does not count
	Probation probation.Options

	// Report has a result on its way, durably, when it returns nil. It may get the same one again.
	Report func(context.Context, *telemetrypb.UpdateOutcome) error

	Poll  time.Duration                        // between two looks at the repositories; 1 h
	Look  time.Duration                        // between two looks at conditions and health; 5 s
	Write func(path string, data []byte) error // atomically and durably
	Log   *slog.Logger
}

func (o Options) check() (Options, error) {
	switch {
	case o.Dir == "" || o.ECU == "" || o.Resolve == nil || o.Checker == nil || o.Readings == nil || o.Health == nil || o.Awake == nil ||
		o.Report == nil || o.Write == nil || o.Log == nil:
		return o, errors.New("update: an option is missing")
	case (o.Slots == nil) == (o.System == nil):
		return o, errors.New("update: an Updater is for the agent's slots or for the whole system; each has its own (Run)")
	}
	if o.Poll <= 0 {
		o.Poll = time.Hour
	}
	if o.Look <= 0 {
		o.Look = 5 * time.Second
	}
	if o.Flow == nil {
		o.Flow = func(bool) (bool, string) { return true, "" }
	}
	return o, nil
}
