package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Change is what the kernel tells of the network (rtnetlink(7)).
type Change struct {
	Kind  Kind
	Index int // of the interface; 0: none is named
}

// Kind is a kind of change.
type Kind int

// The kinds. Of routes only default routes are told, of addresses only those that may lead beyond the link.
const (
	Unknown      Kind = iota // messages were lost: look again
	RouteAdded               // a default route
	RouteRemoved             // a default route
	AddressAdded
	AddressRemoved
	LinkChanged
)

// Better says whether something has appeared that a connection may succeed over.
func (c Change) Better() bool { return c.Kind == RouteAdded || c.Kind == AddressAdded }

const (
	// maxChanges bounds what one datagram of the kernel's may tell.
	maxChanges = 256
	// calm is how long Watch rests between two calls: a network that flaps costs no more than this.
	calm = 100 * time.Millisecond
)

// Watch calls changed whenever the kernel tells of routes, addresses or links, until ctx ends; then it returns nil. The
// slice is good during the call only.
func Watch(ctx context.Context, changed func([]Change)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket NETLINK_ROUTE", err)
	}
	file := os.NewFile(uintptr(fd), "rtnetlink")
	defer file.Close()
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return os.NewSyscallError("bind NETLINK_ROUTE", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watching the network: %w", err)
	}
	buffer := make([]byte, 64<<10)
	var list []Change
	for ctx.Err() == nil {
		n, err := receive(raw, buffer)
		switch {
		case errors.Is(err, unix.ENOBUFS): // we were slow
			list = append(list[:0], Change{Kind: Unknown})
		case err != nil:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watching the network: %w", err)
		default:
			list = Parse(list[:0], buffer[:n])
		}
		if len(list) == 0 {
			continue
		}
		changed(list)
		pause := time.NewTimer(calm)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
	return nil
}

// receive waits for one datagram of the kernel's; what other processes send is left out as 0 bytes.
func receive(raw interface {
	Read(func(fd uintptr) bool) error
}, buffer []byte) (n int, err error) {
	var from unix.Sockaddr
	waited := raw.Read(func(fd uintptr) bool {
		n, from, err = unix.Recvfrom(int(fd), buffer, 0)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if waited != nil {
		return 0, waited
	}
	if err != nil {
		return 0, os.NewSyscallError("recvfrom NETLINK_ROUTE", err)
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return 0, nil
	}
	return n, nil
}

// Parse appends what a datagram of netlink messages tells. What is cut off or not understood is left out.
func Parse(list []Change, b []byte) []Change {
	for len(b) >= unix.SizeofNlMsghdr && len(list) < maxChanges {
		length := binary.NativeEndian.Uint32(b)
		if length < unix.SizeofNlMsghdr || uint64(length) > uint64(len(b)) {
			return list
		}
		if c, ok := parseMessage(binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:length]); ok {
			list = append(list, c)
		}
		b = b[min((int(length)+3)&^3, len(b)):] // NLMSG_ALIGN
	}
	return list
}

func parseMessage(kind uint16, b []byte) (c Change, ok bool) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK: // struct ifinfomsg
		if len(b) < unix.SizeofIfInfomsg {
			return c, false
		}
		return Change{LinkChanged, int(int32(binary.NativeEndian.Uint32(b[4:])))}, true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR: // struct ifaddrmsg: family, prefix length, flags, scope, index
		if len(b) < unix.SizeofIfAddrmsg || b[3] >= unix.RT_SCOPE_LINK || b[2]&unix.IFA_F_TENTATIVE != 0 && kind == unix.RTM_NEWADDR {
			return c, false
		}
		c = Change{AddressAdded, int(int32(binary.NativeEndian.Uint32(b[4:])))}
		if kind == unix.RTM_DELADDR {
			c.Kind = AddressRemoved
		}
		return c, true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE: // struct rtmsg: family, destination's length, …, table, protocol, scope, type
		if len(b) < unix.SizeofRtMsg || b[1] != 0 || b[7] != unix.RTN_UNICAST {
			return c, false
		}
		c = Change{RouteAdded, outInterface(b[unix.SizeofRtMsg:])}
		if kind == unix.RTM_DELROUTE {
			c.Kind = RouteRemoved
		}
		return c, true
	}
	return c, false
}

// outInterface finds RTA_OIF among a route's attributes; 0: there is none, as with several next hops.
func outInterface(b []byte) int {
	for len(b) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtAttr || length > len(b) {
			return 0
		}
		if binary.NativeEndian.Uint16(b[2:]) == unix.RTA_OIF && length >= unix.SizeofRtAttr+4 {
			return int(int32(binary.NativeEndian.Uint32(b[unix.SizeofRtAttr:])))
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return 0
}
