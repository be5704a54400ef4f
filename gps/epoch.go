package gps

// setFields says which fields of a Fix a sentence gives.
type setFields uint32

const (
	setTime setFields = 1 << iota
	setPosition
	setMode
	setAltitude
	setSeparation
	setSpeed
	setTrack
	setPDOP
	setHDOP
	setVDOP
	setSatellites
	setQuality
	setDate
	setErrorHorizontal
	setErrorVertical
	setHeading
	// setReporting are those that make a report of an epoch whose end is not known, or is behind.
	setReporting = setDate - 1
)

// update is what one sentence says.
type update struct {
	kind    kind
	set     setFields
	timed   bool      // clock is set, and tells epochs apart
	lost    bool      // no fix, and no time worth having: its epoch cannot be told from the one before by time
	untimed bool      // nor has the receiver a clock at all yet
	clock   clockTime // the sentence's time
	fix     Fix
}

// epoch gathers the sentences of one epoch and learns where epochs end.
//
//	timed sentence with another time ──▶ begin: the sentence before becomes an ender (learned once)
//	ender                            ──▶ the epoch is reported: it will be emitted when the next begins, or on silence
//	before any ender is known, or while the receiver has no time: every sentence with a position or mode reports
//
// An epoch whose ender never came is not emitted, as with gpsd: half an epoch mixes old and new.
type epoch struct {
	current Fix // gathered so far; after the end of an epoch still its, until the next begins
	last    Fix // as it was after the last sentence that left it dated
	before  Fix // as it was at the end of the epoch before
	said    Mode

	ender     [kinds]bool // kinds that end an epoch
	reliable  bool        // an ender is known
	trailing  bool        // the last known sentence was a GLL, which further sentences may follow
	lastTimed kind        // the kind of the last timed sentence; kindUnknown: none yet
	digit     int64       // its time, clockTime.digit
	// timedKinds are the kinds of timed sentences since the time last changed.
	timedKinds uint32
	begun      bool // a first timed sentence was seen

	report    Fix // the epoch as last reported
	reported  bool
	emitted   bool   // report went out already
	reports   int    // in this epoch
	expected  int    // reports in the epoch before
	started   bool   // the epoch has a sentence
	lostKinds uint32 // kinds of sentences without fix and time seen in it
	dated     bool   // it has a timed sentence
	// deviations: it has a GST, which GBS does not overrule.
	deviations bool
	ahead      update // a GST of the epoch to come
	gsaTalker  byte   // second letter of the talker of the GSA before, 0 when that was another sentence
	// used counts the satellites of the last set of GSA sentences.
	used        int
	manySystems bool
	stale       bool // the last GGA repeated the time of the one before: the receiver stands still

	ggaTalker byte
	ggaTime   [12]byte
	ggaLength int
}

// staleGGA notices a receiver that has lost its satellites and repeats its last time. Receivers that send a GGA for
// each system repeat it rightly, with another talker.
func (e *epoch) staleGGA(talker byte, clock []byte) {
	n := min(len(clock), len(e.ggaTime))
	same := n == e.ggaLength && string(clock[:n]) == string(e.ggaTime[:n])
	e.stale = same && (e.ggaTalker == 0 || e.ggaTalker == talker)
	e.ggaTalker = talker
	if !e.stale {
		e.ggaLength = copy(e.ggaTime[:], clock)
	}
}

// end works out what a sentence means for the epochs: whether it begins one, and whether it ends one. A sentence that
// follows a GLL, is of no known kind and carries no time belongs to the same epoch and ends it in the GLL's place.
func (e *epoch) end(u *update) (begins, ends bool) {
	if u.kind != kindUnknown {
		e.trailing = u.kind == kindGLL
	}
	switch {
	case u.timed:
		// Of two sentences of a kind with different times the second belongs to the next epoch, however close they are.
		again := e.timedKinds&(1<<u.kind) != 0 && u.clock.digit != e.digit
		begins = !e.begun || again || differ(u.clock.digit, e.digit)
		if begins && e.begun && !e.ender[e.lastTimed] && !e.trailing {
			e.ender[e.lastTimed] = true
			e.reliable = true
		}
		e.begun, e.digit = true, u.clock.digit
	case e.trailing:
		e.ender[e.lastTimed] = false
		e.ender[u.kind] = true
		e.reliable = true
	default:
		ends = u.set&setReporting != 0 && e.ender[e.lastTimed]
	}
	ends = ends || (u.timed || e.trailing) && e.ender[u.kind]
	if u.timed {
		e.lastTimed = u.kind
		if begins {
			e.timedKinds = 0
		}
		e.timedKinds |= 1 << u.kind
	}
	if u.untimed {
		e.reliable = false
		ends = true
	}
	return begins, ends
}

