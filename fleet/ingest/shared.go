package ingest

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"google.golang.org/protobuf/encoding/protowire"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Shared subscriptions: `$share/GROUP/FILTER`, MQTT 5 §4.8.2, which brokers of the usual makers have for MQTT 3.1.1 too.
//
// Each lane and the answers to commands are shared. Statuses are not, for two reasons: a broker sends retained messages
// to no new shared subscription (§3.8.4), and two statuses of one vehicle that went to two receivers would come in any order,
// so that an old one that waited for a receiver would stand for the vehicle's state. One receiver of the group has them all,
// in a plain subscription, retained ones included.
//
// Batches may come in any order over any receiver: their keys decide.

// ErrNoShared: the broker has no shared subscriptions.
var ErrNoShared = errors.New("the broker has no shared subscriptions: use one receiver without a share, or split the fleet by tenant")

func checkShare(group string) error {
	if strings.ContainsAny(group, "/+#") || strings.ContainsRune(group, 0) {
		return fmt.Errorf("share %q: '/', '+' and '#' are not allowed in the name of a group", group)
	}
	return nil
}

// filters are the subscriptions.
func (r *Receiver) filters() []string {
	if r.o.Share == "" {
		return []string{r.Filter()}
	}
	var list []string
	for _, rest := range sharedTopics() {
		list = append(list, "$share/"+r.o.Share+"/"+r.topic(rest))
	}
	if r.o.Statuses {
		list = append(list, r.topic(telemetrypb.TopicStatus))
	}
	return list
}

func sharedTopics() []string {
	list := []string{telemetrypb.TopicResult}
	for l := telemetrypb.Lane_LANE_CONTROL; l <= telemetrypb.Lane_LANE_RAW; l++ {
		list = append(list, telemetrypb.TopicLane(l))
	}
	return list
}

// leaveOthers ends subscriptions that this session may have from before it was a member: of all, or of the statuses.
func (r *Receiver) leaveOthers(ctx context.Context, client mqtt.Client) error {
	others := []string{r.Filter()}
	if !r.o.Statuses {
		others = append(others, r.topic(telemetrypb.TopicStatus))
	}
	if err := await(ctx, client.Unsubscribe(others...), writeTimeout); err != nil {
		return fmt.Errorf("unsubscribe from %s: %w", strings.Join(others, ", "), err)
	}
	return nil
}

// SharedChecker asks a broker whether it has shared subscriptions, for others than a Receiver: nil, ErrNoShared, or why it could not be
// asked. It asks once more at each call until the broker has answered.
func SharedChecker(o ReceiverOptions) (func(context.Context) error, error) {
	r, err := NewReceiver(o, nil)
	if err != nil {
		return nil, err
	}
	return r.checkShared, nil
}

// silentAnswers is how often in a row a broker may close instead of answering MQTT 5, before that is its answer.
const silentAnswers = 3

// checkShared asks the broker once whether it has shared subscriptions. One that has none grants such a subscription like
// any other (RabbitMQ 3.10), and nothing ever comes. It is asked in MQTT 5, where the answer says so (§3.2.2.3.13); one
// that does not speak MQTT 5 has none that are defined.
func (r *Receiver) checkShared(ctx context.Context) error {
	if r.o.Share == "" || r.shares.Load() {
		return nil
	}
	has, answered, err := r.askShared(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("ask for shared subscriptions: %w", err)
	case !answered:
		if r.silent++; r.silent < silentAnswers {
			return errors.New("ask for shared subscriptions: the broker closed the connection without an answer")
		}
		return fmt.Errorf("%w (it closes when it is spoken to in MQTT 5)", ErrNoShared)
	case !has:
		return ErrNoShared
	}
	r.shares.Store(true)
	return nil
}

