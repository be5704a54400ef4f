package clock

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Reading is what the clocks of the system said at one moment.
type Reading struct {
	Boot     int64 // CLOCK_BOOTTIME, ns
	Mono     int64 // CLOCK_MONOTONIC, ns: it stands still in a suspend
	Unix     int64 // CLOCK_REALTIME, Unix ns
	Synced   bool  // somebody disciplines CLOCK_REALTIME, says the kernel
	MaxError int64 // with Synced: how far off it may be, ns
}

// closely is how far apart two readings of CLOCK_BOOTTIME may be between which the other clocks are read.
const closely = 100 * time.Microsecond

// Read reads the kernel's clocks as closely together as it can, and what adjtimex(2) says of their synchronisation.
func Read() Reading {
	best, width := Reading{}, int64(0)
	for try := range 5 { // a process may be held up between two calls
		before := System{}.Boot()
		mono := monotonic()
		wall := time.Now().UnixNano()
		after := System{}.Boot()
		if try == 0 || after-before < width {
			best, width = Reading{Boot: before + (after-before)/2, Mono: mono, Unix: wall}, after-before
		}
		if width <= int64(closely) {
			break
		}
	}
	var state unix.Timex
	if code, err := unix.Adjtimex(&state); err == nil && code != unix.TIME_ERROR && state.Status&unix.STA_UNSYNC == 0 {
		best.Synced, best.MaxError = true, int64(state.Maxerror)*1000+width
	}
	return best
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(os.NewSyscallError("clock_gettime", err)) // every Linux has it
	}
	return ts.Nano()
}

// FormatBootID writes a boot id in the kernel's form.
func FormatBootID(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
