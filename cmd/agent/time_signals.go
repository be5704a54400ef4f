package main

import (
	"math"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// The signals of the agent's own clock.
const (
	clockSourceSignal      = "agent.clock.source"
	clockUncertaintySignal = "agent.clock.uncertainty"
)

// clockSignals are those that tell how well the agent knows the time.
func clockSignals() []*telemetrypb.Signal {
	label := func(s telemetrypb.TimeSource, text string) *telemetrypb.Label {
		return &telemetrypb.Label{Value: int64(s), Text: text}
	}
	return []*telemetrypb.Signal{
		{
			Name: clockSourceSignal, Type: telemetrypb.ValueType_VALUE_TYPE_UINT, Source: "agent",
			Comment: "where wall time comes from at the moment; the samples themselves may be dated better later",
			Labels: []*telemetrypb.Label{
				label(telemetrypb.TimeSource_TIME_SOURCE_NONE, "none"), label(telemetrypb.TimeSource_TIME_SOURCE_SYSTEM, "system"),
				label(telemetrypb.TimeSource_TIME_SOURCE_NTP, "ntp"), label(telemetrypb.TimeSource_TIME_SOURCE_GPS, "gps"),
				label(telemetrypb.TimeSource_TIME_SOURCE_FLOOR, "floor"),
			},
		},
		{
			Name: clockUncertaintySignal, Unit: "s", Type: telemetrypb.ValueType_VALUE_TYPE_FLOAT, Source: "agent",
			Comment: "half width, rounded up to two digits; NaN: nobody vouches for the time",
		},
	}
}

// clockState is the time's source and its uncertainty in seconds, NaN where nobody vouches for it.
func (a *agent) clockState() (source telemetrypb.TimeSource, seconds float64) {
	_, doubt, source := a.times.Now(a.clock.Boot())
	if source == telemetrypb.TimeSource_TIME_SOURCE_NONE || doubt >= telemetrypb.Unbounded {
		return source, math.NaN()
	}
	return source, roundUp(float64(doubt) / 1e9)
}

// roundUp keeps two digits, so that a doubt that grows by microseconds is not a new value each time.
func roundUp(x float64) float64 {
	if x <= 0 {
		return 0
	}
	digit := math.Pow(10, math.Floor(math.Log10(x))-1)
	return math.Round(math.Ceil(x/digit)*digit*1e9) / 1e9
}

// appendClock samples the clock's state, as far as it is collected.
func (a *agent) appendClock(dst []telemetrypb.Sample) []telemetrypb.Sample {
	source, seconds := a.clockState()
	now := a.clock.Boot()
	if id, ok := a.vehicle.selection.ID(clockSourceSignal); ok {
		dst = append(dst, telemetrypb.UintSample(id, now, uint64(source)))
	}
	if id, ok := a.vehicle.selection.ID(clockUncertaintySignal); ok {
		dst = append(dst, telemetrypb.FloatSample(id, now, seconds))
	}
	return dst
}
