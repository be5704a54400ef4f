// Package can reads CAN: frames from SocketCAN and from candump logs, DBC files, and the decode plans that turn a frame
// into samples.
//
// It knows proto (what a sample and a catalogue entry are) and the clock, and nothing of the rest: not which signals are
// collected or why, not where a sample goes, not the configuration. The Reader cannot send: what an agent may say on a
// bus is decided elsewhere.
package can

import (
	"errors"
	"slices"
)

// Limits of the identifiers and payloads (ISO 11898-1).
const (
	MaxStandardID = 1<<11 - 1 // base format
	MaxExtendedID = 1<<29 - 1 // extended format
	MaxClassicLen = 8         // bytes of a classic frame
	MaxLen        = 64        // bytes of a CAN FD frame
)

// Flags say what kind of frame it is.
type Flags uint8

// The flags of a frame.
const (
	FlagExtended Flags = 1 << iota // 29-bit identifier
	FlagFD                         // CAN FD format
	FlagBRS                        // FD: the data phase ran at the higher bit rate
	FlagESI                        // FD: the sender was error passive
	FlagRemote                     // asks for data and has none; Len is the length asked for
	FlagError                      // made by the controller, ID holds the error classes of linux/can/error.h
)

// Frame is one CAN frame. It is passed by pointer into recycled slices; bytes of Data past Len are not defined.
type Frame struct {
	Data  [MaxLen]byte
	Time  int64  // CLOCK_BOOTTIME, ns
	ID    uint32 // without flag bits
	Len   uint8  // bytes, 0–64
	Bus   uint8  // number of the bus, as the reader was told
	Flags Flags
}

// Extended reports whether the identifier has 29 bits.
func (f *Frame) Extended() bool { return f.Flags&FlagExtended != 0 }

// Payload is the data of the frame.
func (f *Frame) Payload() []byte {
	if f.Flags&FlagRemote != 0 {
		return nil
	}
	return f.Data[:min(int(f.Len), MaxLen)]
}

// Flag bits in the identifiers of linux/can.h, which candump's logs and the kernel's filters share.
const (
	flagEFF = 1 << 31 // extended
	flagRTR = 1 << 30 // remote
	flagERR = 1 << 29 // error
)

// ErrDown is what Read and Send answer when the interface is down or gone. The socket is of no more use: close it and
// open another one when the interface is back.
var ErrDown = errors.New("the interface is down or gone")

// FrameReader is where frames come from: a Reader on a socket, or cantest's script. It has one owner, which calls Read;
// Close may be called from any goroutine.
type FrameReader interface {
	// Read waits for at least one frame and fills dst with what is there. drops counts the frames lost before the ones
	// returned, since the last call. With an error n may still be above 0; the frames come first.
	Read(dst []Frame) (n int, drops uint64, err error)
	// Close ends a Read under way, which then returns an error that is os.ErrClosed.
	Close() error
}

// fdLengths are the payload lengths that a CAN FD frame can have (ISO 11898-1:2015, table of DLC codes).
var fdLengths = [16]uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64}

// PaddedLen is the length on the wire of an FD payload of n bytes: the next one that has a DLC code.
func PaddedLen(n int) int {
	i, _ := slices.BinarySearch(fdLengths[:], uint8(min(max(n, 0), MaxLen)))
	return int(fdLengths[i])
}
