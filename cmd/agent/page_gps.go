package main

import (
	"sync"
	"sync/atomic"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/local"
)

const (
	trackPoints = 600 // of a receiver
	trackEvery  = 1e9 // ns between two of them
	trackStep   = 3.0 // m driven between two of them
)

// receiverView is the last word of a receiver, for the local page. Satellites and track are there only while somebody looks.
type receiverView struct {
	looked atomic.Bool // somebody looks

	mu     sync.Mutex // guards what follows
	fix    gps.Fix
	moved  gps.Movement
	sky    []gps.Satellite
	points []local.Point
	driven float64 // m, at the last point
}

// show keeps what privacy leaves of a fix. hidden: nothing of the position is told, and so nothing of the sky either.
func (g *gpsSource) show(f *gps.Fix, moved gps.Movement, hidden bool) {
	if f.Mode == gps.ModeUnknown { // a lone ZDA says nothing of the fix
		return
	}
	v := &g.view
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fix, v.moved, v.sky = *f, moved, v.sky[:0]
	if !v.looked.Load() {
		return
	}
	if g.sky != nil && !hidden {
		v.sky = g.sky(v.sky)
	}
	if !f.Valid() || f.Suspect != 0 {
		return
	}
	if n := len(v.points); n > 0 && (f.Boot/1e6-v.points[n-1].AtMS < trackEvery/1e6 || moved.Odometer-v.driven < trackStep) {
		return
	}
	if len(v.points) == trackPoints {
		v.points = append(v.points[:0], v.points[1:]...)
	}
	latitude, longitude := f.Degrees()
	v.points = append(v.points, local.Point{AtMS: f.Boot / 1e6, Latitude: latitude, Longitude: longitude,
		Speed: known(f, gps.HasSpeed, f.Speed)})
	v.driven = moved.Odometer
}

// look says whether somebody looks; when nobody does, it is forgotten what was kept for them.
func (v *receiverView) look(somebody bool) {
	v.looked.Store(somebody)
	if somebody {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sky, v.points = nil, nil
}

// tell makes the documents.
func (v *receiverView) tell() (local.Receiver, local.Track) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := &v.fix
	r := local.Receiver{
		AtMS: f.Boot / 1e6, Withheld: f.Has(gps.PositionWithheld), Used: f.Satellites, Seen: f.Seen, Parked: v.moved.Parked,
		Latitude: local.Missing(), Longitude: local.Missing(), Altitude: known(f, gps.HasAltitude, f.Altitude),
		Speed: known(f, gps.HasSpeed, f.Speed), Track: known(f, gps.HasTrack, f.Track),
		HDOP: known(f, gps.HasHDOP, f.HDOP), PDOP: known(f, gps.HasPDOP, f.PDOP),
		Error:    known(f, gps.HasErrorHorizontal, max(f.ErrorLatitude, f.ErrorLongitude)),
		Odometer: local.Number(v.moved.Odometer), Suspect: f.Suspect.AppendNames([]string{}), Satellites: []local.Satellite{},
	}
	switch f.Mode {
	case gps.ModeNoFix:
		r.Mode = "no fix"
	case gps.Mode2D:
		r.Mode = "2D"
	case gps.Mode3D:
		r.Mode = "3D"
	}
	if f.Has(gps.HasTime) {
		r.FixUnixMS = f.Time / 1e6
	}
	if f.Has(gps.HasQuality) {
		r.Quality = f.Quality.String()
	}
	if f.Valid() {
		latitude, longitude := f.Degrees()
		r.Latitude, r.Longitude = local.Number(latitude), local.Number(longitude)
	}
	r.Satellites = appendSatellites(r.Satellites, v.sky)
	return r, local.Track{Points: append([]local.Point{}, v.points...)}
}

// appendSatellites takes of a satellite's bands the one that is heard best.
func appendSatellites(list []local.Satellite, sky []gps.Satellite) []local.Satellite {
	place := map[gps.Satellite]int{}
	for _, s := range sky {
		one := local.Satellite{System: s.System.String(), ID: int(s.ID), Elevation: local.Missing(), Azimuth: local.Missing(),
			SNR: local.Missing(), Used: s.Used}
		if s.Known&gps.KnownElevation != 0 {
			one.Elevation = local.Number(s.Elevation)
		}
		if s.Known&gps.KnownAzimuth != 0 {
			one.Azimuth = local.Number(s.Azimuth)
		}
		if s.Known&gps.KnownSNR != 0 {
			one.SNR = local.Number(s.SNR)
		}
		key := gps.Satellite{System: s.System, ID: s.ID}
		i, twice := place[key]
		switch {
		case !twice:
			place[key] = len(list)
			list = append(list, one)
		case one.SNR.Known() && !(list[i].SNR >= one.SNR):
			list[i] = one
		}
	}
	return list
}

// known is a field of a fix, if the receiver told it.
func known(f *gps.Fix, field gps.Fields, value float64) local.Number {
	if !f.Has(field) {
		return local.Missing()
	}
	return local.Number(value)
}

// sourceWord is where a receiver's words come from.
func (g *gpsSource) sourceWord() string {
	switch {
	case g.Replay != nil:
		return "replay " + g.Replay.File
	case g.TCP != "":
		return "tcp " + g.TCP
	case g.GPSD != nil:
		return "gpsd " + orDefault(g.GPSD.Address, gps.DefaultGPSD)
	}
	return "serial " + g.Serial
}
