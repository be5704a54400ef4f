package network

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// message makes a netlink message of a kind.
func message(kind uint16, body []byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(b, uint32(len(b)+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	b = append(b, body...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func route(length byte, kind byte, attributes ...byte) []byte {
	return append([]byte{unix.AF_INET, length, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, 0, kind, 0, 0, 0, 0}, attributes...)
}

func address(flags, scope, index byte) []byte {
	b := []byte{unix.AF_INET6, 64, flags, scope, 0, 0, 0, 0}
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

func TestParse(t *testing.T) {
	oif := make([]byte, 8)
	binary.NativeEndian.PutUint16(oif, 8)
	binary.NativeEndian.PutUint16(oif[2:], unix.RTA_OIF)
	binary.NativeEndian.PutUint32(oif[4:], 7)
	priority := []byte{0, 0, 0, 0, 1, 2, 3, 4}
	binary.NativeEndian.PutUint16(priority, 8)
	binary.NativeEndian.PutUint16(priority[2:], unix.RTA_PRIORITY)
	link := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(link[4:], 3)
	for name, c := range map[string]struct {
		bytes []byte
		want  []Change
	}{
		"default route":          {message(unix.RTM_NEWROUTE, route(0, unix.RTN_UNICAST, append(priority, oif...)...)), []Change{{RouteAdded, 7}}},
		"default route gone":     {message(unix.RTM_DELROUTE, route(0, unix.RTN_UNICAST, oif...)), []Change{{RouteRemoved, 7}}},
		"without an interface":   {message(unix.RTM_NEWROUTE, route(0, unix.RTN_UNICAST)), []Change{{RouteAdded, 0}}},
		"route to a network":     {message(unix.RTM_NEWROUTE, route(24, unix.RTN_UNICAST, oif...)), nil},
		"unreachable by default": {message(unix.RTM_NEWROUTE, route(0, unix.RTN_UNREACHABLE, oif...)), nil},
		"attribute cut off":      {message(unix.RTM_NEWROUTE, route(0, unix.RTN_UNICAST, oif[:6]...)), []Change{{RouteAdded, 0}}},
		"address":                {message(unix.RTM_NEWADDR, address(0, unix.RT_SCOPE_UNIVERSE, 4)), []Change{{AddressAdded, 4}}},
		"address gone":           {message(unix.RTM_DELADDR, address(unix.IFA_F_TENTATIVE, unix.RT_SCOPE_UNIVERSE, 4)), []Change{{AddressRemoved, 4}}},
		"not yet usable":         {message(unix.RTM_NEWADDR, address(unix.IFA_F_TENTATIVE, unix.RT_SCOPE_UNIVERSE, 4)), nil},
		"of the link only":       {message(unix.RTM_NEWADDR, address(0, unix.RT_SCOPE_LINK, 4)), nil},
		"link":                   {message(unix.RTM_NEWLINK, link), []Change{{LinkChanged, 3}}},
		"short":                  {message(unix.RTM_NEWLINK, link[:7]), nil},
		"two and a half": {append(append(message(unix.RTM_NEWLINK, link), message(unix.RTM_DELLINK, link)...), message(unix.RTM_NEWLINK, link)[:20]...),
			[]Change{{LinkChanged, 3}, {LinkChanged, 3}}},
		"length of 0": {make([]byte, 64), nil},
		"nothing":     {nil, nil},
	} {
		got := Parse(nil, c.bytes)
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message(unix.RTM_NEWROUTE, route(0, unix.RTN_UNICAST, 8, 0, 4, 0, 1, 0, 0, 0)))
	f.Add(message(unix.RTM_NEWADDR, address(0, 0, 1)))
	f.Add(append(message(unix.RTM_NEWLINK, make([]byte, 16)), message(unix.RTM_DELADDR, address(0, 0, 1))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list := Parse(nil, b); len(list) > maxChanges || len(list)*unix.SizeofNlMsghdr > len(b) {
			t.Errorf("%d changes of %d bytes", len(list), len(b))
		}
	})
}
