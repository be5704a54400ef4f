package gps

// System is a constellation, numbered as the system id of NMEA 0183 4.11 (GSA field 18); the numbers after NavIC are
// ours.
type System uint8

// The systems. SystemUnknown: neither talker nor number tell.
const (
	SystemUnknown System = iota
	SystemGPS
	SystemGLONASS
	SystemGalileo
	SystemBeiDou
	SystemQZSS
	SystemNavIC
	SystemSBAS
	systems
)

var systemNames = [systems]string{"unknown", "gps", "glonass", "galileo", "beidou", "qzss", "navic", "sbas"}

func (s System) String() string {
	if s < systems {
		return systemNames[s]
	}
	return "invalid"
}

// SystemCount is how many satellites of a system are in the solution, and how many are in view.
type SystemCount struct{ Used, Seen uint8 }

// Satellite is one signal of a satellite as the receiver last told of it. Receivers of several bands tell of each band.
type Satellite struct {
	System    System
	ID        uint16 // within the system, from 1; of SBAS the PRN, from 120
	Signal    uint8  // signal id of NMEA 0183 4.11, 0: not told
	Elevation int16  // degrees above the horizon
	Azimuth   int16  // degrees from true north
	SNR       int16  // dB-Hz
	Known     SatelliteFields
	Used      bool // in the solution
}

// SatelliteFields says which fields of a Satellite are known.
type SatelliteFields uint8

// The bits of SatelliteFields.
const (
	KnownElevation SatelliteFields = 1 << iota
	KnownAzimuth
	KnownSNR
)

const (
	maxSky  = 128 // signals of satellites that are kept; four systems in two bands are about 90
	maxUsed = 64  // satellites of a solution that are kept
	// skyEpochs: a group of satellites of which nothing was said for so many epochs is out of view.
	skyEpochs = 60
)

type skyEntry struct {
	Satellite
	talker uint16 // whose GSV it came in
	epoch  uint32 // when
	fresh  bool   // in the set of GSV sentences under way, or the last whole one
}

type satelliteID struct {
	system System
	id     uint16
}

// sky is what is in view. It allocates nothing.
type sky struct {
	entries [maxSky]skyEntry
	count   int
	used    [maxUsed]satelliteID
	usedN   int
	epoch   uint32
	told    bool // a whole set of GSV was seen
	seen    [systems]uint8
	beyond  bool // seen is to be counted anew
}

// identify gives a satellite its system and its number within it. system is what the sentence says, SystemUnknown if it
// does not; then the talker and the ranges of NMEA 0183 4.11 table 20, and those of older receivers, decide.
func identify(talker uint16, system System, id int) satelliteID {
	switch {
	case system == SystemUnknown && id >= 201 && id <= 263:
		return satelliteID{SystemBeiDou, uint16(id - 200)}
	case system <= SystemGPS && id >= 33 && id <= 64 && talker != talkerGB && talker != talkerBD && talker != talkerGA:
		return satelliteID{SystemSBAS, uint16(id + 87)}
	case system <= SystemGPS && id >= 120 && id <= 158:
		return satelliteID{SystemSBAS, uint16(id)}
	}
	if system == SystemUnknown {
		system = systemOf(talker, id)
	}
	switch {
	case system == SystemGLONASS && id >= 65 && id <= 99:
		id -= 64
	case system == SystemGalileo && id > 300:
		id -= 300
	case system == SystemBeiDou && id > 400:
		id -= 400
	case system == SystemBeiDou && id > 200:
		id -= 200
	case system == SystemQZSS && id >= 193 && id <= 202:
		id -= 192
	}
	return satelliteID{system, uint16(id)}
}

const (
	talkerGB = 'G'<<8 | 'B'
	talkerBD = 'B'<<8 | 'D'
	talkerGA = 'G'<<8 | 'A'
)

func systemOf(talker uint16, id int) System {
	switch talker {
	case 'G'<<8 | 'L':
		return SystemGLONASS
	case talkerGA:
		return SystemGalileo
	case talkerGB, talkerBD:
		return SystemBeiDou
	case 'G'<<8 | 'Q', 'Q'<<8 | 'Z', 'P'<<8 | 'Q':
		return SystemQZSS
	case 'G'<<8 | 'I':
		return SystemNavIC
	}
	switch {
	case id >= 1 && id <= 32:
		return SystemGPS
	case id >= 65 && id <= 99:
		return SystemGLONASS
	case id >= 193 && id <= 202:
		return SystemQZSS
	case id >= 301 && id <= 336:
		return SystemGalileo
	case id >= 401 && id <= 463:
		return SystemBeiDou
	}
	return SystemUnknown
}

func talkerOf(f *fields) uint16 {
	a := f.get(0)
	return uint16(a[0])<<8 | uint16(a[1])
}

