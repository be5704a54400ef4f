// Package diagnose asks a vehicle's units again and again: which PIDs, codes and identifiers, and how often, say its
// Options, and nothing else is ever sent. Whether it may ask at this moment is decided frame by frame in package poll.
//
// The package knows what signals its values have, by number. It reads no configuration and no bus: whoever reads the bus
// hands it each frame, and where the answers go is passed in.
package diagnose

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/obd"
	"github.com/waybill-telematics/waybill/can/poll"
	"github.com/waybill-telematics/waybill/can/uds"
	"github.com/waybill-telematics/waybill/internal/clock"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Options say what is asked on one bus, and under which conditions. Signal ids of 0 are not collected: what only such
// signals would come of is not asked for.
type Options struct {
	Governor poll.Options // Allow is filled in from the rest
	// AnswerWithin is how long an answer may take to begin; 0: what the standards say (obd.DefaultP2, uds.DefaultP2).
	AnswerWithin time.Duration
	OBD          *OBD // nil: nothing
	Units        []Unit
	// Emit takes samples, with the time of the answer's last frame. VIN takes a valid vehicle identification number, once
	// for each start of the ignition. Both are called on Run's goroutine; the slice is used again.
	Emit  func([]telemetrypb.Sample)
	VIN   func(vin string, at int64)
	Clock clock.Clock // nil: the system's
	Log   *slog.Logger
}

// OBD is what is asked by SAE J1979.
type OBD struct {
	Request isotp.Address // 7DF, 7E0–7E7, 18DB33F1 or 18DA??F1
	Groups  []Group       // of mode 01
	// Modes 03, 07 and 0A, and how often; StoredID and its kin are their signals.
	Codes                            time.Duration
	StoredID, PendingID, PermanentID uint32
	FreezeID                         uint32 // mode 02, when a stored code appears, which asks for mode 03 too
	VIN                              bool   // mode 09
}

// Group is PIDs of one interval.
type Group struct {
	Every time.Duration
	PIDs  []PID
}

// PID is one parameter and its signals.
type PID struct {
	Number uint8
	Fields []Field
}

// Field is one value of a PID.
type Field struct {
	Field *obd.Field // by which it is found among the readings
	ID    uint32
}

// Unit is one control unit that is asked by UDS.
type Unit struct {
	Name              string
	Request, Response isotp.Address
	Identifiers       []Identifier // service 22
	DTCs              *DTCs        // service 19; nil: not asked
	VIN               bool         // identifier F190
}

// Identifier is one data identifier and its values.
type Identifier struct {
	ID     uint16
	Every  time.Duration
	Values []Value
}

// DTCs is how trouble codes are read.
type DTCs struct {
	ID        uint32
	Every     time.Duration
	Mask      uds.Status // those that have one of the bits
	Snapshots bool       // of codes that are new, or whose status has changed
}

// Poller asks on one bus. Take belongs to the goroutine that reads the bus, and blocks it no longer than a decision of
// the governor takes; Ignition and Voltage are safe from any, Run is one task.
type Poller struct {
	options   Options
	guard     *poll.Guard
	tap       *isotp.Tap
	listening atomic.Bool // a request is under way
	answers   []func(*can.Frame) bool
	requests  []isotp.Address // of Units
	filters   []can.Filter

	on     atomic.Bool
	starts atomic.Uint64 // how often the ignition went on

	// Of Run's goroutine.
	jobs   []*job
	forget []func() // what is learned anew with each start of the ignition
	start  uint64   // what starts was for the jobs as they are
	ended  bool     // the ignition went off, or was not heard

	answered atomic.Uint64
	failed   [failures]atomic.Uint64
	pause    atomic.Uint32 // a poll.Verdict
}

// Stats are the counts of a Poller.
type Stats struct {
	Frames   poll.Stats       // verdicts on frames
	Answered uint64           // requests
	Failed   [failures]uint64 // by Failure
	Dropped  uint64           // frames of answers for which there was no room
	Pause    poll.Verdict     // why nothing is asked; Send: it is
}

