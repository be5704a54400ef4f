package can

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// The frames of linux/can.h as they cross a socket: identifier, length, flags (FD) or padding, two reserved bytes, data.
const (
	frameHead   = 8
	classicSize = frameHead + MaxClassicLen // CAN_MTU
	fdSize      = frameHead + MaxLen        // CANFD_MTU
	fdFlagBRS   = 0x01                      // CANFD_BRS
	fdFlagESI   = 0x02                      // CANFD_ESI
	fdFlagFDF   = 0x04                      // CANFD_FDF; newer kernels set it on every FD frame
)

// socket is a CAN_RAW socket.
type socket struct {
	file   *os.File
	raw    syscall.RawConn
	name   string // of the interface
	closed atomic.Bool
}

// openSocket makes a CAN_RAW socket, lets configure set its options and binds it to the interface. It is on the runtime's
// poller if flags say SOCK_NONBLOCK.
func openSocket(name string, flags int, configure func(fd int) error) (*socket, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("CAN interface %s: %w: %w", name, ErrDown, err)
	}
	if iface.Flags&net.FlagUp == 0 { // it could be bound, and the first read would fail
		return nil, fmt.Errorf("CAN interface %s: %w: it is not set up", name, ErrDown)
	}
	fd, err := unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC|flags, unix.CAN_RAW)
	if err != nil {
		return nil, fmt.Errorf("CAN interface %s: %w (does this kernel have CONFIG_CAN and CONFIG_CAN_RAW?)", name, os.NewSyscallError("socket", err))
	}
	if err = configure(fd); err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrCAN{Ifindex: iface.Index}))
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("CAN interface %s: %w", name, err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "can:"+name), name: name}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		_ = s.file.Close()
		return nil, fmt.Errorf("CAN interface %s: %w", name, err)
	}
	return s, nil
}

// pending is the error that the kernel keeps for the next read: binding to an interface that is down leaves one.
func (s *socket) pending() error {
	var errno int
	err := s.raw.Control(func(fd uintptr) {
		var failed error
		if errno, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); failed != nil {
			errno = 0 // a read tells
		}
	})
	if err == nil && errno != 0 {
		err = syscall.Errno(errno)
	}
	if err != nil {
		return s.failed("bind", err)
	}
	return nil
}

// failed wraps the error of a system call on the socket.
func (s *socket) failed(call string, err error) error {
	wrapped := os.NewSyscallError(call, err)
	if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("CAN interface %s: %w: %w", s.name, ErrDown, wrapped)
	}
	return fmt.Errorf("CAN interface %s: %w", s.name, wrapped)
}

// waitFailed wraps the error of the poller, which does not tell a close as os.ErrClosed.
func (s *socket) waitFailed(err error) error {
	if s.closed.Load() {
		err = os.ErrClosed
	}
	return fmt.Errorf("CAN interface %s: %w", s.name, err)
}

// close ends every call that waits on the socket.
func (s *socket) close() error {
	s.closed.Store(true)
	return s.file.Close()
}

// setFilters hands filters to the kernel; an empty list lets nothing pass.
func setFilters(fd int, filters []Filter) error {
	list := make([]unix.CanFilter, len(filters))
	for i, f := range filters {
		list[i] = unix.CanFilter{Id: f.ID, Mask: f.Mask}
	}
	return os.NewSyscallError("setsockopt CAN_RAW_FILTER", unix.SetsockoptCanRawFilter(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FILTER, list))
}

func setOption(fd, level, option, value int, name string) error {
	return os.NewSyscallError("setsockopt "+name, unix.SetsockoptInt(fd, level, option, value))
}