// decodeGSV: 1 sentences in the set, 2 this one's number, 3 satellites in view, then four fields a satellite: number,
// elevation, azimuth, SNR; 4.10 and later end with the signal id. What is odd in it is left out: it makes no fix.
func (p *Parser) decodeGSV(f *fields) {
	s := &p.sky
	talker, last := talkerOf(f), f.count
	var signal uint8
	if (f.count-4)%4 == 1 {
		last--
		if b := f.get(last); len(b) == 1 {
			signal, _ = hexDigit(b[0])
		}
	}
	number := parseCount(f.get(2))
	if number == 1 {
		for i := range s.entries[:s.count] {
			if e := &s.entries[i]; e.talker == talker && e.Signal == signal {
				e.fresh = false
			}
		}
	}
	for i := 4; i < last; i += 4 {
		if id := parseCount(f.get(i)); id > 0 && id < 1000 {
			s.take(f, i, talker, signal, identify(talker, SystemUnknown, id), last)
		}
	}
	if number == parseCount(f.get(1)) {
		s.drop(func(e *skyEntry) bool { return e.talker == talker && e.Signal == signal && !e.fresh })
		s.told = true
	}
}

func (s *sky) take(f *fields, i int, talker uint16, signal uint8, id satelliteID, last int) {
	e := s.find(talker, signal, id)
	if e == nil {
		return
	}
	*e = skyEntry{talker: talker, epoch: s.epoch, fresh: true,
		Satellite: Satellite{System: id.system, ID: id.id, Signal: signal}}
	for j, target := range [...]*int16{&e.Elevation, &e.Azimuth, &e.SNR} {
		if i+1+j >= last {
			break
		}
		if v, ok := parseWhole(f.get(i + 1 + j)); ok && v <= [...]int16{90, 360, 99}[j] && v >= -90 {
			*target = v
			e.Known |= KnownElevation << j
		}
	}
	s.beyond = true
}

// find gives the place of a satellite's signal; nil: the sky is full.
func (s *sky) find(talker uint16, signal uint8, id satelliteID) *skyEntry {
	for i := range s.entries[:s.count] {
		if e := &s.entries[i]; e.talker == talker && e.Signal == signal && e.System == id.system && e.ID == id.id {
			return e
		}
	}
	if s.count == maxSky {
		s.drop(func(e *skyEntry) bool { return s.epoch-e.epoch > skyEpochs })
		if s.count == maxSky {
			return nil
		}
	}
	s.count++
	return &s.entries[s.count-1]
}

// drop forgets entries, keeping the order of the others.
func (s *sky) drop(gone func(*skyEntry) bool) {
	kept := 0
	for i := range s.entries[:s.count] {
		if gone(&s.entries[i]) {
			s.beyond = true
			continue
		}
		s.entries[kept] = s.entries[i]
		kept++
	}
	s.count = kept
}

func (s *sky) use(id satelliteID) {
	for _, u := range s.used[:s.usedN] {
		if u == id {
			return // told of once for each of its bands
		}
	}
	if s.usedN < maxUsed {
		s.used[s.usedN] = id
		s.usedN++
	}
}

// tell fills in how many satellites are used and seen.
func (s *sky) tell(f *Fix) {
	s.epoch++
	if s.epoch%skyEpochs == 0 {
		s.drop(func(e *skyEntry) bool { return s.epoch-e.epoch > skyEpochs })
	}
	if s.beyond {
		s.beyond = false
		s.seen = [systems]uint8{}
		for i := range s.entries[:s.count] {
			if !s.earlier(i) {
				s.seen[s.entries[i].System]++
			}
		}
	}
	f.Systems = [systems]SystemCount{}
	for i := range s.used[:s.usedN] {
		f.Systems[s.used[i].system].Used++
	}
	if s.told {
		f.Seen = 0
		for i, n := range s.seen {
			f.Systems[i].Seen = n
			f.Seen += int(n)
		}
		f.Fields |= HasSeen
	}
}

// earlier says whether the satellite of an entry was counted with another of its signals.
func (s *sky) earlier(i int) bool {
	for j := range s.entries[:i] {
		if s.entries[j].System == s.entries[i].System && s.entries[j].ID == s.entries[i].ID {
			return true
		}
	}
	return false
}

// AppendSky appends what is in view, at most 128 signals of satellites. It belongs to the goroutine that calls Feed.
func (p *Parser) AppendSky(dst []Satellite) []Satellite {
	s := &p.sky
	for i := range s.entries[:s.count] {
		one := s.entries[i].Satellite
		for _, u := range s.used[:s.usedN] {
			one.Used = one.Used || u.system == one.System && u.id == one.ID
		}
		dst = append(dst, one)
	}
	return dst
}
