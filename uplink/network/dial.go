package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialer opens connections over one interface; empty: as the routes say. net.Dialer tries all addresses of a name, IPv6
// and IPv4 side by side after 300 ms (RFC 8305), each with its part of the time that is left.
func (l *Links) dialer(name string) *net.Dialer {
	return &net.Dialer{
		Resolver: l.o.Resolver,
		ControlContext: func(_ context.Context, network, addr string, c syscall.RawConn) error {
			if l.o.Control != nil {
				if err := l.o.Control(network, addr, c); err != nil {
					return err
				}
			}
			if name == "" {
				return nil
			}
			var failed error
			err := c.Control(func(fd uintptr) { failed = bind(int(fd), name, network == "tcp6") })
			return errors.Join(err, failed)
		},
	}
}

// bind ties a socket to an interface. Kernels before 5.7 allow that only with CAP_NET_RAW; without it the interface's own
// address as the source has to do, which leads over the interface where its routes are by source.
func bind(fd int, name string, six bool) error {
	err := unix.BindToDevice(fd, name)
	if !errors.Is(err, unix.EPERM) {
		return os.NewSyscallError("setsockopt SO_BINDTODEVICE", err)
	}
	addresses, err := globalAddresses(name)
	if err != nil {
		return err
	}
	for _, ip := range addresses {
		if four := ip.To4(); four != nil && !six {
			return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(four)}))
		} else if four == nil && six {
			return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet6{Addr: [16]byte(ip)}))
		}
	}
	return fmt.Errorf("interface %s has no address of this family", name)
}

// globalAddresses are an interface's addresses that may lead beyond the link.
func globalAddresses(name string) ([]net.IP, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s is not there", name)
	}
	if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagRunning == 0 {
		return nil, fmt.Errorf("interface %s is down", name)
	}
	list, err := i.Addrs()
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	var out []net.IP
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.IP)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("interface %s has no address", name)
	}
	return out, nil
}
