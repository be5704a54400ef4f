package main

import "github.com/waybill-telematics/waybill/can"

// busChange is a state and since when it is.
type busChange struct {
	state can.BusState
	at    int64 // CLOCK_BOOTTIME, ns
}

// busTracker makes one story of the two that tell of a bus: error frames, which say each change at the time it happened
// but can be missed, and the kernel's answers, which say what is, at the time of asking. Frames may lie unread while the
// kernel is asked; so an answer that contradicts counts only when the next one repeats it and no frame spoke in between.
//
//	           frame with a state                     frame with a state
//	unknown ───────────────────────▶ known ◀──────────────────────────────┐
//	   │          any answer           │ answer contradicts                │
//	   └──────────────────────────────▶│──────────────────▶ in doubt ──────┤
//	                                   │◀── answer agrees ──┘              │
//	                                   │◀── same contradiction again: changed, at the time of the first
type busTracker struct {
	now     busChange
	known   bool
	doubt   busChange
	doubted bool

	// Changes that nobody has taken yet. When they come faster than they are taken the last place holds the newest.
	changes [busChangesKept]busChange
	waiting int
	changed uint64 // all of them

	tx, rx    uint16 // error counters
	counted   bool   // they are known
	countedAt int64

	fault can.ErrorReport // the last error frame that told more than a state: why
}

// busChangesKept is how many changes are kept one by one between two reports. A controller that restarts by itself on a
// shorted bus can change its state hundreds of times a second.
const busChangesKept = 8

// heard takes an error frame; true when the state changed. It allocates nothing.
func (t *busTracker) heard(r can.ErrorReport, at int64) bool {
	if r.Classes&(can.ErrorProtocol|can.ErrorTransceiver|can.ErrorNoAck|can.ErrorLostBit|can.ErrorTxTimeout) != 0 {
		t.fault = r
	}
	switch {
	case r.Classes&can.ErrorCounters != 0:
		t.count(uint16(r.TxErrors), uint16(r.RxErrors), at)
	case r.Classes&can.ErrorRestarted != 0 && t.counted: // a restart begins with both at zero
		t.count(0, 0, at)
	}
	state, told := r.State()
	if !told || t.known && at < t.now.at {
		return false
	}
	t.doubted = false
	return t.set(busChange{state, at})
}

// asked takes an answer of the kernel. gone: there is no such interface.
func (t *busTracker) asked(l can.LinkState, gone bool, at int64) bool {
	state := l.State
	switch {
	case gone:
		state = can.BusGone
	case !l.HasState && l.Up && t.known && t.now.state != can.BusStopped && t.now.state != can.BusGone:
		state = t.now.state // no controller whom the kernel could ask: only frames tell
	}
	if l.HasCounters && l.Up {
		t.count(l.TxErrors, l.RxErrors, at)
	}
	switch {
	case t.known && state == t.now.state:
		t.doubted = false
		return false
	case !t.known:
		return t.set(busChange{state, at})
	case t.doubted && t.doubt.state == state:
		t.doubted = false
		return t.set(t.doubt)
	}
	t.doubt, t.doubted = busChange{state, at}, true
	return false
}

func (t *busTracker) count(tx, rx uint16, at int64) {
	if t.counted && at < t.countedAt {
		return
	}
	t.tx, t.rx, t.counted, t.countedAt = tx, rx, true, at
}

func (t *busTracker) set(c busChange) bool {
	if t.known && t.now.state == c.state {
		return false
	}
	t.now, t.known = c, true
	t.changed++
	t.changes[min(t.waiting, busChangesKept-1)] = c
	t.waiting = min(t.waiting+1, busChangesKept)
	return true
}

// take appends the changes since the last take.
func (t *busTracker) take(dst []busChange) []busChange {
	dst = append(dst, t.changes[:t.waiting]...)
	t.waiting = 0
	return dst
}
