package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
	"github.com/waybill-telematics/waybill/firmware/update"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	// updateFolder holds in the data folder all that updates keep.
	updateFolder = "update"
	// alarmUpdate says why nothing is followed, or a trial not judged.
	alarmUpdate = "update"
	// settleTime is how long the sources may take to open before a version on trial counts as alive all the same.
	settleTime = 30 * time.Second
	// updateRetry is the wait after a disk has kept updates from going on.
	updateRetry = time.Minute
)

// What the updater is doing, as waybill_update_state has it.
const (
	updateRefused    = "no launcher"
	updateStarting   = "starting"
	updateOnTrial    = "on trial"
	updateFollowing  = "following"
	updateFails      = "failing"
	updateRestarting = "restarting"
)

// updater gives firmware/update what it needs of the agent, for the agent's own slots and for the whole system.
type updater struct {
	*agent
	set      *updateSettings
	slots    *slots.Slots   // nil: no launcher started this agent
	system   *update.System // nil: there is no installer
	units    []*updateUnit
	client   *updateClient  // of the metadata
	repos    *trust.Vehicle // nil until they are open; whoever resolves has it
	consents *conditions.Consents
	outcomes outcomes
	stop     context.CancelCauseFunc // ends run

	state   *prometheus.GaugeVec
	reports *prometheus.CounterVec
}

// openUpdate makes the updater. Whatever is wrong with updates, the agent runs as ever.
func (a *agent) openUpdate() error {
	s := a.settings.Update
	if s == nil {
		return nil
	}
	u := &updater{agent: a, set: s,
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waybill_update_state",
			Help: "1 for what a unit's updates are at: no launcher, starting, on trial, following, failing, restarting."},
			[]string{"ecu", "state"}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waybill_update_reports_total",
			Help: "What was told of updates, by unit and outcome."}, []string{"ecu", "outcome"})}
	for _, m := range []prometheus.Collector{u.state, u.reports} {
		if err := a.metrics.Register(m); err != nil {
			return fmt.Errorf("update metrics: %w", err)
		}
	}
	u.openSlots()
	if err := u.openSystem(); err != nil {
		return err
	}
	if u.slots == nil && u.system == nil {
		return nil
	}
	var err error
	if u.client, err = a.newUpdateClient(); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := u.openUnits(); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	u.outcomes = outcomes{path: u.path("told.json"), write: writeDurably,
		emit: func(r *telemetrypb.CommandResult) bool {
			r.BootNs, r.BootId, r.BootCount = a.clock.Boot(), a.boot.ID[:], a.boot.Count
			return a.pipe.TryEmit(&telemetrypb.Record{Record: &telemetrypb.Record_Result{Result: r}})
		},
		commit: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, commitWait)
			defer cancel()
			return a.pipe.Commit(ctx, false)
		}}
	if err := u.outcomes.open(); err != nil {
		a.log.Warn("updates", "error", err)
	}
	a.updates = u
	return nil
}

// openSlots takes the agent's own slots. Without a launcher nothing could take a bad version back.
func (u *updater) openSlots() {
	running := slots.Slot(os.Getenv(slots.EnvSlot))
	if running == "" {
		u.enter(u.set.ECU, updateRefused)
		u.log.Error("updates are refused: waybill-launcher did not start this agent, so nothing could take a bad version back; "+
			"start it by the launcher (docs/OTA.md)",
			"ecu", u.set.ECU, "slots", u.set.Slots)
		return
	}
	own, err := slots.Open(u.set.Slots, slots.Options{Running: running, Log: u.log})
	if err != nil {
		u.enter(u.set.ECU, updateRefused)
		u.log.Error("updates are refused", "ecu", u.set.ECU, "error", err)
		return
	}
	u.slots = own
}

func (u *updater) path(name ...string) string {
	return filepath.Join(append([]string{u.settings.DataDir, updateFolder}, name...)...)
}

// enter shows what a unit's updates are at.
func (u *updater) enter(ecu, word string) {
	u.state.DeletePartialMatch(prometheus.Labels{"ecu": ecu})
	u.state.WithLabelValues(ecu, word).Set(1)
}

func (u *updater) enterAll(word string) {
	for _, unit := range u.units {
		unit.enter(word)
	}
}

// run follows the director until ctx ends, or until something else is to be started: update.ErrRestart, errReboot.
func (u *updater) run(ctx context.Context) error {
	ctx, u.stop = context.WithCancelCause(ctx)
	defer u.stop(nil)
	for began := time.Now(); !u.units[0].health.settled() && time.Since(began) < settleTime; {
		if !sleep(ctx, 100*time.Millisecond) {
			return nil
		}
	}
	for _, unit := range u.units {
		if r := unit.health.reach; r != nil {
			r.ctx = ctx
			defer r.tries.Wait()
		}
	}
	for {
		err := u.follow(ctx)
		switch {
		case errors.Is(context.Cause(ctx), errReboot):
			u.enterAll(updateRestarting)
			return errReboot
		case errors.Is(err, update.ErrRestart):
			u.enterAll(updateRestarting)
			return err
		case ctx.Err() != nil:
			return nil
		}
		u.enterAll(updateFails)
		u.alarms.Raise(alarmUpdate,
			fmt.Sprintf("updates do not go on: %v; look at %s, at %s, and at the disks that they are on", err, u.set.Slots, u.path()))
		if !sleep(ctx, updateRetry) {
			return nil
		}
	}
}

func (u *updater) follow(ctx context.Context) error {
	if err := os.MkdirAll(u.path(), 0o750); err != nil {
		return err
	}
	if err := u.openConsents(); err != nil {
		u.log.Warn("nobody can be asked for consent", "error", err)
	}
	var list []*update.Updater
	for _, unit := range u.units {
		up, err := update.New(unit.options())
		if err != nil {
			return err
		}
		unit.current.Store(up)
		unit.begin()
		list = append(list, up)
	}
	u.alarms.Clear(alarmUpdate)
	return update.Run(ctx, list...)
}

func (u *updater) report(ctx context.Context, o *telemetrypb.UpdateOutcome) error {
	err := u.outcomes.report(ctx, o)
	if err == nil {
		u.reports.WithLabelValues(o.ECU, string(o.Outcome)).Inc()
	}
	return err
}

// stopped says to who counts starts that this agent ends in order: the last thing it does. told says that somebody wanted it
// to. The launcher sees for itself what begins again in the same process; the system on trial has a new start then.
func (u *updater) stopped(told bool, why error) {
	if told && u.slots != nil {
		if err := u.slots.Stopped(context.Background()); err != nil {
			u.log.Warn("that this version ends in order could not be noted: the launcher counts it as a crash", "error", err)
		}
	}
	again := errors.Is(why, update.ErrRestart) || errors.Is(why, errReboot) || errors.Is(why, errReload) || errors.Is(why, errNewEpoch)
	if u.system != nil && (told || again) {
		if err := u.system.Stopped(context.Background()); err != nil {
			u.log.Warn("that the agent ends in order could not be noted: it counts as a crash of the system on trial", "error", err)
		}
	}
}