// differ: receivers round the time of one epoch differently in different sentences, by up to 10 ms.
func differ(a, b int64) bool { return a-b > 10 || b-a > 10 }

// finish merges a sentence into the epoch and emits what has ended.
func (p *Parser) finish(u *update, emit func(Fix)) {
	e := &p.epoch
	if u.kind == kindGST && u.clock.digit != 0 && e.begun && differ(u.clock.digit, e.digit) {
		e.ahead, u.set = *u, 0
	}
	known := e.reliable
	begins, ends := e.end(u)
	if u.kind == kindGSA && u.fix.Mode == ModeNoFix && e.reported && e.report.Valid() {
		u.set &^= setMode // satellites lost after the fix: the next epoch's to tell, this one had them
	}
	if u.set&setMode != 0 && e.current.Mode == Mode3D && u.fix.Mode != ModeNoFix &&
		(e.last.Has(HasAltitude) || e.before.Has(HasAltitude)) {
		u.fix.Mode = Mode3D // RMC and single GSA often say less than the epoch has; no fix is believed, 2D is not
	}
	switch {
	case begins:
		if !e.headless(u) {
			p.closeEpoch(known, emit)
			e.current.Boot = p.scan.boot
		}
		e.reset()
		e.current = Fix{Boot: e.current.Boot}
		if e.ahead.set != 0 && !differ(e.ahead.clock.digit, u.clock.digit) {
			e.current.takeExtras(&e.ahead)
			e.deviations = true
		}
		e.ahead.set = 0
	case e.standsAlone(u):
		p.closeEpoch(known, emit)
		e.reset()
		e.current.Boot = p.scan.boot
		e.current.Fields &^= HasTime
	case !e.started:
		e.current.Boot = p.scan.boot
	}
	e.started = true
	e.dated = e.dated || u.timed
	if u.lost {
		e.lostKinds |= 1 << u.kind
	}
	e.merge(u)
	e.append(u)
	if ends || !e.reliable && u.set&(setPosition|setMode) != 0 {
		e.report, e.reported = e.current, true
		e.reports++
	}
}

// headless: the epoch so far consists of sentences without a time, and u, the first with one, belongs to it.
func (e *epoch) headless(u *update) bool {
	return e.lostKinds != 0 && !e.dated && e.lostKinds&(1<<u.kind) == 0
}

// standsAlone: u begins an epoch though it does not tell so by its time. A fix that was reported is not undone by a
// sentence without one that comes after it; of two such sentences of a kind the second belongs to the next epoch. And
// before the end of an epoch is known, sentences with stamps of their own are epochs of their own, as with gpsd.
func (e *epoch) standsAlone(u *update) bool {
	if u.lost {
		return e.reported && e.report.Valid() || e.lostKinds&(1<<u.kind) != 0
	}
	return !e.reliable && u.timed && u.set&setTime != 0 && e.reported && e.report.Valid() &&
		e.report.Has(HasTime) && u.fix.Time != e.report.Time
}

// closeEpoch ends the epoch under way; known: its enders were known when the sentence came that ends it.
func (p *Parser) closeEpoch(known bool, emit func(Fix)) {
	p.Flush(emit)
	e := &p.epoch
	if e.started && !e.reported {
		p.count.Unfinished++
	}
	e.expected = 1
	if known {
		e.expected = e.reports
	}
}

// reset forgets what is counted within an epoch; what is known of receiver and fix stays.
func (e *epoch) reset() {
	e.reports, e.lostKinds = 0, 0
	e.reported, e.emitted, e.dated, e.deviations = false, false, false, false
}

