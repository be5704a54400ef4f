package gps

import (
	"math"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// The signals of a fix, in the order of Signals and IDs.
const (
	signalLatitude = iota
	signalLongitude
	signalAltitude
	signalSeparation
	signalSpeed
	signalTrack
	signalMode
	signalQuality
	signalSatellites
	signalPDOP
	signalHDOP
	signalVDOP
	signalSeen
	signalErrorLatitude
	signalErrorLongitude
	signalErrorAltitude
	signalErrorSource
	signalHeading
	signalSuspect
	signalParked
	signalOdometer
	signalUsed       // of each System from GPS on
	signalSystemSeen = signalUsed + int(systems) - 1
	signals          = signalSystemSeen + int(systems) - 1
)

// Raw values are whole numbers of what receivers print, so that nothing they say is rounded: a thousandth of a knot,
// not a metre per second.
const (
	rawPerMetre  = 1000
	rawPerKnot   = 1000
	rawPerDegree = 1000
	rawPerDOP    = 100
	rawPerError  = 100 // m
)

// What signalErrorSource says.
const (
	errorsOfReceiver = 1
	errorsDerived    = 2
)

type signalEntry struct {
	name, unit string
	scale      float64
	kind       telemetrypb.ValueType
	vss        string
	comment    string
}

// entry describes a signal.
func entry(i int) signalEntry {
	if i < signalUsed {
		return signalTable[i]
	}
	system, what, comment := System(i-signalUsed)+SystemGPS, "_used", "satellites in the solution"
	if i >= signalSystemSeen {
		system, what, comment = System(i-signalSystemSeen)+SystemGPS, "_seen", "satellites in view"
	}
	return signalEntry{name: system.String() + what, scale: 1, kind: telemetrypb.ValueType_VALUE_TYPE_UINT, comment: comment}
}

// signalTable describes the signals; the part of the name after SOURCE.fix. comes first.
var signalTable = [signalUsed]signalEntry{
	signalLatitude: {"latitude", "degrees", 1 / nanoDegrees, telemetrypb.ValueType_VALUE_TYPE_INT,
		"Vehicle.CurrentLocation.Latitude", "WGS-84, north positive"},
	signalLongitude: {"longitude", "degrees", 1 / nanoDegrees, telemetrypb.ValueType_VALUE_TYPE_INT,
		"Vehicle.CurrentLocation.Longitude", "WGS-84, east positive"},
	signalAltitude: {"altitude", "m", 1. / rawPerMetre, telemetrypb.ValueType_VALUE_TYPE_INT,
		"Vehicle.CurrentLocation.Altitude", "above mean sea level"},
	signalSeparation: {"geoid_separation", "m", 1. / rawPerMetre, telemetrypb.ValueType_VALUE_TYPE_INT,
		"", "mean sea level above the WGS-84 ellipsoid"},
	signalSpeed: {"speed", "m/s", knot / rawPerKnot, telemetrypb.ValueType_VALUE_TYPE_UINT,
		"", "over ground; raw value in thousandths of a knot"},
	signalTrack: {"track", "degrees", 1. / rawPerDegree, telemetrypb.ValueType_VALUE_TYPE_UINT,
		"Vehicle.CurrentLocation.Heading", "course over ground from true north"},
	signalMode: {"mode", "", 1, telemetrypb.ValueType_VALUE_TYPE_UINT, "", ""},
	signalQuality: {"quality", "", 1, telemetrypb.ValueType_VALUE_TYPE_UINT,
		"", "NMEA 0183 GGA quality indicator"},
	signalSatellites: {"satellites", "", 1, telemetrypb.ValueType_VALUE_TYPE_UINT, "", "used in the solution"},
	signalPDOP:       {"pdop", "", 1. / rawPerDOP, telemetrypb.ValueType_VALUE_TYPE_UINT, "", "dilution of precision, position"},
	signalHDOP:       {"hdop", "", 1. / rawPerDOP, telemetrypb.ValueType_VALUE_TYPE_UINT, "", "dilution of precision, horizontal"},
	signalVDOP:       {"vdop", "", 1. / rawPerDOP, telemetrypb.ValueType_VALUE_TYPE_UINT, "", "dilution of precision, vertical"},
	signalSeen:       {"satellites_seen", "", 1, telemetrypb.ValueType_VALUE_TYPE_UINT, "", "in view"},
	signalErrorLatitude: {"error_latitude", "m", 1. / rawPerError, telemetrypb.ValueType_VALUE_TYPE_UINT,
		"", "one standard deviation; see error_source"},
	signalErrorLongitude: {"error_longitude", "m", 1. / rawPerError, telemetrypb.ValueType_VALUE_TYPE_UINT,
		"", "one standard deviation; see error_source"},
	signalErrorAltitude: {"error_altitude", "m", 1. / rawPerError, telemetrypb.ValueType_VALUE_TYPE_UINT,
		"", "one standard deviation; see error_source"},
	signalErrorSource: {"error_source", "", 1, telemetrypb.ValueType_VALUE_TYPE_UINT, "", "where the errors come from"},
	signalHeading: {"heading", "degrees", 1. / rawPerDegree, telemetrypb.ValueType_VALUE_TYPE_UINT,
		"", "where the vehicle points, from true north"},
	signalSuspect: {"suspect", "", 1, telemetrypb.ValueType_VALUE_TYPE_UINT,
		"", "bits: 1 jump, 2 hemisphere, 4 stale, 8 backwards, 16 null island; 0: nothing is suspect"},
	signalParked:   {"parked", "", 1, telemetrypb.ValueType_VALUE_TYPE_UINT, "", "1: stands, and its position is held"},
	signalOdometer: {"odometer", "m", 1, telemetrypb.ValueType_VALUE_TYPE_UINT, "", "driven distance by positions"},
}

// Signals are what a receiver can be asked for, without ids: SOURCE.fix.latitude and so on, one message.
func Signals(source string) []*telemetrypb.Signal {
	list := make([]*telemetrypb.Signal, 0, signals)
	for i := range signals {
		t := entry(i)
		s := &telemetrypb.Signal{
			Name: signalName(source, i), Unit: t.unit, Scale: t.scale, Type: t.kind, Source: "gps:" + source,
			Message: source + ".fix", VssPath: t.vss, Comment: t.comment,
		}
		switch i {
		case signalMode:
			s.Labels = []*telemetrypb.Label{
				{Value: int64(ModeNoFix), Text: "no fix"}, {Value: int64(Mode2D), Text: "2D"}, {Value: int64(Mode3D), Text: "3D"},
			}
		case signalErrorSource:
			s.Labels = []*telemetrypb.Label{{Value: errorsOfReceiver, Text: "receiver"}, {Value: errorsDerived, Text: "dilution"}}
		case signalQuality:
			for value, text := range qualityNames {
				s.Labels = append(s.Labels, &telemetrypb.Label{Value: int64(value), Text: text})
			}
		}
		list = append(list, s)
	}
	return list
}

func signalName(source string, i int) string {
	if i == signalOdometer {
		return source + ".odometer"
	}
	return source + ".fix." + entry(i).name
}

// IDs are the signal ids under which a receiver's values are collected; 0: not collected.
type IDs [signals]uint32

// ChooseIDs asks for the id of each of a receiver's signals by name.
func ChooseIDs(source string, id func(name string) (uint32, bool)) IDs {
	var ids IDs
	for i := range ids {
		if n, ok := id(signalName(source, i)); ok {
			ids[i] = n
		}
	}
	return ids
}

// AppendSamples appends what the receiver said: the fields the fix has, as far as they are collected. Without a valid
// fix these are its mode, quality and satellites. A derived speed is left out: it can be had from the positions.
func AppendSamples(dst []telemetrypb.Sample, ids IDs, f Fix) []telemetrypb.Sample {
	natural := func(i int, value float64) {
		if ids[i] != 0 && value >= 0 {
			dst = append(dst, telemetrypb.UintSample(ids[i], f.Boot, uint64(math.Round(value))))
		}
	}
	integer := func(i int, value int64) {
		if ids[i] != 0 {
			dst = append(dst, telemetrypb.IntSample(ids[i], f.Boot, value))
		}
	}
	if f.Valid() {
		integer(signalLatitude, f.Latitude)
		integer(signalLongitude, f.Longitude)
	}
	if f.Valid() || f.Has(PositionWithheld) {
		if f.Has(HasAltitude) {
			integer(signalAltitude, int64(math.Round(f.Altitude*rawPerMetre)))
		}
		if f.Has(HasSeparation) {
			integer(signalSeparation, int64(math.Round(f.Separation*rawPerMetre)))
		}
		if f.Has(HasSpeed) && !f.Has(SpeedDerived) {
			natural(signalSpeed, f.Speed*(rawPerKnot/knot))
		}
		if f.Has(HasTrack) {
			natural(signalTrack, f.Track*rawPerDegree)
		}
		if f.Has(HasErrorHorizontal) {
			natural(signalErrorLatitude, f.ErrorLatitude*rawPerError)
			natural(signalErrorLongitude, f.ErrorLongitude*rawPerError)
		}
		if f.Has(HasErrorVertical) {
			natural(signalErrorAltitude, f.ErrorAltitude*rawPerError)
		}
		if f.Has(ErrorsDerived) {
			natural(signalErrorSource, errorsDerived)
		} else if f.Has(HasErrorHorizontal) || f.Has(HasErrorVertical) {
			natural(signalErrorSource, errorsOfReceiver)
		}
		natural(signalSuspect, float64(f.Suspect))
	}
	if f.Mode != ModeUnknown { // a lone ZDA says nothing of the fix
		natural(signalMode, float64(f.Mode))
	}
	if f.Has(HasQuality) {
		natural(signalQuality, float64(f.Quality))
	}
	if f.Has(HasSatellites) {
		natural(signalSatellites, float64(f.Satellites))
	}
	if f.Has(HasPDOP) {
		natural(signalPDOP, f.PDOP*rawPerDOP)
	}
	if f.Has(HasHDOP) {
		natural(signalHDOP, f.HDOP*rawPerDOP)
	}
	if f.Has(HasVDOP) {
		natural(signalVDOP, f.VDOP*rawPerDOP)
	}
	if f.Has(HasHeading) {
		natural(signalHeading, f.Heading*rawPerDegree)
	}
	if f.Has(HasSeen) {
		natural(signalSeen, float64(f.Seen))
	}
	for system := SystemGPS; system < systems; system++ {
		if i := int(system - SystemGPS); f.Has(HasSatellites) || f.Has(HasSeen) {
			natural(signalUsed+i, float64(f.Systems[system].Used))
			natural(signalSystemSeen+i, float64(f.Systems[system].Seen))
		}
	}
	return dst
}

// AppendMovement appends what Motion says of a fix taken at boot, ns.
func AppendMovement(dst []telemetrypb.Sample, ids IDs, boot int64, m Movement) []telemetrypb.Sample {
	if ids[signalParked] != 0 {
		parked := uint64(0)
		if m.Parked {
			parked = 1
		}
		dst = append(dst, telemetrypb.UintSample(ids[signalParked], boot, parked))
	}
	if ids[signalOdometer] != 0 {
		dst = append(dst, telemetrypb.UintSample(ids[signalOdometer], boot, uint64(m.Odometer)))
	}
	return dst
}
