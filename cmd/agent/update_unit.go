package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/update"
	"github.com/waybill-telematics/waybill/internal/clock"
)

// updateUnit is what is updated by itself: the agent's slots, or the whole system. What it has counts from look to look, or
// from check to check, so no two units share it.
type updateUnit struct {
	*updater
	ecu     string
	dir     string
	slots   *slots.Slots // one of the two
	system  *update.System
	client  *updateClient // of images: an order for Wi-Fi only is this unit's alone
	checker *conditions.Checker
	health  health
	word    string                         // of the goroutine that updates it
	shown   atomic.Value                   // word, for others
	current atomic.Pointer[update.Updater] // nil: none runs yet
}

// openUnits makes a unit of each place for images.
func (u *updater) openUnits() error {
	if u.slots != nil {
		u.units = append(u.units, &updateUnit{updater: u, ecu: u.set.ECU, dir: u.path(), slots: u.slots})
	}
	if u.system != nil {
		u.units = append(u.units, &updateUnit{updater: u, ecu: u.set.Installer.ECU, dir: u.path("system"), system: u.system})
	}
	for _, unit := range u.units {
		var err error
		if unit.checker, err = conditions.New(u.conditionOptions()); err != nil {
			return err
		}
		unit.client = u.client.another()
		unit.health = newHealth(u.agent)
		unit.enter(updateStarting)
	}
	return nil
}

func (u *updater) conditionOptions() conditions.Options {
	o := u.set.Conditions
	o.Zone = time.Local
	return o
}

func newHealth(a *agent) health {
	h := health{agent: a}
	for _, source := range a.healths {
		h.sources = append(h.sources, source())
	}
	if b := a.settings.Uplink.Broker; b != nil {
		h.reach = newReach(b, a.settings.Uplink.Credentials.ServerName, a.links.Aside)
	}
	return h
}

func (u *updateUnit) options() update.Options {
	list := make([]delivery.Mirror, len(u.set.Targets))
	for i, base := range u.set.Targets {
		list[i] = delivery.Mirror{Base: base, Client: u.client.images}
	}
	from := delivery.Options{Mirrors: list}
	if u.set.MQTT {
		from.Asker = updateAsker{u}
	}
	return update.Options{
		Dir: u.dir, ECU: u.ecu, Version: u.version(), Resolve: u.resolve, Slots: u.slots, System: u.system,
		Delivery: from,
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
}

// version is that of what runs; the maker's own system has none that we know.
func (u *updateUnit) version() string {
	if u.system == nil {
		return firmware.Current().Version
	}
	image, _, err := u.system.Installed()
	if err != nil {
		u.log.Warn("which system runs is not known", "error", err)
	}
	return image.Version
}

func (u *updateUnit) enter(word string) {
	if u.word != word {
		u.word = word
		u.shown.Store(word)
		u.updater.enter(u.ecu, word)
	}
}

func (u *updateUnit) begin() {
	u.enter(updateFollowing)
	if on, err := u.onTrial(); err == nil && on {
		u.enter(updateOnTrial)
	}
}

func (u *updateUnit) onTrial() (bool, error) {
	if u.system != nil {
		return u.system.OnTrial()
	}
	st, err := u.slots.Status()
	if err != nil {
		return false, fmt.Errorf("update: %w", err)
	}
	return st.OnTrial(), nil
}

// look is one look at the health.
func (u *updateUnit) look() probation.Health {
	if u.word == updateOnTrial {
		if on, err := u.onTrial(); err == nil && !on {
			u.enter(updateFollowing)
		}
	}
	return u.health.look(u.word == updateOnTrial)
}
