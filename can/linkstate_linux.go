package can

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// LinkState is what the kernel says about a CAN interface. A virtual interface (vcan, vxcan) has no controller: what
// only a controller has is zero, and HasState is false.
type LinkState struct {
	Name        string      `json:"interface"`
	Kind        string      `json:"kind"`         // can (a controller, slcan too), vcan, vxcan; "" when the driver does not say
	Up          bool        `json:"up"`           // set up by somebody
	Operational string      `json:"operational"`  // RFC 2863: up, down, unknown, …; a controller that is bus-off is down
	HasState    bool        `json:"has_state"`    // there is a controller that has a state
	State       BusState    `json:"state"`        // without one: error active or, when the interface is down, stopped
	HasCounters bool        `json:"has_counters"` // the driver can read the error counters
	TxErrors    uint16      `json:"tx_errors"`
	RxErrors    uint16      `json:"rx_errors"`
	Bitrate     uint32      `json:"bitrate"`      // bit/s of the arbitration phase; 0: none set, or not known
	DataBitrate uint32      `json:"data_bitrate"` // bit/s of the data phase of CAN FD; 0: none set
	ListenOnly  bool        `json:"listen_only"`
	FD          bool        `json:"fd"`
	RestartMs   uint32      `json:"restart_ms"` // ms from bus-off to the automatic restart; 0: none
	Events      LinkEvents  `json:"events"`
	Traffic     LinkTraffic `json:"traffic"`
}

// String is the state in one line, for a person.
func (s LinkState) String() string {
	text := s.Name + ": " + s.Kind + ", down"
	if s.Up {
		text = s.Name + ": " + s.Kind + ", up"
	}
	if s.HasState {
		text += ", " + s.State.String()
	}
	if s.Bitrate != 0 {
		text += fmt.Sprintf(", %d bit/s", s.Bitrate)
	}
	if s.DataBitrate != 0 {
		text += fmt.Sprintf(" (data %d bit/s)", s.DataBitrate)
	}
	if s.ListenOnly {
		text += ", listen-only"
	}
	if s.HasCounters {
		text += fmt.Sprintf(", error counters %d transmit, %d receive", s.TxErrors, s.RxErrors)
	}
	if e := s.Events; e != (LinkEvents{}) {
		text += fmt.Sprintf(", seen %d bus errors, %d warnings, %d passives, %d bus-offs, %d restarts", e.BusErrors, e.Warnings, e.Passives, e.BusOffs, e.Restarts)
	}
	return text + fmt.Sprintf(", received %d frames, sent %d", s.Traffic.RxFrames, s.Traffic.TxFrames)
}

// LinkEvents are counted by the driver since the interface was made (struct can_device_stats).
type LinkEvents struct {
	BusErrors       uint32 `json:"bus_error"`
	Warnings        uint32 `json:"error_warning"`
	Passives        uint32 `json:"error_passive"`
	BusOffs         uint32 `json:"bus_off"`
	LostArbitration uint32 `json:"arbitration_lost"`
	Restarts        uint32 `json:"restart"`
}

// LinkTraffic is what crossed the interface since it was made, whatever filters a socket has (struct rtnl_link_stats64).
// Bytes are those of the frames' data. Before Linux 5.17 most drivers counted error frames as received ones.
type LinkTraffic struct {
	RxFrames uint64 `json:"rx_frames"`
	TxFrames uint64 `json:"tx_frames"`
	RxBytes  uint64 `json:"rx_bytes"`
	TxBytes  uint64 `json:"tx_bytes"`
}

// linkTimeout bounds one question to the kernel: another process may hold its network lock.
const linkTimeout = 5 * time.Second

// LinkReader asks the kernel for the state of interfaces by rtnetlink(7), for which it needs no capability. The zero value
// is ready; it belongs to one goroutine.
type LinkReader struct {
	conn *netlink.Conn // nil: not open; it stays open between questions
}

// Close gives the socket back. The LinkReader can be used again.
func (r *LinkReader) Close() error {
	if r.conn == nil {
		return nil
	}
	err := r.conn.Close()
	r.conn = nil
	return err
}

// Read asks for one interface. One that is not there is an ErrDown.
func (r *LinkReader) Read(name string) (LinkState, error) {
	fail := func(err error) (LinkState, error) { return LinkState{}, fmt.Errorf("CAN interface %s: %w", name, err) }
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return fail(fmt.Errorf("no name of an interface: 1 to %d characters", unix.IFNAMSIZ-1))
	}
	encoder := netlink.NewAttributeEncoder()
	encoder.String(unix.IFLA_IFNAME, name)
	attributes, err := encoder.Encode()
	if err != nil {
		return fail(err)
	}
	answers, err := r.ask(0, attributes)
	if errors.Is(err, unix.ENODEV) {
		return fail(fmt.Errorf("%w: %w", ErrDown, err))
	}
	if err != nil {
		return fail(err)
	}
	for _, m := range answers {
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		s, err := parseLink(m.Data)
		if err != nil {
			return fail(err)
		}
		return s, nil
	}
	return fail(errors.New("the kernel did not answer"))
}

