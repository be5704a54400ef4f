package drive

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// Kind is a sort of fault.
type Kind string

// The faults there are.
const (
	GPSLoss  Kind = "gps-loss"  // the receiver has the time and no position
	GPSJump  Kind = "gps-jump"  // its position lies so many metres too far north
	BusOff   Kind = "bus-off"   // the car's controller leaves the bus: its error frame, silence, and one that says it is back
	DeadZone Kind = "dead-zone" // there is no network; the drive only tells of it
)

// Fault is something that goes wrong for a while.
type Fault struct {
	Kind   Kind
	From   time.Duration // since the drive's start
	For    time.Duration
	Metres float64 // of a jump
}

// ParseFault reads "KIND FOR [METRES]", such as "gps-loss 10s" or "gps-jump 10s 5000". From is not set.
func ParseFault(text string) (f Fault, err error) {
	words := strings.Fields(text)
	if len(words) < 2 || len(words) > 3 {
		return f, fmt.Errorf("fault %q: want KIND FOR, such as \"bus-off 5s\"", text)
	}
	f.Kind = Kind(words[0])
	switch f.Kind {
	case GPSLoss, BusOff, DeadZone:
		if len(words) != 2 {
			return f, fmt.Errorf("fault %q: %s takes a duration and nothing else", text, f.Kind)
		}
	case GPSJump:
		if len(words) != 3 {
			return f, fmt.Errorf("fault %q: want gps-jump FOR METRES, such as \"gps-jump 10s 5000\"", text)
		}
		if f.Metres, err = strconv.ParseFloat(words[2], 64); err != nil || !(f.Metres >= -1e6 && f.Metres <= 1e6) {
			return f, fmt.Errorf("fault %q: metres: want a number from -1000000 to 1000000", text)
		}
	default:
		return f, fmt.Errorf("fault %q: there are gps-loss, gps-jump, bus-off and dead-zone", text)
	}
	if f.For, err = time.ParseDuration(words[1]); err != nil || f.For < tick || f.For > 24*time.Hour {
		return f, fmt.Errorf("fault %q: want a duration from 10ms to 24h", text)
	}
	return f, nil
}

// Inject begins a fault now; its From does not count.
func (d *Drive) Inject(f Fault) {
	f.From = time.Duration(d.ticks) * tick
	d.faults = append(d.faults, f)
}

// standing gives the fault of a kind that stands at a moment, the one that began last.
func (d *Drive) standing(k Kind, at time.Duration) *Fault {
	for i := len(d.faults) - 1; i >= 0; i-- {
		if f := &d.faults[i]; f.Kind == k && f.From <= at && at < f.From+f.For {
			return f
		}
	}
	return nil
}

// errorFrame is what a controller says of itself (linux/can/error.h), 8 bytes.
func errorFrame(class uint32) *can.Frame {
	return &can.Frame{ID: class, Flags: can.FlagError, Len: 8}
}

const (
	errBusOff    = 0x40  // CAN_ERR_BUSOFF
	errRestarted = 0x100 // CAN_ERR_RESTARTED
)

// change notes what began or ended with this tick, and says whether the bus is silent.
func (d *Drive) change(at time.Duration) (silent bool) {
	silent = d.standing(BusOff, at) != nil
	if silent != d.busOff {
		d.busOff = silent
		class := uint32(errRestarted)
		if silent {
			class = errBusOff
		}
		d.queue = append(d.queue, Event{At: at, Frame: errorFrame(class), message: "error"})
	}
	if dead := d.standing(DeadZone, at) != nil || d.phases[d.phase].tunnel; dead != d.dead {
		d.dead = dead
		d.queue = append(d.queue, Event{At: at, Network: map[bool]string{true: "dead", false: "back"}[dead]})
	}
	return silent
}
