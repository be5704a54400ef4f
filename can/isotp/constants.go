package isotp

import "time"

// Timeouts of the network layer (§9.7, table 21). They are what a Conn and a Reassembler take where theirs is 0.
const (
	DefaultNAs = 1000 * time.Millisecond // a frame handed to the bus is sent
	DefaultNBs = 1000 * time.Millisecond // a first frame or a full block is answered by flow control
	DefaultNCr = 1000 * time.Millisecond // the next consecutive frame arrives
)

// DefaultMaxMessage is the longest message taken, in bytes, where nothing else is said: what 12 bits of length can say.
const DefaultMaxMessage = maxShortLength

// DefaultMaxWaits is N_WFTmax: how many times in a row the receiver may ask to wait (§9.6.5.6).
const DefaultMaxWaits = 10

// DefaultMaxSessions is how many messages a Reassembler puts together at once.
const DefaultMaxSessions = 64

// maxShortLength is the longest FF_DL without the escape to 32 bits (§9.6.3.1).
const maxShortLength = 1<<12 - 1

// The high nibble of the first protocol control byte (§9.6.1, table 9).
const (
	pciSingle      = 0x0
	pciFirst       = 0x1
	pciConsecutive = 0x2
	pciFlow        = 0x3
)

// FlowStatus of a flow control frame (§9.6.5.1).
const (
	flowContinue = 0
	flowWait     = 1
	flowOverflow = 2
)

// maxSTmin is what a reserved separation time stands for: the longest there is (§9.6.5.5).
const maxSTmin = 127 * time.Millisecond

// DecodeSTmin tells what a separation time in flow control asks for (§9.6.5.4): 00–7F are ms, F1–F9 are 100–900 µs, and
// reserved values are the longest time.
func DecodeSTmin(b uint8) time.Duration {
	switch {
	case b <= 0x7F:
		return time.Duration(b) * time.Millisecond
	case b >= 0xF1 && b <= 0xF9:
		return time.Duration(b-0xF0) * 100 * time.Microsecond
	}
	return maxSTmin
}

// EncodeSTmin is the code of the shortest separation time that is no shorter than d.
func EncodeSTmin(d time.Duration) uint8 {
	const step = 100 * time.Microsecond
	switch {
	case d <= 0:
		return 0
	case d <= 9*step:
		return 0xF0 + uint8((d+step-1)/step)
	case d >= maxSTmin:
		return 0x7F
	}
	return uint8((d + time.Millisecond - 1) / time.Millisecond)
}
