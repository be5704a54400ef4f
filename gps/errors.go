package gps

import "math"

// The assumed error of one pseudorange, m, one standard deviation: what an error is derived with where the receiver
// gives dilutions but no estimate (position error = dilution × range error). Assumed, not measured: an autonomous
// receiver on one band under an open sky; buildings and trees make it worse.
const (
	rangeErrorGNSS     = 5.0
	rangeErrorDGNSS    = 1.5
	rangeErrorRTKFloat = 0.5
	rangeErrorRTK      = 0.02
)

// rangeError is that of a quality; 0: dilutions tell nothing of such a fix.
func rangeError(q Quality) float64 {
	switch q {
	case QualityGNSS:
		return rangeErrorGNSS
	case QualityDGNSS, QualityPPS:
		return rangeErrorDGNSS
	case QualityRTKFloat:
		return rangeErrorRTKFloat
	case QualityRTK:
		return rangeErrorRTK
	}
	return 0
}

// deriveErrors estimates the errors of a fix of which the receiver gave none.
func deriveErrors(f *Fix) {
	quality := f.Quality
	if !f.Has(HasQuality) {
		quality = QualityGNSS
	}
	uere := rangeError(quality)
	if !f.Valid() || f.Has(HasErrorHorizontal) || f.Has(HasErrorVertical) || uere == 0 {
		return
	}
	if f.Has(HasHDOP) && f.HDOP > 0 {
		f.ErrorLatitude = f.HDOP * uere / math.Sqrt2
		f.ErrorLongitude = f.ErrorLatitude
		f.Fields |= HasErrorHorizontal | ErrorsDerived
	}
	if f.Has(HasVDOP) && f.VDOP > 0 && f.Mode == Mode3D {
		f.ErrorAltitude = f.VDOP * uere
		f.Fields |= HasErrorVertical | ErrorsDerived
	}
}

// ErrorRadius is the horizontal error in m, one standard deviation of each axis taken together; ok is false when nothing
// is known of it.
func (f *Fix) ErrorRadius() (metres float64, ok bool) {
	return math.Hypot(f.ErrorLatitude, f.ErrorLongitude), f.Has(HasErrorHorizontal)
}

// maxError: what no receiver means, m.
const maxError = 1e5

// decodeGST: 6, 7, 8 standard deviations of latitude, longitude and altitude in m. Its time (1) does not tell
// epochs apart, but to which of two it belongs: it trails the epoch in some receivers and leads it in others.
func decodeGST(f *fields, u *update) bool {
	if !f.empty(1) {
		var ok bool
		if u.clock, ok = parseClock(f.get(1)); !ok {
			return false
		}
	}
	return takeErrors(f, 6, u)
}

// takeErrors reads three fields from i on.
func takeErrors(f *fields, i int, u *update) bool {
	lat, hasLat, ok1 := f.number(i)
	lon, hasLon, ok2 := f.number(i + 1)
	alt, hasAlt, ok3 := f.number(i + 2)
	if !ok1 || !ok2 || !ok3 {
		return false
	}
	if hasLat && hasLon && lat >= 0 && lon >= 0 && lat < maxError && lon < maxError {
		u.fix.ErrorLatitude, u.fix.ErrorLongitude = lat, lon
		u.set |= setErrorHorizontal
	}
	if hasAlt && alt >= 0 && alt < maxError {
		u.fix.ErrorAltitude = alt
		u.set |= setErrorVertical
	}
	return true
}

// decodeHDT: 1 heading, degrees from true north; 2 'T'. Where the vehicle points, which is not where it goes.
func decodeHDT(f *fields, u *update) bool {
	v, has, ok := f.number(1)
	if has && v >= 0 && v <= 360 {
		u.fix.Heading = math.Mod(v, 360)
		u.set |= setHeading
	}
	return ok
}
