package gps

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"time"
)

// maxReport bounds a line of gpsd, bytes: a SKY of 140 satellites is about 20,000.
const maxReport = 64 << 10

// gpsdReports turns gpsd's lines into fixes, one an epoch. gpsd reports an epoch once when it knows where epochs end, and
// after each sentence until then; reports of one time are one epoch, of which the last is taken.
//
//	TPV of another time, or silence ──▶ the epoch under way is emitted
//	TPV without a fix after one with a fix of the same time ──▶ an epoch of its own
//	SKY ──▶ kept, and told with the epoch under way and the next ones
type gpsdReports struct {
	device  string
	date    dating
	line    []byte
	skip    bool // the line is too long: up to its end
	lineNo  uint64
	onError func(Reject)
	stat    *metrics
	count   Counters

	pending    Fix
	hasPending bool
	last       Fix // emitted
	hasLast    bool

	sky      [maxSky]Satellite
	inView   int
	dilution Fix // of the last SKY
}

// gpsdReport is a TPV, SKY or DEVICE; of each only its own fields are there.
type gpsdReport struct {
	Class  string `json:"class"`
	Device string `json:"device"`

	Mode                                               *int     `json:"mode"`
	Status                                             *int     `json:"status"`
	Time                                               string   `json:"time"`
	Lat, Lon, AltMSL, Alt, AltHAE, GeoidSep            *float64 // names are matched without regard to case
	Speed, Track, Ept, Epx, Epy, Epv, HDOP, PDOP, VDOP *float64
	NSat, USat                                         *int
	Satellites                                         []gpsdSatellite
	Path                                               string
	Activated                                          json.RawMessage
}

type gpsdSatellite struct {
	PRN        int  `json:"PRN"`
	GNSSID     *int `json:"gnssid"`
	SVID       int  `json:"svid"`
	SigID      int  `json:"sigid"`
	El, Az, SS *float64
	Used       bool
}

func newGPSDReports(o ParserOptions, device string) (*gpsdReports, error) {
	g := &gpsdReports{device: device, onError: o.OnReject}
	if !o.Reference.IsZero() {
		g.date.reference, g.date.hasReference = day(o.Reference.Unix()/86400), true
	}
	if o.Metrics == nil {
		return g, nil
	}
	var err error
	g.stat, err = newMetrics(o.Metrics, o.Source)
	return g, err
}

// Feed takes bytes as they came; see Parser.Feed.
func (g *gpsdReports) Feed(data []byte, boot int64, emit func(Fix)) {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		part := data
		if end >= 0 {
			part, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		if !g.skip && len(g.line)+len(part) > maxReport {
			g.skip = true
			g.reject(ReasonTooLong)
		}
		if !g.skip {
			g.line = append(g.line, part...)
		}
		if end < 0 {
			break
		}
		g.lineNo++
		if !g.skip {
			g.report(boot, emit)
		}
		g.line, g.skip = g.line[:0], false
	}
	if g.stat != nil {
		g.stat.publish(g.count)
	}
}

func (g *gpsdReports) reject(why Reason) {
	g.count.Rejected[why]++
	if g.onError != nil {
		g.onError(Reject{Reason: why, Line: g.lineNo, Text: g.line[:min(len(g.line), maxSentence)]})
	}
}

// report takes the whole line.
func (g *gpsdReports) report(boot int64, emit func(Fix)) {
	if len(bytes.TrimSpace(g.line)) == 0 {
		return
	}
	var r gpsdReport
	if err := json.Unmarshal(g.line, &r); err != nil || r.Class == "" {
		g.reject(ReasonMalformed)
		return
	}
	switch {
	case g.device != "" && (r.Class == "TPV" || r.Class == "SKY") && r.Device != g.device:
	case r.Class == "TPV" && r.Mode != nil:
		g.count.Sentences++
		f := g.fix(&r)
		f.Boot = boot
		g.take(f, emit)
	case r.Class == "SKY":
		g.count.Sentences++
		g.takeSky(&r)
	case r.Class == "DEVICE" && (g.device == "" || r.Path == g.device) && inactive(r.Activated):
		g.count.Sentences++
		g.take(Fix{Boot: boot, Mode: ModeNoFix}, emit) // unplugged from gpsd
	default:
		g.count.Rejected[ReasonUnknown]++
	}
}

