package can

// BusState is the state of a controller on its bus: fault confinement (ISO 11898-1:2015 §12.1) and whether it takes part
// at all. The numbers are those of enum can_state in linux/can/netlink.h.
type BusState uint8

// The states of a controller. Its two error counters decide: 8 up for most errors, 1 down for a good frame.
const (
	BusErrorActive  BusState = iota // all is well: both counters below 96
	BusErrorWarning                 // still error active, but a counter is at 96 or above
	BusErrorPassive                 // a counter is at 128 or above: the node may no longer destroy faulty frames
	BusOff                          // the transmit counter passed 255: the node has left the bus
	BusStopped                      // the interface is down
	BusSleeping                     // the controller sleeps
)

// BusGone is no state of the kernel's: there is no such interface, an adapter was unplugged for instance.
const BusGone BusState = 255

var busStateNames = map[BusState]string{
	BusErrorActive: "error_active", BusErrorWarning: "error_warning", BusErrorPassive: "error_passive", BusOff: "bus_off",
	BusStopped: "stopped", BusSleeping: "sleeping", BusGone: "gone",
}

// BusStates lists every state.
func BusStates() []BusState {
	return []BusState{BusErrorActive, BusErrorWarning, BusErrorPassive, BusOff, BusStopped, BusSleeping, BusGone}
}

// String is the state's name as it stands in catalogues: error_active, bus_off, ….
func (s BusState) String() string {
	if name, ok := busStateNames[s]; ok {
		return name
	}
	return "unknown"
}

// MarshalText makes the name what JSON shows.
func (s BusState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
