package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// request sends one rtnetlink request of a head and attributes, and waits for its acknowledgement (rtnetlink(7)).
func request(kind, flags uint16, head any, attributes ...[]byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer unix.Close(fd)
	body := append(packed(head), bytes.Join(attributes, nil)...)
	message := packed(unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(body)), Type: kind, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | flags, Seq: 1})
	if err := unix.Sendto(fd, append(message, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	answer := make([]byte, 8192)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("netlink: %d bytes of answer, %w", n, err)
	}
	// NLMSG_ERROR: the header, then a negative errno, zero for done.
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return fmt.Errorf("netlink: %w", unix.Errno(-code))
	}
	return nil
}

// attribute codes one attribute, padded to 4 bytes.
func attribute(kind uint16, values ...[]byte) []byte {
	value := bytes.Join(values, nil)
	out := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	out = binary.NativeEndian.AppendUint16(out, kind)
	out = append(out, value...)
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

func packed(v any) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.NativeEndian, v) // of fixed size
	return b.Bytes()
}

func text(s string) []byte { return append([]byte(s), 0) }

// vethPeer is VETH_INFO_PEER (linux/veth.h).
const vethPeer = 1

// addVeth makes a pair of interfaces, of which the peer is in the network namespace of another process. Segments leave one by one:
// a loss takes one packet, not what the kernel would have handed over in one piece.
func addVeth(name, peer string, pid int) error {
	single := attribute(unix.IFLA_GSO_MAX_SEGS, packed(uint32(1)))
	err := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.IfInfomsg{},
		attribute(unix.IFLA_IFNAME, text(name)), single,
		attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, text("veth")), attribute(unix.IFLA_INFO_DATA,
			attribute(vethPeer, packed(unix.IfInfomsg{}), attribute(unix.IFLA_IFNAME, text(peer)), single,
				attribute(unix.IFLA_NET_NS_PID, packed(uint32(pid)))))))
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	return nil
}

// setUp brings an interface up.
func setUp(name string) error {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	if err := request(unix.RTM_NEWLINK, 0, unix.IfInfomsg{Index: int32(link.Index), Flags: unix.IFF_UP, Change: unix.IFF_UP}); err != nil {
		return fmt.Errorf("%s up: %w", name, err)
	}
	return nil
}

// addAddress gives an interface an IPv4 address in a network of 24 bits.
func addAddress(name string, address net.IP) error {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	if err := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: 24, Index: uint32(link.Index)},
		attribute(unix.IFA_LOCAL, address.To4()), attribute(unix.IFA_ADDRESS, address.To4())); err != nil {
		return fmt.Errorf("%s on %s: %w", address, name, err)
	}
	return nil
}

// What linux/pkt_sched.h and linux/rtnetlink.h say of netem.
type (
	tcMessage struct {
		Family, _    uint8
		_            uint16
		Index        int32
		Handle       uint32
		Parent, Info uint32
	}
	netemOptions struct{ Latency, Limit, Loss, Gap, Duplicate, Jitter uint32 }
	netemRate    struct {
		BytesPerSecond uint32
		_, _, _        int32
	}
)

const (
	tcaKind       = 1
	tcaOptions    = 2
	tcaNetemRate  = 6
	tcaNetemDelay = 10 // TCA_NETEM_LATENCY64, ns
	tcRoot        = 0xFFFF_FFFF
)

// spoil gives what leaves by an interface its delay, losses and rate.
func spoil(name string, l line) error {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	options := [][]byte{packed(netemOptions{Limit: uint32(l.packets), Loss: uint32(l.loss * (1 << 32))}), attribute(tcaNetemDelay, packed(l.delay.Nanoseconds()))}
	if l.rate > 0 {
		options = append(options, attribute(tcaNetemRate, packed(netemRate{BytesPerSecond: uint32(l.rate)})))
	}
	if err := request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tcMessage{Index: int32(link.Index), Parent: tcRoot},
		attribute(tcaKind, text("netem")), attribute(tcaOptions, options...)); err != nil {
		return fmt.Errorf("netem on %s: %w", name, err)
	}
	return nil
}
