package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/firmware/update"
	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// errReload ends a run of the agent that is to begin again at once, in the same process, with another configuration.
var errReload = errors.New("the configuration was read anew")

// alarmConfig stands while the file's configuration is not the one that runs.
const alarmConfig = "config"

// reloadDetail is what the ledger says of the time between two runs.
const reloadDetail = "the agent began again, in the same process"

// setup is a checked configuration with what is made of it.
type setup struct {
	*settings
	vehicle *vehicle
}

// reloading is what one run of the agent leaves to the next about configurations.
type reloading struct {
	load    func() (*setup, error) // reads the configuration as it is now
	hangup  <-chan os.Signal       // nil: nobody asks for it
	next    *setup                 // with errReload
	ready   bool                   // the run has begun
	refused string                 // why the latest configuration does not run; empty: it does
	unread  map[string]int64       // since when sources are not read, CLOCK_BOOTTIME, by their names in the ledger
}

func loadSetup(file string) (*setup, error) {
	s, v, err := load(file)
	return &setup{s, v}, err
}

// afresh makes of the settings again what a run uses up.
func (s *setup) afresh() (*setup, error) {
	v, err := newVehicle(s.settings)
	return &setup{s.settings, v}, err
}

// runAgain runs the agent until it ends for good: with a new epoch or another configuration it begins again. When another
// configuration cannot be started, the one before is.
func runAgain(ctx context.Context, file string, hangup <-chan os.Signal, stderr *os.File) error {
	again := newRenewal()
	again.hangup, again.load = hangup, func() (*setup, error) { return loadSetup(file) }
	current, err := again.load()
	if err != nil {
		return err
	}
	var before *setup // until current has begun
	for {
		log := current.logger(stderr)
		again.ready = false
		err := runAgent(ctx, current.settings, current.vehicle, log, again)
		if again.ready {
			before = nil
		}
		switch {
		case errors.Is(err, update.ErrRestart):
			return nil // all is stopped and closed: the launcher starts what is to run
		case errors.Is(err, errReboot):
			if again.rebootErr = restartMachine(ctx, current.Update.Installer.Reboot); again.rebootErr == nil {
				return nil
			}
			again.rebootAt = time.Now()
			log.Error("the machine does not start anew; the agent goes on", "error", again.rebootErr)
			if current, err = current.afresh(); err != nil {
				return err
			}
		case errors.Is(err, errReload) && ctx.Err() == nil:
			before, current, again.refused = current, again.next, ""
		case errors.Is(err, errNewEpoch) && ctx.Err() == nil:
			if current, err = current.afresh(); err != nil {
				return err
			}
		case errors.Is(err, errReload), errors.Is(err, errNewEpoch):
			return nil
		case err != nil && before != nil && ctx.Err() == nil:
			log.Error("the new configuration cannot be started; the one before goes on", "error", err)
			again.refused = fmt.Sprintf("it could not be started, and the one before it goes on: %v", err)
			if current, err = before.afresh(); err != nil {
				return err
			}
			before = nil
		default:
			return err
		}
	}
}

// openReload says what became of the latest configuration.
func (a *agent) openReload() {
	a.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "waybill", Name: "config_refused",
		Help: "1 while the agent runs with an older configuration, since the latest is wrong or could not be started."},
		func() float64 {
			if slices.ContainsFunc(a.alarms.Standing(), func(al alarm.Alarm) bool { return al.Name == alarmConfig }) {
				return 1
			}
			return 0
		}))
	if a.again.refused != "" {
		a.alarms.Raise(alarmConfig, a.again.refused)
	}
}

// watchReload loads the configuration anew when it is asked to. A good one ends this run; a bad one changes nothing.
func (a *agent) watchReload(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.again.hangup:
		}
		a.notifyReloading()
		next, err := a.again.load()
		if err == nil && a.replaysRecordings() {
			err = errors.New("a recording would be read again from its start; restart the agent instead")
		}
		if err != nil {
			a.log.Error("the new configuration is refused; nothing has changed", "error", err)
			a.alarms.Raise(alarmConfig, fmt.Sprintf("the new configuration is refused, the one before goes on: %v", err))
			a.notify("READY=1\nSTATUS=The new configuration is refused; waybill-agent check says why.")
			continue
		}
		a.alarms.Clear(alarmConfig)
		a.reloaded <- next
		return nil
	}
}

// notifyReloading tells systemd, which wants to know when (sd_notify(3)).
func (a *agent) notifyReloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // which every kernel has
	a.notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d\nSTATUS=", now.Nano()/int64(time.Microsecond)))
}

// noteUnread notes that the live sources are read no more. What the kernel still gathers for them is lost, too.
func (a *agent) noteUnread() {
	a.again.unread = map[string]int64{}
	now := a.clock.Boot() - int64(gather)
	for _, c := range a.settings.CAN {
		if c.Replay == nil {
			a.again.unread["can:"+c.Bus] = now
		}
	}
	for _, g := range a.settings.GPS {
		if g.Replay == nil {
			a.again.unread["gps:"+g.Name] = now
		}
	}
	for _, m := range a.settings.IMU {
		a.again.unread["imu:"+m.Name] = now
	}
}

// tellUnread puts into the ledger that receivers and sensors were not read between two runs; buses do so when they are read
// again.
func (a *agent) tellUnread() {
	tell := func(source, unit string) {
		if since := a.again.unread[source]; since != 0 {
			a.pipe.Ledger().AddLoss(&telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_BUS_DOWN, Source: source, Unit: unit,
				CountUnknown: true, FirstNs: since, LastNs: a.clock.Boot(), Detail: reloadDetail})
		}
	}
	for _, g := range a.settings.GPS {
		tell("gps:"+g.Name, "sentences")
	}
	for _, m := range a.settings.IMU {
		tell("imu:"+m.Name, "samples")
	}
}
