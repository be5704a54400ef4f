package gps

import (
	"math"
	"strconv"
	"time"
)

// The writers below make the sentences of a GN receiver (NMEA 0183 4.10) from a Fix, with checksum and CR LF. A field
// the fix does not have stays empty, as on a real line. They are for simulated receivers and tests.

// AppendRMC appends the recommended minimum sentence: time, date, status, position, speed in knots, track.
func AppendRMC(dst []byte, f Fix) []byte {
	start := len(dst)
	dst = append(dst, "$GNRMC,"...)
	dst = appendTime(dst, &f)
	if f.Valid() {
		dst = append(dst, ",A,"...)
	} else {
		dst = append(dst, ",V,"...)
	}
	dst = appendPosition(dst, &f)
	dst = append(dst, ',')
	if f.Valid() && f.Has(HasSpeed) {
		dst = appendFixed(dst, f.Speed/knot, 3, 1)
	}
	dst = append(dst, ',')
	if f.Valid() && f.Has(HasTrack) {
		dst = appendFixed(dst, f.Track, 2, 1)
	}
	dst = append(dst, ',')
	if f.Has(HasTime) {
		dst = time.Unix(0, f.Time).UTC().AppendFormat(dst, "020106")
	}
	dst = append(dst, ",,,"...)
	dst = append(dst, modeIndicator(&f))
	return appendChecksum(dst, start)
}

// AppendGGA appends the fix data sentence: time, position, quality, satellites, horizontal dilution, altitude and geoid
// separation in m.
func AppendGGA(dst []byte, f Fix) []byte {
	start := len(dst)
	dst = append(dst, "$GNGGA,"...)
	dst = appendTime(dst, &f)
	dst = append(dst, ',')
	dst = appendPosition(dst, &f)
	dst = append(dst, ',')
	dst = strconv.AppendUint(dst, uint64(writtenQuality(&f)), 10)
	dst = append(dst, ',')
	if f.Has(HasSatellites) {
		dst = appendDigits(dst, uint64(max(f.Satellites, 0)), 2)
	}
	dst = append(dst, ',')
	if f.Has(HasHDOP) {
		dst = appendFixed(dst, f.HDOP, 2, 1)
	}
	dst = append(dst, ',')
	if f.Valid() && f.Has(HasAltitude) {
		dst = appendFixed(dst, f.Altitude, 3, 1)
		dst = append(dst, ',', 'M', ',')
	} else {
		dst = append(dst, ',', ',')
	}
	if f.Valid() && f.Has(HasSeparation) {
		dst = appendFixed(dst, f.Separation, 3, 1)
		dst = append(dst, ',', 'M', ',', ',')
	} else {
		dst = append(dst, ',', ',', ',')
	}
	return appendChecksum(dst, start)
}

// AppendGSA appends the dilution and active satellites sentence. Its satellites are numbered from 1, since a Fix keeps
// only how many there are; at most 12 fit.
func AppendGSA(dst []byte, f Fix) []byte {
	start := len(dst)
	dst = append(dst, "$GNGSA,A,"...)
	dst = strconv.AppendUint(dst, uint64(max(f.Mode, ModeNoFix)), 10)
	for i := 1; i <= 12; i++ {
		dst = append(dst, ',')
		if f.Has(HasSatellites) && i <= f.Satellites {
			dst = appendDigits(dst, uint64(i), 2)
		}
	}
	for _, dop := range [...]struct {
		has   Fields
		value float64
	}{{HasPDOP, f.PDOP}, {HasHDOP, f.HDOP}, {HasVDOP, f.VDOP}} {
		dst = append(dst, ',')
		if f.Has(dop.has) {
			dst = appendFixed(dst, dop.value, 2, 1)
		}
	}
	dst = append(dst, ",1"...) // system id: GPS
	return appendChecksum(dst, start)
}

// AppendGSV appends the sentences of GPS satellites in view, four in each. What is not known of one is left empty.
func AppendGSV(dst []byte, sky []Satellite) []byte {
	const inOne = 4
	sentences := max((len(sky)+inOne-1)/inOne, 1)
	for n := range sentences {
		start := len(dst)
		dst = append(dst, "$GPGSV,"...)
		dst = strconv.AppendInt(dst, int64(sentences), 10)
		dst = append(dst, ',')
		dst = strconv.AppendInt(dst, int64(n+1), 10)
		dst = append(dst, ',')
		dst = appendDigits(dst, uint64(len(sky)), 2)
		for _, s := range sky[n*inOne : min((n+1)*inOne, len(sky))] {
			dst = append(dst, ',')
			dst = appendDigits(dst, uint64(s.ID), 2)
			for _, f := range [...]struct {
				known  SatelliteFields
				value  int16
				digits int
			}{{KnownElevation, s.Elevation, 2}, {KnownAzimuth, s.Azimuth, 3}, {KnownSNR, s.SNR, 2}} {
				dst = append(dst, ',')
				if s.Known&f.known != 0 {
					dst = appendDigits(dst, uint64(max(f.value, 0)), f.digits)
				}
			}
		}
		dst = appendChecksum(dst, start)
	}
	return dst
}

