// Package clock is the seam through which everything in the agent asks for the time. CLOCK_BOOTTIME orders and
// dates samples, since it runs through suspend and is never set; wall time is a claim made about it elsewhere.
package clock

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells the two times. Implementations are safe for use from several goroutines.
type Clock interface {
	// Boot is CLOCK_BOOTTIME in ns.
	Boot() int64
	// Wall is CLOCK_REALTIME, however wrong it is.
	Wall() time.Time
}

// System is the kernel's clock.
type System struct{}

// Boot reads CLOCK_BOOTTIME.
func (System) Boot() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(os.NewSyscallError("clock_gettime", err)) // Linux ≥ 2.6.39 has it
	}
	return ts.Nano()
}

// Wall reads CLOCK_REALTIME.
func (System) Wall() time.Time { return time.Now() }

// BootID reads the kernel's random id of this boot.
func BootID() ([16]byte, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return [16]byte{}, err
	}
	return ParseBootID(strings.TrimSpace(string(text)))
}

// ParseBootID reads a boot id in the kernel's form, a UUID.
func ParseBootID(text string) (id [16]byte, err error) {
	digits := strings.ReplaceAll(text, "-", "")
	if len(digits) != 32 {
		return id, fmt.Errorf("boot id %q: want 32 hexadecimal digits", text)
	}
	for i := range id {
		if _, err := fmt.Sscanf(digits[2*i:2*i+2], "%02x", &id[i]); err != nil {
			return id, fmt.Errorf("boot id %q: %w", text, err)
		}
	}
	return id, nil
}
