package gps

import "math"

// Mode is what a fix can be used for, numbered as in the GSA sentence.
type Mode uint8

// The modes. ModeUnknown: the receiver has not said.
const (
	ModeUnknown Mode = 0
	ModeNoFix   Mode = 1
	Mode2D      Mode = 2
	Mode3D      Mode = 3
)

// Quality is how a fix was made, numbered as the quality indicator of the GGA sentence.
type Quality uint8

// The qualities.
const (
	QualityInvalid   Quality = 0
	QualityGNSS      Quality = 1 // autonomous
	QualityDGNSS     Quality = 2 // differential
	QualityPPS       Quality = 3 // precise positioning service
	QualityRTK       Quality = 4 // real time kinematic, fixed integers
	QualityRTKFloat  Quality = 5
	QualityEstimated Quality = 6 // dead reckoning
	QualityManual    Quality = 7
	QualitySimulated Quality = 8
)

var qualityNames = [...]string{"invalid", "gnss", "dgnss", "pps", "rtk", "rtk float", "estimated", "manual", "simulated"}

func (q Quality) String() string {
	if int(q) < len(qualityNames) {
		return qualityNames[q]
	}
	return "unknown"
}

// Fields says which fields of a Fix are known; a field whose bit is not set means nothing.
type Fields uint32

// The bits of Fields.
const (
	HasTime Fields = 1 << iota
	HasPosition
	HasAltitude
	HasSeparation
	HasSpeed
	HasTrack
	HasPDOP
	HasHDOP
	HasVDOP
	HasSatellites
	HasQuality
	// SpeedDerived: the receiver gave no speed in this epoch; Speed is the distance from the fix before over the time
	// between. HasSpeed is set as well.
	SpeedDerived
	// HasDate: date and time of day both came from the receiver in this epoch; without it the day is carried on from an
	// earlier one.
	HasDate
	HasHeading
	HasErrorHorizontal // ErrorLatitude and ErrorLongitude
	HasErrorVertical
	ErrorsDerived // the errors are the dilutions times an assumed range error, not the receiver's own
	HasSeen
	HasTimeError
	// PositionWithheld: there is a fix, and Privacy took its position or made it coarse.
	PositionWithheld
)

// Fix is what a receiver said in one epoch. The zero value is a fix of which nothing is known.
type Fix struct {
	Boot       int64   // CLOCK_BOOTTIME when the epoch's first byte was read, ns
	Time       int64   // UTC, Unix ns; a leap second is the second after it
	Latitude   int64   // 1e-9 degrees, north positive
	Longitude  int64   // 1e-9 degrees, east positive
	Altitude   float64 // m above mean sea level
	Separation float64 // m, geoid above the WGS-84 ellipsoid
	Speed      float64 // m/s over ground
	Track      float64 // degrees from true north, [0, 360)
	PDOP       float64
	HDOP       float64
	VDOP       float64
	// The errors are of one standard deviation, m.
	ErrorLatitude, ErrorLongitude, ErrorAltitude float64
	Heading                                      float64 // degrees from true north: where the vehicle points
	TimeError                                    float64 // s, of Time, as the source estimates it
	Satellites                                   int     // used in the solution
	Seen                                         int     // in view
	Systems                                      [systems]SystemCount
	Mode                                         Mode
	Quality                                      Quality
	Suspect                                      Suspect // set by a Judge
	Fields                                       Fields
}

// Has says whether every one of the named fields is known.
func (f *Fix) Has(fields Fields) bool { return f.Fields&fields == fields }

// Valid says whether the fix has a position that may be used.
func (f *Fix) Valid() bool { return f.Mode >= Mode2D && f.Has(HasPosition) }

// Degrees is the position in degrees.
func (f *Fix) Degrees() (latitude, longitude float64) {
	return float64(f.Latitude) / nanoDegrees, float64(f.Longitude) / nanoDegrees
}

// EllipsoidAltitude is the height above the WGS-84 ellipsoid in m; ok is false while the receiver has not told both
// parts of the sum.
func (f *Fix) EllipsoidAltitude() (metres float64, ok bool) {
	return f.Altitude + f.Separation, f.Has(HasAltitude | HasSeparation)
}

// NanoDegrees is the unit of Latitude and Longitude for a number of degrees.
func NanoDegrees(degrees float64) int64 { return int64(math.Round(degrees * nanoDegrees)) }

const (
	nanoDegrees   = 1e9
	knot          = 1852.0 / 3600 // m/s, exactly, by the definition of the nautical mile
	foot          = 0.3048        // m
	kilometreHour = 1 / 3.6       // m/s
)

// WGS-84.
const (
	semiMajorAxis = 6378137.0 // m
	eccentricity2 = 6.69437999014e-3
)

// distance is the length in m of the short way between two positions, on the ellipsoid's curvature half way between
// them: good to a millionth over what a vehicle drives between two epochs.
func distance(a, b *Fix) float64 {
	const toRadians = math.Pi / 180 / nanoDegrees
	middle := float64(a.Latitude+b.Latitude) / 2 * toRadians
	sin, cos := math.Sincos(middle)
	w := 1 - float64(eccentricity2*sin*sin)
	east := b.Longitude - a.Longitude
	if east > 180*nanoDegrees {
		east -= 360 * nanoDegrees
	} else if east < -180*nanoDegrees {
		east += 360 * nanoDegrees
	}
	north := float64(b.Latitude-a.Latitude) * toRadians * semiMajorAxis * (1 - eccentricity2) / (w * math.Sqrt(w))
	return math.Hypot(north, float64(east)*toRadians*semiMajorAxis*cos/math.Sqrt(w))
}
