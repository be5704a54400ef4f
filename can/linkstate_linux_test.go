package can

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// attribute is one of rtnetlink's, padded to 4 bytes.
func attribute(kind uint16, values ...any) []byte {
	var data []byte
	for _, v := range values {
		switch v := v.(type) {
		case []byte:
			data = append(data, v...)
		case string:
			data = append(append(data, v...), 0)
		case uint8:
			data = append(data, v)
		default:
			data, _ = binary.Append(data, binary.NativeEndian, v)
		}
	}
	out := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(data)))
	out = append(binary.NativeEndian.AppendUint16(out, kind), data...)
	return append(out, make([]byte, (4-len(out)%4)%4)...)
}

// linkMessage is what follows the header of an RTM_NEWLINK.
func linkMessage(device uint16, flags uint32, attributes ...[]byte) []byte {
	out, _ := binary.Append(nil, binary.NativeEndian, unix.IfInfomsg{Type: device, Index: 3, Flags: flags})
	for _, a := range attributes {
		out = append(out, a...)
	}
	return out
}

// controllerInfo is IFLA_LINKINFO of a controller with everything; longer structures than today's are those of a newer
// kernel.
func controllerInfo(longer int) []byte {
	more := make([]byte, 4*longer)
	return attribute(unix.IFLA_LINKINFO|unix.NLA_F_NESTED,
		attribute(unix.IFLA_INFO_KIND, "can"),
		attribute(unix.IFLA_INFO_DATA,
			attribute(unix.IFLA_CAN_CTRLMODE, uint32(0), uint32(unix.CAN_CTRLMODE_LISTENONLY|unix.CAN_CTRLMODE_FD), more),
			attribute(unix.IFLA_CAN_STATE, uint32(unix.CAN_STATE_ERROR_PASSIVE)),
			attribute(unix.IFLA_CAN_BERR_COUNTER, uint16(300), uint16(127), more),
			attribute(unix.IFLA_CAN_RESTART_MS, uint32(100)),
			attribute(unix.IFLA_CAN_BITTIMING, unix.CANBitTiming{Bitrate: 500000, Tq: 125}, more),
			attribute(unix.IFLA_CAN_DATA_BITTIMING, unix.CANBitTiming{Bitrate: 2000000}),
			attribute(unix.IFLA_CAN_CLOCK, uint32(80e6))),
		attribute(unix.IFLA_INFO_XSTATS, unix.CANDeviceStats{Bus_error: 1, Error_warning: 2, Error_passive: 3, Bus_off: 4, Arbitration_lost: 5, Restarts: 6}, more))
}

func TestParseLink(t *testing.T) {
	name := attribute(unix.IFLA_IFNAME, "can0")
	traffic := attribute(unix.IFLA_STATS64, []uint64{10, 20, 30, 1 << 40, 9, 9, 9})
	full := LinkState{
		Name: "can0", Kind: "can", Up: true, Operational: "up", HasState: true, State: BusErrorPassive, HasCounters: true, TxErrors: 300,
		RxErrors: 127, Bitrate: 500000, DataBitrate: 2000000, ListenOnly: true, FD: true, RestartMs: 100,
		Events:  LinkEvents{1, 2, 3, 4, 5, 6},
		Traffic: LinkTraffic{10, 20, 30, 1 << 40},
	}
	down := full
	down.Up, down.State, down.Operational = false, BusStopped, "down"
	for _, test := range []struct {
		name    string
		message []byte
		want    LinkState
	}{
		{"a controller", linkMessage(unix.ARPHRD_CAN, unix.IFF_UP, name, attribute(unix.IFLA_OPERSTATE, uint8(6)), traffic, controllerInfo(0)), full},
		{"of a newer kernel", linkMessage(unix.ARPHRD_CAN, unix.IFF_UP, controllerInfo(5), traffic, attribute(unix.IFLA_OPERSTATE, uint8(6)), name), full},
		{"that is down", linkMessage(unix.ARPHRD_CAN, 0, name, traffic, attribute(unix.IFLA_OPERSTATE, uint8(2)), controllerInfo(0)), down},
		{"vcan", linkMessage(unix.ARPHRD_CAN, unix.IFF_UP, name, attribute(unix.IFLA_OPERSTATE, uint8(0)),
			attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, "vcan"))), LinkState{Name: "can0", Kind: "vcan", Up: true, Operational: "unknown"}},
		{"no more than a head", linkMessage(unix.ARPHRD_CAN, 0), LinkState{Operational: "unknown", State: BusStopped}},
		{"structures that are too short", linkMessage(unix.ARPHRD_CAN, unix.IFF_UP, attribute(unix.IFLA_STATS64, uint64(5)), attribute(unix.IFLA_OPERSTATE),
			attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_XSTATS, uint32(1)), attribute(unix.IFLA_INFO_DATA,
				attribute(unix.IFLA_CAN_STATE, uint16(1)), attribute(unix.IFLA_CAN_BERR_COUNTER, uint16(1)), attribute(unix.IFLA_CAN_CTRLMODE, uint32(2)),
				attribute(unix.IFLA_CAN_BITTIMING), attribute(unix.IFLA_CAN_RESTART_MS, uint8(1))))), LinkState{Up: true, Operational: "unknown"}},
		{"a state of another age", linkMessage(unix.ARPHRD_CAN, unix.IFF_UP, attribute(unix.IFLA_OPERSTATE, uint8(77)),
			attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_DATA, attribute(unix.IFLA_CAN_STATE, uint32(6))))), LinkState{Up: true, Operational: "unknown"}},
	} {
		got, err := parseLink(test.message)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		} else if got != test.want {
			t.Errorf("%s:\n%+v, want\n%+v", test.name, got, test.want)
		}
	}
	if _, err := parseLink(linkMessage(unix.ARPHRD_ETHER, unix.IFF_UP, name)); !errors.Is(err, errNotCAN) {
		t.Errorf("an Ethernet: %v", err)
	}
	whole := linkMessage(unix.ARPHRD_CAN, unix.IFF_UP, name, controllerInfo(0))
	refused := 0
	for cut := range whole {
		if _, err := parseLink(whole[:cut]); err != nil {
			refused++
		}
	}
	if refused < len(whole)/2 { // a cut between two attributes looks whole
		t.Errorf("only %d of %d cut messages were refused", refused, len(whole))
	}
}

func FuzzParseLink(f *testing.F) {
	f.Add(linkMessage(unix.ARPHRD_CAN, unix.IFF_UP, attribute(unix.IFLA_IFNAME, "can0"), controllerInfo(1)))
	f.Add(linkMessage(unix.ARPHRD_CAN, 0, attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, "vcan")), attribute(unix.IFLA_STATS64, []uint64{1, 2, 3, 4})))
	f.Add(linkMessage(unix.ARPHRD_CAN, 0, []byte{4, 0, 18, 0, 1, 0, 18, 0}))
	f.Fuzz(func(t *testing.T, message []byte) {
		s, err := parseLink(message)
		if err != nil {
			return
		}
		if !s.Up && s.State != BusStopped || s.State > BusSleeping || s.Operational == "" {
			t.Errorf("%+v", s)
		}
		_ = s.String()
	})
}

func TestLinkReaderRefusesNames(t *testing.T) {
	var r LinkReader
	for _, name := range []string{"", "a-name-of-sixteen", "nosuchcan"} {
		if s, err := r.Read(name); err == nil {
			t.Errorf("%q: %+v", name, s)
		} else if down := errors.Is(err, ErrDown); down != (name == "nosuchcan") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := r.List(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