// List asks for every CAN interface, in the kernel's order.
func (r *LinkReader) List() ([]LinkState, error) {
	answers, err := r.ask(netlink.Dump, nil)
	if err != nil {
		return nil, fmt.Errorf("CAN interfaces: %w", err)
	}
	var list []LinkState
	for _, m := range answers {
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		s, err := parseLink(m.Data)
		if errors.Is(err, errNotCAN) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("CAN interfaces: %w", err)
		}
		list = append(list, s)
	}
	return list, nil
}

// ask sends an RTM_GETLINK. After an error the socket is closed, so that a late answer meets no later question.
func (r *LinkReader) ask(flags netlink.HeaderFlags, attributes []byte) ([]netlink.Message, error) {
	if r.conn == nil {
		conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
		if err != nil {
			return nil, fmt.Errorf("rtnetlink: %w", err)
		}
		r.conn = conn
	}
	request := netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | flags},
		Data:   append(make([]byte, unix.SizeofIfInfomsg), attributes...),
	}
	err := r.conn.SetDeadline(time.Now().Add(linkTimeout))
	if err == nil {
		var answers []netlink.Message
		if answers, err = r.conn.Execute(request); err == nil {
			return answers, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("rtnetlink: %w", err), r.Close())
}

var errNotCAN = errors.New("it is not a CAN interface")

// operationalNames are those of IF_OPER_… (linux/if.h).
var operationalNames = []string{"unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"}

// parseLink reads an RTM_NEWLINK: struct ifinfomsg and attributes. Structures may be longer than what is known of them,
// as newer kernels have it; one that is shorter is left out, and its fields stay zero.
func parseLink(data []byte) (LinkState, error) {
	if len(data) < unix.SizeofIfInfomsg {
		return LinkState{}, fmt.Errorf("an answer of %d bytes", len(data))
	}
	if kind := binary.NativeEndian.Uint16(data[2:]); kind != unix.ARPHRD_CAN {
		return LinkState{}, errNotCAN
	}
	s := LinkState{Operational: operationalNames[0], Up: binary.NativeEndian.Uint32(data[8:])&unix.IFF_UP != 0}
	attributes, err := netlink.NewAttributeDecoder(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return LinkState{}, err
	}
	for attributes.Next() {
		switch attributes.Type() {
		case unix.IFLA_IFNAME:
			s.Name = attributes.String()
		case unix.IFLA_OPERSTATE:
			attributes.Do(func(b []byte) error {
				if len(b) > 0 && int(b[0]) < len(operationalNames) {
					s.Operational = operationalNames[b[0]]
				}
				return nil
			})
		case unix.IFLA_STATS64:
			attributes.Do(s.Traffic.parse)
		case unix.IFLA_LINKINFO:
			attributes.Nested(s.parseInfo)
		}
	}
	if err := attributes.Err(); err != nil {
		return LinkState{}, err
	}
	if !s.Up {
		s.State = BusStopped
	}
	return s, nil
}

func (s *LinkState) parseInfo(info *netlink.AttributeDecoder) error {
	for info.Next() {
		switch info.Type() {
		case unix.IFLA_INFO_KIND:
			s.Kind = info.String()
		case unix.IFLA_INFO_DATA:
			info.Nested(s.parseController)
		case unix.IFLA_INFO_XSTATS:
			info.Do(s.Events.parse)
		}
	}
	return nil // the caller asks info for its error
}

// parseController reads the attributes of linux/can/netlink.h.
func (s *LinkState) parseController(list *netlink.AttributeDecoder) error {
	for list.Next() {
		list.Do(func(b []byte) error {
			number := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
			switch kind := list.Type(); {
			case kind == unix.IFLA_CAN_BITTIMING && len(b) >= 4: // struct can_bittiming: the bit rate comes first
				s.Bitrate = number(0)
			case kind == unix.IFLA_CAN_DATA_BITTIMING && len(b) >= 4:
				s.DataBitrate = number(0)
			case kind == unix.IFLA_CAN_STATE && len(b) >= 4 && number(0) <= uint32(BusSleeping):
				s.State, s.HasState = BusState(number(0)), true
			case kind == unix.IFLA_CAN_CTRLMODE && len(b) >= 8: // struct can_ctrlmode: mask, flags
				s.ListenOnly = number(1)&unix.CAN_CTRLMODE_LISTENONLY != 0
				s.FD = number(1)&unix.CAN_CTRLMODE_FD != 0
			case kind == unix.IFLA_CAN_RESTART_MS && len(b) >= 4:
				s.RestartMs = number(0)
			case kind == unix.IFLA_CAN_BERR_COUNTER && len(b) >= 4: // struct can_berr_counter: two of 16 bits
				s.HasCounters = true
				s.TxErrors, s.RxErrors = binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint16(b[2:])
			}
			return nil
		})
	}
	return nil
}

func (e *LinkEvents) parse(b []byte) error {
	fields := [...]*uint32{&e.BusErrors, &e.Warnings, &e.Passives, &e.BusOffs, &e.LostArbitration, &e.Restarts}
	if len(b) < 4*len(fields) {
		return nil
	}
	for i, field := range fields {
		*field = binary.NativeEndian.Uint32(b[4*i:])
	}
	return nil
}

func (t *LinkTraffic) parse(b []byte) error {
	fields := [...]*uint64{&t.RxFrames, &t.TxFrames, &t.RxBytes, &t.TxBytes}
	if len(b) < 8*len(fields) {
		return nil
	}
	for i, field := range fields {
		*field = binary.NativeEndian.Uint64(b[8*i:])
	}
	return nil
}