// inactive: gpsd gives a device's time of activation, and 0 or nothing for one that is closed.
func inactive(activated json.RawMessage) bool {
	s := string(activated)
	return s == "" || s == "0" || s == `"0"`
}

// take merges a report into the epoch under way, or begins one.
func (g *gpsdReports) take(f Fix, emit func(Fix)) {
	if g.hasPending {
		same := !g.pending.Has(HasTime) || f.Has(HasTime) && f.Time == g.pending.Time
		if same && !(g.pending.Valid() && !f.Valid()) {
			f.Boot = g.pending.Boot
			g.pending = f
			return
		}
		g.Flush(emit)
	}
	if g.hasLast && f.Has(HasTime) && g.last.Has(HasTime) && f.Time == g.last.Time && f.Valid() == g.last.Valid() {
		return // more about an epoch that is out already
	}
	g.pending, g.hasPending = f, true
}

// Flush emits the epoch under way.
func (g *gpsdReports) Flush(emit func(Fix)) {
	if !g.hasPending {
		return
	}
	f := &g.pending
	g.hasPending = false
	f.PDOP, f.HDOP, f.VDOP = g.dilution.PDOP, g.dilution.HDOP, g.dilution.VDOP
	f.Satellites, f.Seen, f.Systems = g.dilution.Satellites, g.dilution.Seen, g.dilution.Systems
	f.Fields |= g.dilution.Fields
	deriveErrors(f)
	g.last, g.hasLast = *f, true
	g.count.Fixes++
	emit(*f)
}

// Idle is to be called when the line has fallen silent after Feed.
func (g *gpsdReports) Idle(emit func(Fix)) { g.Flush(emit) }

// End is the end of the input.
func (g *gpsdReports) End(emit func(Fix)) {
	g.Flush(emit)
	if g.stat != nil {
		g.stat.publish(g.count)
	}
}

// Reset forgets the line, the epoch and the sky: the connection was lost.
func (g *gpsdReports) Reset(emit func(Fix)) {
	g.Flush(emit)
	g.line, g.skip, g.hasLast, g.inView, g.dilution = g.line[:0], false, false, 0, Fix{}
}

func (g *gpsdReports) sound() uint64 { return g.count.Sentences }

// gpsdQuality is the quality behind a TPV's status (gpsd_json(5)).
var gpsdQuality = [...]Quality{
	1: QualityGNSS, 2: QualityDGNSS, 3: QualityRTK, 4: QualityRTKFloat, 5: QualityEstimated, 6: QualityEstimated,
	7: QualityManual, 8: QualitySimulated, 9: QualityPPS,
}

// fix reads a TPV. What cannot be is left out.
func (g *gpsdReports) fix(r *gpsdReport) Fix {
	f := Fix{Mode: ModeNoFix}
	if *r.Mode >= 2 && *r.Mode <= 3 {
		f.Mode = Mode(*r.Mode)
	}
	g.takeTime(&f, r.Time)
	if r.Lat != nil && r.Lon != nil && math.Abs(*r.Lat) <= 90 && math.Abs(*r.Lon) <= 180 && (*r.Lat != 0 || *r.Lon != 0) {
		f.Latitude, f.Longitude = NanoDegrees(*r.Lat), NanoDegrees(*r.Lon)
		f.Fields |= HasPosition
	}
	if !f.Has(HasPosition) {
		f.Mode = ModeNoFix
	}
	f.Quality = QualityInvalid
	if f.Valid() {
		f.Quality = QualityGNSS
		if r.Status != nil && *r.Status > 0 && *r.Status < len(gpsdQuality) {
			f.Quality = gpsdQuality[*r.Status]
		}
	}
	f.Fields |= HasQuality
	altitude := r.AltMSL
	if altitude == nil && r.AltHAE == nil {
		altitude = r.Alt // before 3.20
	}
	f.set(&f.Altitude, altitude, -maxAltitude, maxAltitude, HasAltitude)
	f.set(&f.Separation, r.GeoidSep, -1000, 1000, HasSeparation)
	if !f.Has(HasSeparation) && f.Has(HasAltitude) && r.AltHAE != nil {
		separation := *r.AltHAE - f.Altitude
		f.set(&f.Separation, &separation, -1000, 1000, HasSeparation)
	}
	f.set(&f.Speed, r.Speed, 0, maxSpeed, HasSpeed)
	if r.Track != nil && *r.Track >= 0 && *r.Track <= 360 {
		f.Track = math.Mod(*r.Track, 360)
		f.Fields |= HasTrack
	}
	if r.Epx != nil && r.Epy != nil && *r.Epx >= 0 && *r.Epy >= 0 && *r.Epx < maxError && *r.Epy < maxError {
		f.ErrorLongitude, f.ErrorLatitude = *r.Epx, *r.Epy
		f.Fields |= HasErrorHorizontal
	}
	f.set(&f.ErrorAltitude, r.Epv, 0, maxError, HasErrorVertical)
	f.set(&f.TimeError, r.Ept, 0, 1e6, HasTimeError)
	return f
}

