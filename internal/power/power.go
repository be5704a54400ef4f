// Package power decides when a parked vehicle goes quiet. It reads nothing and does nothing: whoever owns a Machine tells it what is heard of
// ignition, battery and queue, and acts on its state.
//
//	       ignition off for OffAfter          empty, DrainTime, DrainBytes, battery low
//	on ───────────────────────────▶ draining ───────────────────────────────────────────▶ quiet
//	▲                                                                            ▲    │
//	│ ignition on, from any state          WakeFor, DrainBytes, battery low      │    │ WakeEvery, battery not low
//	└──────────────────────────────────────────────────────────────────── awake ─┘ ◀──┘
//
// Times are CLOCK_BOOTTIME, which runs on in a suspend.
package power

import "time"

// State is what the vehicle's agent may do.
type State uint8

// The states. The numbers are those of the signal agent.power.state.
const (
	On       State = 1 // the ignition is on, or nobody can tell
	Draining State = 2 // it is off: what is queued is sent, within bounds
	Quiet    State = 3 // no connection
	Awake    State = 4 // for a while, as configured
)

// String is the state's word in status, logs and the catalogue.
func (s State) String() string {
	switch s {
	case On:
		return "on"
	case Draining:
		return "draining"
	case Quiet:
		return "quiet"
	case Awake:
		return "awake"
	}
	return "unknown"
}

// Options are the bounds. The zero value of a duration means at once, but for WakeEvery.
type Options struct {
	OffAfter   time.Duration // the ignition has to be off for so long: cranking and loose contacts are shorter
	StaleAfter time.Duration // what was not heard for so long is off, and a voltage unknown
	DrainTime  time.Duration
	DrainBytes uint64
	WakeEvery  time.Duration // 0: never
	WakeFor    time.Duration

	Floor        float64 // V; 0: the battery is not watched
	Hysteresis   float64 // V: how far above the floor it must be to be good again
	Hold         time.Duration
	UnknownIsLow bool // a voltage that was not heard counts as low
}

// Reading is what is known at one moment.
type Reading struct {
	Heard    bool    // the ignition's state was heard since the last reading
	On       bool    // as heard last
	Steady   bool    // the source tells always, so that silence means nothing: a GPIO, a file
	Volts    float64 // with HasVolts
	HasVolts bool    // a voltage was heard since the last reading
	Empty    bool    // the queue holds nothing that is not delivered
	Sent     uint64  // bytes sent so far
}

// Machine is the state. It belongs to one goroutine.
type Machine struct {
	o     Options
	state State
	since int64  // of the state
	sent  uint64 // at its beginning

	heard int64 // when the ignition was last heard
	ever  bool
	off   int64 // since when it is off; valid with isOff
	isOff bool

	low     bool
	voltsAt int64 // when the voltage was last heard
	volts   float64
	known   bool  // it was ever heard
	turn    int64 // since when it says the other thing; valid with turning
	turning bool
}

// New makes a machine at a time: on, until something says otherwise for long enough.
func New(o Options, now int64) *Machine {
	return &Machine{o: o, state: On, since: now, heard: now, voltsAt: now}
}

// State is the present one.
func (m *Machine) State() State { return m.state }

// Low says whether the battery is too low for more than recording.
func (m *Machine) Low() bool { return m.low }

// Volts is the voltage that was heard last; ok is false when that is too long ago.
func (m *Machine) Volts(now int64) (v float64, ok bool) {
	return m.volts, m.known && now-m.voltsAt <= int64(m.o.StaleAfter)
}

// Step takes a reading and says whether the state changed. It takes one step at a time, so that whoever acts on it sees each state.
func (m *Machine) Step(now int64, r Reading) (changed bool) {
	m.battery(now, r)
	if r.Heard {
		m.heard, m.ever = now, true
	}
	// What was never heard is waited for as long as what fell silent.
	on := r.On && r.Steady || !r.Steady && now-m.heard <= int64(m.o.StaleAfter) && (r.On || !m.ever)
	if on {
		m.isOff = false
		return m.state != On && m.enter(On, now, r)
	}
	if !m.isOff {
		m.isOff, m.off = true, now
	}
	age := now - m.since
	switch m.state {
	case On:
		return now-m.off >= int64(m.o.OffAfter) && m.enter(Draining, now, r)
	case Draining:
		return (m.low || r.Empty || age >= int64(m.o.DrainTime) || m.spent(r)) && m.enter(Quiet, now, r)
	case Quiet:
		return m.o.WakeEvery > 0 && age >= int64(m.o.WakeEvery) && !m.low && m.enter(Awake, now, r)
	case Awake:
		return (m.low || age >= int64(m.o.WakeFor) || m.spent(r)) && m.enter(Quiet, now, r)
	}
	return false
}

func (m *Machine) spent(r Reading) bool { return r.Sent-m.sent >= m.o.DrainBytes }

func (m *Machine) enter(s State, now int64, r Reading) bool {
	m.state, m.since, m.sent = s, now, r.Sent
	return true
}

// battery follows the voltage: what it says has to hold for Hold, each way, and to be good again it has to be Hysteresis above the floor.
func (m *Machine) battery(now int64, r Reading) {
	if m.o.Floor == 0 {
		return
	}
	if r.HasVolts {
		m.volts, m.voltsAt, m.known = r.Volts, now, true
	}
	_, fresh := m.Volts(now)
	low := m.low
	switch {
	case !fresh && (m.known || now-m.voltsAt > int64(m.o.StaleAfter)):
		low = m.o.UnknownIsLow
	case !fresh: // not heard yet
	case m.low:
		low = !(m.volts >= m.o.Floor+m.o.Hysteresis)
	default:
		low = !(m.volts >= m.o.Floor) // a voltage that is not a number is not a good one
	}
	if low == m.low {
		m.turning = false
		return
	}
	if !m.turning {
		m.turning, m.turn = true, now
	}
	if now-m.turn >= int64(m.o.Hold) {
		m.low, m.turning = low, false
	}
}
