package drive

import (
	"time"

	"github.com/waybill-telematics/waybill/gps"
)

// inView is the sky that a fix was made under: its satellites, numbered as AppendGSA does, and two more that are low. It is made
// up, and turns in half a day. Without a fix nothing is heard.
func inView(f gps.Fix) []gps.Satellite {
	if !f.Valid() {
		return nil
	}
	turned := time.Duration(f.Time) % (12 * time.Hour) * 360 / (12 * time.Hour)
	var sky []gps.Satellite
	for i := range f.Satellites + 2 {
		s := gps.Satellite{System: gps.SystemGPS, ID: uint16(i + 1), Known: gps.KnownElevation | gps.KnownAzimuth | gps.KnownSNR}
		s.Azimuth = int16((i*137 + int(turned)) % 360) // the golden angle spreads them
		s.Elevation = int16(78 - i*29%68)
		if s.SNR = 24 + s.Elevation/4; i >= f.Satellites {
			s.Elevation, s.SNR = 6, 17
		}
		sky = append(sky, s)
	}
	return sky
}