func (f *Fix) set(target, value *float64, least, most float64, has Fields) {
	if value != nil && *value >= least && *value <= most {
		*target = *value
		f.Fields |= has
	}
}

// takeTime reads the time of a TPV; second 60 is the second after it. A date that the receiver has let roll over is
// brought near the reference.
func (g *gpsdReports) takeTime(f *Fix, text string) {
	leap := time.Duration(0)
	if i := strings.Index(text, ":60"); i == 16 {
		text = text[:i] + ":59" + text[i+3:]
		leap = time.Second
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1980 || t.Year() > 2200 {
		return
	}
	seconds := t.Unix()
	date := day(seconds / 86400)
	if g.date.hasReference {
		g.date.setFull(date)
		seconds += int64(g.date.current-date) * 86400
	}
	f.Time = seconds*1e9 + int64(t.Nanosecond()) + int64(leap)
	f.Fields |= HasTime | HasDate
}

// gpsdSystems are gpsd's numbers of systems (gnssid), which are u-blox's.
var gpsdSystems = [...]System{SystemGPS, SystemSBAS, SystemGalileo, SystemBeiDou, SystemUnknown, SystemQZSS, SystemGLONASS, SystemNavIC}

func (g *gpsdReports) takeSky(r *gpsdReport) {
	d := &g.dilution
	for _, one := range [...]struct {
		value  *float64
		target *float64
		has    Fields
	}{{r.PDOP, &d.PDOP, HasPDOP}, {r.HDOP, &d.HDOP, HasHDOP}, {r.VDOP, &d.VDOP, HasVDOP}} {
		if one.value != nil && *one.value >= 0 && *one.value < 99 {
			*one.target = *one.value
			d.Fields |= one.has
		}
	}
	if r.USat != nil && *r.USat >= 0 && *r.USat < 1000 {
		d.Satellites = *r.USat
		d.Fields |= HasSatellites
	}
	if r.Satellites == nil {
		return // a SKY of dilutions alone
	}
	g.inView, d.Systems, d.Seen = 0, [systems]SystemCount{}, 0
	used := 0
	for i := range r.Satellites {
		if g.inView == maxSky {
			break
		}
		s, again := r.Satellites[i].satellite(), false
		for _, other := range g.sky[:g.inView] {
			again = again || other.System == s.System && other.ID == s.ID
		}
		g.sky[g.inView] = s
		g.inView++
		if again {
			continue // another band of it
		}
		d.Seen++
		d.Systems[s.System].Seen++
		if s.Used {
			used++
			d.Systems[s.System].Used++
		}
	}
	d.Fields |= HasSeen
	if r.USat == nil {
		d.Satellites = used
		d.Fields |= HasSatellites
	}
}

func (s *gpsdSatellite) satellite() Satellite {
	var out Satellite
	id := identify(0, SystemUnknown, min(max(s.PRN, 0), 999))
	if s.GNSSID != nil && *s.GNSSID >= 0 && *s.GNSSID < len(gpsdSystems) && s.SVID > 0 && s.SVID < 1000 {
		id = satelliteID{gpsdSystems[*s.GNSSID], uint16(s.SVID)}
	}
	out.System, out.ID, out.Used = id.system, id.id, s.Used
	if s.SigID > 0 && s.SigID < 16 {
		out.Signal = uint8(s.SigID)
	}
	for i, one := range [...]struct {
		value       *float64
		target      *int16
		least, most float64
	}{{s.El, &out.Elevation, -90, 90}, {s.Az, &out.Azimuth, 0, 360}, {s.SS, &out.SNR, 1, 99}} {
		if one.value != nil && *one.value >= one.least && *one.value <= one.most {
			*one.target = int16(math.Round(*one.value))
			out.Known |= KnownElevation << i
		}
	}
	return out
}