// askShared connects in MQTT 5 with a session that ends with the connection.
func (r *Receiver) askShared(ctx context.Context) (has, answered bool, err error) {
	u, err := url.Parse(r.o.Broker)
	if err != nil {
		return false, false, err
	}
	conn, err := r.dial(ctx, u)
	if err != nil {
		return false, false, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return false, false, err
	}
	user, password := "", ""
	if r.o.Credentials != nil {
		if user, password, err = r.o.Credentials(); err != nil {
			return false, false, fmt.Errorf("credentials: %w", err)
		}
	}
	if _, err := conn.Write(connect5(r.o.ClientID+"-asks", user, password)); err != nil {
		return false, false, err
	}
	in := bufio.NewReader(conn)
	kind, err := in.ReadByte()
	if err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return false, false, err
		}
		return false, false, nil
	}
	size, err := binary.ReadUvarint(in) // MQTT's variable byte integer is the same thing
	if err != nil || size > 1<<16 {
		return false, false, fmt.Errorf("the broker's CONNACK of %d bytes: %w", size, errors.Join(err, io.ErrUnexpectedEOF))
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(in, body); err != nil {
		return false, false, err
	}
	has, err = sharedIn(kind, body)
	_, _ = conn.Write([]byte{0xE0, 0}) // DISCONNECT
	return has, err == nil, err
}

func (r *Receiver) dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: connectTimeout, Control: setUserTimeout}
	if u.Scheme == "tcp" || u.Scheme == "mqtt" {
		return dialer.DialContext(ctx, "tcp", u.Host)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.o.TLS != nil {
		var err error
		if c, err = r.o.TLS(); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
	}
	return (&tls.Dialer{NetDialer: dialer, Config: c}).DialContext(ctx, "tcp", u.Host)
}

// connect5 is a CONNECT of MQTT 5 (§3.1), clean start.
func connect5(id, user, password string) []byte {
	flags := byte(0x02)
	text := func(b []byte, s string) []byte { return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...) }
	payload := text(nil, id)
	if user != "" {
		flags, payload = flags|0x80, text(payload, user)
	}
	if password != "" {
		flags, payload = flags|0x40, text(payload, password)
	}
	body := slices.Concat(text(nil, "MQTT"), []byte{5, flags, 0, 30, 0}, payload)
	packet := []byte{0x10}
	for n := len(body); ; n >>= 7 {
		if n < 0x80 {
			packet = append(packet, byte(n))
			break
		}
		packet = append(packet, byte(n)|0x80)
	}
	return append(packet, body...)
}

// sharedIn reads a CONNACK (§3.2): flags, reason code, properties.
func sharedIn(kind byte, body []byte) (bool, error) {
	if kind != 0x20 || len(body) < 2 {
		return false, fmt.Errorf("the broker answered with packet %#x of %d bytes, want CONNACK", kind, len(body))
	}
	switch code := body[1]; {
	case code == 0x84 || code == 0x01: // unsupported, unacceptable protocol version
		return false, nil
	case code != 0:
		return false, fmt.Errorf("the broker refuses to connect, reason %#02x", code)
	}
	properties, n := protowire.ConsumeBytes(body[2:]) // a length as a varint, then so many bytes
	if n < 0 {
		return false, errors.New("the broker's CONNACK is cut off")
	}
	for len(properties) > 0 {
		id, rest := properties[0], properties[1:]
		size := 0
		switch id {
		case 0x24, 0x25, 0x28, 0x29, 0x2A:
			size = 1
		case 0x13, 0x21, 0x22:
			size = 2
		case 0x11, 0x27:
			size = 4
		case 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x26:
			texts := 1
			if id == 0x26 {
				texts = 2
			}
			for range texts {
				if len(rest) < size+2 {
					return false, errors.New("the broker's CONNACK is cut off")
				}
				size += 2 + int(binary.BigEndian.Uint16(rest[size:]))
			}
		default:
			return false, fmt.Errorf("the broker's CONNACK has property %#02x, which MQTT 5 does not know", id)
		}
		if len(rest) < size {
			return false, errors.New("the broker's CONNACK is cut off")
		}
		if id == 0x2A {
			return rest[0] != 0, nil
		}
		properties = rest[size:]
	}
	return true, nil // by default (§3.2.2.3.13)
}
