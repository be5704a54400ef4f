package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// MQTT 3.1.1, which the agent speaks, has no way to say why: a denied publish gets the same PUBACK as one that was taken.
// MQTT 5 has reason codes, and brokers that speak both answer them for the same user and topic. So the doctor asks once
// more by MQTT 5: one CONNECT and a PUBLISH a topic, by the few lines here. Section numbers are those of MQTT 5.0.

// errNotSpoken: the broker does not speak MQTT 5.
var errNotSpoken = errors.New("the broker does not speak MQTT 5")

// Reason codes of PUBACK and DISCONNECT (§2.4).
const (
	reasonOK            = 0x00
	reasonNoSubscribers = 0x10
	reasonNotAuthorised = 0x87
)

// limits is what a broker says of itself in CONNACK (§3.2.2.3); zero: it says nothing, which means no limit.
type limits struct {
	Packet     uint32        // bytes of a whole packet
	Receive    uint16        // publishes without PUBACK; not said: 65535
	KeepAlive  time.Duration // the broker's in place of ours
	NoRetained bool
	NoShared   bool
	Expiry     time.Duration // of the session, in place of what was asked
}

// answer5 is what a broker says by MQTT 5.
type answer5 struct {
	Limits  limits
	Reasons []byte // of the PUBACKs, in the order of the topics; of the last perhaps of the DISCONNECT in its place
	Closed  bool   // it closed the connection on a publish: those after it were not tried
}

// reason is that of the first topic.
func (a *answer5) reason() (reason byte, ok bool) {
	if len(a.Reasons) == 0 || a.Closed && len(a.Reasons) == 1 {
		return 0, false
	}
	return a.Reasons[0], true
}

// question5 is one question by MQTT 5.
type question5 struct {
	ClientID, User, Password string
	Keep                     bool // the session is the vehicle's own and stays
	Topics                   []string
	Payloads                 [][]byte // one a topic
}

// ask connects, publishes on each topic and disconnects. The connection is closed in any case.
func (q *question5) ask(ctx context.Context, conn net.Conn) (a answer5, err error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(q.connect()); err != nil {
		return a, err
	}
	kind, body, err := readPacket(conn)
	switch {
	case ctx.Err() != nil:
		return a, ctx.Err()
	case ended(err): // as RabbitMQ before 3.13 does
		return a, errNotSpoken
	case err != nil:
		return a, fmt.Errorf("CONNACK: %w", err)
	}
	if kind>>4 != packetConnack {
		return a, fmt.Errorf("packet type %d in the place of CONNACK", kind>>4)
	}
	if a.Limits, err = parseConnack(body); err != nil {
		return a, err
	}
	for i := range q.Topics {
		reason, closed, err := q.publish(ctx, conn, i)
		if err != nil {
			return a, err
		}
		a.Reasons = append(a.Reasons, reason)
		if a.Closed = closed; closed {
			return a, nil
		}
	}
	_, _ = conn.Write([]byte{packetDisconnect << 4, 0}) // the broker has said all that was asked
	return a, nil
}

// publish sends one and waits for what becomes of it.
func (q *question5) publish(ctx context.Context, conn net.Conn, i int) (reason byte, closed bool, err error) {
	if _, err := conn.Write(q.packet(i)); err != nil {
		return 0, true, ctx.Err()
	}
	for {
		kind, body, err := readPacket(conn)
		switch {
		case ctx.Err() != nil:
			return 0, false, ctx.Err()
		case err != nil:
			return 0, true, nil
		case kind>>4 == packetPuback && len(body) >= 2 && body[0] == 0 && body[1] == byte(i+1):
			if len(body) > 2 { // §3.4.2.1
				reason = body[2]
			}
			return reason, false, nil
		case kind>>4 == packetDisconnect:
			if len(body) > 0 {
				reason = body[0]
			}
			return reason, true, nil
		} // what waits in the vehicle's session is left there, unacknowledged
	}
}

// Packet types (§2.1.2).
const (
	packetConnack    = 2
	packetPuback     = 4
	packetDisconnect = 14
)

// connect is CONNECT (§3.1).
func (q *question5) connect() []byte {
	flags := byte(0x02) // Clean Start
	var properties []byte
	if q.Keep {
		flags = 0
		properties = binary.BigEndian.AppendUint32([]byte{propertyExpiry}, 0xFFFFFFFF) // it does not expire
	}
	payload := appendString(nil, q.ClientID)
	if q.User != "" {
		flags |= 0x80
		payload = appendString(payload, q.User)
	}
	if q.Password != "" {
		flags |= 0x40
		payload = appendString(payload, q.Password)
	}
	body := append(appendString(nil, "MQTT"), 5, flags, 0, 30)
	body = append(appendVarint(body, len(properties)), properties...)
	return packet(0x10, append(body, payload...))
}

