package power

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Line is one input of a GPIO chip, by the kernel's character device (uAPI v2, linux/gpio.h, since Linux 5.10). It is asked for as an input
// only: nothing is ever driven.
type Line struct {
	file  *os.File
	value func() (bool, error)
}

// LineOptions say which line, and how it is read.
type LineOptions struct {
	Chip      string // /dev/gpiochip0
	Line      uint32 // its offset on the chip
	ActiveLow bool   // ignition on pulls it down
	Debounce  time.Duration
}

// Flags of struct gpio_v2_line_config (linux/gpio.h).
const (
	flagActiveLow   = 1 << 1
	flagInput       = 1 << 2
	flagEdgeRising  = 1 << 4
	flagEdgeFalling = 1 << 5
)

// eventBytes is the size of struct gpio_v2_line_event.
const eventBytes = int(unsafe.Sizeof(unix.GPIOV2LineEvent{}))

// OpenLine requests a line. It is busy while somebody else has it.
func OpenLine(o LineOptions) (*Line, error) {
	chip, err := os.OpenFile(o.Chip, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer chip.Close()
	r := request(o)
	if err := control(chip.Fd(), unix.GPIO_V2_GET_LINE_IOCTL, unsafe.Pointer(&r)); err != nil {
		err = os.NewSyscallError("GPIO_V2_GET_LINE_IOCTL", err)
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("line %d of %s is in use; `gpioinfo` says by whom: %w", o.Line, o.Chip, err)
		}
		return nil, fmt.Errorf("line %d of %s: %w", o.Line, o.Chip, err)
	}
	fd := int(r.Fd)
	if err := unix.SetNonblock(fd, true); err != nil { // reads wait on the runtime's poller
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), o.Chip)
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Line{file: file, value: func() (on bool, err error) {
		v := unix.GPIOV2LineValues{Mask: 1}
		var failed error
		err = raw.Control(func(fd uintptr) { failed = control(fd, unix.GPIO_V2_LINE_GET_VALUES_IOCTL, unsafe.Pointer(&v)) })
		if failed != nil {
			err = os.NewSyscallError("GPIO_V2_LINE_GET_VALUES_IOCTL", failed)
		}
		return v.Bits&1 != 0, err
	}}, nil
}

// request is what the kernel is asked for.
func request(o LineOptions) (r unix.GPIOV2LineRequest) {
	r.Offsets[0], r.Num_lines = o.Line, 1
	copy(r.Consumer[:], "waybill-agent")
	r.Config.Flags = flagInput | flagEdgeRising | flagEdgeFalling
	if o.ActiveLow {
		r.Config.Flags |= flagActiveLow
	}
	if o.Debounce > 0 {
		r.Config.Num_attrs = 1
		r.Config.Attrs[0] = unix.GPIOV2LineConfigAttribute{Mask: 1, Attr: unix.GPIOV2LineAttribute{Id: unix.GPIO_V2_LINE_ATTR_ID_DEBOUNCE}}
		// debounce_period_us stands in the union's first 32 bits, whatever the byte order.
		*(*uint32)(unsafe.Pointer(&r.Config.Attrs[0].Attr.Flags)) = uint32(o.Debounce.Microseconds())
	}
	return r
}

func control(fd uintptr, call uintptr, p unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, call, uintptr(p)); errno != 0 {
		return errno
	}
	return nil
}

// Value reads the line; true is active.
func (l *Line) Value() (bool, error) { return l.value() }

// Watch tells the line's value at once and after each edge, until ctx ends; then it returns nil.
func (l *Line) Watch(ctx context.Context, tell func(on bool)) error {
	stop := context.AfterFunc(ctx, func() { _ = l.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	events := make([]byte, 16*eventBytes) // what came meanwhile; only the value counts
	for {
		on, err := l.value()
		if err != nil {
			return err
		}
		tell(on)
		if _, err := l.file.Read(events); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// Close gives the line back.
func (l *Line) Close() error { return l.file.Close() }
