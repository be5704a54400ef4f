package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
	"github.com/waybill-telematics/waybill/firmware/update"
	"github.com/waybill-telematics/waybill/internal/clock"
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

// updater gives firmware/update what it needs of the agent.
type updater struct {
	*agent
	set      *updateSettings
	running  slots.Slot
	slots    *slots.Slots
	client   *updateClient
	repos    *trust.Vehicle // nil until they are open; of the updater's goroutine
	checker  *conditions.Checker
	consents *conditions.Consents
	health   health
	outcomes outcomes
	word     string                         // of the updater's goroutine
	current  atomic.Pointer[update.Updater] // nil: none runs yet
	shown    atomic.Value                   // word, for others

	state   *prometheus.GaugeVec
	reports *prometheus.CounterVec
}

// openUpdate makes the updater. Whatever is wrong with updates, the agent runs as ever.
func (a *agent) openUpdate() error {
	s := a.settings.Update
	if s == nil {
		return nil
	}
	u := &updater{agent: a, set: s, running: slots.Slot(os.Getenv(slots.EnvSlot)),
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waybill_update_state",
			Help: "1 for what updates are at: no launcher, starting, on trial, following, failing, restarting."}, []string{"state"}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waybill_update_reports_total",
			Help: "What was told of updates, by outcome."}, []string{"outcome"})}
	for _, m := range []prometheus.Collector{u.state, u.reports} {
		if err := a.metrics.Register(m); err != nil {
			return fmt.Errorf("update metrics: %w", err)
		}
	}
	if u.running == "" {
		u.enter(updateRefused)
		a.log.Error("updates are refused: waybill-launcher did not start this agent, so nothing could take a bad version back; "+
			"start it by the launcher (docs/OTA.md)",
			"slots", s.Slots)
		return nil
	}
	var err error
	if u.slots, err = slots.Open(s.Slots, slots.Options{Running: u.running, Log: a.log}); err != nil {
		u.enter(updateRefused)
		a.log.Error("updates are refused", "error", err)
		return nil
	}
	if u.checker, err = conditions.New(u.conditionOptions()); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if u.client, err = a.newUpdateClient(); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	u.health = health{agent: a, sources: a.healths}
	if b := a.settings.Uplink.Broker; b != nil {
		u.health.reach = newReach(b, a.settings.Uplink.Credentials.ServerName, a.links.Aside)
	}
	u.outcomes = outcomes{path: u.path("told.json"), write: writeDurably,
		emit: func(r *telemetrypb.CommandResult) {
			r.BootNs, r.BootId, r.BootCount = a.clock.Boot(), a.boot.ID[:], a.boot.Count
			a.pipe.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Result{Result: r}})
		},
		commit: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, commitWait)
			defer cancel()
			return a.pipe.Commit(ctx, false)
		}}
	if err := u.outcomes.open(); err != nil {
		a.log.Warn("updates", "error", err)
	}
	u.enter(updateStarting)
	a.updates = u
	return nil
}

func (u *updater) path(name ...string) string {
	return filepath.Join(append([]string{u.settings.DataDir, updateFolder}, name...)...)
}

func (u *updater) conditionOptions() conditions.Options {
	o := u.set.Conditions
	o.Zone = time.Local
	return o
}

func (u *updater) enter(word string) {
	if u.word == word {
		return
	}
	u.word = word
	u.shown.Store(word)
	u.state.Reset()
	u.state.WithLabelValues(word).Set(1)
}

