package decoded

import (
	"math"
	"strings"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
)

// Position is a fix: samples of one receiver that share their time in a batch.
type Position struct {
	*store.DecodedBatch
	At       *store.DecodedSample // the latitude's, of which it has index and time
	Source   string
	Latitude float64
	// Longitude and what may be absent.
	Longitude               float64
	Altitude, Speed, Course *float64 // m, m/s, degrees
	Suspect                 bool
}

// What a sample is of a fix.
const (
	partLatitude = iota
	partLongitude
	partAltitude
	partSpeed
	partCourse
	partSuspect
	parts
)

// fixSuffixes follow a receiver's name, vssSuffixes the prefix of VSS.
var (
	fixSuffixes = [parts]string{api.FixLatitude, api.FixLongitude, ".fix.altitude", ".fix.speed", ".fix.track", api.FixSuspect}
	vssSuffixes = [parts]string{api.VSSLatitude, api.VSSLongitude, ".Altitude", "", ".Heading", ""}
)

// partOf says of which receiver a signal is, and what.
func partOf(name string) (source string, part int, ok bool) {
	if rest, vss := strings.CutPrefix(name, api.VSSLocation); vss {
		for i, suffix := range vssSuffixes {
			if suffix != "" && rest == suffix {
				return api.VSSLocation, i, true
			}
		}
		return "", 0, false
	}
	if !strings.Contains(name, ".fix.") {
		return "", 0, false
	}
	for i, suffix := range fixSuffixes {
		if source, found := strings.CutSuffix(name, suffix); found {
			return source, i, true
		}
	}
	return "", 0, false
}

// positions finds the fixes of a batch, in the order of their latitudes. A fix without a longitude, or off the Earth, is none.
func positions(b *store.DecodedBatch) (list []Position) {
	type fix struct {
		source string
		bootNS int64
	}
	found := map[fix]*[parts]*store.DecodedSample{}
	var order []fix
	for i := range b.Samples {
		s := &b.Samples[i]
		source, part, ok := partOf(s.Name)
		if !ok || !s.HasValue {
			continue
		}
		k := fix{source, s.BootNS}
		f := found[k]
		if f == nil {
			f = new([parts]*store.DecodedSample)
			found[k] = f
		}
		if f[part] != nil {
			continue // said twice at one time: the first stands
		}
		if f[part] = s; part == partLatitude {
			order = append(order, k)
		}
	}
	for _, k := range order {
		f := found[k]
		if f[partLongitude] == nil {
			continue
		}
		p := Position{DecodedBatch: b, At: f[partLatitude], Source: k.source, Latitude: f[partLatitude].Value, Longitude: f[partLongitude].Value,
			Altitude: valueOf(f[partAltitude]), Speed: valueOf(f[partSpeed]), Course: valueOf(f[partCourse])}
		if math.Abs(p.Latitude) <= 90 && math.Abs(p.Longitude) <= 180 { // no NaN is
			p.Suspect = f[partSuspect] != nil && f[partSuspect].Value != 0
			list = append(list, p)
		}
	}
	return list
}

// valueOf is nil for what is absent or no number.
func valueOf(s *store.DecodedSample) *float64 {
	if s == nil || math.IsNaN(s.Value) || math.IsInf(s.Value, 0) {
		return nil
	}
	return &s.Value
}