// packet is PUBLISH with QoS 1 (§3.3).
func (q *question5) packet(i int) []byte {
	body := append(appendString(nil, q.Topics[i]), 0, byte(i+1), 0)
	return packet(0x32, append(body, q.Payloads[i]...))
}

func packet(head byte, body []byte) []byte {
	return append(appendVarint([]byte{head}, len(body)), body...)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

// appendVarint is a variable byte integer (§1.5.5).
func appendVarint(dst []byte, n int) []byte {
	for {
		digit := byte(n & 0x7F)
		if n >>= 7; n == 0 {
			return append(dst, digit)
		}
		dst = append(dst, digit|0x80)
	}
}

// maxBody bounds what is kept of a packet, bytes; the rest is passed over.
const maxBody = 64 << 10

// readPacket reads one packet.
func readPacket(r io.Reader) (head byte, body []byte, err error) {
	var one [1]byte
	if _, err := io.ReadFull(r, one[:]); err != nil {
		return 0, nil, err
	}
	head = one[0]
	size := 0
	for shift := 0; ; shift += 7 {
		if shift > 21 {
			return 0, nil, errors.New("a packet's length of more than four bytes")
		}
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return 0, nil, err
		}
		size |= int(one[0]&0x7F) << shift
		if one[0] < 0x80 {
			break
		}
	}
	body = make([]byte, min(size, maxBody))
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	_, err = io.CopyN(io.Discard, r, int64(size-len(body)))
	return head, body, err
}

// Properties of CONNACK that are read, and those that are passed over by their form (§2.2.2.2).
const (
	propertyExpiry    = 0x11
	propertyKeepAlive = 0x13
	propertyReceive   = 0x21
	propertyRetain    = 0x25
	propertyPacket    = 0x27
	propertyShared    = 0x2A
)

// connackError is a refusal by MQTT 5.
type connackError byte

func (e connackError) Error() string { return fmt.Sprintf("CONNACK by MQTT 5: reason 0x%02x", byte(e)) }

// parseConnack reads the body of CONNACK (§3.2).
func parseConnack(body []byte) (l limits, err error) {
	if len(body) < 2 {
		return l, errors.New("CONNACK: too short")
	}
	// A broker of MQTT 3.1.1 answers in its own form (MQTT 3.1.1 §3.2), code 1; one of MQTT 5 may say 0x84.
	if reason := body[1]; reason == 0x84 || reason == 0x01 {
		return l, errNotSpoken
	} else if reason != 0 {
		return l, connackError(reason)
	}
	rest := body[2:]
	size, rest, ok := cutVarint(rest)
	if !ok || size > len(rest) {
		return l, errors.New("CONNACK: its properties are cut off")
	}
	for rest = rest[:size]; len(rest) > 0; {
		id := rest[0]
		value, after, ok := cutProperty(id, rest[1:])
		if !ok {
			return l, fmt.Errorf("CONNACK: property 0x%02x cannot be read", id)
		}
		switch rest = after; id {
		case propertyExpiry:
			l.Expiry = time.Duration(value) * time.Second
		case propertyKeepAlive:
			l.KeepAlive = time.Duration(value) * time.Second
		case propertyReceive:
			l.Receive = uint16(value)
		case propertyRetain:
			l.NoRetained = value == 0
		case propertyPacket:
			l.Packet = value
		case propertyShared:
			l.NoShared = value == 0
		}
	}
	return l, nil
}

// cutProperty takes one property's value off; of texts the value is 0.
func cutProperty(id byte, b []byte) (value uint32, rest []byte, ok bool) {
	switch id {
	case 0x24, propertyRetain, 0x28, 0x29, propertyShared:
		if len(b) < 1 {
			return 0, nil, false
		}
		return uint32(b[0]), b[1:], true
	case propertyKeepAlive, propertyReceive, 0x22:
		if len(b) < 2 {
			return 0, nil, false
		}
		return uint32(binary.BigEndian.Uint16(b)), b[2:], true
	case propertyExpiry, propertyPacket:
		if len(b) < 4 {
			return 0, nil, false
		}
		return binary.BigEndian.Uint32(b), b[4:], true
	case 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F:
		rest, ok = cutText(b)
		return 0, rest, ok
	case 0x26: // a user property is two texts
		if rest, ok = cutText(b); ok {
			rest, ok = cutText(rest)
		}
		return 0, rest, ok
	}
	return 0, nil, false
}

func cutText(b []byte) (rest []byte, ok bool) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return nil, false
	}
	return b[2+int(binary.BigEndian.Uint16(b)):], true
}

func cutVarint(b []byte) (n int, rest []byte, ok bool) {
	for i := 0; i < len(b) && i < 4; i++ {
		n |= int(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			return n, b[i+1:], true
		}
	}
	return 0, nil, false
}
