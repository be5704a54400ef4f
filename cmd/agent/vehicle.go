package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/gps/imu"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// alarmSignal is the event-lane signal that tells of alarms: "NAME: text" when raised, "NAME" when cleared.
const alarmSignal = "agent.alarm"

// vehicle is what a configuration can collect, and what of it is collected.
type vehicle struct {
	selection *pipeline.Selection
	plans     []*can.Plan     // by bus, in the order of settings.CAN
	features  [][]feature     // likewise
	receivers []gps.IDs       // by receiver, in the order of settings.GPS
	gates     []*positionGate // likewise; nil where the position does not wait for an event
	available int             // signals that could be chosen
	own       int             // the agent's own, which are collected in any case
	parking   *parking        // with power: in the configuration
	latest    *latest         // with update: in the configuration
	warnings  []string        // of the DBC files, FILE:LINE: text
}

// newVehicle reads the DBC files, chooses the signals and compiles the decode plans.
func newVehicle(s *settings) (*vehicle, error) {
	v := &vehicle{}
	var available []*telemetrypb.Signal
	subscribable := make([][]can.Subscription, len(s.CAN)) // by bus, without ids
	names := make([][]string, len(s.CAN))                  // of the same
	for i, bus := range s.CAN {
		var databases []*can.Database
		for _, file := range bus.DBC {
			db, err := v.readDBC(s, file)
			if err != nil {
				return nil, fmt.Errorf("bus %s: %w", bus.Bus, err)
			}
			databases = append(databases, db)
			for _, m := range db.Messages {
				if bus.Record.on() && bus.Bus+"."+m.Name == rawMessage(bus.Bus) {
					return nil, fmt.Errorf("bus %s: %s: message %s has the name of the recorded frames; rename it, or do not record this bus", bus.Bus, file, m.Name)
				}
				for _, signal := range m.Signals {
					entry := db.CatalogueSignal(m, signal)
					entry.Name = bus.Bus + "." + entry.Name
					entry.Message = bus.Bus + "." + m.Name
					entry.Source = "can:" + bus.Bus
					available = append(available, entry)
					subscribable[i] = append(subscribable[i], can.Subscription{Message: m, Signal: signal})
					names[i] = append(names[i], entry.Name)
				}
			}
		}
		features := newFeatures(bus, databases)
		for _, f := range features {
			available = append(available, f.signals()...)
		}
		v.features = append(v.features, features)
	}
	if err := v.watchPower(s, subscribable, names); err != nil {
		return nil, err
	}
	if err := v.watchParking(s, subscribable, names); err != nil {
		return nil, err
	}
	if err := v.watchUpdate(s, subscribable, names); err != nil {
		return nil, err
	}
	for _, receiver := range s.GPS {
		available = append(available, gps.Signals(receiver.Name)...)
	}
	for _, sensor := range s.IMU {
		available = append(available, imu.Signals(sensor.Name)...)
	}
	available = append(available, clockSignals()...)
	available = distinct(available)
	v.available = len(available)
	available = append(available, &telemetrypb.Signal{
		Name: alarmSignal, Type: telemetrypb.ValueType_VALUE_TYPE_STRING, Source: "agent",
		Comment: "a condition that a person should know of: NAME: text when raised, NAME when cleared",
	})
	own := []pipeline.Collect{{Match: alarmSignal, Lane: telemetrypb.Lane_LANE_EVENT}}
	for _, signal := range s.powerSignals() {
		available = append(available, signal)
		own = append(own, pipeline.Collect{Match: signal.Name, Lane: telemetrypb.Lane_LANE_EVENT})
	}
	v.own = len(own)
	collect := append(own, recordCollect(s.CAN)...)
	collect = append(collect, s.Collect...)
	var err error
	if v.selection, err = pipeline.Choose(available, collect, s.Rules...); err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	for i, bus := range s.CAN {
		var chosen []can.Subscription
		taken := map[uint32]bool{}
		for j, sub := range subscribable[i] {
			id, ok := v.selection.ID(names[i][j])
			if !ok || taken[id] {
				continue
			}
			taken[id] = true
			sub.ID = id
			sub.OnChange, sub.Refresh = v.changes(id)
			chosen = append(chosen, sub)
		}
		plan := can.Compile(chosen, can.PlanOptions{J1939: bus.J1939})
		for _, w := range plan.Warnings() {
			v.warnings = append(v.warnings, fmt.Sprintf("bus %s: %s: %s", bus.Bus, w.Severity, w.Text))
		}
		v.plans = append(v.plans, plan)
		for _, f := range v.features[i] {
			f.choose(v.selection.ID)
		}
	}
	for _, receiver := range s.GPS {
		v.receivers = append(v.receivers, gps.ChooseIDs(receiver.Name, v.selection.ID))
		v.gates = append(v.gates, newPositionGate(&receiver, v.selection.ID))
	}
	return v, nil
}

// refreshPart: a signal that is sent at least every max_interval is decoded, changed or not, that many times in it, so
// that it is sent no later than max_interval, a sixteenth of it, and one frame.
const refreshPart = 16

// changes says whether frames that repeat a signal may be left out, and the age at which they may not.
func (v *vehicle) changes(id uint32) (onChange bool, refresh time.Duration) {
	onChange, longest := v.selection.OnChange(id)
	if longest > 0 {
		refresh = max(longest/refreshPart, 1)
	}
	return onChange, refresh
}

// readDBC parses a file and keeps its warnings.
func (v *vehicle) readDBC(s *settings, file string) (*can.Database, error) {
	text, known := s.dbc[file]
	if !known {
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return nil, err
		}
		if s.dbc == nil {
			s.dbc = map[string][]byte{}
		}
		s.dbc[file] = text
	}
	db := can.ParseDBC(text)
	for _, w := range db.Warnings {
		if w.Severity >= can.SeverityWarning {
			v.warnings = append(v.warnings, fmt.Sprintf("%s:%d: %s: %s", file, w.Line, w.Severity, w.Text))
		}
	}
	if len(db.Messages) == 0 {
		return nil, fmt.Errorf("%s: no message in it; `waybill-agent can lint %s` tells why", file, file)
	}
	return db, nil
}

// distinct leaves out the later of two signals of one name: two DBC files of a bus that share a message.
func distinct(signals []*telemetrypb.Signal) []*telemetrypb.Signal {
	seen := make(map[string]bool, len(signals))
	kept := signals[:0]
	for _, s := range signals {
		if !seen[s.Name] {
			seen[s.Name] = true
			kept = append(kept, s)
		}
	}
	return kept
}

// load reads and checks a configuration file and everything that it names.
func load(file string) (*settings, *vehicle, error) {
	d, err := readConfig(file)
	if err != nil {
		return nil, nil, err
	}
	s, err := check(d)
	if err != nil {
		return nil, nil, err
	}
	v, err := newVehicle(s)
	if err != nil {
		at, line := d.place(placeOf(err, "collect")...)
		if inner, its := d.place(placeOf(err, "collect", "signals")...); inner != at {
			at, line = inner, its // a fragment's
		}
		return nil, nil, &problems{file, []problem{{at, line, err.Error()}}}
	}
	return s, v, nil
}

func (s *settings) logger(out *os.File) *slog.Logger {
	o := &slog.HandlerOptions{Level: s.Level}
	if s.LogJSON {
		return slog.New(slog.NewJSONHandler(out, o))
	}
	return slog.New(slog.NewTextHandler(out, o))
}
