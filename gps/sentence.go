package gps

// kind is a sentence as far as fixes are concerned.
type kind uint8

const (
	kindUnknown kind = iota // tells nothing; may trail a GLL (see epoch.end)
	kindAside               // a receiver's known sentence that has no part in a fix and never trails an epoch
	kindRMC
	kindGGA
	kindGLL
	kindGNS
	kindGSA
	kindVTG
	kindZDA
	kindGST
	kindGBS
	kindGSV
	kindHDT
	kindPGRMZ   // Garmin: altitude and mode
	kindPSTI    // SkyTraq
	kindPSRFEPE // SiRF: estimated errors
	kinds
)

// minFields is the least number of fields, address included, that a sentence of each kind has.
var minFields = [kinds]int{
	kindRMC: 8, kindGGA: 13, kindGLL: 7, kindGNS: 13, kindGSA: 18, kindVTG: 5, kindZDA: 4, kindGST: 8, kindGBS: 7,
	kindGSV: 4, kindHDT: 2,
	kindPGRMZ: 4, kindPSTI: 2, kindPSRFEPE: 7,
}

// kindOf tells the kind by the address: two letters of talker, any, and three of formatter; 'P' begins a maker's own.
func kindOf(f *fields) kind {
	address := f.at[0]
	k := kindUnknown
	if len(address) > 0 && address[0] == 'P' && !(len(address) == 5 && address[1] == 'Q') { // PQ: QZSS, by Quectel
		k = proprietary(address)
	} else if len(address) == 5 {
		switch string(address[2:]) {
		case "RMC":
			k = kindRMC
		case "GGA":
			k = kindGGA
		case "GLL":
			k = kindGLL
		case "GNS":
			k = kindGNS
		case "GSA":
			k = kindGSA
		case "VTG":
			k = kindVTG
		case "ZDA":
			k = kindZDA
		case "GST":
			k = kindGST
		case "GBS":
			k = kindGBS
		case "GSV":
			k = kindGSV
		case "HDT":
			k = kindHDT
		case "TXT", "HDG", "THS", "DTM", "DBT", "BWC", "MWD", "MWV":
			k = kindAside
		}
	}
	if f.count < minFields[k] {
		if k == kindGSA || k == kindGSV || k == kindHDT {
			return kindAside
		}
		return kindUnknown
	}
	return k
}

func proprietary(address []byte) kind {
	switch string(address) {
	case "PGRMZ":
		return kindPGRMZ
	case "PSTI":
		return kindPSTI
	case "PSRFEPE":
		return kindPSRFEPE
	case "PGRME", "PGRMF", "PGRMM", "PGLOR", "PASHR", "PMGNST", "PMTK001", "PMTK424", "PMTK705":
		return kindAside
	}
	return kindUnknown
}

// decode reads a sentence into u; false: a field cannot be what it claims, and nothing of the sentence is used.
func (p *Parser) decode(f *fields, u *update) bool {
	switch u.kind {
	case kindRMC:
		return p.decodeRMC(f, u)
	case kindGGA:
		return p.decodeGGA(f, u)
	case kindGLL:
		return p.decodeGLL(f, u)
	case kindGNS:
		return p.decodeGNS(f, u)
	case kindGSA:
		return p.decodeGSA(f, u)
	case kindVTG:
		return p.decodeVTG(f, u)
	case kindZDA:
		return p.decodeZDA(f, u)
	case kindGST:
		return decodeGST(f, u)
	case kindGBS:
		return p.takeClock(f.get(1), u) && (p.epoch.deviations || takeErrors(f, 2, u))
	case kindGSV:
		p.decodeGSV(f)
	case kindHDT:
		return decodeHDT(f, u)
	case kindPGRMZ:
		return p.decodePGRMZ(f, u)
	case kindPSTI:
		return p.decodePSTI(f, u)
	case kindPSRFEPE:
		return p.takeTime(f.get(1), u)
	}
	return true
}

