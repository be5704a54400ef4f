package local

import (
	"encoding/json"
	"fmt"
)

// The events of PathEvents. An EventState and an EventSignals that are whole come at once; then, each second, an EventState
// with the members that changed, as Now always has, and an EventValues.
const (
	EventState   = "state"   // members of a State: all at first, then those that changed
	EventSignals = "signals" // a Signals
	EventValues  = "values"  // a Values
)

// View is what a follower of PathEvents knows. The zero value knows nothing yet. It belongs to one goroutine.
type View struct {
	State   State
	Signals Signals

	place map[uint32]int // of a signal, by id
}

// Apply takes an event. One of an unknown name is left alone: a later version may have more.
func (v *View) Apply(event string, data []byte) error {
	var err error
	switch event {
	case EventState:
		err = v.state(data)
	case EventSignals:
		var all Signals
		if err = json.Unmarshal(data, &all); err == nil {
			v.Signals = all
			v.place = make(map[uint32]int, len(all.Signals))
			for i, s := range all.Signals {
				v.place[s.ID] = i
			}
		}
	case EventValues:
		var some Values
		if err = json.Unmarshal(data, &some); err == nil {
			v.values(&some)
		}
	}
	if err != nil {
		return fmt.Errorf("event %s: %w", event, err)
	}
	return nil
}

// state replaces the members that came. A member that came is taken as a whole: encoding/json would keep what it finds in
// the old one.
func (v *View) state(data []byte) error {
	var came map[string]json.RawMessage
	if err := json.Unmarshal(data, &came); err != nil {
		return err
	}
	var all State
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	s := &v.State
	for name := range came {
		switch name {
		case "format":
			s.Format = all.Format
		case "now":
			s.Now = all.Now
		case "agent":
			s.Agent = all.Agent
		case "alarms":
			s.Alarms = all.Alarms
		case "power":
			s.Power = all.Power
		case "clock":
			s.Clock = all.Clock
		case "buses":
			s.Buses = all.Buses
		case "receivers":
			s.Receivers = all.Receivers
		case "tracks":
			s.Tracks = all.Tracks
		case "queue":
			s.Queue = all.Queue
		case "uplink":
			s.Uplink = all.Uplink
		case "losses":
			s.Losses = all.Losses
		case "collect":
			s.Collect = all.Collect
		case "update":
			s.Update = all.Update
		}
	}
	return nil
}

func (v *View) values(some *Values) {
	v.Signals.BootMS = some.BootMS
	for _, value := range some.Values {
		if i, ok := v.place[value.ID]; ok {
			v.Signals.Signals[i].Value = value
		}
	}
	for i := range v.Signals.Signals {
		s := &v.Signals.Signals[i]
		if s.AtMS == 0 {
			continue
		}
		s.History = append(s.History, s.Value.Value)
		if extra := len(s.History) - HistoryPoints; extra > 0 {
			s.History = append(s.History[:0], s.History[extra:]...)
		}
	}
}