// AppendVTG appends the track and ground speed sentence.
func AppendVTG(dst []byte, f Fix) []byte {
	start := len(dst)
	dst = append(dst, "$GNVTG,"...)
	valid := f.Valid()
	if valid && f.Has(HasTrack) {
		dst = appendFixed(dst, f.Track, 2, 1)
	}
	dst = append(dst, ",T,,M,"...)
	if valid && f.Has(HasSpeed) {
		dst = appendFixed(dst, f.Speed/knot, 3, 1)
	}
	dst = append(dst, ",N,"...)
	if valid && f.Has(HasSpeed) {
		dst = appendFixed(dst, f.Speed/kilometreHour, 3, 1)
	}
	dst = append(dst, ",K,"...)
	dst = append(dst, modeIndicator(&f))
	return appendChecksum(dst, start)
}

func appendTime(dst []byte, f *Fix) []byte {
	if !f.Has(HasTime) {
		return dst
	}
	return time.Unix(0, f.Time).UTC().AppendFormat(dst, "150405.000")
}

// appendPosition appends latitude, hemisphere, longitude, hemisphere; seven decimals of a minute are 0.2 mm.
func appendPosition(dst []byte, f *Fix) []byte {
	if !f.Valid() {
		return append(dst, ",,,"...)
	}
	dst = appendAngle(dst, f.Latitude, 2, 'N', 'S')
	dst = append(dst, ',')
	return appendAngle(dst, f.Longitude, 3, 'E', 'W')
}

func appendAngle(dst []byte, nano int64, width int, positive, negative byte) []byte {
	hemisphere := positive
	if nano < 0 {
		nano, hemisphere = -nano, negative
	}
	minutes := (nano*60 + 50) / 100 // 1e-7 minutes
	const perDegree = 60 * 1e7
	dst = appendDigits(dst, uint64(minutes/perDegree), width)
	rest := minutes % perDegree
	dst = appendDigits(dst, uint64(rest/1e7), 2)
	dst = append(dst, '.')
	dst = appendDigits(dst, uint64(rest%1e7), 7)
	return append(dst, ',', hemisphere)
}

func modeIndicator(f *Fix) byte {
	switch {
	case !f.Valid():
		return 'N'
	case !f.Has(HasQuality):
		return 'A'
	}
	switch f.Quality {
	case QualityDGNSS:
		return 'D'
	case QualityPPS:
		return 'P'
	case QualityRTK:
		return 'R'
	case QualityRTKFloat:
		return 'F'
	case QualityEstimated:
		return 'E'
	case QualityManual:
		return 'M'
	case QualitySimulated:
		return 'S'
	}
	return 'A'
}

func writtenQuality(f *Fix) Quality {
	switch {
	case !f.Valid():
		return QualityInvalid
	case f.Has(HasQuality) && f.Quality != QualityInvalid:
		return f.Quality
	}
	return QualityGNSS
}

// appendFixed appends a number with a fixed count of decimals; what is not finite becomes an empty field.
func appendFixed(dst []byte, v float64, decimals, width int) []byte {
	scale := math.Pow10(decimals)
	scaled := math.Round(v * scale)
	if math.IsNaN(scaled) || math.Abs(scaled) > 1<<53 {
		return dst
	}
	n := int64(scaled)
	if n < 0 {
		dst, n = append(dst, '-'), -n
	}
	unit := int64(scale)
	dst = appendDigits(dst, uint64(n/unit), width)
	dst = append(dst, '.')
	return appendDigits(dst, uint64(n%unit), decimals)
}

// appendDigits appends n with leading zeros to at least width digits.
func appendDigits(dst []byte, n uint64, width int) []byte {
	for limit := uint64(1); width > 1; width-- {
		limit *= 10
		if n >= limit {
			continue
		}
		dst = append(dst, '0')
	}
	return strconv.AppendUint(dst, n, 10)
}

// appendChecksum ends the sentence that begins at dst[start]: the exclusive or of all between '$' and '*'.
func appendChecksum(dst []byte, start int) []byte {
	var sum byte
	for _, c := range dst[start+1:] {
		sum ^= c
	}
	const hex = "0123456789ABCDEF"
	return append(dst, '*', hex[sum>>4], hex[sum&15], '\r', '\n')
}
