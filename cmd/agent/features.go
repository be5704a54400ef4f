package main

import (
	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// feature is something that a bus offers beyond the signals of its DBC files. It is made when the configuration is read,
// and touches nothing before attach.
type feature interface {
	// signals are those that may be collected; their names begin with the bus's.
	signals() []*telemetrypb.Signal
	// choose tells which of them are, and the ids of their samples.
	choose(id func(name string) (uint32, bool))
	// attach is called once, before the bus is read: what is to see its frames (nil: nothing), and tasks of its own.
	attach(bus *canSource) (tap, []reader)
}

// tap sees the frames of a bus beside the decode plan. It belongs to the goroutine that reads the bus and must not block
// it.
type tap interface {
	// filters are what the kernel has to let through for it, none for error frames, which always pass; all asks for every
	// frame.
	filters() (list []can.Filter, all bool)
	// take sees each frame that came, others' too, in order, and appends samples. It allocates nothing in steady state.
	take(f *can.Frame, dst []telemetrypb.Sample) []telemetrypb.Sample
}

// changeTap is a tap that tells what changed, and may hold some of it back.
type changeTap interface {
	tap
	// end is called when the reading ends, of a log or until the interface is back, and appends what was held back.
	end(dst []telemetrypb.Sample) []telemetrypb.Sample
	// lost is called when samples did not get through: what the tap told last has to be told again.
	lost()
}

// newFeatures makes what a bus offers, of which these are the DBC files.
func newFeatures(bus canSettings, databases []*can.Database) []feature {
	var list []feature
	if bus.Interface != "" {
		list = append(list, &busFeature{bus: bus.Bus})
	}
	if bus.Record.on() {
		list = append(list, &recorder{bus: bus.Bus, wanted: bus.Record})
	}
	if speaksJ1939(bus, databases) {
		list = append(list, &j1939Feature{bus: bus.Bus})
	}
	if bus.Diagnose != nil {
		list = append(list, &diagnosis{bus: bus.Bus, settings: bus.Diagnose})
	}
	return list
}

// filters are those of the plan and of every tap; nil where any of them needs every frame, or they are too many.
func (c *canSource) filters() []can.Filter {
	list := c.plan.Filters()
	if list == nil {
		return nil
	}
	seen := make(map[can.Filter]bool, len(list))
	for _, f := range list {
		seen[f] = true
	}
	for _, t := range c.taps {
		more, all := t.filters()
		if all {
			return nil
		}
		for _, f := range more {
			if !seen[f] {
				seen[f] = true
				list = append(list, f)
			}
		}
	}
	if len(list) > can.MaxFilters {
		return nil
	}
	return list
}
