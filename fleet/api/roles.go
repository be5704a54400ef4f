package api

import "strings"

// Which signals say where a vehicle is and whether it drives. A signal has a role by its name; the first pattern that a
// vehicle's signals fit decides. docs/API.md has the table for people.
//
//	position  SOURCE.fix.latitude and .longitude of package gps, or the names of VSS; SOURCE.fix.suspect ≠ 0 takes one out
//	speed     the vehicle's own before the receiver's, in km/h, m/s or mph by its unit
//	ignition  above 0 is on

// Suffixes of a receiver's signals (package gps), after its name.
const (
	FixLatitude  = ".fix.latitude"
	FixLongitude = ".fix.longitude"
	FixSuspect   = ".fix.suspect"
)

// VSS names a position under this prefix, as in Vehicle.CurrentLocation.Latitude. It is Position.Source then.
const (
	VSSLocation  = "Vehicle.CurrentLocation"
	VSSLatitude  = ".Latitude"
	VSSLongitude = ".Longitude"
)

// SpeedSuffixes and IgnitionSuffixes are in order of preference; the whole name fits as well.
var (
	speedSuffixes    = []string{"Vehicle.Speed", ".VehicleSpeed", ".vehicle_speed", ".fix.speed"}
	ignitionSuffixes = []string{"Vehicle.IsIgnitionOn", ".IgnitionOn", ".Ignition", ".ignition"}
)

// withRole finds the signal that fits best, nil when none does.
func withRole(signals []Signal, suffixes []string) *Signal {
	for _, suffix := range suffixes {
		for i := range signals {
			if strings.HasSuffix(signals[i].Name, suffix) {
				return &signals[i]
			}
		}
	}
	return nil
}

// metresPerSecond is the factor from a unit of speed; 0: not known.
func metresPerSecond(unit string) float64 {
	switch strings.ToLower(unit) {
	case "km/h", "kph", "kmh", "km/hr":
		return 1 / 3.6
	case "m/s":
		return 1
	case "mph", "mi/h":
		return 0.44704
	case "kn", "knots":
		return 1852. / 3600
	}
	return 0
}