// New makes a Poller that sends through s. It sends nothing before Run.
func New(o Options, s isotp.Sender) (*Poller, error) {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Emit == nil || o.VIN == nil || o.Log == nil {
		return nil, errors.New("diagnose: Emit, VIN and Log are needed")
	}
	p := &Poller{options: o}
	p.pause.Store(uint32(poll.Send))
	p.listen()
	allow, err := p.allow()
	if err != nil {
		return nil, err
	}
	o.Governor.Allow = allow
	governor, err := poll.New(o.Governor)
	if err != nil {
		return nil, err
	}
	p.guard = poll.NewGuard(governor, s, o.Clock)
	p.tap = isotp.NewTap(p.guard, 0, func(f *can.Frame) bool {
		if !p.listening.Load() {
			return false
		}
		for _, answer := range p.answers {
			if answer(f) {
				return true
			}
		}
		return false
	})
	if o.OBD != nil {
		if err := p.addOBD(o.OBD); err != nil {
			return nil, err
		}
	}
	for _, u := range o.Units {
		if err := p.addUnit(u); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Idle reports whether there is nothing to ask.
func (p *Poller) Idle() bool { return len(p.jobs) == 0 }

// Stats returns the counts so far. It is safe from any goroutine.
func (p *Poller) Stats() Stats {
	s := Stats{Answered: p.answered.Load(), Dropped: p.tap.Drops(), Pause: poll.Verdict(p.pause.Load())}
	for i := range p.failed {
		s.Failed[i] = p.failed[i].Load()
	}
	p.guard.Do(func(_ int64, g *poll.Governor) { s.Frames = g.Stats() })
	return s
}

// Filters are what the kernel has to let through: answers, and what other testers ask.
func (p *Poller) Filters() []can.Filter { return p.filters }

// Take sees a frame of the bus.
func (p *Poller) Take(f *can.Frame) {
	asks := poll.FromTester(f)
	for i := range p.requests {
		asks = asks || p.requests[i].Matches(f)
	}
	if asks {
		p.guard.Do(func(now int64, g *poll.Governor) { g.Heard(now, f) })
	}
	p.tap.Offer(f)
}

// Ignition tells whether the ignition is on. It has to be told again within the governor's ReportFor.
func (p *Poller) Ignition(on bool) {
	if p.on.Swap(on) != on && on {
		p.starts.Add(1)
	}
	p.guard.Do(func(now int64, g *poll.Governor) { g.Ignition(now, on) })
}

// Voltage tells the vehicle's supply in V.
func (p *Poller) Voltage(volts float64) {
	p.guard.Do(func(now int64, g *poll.Governor) { g.Voltage(now, volts) })
}

// Bits of a kernel filter beside the identifier (linux/can.h).
const (
	filterExtended = 1 << 31
	filterExact    = filterExtended | 1<<30 // and no remote frames
)

// listen lists what has to be heard.
func (p *Poller) listen() {
	add := func(extended bool, id, mask uint32) {
		if extended {
			id |= filterExtended
		}
		p.filters = append(p.filters, can.Filter{ID: id, Mask: mask | filterExact})
	}
	add(false, 0x7DF, can.MaxStandardID) // testers, by ISO 15765-4 §8
	add(false, 0x7E0, can.MaxStandardID&^7)
	add(true, 0x18DB33F1, can.MaxExtendedID)
	add(true, 0x18DA00F1, can.MaxExtendedID&^0xFF00)
	if p.options.OBD != nil {
		add(false, 0x7E8, can.MaxStandardID&^7)
		add(true, 0x18DAF100, can.MaxExtendedID&^0xFF)
	}
	for _, u := range p.options.Units {
		p.requests = append(p.requests, u.Request)
		for _, a := range []isotp.Address{u.Request, u.Response} {
			mask := uint32(can.MaxStandardID)
			if a.Extended {
				mask = can.MaxExtendedID
			}
			add(a.Extended, a.ID, mask)
		}
	}
}

// allow lists the identifiers that may be sent: requests, and the flow control for whoever answers.
func (p *Poller) allow() (list []isotp.Address, err error) {
	if o := p.options.OBD; o != nil {
		list = append(list, o.Request)
		switch o.Request {
		case obd.Functional().Send:
			for unit := range uint32(8) {
				list = append(list, isotp.Address{ID: 0x7E0 + unit})
			}
		case obd.Functional29().Send:
			for unit := range uint32(256) {
				list = append(list, isotp.Address{ID: 0x18DA00F1 | unit<<8, Extended: true})
			}
		}
	}
	for _, u := range p.options.Units {
		switch {
		case u.Request == u.Response:
			return nil, fmt.Errorf("diagnose: unit %s answers where it is asked", u.Name)
		case obd.Functional().Send == u.Request || obd.Functional29().Send == u.Request:
			return nil, fmt.Errorf("diagnose: unit %s is asked at %v, where all units listen", u.Name, u.Request)
		}
		list = append(list, u.Request)
	}
	return list, nil
}

// conn makes a conversation over the bus.
func (p *Poller) conn(o isotp.ConnOptions) (*isotp.Conn, error) {
	o.Clock = p.options.Clock
	if o.Answer != nil {
		p.answers = append(p.answers, func(f *can.Frame) bool { _, _, ok := o.Answer(f); return ok })
	} else {
		p.answers = append(p.answers, o.Receive.Matches)
	}
	return isotp.NewConn(p.tap, o)
}