// run follows the director until ctx ends, or until another version is to be started: update.ErrRestart.
func (u *updater) run(ctx context.Context) error {
	for began := time.Now(); !u.health.settled() && time.Since(began) < settleTime; {
		if !sleep(ctx, 100*time.Millisecond) {
			return nil
		}
	}
	if r := u.health.reach; r != nil {
		r.ctx = ctx
		defer r.tries.Wait()
	}
	for {
		err := u.follow(ctx)
		switch {
		case errors.Is(err, update.ErrRestart):
			u.enter(updateRestarting)
			return err
		case ctx.Err() != nil:
			return nil
		}
		u.enter(updateFails)
		u.alarms.Raise(alarmUpdate,
			fmt.Sprintf("updates do not go on: %v; look at %s and at the disk that it is on", err, u.set.Slots))
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
	list := make([]delivery.Mirror, len(u.set.Targets))
	for i, base := range u.set.Targets {
		list[i] = delivery.Mirror{Base: base, Client: u.client.images}
	}
	o := update.Options{
		Dir: u.path(), ECU: u.set.ECU, Version: firmware.Current().Version, Resolve: u.resolve, Slots: u.slots,
		Delivery: delivery.Options{Mirrors: list},
		Flow: func(wifiOnly bool) (bool, string) {
			if u.quiet() {
				return false, "the vehicle is parked, and stays off the network"
			}
			return u.client.flow(wifiOnly)
		},
		Checker: u.checker, Readings: u.readings, Consents: u.consents,
		Health: u.look, Sources: u.health.names(), Awake: func() time.Duration { return time.Duration(clock.Read().Mono) },
		Probation: u.set.Probation, Report: u.report, Poll: u.set.Poll, Look: u.set.Look, Write: writeDurably, Log: u.log,
	}
	if u.set.MQTT {
		o.Delivery.Asker = updateAsker{u}
	}
	up, err := update.New(o)
	if err != nil {
		return err
	}
	u.current.Store(up)
	if st, err := u.slots.Status(); err == nil && st.OnTrial() {
		u.enter(updateOnTrial)
	} else {
		u.enter(updateFollowing)
	}
	u.alarms.Clear(alarmUpdate)
	return up.Run(ctx)
}

// look is one look at the health.
func (u *updater) look() probation.Health {
	if u.word == updateOnTrial {
		if st, err := u.slots.Status(); err == nil && !st.OnTrial() {
			u.enter(updateFollowing)
		}
	}
	return u.health.look(u.word == updateOnTrial)
}

func (u *updater) report(ctx context.Context, o *telemetrypb.UpdateOutcome) error {
	err := u.outcomes.report(ctx, o)
	if err == nil {
		u.reports.WithLabelValues(string(o.Outcome)).Inc()
	}
	return err
}

// resolve asks both repositories what this vehicle is to run.
func (u *updater) resolve(ctx context.Context) (trust.Bundle, error) {
	if u.quiet() {
		return nil, errors.New("the vehicle is parked, and stays off the network")
	}
	if u.repos == nil {
		v, err := u.openRepos()
		if err != nil {
			return nil, err
		}
		u.repos = v
	}
	st, err := u.slots.Status()
	if err != nil {
		return nil, err
	}
	unit := trust.ECU{ID: u.set.ECU, Hardware: u.set.Hardware}
	if image := st.Slots[st.Committed].Image; image != nil {
		unit.Release = uint64(max(0, image.ReleaseCounter))
	}
	return u.repos.Resolve(ctx, []trust.ECU{unit})
}

func (u *updater) openRepos() (*trust.Vehicle, error) {
	reference, err := trust.OpenReference(trust.ReferenceOptions{
		Path: u.path("time"), Built: firmware.Current().Built, Clock: u.vouchedTime, Logger: u.log,
	})
	if err != nil {
		return nil, err
	}
	open := func(name string, bases []string, factory string, director bool) (*trust.Client, error) {
		o := trust.Options{Name: name, Reference: reference.Now, NoDelegations: director, Logger: u.log}
		for _, base := range bases {
			mirror, err := trust.NewHTTP(trust.HTTPOptions{Base: base, Client: u.client.metadata})
			if err != nil {
				return nil, err
			}
			o.Mirrors = append(o.Mirrors, mirror)
		}
		if o.FactoryRoot, err = os.ReadFile(factory); err != nil && !errors.Is(err, fs.ErrNotExist) { // it counts once
			return nil, err
		}
		if o.Store, err = trust.OpenStore(u.path(name)); err != nil {
			return nil, err
		}
		return trust.New(o)
	}
	director, err := open("director", u.set.Director, u.set.DirectorRoot, true)
	if err != nil {
		return nil, err
	}
	images, err := open("image", u.set.Images, u.set.ImagesRoot, false)
	if err != nil {
		return nil, err
	}
	return trust.NewVehicle(trust.VehicleOptions{Director: director, Image: images, Reference: reference})
}

func (u *updater) openConsents() error {
	s := u.set.Consent
	if s == nil || u.consents != nil {
		return nil
	}
	var asker conditions.Asker = &conditions.SocketAsker{Path: s.Socket, UIDs: s.UIDs}
	if s.File != "" {
		asker = &conditions.FileAsker{Dir: s.File, UIDs: s.UIDs, Rand: rand.Reader}
	}
	var err error
	u.consents, err = conditions.OpenConsents(conditions.ConsentOptions{Path: u.path("consent.json"), Logger: u.log,
		Now: func() conditions.Moment {
			wall, known := u.vouchedTime()
			return conditions.Moment{Boot: u.clock.Boot(), ID: u.boot.ID, Wall: wall, Known: known}
		}}, asker)
	return err
}

// stopped says to the launcher that this agent ends because it was told to: the last thing it does.
func (u *updater) stopped() {
	if err := u.slots.Stopped(context.Background()); err != nil {
		u.log.Warn("that this version ends in order could not be noted: the launcher counts it as a crash", "error", err)
	}
}