// takeClock notes the time of a timed sentence for the end of epochs; an empty field is no time.
func (p *Parser) takeClock(b []byte, u *update) bool {
	if len(b) == 0 {
		return true
	}
	var ok bool
	u.clock, ok = parseClock(b)
	u.timed = ok
	return ok
}

// takeTime notes the time of a timed sentence, and dates it when the day is known.
func (p *Parser) takeTime(b []byte, u *update) bool {
	if !p.takeClock(b, u) {
		return false
	}
	if u.timed {
		p.date.setClock(u.clock)
		u.setTime(&p.date)
	}
	return true
}

// takeDated notes time and date (ddmmyy) of a sentence that has both.
func (p *Parser) takeDated(clock, date []byte, u *update) bool {
	if !p.takeClock(clock, u) || len(date) != 6 {
		return false
	}
	dom, ok1 := twoDigits(date)
	month, ok2 := twoDigits(date[2:])
	year, ok3 := twoDigits(date[4:])
	if !ok1 || !ok2 || !ok3 || !p.date.setShort(year, month, dom) {
		return false
	}
	p.date.timeOfDay = u.clock.ns
	u.setTime(&p.date)
	u.set |= setDate
	return true
}

// takePosition reads four fields from i on into u.
func takePosition(f *fields, i int, u *update) bool {
	latitude, longitude, ok := f.position(i)
	if ok {
		u.fix.Latitude, u.fix.Longitude = latitude, longitude
		u.set |= setPosition
	}
	return ok
}

func (u *update) setTime(d *dating) {
	if ns, ok := d.unix(); ok {
		u.fix.Time = ns
		u.set |= setTime
	}
}

func (u *update) setMode(m Mode) {
	u.fix.Mode = m
	u.set |= setMode
}

func (u *update) setQuality(q Quality) {
	u.fix.Quality = q
	u.set |= setQuality
}

// plausible limits: what no vehicle's receiver reports.
const (
	maxSpeed    = 9999.9 // m/s
	maxAltitude = 1e6    // m
)

// number reads field i; an empty field is no number and no fault, anything else that is no number is a fault.
func (f *fields) number(i int) (v float64, has, ok bool) {
	if f.empty(i) {
		return 0, false, true
	}
	v, ok = parseNumber(f.get(i))
	return v, ok, ok
}

func takeSpeed(f *fields, i int, unit float64, u *update) bool {
	v, has, ok := f.number(i)
	if has && v >= 0 && v*unit <= maxSpeed {
		u.fix.Speed = v * unit
		u.set |= setSpeed
	}
	return ok
}

func takeTrack(f *fields, i int, u *update) bool {
	v, has, ok := f.number(i)
	if has && v >= -360 && v <= 720 {
		for v >= 360 {
			v -= 360
		}
		for v < 0 {
			v += 360
		}
		u.fix.Track = v
		u.set |= setTrack
	}
	return ok
}

func takeAltitude(f *fields, i int, unit float64, u *update) bool {
	v, has, ok := f.number(i)
	if has && v*unit <= maxAltitude && v*unit >= -maxAltitude {
		u.fix.Altitude = v * unit
		u.set |= setAltitude
	}
	return ok
}

func takeSeparation(f *fields, i int, u *update) bool {
	v, has, ok := f.number(i)
	if has && v >= -1000 && v <= 1000 {
		u.fix.Separation = v
		u.set |= setSeparation
	}
	return ok
}

// takeDOP reads a dilution of precision; receivers send 99 and more when they have none.
func takeDOP(f *fields, i int, value *float64, has setFields, u *update) bool {
	v, given, ok := f.number(i)
	if given && v >= 0 && v < 99 {
		*value = v
		u.set |= has
	}
	return ok
}

// indicated is the quality behind a mode indicator (NMEA 0183 2.3 and later).
func indicated(c byte) Quality {
	switch c {
	case 'D':
		return QualityDGNSS
	case 'P':
		return QualityPPS
	case 'R':
		return QualityRTK
	case 'F':
		return QualityRTKFloat
	case 'E':
		return QualityEstimated
	case 'M':
		return QualityManual
	case 'S':
		return QualitySimulated
	}
	return QualityGNSS
}
