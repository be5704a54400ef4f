package gps

import "time"

// The decoders below read one sentence each. Field numbers are those of NMEA 0183, counted from the address as 0.
// Where a receiver contradicts itself the outcome follows gpsd's, which is what people compare with.

// decodeRMC: 1 time, 2 status (A, D valid; V not), 3–6 position, 7 knots, 8 track, 9 date, 12 mode indicator.
func (p *Parser) decodeRMC(f *fields, u *update) bool {
	if status := f.char(2); status != 'A' && status != 'D' {
		// The time of an invalid RMC is not used: several receivers send a wrong one here.
		u.setMode(ModeNoFix)
		u.lost = true
		if f.empty(1) || f.empty(9) {
			p.date.hasCurrent = false
			u.untimed = true
		}
		return true
	}
	if !f.empty(1) && !f.empty(9) && !p.takeDated(f.get(1), f.get(9), u) {
		return false
	}
	if takePosition(f, 3, u) {
		u.setMode(Mode2D)
		if p.epoch.last.Mode == Mode3D {
			u.setMode(Mode3D) // RMC does not tell 2D from 3D: what the epoch before was
		}
		if p.epoch.used > 3 || p.epoch.current.Has(HasAltitude) {
			u.setMode(Mode3D)
		}
	} else {
		u.setMode(ModeNoFix)
	}
	u.setQuality(indicated(f.char(12)))
	return takeSpeed(f, 7, knot, u) && takeTrack(f, 8, u)
}

// decodeGGA: 1 time, 2–5 position, 6 quality, 7 satellites used, 8 HDOP, 9 altitude, 11 geoid separation.
func (p *Parser) decodeGGA(f *fields, u *update) bool {
	quality := f.char(6)
	if len(f.get(6)) > 1 || quality != 0 && (quality < '0' || quality > '9') {
		return false
	}
	if quality == '0' && f.empty(1) {
		p.date.hasCurrent = false
		u.lost, u.untimed = true, true
	}
	p.epoch.staleGGA(f.get(0)[1], f.get(1))
	if !p.takeTime(f.get(1), u) {
		return false
	}
	if quality >= '0' && quality <= '8' {
		u.setQuality(Quality(quality - '0'))
	}
	satellites := parseCount(f.get(7))
	if !f.empty(7) {
		u.fix.Satellites = satellites
		u.set |= setSatellites
	}
	u.setMode(ModeNoFix)
	if takePosition(f, 2, u) && satellites >= 3 {
		u.setMode(Mode2D)
		if !f.empty(9) && satellites >= 4 {
			u.setMode(Mode3D)
		}
	}
	return takeAltitude(f, 9, 1, u) && takeSeparation(f, 11, u) && takeDOP(f, 8, &u.fix.HDOP, setHDOP, u)
}

// decodeGLL: 1–4 position, 5 time, 6 status, 7 mode indicator.
func (p *Parser) decodeGLL(f *fields, u *update) bool {
	if !p.takeTime(f.get(5), u) {
		return false
	}
	e := &p.epoch
	if f.char(6) != 'A' || f.char(7) == 'N' || !takePosition(f, 1, u) {
		u.setMode(ModeNoFix)
		u.setQuality(QualityInvalid)
		return true
	}
	u.setQuality(indicated(f.char(7)))
	switch {
	case e.current.Has(HasAltitude) || e.used > 3:
		u.setMode(Mode3D)
	case e.current.Mode < Mode2D || !e.before.Has(HasAltitude):
		u.setMode(Mode2D)
	default:
		u.setMode(e.said)
	}
	return true
}

// decodeGNS: 1 time, 2–5 position, 6 mode indicators, one a system, 7 satellites, 8 HDOP, 9 altitude, 10 geoid
// separation, 13 navigational status.
func (p *Parser) decodeGNS(f *fields, u *update) bool {
	if !p.takeTime(f.get(1), u) {
		return false
	}
	if c := f.char(6); c == 0 || c == 'N' {
		u.setMode(ModeNoFix)
		return true
	}
	if c := f.char(13); c == 'U' || c == 'V' { // unsafe, not valid for navigation
		return true
	}
	satellites := parseCount(f.get(7))
	u.fix.Satellites = satellites
	u.set |= setSatellites
	u.setQuality(indicated(f.char(6)))
	u.setMode(ModeNoFix)
	if takePosition(f, 2, u) {
		u.setMode(Mode2D)
		if !f.empty(9) && satellites > 3 {
			u.setMode(Mode3D)
		}
	}
	return takeAltitude(f, 9, 1, u) && takeSeparation(f, 10, u) && takeDOP(f, 8, &u.fix.HDOP, setHDOP, u)
}

