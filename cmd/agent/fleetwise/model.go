// Package fleetwise reads decoder manifests and campaigns of AWS IoT FleetWise, as JSON of its API and as protobuf of its
// edge agent, and writes a DBC file and a configuration of ours that decode and collect the same, as far as ours reaches.
// What does not carry over is named. It opens no files.
package fleetwise

import "fmt"

// Source is what was read of FleetWise. The zero value is empty; Decoders, Interfaces and Campaign add to it.
type Source struct {
	CAN        []CANSignal
	OBD        []OBDSignal
	Interfaces map[string]Interface // by id
	Schemes    []Scheme
	Findings   []Finding
}

// Finding is something that is otherwise afterwards.
type Finding struct {
	Lost bool // it does not carry over; else it is only done in another way
	Text string
}

func (s *Source) lost(format string, args ...any) {
	s.Findings = append(s.Findings, Finding{true, fmt.Sprintf(format, args...)})
}

func (s *Source) note(format string, args ...any) {
	s.Findings = append(s.Findings, Finding{false, fmt.Sprintf(format, args...)})
}

// CANSignal is one signal of a CAN message.
type CANSignal struct {
	Name      string // fully qualified; of protobuf, which has none: SignalN
	ID        uint32 // of protobuf; 0: JSON, where the name counts
	Interface string
	Message   uint32 // identifier; of 29 bits beyond 0x7FF
	StartBit  uint32 // the least significant bit, whatever the byte order; bit 0 is the lowest of byte 0
	Length    uint32 // bits
	BigEndian bool
	Signed    bool
	Float     bool // IEEE 754
	Factor    float64
	Offset    float64 // physical = raw × Factor + Offset
}

// OBDSignal is one value of the answer to a PID of SAE J1979.
type OBDSignal struct {
	Name       string
	ID         uint32
	Interface  string
	Mode, PID  uint32
	StartByte  uint32 // in the answer's data
	ByteLength uint32
	Shift      uint32 // of a single byte, right
	Mask       uint32 // bits of a single byte that count, from the shift on; 0 and 8: all
	Signed     bool
	Scaling    float64
	Offset     float64
}

// Interface is a network of the vehicle.
type Interface struct {
	Name      string // of Linux
	OBD       bool
	EveryS    int // OBD: between requests
	CodesS    int // OBD: between requests for trouble codes; 0: none
	RequestID uint32
}

// Scheme is one campaign: what is collected, and when.
type Scheme struct {
	Name        string
	PeriodMS    uint32 // time based; 0: by Condition
	Condition   *Node
	RisingEdge  bool
	IntervalMS  uint32 // least time between triggers
	AfterMS     uint32
	Signals     []Collected
	Raw         []RawFrame
	Codes       bool // active trouble codes too
	Priority    uint32
	Probability float64 // 0: not said
	Expires     bool
}

// Collected is a signal of a campaign.
type Collected struct {
	Name          string // or
	ID            uint32
	MinPeriodMS   uint32
	Samples       uint32 // kept for one trigger; 0: not said
	ConditionOnly bool
}

// RawFrame is a CAN frame that is collected as it is.
type RawFrame struct {
	Interface   string
	Message     uint32
	MinPeriodMS uint32
}
