package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// canFDMTU is what tells vcan to carry CAN FD frames: sizeof(struct canfd_frame).
const canFDMTU = 72

// addVcan does what `ip link add dev NAME mtu 72 up type vcan` does (rtnetlink(7)).
func addVcan(name string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer unix.Close(fd)

	var body bytes.Buffer
	put := func(v any) { _ = binary.Write(&body, binary.NativeEndian, v) }
	put(unix.IfInfomsg{Family: unix.AF_UNSPEC, Flags: unix.IFF_UP, Change: unix.IFF_UP})
	body.Write(attribute(unix.IFLA_IFNAME, append([]byte(name), 0)))
	body.Write(attribute(unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, canFDMTU)))
	body.Write(attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, []byte("vcan"))))

	var message bytes.Buffer
	_ = binary.Write(&message, binary.NativeEndian, unix.NlMsghdr{
		Len: uint32(unix.SizeofNlMsghdr + body.Len()), Type: unix.RTM_NEWLINK,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL, Seq: 1,
	})
	message.Write(body.Bytes())
	if err := unix.Sendto(fd, message.Bytes(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	// NLMSG_ERROR: the header, then a negative errno, zero for done.
	if n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("add %s: short answer", name)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return fmt.Errorf("add %s: %w", name, unix.Errno(-code))
	}
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	if link.MTU != canFDMTU || link.Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s has mtu %d, flags %v", name, link.MTU, link.Flags)
	}
	return nil
}

// attribute codes one rtnetlink attribute, padded to 4 bytes.
func attribute(kind uint16, value []byte) []byte {
	out := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	out = binary.NativeEndian.AppendUint16(out, kind)
	out = append(out, value...)
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

// up brings an existing interface up.
func up(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("%s up: %w", name, err)
	}
	return nil
}