func (e *epoch) merge(u *update) {
	c := &e.current
	if u.set&setTime != 0 {
		c.Time = u.fix.Time
		c.Fields |= HasTime
	}
	if u.set&setPosition != 0 {
		c.Latitude, c.Longitude = u.fix.Latitude, u.fix.Longitude
		c.Fields |= HasPosition
	}
	if u.set&setMode != 0 {
		c.Mode = u.fix.Mode
		e.said = u.fix.Mode
	}
	if u.set&setAltitude != 0 {
		c.Altitude = u.fix.Altitude
		c.Fields |= HasAltitude
	}
	if u.set&setSeparation != 0 {
		c.Separation = u.fix.Separation
		c.Fields |= HasSeparation
	}
	if u.set&setSpeed != 0 {
		c.Speed = u.fix.Speed
		c.Fields = c.Fields&^SpeedDerived | HasSpeed
	}
	if u.set&setTrack != 0 {
		c.Track = u.fix.Track
		c.Fields |= HasTrack
	}
	if u.set&setPDOP != 0 {
		c.PDOP = u.fix.PDOP
		c.Fields |= HasPDOP
	}
	if u.set&setHDOP != 0 {
		c.HDOP = u.fix.HDOP
		c.Fields |= HasHDOP
	}
	if u.set&setVDOP != 0 {
		c.VDOP = u.fix.VDOP
		c.Fields |= HasVDOP
	}
	if u.set&setSatellites != 0 && (!c.Has(HasSatellites) || u.fix.Satellites > c.Satellites) {
		c.Satellites = u.fix.Satellites // GGA and the GSA of each system count differently far; the most is all
		c.Fields |= HasSatellites
	}
	if u.set&setQuality != 0 {
		c.Quality = u.fix.Quality
		c.Fields |= HasQuality
	}
	if u.set&setDate != 0 {
		c.Fields |= HasDate
	}
	c.takeExtras(u)
	e.derive()
}

// takeExtras takes what a sentence says beside the fix itself.
func (f *Fix) takeExtras(u *update) {
	if u.set&setErrorHorizontal != 0 {
		f.ErrorLatitude, f.ErrorLongitude = u.fix.ErrorLatitude, u.fix.ErrorLongitude
		f.Fields |= HasErrorHorizontal
	}
	if u.set&setErrorVertical != 0 {
		f.ErrorAltitude = u.fix.ErrorAltitude
		f.Fields |= HasErrorVertical
	}
	if u.set&setHeading != 0 {
		f.Heading = u.fix.Heading
		f.Fields |= HasHeading
	}
}

// append adds to an epoch that was reported what trails it.
func (e *epoch) append(u *update) {
	e.deviations = e.deviations || u.kind == kindGST && u.set != 0
	if e.reported && !e.emitted {
		e.report.takeExtras(u)
	}
}

// derive works the speed out where the receiver gives none.
func (e *epoch) derive() {
	c := &e.current
	if !c.Has(HasTime) {
		return
	}
	elapsed := c.Time - e.last.Time
	if !e.last.Has(HasTime) || elapsed > 9.9e6 || elapsed < -9.9e6 {
		e.before = e.last
	} else {
		elapsed = c.Time - e.before.Time
	}
	if elapsed > 0 && e.before.Has(HasTime) && c.Valid() && e.before.Valid() && !c.Has(HasSpeed) {
		if speed := distance(&e.before, c) / (float64(elapsed) / 1e9); speed <= maxSpeed {
			c.Speed = speed
			c.Fields |= HasSpeed | SpeedDerived
		}
	}
	e.last = *c
}

// Flush emits the epoch if it was reported and has not been emitted: at the end of the input, or when the line has
// been silent for long.
func (p *Parser) Flush(emit func(Fix)) {
	e := &p.epoch
	if !e.reported || e.emitted {
		return
	}
	e.emitted = true
	p.count.Fixes++
	p.sky.tell(&e.report)
	deriveErrors(&e.report)
	emit(e.report)
}

// Idle is to be called when the line has fallen silent after Feed: an epoch that has ended, as far as the one before
// tells, is emitted without waiting for the next to begin.
func (p *Parser) Idle(emit func(Fix)) {
	if e := &p.epoch; e.reliable && e.reported && e.reports >= e.expected {
		p.Flush(emit)
	}
}

// End is the end of the input: a sentence under way is given up, and the last epoch is emitted if it was complete.
func (p *Parser) End(emit func(Fix)) {
	switch p.scan.state {
	case scanSentence, scanSum1, scanSum2:
		p.reject(ReasonMalformed)
		p.scan.state = scanRest
	}
	p.Flush(emit)
	if p.stat != nil {
		p.stat.publish(p.count)
	}
}
