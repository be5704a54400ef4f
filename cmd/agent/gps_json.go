package main

import (
	"strconv"
	"time"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// appendFix appends a fix, and the satellites in view if there are any, as a line of JSON.
func appendFix(dst []byte, f *gps.Fix, sky []gps.Satellite) []byte {
	dst = append(dst, '{')
	if f.Has(gps.HasTime) {
		dst = append(dst, `"time":"`...)
		dst = time.Unix(0, f.Time).UTC().Round(time.Millisecond).AppendFormat(dst, "2006-01-02T15:04:05.000Z07:00")
		dst = append(dst, `",`...)
	}
	dst = append(dst, `"mode":`...)
	dst = strconv.AppendUint(dst, uint64(max(f.Mode, gps.ModeNoFix)), 10)
	if f.Valid() {
		dst = appendFixValues(dst, f)
	}
	for _, m := range [...]struct {
		has   gps.Fields
		name  string
		value float64
	}{
		{gps.HasHeading, "heading", f.Heading}, {gps.HasPDOP, "pdop", f.PDOP}, {gps.HasHDOP, "hdop", f.HDOP},
		{gps.HasVDOP, "vdop", f.VDOP}, {gps.HasSatellites, "satellites", float64(f.Satellites)}, {gps.HasSeen, "seen", float64(f.Seen)},
	} {
		if f.Has(m.has) {
			dst = appendMember(dst, m.name, m.value)
		}
	}
	dst = appendSystems(dst, f)
	if f.Has(gps.HasQuality) {
		dst = append(dst, `,"quality":`...)
		dst = appendString(dst, f.Quality.String())
	}
	if f.Suspect != 0 {
		dst = append(dst, `,"suspect":[`...)
		for i, name := range f.Suspect.AppendNames(nil) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(dst, name)
		}
		dst = append(dst, ']')
	}
	if len(sky) > 0 {
		dst = appendSky(dst, sky)
	}
	return append(dst, '}', '\n')
}

func appendFixValues(dst []byte, f *gps.Fix) []byte {
	lat, lon := f.Degrees()
	dst = appendMember(dst, "lat", lat)
	dst = appendMember(dst, "lon", lon)
	if f.Has(gps.HasAltitude) {
		dst = appendMember(dst, "alt", f.Altitude)
	}
	if f.Has(gps.HasSeparation) {
		dst = appendMember(dst, "geoid", f.Separation)
	}
	if metres, ok := f.EllipsoidAltitude(); ok {
		dst = append(dst, `,"alt_ellipsoid":`...)
		dst = strconv.AppendFloat(dst, metres, 'f', 3, 64)
	}
	if f.Has(gps.HasSpeed) {
		dst = append(dst, `,"speed":`...)
		dst = strconv.AppendFloat(dst, f.Speed, 'f', 4, 64)
		if f.Has(gps.SpeedDerived) {
			dst = append(dst, `,"speed_derived":true`...)
		}
	}
	if f.Has(gps.HasTrack) {
		dst = appendMember(dst, "track", f.Track)
	}
	if f.Has(gps.HasErrorHorizontal) {
		dst = append(dst, `,"error_lat":`...)
		dst = strconv.AppendFloat(dst, f.ErrorLatitude, 'f', 3, 64)
		dst = append(dst, `,"error_lon":`...)
		dst = strconv.AppendFloat(dst, f.ErrorLongitude, 'f', 3, 64)
	}
	if f.Has(gps.HasErrorVertical) {
		dst = append(dst, `,"error_alt":`...)
		dst = strconv.AppendFloat(dst, f.ErrorAltitude, 'f', 3, 64)
	}
	if f.Has(gps.ErrorsDerived) {
		dst = append(dst, `,"error_derived":true`...)
	}
	return dst
}

// appendSystems appends how many satellites of each system are used and seen.
func appendSystems(dst []byte, f *gps.Fix) []byte {
	first := true
	for i, n := range f.Systems {
		if n == (gps.SystemCount{}) {
			continue
		}
		if first {
			dst = append(dst, `,"systems":{`...)
		} else {
			dst = append(dst, ',')
		}
		first = false
		dst = appendString(dst, gps.System(i).String())
		dst = append(dst, `:{"used":`...)
		dst = strconv.AppendUint(dst, uint64(n.Used), 10)
		dst = append(dst, `,"seen":`...)
		dst = strconv.AppendUint(dst, uint64(n.Seen), 10)
		dst = append(dst, '}')
	}
	if !first {
		dst = append(dst, '}')
	}
	return dst
}

func appendSky(dst []byte, sky []gps.Satellite) []byte {
	dst = append(dst, `,"sky":[`...)
	for i, s := range sky {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"system":`...)
		dst = appendString(dst, s.System.String())
		dst = append(dst, `,"id":`...)
		dst = strconv.AppendUint(dst, uint64(s.ID), 10)
		if s.Signal > 0 {
			dst = append(dst, `,"signal":`...)
			dst = strconv.AppendUint(dst, uint64(s.Signal), 10)
		}
		for _, m := range [...]struct {
			known gps.SatelliteFields
			name  string
			value int16
		}{{gps.KnownElevation, "elevation", s.Elevation}, {gps.KnownAzimuth, "azimuth", s.Azimuth}, {gps.KnownSNR, "snr", s.SNR}} {
			if s.Known&m.known != 0 {
				dst = appendMember(dst, m.name, float64(m.value))
			}
		}
		dst = append(dst, `,"used":`...)
		dst = strconv.AppendBool(dst, s.Used)
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

func appendMember(dst []byte, name string, v float64) []byte {
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	dst = append(dst, '"', ':')
	return cli.AppendFloat(dst, v)
}
