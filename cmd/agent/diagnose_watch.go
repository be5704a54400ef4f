package main

import (
	"errors"
	"fmt"

	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// watch is the feature of a bus that carries the ignition, or the voltage, by which others are asked. It has a plan of its
// own: the signal need not be collected, and says again that it is as it was.
type watch struct {
	plan          *can.Plan
	scale, offset float64
	tell          func(value float64, at int64) // at: CLOCK_BOOTTIME, ns
	samples       []telemetrypb.Sample
}

func newWatch(sub can.Subscription, j1939 bool, tell func(value float64, at int64)) *watch {
	sub.ID = 1
	return &watch{plan: can.Compile([]can.Subscription{sub}, can.PlanOptions{J1939: j1939}), scale: sub.Signal.Scale, offset: sub.Signal.Offset, tell: tell,
		samples: make([]telemetrypb.Sample, 0, 1)}
}

func (w *watch) signals() []*telemetrypb.Signal          { return nil }
func (w *watch) choose(func(name string) (uint32, bool)) {}
func (w *watch) attach(*canSource) (tap, []reader)       { return w, nil }

func (w *watch) filters() (list []can.Filter, all bool) {
	list = w.plan.Filters()
	return list, list == nil
}

func (w *watch) take(f *can.Frame, dst []telemetrypb.Sample) []telemetrypb.Sample {
	w.samples = w.plan.Decode(f, w.samples[:0])
	for i := range w.samples {
		w.tell(w.samples[i].Physical(w.scale, w.offset), f.Time)
	}
	return dst
}

// watchPower lets the buses that carry ignition and voltage tell those that are asked by them. names are the full names of
// subs, by bus.
func (v *vehicle) watchPower(s *settings, subs [][]can.Subscription, names [][]string) error {
	dbc := map[string]bool{}
	var all []string
	for _, list := range names {
		for _, name := range list {
			dbc[name] = true
			all = append(all, name)
		}
	}
	for i := range s.CAN {
		for _, f := range v.features[i] {
			d, ok := f.(*diagnosis)
			if !ok {
				continue
			}
			taken := map[string]bool{}
			for _, other := range v.features[i] {
				if other != f {
					for _, signal := range other.signals() {
						taken[signal.Name] = true
					}
				}
			}
			for _, o := range d.settings.Offered {
				if dbc[o.signal.Name] || taken[o.signal.Name] {
					return &keyError{[]any{"can", i, "diagnose"}, fmt.Sprintf("%s is there already, as a signal of the DBC file or of the bus; rename the unit", o.signal.Name)}
				}
			}
			watches := []struct {
				key, name string
				tell      func(float64)
			}{
				{"ignition", d.settings.Ignition, func(value float64) { d.poller.Ignition(value > d.settings.Above) }},
				{"voltage", d.settings.Voltage, func(value float64) { d.poller.Voltage(value) }},
			}
			for _, w := range watches {
				if w.name == "" {
					continue
				}
				if !dbc[w.name] {
					text := fmt.Sprintf("no DBC file has a signal %s", w.name)
					if near := nearest(w.name, all); near != "" {
						text += fmt.Sprintf("; did you mean %q?", near)
					}
					return &keyError{[]any{"can", i, "diagnose", w.key, "signal"}, text}
				}
				tell := func(value float64, _ int64) {
					if d.poller != nil {
						w.tell(value)
					}
				}
				v.watchSignal(s, subs, names, w.name, tell)
			}
		}
	}
	return nil
}

// watchSignal adds a watch to the bus of a signal; of several messages with it the first counts, as for what is collected.
func (v *vehicle) watchSignal(s *settings, subs [][]can.Subscription, names [][]string, name string, tell func(value float64, at int64)) {
	for i, list := range names {
		for j := range list {
			if list[j] == name {
				v.features[i] = append(v.features[i], newWatch(subs[i][j], s.CAN[i].J1939, tell))
				return
			}
		}
	}
}

// keyError is what is wrong with a key of the configuration, found when the files that it names are known.
type keyError struct {
	path []any
	text string
}

func (e *keyError) Error() string { return keyPath(e.path) + ": " + e.text }

// placeOf is the key that an error is about.
func placeOf(err error, otherwise ...any) []any {
	var e *keyError
	if errors.As(err, &e) {
		return e.path
	}
	return otherwise
}
