package main

import (
	"fmt"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// recorder records the frames of a bus as they are: a feature of the bus and its tap. It is used by the goroutine that
// reads the bus.
type recorder struct {
	bus    string
	wanted recordSettings
	ids    rawIDs
}

// rawMessage is the message that the signals of a recorded bus belong to.
func rawMessage(bus string) string { return bus + ".raw" }

// rawSource is the source of the signals of a recorded bus, by which an export knows them.
func rawSource(bus string) string { return "raw:" + bus }

// rawComments say in the catalogue what a sample holds.
func rawComment(i int) string {
	switch i {
	case 0:
		return "a frame of the bus: bits 0-31 can_id of linux/can.h (29 error, 30 remote, 31 extended), 32-39 flags of canfd_frame (32 BRS, 33 ESI, 34 FDF)"
	case 1:
		return "bytes of its payload; of a remote frame those asked for"
	}
	return fmt.Sprintf("bytes %d-%d of its payload, as far as there are any, as one big-endian number", (i-2)*rawWord, (i-2)*rawWord+rawWord-1)
}

// signals implements feature.
func (r *recorder) signals() []*telemetrypb.Signal {
	var list []*telemetrypb.Signal
	for i, name := range rawNames() {
		list = append(list, &telemetrypb.Signal{
			Name: rawMessage(r.bus) + "." + name, Scale: 1, Type: telemetrypb.ValueType_VALUE_TYPE_UINT,
			Source: rawSource(r.bus), Message: rawMessage(r.bus), Comment: rawComment(i),
		})
	}
	return list
}

// recordCollect collects what is recorded: on the raw lane, every sample, a frame never parted. It goes ahead of the
// configuration's patterns, which therefore never see these signals.
func recordCollect(buses []canSettings) []pipeline.Collect {
	var list []pipeline.Collect
	for _, bus := range buses {
		if !bus.Record.on() {
			continue
		}
		for i, name := range rawNames() {
			list = append(list, pipeline.Collect{Match: rawMessage(bus.Bus) + "." + name, Lane: telemetrypb.Lane_LANE_RAW, Part: i > 0})
		}
	}
	return list
}

// choose implements feature.
func (r *recorder) choose(id func(name string) (uint32, bool)) {
	names := rawNames()
	for i, to := range r.ids.all() {
		*to, _ = id(rawMessage(r.bus) + "." + names[i]) // recordCollect has collected it
	}
}

// attach implements feature.
func (r *recorder) attach(*canSource) (tap, []reader) { return r, nil }

// filters implements tap.
func (r *recorder) filters() ([]can.Filter, bool) { return r.wanted.filters() }

// take implements tap.
func (r *recorder) take(f *can.Frame, dst []telemetrypb.Sample) []telemetrypb.Sample {
	if !r.wanted.has(f) {
		return dst
	}
	return r.ids.appendFrame(dst, f)
}
