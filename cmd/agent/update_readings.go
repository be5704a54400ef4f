package main

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/internal/clock"
)

// reading is one of the signals that the conditions of an update are held against.
type reading uint8

const (
	readSpeed reading = iota
	readIgnition
	readGear
	readHandbrake
	readOdometer
	readSoC
	readBattery
	readAmbient
	readingCount
)

// readingKeys are their keys under update.signals.
var readingKeys = [readingCount]string{"speed", "ignition", "gear", "handbrake", "odometer", "soc", "battery", "ambient"}

// units are the factors and offsets to what conditions are in: km/h, km, V, °C. A unit that is not here is taken for that
// one.
var units = map[reading]map[string][2]float64{
	readSpeed:    {"m/s": {3.6, 0}, "mph": {1.609344, 0}, "MPH": {1.609344, 0}},
	readOdometer: {"m": {0.001, 0}, "mi": {1.609344, 0}, "mile": {1.609344, 0}, "miles": {1.609344, 0}},
	readBattery:  {"mV": {0.001, 0}},
	readAmbient:  {"°F": {5. / 9, -160. / 9}, "degF": {5. / 9, -160. / 9}, "F": {5. / 9, -160. / 9}, "K": {1, -273.15}},
}

// latest keeps the newest reading of each signal. It is safe for use from several goroutines; take is called for each frame
// that carries one, and allocates nothing.
type latest struct {
	mu     sync.Mutex
	values [readingCount]conditions.Reading // guarded by mu
}

func (l *latest) take(r reading, value float64, at int64) {
	l.mu.Lock()
	l.values[r] = conditions.Reading{Value: value, At: at, Seen: true}
	l.mu.Unlock()
}

func (l *latest) all() [readingCount]conditions.Reading {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.values
}

// watchUpdate lets the buses tell the readings. names are the full names of subs, by bus; none of them need be collected.
func (v *vehicle) watchUpdate(s *settings, subs [][]can.Subscription, names [][]string) error {
	if s.Update == nil {
		return nil
	}
	v.latest = &latest{}
	for r := range readingCount {
		name, above := s.Update.Signals[r], 0.5
		if r == readIgnition && name == "" && s.Power != nil {
			name, above = s.Power.Signal, s.Power.Above // no such signal: watchParking has said so
		}
		if name == "" {
			continue
		}
		signal := signalOf(subs, names, name)
		if signal == nil {
			text := fmt.Sprintf("no DBC file has a signal %s", name)
			if near := nearest(name, slices.Concat(names...)); near != "" {
				text += fmt.Sprintf("; did you mean %q?", near)
			}
			return &keyError{[]any{"update", "signals", readingKeys[r]}, text}
		}
		convert, ok := units[r][signal.Unit]
		if !ok {
			convert = [2]float64{1, 0}
		}
		v.watchSignal(s, subs, names, name, func(value float64, at int64) {
			value = value*convert[0] + convert[1]
			if r == readIgnition && !math.IsNaN(value) { // positions beyond "on", such as "start", are on
				value = oneIf(value > above)
			}
			v.latest.take(r, value, at)
		})
	}
	return nil
}

func signalOf(subs [][]can.Subscription, names [][]string, name string) *can.Signal {
	for i, list := range names {
		if j := slices.Index(list, name); j >= 0 {
			return subs[i][j].Signal
		}
	}
	return nil
}

func oneIf(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// readings are what the conditions of an update are held against at this moment, CLOCK_BOOTTIME ns.
func (u *updater) readings() (conditions.Readings, int64) {
	values := u.vehicle.latest.all()
	now := u.clock.Boot()
	unix, doubt, _ := u.times.Now(now)
	r := conditions.Readings{
		Speed: values[readSpeed], Odometer: values[readOdometer], Gear: values[readGear], Handbrake: values[readHandbrake],
		Ignition: values[readIgnition], SoC: values[readSoC], Volts: values[readBattery], Ambient: values[readAmbient],
	}
	if doubt < clock.Unbounded && unix != 0 {
		r.Time = conditions.Time{Wall: time.Unix(0, unix), Trusted: true, Uncertainty: time.Duration(min(doubt, math.MaxInt64))}
	}
	if p := u.settings.Power; p != nil && u.set.Signals[readIgnition] == "" {
		if on, known := u.switchedOn(p); known {
			r.Ignition = conditions.Reading{Value: oneIf(on), At: now, Seen: true}
		}
	}
	return r, now
}

// switchedOn is the ignition by the line or the file of power.ignition, which always tell. What cannot be read counts as on
// there, so that no data stays in the vehicle; here it is not known.
func (u *updater) switchedOn(p *powerSettings) (on, known bool) {
	switch {
	case p.File != "":
		on, err := ignitionFile(p.File)
		return on, err == nil
	case p.GPIO != nil:
		_, unread := u.standing()["power.ignition"]
		return u.vehicle.parking.on.Load(), !unread
	}
	return false, false
}