// decodeGSA: 2 mode, 3–14 satellites used, 15 PDOP, 16 HDOP, 17 VDOP. Receivers of several systems send one for each.
func (p *Parser) decodeGSA(f *fields, u *update) bool {
	e := &p.epoch
	if e.stale {
		return true
	}
	talker := f.get(0)[1]
	if e.gsaTalker == 0 || e.gsaTalker == talker && talker != 'N' {
		e.used, p.sky.usedN = 0, 0
	}
	e.gsaTalker = talker
	system := SystemUnknown
	if c := f.get(18); len(c) == 1 && c[0] >= '1' && c[0] <= '6' {
		system = System(c[0] - '0')
	}
	if talker != 'P' {
		e.manySystems = true
	}
	for i := 3; i < min(f.count-3, 15); i++ {
		if id := parseCount(f.get(i)); id > 0 {
			p.sky.use(identify(talkerOf(f), system, id))
			e.used++
		}
	}
	u.fix.Satellites = e.used
	u.set |= setSatellites
	if c := f.get(2); len(c) == 1 && c[0] >= '1' && c[0] <= '3' {
		e.said = Mode(c[0] - '0')
		if talker != 'P' || !e.manySystems { // of several, GPS's own is not the last word
			u.setMode(e.said)
		}
	}
	return takeDOP(f, 15, &u.fix.PDOP, setPDOP, u) && takeDOP(f, 16, &u.fix.HDOP, setHDOP, u) &&
		takeDOP(f, 17, &u.fix.VDOP, setVDOP, u)
}

// decodeVTG: 1 track, 5 knots, 9 mode indicator.
func (p *Parser) decodeVTG(f *fields, u *update) bool {
	if c := f.char(9); c == 'N' || c == 'E' || f.empty(1) || f.empty(5) {
		return true
	}
	return takeTrack(f, 1, u) && takeSpeed(f, 5, knot, u)
}

// decodeZDA: 1 time, 2 day, 3 month, 4 year. Not timed: receivers send it in some epochs only, and ahead of them.
func (p *Parser) decodeZDA(f *fields, u *update) bool {
	if f.empty(1) || f.empty(2) || f.empty(3) || f.empty(4) {
		return true
	}
	t, ok := parseClock(f.get(1))
	year := parseCount(f.get(4))
	if !ok || year < 1980 || year > 2200 {
		return false
	}
	date, ok := dayOf(year, time.Month(parseCount(f.get(3))), parseCount(f.get(2)))
	if !ok {
		return false
	}
	p.date.setFull(date)
	u.clock, u.timed = t, true
	p.date.timeOfDay = t.ns
	u.setTime(&p.date)
	u.set |= setDate
	return true
}

// decodePGRMZ: 1 altitude in feet, 2 'f', 3 mode. The altitude may be a barometer's; it serves where there is no other.
func (p *Parser) decodePGRMZ(f *fields, u *update) bool {
	if c := f.char(3); c >= '1' && c <= '3' {
		u.setMode(Mode(c - '0'))
	}
	if f.char(2) != 'f' || p.epoch.current.Has(HasAltitude) {
		return true
	}
	return takeAltitude(f, 1, foot, u)
}

// decodePSTI reads SkyTraq's sentence 030: 2 time, 3 status, 4–7 position, 8 altitude, 9–11 velocity east, north, up in
// m/s, 12 date, 13 mode indicator.
func (p *Parser) decodePSTI(f *fields, u *update) bool {
	if string(f.get(1)) != "030" || f.count != 16 {
		return true
	}
	if f.char(3) == 'V' || f.char(13) == 'N' {
		u.setMode(ModeNoFix)
		return true
	}
	if f.char(3) != 'A' {
		return true
	}
	if !f.empty(2) && !f.empty(12) && !p.takeDated(f.get(2), f.get(12), u) {
		return false
	}
	if takePosition(f, 4, u) {
		u.setMode(Mode2D)
		if !f.empty(8) {
			u.setMode(Mode3D)
		}
	}
	u.setQuality(indicated(f.char(13)))
	return takeAltitude(f, 8, 1, u)
}
